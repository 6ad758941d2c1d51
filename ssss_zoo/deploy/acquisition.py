"""Which images to label next: the uncertainty of a network about an image, and the diversity of the chosen ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Uncertainty = Literal["entropy", "margin", "confidence"]
Diversity = Literal["core-set", "k-means++", "none"]

DISTANCE_ROWS = 1024  # images whose distances to all others are in memory at a time (our choice)


@dataclass(frozen=True)
class ChosenImage:
    """An image to label. index: among all that were offered. distance: of its features from those of the labelled
    images and of the images chosen before it, None where diversity played no part."""

    index: int
    distance: float | None = None


# --- uncertainty ----------------------------------------------------------------------------------------------------


def entropy_of_pixels(probs: Tensor) -> Tensor:
    """(B, H, W) in [0, 1]: the entropy of probabilities (B, C, H, W), divided by its highest value, log C."""
    entropy = -(probs * probs.clamp_min(1e-12).log()).sum(dim=1)
    return (entropy / np.log(max(probs.shape[1], 2))).clamp(0, 1)


def margin_of_pixels(probs: Tensor) -> Tensor:
    """(B, H, W) in [0, 1]: 1 minus the difference between the two highest probabilities."""
    highest = probs.topk(2, dim=1).values
    return 1 - (highest[:, 0] - highest[:, 1])


def doubt_of_pixels(probs: Tensor) -> Tensor:
    """(B, H, W) in [0, 1): 1 minus the highest probability."""
    return 1 - probs.amax(dim=1)


UNCERTAINTIES: Mapping[Uncertainty, Callable[[Tensor], Tensor]] = {
    "entropy": entropy_of_pixels,  # Settles, Active learning literature survey, 2009, section 3.1
    "margin": margin_of_pixels,  # Scheffer, Decomain and Wrobel, IDA 2001
    "confidence": doubt_of_pixels,  # Lewis and Gale, SIGIR 1994, "least confident"
}


def mean_uncertainty(by: Uncertainty, probs: Tensor, valid: np.ndarray | None) -> float:
    """The mean over the pixels of an image, a choice that needs no parameter. probs: (C, H, W). valid: (H, W) bool,
    the pixels that have data; None for all."""
    pixels = UNCERTAINTIES[by](probs[None])[0]
    if valid is not None:
        pixels = pixels[torch.from_numpy(valid).to(pixels.device)]
    return float(pixels.mean()) if pixels.numel() else 0.0


# --- diversity ------------------------------------------------------------------------------------------------------


def most_uncertain(uncertainties: Sequence[float], count: int) -> list[int]:
    """The indices of the `count` highest values, the highest first."""
    return sorted(range(len(uncertainties)), key=lambda index: -uncertainties[index])[:count]


def nearest_distances(features: Tensor, centres: Tensor) -> Tensor:
    """(N,) the Euclidean distance of each of the features (N, D) to the nearest of the centres (M, D)."""
    rows = [torch.cdist(some, centres).amin(dim=1) for some in features.split(DISTANCE_ROWS)]
    return torch.cat(rows)


def choose_core_set(features: Tensor, labelled: Tensor, count: int) -> list[ChosenImage]:
    """`count` of the features (N, D): each time the one farthest from the labelled ones (M, D) and those chosen before,
    the greedy solution of k-centre (Sener and Savarese, ICLR 2018, arXiv 1708.00489, algorithm 1)."""
    distances = nearest_distances(features, labelled)
    chosen: list[ChosenImage] = []
    for _ in range(count):
        index = int(distances.argmax())
        chosen.append(ChosenImage(index, float(distances[index])))
        distances = torch.minimum(distances, nearest_distances(features, features[index : index + 1]))
        distances[index] = -1.0
    return chosen


def choose_k_means(embeddings: Tensor, count: int, seed: int) -> list[ChosenImage]:
    """`count` of the embeddings (N, D), drawn as k-means++ draws its first centres (Arthur and Vassilvitskii, SODA
    2007): with a probability proportional to the squared distance to those drawn before, as in BADGE (Ash et al., ICLR
    2020, arXiv 1906.03671). The origin counts as drawn before the first one (our choice): an image of which the network
    is sure has a small embedding, and is drawn seldom."""
    draws = np.random.default_rng(seed)
    distances = embeddings.norm(dim=1)
    chosen: list[ChosenImage] = []
    for _ in range(count):
        weights = distances.double().numpy() ** 2
        if not weights.sum():  # what is left are copies of what was drawn
            weights = np.ones(len(embeddings))
            weights[[image.index for image in chosen]] = 0
        index = int(draws.choice(len(weights), p=weights / weights.sum()))
        chosen.append(ChosenImage(index, float(distances[index])))
        distances = torch.minimum(distances, nearest_distances(embeddings, embeddings[index : index + 1]))
        distances[index] = 0.0
    return chosen
