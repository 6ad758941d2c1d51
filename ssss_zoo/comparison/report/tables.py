"""The figures of a comparison as compare.json, .csv, .md and .tex, and on the screen."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.records import (
    ComparisonFigures,
    Difference,
    PseudoLabelStatistics,
    RowFigures,
    RowStatistics,
    SeedStatistics,
    figures_tree,
)
from ssss_zoo.comparison.report.fairness import protocol_differences
from ssss_zoo.comparison.report.statistics import SEEDS_FOR_SIGNIFICANCE
from ssss_zoo.data.benchmarks.published_splits import UNKNOWN_LIST
from ssss_zoo.evaluation.network_cost import NetworkCost
from ssss_zoo.text import visible

MARKDOWN_SYNTAX = re.compile(r"[\\`*<>\[\]|~$&]|(?<![^\W_])_|_(?![^\W_])|^[#+-]")  # `_` within a word is itself
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # first letters that make a spreadsheet compute
LATEX_ESCAPES = str.maketrans(
    {letter: f"\\{letter}" for letter in "_&%#{}$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}", "*": "{*}"}
)


@dataclass(frozen=True)
class StatisticsColumn:
    """A column with a figure in percent. key: in compare.csv; heading: in the tables for people."""

    key: str
    heading: str
    value: Callable[[RowStatistics], SeedStatistics]


@dataclass(frozen=True)
class DifferenceColumn:
    """A column with a difference in points. key: in compare.csv; heading: in the tables for people."""

    key: str
    heading: str
    value: Callable[[RowStatistics], Difference | None]


STATISTICS_COLUMNS = (
    StatisticsColumn("last", "mIoU, last", lambda row: row.last),
    StatisticsColumn("best", "mIoU, best", lambda row: row.best),
    StatisticsColumn("student", "student", lambda row: row.student),
    StatisticsColumn("teacher", "teacher", lambda row: row.teacher),
    StatisticsColumn("rare", "rare classes", lambda row: row.rare),
    StatisticsColumn("border_iou", "boundary IoU", lambda row: row.border_iou),
    StatisticsColumn("calibration_error", "ECE", lambda row: row.calibration_error),
)
DIFFERENCE_COLUMNS = (
    DifferenceColumn("over_supervised", "over supervised", lambda row: row.over_supervised),
    DifferenceColumn("rare_over_supervised", "rare, over supervised", lambda row: row.rare_over_supervised),
    DifferenceColumn("border_over_supervised", "boundary, over supervised", lambda row: row.border_over_supervised),
    DifferenceColumn("to_best", "to the best", lambda row: row.vs_best),
)
TABLE_HEADINGS = (
    "method",
    *(column.heading for column in STATISTICS_COLUMNS),
    *(column.heading for column in DIFFERENCE_COLUMNS),
    "pseudo-labels, %",
    "train s",
    "steps/s",
    "MiB",
    "images/s",
    "images/s, best batch",
    "M parameters",
    "GFLOPs",
)
COST_KEYS = (  # of a network, in compare.csv
    "image_height",
    "image_width",
    "parameters",
    "flops",
    "images_per_second",
    "best_images_per_second",
    "best_batch",
)
SCREEN_HEADINGS = ("method", "mIoU, last", "over supervised", "train s", "MiB")


def write_tables(figures: ComparisonFigures, folder: ComparisonFolder) -> None:
    """Write all four files, each whole."""
    write_text(folder.figures, json.dumps(figures_tree(figures), indent=1))
    write_text(folder.csv, as_csv(figures))
    write_text(folder.markdown, as_markdown(figures))
    write_text(folder.latex, as_latex(figures))


# --- the cells of a table -------------------------------------------------------------------------------------------


def format_percent(statistics: SeedStatistics | None) -> str:
    """`31.42 ± 0.53`, without a deviation where there was one seed."""
    if not statistics or statistics.mean is None:
        return "-"
    mean = f"{100 * statistics.mean:.2f}"
    return mean if statistics.std is None else f"{mean} ± {100 * statistics.std:.2f}"


def format_difference(change: Difference | None) -> str:
    """`+1.20 [-0.31, +2.65]`, with a star where it is significant."""
    if not change:
        return "-"
    star = " *" if change.significant else ""
    return f"{100 * change.mean:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]{star}"


def format_mean(statistics: SeedStatistics | None, scale: float = 1.0, digits: int = 0) -> str:
    return "-" if not statistics or statistics.mean is None else f"{statistics.mean / scale:.{digits}f}"


def format_pseudo_labels(found: PseudoLabelStatistics | None) -> str:
    """`45 used, 99 right`, in percent; with the mean weight of the used pixels where it is not 1."""
    if not found or found.used.mean is None:
        return "-"
    weight = (found.weight.mean or 0.0) / max(found.used.mean, 1e-9)
    parts = [f"{100 * found.used.mean:.0f} used"]
    if weight < 0.995:
        parts.append(f"weight {weight:.2g}")
    if found.accuracy.mean is not None:
        parts.append(f"{100 * found.accuracy.mean:.0f} right")
    return ", ".join(parts)


def format_speed(speed: float) -> str:
    """`4.21`, `63.0`, `812`: three digits."""
    return f"{speed:.{2 if speed < 10 else 1 if speed < 100 else 0}f}"


def cost_cells(cost: NetworkCost | None) -> list[str]:
    """The last four cells of a row: images a second one by one, and in the best batch; parameters; operations."""
    if cost is None:
        return ["-"] * 4
    return [
        format_speed(cost.images_per_second),
        f"{format_speed(cost.best_images_per_second)} ({cost.best_batch})",
        f"{cost.parameters / 1e6:.2f}",
        f"{cost.flops / 1e9:.2f}",
    ]


def table_cells(row: RowFigures) -> list[str]:
    """The cells of a row under TABLE_HEADINGS."""
    found = row.statistics
    if found is None:
        return [row.name, *["-"] * (len(TABLE_HEADINGS) - 1)]
    return [
        row.name,
        *(format_percent(column.value(found)) for column in STATISTICS_COLUMNS),
        *(format_difference(column.value(found)) for column in DIFFERENCE_COLUMNS),
        format_pseudo_labels(found.pseudo_labels),
        format_mean(found.train_seconds),
        format_mean(found.steps_per_second, digits=2),
        format_mean(found.peak_memory_bytes, 2**20),
        *cost_cells(found.network_cost),
    ]


# --- notes ----------------------------------------------------------------------------------------------------------


def table_notes(figures: ComparisonFigures) -> list[str]:
    """The sentences without which the table cannot be read."""
    over = "mean ± standard deviation over seeds" if len(figures.seeds) > 1 else "seed"
    notes = [
        f"{figures.headline}; {over} {', '.join(map(str, figures.seeds))}.",
        f"Differences are paired, with the {100 * figures.interval:.0f} % interval of a bootstrap over validation "
        "images and seeds; a star marks an interval without 0.",
    ]
    if len(figures.seeds) < SEEDS_FOR_SIGNIFICANCE:
        fewer = f"Fewer than {SEEDS_FOR_SIGNIFICANCE} seeds"
        notes.append(f"{fewer}: the spread between runs is too uncertain for stars.")
    in_mean = figures.classes if figures.classes_in_mean is None else figures.classes_in_mean
    absent = [name for name in figures.classes if name not in in_mean]
    if absent:
        kept, total = len(figures.classes) - len(absent), len(figures.classes)
        notes.append(f"Means are over {kept} of {total} classes: no validation image shows {', '.join(absent)}.")
    if figures.rare_classes:
        notes.append(f"Rare classes: {', '.join(figures.rare_classes)}.")
    return [*notes, *cost_notes(figures), *fairness_notes(figures), *missing_run_notes(figures)]


def cost_notes(figures: ComparisonFigures) -> list[str]:
    """What the images a second and the operations are of; rows whose networks ran on other images or devices."""
    rows_of: dict[str, list[str]] = {}
    for name, row in figures.finished().items():
        if row.network_cost:
            setting = f"{row.network_cost.height}x{row.network_cost.width} on {row.network_cost.device}"
            rows_of.setdefault(setting, []).append(name)
    if not rows_of:
        return []
    settings = [f"{key} ({', '.join(names)})" if len(rows_of) > 1 else key for key, names in rows_of.items()]
    return [
        f"Speed: the reported network predicts images of {', '.join(settings)} in float32, one at a time and in the "
        "fastest batch, whose size is in brackets; FLOPs are of one image, a multiply-add counted as two.",
        *(["NOT COMPARABLE, speeds are of different images or devices."] if len(rows_of) > 1 else []),
    ]


def fairness_notes(figures: ComparisonFigures) -> list[str]:
    """The reasons why rows do not compare with each other, or with published figures."""
    notes = []
    lists = next((row.protocol.lists for row in figures.finished().values()), {})
    unknown = [part for part, entry in lists.items() if entry.get("list") == UNKNOWN_LIST]
    if unknown:
        notes.append(f"Split lists that match no published split: {', '.join(unknown)}.")
    if figures.protocols_differ:
        notes.append(f"NOT COMPARABLE, protocols differ: {'; '.join(protocol_differences(figures.rows))}.")
    if figures.first_weights_differ:
        notes.append(f"NOT THE SAME START: different initial weights in {', '.join(figures.first_weights_differ)}.")
    return notes


def missing_run_notes(figures: ComparisonFigures) -> list[str]:
    """The runs that failed, that are not finished, and those in the folder that the command does not name."""
    notes = [f"Failed: {run.row}, seed {run.seed}: {run.reason}." for run in figures.failed]
    failed = {(run.row, run.seed) for run in figures.failed}
    unfinished = [f"{name} seed {seed}" for name, seed in figures.missing if (name, seed) not in failed]
    if unfinished:
        notes.append(f"Not finished yet: {', '.join(unfinished)}.")
    if figures.left_out:
        notes.append(f"In the folder, but not named by the command: {', '.join(figures.left_out)}.")
    return notes


# --- files ----------------------------------------------------------------------------------------------------------


def table_title(figures: ComparisonFigures) -> str:
    return f"{figures.dataset}, split {figures.split}"


def as_markdown(figures: ComparisonFigures) -> str:
    """All rows, the IoU of each class, and the notes."""
    finished = figures.finished()
    classes = [["class", *map(escape_markdown, finished)]]
    for name in figures.classes:
        classes.append([escape_markdown(name), *(format_percent(row.iou[name]) for row in finished.values())])
    body = [[escape_markdown(name), *cells] for name, *cells in map(table_cells, figures.ranked())]
    parts = [
        f"# {escape_markdown(table_title(figures))}",
        markdown_table([TABLE_HEADINGS, *body]),
        "IoU of each class, %",
        markdown_table(classes),
        "\n".join(f"- {escape_markdown(note)}" for note in table_notes(figures)),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows unchanged: on one line, with a backslash before each letter of its syntax."""
    return MARKDOWN_SYNTAX.sub(r"\\\g<0>", visible(text))


def escape_formula(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{visible(text)}" if text.startswith(FORMULA_STARTS) else visible(text)


def as_csv(figures: ComparisonFigures) -> str:
    """A line a row, figures in percent as numbers: mean and std in columns of their own, and a column a class."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    statistics_keys = [f"{column.key}_{part}" for column in STATISTICS_COLUMNS for part in ("mean", "std")]
    difference_keys = [f"{column.key}_{part}" for column in DIFFERENCE_COLUMNS for part in ("mean", "low", "high")]
    cost_keys = ["train_seconds", "steps_per_second", "peak_memory_bytes"]
    class_keys = [f"iou_{visible(name)}" for name in figures.classes]
    keys = [*statistics_keys, *difference_keys, *cost_keys, *COST_KEYS, *class_keys]
    writer.writerow(["method", "seeds", *keys, "protocol_digest"])
    for row in figures.ranked():
        cells = csv_cells(row.statistics, figures.classes) if row.statistics else []
        writer.writerow([escape_formula(row.name), len(row.seeds), *cells])
    return sink.getvalue()


def csv_cells(row: RowStatistics, classes: Sequence[str]) -> list[object]:
    """The cells of a finished row after its name and the number of its seeds."""
    statistics = [column.value(row) for column in STATISTICS_COLUMNS]
    differences = [column.value(row) for column in DIFFERENCE_COLUMNS]
    return [
        *(in_percent(part) for one in statistics for part in (one.mean, one.std)),
        *(in_percent(part) for one in differences for part in ((one.mean, one.low, one.high) if one else [None] * 3)),
        *(one.mean for one in (row.train_seconds, row.steps_per_second, row.peak_memory_bytes)),
        *network_csv_cells(row.network_cost),
        *(in_percent(row.iou[name].mean) for name in classes),
        row.protocol.digest,
    ]


def network_csv_cells(cost: NetworkCost | None) -> list[object]:
    """The cells under COST_KEYS, empty for a row without a measurement."""
    if cost is None:
        return [""] * len(COST_KEYS)
    return [
        cost.height,
        cost.width,
        cost.parameters,
        cost.flops,
        f"{cost.images_per_second:.4g}",
        f"{cost.best_images_per_second:.4g}",
        cost.best_batch,
    ]


def in_percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"


def as_latex(figures: ComparisonFigures) -> str:
    """A table for booktabs, the best mean in bold."""
    lines = [r"\begin{tabular}{lrrrr}", r"\toprule", r"method & mIoU, last & mIoU, best & over supervised & train s \\"]
    lines.append(r"\midrule")
    for index, (name, row) in enumerate(figures.finished().items()):
        last = format_percent(row.last).replace("±", r"$\pm$")
        cells = [
            escape_latex(name),
            rf"\textbf{{{last}}}" if index == 0 else last,
            format_percent(row.best).replace("±", r"$\pm$"),
            format_difference(row.over_supervised),
            format_mean(row.train_seconds),
        ]
        lines.append(" & ".join(cells) + r" \\")
    comments = [f"% {visible(text)}" for text in (table_title(figures), *table_notes(figures))]
    return "\n".join([*comments, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX sets unchanged, at the beginning of a table's line too."""
    return visible(text).translate(LATEX_ESCAPES)


def screen_table(figures: ComparisonFigures) -> Table:
    """The most important columns, for a terminal."""
    table = Table(title=Text(visible(table_title(figures))), title_justify="left")
    for heading in SCREEN_HEADINGS:
        table.add_column(heading, justify="left" if heading == "method" else "right", overflow="fold")
    for row in figures.ranked():
        cells = dict(zip(TABLE_HEADINGS, table_cells(row), strict=True))
        table.add_row(*(Text(visible(cells[heading])) for heading in SCREEN_HEADINGS))
    return table


def screen_cost_table(figures: ComparisonFigures) -> Table | None:
    """Size and speed for a terminal, a line for each network with the rows that have it; None where none was
    measured."""
    rows_of: dict[NetworkCost, list[str]] = {}
    for name, row in figures.finished().items():
        if row.network_cost:
            rows_of.setdefault(row.network_cost, []).append(name)
    if not rows_of:
        return None
    table = Table()
    for heading in ("network of", "images/s", "best (batch)", "M parameters", "GFLOPs"):
        table.add_column(heading, justify="left" if heading == "network of" else "right", overflow="fold")
    for cost, names in rows_of.items():
        table.add_row(Text(", ".join(map(visible, names))), *cost_cells(cost))
    return table
