"""From finished cells to figures: means and spreads over seeds, differences with their uncertainty, cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ssss_zoo.comparison.kept import finished_metrics, finished_scores, is_done, read_state
from ssss_zoo.comparison.report.fairness import first_weights_differ, settings_differ, settings_of
from ssss_zoo.comparison.report.per_image_scores import Scores
from ssss_zoo.comparison.run_one import FAILED
from ssss_zoo.comparison.study import BASELINE, Row, Study
from ssss_zoo.evaluation.metrics import counting, mean_iou
from ssss_zoo.record_files import FORMAT, Metrics
from ssss_zoo.train.history import read_history

DRAWS = 2000  # of the bootstrap (our choice)
LEVEL = 0.95  # of its intervals
ENOUGH = 3  # seeds that a difference needs to be called sure: two say next to nothing of the spread (our choice)
RARE = 1 / 3  # of the classes, those with the fewest true pixels in val, are the rare ones (our choice)


@dataclass(frozen=True)
class Run:
    """A finished cell."""

    seed: int
    folder: Path
    metrics: Metrics
    scores: Scores
    history: list[dict[str, Any]]

    @property
    def true(self) -> list[int]:
        """Pixels of each class in the truth."""
        pixels: list[int] = self.scores.counts[:, 1].sum(axis=0).tolist()
        return pixels

    def counted(self, absent: str) -> list[str]:
        """The classes that means are over."""
        names = self.metrics["val"]["iou"]
        there = counting([0.0] * len(names), self.true, absent)
        return [name for name, iou in zip(names, there, strict=True) if iou is not None]

    def miou(self, figures: Mapping[str, Any], absent: str) -> float:
        """Of a network, from its IoUs: so that a run of an earlier version is averaged as all others are."""
        return mean_iou(counting(list(figures["iou"].values()), self.true, absent))


def finished_runs(study: Study) -> dict[str, list[Run]]:
    """The finished and scored cells of each row, by its name."""
    found: dict[str, list[Run]] = {row.name: [] for row in study.rows}
    for cell in study.cells():
        metrics = finished_metrics(cell.folder)
        scores = finished_scores(cell.folder, metrics) if metrics else None
        if metrics and scores:
            history = read_history(cell.folder / "history.jsonl")
            found[cell.row.name].append(Run(cell.seed, cell.folder, metrics, scores, history))
    return found


def gather(study: Study) -> dict[str, Any]:
    """compare.json: everything that tables and report are made from. Figures are shares in [0, 1], seconds, bytes; what
    cannot be said (one seed has no spread) is None."""
    runs = finished_runs(study)
    first = next((of_row[0] for of_row in runs.values() if of_row), None)
    names = list(first.metrics["val"]["iou"]) if first else []
    absent = first.metrics["absent_classes"] if first else "exclude"
    rare = rare_classes(first.scores, names) if first else []
    rows = [row_figures(row, runs[row.name], rare, absent) for row in study.rows]
    compared = [row for row in rows if row["seeds"]]
    best = max(compared, key=lambda row: row["last"]["mean"], default=None)
    for row in compared:
        row |= over_supervised(runs[row["name"]], runs.get(BASELINE, []), [names.index(name) for name in rare], absent)
        row["to_best"] = difference(runs[row["name"]], runs[best["name"]], absent) if best else None
    settings = {row["name"]: row["settings"] for row in compared}
    digests = {row["name"]: row["protocol"]["digest"] for row in compared}
    return {
        "format": FORMAT,
        "headline": "mIoU of the last step, of the network that a method reports (its teacher where it has one)",
        "dataset": first.metrics["dataset"] if first else None,
        "split": first.metrics["split"] if first else None,
        "classes": names,
        "rare_classes": rare,
        "absent_classes": absent,
        "classes_in_mean": first.counted(absent) if first else [],
        "budget": study.budget,
        "seeds": list(study.seeds),
        "words": list(study.words),
        "protocols_differ": len(set(digests.values())) > 1,
        "first_weights_differ": first_weights_differ({name: digests_of(of_row) for name, of_row in runs.items()}),
        "settings_differ": settings_differ(settings),
        "best": best["name"] if best else None,
        "rows": rows,
        "failed": failures(study),
        "missing": [[cell.row.name, cell.seed] for cell in study.cells() if not is_done(cell.folder)],
        "left_out": left_out(study),
        "interval": LEVEL,
        "bootstrap_draws": DRAWS,
        "environment": first.metrics["environment"] if first else None,
    }


def left_out(study: Study) -> list[str]:
    """The finished runs in the folder that the words no longer name, as `row/seed0`."""
    asked, place = {cell.folder for cell in study.cells()}, study.folder / "runs"
    there = [folder for folder in sorted(place.glob("*/seed*")) if folder not in asked and is_done(folder)]
    return [str(folder.relative_to(place)) for folder in there]


def digests_of(runs: Sequence[Run]) -> list[tuple[int, str]]:
    return [(run.seed, run.metrics.get("first_weights", "unknown")) for run in runs]


def failures(study: Study) -> list[dict[str, Any]]:
    found = []
    for cell in study.cells():
        state = read_state(cell.folder)
        if state and state["status"] == FAILED:
            found.append({"row": cell.row.name, "seed": cell.seed, "reason": state.get("reason", "")})
    return found


def row_figures(row: Row, runs: Sequence[Run], rare: Sequence[str], absent: str) -> dict[str, Any]:
    """All of one row but its differences to others."""
    figures: dict[str, Any] = {"name": row.name, "words": list(row.words), "seeds": [run.seed for run in runs]}
    if not runs:
        return figures
    vals = [run.metrics["val"] for run in runs]
    times = [run.metrics["time"] for run in runs]
    classes = list(vals[0]["iou"])
    return figures | {
        "network": vals[0]["network"],
        "last": spread_of([run.miou(run.metrics["val"], absent) for run in runs]),
        "best": spread_of([run.miou(run.metrics["best"], absent) for run in runs]),
        "best_of": [run.metrics["best"].get("of") for run in runs],
        "student": spread_of([run.miou(run.metrics["val"]["student"], absent) for run in runs]),
        "teacher": spread_of(
            [run.miou(run.metrics["val"]["teacher"], absent) for run in runs if "teacher" in run.metrics["val"]]
        ),
        "iou": {name: spread_of([val["iou"][name] for val in vals]) for name in classes},
        "rare": spread_of([mean_of(val["iou"][name] for name in rare) for val in vals]),
        "border_iou": spread_of([border_iou(run.scores, absent) for run in runs]),
        "calibration_error": spread_of([run.scores.calibration_error for run in runs]),
        "pseudo_labels": pseudo_labels(runs),
        "pseudo_labels_over_time": pseudo_labels_over_time(runs),
        "pseudo_label_classes": pseudo_label_classes(runs, classes),
        "train_seconds": spread_of([time["train_seconds"] for time in times]),
        "steps_per_second": spread_of([time["steps_per_second"] for time in times]),
        "wait_share": spread_of([time["data_wait_seconds"] / max(time["train_seconds"], 1e-9) for time in times]),
        "peak_memory_bytes": spread_of([time["peak_memory_bytes"] for time in times]),
        "steps": runs[0].metrics["step"],
        "protocol": {key: runs[0].metrics["protocol"][key] for key in ("name", "digest", "settings", "lists")},
        "data": runs[0].metrics["data"],
        "settings": settings_of(runs[0].folder),
        "folders": {str(run.seed): "/".join(run.folder.parts[-3:]) for run in runs},
    }


def spread_of(values: Sequence[float | None]) -> dict[str, Any]:
    """mean, std (of the sample; None for one value) and the values themselves; those that are None do not count."""
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def mean_of(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def rare_classes(scores: Scores, names: Sequence[str]) -> list[str]:
    """The third of the classes that val shows with the fewest true pixels."""
    true = scores.counts[:, 1].sum(axis=0)
    present = sorted((index for index in range(len(names)) if true[index]), key=lambda index: int(true[index]))
    return [names[index] for index in present[: max(1, math.floor(len(present) * RARE))]]


def border_iou(scores: Scores, absent: str) -> float:
    """Boundary IoU, mean over classes (Cheng et al., CVPR 2021), pooled over images as mIoU is."""
    right, either, true = near_borders(scores).sum(axis=0)
    ious = [r / e if e else None for r, e in zip(right.tolist(), either.tolist(), strict=True)]
    return mean_iou(counting(ious, true.tolist(), absent))


def pseudo_labels(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Share of pixels used, mean weight of all, and where hidden labels were looked at the share of used ones that were
    right; towards the end. None for a method without pseudo-labels."""
    ends = [end for run in runs if (end := towards_the_end(run))]
    if not ends:
        return None
    keys = ("used", "weight", "accuracy")
    return {key: spread_of([mean_of(entry.get(key) for entry in end) for end in ends]) for key in keys}


def towards_the_end(run: Run) -> list[dict[str, Any]]:
    """What was seen of pseudo-labels in the last fifth of the logged steps: one batch alone says little."""
    lines = [line["pseudo_labels"] for line in run.history if "pseudo_labels" in line]
    return lines[-max(1, len(lines) // 5) :]


def pseudo_labels_over_time(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """At each step that every run logged: share of pixels used, and of those that were right, means over seeds."""
    logged = [{line["step"]: line["pseudo_labels"] for line in run.history if "pseudo_labels" in line} for run in runs]
    return [
        {"step": step} | {key: mean_of(of_run[step].get(key) for of_run in logged) for key in ("used", "accuracy")}
        for step in sorted(set.intersection(*map(set, logged)))
    ]


def pseudo_label_classes(runs: Sequence[Run], classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Of each class, towards the end: its `share` of the used pixels and the `accuracy` of those, means over steps and
    seeds; nothing for a method without pseudo-labels."""
    entries = [entry for run in runs for entry in towards_the_end(run)]
    if not entries:
        return {}
    of = lambda key, at: mean_of(entry[key][at] for entry in entries if entry.get(key))  # noqa: E731
    return {name: {"share": of("classes", at), "accuracy": of("class_accuracy", at)} for at, name in enumerate(classes)}


# --- differences ----------------------------------------------------------------------------------------------------


def over_supervised(
    runs: Sequence[Run], baseline: Sequence[Run], rare: Sequence[int], absent: str
) -> dict[str, dict[str, Any] | None]:
    """What a row gains over the labels alone: in mIoU, in that of the rare classes, in boundary IoU."""
    return {
        "over_supervised": difference(runs, baseline, absent),
        "rare_over_supervised": difference(runs, baseline, absent, lambda scores: all_pixels(scores)[..., rare]),
        "border_over_supervised": difference(runs, baseline, absent, near_borders),
    }


def all_pixels(scores: Scores) -> np.ndarray:
    """(N, 3, C): of each image and class the right pixels, those in truth or prediction, and those in the truth."""
    right, true, predicted = np.moveaxis(scores.counts, 1, 0)
    return np.stack([right, true + predicted - right, true], axis=1)


def near_borders(scores: Scores) -> np.ndarray:
    """(N, 3, C): as `all_pixels`, right and in either near borders alone: their IoU is the boundary IoU."""
    return np.concatenate([scores.border, scores.counts[:, 1:2]], axis=1)


def difference(
    runs: Sequence[Run], others: Sequence[Run], absent: str, counts: Callable[[Scores], np.ndarray] = all_pixels
) -> dict[str, Any] | None:
    """The mean difference in mIoU over the seeds that both have, and its interval: both the validation images and the
    seeds are drawn anew, the same ones for both (paired). sure: whether it leaves 0 out, with ENOUGH seeds. counts:
    of what is compared, see `all_pixels`. None where they share no seed, or are the same runs."""
    seeds = sorted({run.seed for run in runs} & {run.seed for run in others})
    if not seeds or runs is others:
        return None
    pair = [np.stack([counts(of_seed(part, seed).scores) for seed in seeds]) for part in (runs, others)]
    mean, low, high = paired_interval(pair[0], pair[1], absent)
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "seeds": seeds,
        "sure": len(seeds) >= ENOUGH and not low <= 0 <= high,
    }


def of_seed(runs: Sequence[Run], seed: int) -> Run:
    return next(run for run in runs if run.seed == seed)


def paired_interval(one: np.ndarray, other: np.ndarray, absent: str) -> tuple[float, float, float]:
    """Mean difference in mIoU and its bootstrap interval. one, other: (S, N, 3, C) counts, of the same seeds and
    images."""
    rng = np.random.default_rng(0)
    seeds, images = one.shape[:2]
    weights = np.concatenate([np.ones((1, images)), rng.multinomial(images, np.full(images, 1 / images), DRAWS)])
    gaps = mious(one, weights, absent) - mious(other, weights, absent)  # (1 + DRAWS, S)
    drawn = rng.integers(0, seeds, (DRAWS, seeds))
    means = np.take_along_axis(gaps[1:], drawn, axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(gaps[0].mean()), float(low), float(high)


def mious(counts: np.ndarray, weights: np.ndarray, absent: str) -> np.ndarray:
    """(D, S): mIoU of each seed when image n counts weights[d, n] times. counts: (S, N, 3, C), see `all_pixels`;
    weights: (D, N); absent: see `metrics.counting`."""
    seeds, images, _, classes = counts.shape
    flat = counts.transpose(1, 0, 2, 3).reshape(images, -1).astype(np.float64)
    right, either, true = np.moveaxis((weights @ flat).reshape(len(weights), seeds, 3, classes), 2, 0)
    ious = right / np.where(either, either, 1)
    counted = true > 0 if absent == "exclude" else np.ones_like(true, bool)
    result: np.ndarray = (ious * counted).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
    return result
