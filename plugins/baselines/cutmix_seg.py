"""CutMix-Seg (French et al., BMVC 2020, arXiv 1906.01916): the student's probabilities on a mixed image follow an
averaged teacher's on its two sources, mixed alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, PseudoLabel, View, Views, check_choice, check_range, hookimpl, squared_error, toggled_boxes,
)  # fmt: skip


@dataclass(eq=False)
class CutMixSeg:
    paper: ClassVar[str] = "CutMix-Seg (French et al., BMVC 2020, arXiv 1906.01916)"

    threshold: float = 0.97  # of the confidence that is counted; release
    weight: float = 1.0  # of the unlabelled loss; release, no ramp
    ema_decay: float = 0.99  # constant, parameters and buffers; release
    partner: str = "stream"  # a second unlabelled batch; release
    strength: str = "weak"  # paper: no colour change; release's later scripts: strong, with a jitter of 0.4

    def __post_init__(self) -> None:
        check_range("options.cutmix_seg.threshold", self.threshold, 0, 1)
        check_range("options.cutmix_seg.weight", self.weight, 0, 1e9)
        check_range("options.cutmix_seg.ema_decay", self.ema_decay, 0, 1)
        check_choice("options.cutmix_seg.partner", self.partner, ("stream", "next", "reverse"))
        check_choice("options.cutmix_seg.strength", self.strength, ("weak", "strong"))

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], lambda progress: self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        """One box of half the image. Confidence is one number for the batch: the share of sure pixels (release)."""
        mix = CutMix(self.partner, toggled_boxes(*size, count=1, area=(0.5, 0.5)))
        view = View(
            "mixed",
            self.strength,
            self.weight,
            "mixed",
            mix,
            divide_by="all",
            weight_pooling="batch",
            loss=squared_error,
        )
        return Views((view,))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        return PseudoLabel(probs, probs.amax(dim=1), valid)

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return (label.confidence >= self.threshold).float()
