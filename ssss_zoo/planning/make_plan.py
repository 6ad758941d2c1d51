"""`ssss plan`: settings for a data set, a device and a time, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import OUT_OF_MEMORY, UserError, expanded
from ssss_zoo.memory import free_memory
from ssss_zoo.planning.allotment import RESERVE, Allotment, AllottedRun, Budget, allot_time, fixed_seconds
from ssss_zoo.planning.choices import (
    CropSize,
    PlanRules,
    averaging_settings,
    channel_settings,
    crop_candidates,
    evaluation_setting,
    hold_out_settings,
    read_rules,
    scale_setting,
    size_settings,
)
from ssss_zoo.planning.crop_search import StepGoal, find_size
from ssss_zoo.planning.data_facts import DataFacts, collect_facts, count_channels
from ssss_zoo.planning.plan_task import PlanTask, read_task
from ssss_zoo.planning.probe import Probe, RunCost
from ssss_zoo.planning.records import GIVEN, MEASURED_HERE, OUR_CHOICE, PlannedSetting, TimedRun, TrainingPlan
from ssss_zoo.text import count
from ssss_zoo.train.device import check_one_process, choose_device
from ssss_zoo.train.run_folder import split_folder_name
from ssss_zoo.train.setup import open_dataset

PROBE_STEPS = 1000  # that a measured run is told to have; it makes a few of them
PROBE_SHARE, PROBE_SECONDS_MOST = 0.015, 8.0  # of the time, and seconds, for each measurement (our choice)
BF16_FASTER_BY = 1.1  # bf16 is chosen where a step is that much faster (our choice)
PLAN_FOLDER = "planned"  # in place of the method's name in the default folder


@dataclass(frozen=True, eq=False)
class OpenedData:
    """The data set of a plan. config: with the statistics of its images. settings: that it was opened with."""

    dataset: Dataset
    config: Config
    facts: DataFacts
    settings: list[PlannedSetting]


@dataclass(frozen=True)
class RunChoice:
    """The runs to make: the labels alone, a method for unlabelled images (empty for none), or both; and why."""

    baseline: bool
    method: str
    reason: str

    @property
    def names(self) -> list[str]:
        """The methods of the runs, in their order."""
        return [*([BASELINE] if self.baseline else []), *([self.method] if self.method else [])]


@dataclass(frozen=True)
class MeasuredRuns:
    """The cost of each run by its method, at the size and precision that were chosen."""

    size: CropSize
    precision: list[PlannedSetting]
    costs: dict[str, RunCost]


def plan_training(overrides: Iterable[str], began: float) -> TrainingPlan:
    """The plan for the data set and the `time` of the overrides. began: `time.perf_counter()` when the time began.

    Raises UserError for what a person can fix, and where the time does not suffice for anything.
    """
    # Read the command line: what is given is kept, and whatever is wrong fails before any image is read.
    check_one_process()
    task, rules = read_task(overrides, began), read_rules()
    config = resolve(task.arguments)
    device = choose_device(config)

    # Look at the data: numbers, sizes, channels, the thinnest class. They decide on scales, evaluation and method.
    data = open_data(task, config)
    runs = choose_runs(task, rules, data)
    by_data = [scale_setting(data.facts), evaluation_setting(data.facts, device_memory(device))]
    settings = task.with_given([*data.settings, *rules.settings, *by_data])

    # Measure steps, from the cheapest crop upwards, and find the largest one of which enough steps fit into the time.
    probe = Probe(data.dataset, data.config, device, seconds=probe_seconds(task))
    measured = measure_runs(task, probe, settings, data.facts, runs)
    settings += task.with_given([*size_settings(measured.size, data.facts), *measured.precision])

    # Share out the time between the labels alone and the method.
    method_cost = measured.costs.get(runs.method)
    budget = make_budget(task, config, method_cost)
    allotment = allot_time(budget, measured.costs.get(BASELINE), method_cost)
    if allotment.method and runs.method == rules.method:
        assert method_cost
        settings += task.with_given(averaging_settings(rules, allotment.method.steps, method_cost.epoch_steps))
    timed = timed_runs(task, settings, runs, allotment, measured)
    return TrainingPlan(
        arguments=task.arguments,
        seconds=task.seconds,
        folder=str(plan_folder(config)),
        facts=(data_line(data), device_line(config, device, measured)),
        settings=(
            *method_settings(task, timed, runs.reason or allotment.reason),
            *settings,
            *budget_settings(task, timed),
        ),
        runs=timed,
        notes=tuple(note_lines(task, data.facts, timed)),
        keeps_steps=budget.steps is not None,
    )


def plan_folder(config: Config) -> Path:
    """The folder that `output` names, else runs/<dataset>/planned/<split>/seed<seed>."""
    if config.output:
        return expanded(config.output)
    return Path("runs", config.dataset, PLAN_FOLDER, split_folder_name(config.data.split), f"seed{config.seed}")


def probe_seconds(task: PlanTask) -> float:
    """How long the steps of a measurement take at least: a small share of the time, nothing where steps are given."""
    if {"train.steps", "train.epochs"} & task.given.keys():
        return 0.0
    return min(PROBE_SECONDS_MOST, PROBE_SHARE * task.seconds)


def device_memory(device: torch.device) -> float:
    """Free bytes of the device's memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(free_memory() or 0)


# --- the data -------------------------------------------------------------------------------------------------------


def open_data(task: PlanTask, config: Config) -> OpenedData:
    """Open the data set, and again where its images or the lack of validation images ask for another setting."""
    dataset_class = load("datasets", config.dataset, f"dataset={config.dataset}")
    first = dataset_class(config.data)
    channels = (
        [] if "model.in_channels" in task.given else channel_settings(count_channels(first.labelled, config.data))
    )
    settings = [*channels, *hold_out_settings(len(first.val), len(first.labelled))]
    settings = task.with_given(settings)
    config = resolve([*task.arguments, *(f"{one.key}={one.value}" for one in settings)])
    dataset, config = open_dataset(dataset_class, config)
    dataset.check()
    return OpenedData(dataset, config, collect_facts(dataset), settings)


def choose_runs(task: PlanTask, rules: PlanRules, data: OpenedData) -> RunChoice:
    """The labels alone, and a method for unlabelled images where there are any and validation images can judge it."""
    facts, given = data.facts, task.given.get("method", "")
    if given == BASELINE:
        return RunChoice(True, "", "")
    if not facts.val:
        if given:
            return RunChoice(False, given, "no validation image can tell whether it beats the labels alone")
        return RunChoice(
            True, "", "no validation image can tell whether unlabelled images help; name method= to use them"
        )
    if not facts.unlabelled and not given:
        return RunChoice(True, "", "there are no unlabelled images")
    return RunChoice(True, given or rules.method, "")


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_runs(
    task: PlanTask, probe: Probe, settings: Sequence[PlannedSetting], facts: DataFacts, runs: RunChoice
) -> MeasuredRuns:
    """Choose crop and batch by measured steps, then measure every run with them. Raises UserError where the cheapest
    crop does not fit into the memory."""
    config, gpu = probe.measured, probe.device.type == "cuda"

    def measure(method: str, size: CropSize, *more: str, evaluate: bool = False) -> RunCost | None:
        arguments = [*task.run_arguments(method, settings), *size.overrides(), *more, f"train.steps={PROBE_STEPS}"]
        return probe.cost(arguments, evaluate=evaluate)

    main = runs.names[-1]
    crop = square(config.train.crop) if "train.crop" in task.given else None
    batch = config.train.batch if "train.batch" in task.given else None
    candidates = crop_candidates(facts, crop, batch, gpu=gpu)
    cheapest = measure(main, candidates[-1], evaluate=True)
    if cheapest is None:
        raise UserError(f"{' '.join(candidates[-1].overrides())}: {OUT_OF_MEMORY}")
    training = max(1.0, task.left - len(runs.names) * fixed_seconds(cheapest) - RESERVE * task.seconds)
    goal = StepGoal(training, len(runs.names) == 1, given_steps(config, task, cheapest))
    memory = torch.cuda.get_device_properties(probe.device).total_memory if gpu else 0
    size, cost = find_size(lambda size: measure(main, size), candidates, cheapest, goal, memory)
    precision = []
    if gpu and "train.precision" not in task.given:
        half = measure(main, size, "train.precision=bf16")
        faster = half is not None and half.step * BF16_FASTER_BY < cost.step
        precision = [precision_setting(cost, half, faster=faster)]
        cost = half if half and faster else cost
    costs = {main: replace(cost, evaluation=cheapest.evaluation)}
    for method in runs.names[:-1]:
        other = measure(method, size, *(f"{one.key}={one.value}" for one in precision), evaluate=True)
        costs[method] = other or cost
    return MeasuredRuns(size, precision, costs)


def precision_setting(full: RunCost, half: RunCost | None, *, faster: bool) -> PlannedSetting:
    """bf16 where it is faster here."""
    seconds = f"{1000 * half.step:.0f} ms" if half else "no memory"
    reason = f"a step takes {1000 * full.step:.0f} ms in 32 bits, {seconds} in bf16"
    return PlannedSetting("train.precision", "bf16" if faster else "32", reason, MEASURED_HERE)


def given_steps(config: Config, task: PlanTask, cost: RunCost | None) -> int | None:
    """The steps that the person gave, or those of the epochs; None where the plan chooses them."""
    if "train.epochs" in task.given and config.train.epochs:
        return max(1, round(config.train.epochs * (cost.epoch_steps if cost else 1)))
    return config.train.steps if "train.steps" in task.given else None


# --- the time -------------------------------------------------------------------------------------------------------


def make_budget(task: PlanTask, config: Config, cost: RunCost | None) -> Budget:
    """The time that is left for the runs."""
    return Budget(
        left=task.left,
        allowed=task.seconds,
        steps=given_steps(config, task, cost),
        tracking=config.tracking.uri != "off",
        insists="method" in task.given,
    )


def timed_runs(
    task: PlanTask,
    settings: Sequence[PlannedSetting],
    runs: RunChoice,
    allotment: Allotment,
    measured: MeasuredRuns,
) -> tuple[TimedRun, ...]:
    """The runs that got time, the labels alone first."""
    allotted = [(BASELINE, allotment.baseline), (runs.method, allotment.method)]
    return tuple(
        timed_run(task, settings, method, run, measured.costs[method]) for method, run in allotted if run is not None
    )


def timed_run(
    task: PlanTask, settings: Sequence[PlannedSetting], method: str, run: AllottedRun, cost: RunCost
) -> TimedRun:
    """One of the runs. Its `output` is left to the one who makes it."""
    counts_evaluations = not {"train.eval_every", "train.eval_epochs"} & task.given.keys()
    return TimedRun(
        method=method,
        steps=run.steps,
        evaluations=run.evaluations if counts_evaluations else 0,
        seconds=run.seconds,
        step_seconds=cost.step,
        evaluation_seconds=cost.evaluation,
        settings=tuple(task.run_arguments(method, settings)),
    )


# --- what the person reads ------------------------------------------------------------------------------------------


def method_settings(task: PlanTask, runs: Sequence[TimedRun], reason: str) -> list[PlannedSetting]:
    """The method, with the reason for it and for the share of the labels alone."""
    method = runs[-1].method
    if "method" in task.given:
        return [PlannedSetting("method", method, f"kept; {reason}" if reason else "kept", GIVEN)]
    if method == BASELINE:
        return [PlannedSetting("method", method, reason, OUR_CHOICE)]
    return [PlannedSetting("method", method, f"gained most over the labels alone on CamVid; {reason}", "measured")]


def budget_settings(task: PlanTask, runs: Sequence[TimedRun]) -> list[PlannedSetting]:
    """The steps and evaluations of each run."""
    settings = []
    for run in runs:
        source = GIVEN if {"train.steps", "train.epochs"} & task.given.keys() else MEASURED_HERE
        text = f"{run.method}: {run.step_seconds:.2g} s each, about {run.seconds:.0f} s with start and evaluation"
        settings.append(PlannedSetting("train.steps", str(run.steps), text, source))
        if run.evaluations:
            evaluations = f"{count(run.evaluations, 'evaluation')}, {run.evaluation_seconds:.1f} s each"
            text = f"{run.method}: {evaluations}"
            settings.append(PlannedSetting("train.eval_every", str(run.evaluation_interval), text, MEASURED_HERE))
    return settings


def data_line(data: OpenedData) -> str:
    """The data set in a line."""
    facts, config = data.facts, data.config
    thin = f"; thinnest regions: {facts.thin_class}, {facts.thickness:.1f} pixels" if facts.thickness else ""
    return (
        f"{config.dataset}, split {config.data.split}: {facts.labelled} labelled, {facts.unlabelled} unlabelled, "
        f"{count(facts.val, 'validation image')} of {facts.height}x{facts.width} in the median, "
        f"{count(facts.channels, 'channel')}, {facts.classes} classes{thin}"
    )


def device_line(config: Config, device: torch.device, measured: MeasuredRuns) -> str:
    """The device in a line, with what was measured on it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else count(torch.get_num_threads(), "thread")
    steps = ", ".join(f"{method} {cost.step:.2g} s" for method, cost in measured.costs.items())
    evaluations = ", ".join(f"{method} {cost.evaluation:.1f} s" for method, cost in measured.costs.items())
    return f"{device.type}, {name}; a step: {steps}; an evaluation: {evaluations}"


def note_lines(task: PlanTask, facts: DataFacts, runs: Sequence[TimedRun]) -> list[str]:
    """A line on each thing that the person should know before the time is spent."""
    notes = []
    expected, left = sum(run.seconds for run in runs), task.left
    if expected > left:
        notes.append(f"the steps that were given take about {expected:.0f} s, and {left:.0f} s are left of the time")
    if facts.labelled == 1:
        notes.append("one labelled image: every batch shows crops of it, so the figures say little about other images")
    return notes
