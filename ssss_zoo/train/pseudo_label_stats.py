"""Statistics of pseudo-labels: pixels used, their classes, how many are right; a warning where they collapse."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.data.base import Dataset
from ssss_zoo.record_files import PseudoLabelFigures
from ssss_zoo.toolkit.types import IGNORE, PseudoLabel

COLLAPSED_SHARE = 0.995  # of one class among used pixels, from which on a warning is given (our choice)
MISPLACED_SHARE = 0.5  # of used pixels, of other classes than among the labels: from here on a warning (our choice)
RECENT_READINGS = 10  # read-outs that this share is averaged over: a single batch may show few classes (our choice)
UNUSED_SHARE = 0.001  # of used pixels, below which a warning is given (our choice)
SUM_NAMES = ("valid", "used", "weight", "confidence")


class PseudoLabelStats:
    """Counts on the device what pseudo-labels look like, in the steps in which it is active.

    histogram: (C,) the share of each class among the labelled pixels.
    """

    def __init__(self, num_classes: int, histogram: np.ndarray, device: torch.device) -> None:
        self.num_classes = num_classes
        self.histogram = histogram
        self.device = device
        self.active = False
        self.recent_classes: deque[list[float]] = deque(maxlen=RECENT_READINGS)
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.sums: dict[str, Tensor] = {}
        self.classes = torch.zeros(self.num_classes, device=self.device)
        self.right = torch.zeros(self.num_classes, device=self.device)
        self.known = torch.zeros(self.num_classes, device=self.device)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel, weight: Tensor, hidden: Tensor | None) -> None:
        """Count one batch of pseudo-labels, with their pixel weights and hidden labels (B, H, W). Does not wait for the
        device."""
        if not self.active:
            return
        used = label.valid & (weight > 0)
        ids = label.ids.flatten()
        self.add("valid", label.valid.sum())
        self.add("used", used.sum())
        self.add("weight", (weight * label.valid).sum())
        self.add("confidence", (label.confidence * label.valid).sum())
        self.classes.index_add_(0, ids, used.flatten().float())
        if hidden is not None:
            known = used & (hidden != IGNORE)
            self.known.index_add_(0, ids, known.flatten().float())
            self.right.index_add_(0, ids, (known & (label.ids == hidden)).flatten().float())

    def add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value

    def read(self) -> PseudoLabelFigures | None:
        """The figures since the last reading; None where no pseudo-label was counted. Waits for the device."""
        if not self.sums:
            return None
        valid, used, weight, confidence = torch.stack([self.sums[name] for name in SUM_NAMES]).tolist()
        classes, right, known = torch.stack([self.classes, self.right, self.known]).tolist()
        figures: PseudoLabelFigures = {
            "used": used / max(valid, 1),
            "weight": weight / max(valid, 1),
            "confidence": confidence / max(valid, 1),
            "classes": [count / max(used, 1) for count in classes],
        }
        if sum(known):
            figures["accuracy"] = sum(right) / sum(known)
            figures["class_accuracy"] = [r / k if k else None for r, k in zip(right, known, strict=True)]
        self.reset()
        self.recent_classes.append(figures["classes"])
        return figures

    def warning(self, figures: PseudoLabelFigures, class_names: Sequence[str]) -> str | None:
        """A line where hardly a pixel is used, where nearly all used ones are of one class that is rarer among labels,
        or where the classes of the latest read-outs are spread quite otherwise than those of the labels."""
        if figures["used"] < UNUSED_SHARE:
            return (
                f"pseudo-labels: only {figures['used']:.2%} of the pixels are used; the unlabelled images teach "
                "nothing yet (a threshold may be too high)"
            )
        top = int(np.argmax(figures["classes"]))
        if figures["classes"][top] > COLLAPSED_SHARE and self.histogram[top] < 0.9:
            return (
                f"pseudo-labels: {figures['classes'][top]:.1%} of the used pixels are '{class_names[top]}', which is "
                f"{self.histogram[top]:.1%} of the labelled ones: the labels have collapsed"
            )
        if len(self.recent_classes) < RECENT_READINGS:
            return None
        recent = np.mean(self.recent_classes, axis=0)
        excess = recent - self.histogram
        misplaced = np.abs(excess).sum() / 2  # total variation distance of the two distributions
        if misplaced < MISPLACED_SHARE:
            return None
        much, little = int(np.argmax(excess)), int(np.argmin(excess))
        return (
            f"pseudo-labels: {recent[much]:.1%} of the used pixels are '{class_names[much]}' and {recent[little]:.1%} "
            f"'{class_names[little]}', which are {self.histogram[much]:.1%} and {self.histogram[little]:.1%} of the "
            "labelled ones: the labels may have collapsed, or the unlabelled images show other things"
        )


def labelled_histogram(dataset: Dataset, image_count: int = 64) -> np.ndarray:
    """(C,) share of each class among the labelled pixels, from at most `image_count` images at even distances."""
    counts = np.zeros(256, np.int64)
    picks = np.linspace(0, len(dataset.labelled) - 1, min(image_count, len(dataset.labelled))).astype(int)
    for index in picks:
        counts += np.bincount(dataset.read_mask(dataset.labelled[index]).ravel(), minlength=256)
    counts = counts[: len(dataset.class_names)]
    return counts / max(counts.sum(), 1)
