"""report.html of a comparison: one file, made from the files in the comparison's folder alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.folders import ComparedRunFolder, ComparisonFolder
from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import REMAKE, ComparisonFigures, PseudoLabelClass, RowStatistics, read_figures
from ssss_zoo.comparison.report.charts import plot_class_bars, plot_cost, plot_learning_curves, plot_pseudo_labels
from ssss_zoo.comparison.report.per_image_counts import read_per_image_counts
from ssss_zoo.comparison.report.picture_index import (
    PictureIndex,
    PseudoLabelPictures,
    ShownImage,
    read_picture_index,
)
from ssss_zoo.comparison.report.published import published_figures, row_orders
from ssss_zoo.comparison.report.tables import (
    TABLE_HEADINGS,
    format_difference,
    format_percent,
    table_cells,
    table_notes,
    table_title,
)
from ssss_zoo.comparison.run_files import read_run_history
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief, visible

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
OLD_VOID_GREY = (150, 150, 150)  # of void in the pictures of an earlier version
OLD_WRONG_COLOUR = (213, 94, 0)  # of wrong pixels there


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
    from markupsafe import escape

    rows, finished = figures.ranked(), figures.finished()
    index, published = read_picture_index(folder), published_figures(figures)
    often = by_frequency(finished, figures.classes, folder)
    return {
        "title": f"Methods side by side on {table_title(figures)}",
        "headline": headline(figures),
        "notes": table_notes(figures),
        "headings": TABLE_HEADINGS,
        "table": [table_cells(row) for row in rows],
        "charts": draw_charts(finished, often, folder),
        "pictures": [embed_image(image, folder) for image in index.images] if index else [],
        "legend": legend_items(figures.classes, index) if index else [],
        "rows": rows,
        "class_tables": class_tables(finished, often),
        "pseudo_labels": embed_pseudo_labels(index.pseudo_labels, folder) if index else None,
        "published": published,
        "ours": {
            name: {"last": format_percent(r.last), "best": format_percent(r.best)} for name, r in finished.items()
        },
        "orders": row_orders(figures, published),
        "settings": figures.settings_differ,
        "overrides": " ".join(figures.overrides),
        "environment": escape(json.dumps(figures.environment, indent=1)),
    }


def headline(figures: ComparisonFigures) -> str:
    """The result in a sentence, no stronger than the figures."""
    finished = figures.finished()
    if not finished:
        return "No run is finished yet."
    best, row = next(iter(finished.items()))
    first = f"{best} comes first with {format_percent(row.last)} mIoU"
    if best == BASELINE:
        return f"{first}: on these data, with this budget, no method beats the labels alone."
    change = row.over_supervised
    if change is None:
        return f"{first}; there is no supervised row to compare it with."
    strength = "more than chance explains" if change.significant else "which may be chance"
    return f"{first}, {format_difference(change)} over the labels alone, {strength}."


# --- charts and tables ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """A chart of the report. text: a sentence below its title; svg: safe HTML."""

    title: str
    text: str
    svg: Any


@dataclass(frozen=True)
class ClassTable:
    """A table with a column for each class, the most frequent first, and a line for each row."""

    title: str
    headings: list[str]
    lines: list[list[str]]


def draw_charts(rows: Mapping[str, RowStatistics], classes: Sequence[str], folder: ComparisonFolder) -> list[Chart]:
    """The charts of the finished rows; none without any."""
    from markupsafe import Markup

    if not rows:
        return []
    curves = {
        name: [read_run_history(run_folder(folder, place)).miou for place in row.folders.values()]
        for name, row in rows.items()
    }
    charts = [
        Chart("Learning curves", "Mean and standard deviation over seeds.", Markup(plot_learning_curves(curves))),
        Chart("Classes", "The most frequent class of val first.", Markup(plot_class_bars(rows, classes))),
        Chart("Accuracy and cost", "Up and to the left is better.", Markup(plot_cost(rows))),
    ]
    if any(row.pseudo_labels_over_time for row in rows.values()):
        text = (
            "On the unlabelled images of the logged steps. The share of right pixels is known where hidden labels are."
        )
        charts.append(Chart("Pseudo-labels", text, Markup(plot_pseudo_labels(rows))))
    return charts


def run_folder(folder: ComparisonFolder, place: str) -> ComparedRunFolder:
    """The folder of a run of a comparison. Earlier versions wrote its whole path, which is wrong once it is moved."""
    return ComparedRunFolder(folder.path.joinpath(*(part for part in Path(place).parts[-3:] if part != "..")))


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


def class_tables(rows: Mapping[str, RowStatistics], classes: Sequence[str]) -> list[ClassTable]:
    """The IoU of each class, and where there are any the pseudo-labels of each class."""
    if not rows:
        return []
    headings = ["method", *classes]
    ious = [[name, *(format_percent(row.iou[of_class]) for of_class in classes)] for name, row in rows.items()]
    labels = [
        [name, *(format_class(row.pseudo_label_classes[of_class]) for of_class in classes)]
        for name, row in rows.items()
        if row.pseudo_label_classes
    ]
    title = "Pseudo-labels of each class towards the end: share of the used pixels, and how many of those are right, %"
    tables = [ClassTable("IoU of each class, %", headings, ious)]
    return [*tables, ClassTable(title, headings, labels)] if labels else tables


def format_class(found: PseudoLabelClass) -> str:
    """`12.5, 90`: share and accuracy in percent."""
    share = "-" if found.share is None else f"{100 * found.share:.1f}"
    return share if found.accuracy is None else f"{share}, {100 * found.accuracy:.0f}"


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LegendItem:
    """A name of the legend, and the CSS background of its swatch."""

    name: str
    background: str


def legend_items(classes: Sequence[str], index: PictureIndex) -> list[LegendItem]:
    """The legend of the pictures: each class, wrong pixels, and void."""
    named = [LegendItem(name, as_css(colour)) for name, colour in zip(classes, index.colours, strict=False)]
    void = index.void or (OLD_VOID_GREY, OLD_VOID_GREY)
    if index.wrong is None:
        squares = f"repeating-conic-gradient({as_css(void[0])} 0 25%, {as_css(void[1])} 0 50%) 0 0 / 0.45em 0.45em"
        return [*named, LegendItem("wrong", as_css(OLD_WRONG_COLOUR)), LegendItem("void", squares)]
    wrong = as_css(index.wrong[0]) if len(index.wrong) == 1 else css_stripes(index.wrong, 45)
    return [*named, LegendItem("wrong", wrong), LegendItem("void, not counted", css_stripes(void, 135))]


def css_stripes(colours: Sequence[Sequence[int]], angle: int) -> str:
    first, second = (as_css(colour) for colour in colours)
    return f"repeating-linear-gradient({angle}deg, {first} 0 3px, {second} 3px 6px)"


def as_css(colour: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"


def embed_image(image: ShownImage, folder: ComparisonFolder) -> dict[str, Any]:
    """A validation image and its pictures as the template takes them."""
    rows = [
        {
            "name": name,
            "miou": f"{100 * image.miou[name]:.1f}" if name in image.miou else "-",
            "predicted": data_url(folder, pictures.predicted),
            "wrong": data_url(folder, pictures.wrong),
        }
        for name, pictures in image.files.rows.items()
    ]
    return {
        "name": image.name,
        "worst": image.worst,
        "image": data_url(folder, image.files.image),
        "truth": data_url(folder, image.files.truth),
        "rows": rows,
    }


def embed_pseudo_labels(pictures: PseudoLabelPictures, folder: ComparisonFolder) -> dict[str, Any] | None:
    """The unlabelled image and each row's pseudo-labels of it; None where no method makes any."""
    if not pictures.rows or pictures.image is None:
        return None
    rows = [
        (name, [{"step": picture.step, "src": data_url(folder, picture.file)} for picture in of_row])
        for name, of_row in pictures.rows.items()
    ]
    return {"image": data_url(folder, pictures.image), "rows": rows}


def data_url(folder: ComparisonFolder, name: str) -> str:
    """A picture of the comparison as a data URL. Raises UserError where it is missing, is no picture, or lies outside
    the folder of pictures."""
    file = folder.pictures / name
    media_type = MEDIA_TYPES.get(file.suffix)
    if media_type is None or Path(name).name != name or not file.is_file():
        raise UserError(f"{folder.picture_index} names '{brief(name)}', which is not a picture in its folder; {REMAKE}")
    return f"data:{media_type};base64,{base64.b64encode(file.read_bytes()).decode()}"
