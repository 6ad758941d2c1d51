"""The charts of a report, as SVG text: learning curves, classes, cost. Colours are those of Okabe and Ito (2008), which
people with colour blindness tell apart; markers and dashes say the same once more."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any
from warnings import catch_warnings, filterwarnings

from ssss_zoo.text import brief

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
WIDEST = 16  # inches of a chart
LONGEST = 40  # characters of a name (our choice)


def style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the index-th row, the same in every chart."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": dash}


def figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of inches and its axes; text stays text."""
    made, axes = figures(width, height, 1)
    return made, axes[0]


def figures(width: float, height: float, count: int) -> tuple[Any, list[Any]]:
    """As `figure`, with `count` axes side by side."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "ssss-zoo"  # the same figure gives the same file
    matplotlib.rcParams["text.parse_math"] = False  # names are text, `$` and all
    made = Figure(figsize=(width, height), layout="constrained")
    axes = [made.add_subplot(1, count, number + 1) for number in range(count)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def chart_name(name: str) -> str:
    """A name as a chart shows it: text, of a length, and never with `_` first, which a legend leaves out."""
    short = brief(name, LONGEST)
    return f" {short}" if short.startswith("_") else short


def add_legend(made: Any, axes: Any = None) -> None:
    """Right of the axes, where it hides nothing. axes: those whose rows it names, where there are several."""
    handles, names = (axes or made.axes[0]).get_legend_handles_labels()
    made.legend(handles, names, loc="outside right upper", frameon=False, fontsize="small")


def as_svg(made: Any, title: str) -> str:
    """The figure as an element that a reader's software can name."""
    sink = io.StringIO()
    with catch_warnings():
        filterwarnings("ignore", "Glyph")  # the browser's font has what matplotlib's lacks: text stays text
        made.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def learning_curves(curves: Mapping[str, Sequence[Mapping[int, float]]]) -> str:
    """mIoU against steps, mean and spread over seeds. curves: of each row, mIoU in [0, 1] by step for each seed."""
    made, axes = figure(9, 4)
    for index, (name, seeds) in enumerate(curves.items()):
        steps = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
        if not steps:
            continue
        values = [[100 * seed[step] for seed in seeds] for step in steps]
        means = [fmean(of_step) for of_step in values]
        axes.plot(steps, means, label=chart_name(name), markersize=5, **style(index))
        if len(seeds) > 1:
            apart = [stdev(of_step) for of_step in values]
            low, high = ([mean + sign * gap for mean, gap in zip(means, apart, strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=style(index)["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel="mIoU on val, %")
    add_legend(made)
    return as_svg(made, "Learning curves: mIoU against steps")


def class_bars(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """IoU of each class and row, in the order of `classes`, the most frequent one first."""
    made, axes = figure(min(WIDEST, max(9, 0.28 * len(classes) * max(len(rows), 2))), 4)
    wide = 0.8 / max(len(rows), 1)
    for index, row in enumerate(rows):
        spreads = [row["iou"][name] for name in classes]
        places = [at - 0.4 + wide * (index + 0.5) for at in range(len(classes))]
        heights = [100 * (spread["mean"] or 0) for spread in spreads]
        gaps = [100 * (spread["std"] or 0) for spread in spreads]
        looks = {"color": style(index)["color"], "error_kw": {"linewidth": 0.8, "alpha": 0.6}}
        axes.bar(places, heights, wide, yerr=gaps if any(gaps) else None, label=chart_name(row["name"]), **looks)
    axes.set_xticks(range(len(classes)), list(map(chart_name, classes)), rotation=40, ha="right")
    axes.set_ylabel("IoU, %")
    add_legend(made)
    return as_svg(made, "IoU of each class, the most frequent first")


def labels_over_time(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share of the pixels that teach, and how many of those are right, against steps; means over seeds."""
    made, (used, right) = figures(10, 4, 2)
    for index, row in enumerate(rows):
        points = row["pseudo_labels_over_time"]
        marks = style(index) | {"markersize": 4}
        for axes, key in ((used, "used"), (right, "accuracy")):
            known = [(point["step"], 100 * point[key]) for point in points if point[key] is not None]
            if known:
                axes.plot(*zip(*known, strict=True), label=chart_name(row["name"]), **marks)
    used.set(xlabel="step", ylabel="pixels used, %", ylim=(-2, 102))
    right.set(xlabel="step", ylabel="of those right, %", ylim=(-2, 102))
    add_legend(made, used)
    return as_svg(made, "Pseudo-labels: share of pixels used, and share of those that are right, against steps")


def cost(rows: Sequence[Mapping[str, Any]]) -> str:
    """mIoU against training time, with the spread of both."""
    made, axes = figure(9, 4)
    for index, row in enumerate(rows):
        marks = style(index) | {"linestyle": "none"}
        axes.errorbar(
            row["train_seconds"]["mean"],
            100 * row["last"]["mean"],
            xerr=row["train_seconds"]["std"],
            yerr=100 * (row["last"]["std"] or 0),
            label=chart_name(row["name"]),
            markersize=8,
            capsize=2,
            **marks,
        )
    axes.set(xlabel="training time of a run, s", ylabel="mIoU on val, %")
    axes.set_xlim(left=0)
    add_legend(made)
    return as_svg(made, "mIoU against training time")
