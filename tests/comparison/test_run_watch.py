"""A launcher reports to its watch: which run begins, that runs are at work, and that they were asked to stop."""

from __future__ import annotations

import sys
from subprocess import TimeoutExpired
from types import SimpleNamespace

import pytest

from ssss_zoo.comparison import launch
from ssss_zoo.comparison.plan import PlannedRun, plan_study
from ssss_zoo.comparison.run_state import DONE, RunState


class RecordingWatch:
    def __init__(self) -> None:
        self.events = list[str]()

    def begin(self, run: PlannedRun) -> None:
        self.events.append(f"begin {run.label}")

    def refresh(self) -> None:
        self.events.append("refresh")

    def stopping(self) -> None:
        self.events.append("stopping")


class FakeProcess:
    """A process that ends at the third look, unless Ctrl-C comes first."""

    def __init__(self, *, interrupted: bool) -> None:
        self.looks = 0
        self.interrupted = interrupted
        self.stdin = SimpleNamespace(close=lambda: None)

    def wait(self, timeout: float | None = None) -> int:
        self.looks += 1
        if timeout is not None and self.interrupted:
            raise KeyboardInterrupt
        if timeout is not None and self.looks < 3:
            raise TimeoutExpired("run", timeout)
        return 0


@pytest.fixture
def runs(tmp_path) -> list[PlannedRun]:
    return plan_study(["methods=supervised,fixmatch", "seeds=0", f"output={tmp_path / 'cmp'}"]).runs()


def test_processes_of_this_machine(runs, monkeypatch):
    watch = RecordingWatch()
    monkeypatch.setattr(launch, "start_run", lambda run, environment: FakeProcess(interrupted=False))
    monkeypatch.setattr(launch, "state_after", lambda run, code: RunState(DONE))
    assert [run for run, _ in launch.run_locally(runs, 1, watch)] == runs
    a_run = ["refresh"] * 3
    assert watch.events == ["begin supervised, seed 0", *a_run, "begin fixmatch, seed 0", *a_run]


def test_ctrl_c_is_reported_before_the_processes_save(runs, monkeypatch):
    watch = RecordingWatch()
    monkeypatch.setattr(launch, "start_run", lambda run, environment: FakeProcess(interrupted=True))
    monkeypatch.setattr(launch, "state_after", lambda run, code: RunState(DONE))
    results = launch.run_locally(runs, 2, watch)
    assert [next(results)[0], next(results)[0]] == runs
    assert watch.events[-2:] == ["refresh", "stopping"]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_tasks_of_ray(runs, monkeypatch):
    """A stand-in for Ray, whose tasks end one by one, each after a look without any."""
    ended = [[], ["task 1"], [], ["task 0"]]
    started = iter(("task 0", "task 1"))
    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: next(started)))
    ray = SimpleNamespace(
        init=lambda **_: None,
        cluster_resources=lambda: {"CPU": 2.0},
        remote=lambda function: task,
        wait=lambda references, num_returns, timeout: (ended.pop(0), []),
        get=lambda reference: RunState(DONE),
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    watch = RecordingWatch()
    assert [run for run, _ in launch.run_on_ray(runs, None, watch)] == runs[::-1]
    assert watch.events == ["refresh"] * 4
