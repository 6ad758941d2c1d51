"""report.html of a comparison: one file, made from the files in its folder alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssss_zoo.checkpoint import write_text
from ssss_zoo.compare.charts import class_bars, cost, learning_curves
from ssss_zoo.compare.pictures import FOLDER, INDEX
from ssss_zoo.compare.results import BASELINE
from ssss_zoo.compare.tables import HEADS, gain, line, notes, percent, ranked, title
from ssss_zoo.errors import UserError
from ssss_zoo.tracking import read_lines

TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def write_report(folder: Path) -> Path:
    """Make report.html in the folder of a comparison; returns it. Raises UserError where there is no compare.json."""
    from jinja2 import Environment

    try:
        figures = json.loads((folder / "compare.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{folder} holds no comparison (no compare.json); give the folder of `ssss compare`") from None
    template = files("ssss_zoo.compare").joinpath("report.html.j2").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template)
    write_text(folder / "report.html", page.render(content(figures, folder)))
    return folder / "report.html"


def content(figures: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the template asks for."""
    rows = ranked(figures)
    pictures = read_pictures(folder)
    return {
        "title": f"Methods side by side on {title(figures)}",
        "headline": headline(figures),
        "notes": notes(figures),
        "heads": HEADS,
        "table": [line(row) for row in rows],
        "charts": charts(figures, folder),
        "pictures": pictures,
        "legend": legend(figures, folder) if pictures else [],
        "rows": rows,
        "words": " ".join(figures["words"]),
        "environment": json.dumps(figures["environment"], indent=1),
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
    often = by_frequency(rows[0], figures["classes"])
    curves = {row["name"]: [curve(Path(place)) for place in row["folders"].values()] for row in rows}
    return [
        ("Learning curves", "Mean and standard deviation over seeds.", Markup(learning_curves(curves))),
        ("Classes", "The most frequent class of val first.", Markup(class_bars(rows, often))),
        ("Accuracy and cost", "Up and to the left is better.", Markup(cost(rows))),
    ]


def curve(folder: Path) -> dict[int, float]:
    """mIoU by step of a run, of the network that it reports."""
    return {line["step"]: line["val"]["miou"] for line in read_lines(folder / "history.jsonl") if "val" in line}


def by_frequency(row: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """The classes, those with the most true pixels in val first."""
    from ssss_zoo.compare.scores import read_scores

    true = read_scores(Path(next(iter(row["folders"].values())))).counts[:, 1].sum(axis=0)
    return [classes[index] for index in sorted(range(len(classes)), key=lambda index: -int(true[index]))]


def legend(figures: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Name and CSS colour of each class."""
    colours = json.loads((folder / FOLDER / INDEX).read_text())["colours"]
    return [
        (name, f"rgb({', '.join(map(str, colour))})") for name, colour in zip(figures["classes"], colours, strict=True)
    ]


def read_pictures(folder: Path) -> list[dict[str, Any]]:
    """The pictures of the folder as the template wants them, embedded."""
    try:
        entries = json.loads((folder / FOLDER / INDEX).read_text())["images"]
    except (OSError, ValueError, KeyError):
        return []
    return [
        {
            "name": entry["name"],
            "worst": entry["worst"],
            "image": embedded(folder, entry["files"]["image"]),
            "truth": embedded(folder, entry["files"]["truth"]),
            "rows": [
                {"name": name, "miou": f"{100 * entry['miou'][name]:.1f}"}
                | {kind: embedded(folder, file) for kind, file in of_row.items()}
                for name, of_row in entry["files"]["rows"].items()
            ],
        }
        for entry in entries
    ]


def embedded(folder: Path, name: str) -> str:
    """A picture as a data URL."""
    file = folder / FOLDER / name
    return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
