"""AugSeg (Zhao et al., CVPR 2023, arXiv 2212.04976): a mean teacher. The student's images get a random number of
intensity operations of random strength, and boxes of labelled pixels where the teacher is unsure of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.plugins.baselines.augseg_intensity import RandomIntensity
from ssss_zoo.toolkit import (
    CutMix, EMATeacher, Progress, PseudoLabel, Range, View, Views, centred_boxes, confident, ema_warmup, hard_label,
    hookimpl,
)  # fmt: skip

INJECTED_BETA = (8.0, 2.0)  # of Beta, the share of an image that a box of labelled pixels leaves; release
MIXED_BETA = (4.0, 4.0)  # the same for a box of another image; release
SMALLEST_LOG = 1e-6  # of log C: one class alone has no entropy


@dataclass(eq=False)
class AugSeg:
    paper: ClassVar[str] = "AugSeg (Zhao et al., CVPR 2023, arXiv 2212.04976)"

    # A pixel counts from this confidence on; release: 0.95 VOC, every pixel on Cityscapes.
    threshold: Annotated[float, Range(0, 1)] = 0.95
    # Of parameters and buffers; release: 0.999 VOC, 0.996 Cityscapes.
    ema_decay: Annotated[float, Range(0, 1)] = 0.999
    # The teacher is the student's copy so long; release: the first epoch.
    copy_epochs: Annotated[float, Range(0, 1e6)] = 1.0
    operations: Annotated[int, Range(1, 11)] = 3  # at most, drawn for each image; release
    weight: Annotated[float, Range(0, 1e6)] = 1.0  # of the unlabelled loss; release
    inject: bool = True  # boxes of labelled pixels; paper section 3.3
    mask_padding: bool = False  # release: padded pixels of unlabelled crops teach like any other

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.decay)

    def decay(self, progress: Progress) -> float:
        return 0.0 if progress.epoch < self.copy_epochs else ema_warmup(progress.step, self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        """A box of the next image in a random order, which holds a box of labelled pixels if its image is doubtful."""
        order = torch.randperm(size[0])
        chances = torch.rand(size[0])
        labelled = CutMix("labelled", centred_boxes(*size, INJECTED_BETA), order, gate=doubtful(chances))
        cutmix = CutMix("rows", centred_boxes(*size, MIXED_BETA), order, under=labelled if self.inject else None)
        intensity = RandomIntensity(self.operations)
        view = View("strong", intensity, self.weight, forward_group="labelled", cutmix=cutmix, divide_by="all")
        return Views((view,))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        return hard_label(probs, valid if self.mask_padding else torch.ones_like(valid))

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return confident(label, self.threshold)


def doubtful(chances: Tensor) -> Callable[[Tensor], Tensor]:
    """Which images are injected into: each with probability 1 - kappa. chances: (B,) uniform draws."""
    return lambda probs: chances.to(probs.device, non_blocking=True) >= sureness(probs)


def sureness(probs: Tensor) -> Tensor:
    """kappa (B,) in [0, 1]: the mean over an image of (1 - H(p) / log C) * max p (release). probs: (B, C, H, W)."""
    entropy = torch.special.entr(probs).sum(dim=1) / max(math.log(probs.shape[1]), SMALLEST_LOG)
    return ((1 - entropy) * probs.amax(dim=1)).mean(dim=(1, 2))
