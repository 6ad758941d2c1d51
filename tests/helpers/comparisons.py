"""Comparisons for tests: those that every version left in tests/fixtures, and figures made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.records import ComparisonFigures, Difference, RowFigures, SeedStatistics, read_figures

KEPT_COMPARISONS = sorted(Path(__file__).parents[1].joinpath("fixtures").glob("comparison-*"))  # one of each format
NEWEST_COMPARISON = KEPT_COMPARISONS[-1]

# A run of one step that needs no weights from elsewhere.
SMALL = [
    "dataset=shapes", "data.split=1/32", "model.encoder=test_resnet", "model.weights=none", "model.channels=16",
    "train.steps=1", "train.crop=32", "train.batch=2", "train.threads=1", "evaluate.predictions=1", "tracking.uri=off",
]  # fmt: skip


def kept_figures() -> ComparisonFigures:
    """The figures of the newest comparison in tests/fixtures: `supervised` and `fixmatch`, two seeds."""
    return read_figures(ComparisonFolder(NEWEST_COMPARISON))


def one_seed(mean: float | None, std: float | None = None) -> SeedStatistics:
    return SeedStatistics(mean=mean, std=std, values=(mean,))


def change(mean: float, low: float, high: float, *, significant: bool) -> Difference:
    return Difference(mean=mean, low=low, high=high, significant=significant)


def finished_row(name: str, mean: float = 0.5, **changes: Any) -> RowFigures:
    """A row whose runs are finished, with mIoU `mean`. changes: to the statistics of a kept row."""
    row = kept_figures().rows[-1]
    assert row.statistics
    statistics = replace(row.statistics, **({"last": one_seed(mean)} | changes))
    return RowFigures(name=name, overrides=(f"method={name}",), seeds=(0,), statistics=statistics)


def figures_of(rows: Sequence[RowFigures], **changes: Any) -> ComparisonFigures:
    """The figures of a comparison of these rows."""
    return replace(kept_figures(), rows=tuple(rows), **changes)
