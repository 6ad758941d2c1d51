"""Published figures beside ours, with the reasons why the two do not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from ssss_zoo.comparison.plan import method_of
from ssss_zoo.comparison.records import ComparisonFigures, RowFigures, RowStatistics
from ssss_zoo.config.python_files import RELEASE

FALLBACK_DATASET, FALLBACK_SPLIT, FALLBACK_ENCODER = "voc", "183", "resnet101"  # most methods have this figure
SOURCE_NAMES = {
    "own": "the authors' repository",
    "log": "released log",
    "other": "printed by other authors",
    "page": "project page",
}
UNKNOWN_NUMBER = "an unknown number"


@dataclass(frozen=True)
class PublishedEntry:
    """An entry of published.yaml, which describes the fields. miou: in percent, by split."""

    method: str
    dataset: str
    encoder: str
    source: str
    miou: Mapping[str, float]
    crop: int | None = None
    note: str = ""
    of: int | None = None


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure of a row's method. miou: in percent; setting: data set, split, encoder, crop; chosen: from how
    many evaluations the published best was chosen, and ours; comparable: data set and encoder are those of the row;
    reasons: why the two do not compare."""

    row: str
    miou: float
    encoder: str
    setting: str
    source: str
    note: str
    chosen: str
    comparable: bool
    reasons: tuple[str, ...]


@cache
def published_entries() -> tuple[PublishedEntry, ...]:
    table = yaml.safe_load(files("ssss_zoo.comparison.report").joinpath("published.yaml").read_text("utf-8"))
    return tuple(PublishedEntry(**entry) for entry in table["entries"])


def published_figures(figures: ComparisonFigures) -> list[PublishedFigure]:
    """The published figures of the rows' methods on the comparison's data set and split; where nobody has published on
    it, on FALLBACK_DATASET."""
    here = [e for e in published_entries() if e.dataset == figures.dataset and figures.split in e.miou]
    split = figures.split if here and figures.split else FALLBACK_SPLIT
    there = [e for e in published_entries() if (e.dataset, e.encoder) == (FALLBACK_DATASET, FALLBACK_ENCODER)]
    fitting = here or [entry for entry in there if split in entry.miou]
    return [
        published_figure(entry, split, row, row.statistics, figures)
        for row in figures.rows
        if row.statistics
        for entry in fitting
        if entry.method == method_of(row.overrides).removesuffix(RELEASE)
    ]


def published_figure(
    entry: PublishedEntry, split: str, row: RowFigures, statistics: RowStatistics, figures: ComparisonFigures
) -> PublishedFigure:
    """An entry beside the figure of a row, whose method it is of. statistics: of the row."""
    return PublishedFigure(
        row=row.name,
        miou=entry.miou[split],
        encoder=entry.encoder,
        setting=f"{entry.dataset} {split}, {entry.encoder}, crop {entry.crop or 'not stated'}",
        source=SOURCE_NAMES[entry.source],
        note=entry.note,
        chosen=f"best of {entry.of or UNKNOWN_NUMBER} there, of {evaluations_of_best(statistics)} here",
        comparable=entry.dataset == figures.dataset
        and encoder_family(entry.encoder) == encoder_family(statistics.settings["model.encoder"]),
        reasons=tuple(reasons_against(entry, row, statistics, figures)),
    )


def evaluations_of_best(statistics: RowStatistics) -> str:
    """From how many evaluations a row's best was chosen: a number, or the least and the most of its seeds."""
    known = sorted({number for number in statistics.best_of if number})
    return " to ".join(map(str, known[:: max(1, len(known) - 1)])) or UNKNOWN_NUMBER


def reasons_against(
    entry: PublishedEntry, row: RowFigures, statistics: RowStatistics, figures: ComparisonFigures
) -> list[str]:
    """The known differences between a published figure and a row's; empty where nothing is known to differ."""
    settings, reasons = statistics.settings, []
    if entry.dataset != figures.dataset:
        reasons.append("another data set")
    elif not statistics.protocol.name:
        reasons.append("lists, crop or scoring match no known protocol here")
    if encoder_family(entry.encoder) != encoder_family(settings["model.encoder"]):
        reasons.append(f"encoder {settings['model.encoder']} here")
    if settings["model.weights"] in ("none", "None"):
        reasons.append("encoder not pre-trained here")
    if settings["train.crop"] not in (f"[{entry.crop}]", f"[{entry.crop},{entry.crop}]"):
        unknown = "" if entry.crop else ", the published one unknown"
        reasons.append(f"crop {settings['train.crop']} here{unknown}")
    if len(row.overrides) > 1:
        reasons.append(f"changed here: {' '.join(row.overrides[1:])}")
    budget_keys = ("train.steps=", "train.epochs=", "train.batch=")
    budget = [argument for argument in figures.overrides if argument.startswith(budget_keys)]
    if budget or figures.budget == "time":
        reasons.append(f"budget of our choice here ({' '.join(budget) or 'equal time'})")
    if entry.source == "page":
        reasons.append("the published figure was not checked against the paper")
    return reasons


def encoder_family(encoder: str) -> str:
    """An encoder without its stem and the tag of its weights: tables of papers say `resnet101` of every kind."""
    return encoder.partition(".")[0].removesuffix("_deep_stem")


@dataclass(frozen=True)
class RowOrders:
    """The rows that have a published figure with one encoder, best first: by our figures, and by the published ones."""

    encoder: str
    ours: list[str]
    published: list[str]


def row_orders(figures: ComparisonFigures, published: Sequence[PublishedFigure]) -> RowOrders | None:
    """The orders with the encoder that most rows have figures for: figures with two encoders have no order. None for
    fewer than two rows."""
    of_encoder: dict[str, dict[str, float]] = {}
    for figure in published:
        best = of_encoder.setdefault(figure.encoder, {})
        best[figure.row] = max(figure.miou, best.get(figure.row, 0.0))
    encoder = max(of_encoder, key=lambda name: len(of_encoder[name]), default=None)
    if encoder is None or len(of_encoder[encoder]) < 2:
        return None
    theirs = of_encoder[encoder]
    ours = {name: row.last.mean or 0.0 for name, row in figures.finished().items()}
    best_first = [sorted(theirs, key=lambda name: -values[name]) for values in (ours, theirs)]
    return RowOrders(encoder, *best_first)
