"""Which images to label next: uncertainty and diversity by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssss_zoo.deploy.acquisition import (
    ChosenImage,
    choose_core_set,
    choose_k_means,
    mean_uncertainty,
    most_uncertain,
)


def test_uncertainties_by_hand():
    pixels = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.3, 0.1, 0.1]])
    probs = pixels.T[:, None]  # (C, H, W) = (4, 1, 3)
    third = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.1)) / np.log(4)
    expected = {"entropy": (1, 0, third), "margin": (1, 0, 0.8), "confidence": (0.75, 0, 0.5)}
    for by, values in expected.items():
        assert mean_uncertainty(by, probs, None) == pytest.approx(np.mean(values), abs=1e-6)
        assert mean_uncertainty(by, probs, np.array([[True, False, True]])) == pytest.approx(
            (values[0] + values[2]) / 2, abs=1e-6
        )
        assert mean_uncertainty(by, probs, np.zeros((1, 3), bool)) == 0
    assert most_uncertain([0.1, 0.4, 0.3, 0.4], 3) == [1, 3, 2]


def test_the_core_set_takes_the_farthest_each_time():
    features = torch.tensor([[1.0], [5.0], [10.0], [9.0]])
    assert choose_core_set(features, torch.tensor([[0.0], [0.5]]), 3) == [
        ChosenImage(2, 9.5),
        ChosenImage(1, 4.5),
        ChosenImage(3, 1.0),
    ]


def test_k_means_draws_by_squared_distance_and_by_seed():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    firsts = [choose_k_means(embeddings, 1, seed)[0].index for seed in range(400)]
    assert np.mean(np.array(firsts) == 1) == pytest.approx(0.9, abs=0.05)
    assert 2 not in firsts
    chosen = choose_k_means(embeddings, 3, seed=1)
    assert sorted(image.index for image in chosen) == [0, 1, 2], "copies of the origin come last, and none twice"
    assert chosen[-1] == ChosenImage(2, 0.0)
    assert choose_k_means(embeddings, 2, seed=7) == choose_k_means(embeddings, 2, seed=7)
