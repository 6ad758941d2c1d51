"""A run that was stopped and resumed equals one that was not, bit for bit; what may not be resumed is refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.registry import installed
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.testing.tiny import make_method
from ssss_zoo.toolkit.types import Stage
from ssss_zoo.train import checkpoint
from ssss_zoo.train.run import run

METHODS = sorted(installed("methods"))
LONG = ("train.steps=18", "train.checkpoint_every=9", "train.eval_every=6")  # about 3 steps an epoch: late terms too

every_method = pytest.mark.parametrize("name", METHODS)


# --- what two runs are compared by ----------------------------------------------------------------------------------


def left_by(folder: Path) -> dict[str, Any]:
    """All that a run computed: weights, optimiser, step, figures, history."""
    state = checkpoint.load_state(folder / "last")
    return {
        "weights": {file.name: load_file(file) for file in sorted((folder / "last").glob("*.safetensors"))},
        "best": {file.name: load_file(file) for file in sorted((folder / "best").glob("*.safetensors"))},
        "optimizer": state["optimizer"],
        "figures": [state[key] for key in ("step", "global_step", "stage", "best", "val")],
        "history": [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()],
    }


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nested structures of tensors and plain values differ."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for index, (a, b) in pairs for found in differences(a, b, f"{where}/{index}")]
    return [] if one == other else [f"{where}: {one} and {other}"]


def assert_same(one: Path, other: Path) -> None:
    assert differences(left_by(one), left_by(other)) == []


@pytest.fixture
def stop(monkeypatch) -> Callable[..., None]:
    """stop(step, signal, stage): send this process `signal` in the middle of the step of that number (0-based), counted
    over the whole run or, where a stage is given, within it. The rehearsal's step is not counted."""

    def arm(step: int, number: int = signal.SIGINT, stage: int | None = None) -> None:
        original, seen = Engine.step, {"stage": -1, "steps": -1}

        def stepped(self, batches, progress):
            rehearsal = not hasattr(batches, "next_index")
            if not rehearsal and progress.step == 0:
                seen["stage"] += 1
            seen["steps"] += not rehearsal
            losses = original(self, batches, progress)
            due = seen["steps"] == step if stage is None else progress.step == step and seen["stage"] == stage
            if not rehearsal and due:
                os.kill(os.getpid(), number)
            return losses

        monkeypatch.setattr(Engine, "step", stepped)

    yield arm
    monkeypatch.undo()


@pytest.fixture
def ran(tiny_config, tmp_path):
    """(name of a folder, words) -> the folder of a finished run."""

    def go(folder: str, *words: str) -> Path:
        return run(tiny_config(f"output={tmp_path / folder}", *words)).folder

    return go


@pytest.fixture
def broken_off(tiny_config, tmp_path):
    """(name of a folder, words) -> the folder of a run that was interrupted."""

    def go(folder: str, *words: str) -> Path:
        with pytest.raises(Interrupted):
            run(tiny_config(f"output={tmp_path / folder}", *words))
        return tmp_path / folder

    return go


# --- resume equals no stop ------------------------------------------------------------------------------------------


def test_a_stopped_and_resumed_run_equals_one_without_a_stop(ran, broken_off, stop):
    """Stopped between two checkpoints, in the middle of the run; each method's: a question of the kit."""
    whole = ran("whole", "method=farcluss", *LONG)
    stop(10)
    broken_off("parts", "method=farcluss", *LONG)
    assert_same(whole, ran("parts", "method=farcluss", *LONG, "resume=true"))


@pytest.mark.parametrize("name", ["farcluss", "u2pl", "prevmatch", "cps"])  # of all, one stop each: the kit asks that
def test_stopping_again_and_again_changes_nothing(name, ran, broken_off, tmp_path, monkeypatch):
    words = (f"method={name}", "train.accumulate=2")
    whole = ran("whole", *words)
    original = Engine.step

    def stepped(self, batches, progress):
        losses = original(self, batches, progress)
        if hasattr(batches, "next_index"):
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    monkeypatch.setattr(Engine, "step", stepped)
    broken_off("parts", *words)
    for _ in range(5):  # the last step's evaluation is still to come
        broken_off("parts", *words, "resume=true")
    assert_same(whole, ran("parts", *words, "resume=true"))


def test_the_same_seed_gives_the_same_numbers(ran):
    assert_same(ran("one", "method=farcluss"), ran("two", "method=farcluss"))


def test_another_seed_gives_other_numbers(ran):
    one, other = ran("one", "method=unimatch"), ran("two", "method=unimatch", "seed=1")
    assert len(differences(left_by(one)["weights"], left_by(other)["weights"])) > 5


def test_loader_processes_change_no_number_nor_does_resuming_with_them(ran, broken_off, stop):
    words = ("method=fixmatch", "train.workers=2")
    whole = ran("whole", "method=fixmatch")
    assert_same(whole, ran("workers", *words))
    stop(3)
    broken_off("parts", *words)
    assert_same(whole, ran("parts", *words, "resume=true"))


def test_adamw_resumes_with_its_moments(ran, broken_off, stop):
    words = ("method=fixmatch", "optim.name=adamw", "optim.lr=0.001")
    whole = ran("whole", *words)
    stop(3)
    broken_off("parts", *words)
    assert_same(whole, ran("parts", *words, "resume=true"))


def test_the_means_in_the_history_do_not_depend_on_where_a_run_stopped(ran, broken_off, stop):
    """A logged loss is the mean since the last logged step, stop or no stop."""
    words = ("method=supervised", "train.log_every=6", "train.eval_every=6", "train.checkpoint_every=6")
    whole = ran("whole", *words)
    stop(3)
    broken_off("parts", *words)
    assert_same(whole, ran("parts", *words, "resume=true"))


def test_saving_changes_no_figure_of_the_history(ran):
    words = ("method=supervised", "train.log_every=6", "train.eval_every=6")
    often, seldom = ran("often", *words, "train.checkpoint_every=4"), ran("seldom", *words, "train.checkpoint_every=6")
    assert differences(left_by(often)["history"], left_by(seldom)["history"]) == []


def test_checking_answers_and_looking_at_labels_change_no_number(ran):
    one, other = ran("one", "method=farcluss", "trace=true", "diagnose=true"), ran("two", "method=farcluss")
    assert differences(left_by(one)["weights"], left_by(other)["weights"]) == []


def test_a_teacher_and_modules_of_a_method_come_back(ran, broken_off, stop):
    """FARCLUSS keeps a teacher, prototypes and a projection head."""
    stop(2)
    folder = broken_off("parts", "method=farcluss")
    files = {file.name for file in (folder / "last").glob("*.safetensors")}
    assert files == {"student.safetensors", "teacher.safetensors", "methods.safetensors"}


def test_two_students_come_back_as_two(tiny_shelf, ran, broken_off, stop):
    from ssss_zoo.toolkit.teachers import PeerTeacher

    peers = make_method(
        make_students=lambda self, make_network: [make_network(), make_network()],
        make_teacher=lambda self, students, index: PeerTeacher(students[1 - index]),
    )
    tiny_shelf.offer("methods", "peers", peers)
    whole = ran("whole", "method=peers")
    stop(3)
    broken_off("parts", "method=peers")
    assert_same(whole, ran("parts", "method=peers", "resume=true"))
    assert len(left_by(whole)["weights"]) == 3  # two students, and the (empty) state of methods


# --- stages ---------------------------------------------------------------------------------------------------------


class Count(nn.Module):
    """State of a method: how many steps it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def two_stages(restart: bool, told: list) -> type:
    """4 steps on all samples, then 5 on the first labelled ones, by a run that counts steps in a module."""

    def plan_stages(self, info):
        first = yield Stage("first", steps=4)
        told.append((first.metrics["miou"], first.students[0].classifier.weight.detach().clone()))
        yield Stage("second", labelled=list(first.labelled)[:3], steps=5, restart=restart)

    def setup(self):
        self.count = Count()
        return {"count": self.count}

    def after_step(self):
        self.count.steps += 1

    return make_method(plan_stages=plan_stages, setup=setup, after_step=after_step)


@pytest.mark.parametrize(
    ("restart", "stage", "step"), [(True, 0, 1), (True, 0, 3), (True, 1, 0), (True, 1, 2), (False, 0, 3), (False, 1, 1)]
)
def test_a_run_of_two_stages_resumes_into_the_right_one(tiny_shelf, ran, broken_off, stop, restart, stage, step):
    told: list = []
    tiny_shelf.offer("methods", "stages", two_stages(restart, told))
    whole = ran("whole", "method=stages", "train.checkpoint_every=2", "train.eval_every=2")
    stop(step, stage=stage)
    words = ("method=stages", "train.checkpoint_every=2", "train.eval_every=2")
    if (stage, step) == (0, 3):  # the last step of a stage: asked to stop, it must not go on to the next one
        folder = broken_off("parts", *words)
        assert checkpoint.load_state(folder / "last")["global_step"] == 4
    else:
        broken_off("parts", *words)
    resumed = ran("parts", *words, "resume=true")
    assert_same(whole, resumed)
    assert checkpoint.load_state(resumed / "last")["global_step"] == 9
    assert load_file(resumed / "last" / "methods.safetensors")["count.steps"].item() == 9
    miou, weight = told[0]
    for again, weight_again in told[1:]:
        assert again == miou
        assert torch.equal(weight, weight_again)


def test_the_time_is_that_of_all_stages_and_of_what_lies_between(tiny_shelf, ran, broken_off, stop):
    base = two_stages(True, [])

    def plan_stages(self, info):
        plan = base.plan_stages(self, info)
        first = yield next(plan)
        time.sleep(0.4)
        yield plan.send(first)

    hooks = {"plan_stages": plan_stages, "setup": base.setup, "after_step": base.after_step}
    tiny_shelf.offer("methods", "stages", make_method(**hooks))
    spent = json.loads((ran("whole", "method=stages") / "metrics.json").read_text())["time"]
    assert spent["train_seconds"] > 0.4
    assert spent["train_seconds"] * spent["steps_per_second"] == pytest.approx(9, rel=0.01)
    stop(1, stage=1)
    parts = broken_off("parts", "method=stages")
    before = checkpoint.load_state(parts / "last")["spent"]["train"]
    assert before > 0.4
    ran("parts", "method=stages", "resume=true")
    assert json.loads((parts / "metrics.json").read_text())["time"]["train_seconds"] > before


def test_a_restarted_stage_tells_a_method_of_the_networks_it_trains(tiny_shelf, ran):
    """`RunInfo.students`, once given, names the networks that are trained."""
    told = []
    base = two_stages(True, [])

    def setup(self, info):
        self.info = info

    def after_step(self, students):
        told.append(all(any(student is known for known in self.info.students) for student in students))

    tiny_shelf.offer("methods", "stages", make_method(plan_stages=base.plan_stages, setup=setup, after_step=after_step))
    ran("run", "method=stages")
    assert told
    assert all(told)


def test_a_restarted_stage_begins_with_the_first_weights(tiny_shelf, ran, monkeypatch):
    begun = []
    original = Engine.step

    def stepped(self, batches, progress):
        if hasattr(batches, "next_index") and progress.step == 0:
            begun.append(self.students[0].classifier.weight.detach().clone())
        return original(self, batches, progress)

    monkeypatch.setattr(Engine, "step", stepped)
    tiny_shelf.offer("methods", "again", two_stages(True, []))
    tiny_shelf.offer("methods", "on", two_stages(False, []))
    ran("again", "method=again")
    ran("on", "method=on")
    first, restarted, first_too, went_on = begun
    assert torch.equal(first, restarted)
    assert torch.equal(first, first_too)
    assert not torch.equal(first_too, went_on)


# --- kills ----------------------------------------------------------------------------------------------------------


SCRIPT = """
import sys
from ssss_zoo.testing import tiny
tiny.install()
from ssss_zoo.config.resolve import resolve
from ssss_zoo.train.run import run
run(resolve(tiny.words(*sys.argv[1:])))
"""


def test_a_run_killed_at_any_moment_resumes_to_the_same_numbers(ran, tmp_path):
    words = ("method=farcluss", "train.steps=60", "train.checkpoint_every=4", "train.eval_every=30")
    whole = ran("whole", *words)
    folder = tmp_path / "parts"
    command = [sys.executable, "-c", SCRIPT, f"output={folder}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while child.poll() is None and not (folder / "last").exists():
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 0 < checkpoint.load_state(checkpoint.find_folder(folder / "last"))["step"] < 60
    assert_same(whole, ran("parts", *words, "resume=true"))
    assert not (folder / "dry_run").exists()


def test_a_kill_between_the_two_renames_loses_nothing(ran, broken_off, stop):
    """Then the new checkpoint lies whole beside its place, and the old one too."""
    whole = ran("whole", "method=farcluss")
    stop(3)
    folder = broken_off("parts", "method=farcluss")
    shutil.copytree(folder / "last", folder / "last.old")
    (folder / "last").rename(folder / "last.new")
    assert_same(whole, ran("parts", "method=farcluss", "resume=true"))
    assert not (folder / "last.new").exists()
    assert not (folder / "last.old").exists()


@pytest.mark.parametrize("suffix", [".new", ".old"])
def test_the_only_checkpoint_is_found_under_either_name(ran, broken_off, stop, suffix):
    whole = ran("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("parts", "method=fixmatch")
    (folder / "last").rename(folder / f"last{suffix}")
    assert_same(whole, ran("parts", "method=fixmatch", "resume=true"))


def test_a_half_written_new_checkpoint_is_passed_over_for_the_old_one(ran, broken_off, stop):
    whole = ran("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("parts", "method=fixmatch")
    (folder / "last").rename(folder / "last.old")
    (folder / "last.new").mkdir()
    shutil.copy(folder / "last.old" / "student.safetensors", folder / "last.new")
    (folder / "last.new" / checkpoint.STATE).write_bytes((folder / "last.old" / checkpoint.STATE).read_bytes()[:100])
    assert_same(whole, ran("parts", "method=fixmatch", "resume=true"))


def test_a_checkpoint_found_beside_its_place_survives_a_failing_save(tmp_path, monkeypatch):
    """`last.new` is all there is; a save that dies half way must not have taken it away."""
    weights, place = {"student": {"weight": torch.ones(2)}}, tmp_path / "last"
    checkpoint.save_folder(place, weights, {"step": 3})
    place.rename(tmp_path / "last.new")
    assert checkpoint.load_state(checkpoint.find_folder(place))["step"] == 3

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # as a kill: nothing tidies up

    monkeypatch.setattr(checkpoint, "save_file", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_folder(place, weights, {"step": 6})
    found = checkpoint.find_folder(place)
    assert found is not None
    assert checkpoint.load_state(found)["step"] == 3


def test_a_save_that_the_disk_refuses_leaves_the_one_before(tmp_path, monkeypatch):
    weights, place = {"student": {"weight": torch.ones(2)}}, tmp_path / "last"
    checkpoint.save_folder(place, weights, {"step": 3})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save_folder(place, weights, {"step": 6})
    assert checkpoint.load_state(place)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_history_cut_short_by_a_kill_is_repaired(ran, broken_off, stop):
    whole = ran("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("parts", "method=fixmatch")
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"step": 5, "stage": "train", "losses": {}}\n{"step": 6, "sta')
    assert_same(whole, ran("parts", "method=fixmatch", "resume=true"))


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(ran, tiny_config, tmp_path, monkeypatch):
    """A second Ctrl-C, or a kill, in the first steps."""
    original = Engine.step

    def stepped(self, batches, progress):
        if hasattr(batches, "next_index") and progress.step == 1:
            raise KeyboardInterrupt
        return original(self, batches, progress)

    whole = ran("whole", "method=fixmatch")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", stepped)
        with pytest.raises(Interrupted):
            run(tiny_config(f"output={tmp_path / 'parts'}", "method=fixmatch"))
    with pytest.raises(UserError, match="unfinished"):
        ran("parts", "method=fixmatch")
    assert_same(whole, ran("parts", "method=fixmatch", "resume=true"))


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tiny_shelf, ran, tmp_path):
    bad = make_method(
        regularize=lambda self, labelled_output, progress: {
            "extra": labelled_output.logits.mean() * (float("nan") if progress.step == 4 else 1.0)
        }
    )
    tiny_shelf.offer("methods", "bad", bad)
    with pytest.raises(UserError, match=r"not finite at step 5: .*extra=nan.*images: labelled\d"):
        ran("run", "method=bad")
    state = checkpoint.load_state(tmp_path / "run" / "last")
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in load_file(tmp_path / "run/last/student.safetensors").values())


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_touched(ran):
    folder = ran("run", "method=fixmatch")
    before = left_by(folder)
    for more in ([], ["resume=true"]):
        with pytest.raises(UserError, match="finished run"):
            ran("run", "method=fixmatch", *more)
    assert differences(before, left_by(folder)) == []


def test_an_unfinished_run_is_not_touched_without_a_word(ran, broken_off, stop):
    stop(3)
    broken_off("run", "method=fixmatch")
    with pytest.raises(UserError, match=r"resume=true.*overwrite=true"):
        ran("run", "method=fixmatch")


def test_overwrite_starts_anew_and_leaves_other_files_alone(ran, broken_off, stop):
    whole = ran("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("run", "method=fixmatch", "optim.lr=0.2")
    (folder / "notes.txt").write_text("mine")
    for leftover in ("last.new", "last.old", "dry_run"):  # of a kill
        shutil.copytree(folder / "last", folder / leftover)
    assert_same(whole, ran("run", "method=fixmatch", "overwrite=true"))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.json",
        "history.jsonl",
        "run.log",
        "last",
        "best",
        "notes.txt",
        "pseudo_labels",
    }


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("optim.lr=0.06", "optim.lr"),
        ("seed=1", "seed"),
        ("train.batch=3", "train.batch"),
        ("train.steps=8", "train.steps"),
        ("method=supervised", "method"),
        ("options.fixmatch.threshold=0.5", "options.fixmatch.threshold"),
        ("data.split=classes=3", "data.split"),
        ("hooks.pixel_weight=none", "hooks.pixel_weight"),
        ("train.precision=bf16", "train.precision"),
    ],
)
def test_another_configuration_is_refused_naming_the_key(ran, broken_off, stop, word, key):
    stop(3)
    folder = broken_off("run", "method=fixmatch")
    state = (folder / "last" / checkpoint.STATE).read_bytes()
    with pytest.raises(UserError, match=rf"\b{key}=") as caught:
        ran("run", "method=fixmatch", word, "resume=true")
    assert "\n" not in str(caught.value)
    assert (folder / "last" / checkpoint.STATE).read_bytes() == state


def test_what_is_only_shown_may_differ_on_resume(ran, broken_off, stop):
    whole = ran("whole", "method=fixmatch")
    stop(3)
    broken_off("parts", "method=fixmatch")
    resumed = ran("parts", "method=fixmatch", "resume=true", "train.log_every=2", "diagnose=true")
    assert differences(left_by(whole)["weights"], left_by(resumed)["weights"]) == []


def test_resume_and_overwrite_together_are_refused(ran):
    with pytest.raises(UserError, match="not both"):
        ran("run", "method=fixmatch", "resume=true", "overwrite=true")


@pytest.mark.parametrize("word", ["resume=true", "overwrite=true"])
def test_the_configuration_that_a_run_leaves_neither_resumes_nor_overwrites(ran, word):
    """`--config` with it must not wipe or continue a run that nobody asked it to."""
    folder = ran("run", "method=fixmatch", word)
    assert resolve([], folder / "config.yaml").resume is False
    assert resolve([], folder / "config.yaml").overwrite is False


def test_resuming_where_nothing_lies_is_a_fresh_run(ran):
    assert_same(ran("one", "method=fixmatch"), ran("two", "method=fixmatch", "resume=true"))


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_saves_and_says_where(tiny_config, tmp_path, stop, number):
    stop(1, number)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="step 2 of 6"):
        run(tiny_config())
    assert signal.getsignal(number) is before
    assert checkpoint.load_state(tmp_path / "run" / "last")["step"] == 2
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["status"], metrics["step"]) == ("stopped", 2)


def test_a_signal_in_the_last_step_leaves_the_evaluation_to_the_resumed_run(ran, broken_off, stop):
    whole = ran("whole", "method=fixmatch")
    stop(5)
    folder = broken_off("parts", "method=fixmatch")
    assert json.loads((folder / "metrics.json").read_text())["step"] == 6
    assert_same(whole, ran("parts", "method=fixmatch", "resume=true"))


def test_a_signal_in_the_last_step_of_a_run_without_evaluation_ends_a_finished_run(tiny_shelf, ran, stop):
    stop(5)
    assert json.loads((ran("run", "data.split=val=0") / "metrics.json").read_text())["status"] == "finished"


def test_the_rehearsal_leaves_no_trace(tiny_config, tmp_path, monkeypatch):
    """What the first step starts from is what was made, though a step was rehearsed before."""
    from ssss_zoo.train.trainer import Training

    seen = []
    original = Training.rehearse

    def look(self):
        networks = [*self.engine.networks().values(), *self.job.modules.values()]
        before = copy.deepcopy([*(part.state_dict() for part in networks), self.engine.optimizer.state_dict()["state"]])
        original(self)
        after = [*(part.state_dict() for part in networks), self.engine.optimizer.state_dict()["state"]]
        seen.append(differences(before, after))
        seen.append([] if all(p.grad is None for network in networks for p in network.parameters()) else ["grad"])

    monkeypatch.setattr(Training, "rehearse", look)
    run(tiny_config("method=farcluss"))
    assert seen == [[], []]
    assert not (tmp_path / "run" / "dry_run").exists()


def test_the_rehearsal_tells_before_the_first_step_what_would_fail_in_the_last(tiny_shelf, tiny_config, tmp_path):
    late = make_method(
        regularize=lambda self, labelled_output, progress: (
            {"late": labelled_output.logits} if progress.done > 0.8 else None
        )
    )
    tiny_shelf.offer("methods", "late", late)
    with pytest.raises(UserError, match="'late'"):
        run(tiny_config("method=late"))
    assert not (tmp_path / "run" / "last").exists()
    assert not (tmp_path / "run" / "dry_run").exists()


def test_the_rehearsal_tells_of_terms_that_this_run_is_too_short_for(tiny_shelf, tiny_config, tmp_path):
    words = ("method=farcluss", "train.steps=4")
    run(tiny_config(*words, f"output={tmp_path / 'short'}"))
    said = (tmp_path / "short/run.log").read_text()
    assert "in 4 steps of 3 an epoch farcluss_contrast never begins" in said
    run(tiny_config(*words, "options.farcluss.ramp_epochs=0.5", f"output={tmp_path / 'long'}"))
    assert "never begins" not in (tmp_path / "long/run.log").read_text()
