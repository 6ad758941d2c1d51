"""mIoU as the field computes it: one confusion matrix over the whole set, without void, then the mean over classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssss_zoo.toolkit.types import IGNORE


def import_torchmetrics() -> None:
    """Import it before a time is measured: the import takes seconds."""
    import torchmetrics.classification  # noqa: F401


def confusion_matrix(num_classes: int, device: torch.device) -> Any:
    """A torchmetrics confusion matrix (truth in rows) that leaves IGNORE pixels out."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False).to(device)


def iou_per_class(matrix: Tensor) -> list[float | None]:
    """Intersection over union of each class in [0, 1]; None for a class in neither truth nor prediction.

    matrix: (C, C) counts, truth in rows.
    """
    matrix = matrix.double()
    intersection = matrix.diag()
    union = matrix.sum(dim=0) + matrix.sum(dim=1) - intersection
    return [
        both / either if either else None for both, either in zip(intersection.tolist(), union.tolist(), strict=True)
    ]


def ious_in_mean(ious: Sequence[float | None], true_pixels: Sequence[int], absent: str) -> list[float | None]:
    """The IoUs that the mean is over, None for a class that the mean leaves out.

    absent: for a class that the truth does not show, `exclude` leaves it out, `zero` counts its IoU, or 0. Either way
    the mean is over the same classes whatever was predicted; pixels predicted as an excluded class still count against
    the classes that they belong to. true_pixels: of each class in the truth.
    """
    if absent == "zero":
        return [iou or 0.0 for iou in ious]
    return [iou if pixels else None for iou, pixels in zip(ious, true_pixels, strict=True)]


def mean_iou(ious: Sequence[float | None]) -> float:
    """The mean of those that are not None, in [0, 1]; 0 for none."""
    values = [iou for iou in ious if iou is not None]
    return math.fsum(values) / len(values) if values else 0.0


def score_summary(matrix: Tensor, class_names: tuple[str, ...], absent: str) -> dict[str, Any]:
    """The scores of one network: `miou`, `classes_in_mean` (how many classes the mean is over), `iou` by class name
    (None: in neither truth nor prediction) and `pixel_accuracy`, all but the second in [0, 1]. absent: see
    `ious_in_mean`."""
    matrix = matrix.reshape(len(class_names), -1)  # torchmetrics makes a single class a single number
    ious = iou_per_class(matrix)
    in_mean = ious_in_mean(ious, matrix.sum(dim=1).tolist(), absent)
    total = matrix.sum().item()
    return {
        "miou": mean_iou(in_mean),
        "classes_in_mean": sum(iou is not None for iou in in_mean),
        "iou": dict(zip(class_names, ious, strict=True)),
        "pixel_accuracy": matrix.diag().sum().item() / total if total else 0.0,
    }
