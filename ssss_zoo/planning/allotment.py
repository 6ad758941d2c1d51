"""Shares out the time that is allowed between the labels alone and a method for unlabelled images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssss_zoo.errors import UserError
from ssss_zoo.planning.probe import RunCost

STEPS_TO_GAIN = 1000  # of each run, from which unlabelled images were seen to help (measured on CamVid)
METHOD_SHARE = 1 / 3  # of the training where fewer steps fit, since the labels alone then mostly win (our choice)
METHOD_STEPS_LEAST = 150  # steps of a method that are worth a run (our choice: the shortest that were measured)
STEPS_LEAST = 20  # of any run (our choice)
RESERVE = 0.03  # of the time, for a machine that becomes slower (our choice)
RUN_START_SECONDS = 5.0  # of a run besides its steps and evaluations: set-up, checkpoints (our choice, near two runs)
TRACKING_SECONDS = 8.0  # to open MLflow's store for the first time (our choice, near 7 s measured once)
RUN_START_STEPS = 2  # of the dry run
EVALUATIONS_MOST, EVALUATION_SHARE = 5, 0.1  # in a run, and of the time of its training (our choice)


@dataclass(frozen=True)
class AllottedRun:
    """steps, evaluations: their numbers. seconds: the whole run is expected to take."""

    steps: int
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Allotment:
    """baseline, method: the labels alone and the method; None where it is not run. reason: why so."""

    baseline: AllottedRun | None
    method: AllottedRun | None
    reason: str


@dataclass(frozen=True)
class Budget:
    """left: seconds until the time is over. allowed: in all. steps: those that the person gave, or None. tracking:
    whether MLflow keeps the runs. insists: whether the person named the method."""

    left: float
    allowed: float
    steps: int | None
    tracking: bool
    insists: bool

    @property
    def usable(self) -> float:
        """Seconds to fill with runs."""
        return self.left - RESERVE * self.allowed - (TRACKING_SECONDS if self.tracking else 0.0)


def allot_time(budget: Budget, baseline: RunCost | None, method: RunCost | None) -> Allotment:
    """How many steps the labels alone and the method get. baseline, method: None where it is not to be run. Raises
    UserError where the time does not suffice for the shorter run."""
    if budget.steps is not None:
        runs = [allot_steps(cost, budget.steps) if cost else None for cost in (baseline, method)]
        return Allotment(runs[0], runs[1], "train.steps is given, for each run")
    if baseline is None or method is None:
        return allot_alone(budget, baseline, method, "")
    training = budget.usable - fixed_seconds(baseline) - fixed_seconds(method)
    equal_steps = training / (baseline.step + method.step)
    if equal_steps >= STEPS_TO_GAIN:
        part = training * baseline.step / (baseline.step + method.step)
        return Allotment(
            allot_training(part, baseline),
            allot_training(training - part, method),
            "equal steps, so that only the unlabelled images differ",
        )
    method_steps = int(METHOD_SHARE * training / method.step)
    if method_steps < METHOD_STEPS_LEAST and not (budget.insists and method_steps >= STEPS_LEAST):
        wanted = METHOD_STEPS_LEAST * method.step / METHOD_SHARE + budget.allowed - training
        too_few = f"{max(method_steps, 0)} steps would be left for unlabelled images, too few to help"
        reason = f"{too_few}; give time={round_up(wanted)} to try them"
        return allot_alone(budget, baseline, method if budget.insists else None, reason)
    return Allotment(
        allot_training((1 - METHOD_SHARE) * training, baseline),
        allot_training(METHOD_SHARE * training, method),
        f"fewer than {STEPS_TO_GAIN:,} steps each fit; unlabelled images rarely help then: the labels get two thirds",
    )


def allot_alone(budget: Budget, baseline: RunCost | None, method: RunCost | None, reason: str) -> Allotment:
    """All the time for one run: the labels alone, or the method where these are not to be run. Raises UserError."""
    cost = baseline or method
    assert cost
    training = budget.usable - fixed_seconds(cost)
    if (budget.insists and baseline and method) or training < STEPS_LEAST * cost.step:
        both = sum(fixed_seconds(one) + STEPS_LEAST * one.step for one in (baseline, method) if one)
        least = round_up((both + budget.allowed - budget.usable) * 1.2)
        raise UserError(
            f"the time is too short: with start-up, evaluations ({cost.evaluation:.0f} s each) and steps of "
            f"{cost.step:.2g} s, time={least} is the least here"
        )
    run = allot_training(training, cost)
    return Allotment(run, None, reason) if baseline else Allotment(None, run, reason)


def fixed_seconds(cost: RunCost) -> float:
    """The seconds of a run besides its steps: start, dry run, the last evaluation."""
    return RUN_START_SECONDS + RUN_START_STEPS * cost.step + cost.evaluation


def allot_training(seconds: float, cost: RunCost) -> AllottedRun:
    """Fill the seconds with steps, and with further evaluations where they take a small share."""
    affordable = int(EVALUATION_SHARE * seconds / max(cost.evaluation, 1e-9))
    evaluations = max(1, min(EVALUATIONS_MOST, affordable))
    steps = max(1, int((seconds - (evaluations - 1) * cost.evaluation) / cost.step))
    return AllottedRun(steps, evaluations, seconds + fixed_seconds(cost))


def allot_steps(cost: RunCost, steps: int) -> AllottedRun:
    """A run of so many steps."""
    return AllottedRun(steps, 1, steps * cost.step + fixed_seconds(cost))


def round_up(seconds: float) -> str:
    """Seconds as whole minutes, or hours, for `time=`."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes}m" if minutes < 120 else f"{math.ceil(minutes / 60)}h"
