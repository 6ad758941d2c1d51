"""Pseudo-labels from probabilities, and the weight of their confident pixels."""

from __future__ import annotations

from torch import Tensor

from ssss_zoo.toolkit.types import PseudoLabel


def hard_label(probs: Tensor, valid: Tensor) -> PseudoLabel:
    """The likeliest class of each pixel, with its probability as confidence.

    probs: (B, C, H, W) float, sums to 1 over C. valid: (B, H, W) bool.
    """
    confidence, ids = probs.max(dim=1)
    return PseudoLabel(ids, confidence, valid)


def soft_label(probs: Tensor, valid: Tensor) -> PseudoLabel:
    """The whole distribution of each pixel as target, its largest probability as confidence; as in `hard_label`."""
    return PseudoLabel(probs, probs.amax(dim=1), valid)


def confident(label: PseudoLabel, threshold: float | Tensor) -> Tensor:
    """(B, H, W) float32: 1 where the label's confidence is at least `threshold`, else 0."""
    return (label.confidence >= threshold).float()
