"""FixMatch for segmentation (Sohn et al., 2020), as UniMatch's releases run it: confident pixels of the weak view teach
the strong one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, PseudoLabel, Range, SelfTeacher, View, Views, confident, hookimpl, random_boxes,
)  # fmt: skip


@dataclass(eq=False)
class FixMatch:
    paper: ClassVar[str] = "FixMatch (Sohn et al., 2020, arXiv 2001.07685), as in UniMatch's releases"

    # A pixel counts from this confidence on; UniMatch's release: 0.95 on VOC and COCO, 0 on Cityscapes.
    threshold: Annotated[float, Range(0, 1)] = 0.95
    # Whose pixels CutMix pastes; release: a second batch of the same photographs, twin; V2's: reverse.
    partner: Literal["stream", "twin", "next", "reverse"] = "stream"
    # 0: the student labels for itself (release); else the decay of the average that labels (V2's release: 0.996).
    ema_decay: Annotated[float, Range(0, 1)] = 0.0
    shared_pass: bool = False  # V2's release: the strong view shares the pass of the labelled images

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher | SelfTeacher:
        if self.ema_decay:
            return EMATeacher(students[index], self.ema_decay)
        return SelfTeacher(students[index], shares_pass=True)  # release: labels from the labelled images' pass

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        group = "labelled" if self.shared_pass else "strong"
        cutmix = CutMix(self.partner, random_boxes(*size))
        strong = View("strong", loss_weight=0.5, forward_group=group, cutmix=cutmix)
        return Views((strong,), supervised_weight=0.5)  # release: (L_x + L_u) / 2

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return confident(label, self.threshold)
