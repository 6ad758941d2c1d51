"""report.html of a comparison: one file, made from the files in the comparison's folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import REMAKE, ComparisonFigures, RowFigures, RowStatistics, read_figures
from ssss_zoo.comparison.report.claim import claim
from ssss_zoo.comparison.report.drawn_charts import draw_charts, matrix_key, most_evaluations, read_histories
from ssss_zoo.comparison.report.embedding import embed_image, embed_pseudo_labels, legend_items, row_names
from ssss_zoo.comparison.report.error_charts import MATRIX_CLASSES_MAX
from ssss_zoo.comparison.report.per_image_counts import read_per_image_counts
from ssss_zoo.comparison.report.picture_index import PictureIndex, read_picture_index
from ssss_zoo.comparison.report.published import published_figures, row_orders
from ssss_zoo.comparison.report.row_errors import RowErrors, frequent_confusions, read_row_errors
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
from ssss_zoo.errors import UserError
from ssss_zoo.text import visible

if TYPE_CHECKING:
    from jinja2 import Template

WARNING_STARTS = ("NOT ", "Failed", "Not finished")  # of the notes that come before everything else
PRINTED_COLUMNS = 4  # of a table, after its first one, that fit a sheet of paper side by side (our choice)


def write_report(folder: ComparisonFolder) -> Path:
    """Make report.html in the folder of a comparison; returns it. Raises UserError where the folder holds no
    comparison, or a file that the report is made from is damaged."""
    figures = read_figures(folder)
    write_text(folder.report, page_template().render(template_values(figures, folder)))
    return folder.report


@cache
def page_template() -> Template:
    from jinja2 import Environment

    text = files("ssss_zoo.comparison.report").joinpath("report.html.j2").read_text("utf-8")
    return Environment(autoescape=True, finalize=escape_controls).from_string(text)


def escape_controls(value: Any) -> Any:
    """Text with its control characters as escapes; what is HTML already, and what is no text, stays as it is."""
    return visible(value) if type(value) is str else value


def template_values(figures: ComparisonFigures, folder: ComparisonFolder) -> dict[str, Any]:
    """The values of the template's variables."""
    finished = figures.finished()
    often = by_frequency(finished, figures.classes, folder)
    errors = read_row_errors(finished, folder)
    histories = read_histories(finished, folder)
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
        "charts": {chart.key: chart for chart in draw_charts(finished, often, errors, histories)},
        "evaluations": most_evaluations(histories),
        "class_tables": class_tables(finished, often),
        "options": row_options(figures, folder),
        "rows": figures.ranked(),
        "settings": figures.settings_differ,
        "commands": commands(figures, folder),
        "limits": limits(figures, folder),
        "printed_columns": PRINTED_COLUMNS,
        **error_values(figures, errors),
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
        "own_legends": index.pseudo_labels.own_legends,
        "old_pictures": index.wrong is None,
    }


def error_values(figures: ComparisonFigures, errors: Mapping[str, RowErrors]) -> dict[str, Any]:
    """The values of the template's variables that have to do with confusions. errors: of the rows that are counted."""
    known = {name: of_row for name, of_row in errors.items() if of_row.confusion is not None}
    return {
        "confusions": confusion_table(known, figures.classes),
        "matrices": [matrix_key(name) for name in known] if len(figures.classes) <= MATRIX_CLASSES_MAX else [],
        "matrix_classes_most": MATRIX_CLASSES_MAX,
        "without_confusion": [name for name in figures.finished() if name not in known],
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


def confusion_table(rows: Mapping[str, RowErrors], classes: Sequence[str]) -> ReportTable:
    """The most frequent confusions of each row."""
    headings = ["method", "true class", "predicted as", "share, %"]
    lines = [
        [name, true, predicted, format_share(share)]
        for name, errors in rows.items()
        for true, predicted, share in frequent_confusions(errors, classes)
    ]
    return ReportTable("The most frequent confusions, in % of the true class's pixels", headings, lines)


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
