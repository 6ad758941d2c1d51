"""Pseudo-label health: how many pixels are used, of which classes, how good they are, and a warning on collapse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.data.base import Dataset
from ssss_zoo.toolkit.types import IGNORE, PseudoLabel

COLLAPSED = 0.995  # share of one class among used pixels from which on we warn (our choice)
STARVED = 0.001  # share of used pixels below which we warn (our choice)


class Health:
    """Collects, on the device, what the pseudo-labels of the logged steps look like; `read` brings it to the host.

    histogram: (C,) share of each class among the labelled pixels.
    """

    def __init__(self, num_classes: int, histogram: np.ndarray, device: torch.device) -> None:
        self.num_classes, self.histogram, self.device = num_classes, histogram, device
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.classes = torch.zeros(self.num_classes, device=self.device)
        self.right = torch.zeros(self.num_classes, device=self.device)
        self.known = torch.zeros(self.num_classes, device=self.device)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel, weight: Tensor, hidden: Tensor | None) -> None:
        """Add one batch. No host synchronisation. label, weight, hidden: of the weak views."""
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

    def read(self) -> dict[str, Any] | None:
        """Figures since the last reading, None when there was no pseudo-label: `used` (share of valid pixels with a
        weight), `weight` and `confidence` (means over valid pixels), `classes` (share of each class among used pixels),
        and with hidden labels `accuracy` and `class_accuracy` of used pixels (None: class not predicted)."""
        if not self.sums:
            return None
        valid, used, weight, confidence = torch.stack([self.sums[n] for n in SUMS]).tolist()
        classes, right, known = torch.stack([self.classes, self.right, self.known]).tolist()
        figures: dict[str, Any] = {
            "used": used / max(valid, 1),
            "weight": weight / max(valid, 1),
            "confidence": confidence / max(valid, 1),
            "classes": [count / max(used, 1) for count in classes],
        }
        if sum(known):
            figures["accuracy"] = sum(right) / sum(known)
            figures["class_accuracy"] = [r / k if k else None for r, k in zip(right, known, strict=True)]
        self.reset()
        return figures

    def warning(self, figures: dict[str, Any], class_names: tuple[str, ...]) -> str | None:
        """What looks like a collapse, in one line."""
        if figures["used"] < STARVED:
            return (
                f"pseudo-labels: only {figures['used']:.2%} of the pixels are used; the unlabelled images teach "
                "nothing yet (a threshold may be too high)"
            )
        top = int(np.argmax(figures["classes"]))
        if figures["classes"][top] > COLLAPSED and self.histogram[top] < 0.9:
            return (
                f"pseudo-labels: {figures['classes'][top]:.1%} of the used pixels are '{class_names[top]}', which is "
                f"{self.histogram[top]:.1%} of the labelled ones: the labels have collapsed"
            )
        return None


SUMS = ("valid", "used", "weight", "confidence")


def labelled_histogram(dataset: Dataset, most: int = 64) -> np.ndarray:
    """(C,) share of each class among the labelled pixels, from at most `most` images at even distances."""
    counts = np.zeros(256, np.int64)
    picks = np.linspace(0, len(dataset.labelled) - 1, min(most, len(dataset.labelled))).astype(int)
    for index in picks:
        counts += np.bincount(dataset.read_mask(dataset.labelled[index]).ravel(), minlength=256)
    counts = counts[: len(dataset.class_names)]
    return counts / max(counts.sum(), 1)
