"""The figures of a comparison as compare.json, .csv, .md and .tex, and on the screen."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.report.fairness import what_differs
from ssss_zoo.comparison.report.statistics import ENOUGH
from ssss_zoo.data.benchmarks.published_splits import UNKNOWN_LIST
from ssss_zoo.text import visible

MEANT = re.compile(r"[\\`*<>\[\]|~$&]|(?<![^\W_])_|_(?![^\W_])|^[#+-]")  # of Markdown; `_` within a word is itself
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first letters that make a spreadsheet reckon
LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "_&%#{}$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}", "*": "{*}"}
)

SHARES = {  # columns in percent: key of a row and what it is called
    "last": "mIoU, last",
    "best": "mIoU, best",
    "student": "student",
    "teacher": "teacher",
    "rare": "rare classes",
    "border_iou": "boundary IoU",
    "calibration_error": "ECE",
}


def write_tables(figures: Mapping[str, Any], folder: Path) -> None:
    """Write all four files, each whole."""
    write_text(folder / "compare.json", json.dumps(figures, indent=1))
    write_text(folder / "compare.csv", as_csv(figures))
    write_text(folder / "compare.md", as_markdown(figures))
    write_text(folder / "compare.tex", as_latex(figures))


# --- cells of a table -----------------------------------------------------------------------------------------------


def percent(spread: Mapping[str, Any] | None) -> str:
    """`31.42 ± 0.53`, or without a spread where there was one seed."""
    if not spread or spread["mean"] is None:
        return "-"
    mean = f"{100 * spread['mean']:.2f}"
    return mean if spread["std"] is None else f"{mean} ± {100 * spread['std']:.2f}"


def gain(change: Mapping[str, Any] | None) -> str:
    """`+1.20 [-0.31, +2.65]`, with a star where the interval leaves 0 out."""
    if not change:
        return "-"
    low, high = (f"{100 * change[side]:+.2f}" for side in ("low", "high"))
    return f"{100 * change['mean']:+.2f} [{low}, {high}]{' *' if change['sure'] else ''}"


def plain(spread: Mapping[str, Any] | None, scale: float = 1.0, digits: int = 0) -> str:
    return "-" if not spread or spread["mean"] is None else f"{spread['mean'] / scale:.{digits}f}"


def labels(row: Mapping[str, Any]) -> str:
    """`45 used, 99 right`, of the pseudo-labels, in percent; with the mean weight of those used where it is not 1."""
    found = row.get("pseudo_labels")
    if not found or found["used"]["mean"] is None:
        return "-"
    used, right = found["used"]["mean"], found["accuracy"]["mean"]
    weight = found["weight"]["mean"] / max(used, 1e-9)
    parts = [f"{100 * used:.0f} used", *([f"weight {weight:.2g}"] if weight < 0.995 else [])]
    return ", ".join(parts + ([f"{100 * right:.0f} right"] if right is not None else []))


GAINS = {  # differences in points: key of a row and what it is called
    "over_supervised": "over supervised",
    "rare_over_supervised": "rare, over supervised",
    "border_over_supervised": "boundary, over supervised",
    "to_best": "to the best",
}
HEADS = ["method", *SHARES.values(), *GAINS.values(), "pseudo-labels, %", "train s", "steps/s", "MiB"]


def line(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row under HEADS."""
    if not row["seeds"]:
        return [row["name"], *["-"] * (len(HEADS) - 1)]
    return [
        row["name"],
        *(percent(row[key]) for key in SHARES),
        *(gain(row[key]) for key in GAINS),
        labels(row),
        plain(row["train_seconds"]),
        plain(row["steps_per_second"], digits=2),
        plain(row["peak_memory_bytes"], 2**20),
    ]


def ranked(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows, the best first, those without a figure last."""
    return sorted(figures["rows"], key=lambda row: -(row["last"]["mean"] if row["seeds"] else -1))


def notes(figures: Mapping[str, Any]) -> list[str]:
    """What must be known to read the table."""
    seeds, several = ", ".join(map(str, figures["seeds"])), len(figures["seeds"]) > 1
    found = [
        f"{figures['headline']}; {'mean ± standard deviation over seeds' if several else 'seed'} {seeds}.",
        f"Differences are paired, with the {100 * figures['interval']:.0f} % interval of a bootstrap over validation "
        "images and seeds; a star where it leaves 0 out.",
    ]
    if len(figures["seeds"]) < ENOUGH:
        found.append(f"Fewer than {ENOUGH} seeds: the spread between runs is hardly known, so there are no stars.")
    lacking = [name for name in figures["classes"] if name not in figures.get("classes_in_mean", figures["classes"])]
    if lacking:
        counted, of = len(figures["classes"]) - len(lacking), len(figures["classes"])
        found.append(f"Means are over {counted} of {of} classes: no validation image shows {', '.join(lacking)}.")
    if figures["rare_classes"]:
        found.append(f"Rare classes: {', '.join(figures['rare_classes'])}.")
    strange = unknown_lists(figures["rows"])
    if strange:
        found.append(f"Split lists that are none of the field's: {', '.join(strange)}.")
    if figures["protocols_differ"]:
        found.append("NOT COMPARABLE, protocols differ: " + "; ".join(what_differs(figures["rows"])) + ".")
    if figures["first_weights_differ"]:
        found.append(f"NOT THE SAME START: other first weights in {', '.join(figures['first_weights_differ'])}.")
    found += [f"Failed: {one['row']}, seed {one['seed']}: {one['reason']}." for one in figures["failed"]]
    failed = {(one["row"], one["seed"]) for one in figures["failed"]}
    waiting = [f"{name} seed {seed}" for name, seed in figures["missing"] if (name, seed) not in failed]
    if waiting:
        found.append(f"Not there yet: {', '.join(waiting)}.")
    if figures["left_out"]:
        found.append(f"In the folder, and not named by the command: {', '.join(figures['left_out'])}.")
    return found


def unknown_lists(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lists of the runs, labelled, unlabelled and val, that no release has."""
    lists: Mapping[str, Any] = next((row["protocol"]["lists"] for row in rows if row["seeds"]), {})
    return [part for part, entry in lists.items() if entry["list"] == UNKNOWN_LIST]


# --- files ----------------------------------------------------------------------------------------------------------


def title(figures: Mapping[str, Any]) -> str:
    return f"{figures['dataset']}, split {figures['split']}"


def as_markdown(figures: Mapping[str, Any]) -> str:
    """All rows, the IoU of each class, and the notes."""
    rows = ranked(figures)
    classes = [
        ["class", *(as_plain(row["name"]) for row in rows if row["seeds"])],
        *(
            [as_plain(name), *(percent(row["iou"][name]) for row in rows if row["seeds"])]
            for name in figures["classes"]
        ),
    ]
    body = [[as_plain(name), *cells] for name, *cells in map(line, rows)]
    parts = [f"# {as_plain(title(figures))}", markdown_table([HEADS, *body])]
    parts += ["IoU of each class, %", markdown_table(classes), "\n".join(f"- {as_plain(n)}" for n in notes(figures))]
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def as_plain(text: str) -> str:
    """Text that Markdown shows as it stands: on one line, with a backslash before each letter that would mean
    something."""
    return MEANT.sub(r"\\\g<0>", visible(text))


def as_cell(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{visible(text)}" if text.startswith(FORMULA) else visible(text)


def as_csv(figures: Mapping[str, Any]) -> str:
    """A line a row, figures in percent as numbers: mean and std apart, every class a column."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    classes = figures["classes"]
    heads = [f"{key}_{part}" for key in SHARES for part in ("mean", "std")]
    gains = [f"{key}_{part}" for key in GAINS for part in ("mean", "low", "high")]
    costs = ["train_seconds", "steps_per_second", "peak_memory_bytes"]
    writer.writerow(
        ["method", "seeds", *heads, *gains, *costs, *(f"iou_{visible(name)}" for name in classes), "protocol_digest"]
    )
    for row in ranked(figures):
        if not row["seeds"]:
            writer.writerow([as_cell(row["name"]), 0])
            continue
        shares = [in_percent(row[key][part]) for key in SHARES for part in ("mean", "std")]
        writer.writerow(
            [
                as_cell(row["name"]),
                len(row["seeds"]),
                *shares,
                *(in_percent((row[key] or {}).get(part)) for key in GAINS for part in ("mean", "low", "high")),
                *(row[key]["mean"] for key in costs),
                *(in_percent(row["iou"][name]["mean"]) for name in classes),
                row["protocol"]["digest"],
            ]
        )
    return sink.getvalue()


def in_percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"


def as_latex(figures: Mapping[str, Any]) -> str:
    """A table for booktabs, the best mean in bold."""
    rows = [row for row in ranked(figures) if row["seeds"]]
    lines = [r"\begin{tabular}{lrrrr}", r"\toprule", r"method & mIoU, last & mIoU, best & over supervised & train s \\"]
    lines.append(r"\midrule")
    for index, row in enumerate(rows):
        last = percent(row["last"]).replace("±", r"$\pm$")
        cells = [escaped(row["name"]), rf"\textbf{{{last}}}" if index == 0 else last]
        cells += [
            percent(row["best"]).replace("±", r"$\pm$"),
            gain(row["over_supervised"]),
            plain(row["train_seconds"]),
        ]
        lines.append(" & ".join(cells) + r" \\")
    comments = [f"% {visible(note)}" for note in notes(figures)]
    return "\n".join([f"% {visible(title(figures))}", *comments, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it stands, at the beginning of a table's line too."""
    return visible(text).translate(LATEX)


def on_screen(figures: Mapping[str, Any]) -> Table:
    """The columns that decide, for a terminal."""
    table = Table(title=Text(visible(title(figures))), title_justify="left")
    heads = ["method", SHARES["last"], "over supervised", "train s", "MiB"]
    for head in heads:
        table.add_column(head, justify="left" if head == "method" else "right", overflow="fold")
    for row in ranked(figures):
        cells = dict(zip(HEADS, line(row), strict=True))
        table.add_row(*(Text(visible(cells[head])) for head in heads))
    return table
