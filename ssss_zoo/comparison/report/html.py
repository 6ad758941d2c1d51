"""report.html of a comparison: one file, made from the files in the comparison's folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import REMAKE, ComparisonFigures, RowFigures, RowStatistics, read_figures
from ssss_zoo.comparison.report.charts import (
    common_steps,
    plot_class_bars,
    plot_cost,
    plot_differences,
    plot_learning_curves,
    plot_pseudo_labels,
)
from ssss_zoo.comparison.report.claim import claim
from ssss_zoo.comparison.report.embedding import embed_image, embed_pseudo_labels, legend_items, row_names
from ssss_zoo.comparison.report.per_image_counts import read_per_image_counts
from ssss_zoo.comparison.report.picture_index import PictureIndex, read_picture_index
from ssss_zoo.comparison.report.published import published_figures, row_orders
from ssss_zoo.comparison.report.run_facts import commands, limits, row_options, run_facts, run_folder, seed_lines
from ssss_zoo.comparison.report.tables import (
    TABLE_HEADINGS,
    format_difference,
    format_mean,
    format_percent,
    table_cells,
    table_notes,
    table_title,
)
from ssss_zoo.comparison.run_files import read_run_history
from ssss_zoo.errors import UserError
from ssss_zoo.text import visible

CURVE_POINTS_MIN = 3  # evaluations from which on a learning curve says anything (our choice)
WARNING_STARTS = ("NOT ", "Failed", "Not finished")  # of the notes that come before everything else
PRINTED_COLUMNS = 4  # of a table, after its first one, that fit a sheet of paper side by side (our choice)


def write_report(folder: ComparisonFolder) -> Path:
    """Make report.html in the folder of a comparison; returns it. Raises UserError where the folder holds no
    comparison, or a file that the report is made from is damaged."""
    from jinja2 import Environment

    figures = read_figures(folder)
    template = files("ssss_zoo.comparison.report").joinpath("report.html.j2").read_text("utf-8")
    page = Environment(autoescape=True, finalize=escape_controls).from_string(template)
    write_text(folder.report, page.render(template_values(figures, folder)))
    return folder.report


def escape_controls(value: Any) -> Any:
    """Text with its control characters as escapes; what is HTML already, and what is no text, stays as it is."""
    return visible(value) if type(value) is str else value


def template_values(figures: ComparisonFigures, folder: ComparisonFolder) -> dict[str, Any]:
    """The values of the template's variables."""
    finished = figures.finished()
    often = by_frequency(finished, figures.classes, folder)
    index = read_picture_index(folder)
    notes = table_notes(figures)
    return {
        "title": f"Methods side by side on {table_title(figures)}",
        "claim": claim(figures),
        "notes": [note for note in notes if not note.startswith(WARNING_STARTS)],
        "warnings": [note for note in notes if note.startswith(WARNING_STARTS)],
        "short": short_table(figures),
        "facts": run_facts(figures, folder),
        "figures": figures_table(figures),
        "seeds": figures.seeds,
        "seed_lines": seed_lines(figures),
        "charts": {chart.key: chart for chart in draw_charts(finished, often, folder)},
        "evaluations": most_evaluations(finished, folder),
        "class_tables": class_tables(finished, often),
        "options": row_options(figures, folder),
        "rows": figures.ranked(),
        "settings": figures.settings_differ,
        "commands": commands(figures, folder),
        "limits": limits(figures),
        "printed_columns": PRINTED_COLUMNS,
        **picture_values(figures, folder, index),
        **published_values(figures),
    }


def picture_values(figures: ComparisonFigures, folder: ComparisonFolder, index: PictureIndex | None) -> dict[str, Any]:
    """The values of the template's variables that have to do with pictures."""
    if index is None:
        return {"pictures": [], "picture_rows": [], "legend": [], "pseudo_labels": [], "old_pictures": False}
    names = row_names(index)
    return {
        "pictures": [embed_image(image, names, folder) for image in index.images],
        "picture_rows": names,
        "legend": legend_items(figures.classes, index),
        "pseudo_labels": embed_pseudo_labels(index.pseudo_labels, folder),
        "old_pictures": index.wrong is None,
    }


def published_values(figures: ComparisonFigures) -> dict[str, Any]:
    """The values of the template's variables that have to do with published figures. Those for other data or another
    encoder say nothing here, and are counted only."""
    found = published_figures(figures)
    comparable = [figure for figure in found if figure.comparable]
    finished = figures.finished().items()
    return {
        "published": comparable,
        "other_published": len(found) - len(comparable),
        "ours": {name: {"last": format_percent(r.last), "best": format_percent(r.best)} for name, r in finished},
        "orders": row_orders(figures, comparable),
    }


# --- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportTable:
    """A table: headings, and lines with a cell for each of them."""

    title: str
    headings: list[str]
    lines: list[list[str]]


def short_table(figures: ComparisonFigures) -> ReportTable:
    """The figures that decide: a line a row, the best first."""
    headings = ["method", "mIoU, %", f"over {BASELINE}, points", "training, s"]
    return ReportTable("In short", headings, [short_line(row) for row in figures.ranked()])


def short_line(row: RowFigures) -> list[str]:
    found = row.statistics
    if found is None:
        return [row.name, "-", "-", "-"]
    return [
        row.name,
        format_percent(found.last),
        format_difference(found.over_supervised),
        format_mean(found.train_seconds),
    ]


def figures_table(figures: ComparisonFigures) -> ReportTable:
    """Every figure of compare.csv that is for people: a line for each figure, a column for each row."""
    rows = figures.ranked()
    columns = [table_cells(row) for row in rows]
    lines = [[heading, *(cells[place] for cells in columns)] for place, heading in enumerate(TABLE_HEADINGS)]
    return ReportTable("All figures", ["figure", *lines[0][1:]], lines[1:])


def class_tables(rows: Mapping[str, RowStatistics], classes: Sequence[str]) -> list[ReportTable]:
    """The IoU of each class, and where there are any the pseudo-labels of each class: a line for each class."""
    if not rows:
        return []
    ious = [[of_class, *(format_percent(row.iou[of_class]) for row in rows.values())] for of_class in classes]
    tables = [ReportTable("IoU of each class, %", ["class", *rows], ious)]
    labelling = {name: row.pseudo_label_classes for name, row in rows.items() if row.pseudo_label_classes}
    kinds = {
        "Pseudo-labels towards the end: the share of the used pixels that each class gets, %": "share",
        "Pseudo-labels towards the end: how many of these pixels are right, %": "accuracy",
    }
    for title, kind in kinds.items():
        values = {name: [getattr(found[of_class], kind) for of_class in classes] for name, found in labelling.items()}
        if any(value is not None for of_row in values.values() for value in of_row):
            lines = [
                [of_class, *(format_share(values[name][at]) for name in values)] for at, of_class in enumerate(classes)
            ]
            tables.append(ReportTable(title, ["class", *values], lines))
    return tables


def format_share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def by_frequency(rows: Mapping[str, RowStatistics], classes: Sequence[str], folder: ComparisonFolder) -> list[str]:
    """The classes, those with the most true pixels in val first. Raises UserError where the counts are damaged."""
    if not rows:
        return list(classes)
    first = next(iter(rows.values()))
    try:
        counts = read_per_image_counts(run_folder(folder, next(iter(first.folders.values()))), classes=len(classes))
    except UserError as error:
        raise UserError(f"{error}; {REMAKE}") from None
    true = counts.true_pixels
    return [classes[index] for index in sorted(range(len(classes)), key=lambda index: -true[index])]


# --- charts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """A chart of the report. key: where the template puts it; text: a sentence below its title; svg: safe HTML."""

    key: str
    title: str
    text: str
    svg: Any


def draw_charts(rows: Mapping[str, RowStatistics], classes: Sequence[str], folder: ComparisonFolder) -> list[Chart]:
    """The charts of the finished rows; none without any, and none that says nothing."""
    from markupsafe import Markup

    if not rows:
        return []
    text = "The most frequent class of val is on top."
    charts = [
        Chart("classes", "IoU of each class", text, Markup(plot_class_bars(rows, classes))),
        Chart("cost", "Accuracy and training time", "Up and to the left is better.", Markup(plot_cost(rows))),
    ]
    if any(row.over_supervised for row in rows.values()):
        text = "Each line is the interval of the difference; a star marks one without 0."
        charts.append(Chart("differences", f"mIoU over {BASELINE}", text, Markup(plot_differences(rows))))
    curves = learning_curves(rows, folder)
    if most_evaluations(rows, folder) >= CURVE_POINTS_MIN:
        text = "Mean and standard deviation over seeds."
        charts.append(Chart("curves", "Learning curves", text, Markup(plot_learning_curves(curves))))
    if any(row.pseudo_labels_over_time for row in rows.values()):
        text = (
            "On the unlabelled images of the logged steps. The share of right pixels is known where hidden labels are."
        )
        charts.append(Chart("pseudo_labels", "Pseudo-labels while training", text, Markup(plot_pseudo_labels(rows))))
    return charts


def learning_curves(
    rows: Mapping[str, RowStatistics], folder: ComparisonFolder
) -> dict[str, list[Mapping[int, float]]]:
    """By row, for each seed mIoU in [0, 1] by step."""
    return {
        name: [read_run_history(run_folder(folder, place)).miou for place in row.folders.values()]
        for name, row in rows.items()
    }


def most_evaluations(rows: Mapping[str, RowStatistics], folder: ComparisonFolder) -> int:
    """The number of points that the longest learning curve would have."""
    return max((len(common_steps(seeds)) for seeds in learning_curves(rows, folder).values()), default=0)
