"""Which charts a report has, with their titles and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import RowStatistics
from ssss_zoo.comparison.report.charts import (
    common_steps,
    plot_class_bars,
    plot_cost,
    plot_differences,
    plot_learning_curves,
    plot_pseudo_labels,
    plot_training,
)
from ssss_zoo.comparison.report.error_charts import MATRIX_CLASSES_MAX, plot_calibration, plot_confusion
from ssss_zoo.comparison.report.row_errors import RowErrors
from ssss_zoo.comparison.report.run_facts import run_folder
from ssss_zoo.comparison.run_files import RunHistory, read_run_history

CURVE_POINTS_MIN = 3  # points from which on a curve says anything (our choice)

RunHistories = Mapping[str, Sequence[RunHistory]]  # of each seed, by the name of the row


@dataclass(frozen=True)
class Chart:
    """A chart of the report. key: where the template puts it; text: a sentence below its title; svg: safe HTML."""

    key: str
    title: str
    text: str
    svg: Any


def draw_charts(
    rows: Mapping[str, RowStatistics],
    classes: Sequence[str],
    errors: Mapping[str, RowErrors],
    histories: RunHistories,
) -> list[Chart]:
    """The charts of the finished rows; none without any, and none that says nothing. classes: the most frequent one
    first."""
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
    own_order = list(next(iter(rows.values())).iou)
    order = [own_order.index(name) for name in classes]
    return [*charts, *draw_training_charts(rows, histories), *draw_error_charts(errors, own_order, order)]


def draw_training_charts(rows: Mapping[str, RowStatistics], histories: RunHistories) -> list[Chart]:
    """The charts of figures against steps."""
    from markupsafe import Markup

    charts = []
    if most_evaluations(histories) >= CURVE_POINTS_MIN:
        curves = {name: [history.miou for history in of_row] for name, of_row in histories.items()}
        text = "Mean and standard deviation over seeds."
        charts.append(Chart("curves", "Learning curves", text, Markup(plot_learning_curves(curves))))
    if any(row.pseudo_labels_over_time for row in rows.values()):
        text = (
            "On the unlabelled images of the logged steps. The share of right pixels is known where hidden labels are."
        )
        charts.append(Chart("pseudo_labels", "Pseudo-labels while training", text, Markup(plot_pseudo_labels(rows))))
    losses = {name: [history.losses for history in of_row] for name, of_row in histories.items()}
    if any(len(common_steps(seeds)) >= CURVE_POINTS_MIN for seeds in losses.values()):
        text = "Means over seeds; each loss times its weight. Losses of different methods are not comparable."
        charts.append(Chart("losses", "Losses and learning rate", text, Markup(plot_training(losses))))
    return charts


def draw_error_charts(errors: Mapping[str, RowErrors], classes: Sequence[str], order: Sequence[int]) -> list[Chart]:
    """Calibration, and of each row whose confusions are known the matrix, unless there are too many classes. order: the
    places of the classes from top to bottom."""
    from markupsafe import Markup

    if not errors:
        return []
    text = (
        "The share of right pixels at each confidence, over all seeds: below the diagonal a network is too sure. The "
        "lower part shows how many pixels have that confidence."
    )
    charts = [Chart("calibration", "Calibration", text, Markup(plot_calibration(errors)))]
    shown = errors if len(classes) <= MATRIX_CLASSES_MAX else {}
    return charts + [
        Chart(matrix_key(name), name, "", Markup(plot_confusion(of_row, classes, order)))
        for name, of_row in shown.items()
        if of_row.confusion is not None
    ]


def matrix_key(row: str) -> str:
    """The key of a row's confusion matrix."""
    return f"confusion {row}"


def read_histories(rows: Mapping[str, RowStatistics], folder: ComparisonFolder) -> RunHistories:
    """By row, the history of each seed."""
    return {
        name: [read_run_history(run_folder(folder, place)) for place in row.folders.values()]
        for name, row in rows.items()
    }


def most_evaluations(histories: RunHistories) -> int:
    """The number of points that the longest learning curve would have."""
    curves = ([history.miou for history in of_row] for of_row in histories.values())
    return max((len(common_steps(seeds)) for seeds in curves), default=0)
