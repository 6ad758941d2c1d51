"""report.html of a comparison: one file, made from the files in its folder alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.kept import INDEX, PICTURES, WRONG, Drawings, Pictures, read_figures, read_pictures_index
from ssss_zoo.comparison.report.charts import class_bars, cost, labels_over_time, learning_curves
from ssss_zoo.comparison.report.per_image_scores import ANEW, read_scores
from ssss_zoo.comparison.report.published import beside, orders
from ssss_zoo.comparison.report.statistics import BASELINE
from ssss_zoo.comparison.report.tables import HEADS, gain, line, notes, percent, ranked, title
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief, visible
from ssss_zoo.train.history import read_history

TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def write_report(folder: Path) -> Path:
    """Make report.html in the folder of a comparison; returns it. Raises UserError where there is none, or what it is
    made of is damaged."""
    from jinja2 import Environment

    figures = read_figures(folder)
    template = files("ssss_zoo.comparison.report").joinpath("report.html.j2").read_text("utf-8")
    page = Environment(autoescape=True, finalize=shown).from_string(template)
    write_text(folder / "report.html", page.render(content(figures, folder)))
    return folder / "report.html"


def shown(value: Any) -> Any:
    """Text of other people's with its control characters as escapes; what is HTML already stays."""
    return visible(value) if type(value) is str else value


def content(figures: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the template asks for."""
    from markupsafe import escape

    rows = ranked(figures)
    index, published = read_pictures_index(folder), beside(figures)
    pictures = read_pictures(folder, index) if index else []
    return {
        "title": f"Methods side by side on {title(figures)}",
        "headline": headline(figures),
        "notes": notes(figures),
        "heads": HEADS,
        "table": [line(row) for row in rows],
        "charts": charts(figures, folder),
        "pictures": pictures,
        "legend": legend(figures["classes"], index) if index else [],
        "rows": rows,
        "classes": class_tables(figures, rows, folder),
        "diary": read_diary(folder, index["diary"]) if index else None,
        "published": published,
        "ours": {row["name"]: {key: percent(row[key]) for key in ("last", "best")} for row in rows if row["seeds"]},
        "orders": orders(figures, published),
        "settings": figures["settings_differ"],
        "words": " ".join(figures["words"]),
        "environment": escape(json.dumps(figures["environment"], indent=1)),
    }


def headline(figures: Mapping[str, Any]) -> str:
    """The result in a sentence, no stronger than the figures."""
    rows = [row for row in ranked(figures) if row["seeds"]]
    if not rows:
        return "No run is finished yet."
    best = rows[0]
    said = f"{best['name']} comes first with {percent(best['last'])} mIoU"
    if best["name"] == BASELINE:
        return f"{said}: on these data, with this budget, no method beats the labels alone."
    change = best["over_supervised"]
    if change is None:
        return f"{said}; there is no supervised row to measure it by."
    sure = "more than chance explains" if change["sure"] else "which may be chance"
    return f"{said}, {gain(change)} over the labels alone, {sure}."


def charts(figures: Mapping[str, Any], folder: Path) -> list[tuple[str, str, Any]]:
    """Name, a sentence, and SVG of each chart; none without figures."""
    from markupsafe import Markup

    rows = [row for row in ranked(figures) if row["seeds"]]
    if not rows:
        return []
    often = by_frequency(rows[0], figures["classes"], folder)
    labels = "Of the unlabelled images of the logged steps; how many are right is known where hidden labels are."
    curves = {row["name"]: [curve(run_folder(folder, place)) for place in row["folders"].values()] for row in rows}
    return [
        ("Learning curves", "Mean and standard deviation over seeds.", Markup(learning_curves(curves))),
        ("Classes", "The most frequent class of val first.", Markup(class_bars(rows, often))),
        ("Accuracy and cost", "Up and to the left is better.", Markup(cost(rows))),
        *([("Pseudo-labels", labels, Markup(labels_over_time(rows)))] if any(map(has_labels, rows)) else []),
    ]


def has_labels(row: Mapping[str, Any]) -> bool:
    return bool(row["pseudo_labels_over_time"])


def run_folder(folder: Path, place: str) -> Path:
    """Where a run of a comparison lies. Earlier versions wrote the whole path, which moves do not keep up with."""
    return folder.joinpath(*(part for part in Path(place).parts[-3:] if part != ".."))


def curve(folder: Path) -> dict[int, float]:
    """mIoU by step of a run, of the network that it reports."""
    return {line["step"]: line["val"]["miou"] for line in read_history(folder / "history.jsonl") if "val" in line}


def by_frequency(row: Mapping[str, Any], classes: Sequence[str], folder: Path) -> list[str]:
    """The classes, those with the most true pixels in val first. Raises UserError where the scores are damaged."""
    run = run_folder(folder, next(iter(row["folders"].values())))
    try:
        true = read_scores(run, classes=len(classes)).counts[:, 1].sum(axis=0)
    except UserError as error:
        raise UserError(f"{error}; {ANEW}") from None
    return [classes[index] for index in sorted(range(len(classes)), key=lambda index: -int(true[index]))]


def class_tables(
    figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Tables with a class a column, the most frequent first: title, heads, and a line a row."""
    known = [row for row in rows if row["seeds"]]
    if not known:
        return []
    often = by_frequency(known[0], figures["classes"], folder)
    ious = [[row["name"], *(percent(row["iou"][name]) for name in often)] for row in known]
    tables = [("IoU of each class, %", ious)]
    labels = [
        [row["name"], *(share_and_accuracy(row["pseudo_label_classes"][name]) for name in often)]
        for row in known
        if row["pseudo_label_classes"]
    ]
    if labels:
        title = (
            "Pseudo-labels of each class towards the end: share of the used pixels, and how many of those are right, %"
        )
        tables.append((title, labels))
    return [(title, ["method", *often], lines) for title, lines in tables]


def share_and_accuracy(of_class: Mapping[str, float | None]) -> str:
    share, right = of_class["share"], of_class["accuracy"]
    text = "-" if share is None else f"{100 * share:.1f}"
    return text if right is None else f"{text}, {100 * right:.0f}"


def legend(classes: Sequence[str], index: Pictures) -> list[tuple[str, str]]:
    """Name and CSS background of each class, of what is wrong, and of void, which an index of an older version draws in
    one grey."""
    named = [(name, css(colour)) for name, colour in zip(classes, index["colours"], strict=False)]
    first, second = map(css, index.get("void", [(150, 150, 150)] * 2))
    squares = f"repeating-conic-gradient({first} 0 25%, {second} 0 50%) 0 0 / 0.45em 0.45em"
    return [*named, ("wrong", css(WRONG)), ("void", squares)]


def css(colour: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"


def read_pictures(folder: Path, index: Pictures) -> list[dict[str, Any]]:
    """The pictures of the folder as the template wants them, embedded."""
    return [
        {
            "name": entry["name"],
            "worst": entry["worst"],
            "image": embedded(folder, entry["files"]["image"]),
            "truth": embedded(folder, entry["files"]["truth"]),
            "rows": [
                {"name": name, "miou": f"{100 * entry['miou'][name]:.1f}" if name in entry["miou"] else "-"}
                | {
                    kind: embedded(folder, file)
                    for kind, file in (("predicted", of["predicted"]), ("wrong", of["wrong"]))
                }
                for name, of in entry["files"]["rows"].items()
            ],
        }
        for entry in index["images"]
    ]


def read_diary(folder: Path, drawings: Drawings) -> dict[str, Any] | None:
    """The unlabelled image and each row's pseudo-labels of it, embedded; None where no method makes any."""
    if not drawings["rows"] or drawings["image"] is None:
        return None
    rows = [
        (name, [{"step": entry["step"], "src": embedded(folder, entry["file"])} for entry in of_row])
        for name, of_row in drawings["rows"].items()
    ]
    return {"image": embedded(folder, drawings["image"]), "rows": rows}


def embedded(folder: Path, name: str) -> str:
    """A picture of the comparison's own as a data URL. Raises UserError where it is not there, or not such a one."""
    file = folder / PICTURES / name
    kind = TYPES.get(file.suffix)
    if kind is None or Path(name).name != name or not file.is_file():
        raise UserError(f"{folder / PICTURES / INDEX} names '{brief(name)}', which is no picture beside it; {ANEW}")
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
