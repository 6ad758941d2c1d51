"""Whole tiny runs: made, stopped in the middle, broken off, and compared bit for bit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.forks import ForkedProcess
from ssss_zoo.config.resolve import resolve
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted
from ssss_zoo.testing.tiny import tiny_overrides
from ssss_zoo.train import checkpoint
from ssss_zoo.train.run import run_training
from ssss_zoo.train.run_folder import RunFolder

# --- what two runs are compared by ----------------------------------------------------------------------------------


def left_by(folder: Path) -> dict[str, Any]:
    """All that a run computed: weights, optimizer, step, figures, history."""
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


def assert_same_run(one: Path, other: Path) -> None:
    assert differences(left_by(one), left_by(other)) == []


def metrics_of(folder: Path) -> dict[str, Any]:
    """metrics.json of a run."""
    return json.loads(RunFolder(folder).metrics.read_text())


# --- acts in the middle of a run ------------------------------------------------------------------------------------


def is_training_step(batches: object) -> bool:
    """Whether a step of the engine belongs to the training; the dry run's does not."""
    return isinstance(batches, BatchLoader)


def act_after_step(patch: pytest.MonkeyPatch, act: Callable[[Engine, int, int], None]) -> None:
    """Call `act` with the engine, the stage and the step (both from 0, the step within the stage) after each training
    step."""
    original, stage = Engine.step, [-1]

    def step_and_act(self: Engine, batches: Any, progress: Any) -> dict[str, torch.Tensor]:
        losses = original(self, batches, progress)
        if is_training_step(batches):
            stage[0] += progress.step == 0
            act(self, stage[0], progress.step)
        return losses

    patch.setattr(Engine, "step", step_and_act)


def signal_after_step(
    patch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT, stage: int | None = None
) -> None:
    """Send this process a signal in the middle of the step of that number (from 0), counted over the run or, where a
    stage is given, within it."""
    done = [-1]

    def act(engine: Engine, at_stage: int, at_step: int) -> None:
        done[0] += 1
        if done[0] == step if stage is None else (at_stage, at_step) == (stage, step):
            os.kill(os.getpid(), number)

    act_after_step(patch, act)


def on_call(patch: pytest.MonkeyPatch, owner: type, name: str, number: int, act: Callable[[], None]) -> None:
    """Let `act` happen at the end of that call (from 0) of a method; steps of the dry run are not counted."""
    original, calls = getattr(owner, name), [0]

    def call_and_act(self: Any, *arguments: Any, **more: Any) -> Any:
        answer = original(self, *arguments, **more)
        if name != "step" or is_training_step(arguments[0]):
            calls[0] += 1
            if calls[0] == number + 1:
                act()
        return answer

    patch.setattr(owner, name, call_and_act)


# --- runs in another process ----------------------------------------------------------------------------------------


def start_run(folder: Path, *words: str) -> ForkedProcess:
    """A tiny run in a process and a session of its own, which prints to `FOLDER.log`."""
    overrides = tiny_overrides(f"output={folder}", *words)
    with folder.with_suffix(".log").open("wb") as console:
        return ForkedProcess(lambda: train_tiny(overrides), {}, console)


def train_tiny(overrides: list[str]) -> int:
    """The exit code of a run, in a process that a test has forked."""
    try:
        run_training(resolve(overrides))
    except Interrupted as error:
        print(error)
        return 130
    return 0


def wait_for(file: Path, child: ForkedProcess) -> None:
    """Wait until a file is there, or the process has ended."""
    while child.poll() is None and not file.exists():
        time.sleep(0.002)
