"""AugSeg (Zhao et al., CVPR 2023, arXiv 2212.04976): a mean teacher whose student sees intensity operations of random
number and strength, and boxes of labelled pixels where the teacher is unsure of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, Progress, PseudoLabel, RandomIntensity, View, Views, centred_boxes, check_range, ema_warmup,
    hookimpl,
)  # fmt: skip

INJECTED, MIXED = (8.0, 2.0), (4.0, 4.0)  # of Beta, what a box leaves of the image: release
SMALLEST = 1e-6  # smallest log C: one class alone has no entropy


@dataclass(eq=False)
class AugSeg:
    paper: ClassVar[str] = "AugSeg (Zhao et al., CVPR 2023, arXiv 2212.04976)"

    threshold: float = 0.95  # a pixel counts from this confidence on; release: 0.95 VOC, every pixel on Cityscapes
    ema_decay: float = 0.999  # of parameters and buffers; release: 0.999 VOC, 0.996 Cityscapes
    copy_epochs: float = 1.0  # the teacher is the student's copy so long; release: the first epoch
    operations: int = 3  # at most, drawn for each image; release
    weight: float = 1.0  # of the unlabelled loss; release
    inject: bool = True  # boxes of labelled pixels; paper section 3.3
    mask_padding: bool = False  # release: padded pixels of unlabelled crops teach like any other

    def __post_init__(self) -> None:
        check_range("options.augseg.threshold", self.threshold, 0, 1)
        check_range("options.augseg.ema_decay", self.ema_decay, 0, 1)
        check_range("options.augseg.copy_epochs", self.copy_epochs, 0, 1e6)
        check_range("options.augseg.operations", self.operations, 1, 11)
        check_range("options.augseg.weight", self.weight, 0, 1e6)
        self.intensity = RandomIntensity(self.operations)

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.decay)

    def decay(self, progress: Progress) -> float:
        return 0.0 if progress.epoch < self.copy_epochs else ema_warmup(progress.step, self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        """A box of the next image in a random order, which holds a box of labelled pixels if its image is doubtful."""
        order, chances = torch.randperm(size[0]), torch.rand(size[0])
        labelled = CutMix("labelled", centred_boxes(*size, INJECTED), order, gate=doubtful(chances))
        mix = CutMix("rows", centred_boxes(*size, MIXED), order, under=labelled if self.inject else None)
        view = View("strong", self.intensity, self.weight, forward_group="labelled", cutmix=mix, divide_by="all")
        return Views((view,))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        confidence, ids = probs.max(dim=1)
        return PseudoLabel(ids, confidence, valid if self.mask_padding else torch.ones_like(valid))

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return (label.confidence >= self.threshold).float()


def doubtful(chances: Tensor) -> Callable[[Tensor], Tensor]:
    """Which images are injected into: each with probability 1 - kappa. chances: (B,) uniform draws."""
    return lambda probs: chances.to(probs.device, non_blocking=True) >= sureness(probs)


def sureness(probs: Tensor) -> Tensor:
    """kappa (B,) in [0, 1]: the mean over an image of (1 - H(p) / log C) * max p (release). probs: (B, C, H, W)."""
    entropy = torch.special.entr(probs).sum(dim=1) / max(math.log(probs.shape[1]), SMALLEST)
    return ((1 - entropy) * probs.amax(dim=1)).mean(dim=(1, 2))
