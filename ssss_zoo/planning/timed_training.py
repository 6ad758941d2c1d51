"""`ssss run ... time=30m`: makes a plan, trains the labels alone and the method, and says which is better."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.plan import BASELINE, Notify
from ssss_zoo.config.parse import parse_overrides, split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.errors import UserError
from ssss_zoo.lock import owned
from ssss_zoo.planning.allotment import RESERVE, STEPS_LEAST, STEPS_TO_GAIN
from ssss_zoo.planning.make_plan import plan_folder, plan_training
from ssss_zoo.planning.plan_task import PlanTask, read_task
from ssss_zoo.planning.records import TimedRun, TrainingPlan
from ssss_zoo.record_files import Metrics, check_dataclass, dataclass_tree, read_metrics, read_regular_text
from ssss_zoo.stopping import Stop
from ssss_zoo.train.result import RunResult
from ssss_zoo.train.run import interrupted, run_training
from ssss_zoo.train.run_folder import RunFolder

PLAN_FILE = "plan.json"
REMEDY = "start again with overwrite=true"
SLOWER_MOST = 4.0  # times as slow as probed that a machine may have become (our choice)
LONGER_MOST = 1.5  # times the planned steps, where the machine turns out faster (our choice)


@dataclass(frozen=True)
class TimedResult:
    """What `ssss run ... time=` did. best: the better run, in the plan's folder. metrics: of each run, by method."""

    best: RunResult
    metrics: dict[str, Metrics]
    lines: tuple[str, ...]


def run_within_time(overrides: Iterable[str], began: float, notify: Notify = lambda line: None) -> TimedResult:
    """Plan, train the runs of the plan, and put the better one's files into the plan's folder.

    began: `time.perf_counter()` when the time began. notify: gets the lines of the plan. Raises UserError and
    Interrupted as a run does; a stopped command goes on with resume=true.
    """
    arguments = list(overrides)
    task = read_task(arguments, began)
    config = resolve(task.arguments)
    folder = plan_folder(config)
    file = folder / PLAN_FILE
    check_folder(folder, resume=config.resume, overwrite=config.overwrite)

    # A plan is made once: a stopped command goes on with the steps that it began with.
    with Stop().handlers_installed(), interrupted(), owned(folder):
        resumed = config.resume and file.exists()
        plan = read_plan(file) if resumed else plan_training(arguments, began)
        if resumed:
            check_same_arguments(plan, task.arguments, folder)
        for line in plan_lines(plan):
            notify(line)
        if config.overwrite:
            clear_folder(folder)
        write_json(file, dataclass_tree(plan))
        plan, runs = train_runs(plan, folder, task, retime=not (resumed or plan.keeps_steps))

        # The better run's files move up, so that `ssss predict run=FOLDER` finds them.
        metrics = {method: run.metrics for method, run in runs.items()}
        winner = max(metrics, key=lambda method: last_miou(metrics[method]))
        lines = outcome_lines(plan, metrics, winner, folder)
        write_json(file, {**dataclass_tree(plan), "winner": winner, "outcome": lines})
        move_up(folder, winner)
    return TimedResult(replace(runs[winner], folder=folder), metrics, tuple(lines))


def train_runs(
    plan: TrainingPlan, folder: Path, task: PlanTask, *, retime: bool
) -> tuple[TrainingPlan, dict[str, RunResult]]:
    """Train the runs of a plan; returns the plan as it was carried out, and the runs by method.

    The labels alone come first, since they make a useful model early. retime: what they really took corrects the steps
    of the run that follows.
    """
    finished: dict[str, RunResult] = {}
    spent = 0.0
    for run in plan.runs:
        if finished and retime:
            earlier = plan.runs[0]
            left = task.left - RESERVE * plan.seconds
            run = retimed(run, earlier, finished[earlier.method].metrics, spent, left)
            left_out = f"{run.method} was left out: {earlier.method} took longer than was measured, too long for both"
            enough = run.steps >= min(STEPS_LEAST, plan.runs[1].steps)
            plan = replace(plan, runs=(earlier, run)) if enough else replace(plan, runs=(earlier,), left_out=left_out)
            write_json(folder / PLAN_FILE, dataclass_tree(plan))
            if not enough:
                break
        started = time.perf_counter()
        finished[run.method] = train_or_read(run, folder / run.method)
        spent = time.perf_counter() - started
    return plan, finished


# --- the folder -----------------------------------------------------------------------------------------------------


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UserError where the folder holds an earlier result that the command would lose or mix."""
    if resume and overwrite:
        raise UserError("give resume=true to continue or overwrite=true to start again, not both")
    if RunFolder(folder).holds_run() and not overwrite:
        raise UserError(f"{folder} holds a finished run; choose another output=, or start again with overwrite=true")
    if (folder / PLAN_FILE).exists() and not (resume or overwrite):
        raise UserError(
            f"{folder} holds an unfinished plan; continue with resume=true, or start again with overwrite=true"
        )


def clear_folder(folder: Path) -> None:
    """Remove the plan and the runs that an earlier command left in the folder, and nothing else."""
    file = folder / PLAN_FILE
    names = [run.method for run in read_plan(file).runs] if file.exists() else []
    for path in (folder, *(folder / name for name in names)):
        RunFolder(path).clear()
    file.unlink(missing_ok=True)


def read_plan(file: Path) -> TrainingPlan:
    """The plan in a file. Raises UserError for a damaged one."""
    try:
        tree = json.loads(read_regular_text(file, REMEDY))
    except ValueError:
        raise UserError(f"{file} is damaged: {REMEDY}") from None
    return check_dataclass(tree, TrainingPlan, file, REMEDY)


def check_same_arguments(plan: TrainingPlan, arguments: Iterable[str], folder: Path) -> None:
    """Raise UserError where a command that goes on gives other settings than the one that began."""
    ignored = ("resume", "overwrite", "output")
    old, new = (split_overrides(words, *ignored)[1] for words in (plan.arguments, arguments))
    if parse_overrides(old) != parse_overrides(new):
        raise UserError(f"{folder} was planned for other arguments ({' '.join(old)}): give these, or another output=")


def move_up(folder: Path, winner: str) -> None:
    """Move the files of the better run from its own folder into the plan's."""
    source, target = RunFolder(folder / winner), RunFolder(folder)
    for old, new in zip(source.written(), target.written(), strict=True):
        if old.exists():
            old.rename(new)
    with suppress(OSError):  # not empty: a method keeps files of its own there
        source.path.rmdir()


# --- the runs -------------------------------------------------------------------------------------------------------


def train_or_read(run: TimedRun, folder: Path) -> RunResult:
    """The result of a run: trained, continued, or read where it is finished."""
    file = RunFolder(folder).metrics
    known = read_metrics(file, REMEDY) if file.exists() else None
    if known and known["status"] == "finished":
        return RunResult(folder, known)
    resume = ["resume=true"] if RunFolder(folder).holds_run() else []
    return run_training(resolve([*run.overrides, f"output={folder}", *resume]))


def retimed(run: TimedRun, earlier: TimedRun, metrics: Metrics, spent: float, left: float) -> TimedRun:
    """The run with the steps that fit into the seconds that are left, by what the run before it took.

    spent: seconds of the whole earlier run.
    """
    took = metrics["time"]
    slower = took["train_seconds"] / max(earlier.steps * earlier.step_seconds, 1e-9)
    slower = min(SLOWER_MOST, max(1 / SLOWER_MOST, slower))
    evaluating = took["evaluate_seconds"] / max(1, earlier.evaluations) / max(earlier.evaluation_seconds, 1e-9)
    start = max(0.0, spent - took["train_seconds"] - took["evaluate_seconds"])
    evaluations = max(1, run.evaluations) * run.evaluation_seconds * min(SLOWER_MOST, evaluating or 1.0)
    steps = int((left - start - evaluations) / (run.step_seconds * slower))
    return replace(run, steps=max(1, min(steps, int(LONGER_MOST * run.steps))))


def last_miou(metrics: Metrics) -> float:
    """The mIoU after the last step; 0 without validation images."""
    return metrics["val"]["miou"] if metrics["val"] else 0.0


# --- what the person reads ------------------------------------------------------------------------------------------


def plan_lines(plan: TrainingPlan) -> list[str]:
    """The plan as lines: data, device, each setting with its reason, and the commands."""
    pairs = [f"{one.key}={one.value}" for one in plan.settings]
    width = max(map(len, pairs))
    settings = [
        f"  {pair:<{width}}  {one.source}: {one.reason}" for pair, one in zip(pairs, plan.settings, strict=True)
    ]
    commands = [f"  {run.command}" for run in plan.runs]
    return [*plan.facts, *settings, *(f"note: {note}" for note in plan.notes), "the same without planning:", *commands]


def outcome_lines(plan: TrainingPlan, metrics: dict[str, Metrics], winner: str, folder: Path) -> list[str]:
    """Which run won and by how much, and where the other one is."""
    if len(metrics) == 1:
        reason = plan.left_out or plan.settings[0].reason
        return [f"trained {winner} alone: {reason}"] if reason else []
    other = next(name for name in metrics if name != winner)
    scores = {name: 100 * last_miou(of_run) for name, of_run in metrics.items()}
    gain, steps = scores[winner] - scores[other], {run.method: run.steps for run in plan.runs}
    figures = ", ".join(f"{name} {score:.2f} after {steps[name]} steps" for name, score in scores.items())
    judged = "the labels alone are ahead" if winner == BASELINE else "the unlabelled images helped"
    lines = [
        f"mIoU on the validation images: {figures}",
        f"{winner} won by {gain:.2f}: {judged} (one seed: `ssss compare` tells whether that is chance)",
        f"{folder} holds {winner}, {folder / other} the other run",
    ]
    if winner == BASELINE and steps[other] < STEPS_TO_GAIN:
        lines.append(f"unlabelled images rarely help in fewer than {STEPS_TO_GAIN:,} steps: with more time they may")
    return lines
