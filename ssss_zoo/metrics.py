"""mIoU as the field means it: one confusion matrix over the whole set, then a mean over classes; void is out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ssss_zoo.records import IGNORE


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


def mean_iou(ious: list[float | None], absent: str) -> float:
    """The mean over classes, in [0, 1]. absent: a class that is nowhere is `exclude`d, or counts `zero`."""
    values = [0.0 if iou is None else iou for iou in ious if iou is not None or absent == "zero"]
    return math.fsum(values) / len(values) if values else 0.0


def summary(matrix: Tensor, class_names: tuple[str, ...], absent: str) -> dict[str, Any]:
    """The figures of one network: `miou`, `iou` by class name (None: absent), `pixel_accuracy`; all in [0, 1]."""
    matrix = matrix.reshape(len(class_names), -1)  # torchmetrics makes a single class a single number
    ious = iou_per_class(matrix)
    total = matrix.sum().item()
    return {
        "miou": mean_iou(ious, absent),
        "iou": dict(zip(class_names, ious, strict=True)),
        "pixel_accuracy": matrix.diag().sum().item() / total if total else 0.0,
    }
