"""From finished runs to figures: means and deviations over seeds, differences with their intervals, cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from ssss_zoo.comparison.folders import ComparedRunFolder
from ssss_zoo.comparison.network_costs import MeasuredCost, whole_network_cost
from ssss_zoo.comparison.plan import BASELINE, StudyPlan, StudyRow
from ssss_zoo.comparison.records import (
    ComparisonFigures,
    Difference,
    FailedRun,
    PseudoLabelClass,
    PseudoLabelPoint,
    PseudoLabelStatistics,
    RowFigures,
    RowStatistics,
    SeedStatistics,
)
from ssss_zoo.comparison.report.fairness import compared_settings, differing_first_weights, differing_settings
from ssss_zoo.comparison.report.per_image_counts import PerImageCounts
from ssss_zoo.comparison.run_files import (
    ClassIous,
    LoggedPseudoLabels,
    RunFigures,
    RunHistory,
    finished_counts,
    finished_figures,
    is_done,
    read_run_history,
    read_state,
)
from ssss_zoo.comparison.run_state import FAILED
from ssss_zoo.evaluation.metrics import ious_in_mean, mean_iou
from ssss_zoo.evaluation.network_cost import NetworkCost
from ssss_zoo.record_files import FORMAT

HEADLINE = "mIoU of the last step, of the network that a method reports (its teacher where it has one)"
BOOTSTRAP_DRAWS = 2000  # our choice
INTERVAL = 0.95  # share of the bootstrap's means that an interval holds
SEEDS_FOR_SIGNIFICANCE = 3  # our choice: two seeds hardly tell how much runs of one method differ
RARE_SHARE = 1 / 3  # of the classes, those with the fewest true pixels in val, are the rare ones (our choice)


@dataclass(frozen=True)
class FinishedRun:
    """A run that is trained and whose validation images are counted. cost: None of a run of an earlier version."""

    seed: int
    folder: ComparedRunFolder
    figures: RunFigures
    counts: PerImageCounts
    history: RunHistory
    cost: MeasuredCost | None = None

    def miou(self, ious: ClassIous, absent: str) -> float:
        """The mean of a network's IoUs, made here so that runs of earlier versions are averaged as all others are.
        absent: see `metrics.ious_in_mean`."""
        return mean_iou(ious_in_mean(list(ious.values()), self.counts.true_pixels, absent))


FinishedRuns = Mapping[str, Sequence[FinishedRun]]  # by the name of their row


def read_finished_runs(plan: StudyPlan) -> dict[str, list[FinishedRun]]:
    """The finished runs of each row, by its name."""
    finished: dict[str, list[FinishedRun]] = {row.name: [] for row in plan.rows}
    for run in plan.runs():
        figures = finished_figures(run.folder)
        counts = finished_counts(run.folder, figures) if figures else None
        if figures and counts:
            history, cost = read_run_history(run.folder), whole_network_cost(run.folder)
            found = FinishedRun(run.seed, run.folder, figures, counts, history, cost)
            finished[run.row.name].append(found)
    return finished


def compute_figures(plan: StudyPlan, finished: FinishedRuns) -> ComparisonFigures:
    """The figures of compare.json. A figure that cannot be computed, such as the deviation of one seed, is None."""
    first = next((runs[0] for runs in finished.values() if runs), None)
    scale = Scale.of_run(first) if first else Scale()
    planned = plan.first_config()  # for the names, as long as no run is finished
    best = best_row(finished, scale.absent)
    costs = fastest_costs(finished)
    rows = tuple(row_figures(row, finished, best, scale, costs) for row in plan.rows)
    statistics = {row.name: row.statistics for row in rows if row.statistics}
    return ComparisonFigures(
        format=FORMAT,
        headline=HEADLINE,
        dataset=first.figures.dataset if first else planned.dataset,
        split=first.figures.split if first else planned.data.split,
        classes=scale.classes,
        rare_classes=scale.rare,
        absent_classes=scale.absent,
        classes_in_mean=scale.in_mean,
        budget=plan.budget,
        seeds=plan.seeds,
        overrides=plan.overrides,
        protocols_differ=len({row.protocol.digest for row in statistics.values()}) > 1,
        first_weights_differ=tuple(differing_first_weights(first_weights(finished))),
        settings_differ=differing_settings({name: row.settings for name, row in statistics.items()}),
        best=best,
        rows=rows,
        failed=tuple(failed_runs(plan)),
        missing=tuple((run.row.name, run.seed) for run in plan.runs() if not is_done(run.folder)),
        left_out=tuple(left_out_runs(plan)),
        interval=INTERVAL,
        bootstrap_draws=BOOTSTRAP_DRAWS,
        environment=dict(first.figures.environment) if first else None,
    )


@dataclass(frozen=True)
class Scale:
    """The classes that figures are over, those of the first finished run. absent: see `metrics.ious_in_mean`; rare: the
    rare classes; in_mean: the classes that means are over."""

    classes: tuple[str, ...] = ()
    absent: str = "exclude"
    rare: tuple[str, ...] = ()
    in_mean: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, run: FinishedRun) -> Scale:
        classes, absent = tuple(run.figures.last), run.figures.absent_classes
        kept = ious_in_mean([0.0] * len(classes), run.counts.true_pixels, absent)
        in_mean = tuple(name for name, iou in zip(classes, kept, strict=True) if iou is not None)
        return cls(classes, absent, tuple(rare_classes(run.counts, classes)), in_mean)


def rare_classes(counts: PerImageCounts, classes: Sequence[str]) -> list[str]:
    """The third of the classes that val shows with the fewest true pixels."""
    true = counts.true_pixels
    present = sorted((index for index in range(len(classes)) if true[index]), key=lambda index: true[index])
    return [classes[index] for index in present[: max(1, math.floor(len(present) * RARE_SHARE))]]


def best_row(finished: FinishedRuns, absent: str) -> str | None:
    """The name of the row with the highest mean mIoU of the last step."""
    means = {name: fmean(run.miou(run.figures.last, absent) for run in runs) for name, runs in finished.items() if runs}
    return max(means, key=lambda name: means[name], default=None)


def fastest_costs(finished: FinishedRuns) -> dict[str, NetworkCost]:
    """By key, the cost of each network. Runs that ran at the same time may have measured one network twice: the fastest
    measurement counts, since another process only slows one down."""
    measured = [run.cost for runs in finished.values() for run in runs if run.cost]
    ordered = sorted(measured, key=lambda one: one.cost.images_per_second)
    return {one.key: one.cost for one in ordered}


def first_weights(finished: FinishedRuns) -> dict[str, list[tuple[int, str]]]:
    """By row, the seed of each run and the digest of its initial weights."""
    return {name: [(run.seed, run.figures.first_weights) for run in runs] for name, runs in finished.items()}


def failed_runs(plan: StudyPlan) -> list[FailedRun]:
    failed = []
    for run in plan.runs():
        state = read_state(run.folder)
        if state and state.status == FAILED:
            failed.append(FailedRun(row=run.row.name, seed=run.seed, reason=state.reason or ""))
    return failed


def left_out_runs(plan: StudyPlan) -> list[str]:
    """The finished runs in the folder that the plan does not hold, as `row/seed0`."""
    planned = {run.folder.path for run in plan.runs()}
    others = [path for path in sorted(plan.folder.runs.glob("*/seed*")) if path not in planned]
    return [str(path.relative_to(plan.folder.runs)) for path in others if is_done(ComparedRunFolder(path))]


# --- one row --------------------------------------------------------------------------------------------------------


def row_figures(
    row: StudyRow, finished: FinishedRuns, best: str | None, scale: Scale, costs: Mapping[str, NetworkCost]
) -> RowFigures:
    """The figures of a row; best: the row that each is compared with, beside the supervised one. costs: of networks, by
    key."""
    runs = finished[row.name]
    statistics = None
    if runs and best:
        key = next((run.cost.key for run in runs if run.cost), None)
        statistics = row_statistics(runs, finished.get(BASELINE, []), finished[best], scale)
        statistics = replace(statistics, network_cost=costs[key] if key else None)
    return RowFigures(
        name=row.name, overrides=row.overrides, seeds=tuple(run.seed for run in runs), statistics=statistics
    )


def row_statistics(
    runs: Sequence[FinishedRun], baseline: Sequence[FinishedRun], best: Sequence[FinishedRun], scale: Scale
) -> RowStatistics:
    """The statistics of a row with finished runs. baseline, best: the runs of the rows that it is compared with."""
    figures, first = [run.figures for run in runs], runs[0].figures
    absent, rare = scale.absent, [scale.classes.index(name) for name in scale.rare]
    over_rare = lambda counts: all_pixels(counts)[..., rare]  # noqa: E731
    return RowStatistics(
        network=first.network,
        last=over_seeds([run.miou(run.figures.last, absent) for run in runs]),
        best=over_seeds([run.miou(run.figures.best, absent) for run in runs]),
        best_of=tuple(run.best_of for run in figures),
        student=over_seeds([run.miou(run.figures.student, absent) for run in runs]),
        teacher=over_seeds([run.miou(run.figures.teacher, absent) for run in runs if run.figures.teacher is not None]),
        iou={name: over_seeds([run.last[name] for run in figures]) for name in first.last},
        rare=over_seeds([mean_of_known(run.last[name] for name in scale.rare) for run in figures]),
        border_iou=over_seeds([border_iou(run.counts, absent) for run in runs]),
        calibration_error=over_seeds([run.counts.calibration_error for run in runs]),
        pseudo_labels=pseudo_labels_at_the_end(runs),
        pseudo_labels_over_time=pseudo_labels_over_time(runs),
        pseudo_label_classes=pseudo_label_classes(runs, list(first.last)),
        train_seconds=over_seeds([run.train_seconds for run in figures]),
        steps_per_second=over_seeds([run.steps_per_second for run in figures]),
        wait_share=over_seeds([run.data_wait_seconds / max(run.train_seconds, 1e-9) for run in figures]),
        peak_memory_bytes=over_seeds([run.peak_memory_bytes for run in figures]),
        steps=first.step,
        protocol=first.protocol,
        data=dict(first.data),
        settings=compared_settings(runs[0].folder),
        folders={str(run.seed): "/".join(run.folder.path.parts[-3:]) for run in runs},
        over_supervised=difference(runs, baseline, absent),
        rare_over_supervised=difference(runs, baseline, absent, over_rare),
        border_over_supervised=difference(runs, baseline, absent, near_borders),
        vs_best=difference(runs, best, absent),
    )


def over_seeds(values: Sequence[float | None]) -> SeedStatistics:
    """Mean and standard deviation of the values that are not None."""
    known = [value for value in values if value is not None]
    return SeedStatistics(
        mean=fmean(known) if known else None,
        std=stdev(known) if len(known) > 1 else None,
        values=tuple(values),
    )


def mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def border_iou(counts: PerImageCounts, absent: str) -> float:
    """Boundary IoU, mean over classes (Cheng et al., CVPR 2021), pooled over images as mIoU is."""
    right, either, true = near_borders(counts).sum(axis=0)
    ious = [r / e if e else None for r, e in zip(right.tolist(), either.tolist(), strict=True)]
    return mean_iou(ious_in_mean(ious, true.tolist(), absent))


# --- pseudo-labels --------------------------------------------------------------------------------------------------


def pseudo_labels_at_the_end(runs: Sequence[FinishedRun]) -> PseudoLabelStatistics | None:
    """None for a method without pseudo-labels."""
    ends = [end for run in runs if (end := end_of(run.history))]
    if not ends:
        return None
    return PseudoLabelStatistics(
        used=over_seeds([mean_of_known(step.used for step in end) for end in ends]),
        weight=over_seeds([mean_of_known(step.weight for step in end) for end in ends]),
        accuracy=over_seeds([mean_of_known(step.accuracy for step in end) for end in ends]),
    )


def end_of(history: RunHistory) -> Sequence[LoggedPseudoLabels]:
    """The pseudo-labels of the last fifth of the logged steps (our choice): one batch alone says little."""
    logged = history.pseudo_labels
    return logged[-max(1, len(logged) // 5) :]


def pseudo_labels_over_time(runs: Sequence[FinishedRun]) -> tuple[PseudoLabelPoint, ...]:
    """The pseudo-labels of each step that every run logged."""
    logged = [{entry.step: entry for entry in run.history.pseudo_labels} for run in runs]
    return tuple(
        PseudoLabelPoint(
            step=step,
            used=mean_of_known(of_run[step].used for of_run in logged),
            accuracy=mean_of_known(of_run[step].accuracy for of_run in logged),
        )
        for step in sorted(set.intersection(*map(set, logged)))
    )


def pseudo_label_classes(runs: Sequence[FinishedRun], classes: Sequence[str]) -> dict[str, PseudoLabelClass]:
    """The pseudo-labels of each class, means over the steps at the end and over seeds; empty for a method without
    pseudo-labels."""
    entries = [entry for run in runs for entry in end_of(run.history)]
    if not entries:
        return {}
    return {
        name: PseudoLabelClass(
            share=mean_of_known(entry.classes[index] for entry in entries if entry.classes),
            accuracy=mean_of_known(entry.class_accuracy[index] for entry in entries if entry.class_accuracy),
        )
        for index, name in enumerate(classes)
    }


# --- differences ----------------------------------------------------------------------------------------------------


def all_pixels(counts: PerImageCounts) -> np.ndarray:
    """(N, 3, C): of each image and class the right pixels, those in truth or prediction, and those in the truth."""
    right, true, predicted = np.moveaxis(counts.counts, 1, 0)
    return np.stack([right, true + predicted - right, true], axis=1)


def near_borders(counts: PerImageCounts) -> np.ndarray:
    """(N, 3, C): as `all_pixels`, but the first two near borders only: their IoU is the boundary IoU."""
    return np.concatenate([counts.border, counts.counts[:, 1:2]], axis=1)


def difference(
    runs: Sequence[FinishedRun],
    others: Sequence[FinishedRun],
    absent: str,
    pixels: Callable[[PerImageCounts], np.ndarray] = all_pixels,
) -> Difference | None:
    """The mean difference in mIoU over the seeds that both rows have. Its interval is that of a paired bootstrap, which
    draws validation images and seeds, the same ones for both rows. pixels: which pixels count, see `all_pixels`. None
    where the rows share no seed, or are the same."""
    seeds = sorted({run.seed for run in runs} & {run.seed for run in others})
    if not seeds or runs is others:
        return None
    one, other = (np.stack([pixels(run_of_seed(row, seed).counts) for seed in seeds]) for row in (runs, others))
    mean, low, high = paired_interval(one, other, absent)
    significant = len(seeds) >= SEEDS_FOR_SIGNIFICANCE and not low <= 0 <= high
    return Difference(mean=mean, low=low, high=high, seeds=tuple(seeds), significant=significant)


def run_of_seed(runs: Sequence[FinishedRun], seed: int) -> FinishedRun:
    return next(run for run in runs if run.seed == seed)


def paired_interval(one: np.ndarray, other: np.ndarray, absent: str) -> tuple[float, float, float]:
    """The mean difference in mIoU and the ends of its bootstrap interval. one, other: (S, N, 3, C) counts, of the same
    seeds and images."""
    rng = np.random.default_rng(0)
    seeds, images = one.shape[:2]
    drawn_images = rng.multinomial(images, np.full(images, 1 / images), BOOTSTRAP_DRAWS)
    weights = np.concatenate([np.ones((1, images)), drawn_images])  # the first row: each image once
    gaps = mious(one, weights, absent) - mious(other, weights, absent)  # (1 + BOOTSTRAP_DRAWS, S)
    drawn_seeds = rng.integers(0, seeds, (BOOTSTRAP_DRAWS, seeds))
    means = np.take_along_axis(gaps[1:], drawn_seeds, axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(gaps[0].mean()), float(low), float(high)


def mious(counts: np.ndarray, weights: np.ndarray, absent: str) -> np.ndarray:
    """(D, S): mIoU of each seed when image n counts weights[d, n] times. counts: (S, N, 3, C), see `all_pixels`;
    weights: (D, N); absent: see `metrics.ious_in_mean`."""
    seeds, images, _, classes = counts.shape
    flat = counts.transpose(1, 0, 2, 3).reshape(images, -1).astype(np.float64)
    right, either, true = np.moveaxis((weights @ flat).reshape(len(weights), seeds, 3, classes), 2, 0)
    ious = right / np.where(either, either, 1)
    in_mean = true > 0 if absent == "exclude" else np.ones_like(true, bool)
    result: np.ndarray = (ious * in_mean).sum(axis=-1) / np.maximum(in_mean.sum(axis=-1), 1)
    return result
