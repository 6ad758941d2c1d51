"""CutMix-Seg (French et al., BMVC 2020, arXiv 1906.01916): on a mixed image, the student learns the
probabilities that an averaged teacher gives to its two source images, mixed in the same way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, PseudoLabel, Range, View, Views, confident, hookimpl, soft_label, squared_error, toggled_boxes,
)  # fmt: skip


@dataclass(eq=False)
class CutMixSeg:
    paper: ClassVar[str] = "CutMix-Seg (French et al., BMVC 2020, arXiv 1906.01916)"

    threshold: Annotated[float, Range(0, 1)] = 0.97  # of the confidence that is counted; release
    weight: Annotated[float, Range(0, 1e9)] = 1.0  # of the unlabelled loss; release, no ramp
    ema_decay: Annotated[float, Range(0, 1)] = 0.99  # constant, parameters and buffers; release
    partner: Literal["stream", "next", "reverse"] = "stream"  # a second unlabelled batch; release
    # Paper: no colour change; release's later scripts: strong, with a jitter of 0.4.
    strength: Literal["weak", "strong"] = "weak"

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], lambda progress: self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        """One box of half the image. One weight for the whole batch: its share of confident pixels (release)."""
        cutmix = CutMix(self.partner, toggled_boxes(*size, count=1, area=(0.5, 0.5)))
        view = View("mixed", self.strength, self.weight, "mixed", cutmix, loss=squared_error)
        return Views((replace(view, divide_by="all", weight_pooling="batch"),))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        return soft_label(probs, valid)

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return confident(label, self.threshold)
