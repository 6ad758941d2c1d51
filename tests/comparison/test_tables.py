"""The tables of a comparison: the same figures in each of them, numbers and notes for people."""

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from helpers.comparisons import change, figures_of, finished_row, kept_figures, one_seed
from ssss_zoo.comparison.records import PseudoLabelStatistics
from ssss_zoo.comparison.report.tables import (
    as_csv,
    as_latex,
    as_markdown,
    format_difference,
    format_percent,
    format_pseudo_labels,
    screen_cost_table,
    table_notes,
)
from ssss_zoo.evaluation.network_cost import NetworkCost


def test_tables_agree_with_each_other():
    figures = figures_of([finished_row("supervised", 0.31), finished_row("fixmatch", 0.42, last=one_seed(0.42, 0.01))])
    rows = list(csv.DictReader(as_csv(figures).splitlines()))
    assert [row["method"] for row in rows] == ["fixmatch", "supervised"]
    assert float(rows[0]["last_mean"]) == pytest.approx(42)
    assert "to_best_mean" in rows[0]
    assert "42.00 ± 1.00" in as_markdown(figures)
    assert r"\textbf{42.00 $\pm$ 1.00}" in as_latex(figures)
    assert as_latex(figures).count(r"\\") == 3


COST = NetworkCost(height=8, width=16, parameters=3_300_000, flops=3_570_000_000, images_per_second=4.213,
                   best_images_per_second=63.04, best_batch=8, device="cpu")  # fmt: skip


def shown(table):
    screen = io.StringIO()
    Console(file=screen, width=80).print(table)
    return screen.getvalue()


def test_size_and_speed_of_a_network_are_in_every_table():
    """On the screen a network stands once, with all rows that have it; an older comparison has none."""
    small = replace(COST, parameters=1_000_000)
    rows = [finished_row(name, network_cost=cost) for name, cost in (("a", COST), ("b", COST), ("c", small))]
    figures = figures_of([*rows, finished_row("old")])
    for row in csv.DictReader(as_csv(figures).splitlines()):
        expected = {"a": "3300000", "b": "3300000", "c": "1000000", "old": ""}[row["method"]]
        assert row["parameters"] == expected
        assert row["images_per_second"] == ("4.213" if expected else "")
        assert row["protocol_digest"]
    assert "| 4.21 | 63.0 (8) | 3.30 | 3.57 |" in as_markdown(figures)
    assert shown(screen_cost_table(figures)).count("3.30") == 1
    assert screen_cost_table(kept_figures()) is None


def test_a_note_says_what_the_speed_is_of():
    assert not any("Speed" in note for note in table_notes(kept_figures()))
    one = figures_of([finished_row("a", network_cost=COST)])
    assert any("images of 8x16 on cpu in float32" in note for note in table_notes(one))
    gpu = finished_row("b", network_cost=replace(COST, device="cuda: H100"))
    notes = table_notes(replace(one, rows=(*one.rows, gpu)))
    assert any("8x16 on cpu (a), 8x16 on cuda: H100 (b)" in note for note in notes)
    assert any(note.startswith("NOT COMPARABLE, speeds") for note in notes)


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
