"""A plan, and what became of it, as `plan.json` holds them."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any

from ssss_zoo.record_files import FORMAT, dataclass_tree

GIVEN = "given"  # the source of a setting that the person gave
MEASURED_HERE = "measured here"
OUR_CHOICE = "our choice"


@dataclass(frozen=True)
class PlannedSetting:
    """One setting. value: as a command line takes it. source: MEASURED_HERE, `measured` elsewhere, `published`,
    OUR_CHOICE, or GIVEN."""

    key: str
    value: str
    reason: str
    source: str


@dataclass(frozen=True)
class TimedRun:
    """One of the runs of a plan. evaluations: their number; 0 where the person says when. seconds: the whole run is
    expected to take. step_seconds, evaluation_seconds: of one step, and of one evaluation on all validation images.
    settings: its arguments for `ssss run`, but for steps and evaluations."""

    method: str
    steps: int
    evaluations: int
    seconds: float
    step_seconds: float
    evaluation_seconds: float
    settings: tuple[str, ...]

    @property
    def evaluation_interval(self) -> int:
        """Steps between two evaluations."""
        return math.ceil(self.steps / max(self.evaluations, 1))

    @property
    def overrides(self) -> list[str]:
        """All its arguments for `ssss run`."""
        interval = [f"train.eval_every={self.evaluation_interval}"] if self.evaluations else []
        return [*self.settings, *interval, f"train.steps={self.steps}"]

    @property
    def command(self) -> str:
        """The command that makes this run without planning."""
        return shlex.join(["ssss", "run", *self.overrides])


@dataclass(frozen=True)
class TrainingPlan:
    """Settings for a data set, a device and a time. arguments: what the person gave. facts: lines on data and device.
    notes: lines on what cannot be done, or will not fit. runs: to make one after the other, the labels alone first.
    keeps_steps: whether the person gave the steps. left_out: why a planned run was not made, in the end."""

    arguments: tuple[str, ...]
    seconds: float
    folder: str
    facts: tuple[str, ...]
    settings: tuple[PlannedSetting, ...]
    runs: tuple[TimedRun, ...]
    notes: tuple[str, ...]
    keeps_steps: bool
    left_out: str = ""
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` prints it."""
        tree = dataclass_tree(self)
        runs = [{**one, "command": run.command} for one, run in zip(tree["runs"], self.runs, strict=True)]
        return {**tree, "runs": runs, "command": self.runs[-1].command}
