"""What breaks a run off, at any instant, loses at most the step that it was in, and nobody works where another does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssss_zoo import lock
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.lock import Busy, owned
from ssss_zoo.stopping import SIGNALS, Stop, unheard
from ssss_zoo.testing.tiny import TinyData, make_method
from ssss_zoo.train import checkpoint
from ssss_zoo.train import trainer as training
from ssss_zoo.train.device import PROCESSES
from ssss_zoo.train.replay import replay
from ssss_zoo.train.run import run
from ssss_zoo.train.trainer import Training
from test_resume import SCRIPT, assert_same, differences, left_by

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def go(tiny_config, tmp_path):
    """(name of a folder, words) -> the folder of a finished run."""
    return lambda folder, *words: run(tiny_config(f"output={tmp_path / folder}", *words)).folder


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def on_call(monkeypatch, owner: type, name: str, number: int, act) -> None:
    """Let `act` happen in that call (from 0) of a function, the rehearsal's not counted."""
    original, seen = getattr(owner, name), [0]

    def called(self, *arguments, **more):
        rehearsal = name == "step" and not hasattr(arguments[0], "next_index")
        answer = original(self, *arguments, **more)
        if not rehearsal:
            seen[0] += 1
            if seen[0] == number + 1:
                act()
        return answer

    monkeypatch.setattr(owner, name, called)


def fail(error: Exception):
    def act() -> None:
        raise error

    return act


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_each_signal_that_asks_to_stop_is_named_and_saves_the_step(go, tmp_path, monkeypatch, number):
    whole = go("whole")
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 1, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=f"stopped by {number.name} at step 2 of 6"):
            go("parts")
    assert metrics_of(tmp_path / "parts")["status"] == "stopped"
    assert_same(whole, go("parts", "resume=true"))


def test_a_signal_before_the_first_step_ends_at_once_and_leaves_nothing(go, tmp_path, monkeypatch):
    on_call(monkeypatch, TinyData, "read_mask", 0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        go("run")
    assert not (tmp_path / "run").exists()


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().hearing():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_same_signal_twice_at_once_is_one_and_a_later_one_stops_at_once():
    stop = Stop()
    with stop.patient():
        stop.hear(signal.SIGINT, None)
        stop.hear(signal.SIGINT, None)  # `timeout` sends it to the process and to its group
        stop.hear(signal.SIGTERM, None)
        stop.since -= 2
        stop.hear(signal.SIGTERM, None)  # of a scheduler: what is being saved goes on
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            stop.hear(signal.SIGINT, None)


def test_processes_that_are_started_unheard_outlive_a_signal_to_the_group():
    with unheard():
        child = subprocess.Popen(["sleep", "5"], start_new_session=True)
    os.killpg(child.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    child.kill()
    child.wait()


def child_of(folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, f"output={folder}", *words]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT, start_new_session=True, text=True
    )


def wait_for(file: Path, child: subprocess.Popen) -> None:
    while child.poll() is None and not file.exists():
        time.sleep(0.005)


ENDLESS = ("method=fixmatch", "train.steps=100000", "train.eval_every=20", "train.checkpoint_every=20")


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((signal.SIGTERM, 2), (signal.SIGHUP, 0))),
    ],
)
def test_a_signal_to_the_whole_group_ends_a_run_and_its_loaders_cleanly(tmp_path, number, workers):
    folder = tmp_path / "run"
    child = child_of(folder, *ENDLESS, f"train.workers={workers}", "data.split=val=30")
    wait_for(folder / "last", child)
    time.sleep(0.1)
    os.killpg(child.pid, number)
    told = child.communicate(timeout=60)[1]
    assert f"ssss_zoo.errors.Interrupted: stopped by {number.name} at step" in told
    assert told.count("Traceback") == 1  # that of this script, which catches nothing
    assert metrics_of(folder)["status"] == "stopped"
    assert checkpoint.load_state(folder / "last")["step"] == metrics_of(folder)["step"]


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_a_stop_in_an_evaluation_ends_it_at_the_next_image_and_it_is_made_up(go, tmp_path, monkeypatch):
    words = ("data.split=val=6", "method=fixmatch")
    whole = go("whole", *words)
    seen = []
    with monkeypatch.context() as patch:
        original = Evaluator.logits

        def looked(self, network, image):
            seen.append(network)
            if len(seen) == 2 + 1:  # the rehearsal looks at one
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, network, image)

        patch.setattr(Evaluator, "logits", looked)
        with pytest.raises(Interrupted, match="at step 3 of 6"):
            go("parts", *words)
    assert len(seen) == 3
    state = checkpoint.load_state(tmp_path / "parts" / "last")
    assert (state["step"], state["evaluation_due"], state["val"]) == (3, True, {})
    assert_same(whole, go("parts", *words, "resume=true"))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), UserError("a file vanished"), MemoryError()])
def test_what_breaks_an_evaluation_costs_no_step(go, tmp_path, monkeypatch, error):
    whole = go("whole", "method=farcluss")
    with monkeypatch.context() as patch:
        on_call(patch, Evaluator, "logits", 4, fail(error))
        with pytest.raises(type(error)):
            go("parts", "method=farcluss")
    assert metrics_of(tmp_path / "parts")["status"] == "failed"
    assert checkpoint.load_state(tmp_path / "parts" / "last")["evaluation_due"]
    assert_same(whole, go("parts", "method=farcluss", "resume=true"))


def test_a_kill_after_an_evaluation_and_before_it_is_saved_gives_it_once(go, tmp_path, monkeypatch):
    """Its line is in the history already, and the checkpoint says that it is due."""
    whole = go("whole", "method=fixmatch")
    with monkeypatch.context() as patch:
        saved = []
        original = checkpoint.save_folder

        def save(folder, weights, state):
            saved.append(folder.name)
            if saved.count("last") == 2:
                raise RuntimeError("killed")
            original(folder, weights, state)

        patch.setattr(checkpoint, "save_folder", save)
        patch.setattr(Training, "save_what_is_whole", lambda self: None)
        with pytest.raises(RuntimeError):
            go("parts", "method=fixmatch")
    assert any("val" in json.loads(line) for line in (tmp_path / "parts/history.jsonl").read_text().splitlines())
    assert_same(whole, go("parts", "method=fixmatch", "resume=true"))


def test_the_largest_validation_image_is_rehearsed(tiny_run, monkeypatch):
    training = tiny_run("data.split=val=5").training
    areas, rehearsed = [3, 1, 9, 2, 9], []
    monkeypatch.setattr(TinyData, "areas", lambda self, samples: areas)
    monkeypatch.setattr(Evaluator, "__call__", lambda self, networks, samples, tick=None: rehearsed.extend(samples))
    training.rehearse_evaluation()
    assert rehearsed == [training.job.dataset.val[2]]


@pytest.mark.parametrize(("step", "left"), [(1, 3), (20, 3), (21, 2), (40, 2), (41, 1), (50, 1)])
def test_the_time_left_counts_the_evaluations_to_come(tiny_run, step, left):
    training = tiny_run("train.steps=50", "train.eval_every=20").training
    training.step = step
    assert training.evaluations_left() == left


def test_a_slow_evaluation_says_how_long_it_takes_and_how_far_it_is(go, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SLOW", 0)
    go("run", "data.split=val=4")
    told = (tmp_path / "run/run.log").read_text()
    assert "evaluating 4 images, about 0 s" in told
    assert "evaluated 3 of 4 images, 0 s left" in told


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_file_that_vanishes_costs_no_step(go, tmp_path, monkeypatch):
    whole = go("whole", "method=farcluss")
    with monkeypatch.context() as patch:
        on_call(patch, TinyData, "read_image", 24, fail(UserError("no such file")))
        with pytest.raises(UserError, match="no such file"):
            go("parts", "method=farcluss")
    assert metrics_of(tmp_path / "parts")["status"] == "failed"
    assert metrics_of(tmp_path / "parts")["step"] in (1, 2, 4, 5)
    assert_same(whole, go("parts", "method=farcluss", "resume=true"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_error_within_a_step_keeps_the_last_whole_one(go, tmp_path, monkeypatch, accumulate):
    monkeypatch.setattr(training, "COPYING", float("inf"))  # a copy at each logged step
    words = ("method=farcluss", "train.log_every=2", f"train.accumulate={accumulate}", "train.checkpoint_every=6")
    whole = go("whole", *words)
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 4, fail(RuntimeError("a bug")))  # of steps 1 to 4, logged at 2 and 4
        with pytest.raises(RuntimeError, match="a bug"):
            go("parts", *words)
    assert metrics_of(tmp_path / "parts")["step"] == 4
    assert "saved step 4" in (tmp_path / "parts/run.log").read_text()
    assert_same(whole, go("parts", *words, "resume=true"))


def test_a_checkpoint_is_written_by_the_clock(go, monkeypatch):
    saved = []
    original = Training.write_checkpoint
    monkeypatch.setattr(
        Training,
        "write_checkpoint",
        lambda self, *rest, **more: (saved.append(self.step), original(self, *rest, **more)),
    )
    hours = iter(range(0, 10**6, 3600))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(hours))
    go("run", "train.checkpoint_every=6", "train.eval_every=6", "train.checkpoint_minutes=90")
    assert {2, 4} <= set(saved)


def test_a_killed_loader_is_one_line_and_costs_no_step(go, tmp_path, monkeypatch):
    def kill_one() -> None:
        import multiprocessing

        multiprocessing.active_children()[0].kill()

    words = ("method=fixmatch", "train.workers=1", "train.steps=40", "train.eval_every=40", "train.checkpoint_every=40")
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 3, kill_one)
        with pytest.raises(UserError, match=r"train\.workers was killed.*memory"):
            go("parts", *words)
    stopped = metrics_of(tmp_path / "parts")
    assert stopped["status"] == "failed"
    assert stopped["step"] >= 4
    assert_same(go("whole", *words), go("parts", *words, "resume=true"))


def test_that_a_run_is_finished_is_written_last(go, tmp_path, monkeypatch):
    from ssss_zoo.train import run as runs

    with monkeypatch.context() as patch:
        patch.setattr(runs, "picture", lambda job, training: fail(RuntimeError("killed"))())
        with pytest.raises(RuntimeError):
            go("run", "evaluate.predictions=2")
    assert metrics_of(tmp_path / "run")["status"] == "running"
    go("run", "evaluate.predictions=2", "resume=true")
    assert (tmp_path / "run/predictions.png").is_file()
    assert metrics_of(tmp_path / "run")["status"] == "finished"


# --- losses that are not finite -------------------------------------------------------------------------------------


def bad_at(*steps: int) -> type:
    """A method whose loss is no number in those steps (0-based)."""
    return make_method(
        regularize=lambda self, labelled_output, progress: {
            "extra": labelled_output.logits.mean() * (float("nan") if progress.step in steps else 1.0)
        }
    )


SKIP = ("method=bad", "train.on_nan=skip", "train.log_every=4", "train.steps=12", "train.accumulate=2",
        "train.eval_every=6", "train.checkpoint_every=6")  # fmt: skip


@pytest.mark.parametrize(("steps", "copying"), [((5,), float("inf")), ((2, 3), 1e-9), ((10,), 1e-9), ((4, 6, 7), 1e-9)])
def test_a_skipped_step_is_as_if_it_had_never_been(tiny_shelf, go, tmp_path, monkeypatch, steps, copying):
    """Its images are passed over, and nothing else changes, wherever the last copy in memory was taken."""
    monkeypatch.setattr(training, "COPYING", copying)
    tiny_shelf.offer("methods", "bad", bad_at(*steps))
    skipped = go("skipped", *SKIP)
    original = Engine.step

    def passed_over(self, batches, progress):
        if hasattr(batches, "next_index") and progress.step in steps:
            for _ in range(2):
                next(batches)
            return {"supervised": torch.zeros(())}
        return original(self, batches, progress)

    monkeypatch.setattr(Engine, "step", passed_over)
    by_hand = go("by_hand", *SKIP)
    for part in ("weights", "optimizer"):
        assert differences(left_by(skipped)[part], left_by(by_hand)[part]) == []
    assert metrics_of(skipped)["skipped_steps"] == len(steps)
    told = [json.loads(line) for line in (skipped / "history.jsonl").read_text().splitlines()]
    assert [line["step"] - 1 for line in told if line.get("skipped") == "extra"] == list(steps)


def test_a_run_that_skips_resumes_to_the_same_numbers(tiny_shelf, go, monkeypatch):
    tiny_shelf.offer("methods", "bad", bad_at(2, 7))
    whole = go("whole", *SKIP)
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            go("parts", *SKIP)
    assert_same(whole, go("parts", *SKIP, "resume=true"))


def test_steps_in_a_row_that_are_not_finite_stop_a_run_that_skips(tiny_shelf, go):
    tiny_shelf.offer("methods", "bad", bad_at(*range(3, 39)))
    with pytest.raises(UserError, match=r"at step 13: .*extra=nan.*10 steps in a row"):
        go("run", "method=bad", "train.on_nan=skip", "train.steps=40")


@pytest.mark.parametrize("words", [(), ("train.accumulate=2", "optim.name=adamw")])
def test_the_step_can_be_made_again_to_the_bit(tiny_shelf, tiny_config, go, tmp_path, words):
    tiny_shelf.offer("methods", "bad", bad_at(4))
    with pytest.raises(UserError, match="replay=") as caught:
        go("run", "method=bad", *words, "train.log_every=6")
    file = Path(str(caught.value).partition("replay=")[2].partition("`")[0])
    assert file == tmp_path / "run/not_finite/step5/record.json"
    record = json.loads(file.read_text())
    assert record["losses"]["extra"] == "nan"
    assert len(record["images"]["labelled"]) == 2 * (2 if words else 1)
    told = replay(file, [])
    assert told[-1] == "the step gives what it gave then, to the bit"
    assert replay(file.parent, ["optim.lr=0.01"])[-1] == told[-1]  # the losses come before the update
    assert replay(file, ["train.precision=bf16"])[-1] == "the step gives other losses than then"
    with pytest.raises(UserError, match="other images"):
        replay(file, ["seed=3"])


def test_a_run_stopped_by_such_a_loss_goes_on_when_told_to_skip(tiny_shelf, go, tmp_path):
    tiny_shelf.offer("methods", "bad", bad_at(4))
    whole = go("whole", *SKIP)
    words = [word for word in SKIP if "on_nan" not in word]
    with pytest.raises(UserError, match=r"at step 5: .*train.on_nan=skip"):
        go("parts", *words)
    assert checkpoint.load_state(tmp_path / "parts/last")["step"] == 4
    values = load_file(tmp_path / "parts/last/student.safetensors").values()
    assert all(torch.isfinite(value).all() for value in values)
    resumed = go("parts", *words, "train.on_nan=skip", "resume=true")
    assert differences(left_by(whole)["weights"], left_by(resumed)["weights"]) == []


# --- one owner ------------------------------------------------------------------------------------------------------


def test_a_folder_that_another_process_works_in_is_refused_naming_it(go, tmp_path):
    folder = tmp_path / "run"
    child = child_of(folder, *ENDLESS, "train.workers=1")
    wait_for(folder / "last", child)
    before = sorted(path.name for path in folder.iterdir())
    for word in ("resume=true", "overwrite=true"):
        with pytest.raises(Busy, match=rf"is in use by process {child.pid} on ") as caught:
            go("run", *ENDLESS, "train.workers=1", word)
        assert caught.value.pid == child.pid
    assert set(before) <= {path.name for path in folder.iterdir()}
    child.kill()
    child.communicate()
    with owned(folder):  # the lock is gone with the process, whatever became of its loaders
        pass


def test_a_folder_is_made_for_its_owner_and_removed_where_nothing_came_of_it(tmp_path):
    place = tmp_path / "a/b"
    with owned(place):
        with pytest.raises(Busy), owned(place):
            pass
        assert (place / lock.LOCK).is_file()
    assert not (tmp_path / "a").exists()
    with owned(place):
        (place / "kept").touch()
    assert [path.name for path in place.iterdir()] == ["kept"]


def test_where_no_lock_can_be_had_a_run_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    import filelock

    def refuse(self, *arguments, **more):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with owned(tmp_path / "run"):
        (tmp_path / "run/kept").touch()
    assert "no lock can be had here (Function not implemented)" in caplog.text


@pytest.mark.parametrize(("name", "launcher"), PROCESSES.items())
def test_one_of_several_processes_is_refused_before_anything_is_written(go, tmp_path, monkeypatch, name, launcher):
    monkeypatch.setenv(name, "1")
    go("one")
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"{launcher} started 2 processes.*jobs=2"):
        go("two")
    assert not (tmp_path / "two").exists()
