"""The charts of a report, as SVG text: differences, learning curves, classes, cost.

Colours are those of Okabe and Ito (2008), which people with colour blindness can tell apart; markers and dashes differ
as well. A chart is as narrow as it can be, with its legend below, so that it can be read on a phone. Its text has the
colour of the page, light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from statistics import fmean, stdev
from typing import Any
from warnings import catch_warnings, filterwarnings

from ssss_zoo.comparison.records import RowStatistics
from ssss_zoo.comparison.run_files import LoggedLoss
from ssss_zoo.evaluation.figures import evenly_spaced
from ssss_zoo.text import brief

ROW_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A7A7A", "#999933")
ROW_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
ROW_DASHES = ("-", "--", "-.", ":")
CHART_WIDTH = 5.2  # inches: 10-point text is 10 pixels high where a phone shows it 390 pixels wide
INK_COLOUR = "#010203"  # of text and axes, which `as_svg` replaces by the colour of the page's text
TRAINING_POINTS_MAX = 60  # of each training curve: more would make the page heavy (our choice)
CURVE_MARKERS_MAX = 12  # of each curve of many points (our choice)
SVG_BALLAST = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|(?<=\n) +", re.DOTALL)  # shows nothing
MAX_NAME_LENGTH = 40  # characters in a legend (our choice)
MAX_TICK_LENGTH = 26  # characters beside an axis, which has to leave room for the chart (our choice)


def row_style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the index-th row, the same in every chart."""
    dash = ROW_DASHES[index // len(ROW_COLOURS) % len(ROW_DASHES)]
    return {
        "color": ROW_COLOURS[index % len(ROW_COLOURS)],
        "marker": ROW_MARKERS[index % len(ROW_MARKERS)],
        "linestyle": dash,
    }


def make_figure(height: float, count: int = 1, heights: Sequence[float] | None = None) -> tuple[Any, list[Any]]:
    """An empty figure, its height in inches, and its axes, `count` of them one below the other; text stays text.
    heights: of the axes, relative to each other."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans"]  # every text of an SVG names all of this list
    matplotlib.rcParams["svg.hashsalt"] = "ssss-zoo"  # the same figure gives the same file
    matplotlib.rcParams["text.parse_math"] = False  # a `$` in a name is a `$`
    figure = Figure(figsize=(CHART_WIDTH, height), layout="constrained")
    grid = figure.add_gridspec(count, 1, height_ratios=heights)
    axes = [figure.add_subplot(grid[number]) for number in range(count)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(INK_COLOUR)
        one.tick_params(colors=INK_COLOUR)
        one.xaxis.label.set_color(INK_COLOUR)
        one.yaxis.label.set_color(INK_COLOUR)
    return figure, axes


def chart_name(name: str, most: int = MAX_NAME_LENGTH) -> str:
    """A name as a chart shows it: short, and with a blank before a leading `_`, which a legend would leave out."""
    short = brief(name, most)
    return f" {short}" if short.startswith("_") else short


def add_legend(figure: Any, axes: Any) -> None:
    """Name the rows of the axes below them, where the legend hides nothing and makes no chart wider."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower left",
        ncols=legend_columns(names),
        frameon=False,
        fontsize="small",
        labelcolor=INK_COLOUR,
    )


def legend_columns(names: Sequence[str]) -> int:
    return 1 if any(len(name) > MAX_NAME_LENGTH // 2 for name in names) else 3


def legend_height(rows: Iterable[str]) -> float:
    """Inches that the legend of these rows takes from a chart."""
    names = [chart_name(name) for name in rows]
    return 0.3 + 0.19 * ceil(len(names) / legend_columns(names))


def as_svg(figure: Any, title: str) -> str:
    """The figure as an SVG element with a title for screen readers."""
    sink = io.StringIO()
    with catch_warnings():
        filterwarnings("ignore", "Glyph")  # the browser's font has the letters that matplotlib's lacks
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = SVG_BALLAST.sub("", sink.getvalue().replace(INK_COLOUR, "currentColor"))
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def row_heights(count: int) -> float:
    """Inches of a chart with a line for each of `count` things."""
    return 0.8 + 0.28 * count


def plot_differences(rows: Mapping[str, RowStatistics]) -> str:
    """A point and an interval for the difference of each row to the supervised one, in points of mIoU."""
    shown = [(index, name, row.over_supervised) for index, (name, row) in enumerate(rows.items())]
    compared = [(index, name, change) for index, name, change in shown if change]
    figure, (axes,) = make_figure(row_heights(len(compared)))
    axes.axvline(0, color=INK_COLOUR, linewidth=0.8)
    for place, (index, _, change) in enumerate(compared):
        mean, low, high = (100 * value for value in (change.mean, change.low, change.high))
        style = row_style(index) | {"linestyle": "none"}
        axes.errorbar(mean, -place, xerr=[[mean - low], [high - mean]], markersize=7, capsize=3, **style)
    names = [f"{chart_name(name, MAX_TICK_LENGTH)}{' *' if change.significant else ''}" for _, name, change in compared]
    axes.set_yticks([-place for place in range(len(compared))], names)
    axes.set_ylim(-len(compared) + 0.4, 0.6)
    axes.set_xlabel("mIoU over supervised, points")
    return as_svg(figure, "Differences in mIoU to supervised, with their intervals")


def plot_learning_curves(curves: Mapping[str, Sequence[Mapping[int, float]]]) -> str:
    """mIoU against steps, mean and standard deviation over seeds. curves: by row, for each seed mIoU in [0, 1] by
    step."""
    figure, (axes,) = make_figure(3.2 + legend_height(curves))
    for index, (name, seeds) in enumerate(curves.items()):
        steps = common_steps(seeds)
        if not steps:
            continue
        values = [[100 * seed[step] for seed in seeds] for step in steps]
        means = [fmean(of_step) for of_step in values]
        axes.plot(steps, means, label=chart_name(name), markersize=5, **row_style(index))
        if len(seeds) > 1:
            deviations = [stdev(of_step) for of_step in values]
            low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
            high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
            axes.fill_between(steps, low, high, color=row_style(index)["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel="mIoU on val, %")
    add_legend(figure, axes)
    return as_svg(figure, "Learning curves: mIoU against steps")


def plot_training(curves: Mapping[str, Sequence[Mapping[int, LoggedLoss]]]) -> str:
    """Losses and learning rate against steps, means over seeds. curves: by row, for each seed what it logged, by
    step."""
    shown = {name: thinned_means(seeds) for name, seeds in curves.items()}
    others = any(point.other for points in shown.values() for point in points.values())
    heights = (2, 2, 1) if others else (2, 1)
    figure, axes = make_figure(sum(heights) + legend_height(curves), len(heights), heights)
    for index, (name, points) in enumerate(shown.items()):
        style = row_style(index) | {"markersize": 3, "linewidth": 1.2}
        for one, kind in zip(axes, ("supervised", *(("other",) if others else ()), "rate"), strict=True):
            known = {step: getattr(point, kind) for step, point in points.items()}
            if kind != "other" or any(known.values()):
                every = ceil(len(known) / CURVE_MARKERS_MAX) or 1
                one.plot([*known], [*known.values()], label=chart_name(name), markevery=every, **style)
    labels = ("supervised loss", *(("all other losses",) if others else ()), "learning rate")
    for one, label in zip(axes, labels, strict=True):
        one.set(ylabel=label, ylim=(0, None))
    axes[-1].set(xlabel="step")
    add_legend(figure, axes[0])
    return as_svg(figure, "Losses and learning rate against steps")


def thinned_means(seeds: Sequence[Mapping[int, LoggedLoss]]) -> dict[int, LoggedLoss]:
    """The means over seeds of what all of them logged, at TRAINING_POINTS_MAX steps at most."""
    steps = evenly_spaced(common_steps(seeds), TRAINING_POINTS_MAX)
    return {
        step: LoggedLoss(
            supervised=fmean(seed[step].supervised for seed in seeds),
            other=fmean(seed[step].other for seed in seeds),
            rate=fmean(seed[step].rate for seed in seeds),
        )
        for step in steps
    }


def common_steps(seeds: Sequence[Mapping[int, Any]]) -> list[int]:
    """The steps of which every seed of a row has something."""
    return sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []


def plot_class_bars(rows: Mapping[str, RowStatistics], classes: Sequence[str]) -> str:
    """IoU of each class and row, in the order of `classes`, the most frequent one on top."""
    figure, (axes,) = make_figure(0.8 + len(classes) * max(0.3, 0.12 * len(rows)) + legend_height(rows))
    thickness = 0.8 / max(len(rows), 1)
    for index, (name, row) in enumerate(rows.items()):
        ious = [row.iou[of_class] for of_class in classes]
        places = [at - 0.4 + thickness * (index + 0.5) for at in range(len(classes))]
        deviations = [100 * (iou.std or 0) for iou in ious]
        axes.barh(
            places,
            [100 * (iou.mean or 0) for iou in ious],
            thickness,
            xerr=deviations if any(deviations) else None,
            label=chart_name(name),
            color=row_style(index)["color"],
            error_kw={"linewidth": 0.8, "alpha": 0.6, "ecolor": INK_COLOUR},
        )
    axes.set_yticks(range(len(classes)), [chart_name(name, MAX_TICK_LENGTH) for name in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("IoU, %")
    add_legend(figure, axes)
    return as_svg(figure, "IoU of each class, the most frequent first")


def plot_pseudo_labels(rows: Mapping[str, RowStatistics]) -> str:
    """The share of pixels used, and the share of those that are right, against steps; means over seeds."""
    figure, (used_axes, right_axes) = make_figure(5.2 + legend_height(rows), 2)
    for index, (name, row) in enumerate(rows.items()):
        style = row_style(index) | {"markersize": 4}
        points = evenly_spaced(row.pseudo_labels_over_time, TRAINING_POINTS_MAX)
        used = [(point.step, 100 * point.used) for point in points if point.used is not None]
        right = [(point.step, 100 * point.accuracy) for point in points if point.accuracy is not None]
        for axes, known in ((used_axes, used), (right_axes, right)):
            if known:
                every = ceil(len(known) / CURVE_MARKERS_MAX)
                axes.plot(*zip(*known, strict=True), label=chart_name(name), markevery=every, **style)
    used_axes.set(ylabel="pixels used, %", ylim=(-2, 102))
    right_axes.set(xlabel="step", ylabel="of those right, %", ylim=(-2, 102))
    add_legend(figure, used_axes)
    return as_svg(figure, "Pseudo-labels: share of pixels used, and share of those that are right, against steps")


def plot_cost(rows: Mapping[str, RowStatistics]) -> str:
    """mIoU against training time, with the standard deviation of both."""
    figure, (axes,) = make_figure(3 + legend_height(rows))
    for index, (name, row) in enumerate(rows.items()):
        axes.errorbar(
            row.train_seconds.mean,
            100 * (row.last.mean or 0),
            xerr=row.train_seconds.std,
            yerr=100 * (row.last.std or 0),
            label=chart_name(name),
            markersize=8,
            capsize=2,
            **(row_style(index) | {"linestyle": "none"}),
        )
    axes.set(xlabel="training time of a run, s", ylabel="mIoU on val, %")
    axes.set_xlim(left=0)
    add_legend(figure, axes)
    return as_svg(figure, "mIoU against training time")
