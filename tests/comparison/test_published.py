"""Published figures beside ours: known methods, splits and sources, and the reasons why two figures do not compare."""

from dataclasses import replace

import pytest

from helpers.comparisons import figures_of, finished_row
from ssss_zoo.comparison.records import ScoringProtocol
from ssss_zoo.comparison.report.published import (
    SOURCE_NAMES,
    RowOrders,
    published_entries,
    published_figures,
    row_orders,
)
from ssss_zoo.config.layers import recipes
from ssss_zoo.data.benchmarks.published_splits import split_family


def test_published_figures_are_of_methods_splits_and_sources_that_we_know():
    """All offenders at once."""
    wrong = []
    for entry in published_entries():
        families = {split_family(entry.dataset, split) for split in entry.miou}
        right = {
            "method": set(entry.method.split("+")) <= set(recipes("method")),
            "source": entry.source in SOURCE_NAMES,
            "of": entry.of is None or 20 <= entry.of <= 240,
            "splits": len(families) == 1 and all(families),
            "miou": all(30 < value < 95 for value in entry.miou.values()),
        }
        wrong += [(entry, key) for key, is_right in right.items() if not is_right]
    assert wrong == []
    assert len(published_entries()) > 70


def compared(dataset, split, overrides=(), **settings):
    """Rows supervised, unimatch and `mine` on a data set, with the protocol of VOC's classic lists."""
    settings = {"model.encoder": "resnet101", "model.weights": "imagenet", "train.crop": "[321]"} | settings
    protocol = ScoringProtocol(name="voc-classic", digest="", settings={}, lists={})
    rows = [
        finished_row(name, mean, settings=settings, protocol=protocol)
        for name, mean in (("supervised", 0.6), ("unimatch", 0.5), ("mine", 0.9))
    ]
    return figures_of(rows, dataset=dataset, split=split, overrides=tuple(overrides), budget="steps")


def with_row(figures, number, row):
    return replace(figures, rows=(*figures.rows[:number], row, *figures.rows[number + 1 :]))


def reasons_of(figures, row, crop):
    found = [one for one in published_figures(figures) if one.row == row and one.setting.endswith(f"crop {crop}")]
    return next(list(one.reasons) for one in found if "resnet101" in one.setting)


def test_a_figure_of_the_same_protocol_network_and_budget_compares():
    assert reasons_of(compared("voc", "183"), "unimatch", 321) == []


def test_differences_are_the_reasons():
    assert reasons_of(compared("voc", "183"), "supervised", 513) == ["crop [321] here"]
    other = compared("voc", "183", ["train.steps=9"], **{"model.encoder": "resnet50", "model.weights": "none"})
    assert reasons_of(other, "unimatch", 321) == [
        "encoder resnet50 here",
        "encoder not pre-trained here",
        "budget of our choice here (train.steps=9)",
    ]
    assert reasons_of(compared("camvid", "1/8"), "unimatch", 321) == ["another data set"]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([5, 5, 5], "5"), ([80], "80"), ([5, 80, 7], "5 to 80"), ([None], "an unknown number"), ([], "an unknown number")],
)
def test_it_is_said_of_how_many_evaluations_each_best_was_chosen(numbers, expected):
    figures = compared("voc", "183")
    row = figures.rows[1]
    row = replace(row, statistics=replace(row.statistics, best_of=tuple(numbers)))
    found = published_figures(with_row(figures, 1, row))
    figure = next(one for one in found if one.row == "unimatch" and "crop 321" in one.setting)
    assert figure.chosen == f"best of 80 there, of {expected} here"


def test_a_row_as_its_release_has_the_methods_published_figures_and_its_encoder_any_stem():
    figures = compared("voc", "183", **{"model.encoder": "resnet101_deep_stem"})
    release = replace(figures.rows[1], name="unimatch:release", overrides=("method=unimatch:release",))
    assert reasons_of(with_row(figures, 1, release), "unimatch:release", 321) == []


def test_two_orders_of_the_rows_that_have_a_published_figure():
    figures = compared("voc", "183")
    both = RowOrders("resnet101", ["supervised", "unimatch"], ["unimatch", "supervised"])
    assert row_orders(figures, published_figures(figures)) == both
    assert row_orders(figures, []) is None
