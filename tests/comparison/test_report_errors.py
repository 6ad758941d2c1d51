"""What a report says beyond mIoU: confusions, calibration, losses, where runs were made, papers."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest

from helpers.comparisons import NEWEST_COMPARISON
from ssss_zoo.comparison.folders import ComparedRunFolder, ComparisonFolder
from ssss_zoo.comparison.records import read_figures
from ssss_zoo.comparison.report import html as report
from ssss_zoo.comparison.report.charts import TRAINING_POINTS_MAX, plot_training, thinned_means
from ssss_zoo.comparison.report.error_charts import plot_calibration, plot_confusion
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.report.per_image_counts import read_per_image_counts, save_counts
from ssss_zoo.comparison.report.row_errors import RowErrors, frequent_confusions, read_row_errors
from ssss_zoo.comparison.report.run_facts import machine_limits, paper_of
from ssss_zoo.comparison.run_files import LoggedLoss, read_run_history
from ssss_zoo.errors import UserError

CONFUSION = np.array([[60, 40, 0], [1, 299, 0], [0, 0, 0]])  # of class 0 two fifths are taken for class 1


@pytest.fixture
def kept(tmp_path):
    """A copy of the newest kept comparison, whose runs an earlier version counted."""
    shutil.copytree(NEWEST_COMPARISON, tmp_path / "cmp")
    return ComparisonFolder(tmp_path / "cmp")


def add_confusion(run: ComparedRunFolder, matrix: np.ndarray) -> None:
    save_counts(replace(read_per_image_counts(run), confusion=matrix), run.counts)


def errors_of(confusion: np.ndarray | None, bins: np.ndarray | None = None) -> RowErrors:
    return RowErrors(np.ones((15, 3)) if bins is None else bins, confusion)


def curve_points(chart: str, axes: int) -> int:
    """The points of the first row's curve in the axes of a chart, counted from 1."""
    part = chart.partition(f'<g id="axes_{axes}">')[2].partition('<g id="axes_')[0]
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: #0072b2[^>]*stroke-linecap: square', part)
    return len(re.findall("[ML]", path[1]))


# --- confusions -----------------------------------------------------------------------------------------------------


def test_counts_keep_the_matrix_and_those_of_an_earlier_version_have_none(kept):
    run = kept.run("fixmatch", 0)
    before = read_per_image_counts(run)
    assert before.confusion is None
    classes = before.counts.shape[2]
    matrix = np.arange(classes**2).reshape(classes, classes)
    add_confusion(run, matrix)
    after = read_per_image_counts(run)
    assert np.array_equal(after.confusion, matrix)
    for field in fields(before):
        if field.name != "confusion":
            assert np.array_equal(getattr(before, field.name), getattr(after, field.name)), field.name
    add_confusion(run, matrix[:-1])
    with pytest.raises(UserError, match=r"scores\.npz is damaged: it holds arrays of other shapes"):
        read_per_image_counts(run)


def test_the_errors_of_a_row_are_those_of_all_its_seeds(kept):
    rows = read_figures(kept).finished()
    runs = [kept.run("fixmatch", seed) for seed in (0, 1)]
    counts = [read_per_image_counts(run) for run in runs]
    classes = counts[0].counts.shape[2]
    errors = read_row_errors(rows, kept)
    assert np.array_equal(errors["fixmatch"].bins, counts[0].bins + counts[1].bins)
    add_confusion(runs[0], np.full((classes, classes), 2))
    assert read_row_errors(rows, kept)["fixmatch"].confusion is None  # one seed would stand for both
    add_confusion(runs[1], np.full((classes, classes), 3))
    assert (read_row_errors(rows, kept)["fixmatch"].confusion == 5).all()
    shutil.rmtree(kept.runs / "fixmatch")
    assert set(read_row_errors(rows, kept)) == {"supervised"}


def test_the_most_frequent_confusions_are_named():
    found = frequent_confusions(errors_of(CONFUSION), ["road", "wall", "sky"])
    assert found == [("road", "wall", pytest.approx(0.4))]  # a third of a percent of walls is not worth a line
    assert frequent_confusions(errors_of(np.eye(3)), ["road", "wall", "sky"]) == []


def test_a_matrix_has_the_classes_in_the_order_given_and_the_shares_in_percent():
    chart = plot_confusion(errors_of(CONFUSION), ["road", "<wall>", "sky"], [1, 0, 2])
    texts = re.findall(r">([^<>]+)</text>", chart)
    assert texts[:3] == ["&lt;wall&gt;", "road", "sky"]
    assert sorted(text for text in texts if text.isdigit()) == ["100", "40", "60"]
    assert chart.count("<image") == 1
    assert "currentColor" in chart


# --- calibration and losses -----------------------------------------------------------------------------------------


def test_calibration_shows_the_bins_that_hold_pixels():
    bins = np.zeros((15, 3))
    bins[14] = (1e6, 0.98e6, 0.7e6)
    bins[7] = (1e6, 0.5e6, 0.5e6)
    bins[2] = (1, 0.2, 1)  # a single pixel says nothing
    chart = plot_calibration({"one": errors_of(None, bins)})
    assert [curve_points(chart, axes) for axes in (1, 2)] == [2, 2]
    bins[2] = (1e6, 0.2e6, 1e6)
    assert curve_points(plot_calibration({"one": errors_of(None, bins)}), 1) == 3


def test_losses_are_the_supervised_one_and_all_others(kept):
    losses = read_run_history(kept.run("fixmatch", 0)).losses
    lines = [json.loads(line) for line in kept.run("fixmatch", 0).history.read_text().splitlines()]
    logged = [line for line in lines if "losses" in line]
    assert [*losses] == [line["step"] for line in logged]
    for line in logged:
        found = losses[line["step"]]
        assert found.supervised == line["losses"]["supervised"]
        assert found.other == pytest.approx(sum(line["losses"].values()) - line["losses"]["total"] - found.supervised)
        assert found.rate == line["lr"]


def test_training_curves_are_thinned_means_over_seeds():
    one = {step: LoggedLoss(supervised=1.0, other=0.0, rate=0.1) for step in range(1, 1001)}
    other = {step: LoggedLoss(supervised=3.0, other=0.0, rate=0.1) for step in range(1, 1001, 2)}
    points = thinned_means([one, other])
    assert len(points) == TRAINING_POINTS_MAX
    assert (min(points), max(points)) == (1, 999)
    assert {point.supervised for point in points.values()} == {2.0}
    assert "all other losses" not in plot_training({"one": [one, other]})
    weighted = {step: replace(one[step], other=0.5) for step in (1, 2, 3)}
    chart = plot_training({"one": [weighted]})
    assert all(name in chart for name in ("supervised loss", "all other losses", "learning rate", "step"))


# --- the page -------------------------------------------------------------------------------------------------------


def page_of(folder, monkeypatch):
    monkeypatch.setattr(report, "draw_charts", lambda *given: [])
    return write_report(folder).read_text()


def test_the_page_names_confusions_and_the_rows_without_them(kept, monkeypatch):
    assert "gone: supervised, fixmatch." in page_of(kept, monkeypatch)
    for seed in (0, 1):
        run = kept.run("fixmatch", seed)
        classes = read_per_image_counts(run).counts.shape[2]
        matrix = np.zeros((classes, classes), int)
        matrix[1, :2] = (25, 75)
        add_confusion(run, matrix)
    page = page_of(kept, monkeypatch)
    assert "No matrix is drawn" not in page
    monkeypatch.setattr(report, "MATRIX_CLASSES_MAX", 3)
    assert "No matrix is drawn of more than 3 classes." in page_of(kept, monkeypatch)
    assert "gone: supervised." in page
    assert "<td>fixmatch</td><td>class1</td><td>class0</td><td>25.0</td>" in page


def test_runs_of_several_machines_and_commits_are_said(kept, monkeypatch):
    file = kept.run("fixmatch", 1).metrics
    metrics = json.loads(file.read_text())
    own = metrics["environment"]
    assert "do not compare" not in page_of(kept, monkeypatch)
    metrics["environment"] = own | {"device": "cuda: H100", "commit": "f" * 40, "python": "3.99"}
    file.write_text(json.dumps(metrics))
    page = page_of(kept, monkeypatch)
    for text in ("; cuda: H100, 1 thread", "Python 3.99", "f" * 40, "2 kinds of hardware", "different software"):
        assert text in page, text
    file.unlink()
    assert "H100" not in page_of(kept, monkeypatch)
    assert machine_limits({"hardware": ["a"], "software": ["b"], "commit": []})[0].startswith(
        "Training time and memory"
    )


def test_the_papers_of_a_row_are_those_of_its_card(kept, monkeypatch):
    assert paper_of("a, the baseline of every paper: labelled images only").url == ""
    kept.run("fixmatch", 0).card.write_text(
        "A network, dpt on x\n(none weights), trained with fixmatch, FixMatch (Sohn et al., 2020, arXiv 2001.07685),\n"
        "as in UniMatch's releases; mine, <b>Mine</b>.\n\n## Use\n\n(arXiv 1234.56789)\n"
    )
    page = page_of(kept, monkeypatch)
    assert 'href="https://arxiv.org/abs/2001.07685">FixMatch (Sohn et al., 2020, arXiv 2001.07685), as in' in page
    assert "<br>&lt;b&gt;Mine&lt;/b&gt;" in page
    assert "1234.56789" not in page
