"""Published figures beside ours, with the reasons why the two do not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ssss_zoo.config.layers import RELEASE

ELSEWHERE = ("voc", "183", "resnet101")  # shown for data sets that nobody published on: most methods have it
SOURCES = {
    "own": "the authors' repository",
    "log": "released log",
    "other": "printed by other authors",
    "page": "project page",
}


@cache
def entries() -> tuple[Mapping[str, Any], ...]:
    """Those of published.yaml."""
    table = yaml.safe_load(files("ssss_zoo.comparison.report").joinpath("published.yaml").read_text("utf-8"))
    return tuple(table["entries"])


def beside(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each published figure of a row's method on the comparison's data set and split, or on ELSEWHERE where
    nobody has published there: row, miou (in percent), encoder, where, source, note, of how many evaluations each best
    was chosen, and reasons why the two do not compare."""
    dataset, split, encoder = figures["dataset"], figures["split"], None
    if not any(entry["dataset"] == dataset and split in entry["miou"] for entry in entries()):
        dataset, split, encoder = ELSEWHERE
    lines = []
    for row in figures["rows"]:
        for entry in entries() if row["seeds"] else ():
            fits = entry["dataset"] == dataset and split in entry["miou"] and encoder in (None, entry["encoder"])
            if fits and entry["method"] == method_of(row):
                lines.append(
                    {
                        "row": row["name"],
                        "miou": entry["miou"][split],
                        "encoder": entry["encoder"],
                        "where": f"{dataset} {split}, {entry['encoder']}, crop {entry.get('crop', 'not stated')}",
                        "source": SOURCES[entry["source"]],
                        "note": entry.get("note", ""),
                        "chosen": f"best of {entry.get('of', 'an unknown number')} there, of {best_of(row)} here",
                        "reasons": reasons(entry, split, row, figures),
                    }
                )
    return lines


def method_of(row: Mapping[str, Any]) -> str:
    method = next(word.partition("=")[2] for word in row["words"] if word.startswith("method="))
    return method.removesuffix(RELEASE)


def best_of(row: Mapping[str, Any]) -> str:
    """How many evaluations a row's best was chosen from: a number, or the least and the most of its seeds; runs of
    older versions do not say it."""
    known = sorted({number for number in row.get("best_of", []) if number})
    return " to ".join(map(str, known[:: max(1, len(known) - 1)])) or "an unknown number"


def bare(encoder: str) -> str:
    """An encoder without its stem and its weights' tag: tables of papers say `resnet101` of every kind."""
    return encoder.partition(".")[0].removesuffix("_deep_stem")


def reasons(entry: Mapping[str, Any], split: str, row: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """Why a published figure and a row's do not compare; none where all that we know of is the same."""
    settings: Mapping[str, str] = row["settings"]
    found = []
    if entry["dataset"] != figures["dataset"]:
        found.append("another data set")
    elif not row["protocol"]["name"]:
        found.append("lists, crop or scoring of no known protocol here")
    if bare(entry["encoder"]) != bare(settings["model.encoder"]):
        found.append(f"encoder {settings['model.encoder']} here")
    if settings["model.weights"] in ("none", "None"):
        found.append("encoder not pre-trained here")
    side = entry.get("crop")
    if settings["train.crop"] not in (f"[{side}]", f"[{side},{side}]"):
        found.append(f"crop {settings['train.crop']} here" + ("" if "crop" in entry else ", the published one unknown"))
    if len(row["words"]) > 1:
        found.append(f"changed here: {' '.join(row['words'][1:])}")
    budget = [word for word in figures["words"] if word.startswith(("train.steps=", "train.epochs=", "train.batch="))]
    if budget or figures["budget"] == "time":
        found.append(f"budget of our choice here ({' '.join(budget) or 'equal time'})")
    if entry["source"] == "page":
        found.append("the published one was never checked against a paper")
    return found


@dataclass(frozen=True)
class Orders:
    """The rows that have a published figure with one encoder, best first: by ours, and by what is published."""

    encoder: str
    ours: list[str]
    published: list[str]


def orders(figures: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Orders | None:
    """With the encoder that most rows have figures of: those of two encoders have no order. None for fewer than two
    rows."""
    of_encoder: dict[str, dict[str, float]] = {}
    for line in lines:
        theirs = of_encoder.setdefault(line["encoder"], {})
        theirs[line["row"]] = max(line["miou"], theirs.get(line["row"], 0.0))
    encoder = max(of_encoder, key=lambda name: len(of_encoder[name]), default=None)
    if encoder is None or len(of_encoder[encoder]) < 2:
        return None
    ours = {row["name"]: row["last"]["mean"] for row in figures["rows"] if row["seeds"]}
    theirs = of_encoder[encoder]
    best_first = [sorted(theirs, key=lambda name: -values[name]) for values in (ours, theirs)]
    return Orders(encoder, *best_first)
