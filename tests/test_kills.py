"""A run that is killed at any instant resumes to the numbers of one that was not."""

from __future__ import annotations

import shutil
import signal

import pytest

from helpers.runs import assert_same_run, is_training_step, start_run, wait_for
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.train import checkpoint
from ssss_zoo.train.run import run_training


def test_a_run_killed_at_any_moment_resumes_to_the_same_numbers(trained, tmp_path):
    words = ("method=farcluss", "train.steps=24", "train.checkpoint_every=4", "train.eval_every=12")
    whole = trained("whole", *words)
    folder = tmp_path / "parts"
    child = start_run(folder, *words)
    wait_for(folder / "last", child)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    assert 0 < checkpoint.load_state(checkpoint.find_folder(folder / "last"))["step"] < 24
    assert_same_run(whole, trained("parts", *words, "resume=true"))
    assert not (folder / "dry_run").exists()


def test_a_kill_between_the_two_renames_loses_nothing(trained, broken_off, stop):
    """Then the new checkpoint lies whole beside its place, and the old one too."""
    whole = trained("whole", "method=farcluss")
    stop(3)
    folder = broken_off("parts", "method=farcluss")
    shutil.copytree(folder / "last", folder / "last.old")
    (folder / "last").rename(folder / "last.new")
    assert_same_run(whole, trained("parts", "method=farcluss", "resume=true"))
    assert not (folder / "last.new").exists()
    assert not (folder / "last.old").exists()


@pytest.mark.parametrize("suffix", [".new", pytest.param(".old", marks=pytest.mark.long)])
def test_the_only_checkpoint_is_found_under_either_name(trained, broken_off, stop, suffix):
    whole = trained("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("parts", "method=fixmatch")
    (folder / "last").rename(folder / f"last{suffix}")
    assert_same_run(whole, trained("parts", "method=fixmatch", "resume=true"))


def test_a_half_written_new_checkpoint_is_passed_over_for_the_old_one(trained, broken_off, stop):
    whole = trained("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("parts", "method=fixmatch")
    (folder / "last").rename(folder / "last.old")
    (folder / "last.new").mkdir()
    shutil.copy(folder / "last.old" / "student.safetensors", folder / "last.new")
    (folder / "last.new" / checkpoint.STATE).write_bytes((folder / "last.old" / checkpoint.STATE).read_bytes()[:100])
    assert_same_run(whole, trained("parts", "method=fixmatch", "resume=true"))


def test_a_history_cut_short_by_a_kill_is_repaired(trained, broken_off, stop):
    whole = trained("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("parts", "method=fixmatch")
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"step": 5, "stage": "train", "losses": {}}\n{"step": 6, "sta')
    assert_same_run(whole, trained("parts", "method=fixmatch", "resume=true"))


@pytest.mark.long
def test_a_run_stopped_before_its_first_checkpoint_starts_anew(trained, tiny_config, tmp_path, monkeypatch):
    """A second Ctrl-C, or a kill, in the first steps."""
    original = Engine.step

    def stepped(self, batches, progress):
        if is_training_step(batches) and progress.step == 1:
            raise KeyboardInterrupt
        return original(self, batches, progress)

    whole = trained("whole", "method=fixmatch")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", stepped)
        with pytest.raises(Interrupted):
            run_training(tiny_config(f"output={tmp_path / 'parts'}", "method=fixmatch"))
    with pytest.raises(UserError, match="unfinished"):
        trained("parts", "method=fixmatch")
    assert_same_run(whole, trained("parts", "method=fixmatch", "resume=true"))
