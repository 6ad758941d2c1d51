"""Calibration: how far a network's confidence lies from its accuracy (Guo et al., ICML 2017, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssss_zoo.toolkit.types import IGNORE

CONFIDENCE_BINS = 15  # Guo et al., ICML 2017, section 5
ERROR_DIGITS = 6  # of the error that are kept: the rest depends on how float32 rounded the confidences


def count_confidence(confidence: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
    """(CONFIDENCE_BINS, 3) float64: pixels, summed confidence and right pixels by confidence; void is left out.

    confidence: of the predicted class, in [0, 1]; predicted, truth: class ids; all three of one shape.
    """
    known = (truth != IGNORE) & confidence.isfinite()
    confidence = confidence[known].double()
    right = (predicted == truth)[known].double()
    bin_index = (confidence * CONFIDENCE_BINS).ceil().long().clamp(1, CONFIDENCE_BINS) - 1
    columns = (torch.ones_like(confidence), confidence, right)
    return torch.stack([torch.bincount(bin_index, column, CONFIDENCE_BINS) for column in columns], dim=1)


def expected_calibration_error(bins: Tensor) -> float:
    """In [0, 1]: the mean distance of confidence and accuracy, bin by bin. bins: as `count_confidence` counts."""
    pixels, confidence, right = bins.unbind(dim=1)
    return round(float((confidence - right).abs().sum() / pixels.sum().clamp(min=1)), ERROR_DIGITS)
