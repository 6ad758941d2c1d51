"""What is said of pseudo-labels: figures by hand, and a warning when they starve or collapse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssss_zoo.toolkit.types import IGNORE, PseudoLabel, Sample
from ssss_zoo.train.pseudo_label_stats import (
    COLLAPSED_SHARE,
    RECENT_READINGS,
    UNUSED_SHARE,
    PseudoLabelStats,
    labelled_histogram,
)

CPU = torch.device("cpu")
EVEN = np.array([1 / 3] * 3)
NAMES = ("sky", "road", "tree")


def label(ids: list[int], valid: list[int] | None = None, confidence: list[float] | None = None) -> PseudoLabel:
    """A row of pixels."""
    wide = torch.tensor(ids).view(1, 1, -1)
    return PseudoLabel(
        wide,
        torch.tensor(confidence or [1.0] * len(ids)).view(1, 1, -1),
        torch.tensor(valid or [1] * len(ids)).bool().view(1, 1, -1),
    )


def row(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, -1)


def active_stats() -> PseudoLabelStats:
    stats = PseudoLabelStats(3, EVEN, CPU)
    stats.active = True
    return stats


def test_figures_by_hand():
    stats = active_stats()
    stats(label([0, 0, 1, 2, 2], [1, 1, 1, 1, 0], [0.5, 0.7, 0.9, 0.1, 0.8]), row(1.0, 0.5, 2.0, 0.0, 1.0), None)
    figures = stats.read()
    assert figures == {
        "used": pytest.approx(3 / 4),  # the fifth is padding, the fourth weighs nothing
        "weight": pytest.approx(3.5 / 4),
        "confidence": pytest.approx(2.2 / 4),
        "classes": pytest.approx([2 / 3, 1 / 3, 0]),
    }


def test_figures_of_several_batches_are_pooled_and_begin_anew_after_reading():
    stats = active_stats()
    stats(label([0, 0, 0]), row(1.0, 1.0, 1.0), None)
    stats(label([1]), row(0.0), None)
    assert stats.read()["used"] == pytest.approx(3 / 4)
    stats(label([2, 2]), row(1.0, 1.0), None)
    assert stats.read()["classes"] == [0, 0, 1]


def test_nothing_is_counted_in_steps_that_are_not_logged():
    stats = PseudoLabelStats(3, EVEN, CPU)
    stats(label([0, 1]), row(1.0, 1.0), None)
    assert stats.read() is None


def test_without_pseudo_labels_there_is_nothing_to_say():
    stats = active_stats()
    assert stats.read() is None
    stats(label([0]), row(1.0), None)
    stats.read()
    assert stats.read() is None


def test_soft_targets_count_by_their_likeliest_class():
    target = torch.tensor([[0.6, 0.1], [0.3, 0.2], [0.1, 0.7]]).view(1, 3, 1, 2)
    stats = active_stats()
    stats(PseudoLabel(target, row(0.6, 0.7), torch.ones(1, 1, 2).bool()), row(1.0, 1.0), None)
    assert stats.read()["classes"] == [0.5, 0, 0.5]


def test_hidden_labels_give_the_accuracy_of_used_pixels_that_are_not_void():
    stats = active_stats()
    given = label([0, 0, 1, 1, 2, 0], [1, 1, 1, 1, 1, 0])
    hidden = torch.tensor([0, 1, 1, IGNORE, 2, 0]).view(1, 1, -1)
    stats(given, row(1.0, 1.0, 1.0, 1.0, 0.0, 1.0), hidden)
    figures = stats.read()
    assert figures["accuracy"] == pytest.approx(2 / 3)  # of pixels 0, 1, 2
    assert figures["class_accuracy"] == [0.5, 1.0, None]


def test_hidden_labels_that_are_all_void_give_no_accuracy():
    stats = active_stats()
    stats(label([0, 1]), row(1.0, 1.0), torch.full((1, 1, 2), IGNORE))
    assert "accuracy" not in stats.read()


def test_nothing_valid_gives_zeros_and_no_division_by_zero():
    stats = active_stats()
    stats(label([0, 1], [0, 0]), row(1.0, 1.0), None)
    assert stats.read() == {"used": 0, "weight": 0, "confidence": 0, "classes": [0, 0, 0]}


def test_reading_gives_plain_numbers():
    stats = active_stats()
    stats(label([0, 1]), row(1.0, 1.0), torch.tensor([[[0, 0]]]))
    figures = stats.read()
    assert all(isinstance(figures[name], float) for name in ("used", "weight", "confidence", "accuracy"))
    assert all(isinstance(share, float) for share in figures["classes"])


# --- warnings -------------------------------------------------------------------------------------------------------


def warning(used: float, classes: list[float], histogram: np.ndarray = EVEN) -> str | None:
    return PseudoLabelStats(3, histogram, CPU).warning({"used": used, "classes": classes}, NAMES)


def test_starvation_is_told():
    assert warning(UNUSED_SHARE / 2, [1 / 3] * 3) == (
        "pseudo-labels: only 0.05% of the pixels are used; the unlabelled images teach nothing yet (a threshold may be "
        "too high)"
    )
    assert warning(0.0, [0, 0, 0]).startswith("pseudo-labels: only 0.00%")
    assert warning(UNUSED_SHARE * 2, [1 / 3] * 3) is None


def test_a_collapse_names_the_class_and_its_share_among_labels():
    assert warning(1.0, [0.001, 0.999, 0.0], np.array([0.6, 0.25, 0.15])) == (
        "pseudo-labels: 99.9% of the used pixels are 'road', which is 25.0% of the labelled ones: the labels have "
        "collapsed"
    )
    assert warning(1.0, [0.01, 0.99, 0.0]) is None
    assert warning(1.0, [1 - COLLAPSED_SHARE, COLLAPSED_SHARE, 0.0]) is None


def test_a_class_that_is_nearly_everything_among_the_labels_too_is_no_collapse():
    assert warning(1.0, [1.0, 0.0, 0.0], np.array([0.95, 0.03, 0.02])) is None
    assert warning(1.0, [0.0, 1.0, 0.0], np.array([0.95, 0.03, 0.02])) is not None


def test_classes_spread_otherwise_than_among_the_labels_are_told_once_it_lasts():
    stats = PseudoLabelStats(3, np.array([0.6, 0.25, 0.15]), CPU)
    stats.active = True

    def read(*ids: int) -> str | None:
        stats(label(list(ids)), row(*[1.0] * len(ids)), None)
        return stats.warning(stats.read(), NAMES)

    assert [read(1, 1, 1, 2) for _ in range(RECENT_READINGS - 1)] == [None] * (RECENT_READINGS - 1)
    assert read(1, 1, 1, 2) == (  # |0 - 0.6| + |0.75 - 0.25| + |0.25 - 0.15|, halved: 0.6
        "pseudo-labels: 75.0% of the used pixels are 'road' and 0.0% 'sky', which are 25.0% and 60.0% of the labelled "
        "ones: the labels may have collapsed, or the unlabelled images show other things"
    )
    again = [read(0, 0, 1, 2) for _ in range(3)]  # 0.55, 0.5, 0.45
    assert again[0] is not None
    assert again[2] is None


# --- the labelled histogram -----------------------------------------------------------------------------------------


def dataset(*masks: list[int]) -> SimpleNamespace:
    read: list[int] = []

    def read_mask(sample: Sample) -> np.ndarray:
        read.append(sample.mask)
        return np.array([masks[sample.mask]], dtype=np.uint8)

    samples = [Sample(str(i), i, i) for i in range(len(masks))]
    return SimpleNamespace(labelled=samples, class_names=NAMES, read_mask=read_mask, read=read)


def test_the_histogram_leaves_void_out_and_sums_to_one():
    found = labelled_histogram(dataset([0, 0, 1, IGNORE], [0, IGNORE, IGNORE, IGNORE]))
    assert found == pytest.approx([3 / 4, 1 / 4, 0])


def test_the_histogram_reads_at_most_so_many_images_spread_over_the_list():
    many = dataset(*[[i % 3] for i in range(10)])
    labelled_histogram(many, image_count=4)
    assert many.read == [0, 3, 6, 9]
    few = dataset([0], [1])
    labelled_histogram(few, image_count=4)
    assert few.read == [0, 1]


def test_a_histogram_of_void_alone_or_of_nothing_is_zero():
    assert labelled_histogram(dataset([IGNORE])).tolist() == [0, 0, 0]
    assert labelled_histogram(dataset()).tolist() == [0, 0, 0]
