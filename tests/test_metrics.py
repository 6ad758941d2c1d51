"""mIoU by hand and by torchmetrics: one matrix over the whole set, void left out, absent classes by rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from ssss_zoo.evaluation.metrics import confusion_matrix, iou_per_class, ious_in_mean, mean_iou, score_summary
from ssss_zoo.toolkit.types import IGNORE

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


@pytest.mark.parametrize(
    ("ious", "true", "excluded", "zeroed"),
    [
        ([0.5, None, 1.0], [3, 0, 2], 0.75, 0.5),  # found nowhere
        ([0.5, 0.0, 1.0], [3, 0, 2], 0.75, 0.5),  # found in the prediction alone: the same classes, the same mean
        ([0.5, 0.0, 1.0], [3, 1, 2], 0.5, 0.5),  # missed: a zero that was earned counts
        ([None, None], [0, 0], 0.0, 0.0),
    ],
)
def test_the_truth_alone_says_which_classes_the_mean_is_over(ious, true, excluded, zeroed):
    assert mean_iou(ious_in_mean(ious, true, "exclude")) == excluded
    assert mean_iou(ious_in_mean(ious, true, "zero")) == zeroed


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), lacks=st.integers(0, 3))
def test_two_networks_have_their_means_over_the_same_classes(seed, lacks):
    """Each IoU that both share counts as much in both means, whatever else either predicts."""
    pairs = draws(seed, 4)
    masks = [torch.where(mask == lacks, IGNORE, mask) for _, mask in pairs]
    figures = []
    for known in (range(4), [c for c in range(4) if c != lacks]):  # the second never predicts the class
        guesses = [torch.tensor(list(known))[torch.randint(len(known), mask.shape)] for mask in masks]
        figures.append(score_summary(matrix_of(list(zip(guesses, masks, strict=True)), 4), tuple("abcd"), "exclude"))
    there = {int(c) for mask in masks for c in mask.unique() if c != IGNORE}
    for found in figures:
        assert found["classes_in_mean"] == len(there)
        ious = [iou or 0.0 for name, iou in found["iou"].items() if "abcd".index(name) in there]
        assert found["miou"] == pytest.approx(math.fsum(ious) / max(len(ious), 1))


@pytest.mark.parametrize("absent", [None, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_mean_equals_torchmetrics_macro_jaccard(seed, absent):
    pairs = draws(seed, 5, absent)
    judge = MulticlassJaccardIndex(5, average="macro", ignore_index=IGNORE)
    for predicted, mask in pairs:
        judge.update(predicted, mask)
    ours = score_summary(matrix_of(pairs, 5), tuple("abcde"), "exclude")
    assert ours["miou"] == pytest.approx(judge.compute().item(), abs=1e-6)
    assert (ours["iou"]["c"] is None) == (absent == 2)
    if absent == 2:
        assert score_summary(matrix_of(pairs, 5), tuple("abcde"), "zero")["miou"] == pytest.approx(ours["miou"] * 4 / 5)


def test_the_mean_is_over_the_whole_set_and_not_over_images():
    pairs = [
        (torch.tensor([[[0, 0, 0, 0]]]), torch.tensor([[[0, 0, 0, 1]]])),
        (torch.tensor([[[1]]]), torch.tensor([[[1]]])),
    ]
    assert score_summary(matrix_of(pairs, 2), ("a", "b"), "exclude")["iou"] == {"a": 3 / 4, "b": 1 / 2}


def test_void_pixels_do_not_count_whatever_is_predicted_there():
    mask = torch.tensor([[[0, 1, IGNORE, IGNORE]]])
    for there in (0, 1):
        found = score_summary(matrix_of([(torch.tensor([[[0, 1, there, there]]]), mask)], 2), ("a", "b"), "exclude")
        assert found == {"miou": 1.0, "classes_in_mean": 2, "iou": {"a": 1.0, "b": 1.0}, "pixel_accuracy": 1.0}


def test_void_alone_gives_zero_and_no_class():
    found = score_summary(
        matrix_of([(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), IGNORE))], 2), ("a", "b"), "zero"
    )
    assert found == {"miou": 0.0, "classes_in_mean": 2, "iou": {"a": None, "b": None}, "pixel_accuracy": 0.0}


def test_large_counts_are_exact():
    big = 2**40
    assert iou_per_class(torch.tensor([[big, 1], [0, big]])) == [big / (big + 1), big / (big + 1)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 6), void=st.floats(0, 1))
def test_figures_lie_between_zero_and_one_and_follow_a_renaming_of_classes(seed, classes, void):
    pairs = draws(seed, classes, None, void)
    names = tuple(map(str, range(classes)))
    found = score_summary(matrix_of(pairs, classes), names, "exclude")
    values = [found["miou"], found["pixel_accuracy"], *(iou for iou in found["iou"].values() if iou is not None)]
    assert all(0 <= value <= 1 and math.isfinite(value) for value in values)
    assert list(found["iou"]) == list(names)
    turn = torch.arange(255 + 1)
    turn[:classes] = turn[:classes].flip(0)
    turned = score_summary(matrix_of([(turn[p], turn[m]) for p, m in pairs], classes), names, "exclude")
    assert turned["miou"] == pytest.approx(found["miou"])
    assert list(turned["iou"].values()) == list(found["iou"].values())[::-1]
