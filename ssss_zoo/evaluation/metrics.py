"""mIoU as the field means it: one confusion matrix over the whole set, then a mean over classes; void is out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssss_zoo.toolkit.types import IGNORE


def import_torchmetrics() -> None:
    """Once takes seconds; before a time is measured, so that they are no part of it."""
    import torchmetrics.classification  # noqa: F401


def confusion_matrix(num_classes: int, device: torch.device) -> Any:
    """A torchmetrics confusion matrix (truth in rows) that leaves IGNORE pixels out."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False).to(device)


def iou_per_class(matrix: Tensor) -> list[float | None]:
    """Intersection over union of each class in [0, 1]; None for a class found neither in truth nor in prediction.

    matrix: (C, C) counts, truth in rows.
    """
    matrix = matrix.double()
    both = matrix.diag()
    union = matrix.sum(dim=0) + matrix.sum(dim=1) - both
    return [b / u if u else None for b, u in zip(both.tolist(), union.tolist(), strict=True)]


def counting(ious: Sequence[float | None], true: Sequence[int], absent: str) -> list[float | None]:
    """The IoUs that the mean is over, None for a class that leaves it. A class that the truth does not show is
    `exclude`d (what is taken for it counts against the classes that are there), or counts `zero`. So the mean is over
    the same classes whatever was predicted. true: pixels of each class in the truth."""
    if absent == "zero":
        return [iou or 0.0 for iou in ious]
    return [iou if pixels else None for iou, pixels in zip(ious, true, strict=True)]


def mean_iou(ious: Sequence[float | None]) -> float:
    """The mean of those that are not None, in [0, 1]; 0 for none."""
    values = [iou for iou in ious if iou is not None]
    return math.fsum(values) / len(values) if values else 0.0


def summary(matrix: Tensor, class_names: tuple[str, ...], absent: str) -> dict[str, Any]:
    """The figures of one network: `miou`, `classes_in_mean` (how many it is over), `iou` by class name (None: found
    neither in truth nor in prediction), `pixel_accuracy`; shares in [0, 1]. absent: see `counting`."""
    matrix = matrix.reshape(len(class_names), -1)  # torchmetrics makes a single class a single number
    ious = iou_per_class(matrix)
    counted = counting(ious, matrix.sum(dim=1).tolist(), absent)
    total = matrix.sum().item()
    return {
        "miou": mean_iou(counted),
        "classes_in_mean": sum(iou is not None for iou in counted),
        "iou": dict(zip(class_names, ious, strict=True)),
        "pixel_accuracy": matrix.diag().sum().item() / total if total else 0.0,
    }
