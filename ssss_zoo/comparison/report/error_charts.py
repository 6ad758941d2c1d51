"""The charts of a row's errors: which classes it confuses, and how far its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ssss_zoo.comparison.report.charts import (
    CHART_WIDTH,
    INK_COLOUR,
    MAX_TICK_LENGTH,
    ROW_COLOURS,
    add_legend,
    as_svg,
    chart_name,
    legend_height,
    make_figure,
    row_style,
)
from ssss_zoo.comparison.report.row_errors import RowErrors

MATRIX_CLASSES_MAX = 40  # above it the names beside a matrix could not be read (our choice)
NUMBERED_CLASSES_MAX = 12  # up to which each cell says its percentage (our choice)
CELL_OPACITY_MAX = 0.7  # so that a number on it can be read, on a light and on a dark page (our choice)
NUMBER_MIN = 0.005  # share from which on a cell says its percentage: a smaller one would be 0
BIN_SHARE_MIN = 1e-4  # of all pixels: a bin with fewer says nothing about accuracy (our choice)


def plot_confusion(errors: RowErrors, classes: Sequence[str], order: Sequence[int]) -> str:
    """The confusion matrix of a row, each true class's pixels as 100 %. order: the places of the classes from top to
    bottom. The page shines through, so that it fits a light and a dark one."""
    from matplotlib.colors import to_rgb

    shares = errors.confusion_shares()[np.ix_(order, order)]
    count = len(order)
    figure, (axes,) = make_figure(CHART_WIDTH + 0.2)
    cells = np.empty((count, count, 4))
    cells[..., :3] = to_rgb(ROW_COLOURS[0])
    cells[..., 3] = CELL_OPACITY_MAX * np.nan_to_num(shares)
    axes.imshow(cells, interpolation="none")
    if count <= NUMBERED_CLASSES_MAX:
        for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= NUMBER_MIN), strict=True):
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=INK_COLOUR)
    names = [chart_name(classes[place], MAX_TICK_LENGTH) for place in order]
    size = 9 if count <= NUMBERED_CLASSES_MAX else 6
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[["top", "right"]].set_visible(True)
    for spine in axes.spines.values():
        spine.set_color(INK_COLOUR)
    return as_svg(figure, "Confusion matrix")


def plot_calibration(rows: Mapping[str, RowErrors]) -> str:
    """Accuracy against confidence, bin by bin, above the share of pixels in each bin (Guo et al., ICML 2017)."""
    figure, axes = make_figure(5.0 + legend_height(rows), 2, heights=(3, 1))
    accuracy_axes, share_axes = axes
    accuracy_axes.plot([0, 100], [0, 100], color=INK_COLOUR, linewidth=0.8)
    for index, (name, errors) in enumerate(rows.items()):
        pixels, confidence, right = errors.bins.T
        kept = pixels > BIN_SHARE_MIN * pixels.sum()
        centre = 100 * confidence[kept] / pixels[kept]
        style = row_style(index) | {"markersize": 4}
        accuracy_axes.plot(centre, 100 * right[kept] / pixels[kept], label=chart_name(name), **style)
        share_axes.plot(centre, 100 * pixels[kept] / pixels.sum(), **style | {"marker": ""})
    accuracy_axes.set(ylabel="right pixels, %", xlim=(0, 102), ylim=(0, 102))
    share_axes.set(xlabel="confidence, %", ylabel="of all, %", xlim=(0, 102), ylim=(0, None))
    add_legend(figure, accuracy_axes)
    return as_svg(figure, "Calibration: the share of right pixels against confidence")
