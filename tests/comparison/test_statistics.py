"""Figures of a comparison by hand: mIoU from counts, intervals, deviations, rare classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssss_zoo.comparison.records import SeedStatistics
from ssss_zoo.comparison.report.per_image_counts import (
    PerImageCounts,
    border_of,
    count_border_hits,
    count_hits,
)
from ssss_zoo.comparison.report.statistics import (
    FinishedRun,
    all_pixels,
    border_iou,
    difference,
    mious,
    near_borders,
    over_seeds,
    paired_interval,
    rare_classes,
)
from ssss_zoo.comparison.run_files import RunHistory
from ssss_zoo.evaluation.calibration import CONFIDENCE_BINS, count_confidence
from ssss_zoo.evaluation.metrics import confusion_matrix, score_summary


def counts(*images):
    """(N, 3, C) right, true, predicted, of truth and prediction, each a list of ids."""
    return np.stack([count_hits(torch.tensor(t), torch.tensor(p), 3).numpy() for t, p in images])


def scores(array, border=None, bins=None):
    return PerImageCounts(array, border if border is not None else array[:, :2], bins, np.array([0]))


def pixels(array):
    return all_pixels(scores(array))


def run(seed, array, border=None):
    return FinishedRun(seed, None, None, scores(array, border), RunHistory())


ONE = counts(([0, 0, 1, 1], [0, 1, 1, 1]), ([0, 1, 1, 255], [0, 0, 1, 2]))
OTHER = counts(([0, 0, 1, 1], [0, 0, 1, 1]), ([0, 1, 1, 255], [0, 1, 1, 2]))


def test_counts_leave_void_out():
    assert ONE[0].tolist() == [[1, 2, 0], [2, 2, 0], [1, 3, 0]]
    assert ONE[1].tolist() == [[1, 1, 0], [1, 2, 0], [2, 1, 0]]


def test_miou_from_counts_by_hand():
    # both images: class 0 right 2 of union 3 + 3 - 2 = 4; class 1 right 3 of 4 + 4 - 3 = 5; class 2 nowhere
    weights = np.array([[1, 1], [2, 0]])
    assert mious(pixels(ONE)[None], weights, "exclude")[:, 0] == pytest.approx(
        [(2 / 4 + 3 / 5) / 2, (1 / 2 + 2 / 3) / 2]
    )
    assert mious(pixels(ONE)[None], weights[:1], "zero")[0, 0] == pytest.approx((2 / 4 + 3 / 5) / 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 3), st.sampled_from(["exclude", "zero"]))
def test_miou_from_counts_is_that_of_the_confusion_matrix(seed, lacks, absent):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 4, (3, 5, 7), generator=generator)
    truth[(truth == 3) | (truth == lacks)] = 255  # predicted all the same
    predicted = torch.randint(0, 3, truth.shape, generator=generator)
    matrix = confusion_matrix(3, torch.device("cpu"))
    matrix.update(predicted, truth)
    whole = np.stack([count_hits(t, p, 3).numpy() for t, p in zip(truth, predicted, strict=True)])
    expected = score_summary(matrix.compute(), ("a", "b", "c"), absent)["miou"]
    assert mious(pixels(whole)[None], np.ones((1, 3)), absent)[0, 0] == pytest.approx(expected)


def test_an_interval_holds_the_mean_and_changes_sign_with_the_order():
    rng = np.random.default_rng(0)
    truth, noise = rng.integers(0, 3, (40, 50)), rng.random((2, 3, 40, 50))
    pair = []
    for level, part in zip((0.2, 0.4), noise, strict=True):
        images = [
            np.stack(
                [
                    count_hits(torch.tensor(t), torch.tensor(np.where(n < level, 0, t)), 3).numpy()
                    for t, n in zip(truth, s, strict=True)
                ]
            )
            for s in part
        ]
        pair.append(np.stack([pixels(of_seed) for of_seed in images]))
    mean, low, high = paired_interval(*pair, "exclude")
    assert low < mean < high
    assert low > 0  # 20 points of noise less, in every image and seed
    assert paired_interval(*pair[::-1], "exclude") == pytest.approx((-mean, -high, -low), abs=1e-9)
    assert paired_interval(pair[0], pair[0], "exclude") == (0, 0, 0)


def test_differences_take_the_seeds_that_both_have_and_need_three_to_be_significant():
    better = [run(seed, OTHER) for seed in (0, 1, 2)]
    worse = [run(seed, ONE) for seed in (2, 1, 0, 7)]
    found = difference(better, worse, "exclude")
    assert found.seeds == (0, 1, 2)
    assert found.mean == pytest.approx(1 - (2 / 4 + 3 / 5) / 2)
    assert found.significant
    assert not difference(better[:2], worse, "exclude").significant
    assert difference(better, [run(9, ONE)], "exclude") is None
    assert difference(better, better, "exclude") is None


def test_mean_and_deviation_over_seeds():
    assert over_seeds([1.0, 3.0]) == SeedStatistics(mean=2.0, std=pytest.approx(2**0.5), values=(1.0, 3.0))
    assert over_seeds([1.0]) == SeedStatistics(mean=1.0, std=None, values=(1.0,))
    assert over_seeds([None]) == SeedStatistics(mean=None, std=None, values=(None,))


def test_rare_classes_are_the_third_with_the_fewest_pixels():
    true = np.zeros((1, 3, 7), int)
    true[0, 1] = [50, 3, 0, 9, 70, 20, 8]
    assert rare_classes(scores(true), list("abcdefg")) == ["b", "g"]  # of six that occur


def test_border_iou_is_a_mean_over_classes():
    border = np.array([[[2, 0, 0], [4, 1, 0]], [[1, 0, 0], [2, 1, 0]]])
    assert border_iou(scores(ONE, border), "exclude") == pytest.approx((3 / 6 + 0) / 2)
    assert border_iou(scores(ONE, border), "zero") == pytest.approx(3 / 6 / 3)


def test_a_border_is_what_lies_near_another_class_or_the_edge():
    ids = torch.zeros(9, 9, dtype=torch.int64)
    ids[:, 6:] = 1
    near = border_of(ids, 2, 1)
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[1:8, 1:5] = True
    assert near[0].equal((ids == 0) & ~inside)
    assert border_of(ids, 2, 9)[0].equal(ids == 0)
    same = count_border_hits(ids, ids, 2)
    assert same[0].equal(same[1])


def test_void_has_no_border():
    truth = torch.zeros(9, 9, dtype=torch.int64)
    truth[4, 4] = 255
    predicted = torch.zeros(9, 9, dtype=torch.int64)
    predicted[4, 4] = 1
    both, either = count_border_hits(truth, predicted, 2)
    assert both[0] == either[0] > 0
    assert either[1] == 0


def test_calibration_by_hand():
    bins = count_confidence(
        torch.tensor([0.9, 0.95, 0.5, 1.0]), torch.tensor([1, 1, 0, 2]), torch.tensor([1, 0, 0, 255])
    )
    assert bins.sum(dim=0).tolist() == pytest.approx([3, 0.9 + 0.95 + 0.5, 2])
    error = PerImageCounts(ONE, ONE[:, :2], bins.numpy(), np.array([])).calibration_error
    assert bins.shape == (CONFIDENCE_BINS, 3)
    # 0.9 lies in the 14th bin with 1 right, 0.95 in the 15th with 0, 0.5 in the 8th with 1
    assert error == pytest.approx((abs(0.9 - 1) + abs(0.95 - 0) + abs(0.5 - 1)) / 3)


def test_differences_near_borders_and_of_some_classes_by_hand():
    """Two images, two classes; the runs differ in one class alone, and in its border."""
    counts = np.array([[[4, 1], [4, 2], [4, 2]], [[4, 0], [4, 2], [4, 2]]])
    better = counts.copy()
    better[1, 0, 1] = 2
    border = np.array([[[2, 1], [4, 4]], [[2, 0], [4, 4]]])
    wider = border.copy()
    wider[0, 0, 1], wider[1, 0, 1] = 2, 1
    runs = [[run(0, array, line)] for array, line in ((better, wider), (counts, border))]
    whole, rare, edge = (
        difference(*runs, "exclude", pixels).mean
        for pixels in (all_pixels, lambda s: all_pixels(s)[..., [1]], near_borders)
    )
    assert rare == pytest.approx(3 / 5 - 1 / 7)  # 3 right of 4 + 4 - 3; 1 right of 4 + 4 - 1
    assert whole == pytest.approx(rare / 2)
    assert edge == pytest.approx(((4 / 8 + 3 / 8) - (4 / 8 + 1 / 8)) / 2)


def test_a_class_of_a_single_pixel_counts():
    array = np.array([[[1, 0], [2, 1], [1, 0]]])  # class 0: 1 of 2; class 1: one true pixel, missed
    assert mious(pixels(array)[None], np.ones((1, 1)), "exclude")[0, 0] == pytest.approx(0.25)
