"""mIoU by hand and by torchmetrics: one matrix over the whole set, void left out, absent classes by rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from ssss_zoo.metrics import confusion_matrix, iou_per_class, mean_iou, summary
from ssss_zoo.records import IGNORE

CPU = torch.device("cpu")


def draws(seed: int, classes: int, absent: int | None = None, void: float = 0.2):
    """Predictions and masks of three images of different size; `absent` is in neither."""
    rng = torch.Generator().manual_seed(seed)
    known = torch.tensor([c for c in range(classes) if c != absent])
    pairs = []
    for size in ((1, 4, 5), (1, 7, 3), (1, 2, 2)):
        predicted, mask = (known[torch.randint(len(known), size, generator=rng)] for _ in range(2))
        mask = torch.where(torch.rand(size, generator=rng) < 0.5, predicted, mask)
        pairs.append((predicted, torch.where(torch.rand(size, generator=rng) < void, IGNORE, mask)))
    return pairs


def matrix_of(pairs, classes: int) -> torch.Tensor:
    matrix = confusion_matrix(classes, CPU)
    for predicted, mask in pairs:
        matrix.update(predicted, mask)
    return matrix.compute()


def test_truth_is_in_rows_and_void_is_nowhere():
    predicted, mask = torch.tensor([[[0, 1, 1, 0]]]), torch.tensor([[[0, 0, 1, IGNORE]]])
    assert matrix_of([(predicted, mask)], 2).tolist() == [[1, 1], [0, 1]]


def test_iou_by_hand():
    matrix = torch.tensor([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert iou_per_class(matrix) == [3 / 6, 4 / 8, None, 0.0]


def test_a_class_that_is_only_predicted_or_only_true_counts_as_zero():
    assert iou_per_class(torch.tensor([[0, 5], [0, 5]])) == [0.0, 0.5]


def test_an_absent_class_is_left_out_or_counts_as_zero():
    assert mean_iou([0.5, None, 1.0], "exclude") == 0.75
    assert mean_iou([0.5, None, 1.0], "zero") == 0.5
    assert mean_iou([None, None], "exclude") == 0.0
    assert mean_iou([None, None], "zero") == 0.0
    assert mean_iou([0.0, 1.0], "exclude") == 0.5  # a zero that was earned counts


@pytest.mark.parametrize("absent", [None, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_mean_equals_torchmetrics_macro_jaccard(seed, absent):
    pairs = draws(seed, 5, absent)
    judge = MulticlassJaccardIndex(5, average="macro", ignore_index=IGNORE)
    for predicted, mask in pairs:
        judge.update(predicted, mask)
    ours = summary(matrix_of(pairs, 5), tuple("abcde"), "exclude")
    assert ours["miou"] == pytest.approx(judge.compute().item(), abs=1e-6)
    assert (ours["iou"]["c"] is None) == (absent == 2)
    if absent == 2:
        assert summary(matrix_of(pairs, 5), tuple("abcde"), "zero")["miou"] == pytest.approx(ours["miou"] * 4 / 5)


def test_the_mean_is_over_the_whole_set_and_not_over_images():
    pairs = [
        (torch.tensor([[[0, 0, 0, 0]]]), torch.tensor([[[0, 0, 0, 1]]])),
        (torch.tensor([[[1]]]), torch.tensor([[[1]]])),
    ]
    assert summary(matrix_of(pairs, 2), ("a", "b"), "exclude")["iou"] == {"a": 3 / 4, "b": 1 / 2}


def test_void_pixels_do_not_count_whatever_is_predicted_there():
    mask = torch.tensor([[[0, 1, IGNORE, IGNORE]]])
    for there in (0, 1):
        found = summary(matrix_of([(torch.tensor([[[0, 1, there, there]]]), mask)], 2), ("a", "b"), "exclude")
        assert found == {"miou": 1.0, "iou": {"a": 1.0, "b": 1.0}, "pixel_accuracy": 1.0}


def test_void_alone_gives_zero_and_no_class():
    found = summary(matrix_of([(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), IGNORE))], 2), ("a", "b"), "zero")
    assert found == {"miou": 0.0, "iou": {"a": None, "b": None}, "pixel_accuracy": 0.0}


def test_large_counts_are_exact():
    big = 2**40
    assert iou_per_class(torch.tensor([[big, 1], [0, big]])) == [big / (big + 1), big / (big + 1)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 6), void=st.floats(0, 1))
def test_figures_lie_between_zero_and_one_and_follow_a_renaming_of_classes(seed, classes, void):
    pairs = draws(seed, classes, None, void)
    names = tuple(map(str, range(classes)))
    found = summary(matrix_of(pairs, classes), names, "exclude")
    values = [found["miou"], found["pixel_accuracy"], *(iou for iou in found["iou"].values() if iou is not None)]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in values)
    assert list(found["iou"]) == list(names)
    turn = torch.arange(255 + 1)
    turn[:classes] = turn[:classes].flip(0)
    turned = summary(matrix_of([(turn[p], turn[m]) for p, m in pairs], classes), names, "exclude")
    assert turned["miou"] == pytest.approx(found["miou"])
    assert list(turned["iou"].values()) == list(found["iou"].values())[::-1]
