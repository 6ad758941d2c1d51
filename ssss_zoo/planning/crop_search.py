"""Finds the largest crop and batch of which enough steps fit into the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ssss_zoo.planning.allotment import METHOD_SHARE, METHOD_STEPS_LEAST, STEPS_TO_GAIN
from ssss_zoo.planning.choices import CropSize
from ssss_zoo.planning.probe import RunCost

BASELINE_STEP = 0.4  # of the method's step, before it is measured (measured: FixMatch takes 2.3 times the labels alone)
LABEL_STEPS = 500  # of the labels alone, where unlabelled images will not help (our choice)
GPU_MEMORY_SHARE = 0.8  # of a GPU's memory that a step may take (our choice)

Measure = Callable[[CropSize], RunCost | None]


@dataclass(frozen=True)
class StepGoal:
    """The steps that should fit. training: seconds for the steps of all runs. alone: whether there is one run only.
    steps: the number that the person gave, or None."""

    training: float
    alone: bool
    steps: int | None

    def is_met(self, cost: RunCost) -> bool:
        """Whether each run can have the steps that were given, or else STEPS_TO_GAIN."""
        step = cost.step if self.alone else (1 + BASELINE_STEP) * cost.step
        return self.training / step >= (self.steps or STEPS_TO_GAIN)

    def is_met_in_part(self, cost: RunCost) -> bool:
        """Whether the labels alone can have LABEL_STEPS, and the method METHOD_STEPS_LEAST in its share."""
        if self.alone:
            return self.training / cost.step >= LABEL_STEPS
        labels = (1 - METHOD_SHARE) * self.training / (BASELINE_STEP * cost.step)
        return labels >= LABEL_STEPS and METHOD_SHARE * self.training / cost.step >= METHOD_STEPS_LEAST

    def is_met_by_labels(self, cost: RunCost) -> bool:
        """Whether the labels alone can have LABEL_STEPS in all the time."""
        return not self.alone and self.training / (BASELINE_STEP * cost.step) >= LABEL_STEPS


def find_size(
    measure: Measure, candidates: Sequence[CropSize], cheapest: RunCost, goal: StepGoal, gpu_memory: float
) -> tuple[CropSize, RunCost]:
    """The first of the candidates that meets the goal, and what a run costs with it.

    candidates: from the largest to the cheapest. cheapest: the cost of the last one. gpu_memory: bytes; 0 on a CPU,
    where a step takes as long as its pixels are many, so that one measurement tells of all.
    """
    last = candidates[-1]
    if not gpu_memory:
        expected = {size: scaled(cheapest, last, size) for size in candidates}
        rules = (goal.is_met, goal.is_met_in_part, goal.is_met_by_labels)
        good = [size for rule in rules for size, cost in expected.items() if rule(cost)]
        chosen = good[0] if good else last
        return (last, cheapest) if chosen == last else (chosen, measure(chosen) or expected[chosen])
    for size in candidates[:-1]:  # a GPU may take a large one in the time of a small one: they are measured
        cost = measure(size)
        if cost is not None and cost.memory <= GPU_MEMORY_SHARE * gpu_memory and goal.is_met(cost):
            return size, cost
    return last, cheapest


def scaled(cost: RunCost, measured: CropSize, size: CropSize) -> RunCost:
    """The cost at another size, in proportion to the pixels."""
    return replace(cost, step=cost.step * size.pixels / measured.pixels)
