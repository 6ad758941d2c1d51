"""Hard labels of probabilities, and which of their pixels are confident."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from ssss_zoo.toolkit import confident, hard_label, soft_label


def test_a_hard_label_is_the_likeliest_class_and_its_probability():
    probs = torch.tensor([[0.2, 0.1, 0.5], [0.7, 0.1, 0.5], [0.1, 0.8, 0.0]]).view(1, 3, 1, 3)
    valid = torch.tensor([[[True, False, True]]])
    label = hard_label(probs, valid)
    assert label.target.tolist() == [[[1, 2, 0]]]
    assert_close(label.confidence, torch.tensor([[[0.7, 0.8, 0.5]]]))
    assert label.valid is valid


def test_a_soft_label_is_the_distribution_and_its_largest_probability():
    probs = torch.tensor([0.2, 0.7, 0.1]).view(1, 3, 1, 1)
    valid = torch.tensor([[[False]]])
    label = soft_label(probs, valid)
    assert label.target is probs
    assert label.confidence.tolist() == [[[probs[0, 1, 0, 0].item()]]]
    assert label.valid is valid


def test_a_pixel_at_the_threshold_is_confident():
    label = hard_label(torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 1, 3), torch.ones(1, 1, 3, dtype=torch.bool))
    for threshold in (0.5, torch.tensor(0.5)):
        weight = confident(label, threshold)
        assert weight.tolist() == [[[0, 1, 1]]]
        assert weight.dtype == torch.float32
