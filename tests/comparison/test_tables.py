"""The tables of a comparison: the same figures in each of them, numbers and notes for people."""

import csv
from dataclasses import replace

import pytest

from helpers.comparisons import change, figures_of, finished_row, kept_figures, one_seed
from ssss_zoo.comparison.records import PseudoLabelStatistics
from ssss_zoo.comparison.report.tables import (
    as_csv,
    as_latex,
    as_markdown,
    format_difference,
    format_percent,
    format_pseudo_labels,
    table_notes,
)


def test_tables_agree_with_each_other():
    figures = figures_of([finished_row("supervised", 0.31), finished_row("fixmatch", 0.42, last=one_seed(0.42, 0.01))])
    rows = list(csv.DictReader(as_csv(figures).splitlines()))
    assert [row["method"] for row in rows] == ["fixmatch", "supervised"]
    assert float(rows[0]["last_mean"]) == pytest.approx(42)
    assert "to_best_mean" in rows[0]
    assert "42.00 ± 1.00" in as_markdown(figures)
    assert r"\textbf{42.00 $\pm$ 1.00}" in as_latex(figures)
    assert as_latex(figures).count(r"\\") == 3


def test_numbers_for_people():
    assert format_percent(one_seed(0.31424, 0.005)) == "31.42 ± 0.50"
    assert format_percent(one_seed(0.5)) == "50.00"
    assert format_percent(None) == "-"
    assert format_difference(change(0.01, -0.002, 0.03, significant=False)) == "+1.00 [-0.20, +3.00]"
    assert format_difference(change(0.01, 0.001, 0.03, significant=True)) == "+1.00 [+0.10, +3.00] *"


@pytest.mark.parametrize(
    ("used", "weight", "right", "expected"),
    [
        (0.45, 0.45, 0.99, "45 used, 99 right"),
        (1.0, 0.0015, None, "100 used, weight 0.0015"),
        (0.5, 0.2, 0.7, "50 used, weight 0.4, 70 right"),
        (None, None, None, "-"),
    ],
)
def test_pseudo_labels_are_shown_with_their_weight(used, weight, right, expected):
    found = PseudoLabelStatistics(used=one_seed(used), weight=one_seed(weight), accuracy=one_seed(right))
    assert format_pseudo_labels(found) == expected
    assert format_pseudo_labels(None) == "-"


def test_a_note_says_where_means_are_over_some_of_the_classes():
    figures = kept_figures()
    assert not any("Means are over" in note for note in table_notes(figures))
    figures = replace(figures, classes_in_mean=figures.classes[1:])
    assert "Means are over 4 of 5 classes: no validation image shows class0." in table_notes(figures)


def test_a_note_says_where_rows_start_from_other_weights():
    figures = kept_figures()
    assert not any(note.startswith("NOT") for note in table_notes(figures))
    notes = table_notes(replace(figures, first_weights_differ=("cps",)))
    assert "NOT THE SAME START: different initial weights in cps." in notes
