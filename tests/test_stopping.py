"""What breaks a run off, at any instant, loses at most the step that it was in, and nobody works where another does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from helpers.failures import raising
from helpers.runs import assert_same_run, metrics_of, on_call, start_run, wait_for
from ssss_zoo import lock
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.lock import Busy, owned
from ssss_zoo.stopping import SIGNALS, Stop, signals_blocked
from ssss_zoo.testing.tiny import TinyData
from ssss_zoo.toolkit.types import Stage
from ssss_zoo.train import checkpoint, checkpointing, outputs, run, trainer
from ssss_zoo.train.checkpointing import Checkpointer
from ssss_zoo.train.console import LoggedStep
from ssss_zoo.train.device import PROCESS_COUNT_VARIABLES
from ssss_zoo.train.run import run_training
from ssss_zoo.train.trainer import Trainer

# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_saves_and_says_where(tiny_config, tmp_path, stop, number):
    stop(1, number)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="step 2 of 6"):
        run_training(tiny_config())
    assert signal.getsignal(number) is before
    assert checkpoint.load_state(tmp_path / "run" / "last")["step"] == 2
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["status"], metrics["step"]) == ("stopped", 2)


def test_a_signal_in_the_last_step_leaves_the_evaluation_to_the_resumed_run(trained, broken_off, stop):
    whole = trained("whole", "method=fixmatch")
    stop(5)
    folder = broken_off("parts", "method=fixmatch")
    assert json.loads((folder / "metrics.json").read_text())["step"] == 6
    assert_same_run(whole, trained("parts", "method=fixmatch", "resume=true"))


def test_a_signal_in_the_last_step_of_a_run_without_evaluation_ends_a_finished_run(tiny_plugins, trained, stop):
    stop(5)
    assert json.loads((trained("run", "data.split=val=0") / "metrics.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=pytest.mark.long if number not in SIGNALS[:2] else ()) for number in SIGNALS],
    ids=lambda number: number.name,
)
def test_each_signal_that_asks_to_stop_is_named_and_saves_the_step(trained, tmp_path, monkeypatch, number):
    whole = trained("whole")
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 1, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=f"stopped by {number.name} at step 2 of 6"):
            trained("parts")
    assert metrics_of(tmp_path / "parts")["status"] == "stopped"
    assert_same_run(whole, trained("parts", "resume=true"))


def test_a_signal_before_the_first_step_ends_at_once_and_leaves_nothing(trained, tmp_path, monkeypatch):
    on_call(monkeypatch, TinyData, "read_mask", 0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        trained("run")
    assert not (tmp_path / "run").exists()


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().handlers_installed():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_same_signal_twice_at_once_is_one_and_a_later_one_stops_at_once():
    stop = Stop()
    with stop.signals_deferred():
        stop.receive(signal.SIGINT, None)
        stop.receive(signal.SIGINT, None)  # `timeout` sends it to the process and to its group
        stop.receive(signal.SIGTERM, None)
        stop.since -= 2
        stop.receive(signal.SIGTERM, None)  # of a scheduler: what is being saved goes on
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            stop.receive(signal.SIGINT, None)


def test_processes_started_with_signals_blocked_outlive_a_signal_to_the_group():
    with signals_blocked():
        child = subprocess.Popen(["sleep", "5"], start_new_session=True)
    os.killpg(child.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    child.kill()
    child.wait()


ENDLESS = ("method=fixmatch", "train.steps=100000", "train.eval_every=5", "train.checkpoint_every=5")


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((signal.SIGTERM, 2), (signal.SIGHUP, 0))),
    ],
)
def test_a_signal_to_the_whole_group_ends_a_run_and_its_loaders_cleanly(tiny_plugins, tmp_path, number, workers):
    folder = tmp_path / "run"
    child = start_run(folder, *ENDLESS, f"train.workers={workers}", "data.split=val=30")
    wait_for(folder / "last", child)
    time.sleep(0.1)
    os.killpg(child.pid, number)
    assert child.wait(60) == 130
    printed = folder.with_suffix(".log").read_text()
    assert f"stopped by {number.name} at step" in printed
    assert "Traceback" not in printed
    assert metrics_of(folder)["status"] == "stopped"
    assert checkpoint.load_state(folder / "last")["step"] == metrics_of(folder)["step"]


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_a_stop_in_an_evaluation_ends_it_at_the_next_image_and_it_is_made_up(trained, tmp_path, monkeypatch):
    words = ("data.split=val=6", "method=fixmatch")
    whole = trained("whole", *words)
    seen = []
    with monkeypatch.context() as patch:
        original = Evaluator.logits

        def looked(self, network, image):
            seen.append(network)
            if len(seen) == 2 + 1:  # the dry run looks at one
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, network, image)

        patch.setattr(Evaluator, "logits", looked)
        with pytest.raises(Interrupted, match="at step 3 of 6"):
            trained("parts", *words)
    assert len(seen) == 3
    state = checkpoint.load_state(tmp_path / "parts" / "last")
    assert (state["step"], state["evaluation_due"], state["val"]) == (3, True, {})
    assert_same_run(whole, trained("parts", *words, "resume=true"))


@pytest.mark.parametrize(
    "error",
    [
        UserError("a file vanished"),
        *(pytest.param(error, marks=pytest.mark.long) for error in (RuntimeError("a bug"), MemoryError())),
    ],
)
def test_what_breaks_an_evaluation_costs_no_step(trained, tmp_path, monkeypatch, error):
    whole = trained("whole", "method=farcluss")
    with monkeypatch.context() as patch:
        on_call(patch, Evaluator, "logits", 4, raising(error))
        with pytest.raises(type(error)):
            trained("parts", "method=farcluss")
    assert metrics_of(tmp_path / "parts")["status"] == "failed"
    assert checkpoint.load_state(tmp_path / "parts" / "last")["evaluation_due"]
    assert_same_run(whole, trained("parts", "method=farcluss", "resume=true"))


def test_a_kill_after_an_evaluation_and_before_it_is_saved_gives_it_once(trained, tmp_path, monkeypatch):
    """Its line is in the history already, and the checkpoint says that it is due."""
    whole = trained("whole", "method=fixmatch")
    with monkeypatch.context() as patch:
        saved = []
        original = checkpoint.save_folder

        def save(folder, weights, state):
            saved.append(folder.name)
            if saved.count("last") == 2:
                raise RuntimeError("killed")
            original(folder, weights, state)

        patch.setattr(checkpoint, "save_folder", save)
        patch.setattr(Trainer, "save_last_whole_step", lambda self: None)
        with pytest.raises(RuntimeError):
            trained("parts", "method=fixmatch")
    assert any("val" in json.loads(line) for line in (tmp_path / "parts/history.jsonl").read_text().splitlines())
    assert_same_run(whole, trained("parts", "method=fixmatch", "resume=true"))


@pytest.mark.parametrize(("step", "left"), [(1, 3), (20, 3), (21, 2), (40, 2), (41, 1), (50, 1)])
def test_the_time_left_counts_the_evaluations_to_come(make_trainer, step, left):
    trainer = make_trainer("train.steps=50", "train.eval_every=20")
    assert trainer.evaluations_left(step) == left


def test_the_time_left_counts_the_stages_to_come(make_trainer):
    made = make_trainer("train.steps=50", "train.eval_every=20")
    made.stage = replace(made.stage, stage=Stage("second", stages=3), index=1)
    logged = list[LoggedStep]()
    made.outputs = SimpleNamespace(write_step=lambda step, *_: logged.append(step))
    made.state.step, made.state.unlogged_losses, made.evaluation_seconds = 40, [{"total": 1.0}], 100.0
    made.lap_began = time.perf_counter() - 20
    made.log_step()
    assert logged[0].stage == "stage 2/3"
    assert logged[0].seconds_left == pytest.approx((10 + 50) / 2 + (2 + 3) * 100, abs=1)


def test_a_slow_evaluation_says_how_long_it_takes_and_how_far_it_is(trained, tmp_path, monkeypatch):
    for module in (trainer, outputs):
        monkeypatch.setattr(module, "SLOW_EVALUATION", 0)
    trained("run", "data.split=val=4")
    log = (tmp_path / "run/run.log").read_text()
    assert "evaluating 4 images, about 0 s" in log
    assert "evaluated 3 of 4 images, 0 s left" in log


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_file_that_vanishes_costs_no_step(trained, tmp_path, monkeypatch):
    whole = trained("whole", "method=farcluss")
    with monkeypatch.context() as patch:
        on_call(patch, TinyData, "read_image", 24, raising(UserError("no such file")))
        with pytest.raises(UserError, match="no such file"):
            trained("parts", "method=farcluss")
    assert metrics_of(tmp_path / "parts")["status"] == "failed"
    assert metrics_of(tmp_path / "parts")["step"] in (1, 2, 4, 5)
    assert_same_run(whole, trained("parts", "method=farcluss", "resume=true"))


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.long), 2])
def test_an_error_within_a_step_keeps_the_last_whole_one(trained, tmp_path, monkeypatch, accumulate):
    monkeypatch.setattr(checkpointing, "COPY_TIME_SHARE", float("inf"))  # a copy at each logged step
    words = ("method=farcluss", "train.log_every=2", f"train.accumulate={accumulate}", "train.checkpoint_every=6")
    whole = trained("whole", *words)
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 4, raising(RuntimeError("a bug")))  # of steps 1 to 4, logged at 2 and 4
        with pytest.raises(RuntimeError, match="a bug"):
            trained("parts", *words)
    assert metrics_of(tmp_path / "parts")["step"] == 4
    assert "saved step 4" in (tmp_path / "parts/run.log").read_text()
    assert_same_run(whole, trained("parts", *words, "resume=true"))


def test_a_checkpoint_is_written_by_the_clock(trained, monkeypatch):
    saved = []
    original = Checkpointer.save
    monkeypatch.setattr(
        Checkpointer, "save", lambda self, folder, state: (saved.append(state.step), original(self, folder, state))
    )
    hours = iter(range(0, 10**6, 3600))
    monkeypatch.setattr(trainer.time, "monotonic", lambda: next(hours))
    trained("run", "train.checkpoint_every=6", "train.eval_every=6", "train.checkpoint_minutes=90")
    assert {2, 4} <= set(saved)


@pytest.mark.long
def test_a_killed_loader_is_one_line_and_costs_no_step(trained, tmp_path, monkeypatch):
    def kill_one() -> None:
        import multiprocessing

        multiprocessing.active_children()[0].kill()

    words = ("method=fixmatch", "train.workers=1", "train.steps=12", "train.eval_every=12", "train.checkpoint_every=12")
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 3, kill_one)
        with pytest.raises(UserError, match=r"train\.workers\) was killed.*memory"):
            trained("parts", *words)
    stopped = metrics_of(tmp_path / "parts")
    assert stopped["status"] == "failed"
    assert stopped["step"] >= 4
    assert_same_run(trained("whole", *words), trained("parts", *words, "resume=true"))


def test_that_a_run_is_finished_is_written_last(trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, "draw_predictions", raising(RuntimeError("killed")))
        with pytest.raises(RuntimeError):
            trained("run", "evaluate.predictions=2")
    assert metrics_of(tmp_path / "run")["status"] == "running"
    trained("run", "evaluate.predictions=2", "resume=true")
    assert (tmp_path / "run/predictions.png").is_file()
    assert metrics_of(tmp_path / "run")["status"] == "finished"


# --- one owner --------------------------------------------------------------------------------------------------------


def test_a_folder_that_another_process_works_in_is_refused_naming_it(trained, tmp_path):
    folder = tmp_path / "run"
    child = start_run(folder, *ENDLESS, "train.workers=1")
    wait_for(folder / "last", child)
    before = {path.name for path in folder.iterdir() if path.suffix not in (".new", ".old")}  # others are being written
    try:
        for word in ("resume=true", "overwrite=true"):
            with pytest.raises(Busy, match=rf"is in use by process {child.pid} on ") as caught:
                trained("run", *ENDLESS, "train.workers=1", word)
            assert caught.value.pid == child.pid
        assert before <= {path.name for path in folder.iterdir()}
    finally:
        child.kill()
        child.wait()
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
    assert "cannot be locked (Function not implemented)" in caplog.text


@pytest.mark.parametrize(("name", "launcher"), PROCESS_COUNT_VARIABLES.items())
def test_one_of_several_processes_is_refused_before_anything_is_written(trained, tmp_path, monkeypatch, name, launcher):
    monkeypatch.setenv(name, "1")
    trained("one")
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"{launcher} started 2 processes.*jobs=2"):
        trained("two")
    assert not (tmp_path / "two").exists()
