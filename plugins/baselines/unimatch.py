"""UniMatch (Yang et al., CVPR 2023): FixMatch with two strong views and a weak view whose features are perturbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, PseudoLabel, Range, SelfTeacher, View, Views, channel_dropout, confident, hookimpl, random_boxes,
)  # fmt: skip


@dataclass(eq=False)
class UniMatch:
    paper: ClassVar[str] = "UniMatch (Yang et al., CVPR 2023, arXiv 2208.09910)"

    threshold: Annotated[float, Range(0, 1)] = 0.95  # release: 0.95 VOC and COCO, 0 Cityscapes
    # Channel dropout of the perturbed view; paper section 3.2 and release.
    dropout: Annotated[float, Range(0, 0.99)] = 0.5
    # Whose pixels CutMix pastes; release: a second batch of the same photographs, twin.
    partner: Literal["stream", "twin", "next", "reverse"] = "stream"
    perturb_labelled: bool = True  # release: BatchNorm also sees perturbed labelled features; false is quicker

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> SelfTeacher:
        return SelfTeacher(students[index], shares_pass=True)  # release: labels from the labelled images' pass

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        strong = [
            View(name, loss_weight=0.125, cutmix=CutMix(self.partner, random_boxes(*size)))
            for name in ("strong1", "strong2")
        ]
        perturbed = View(
            "perturbed",
            strength="weak",
            loss_weight=0.25,
            forward_group="labelled",
            perturb=channel_dropout(self.dropout),
            perturb_labelled=self.perturb_labelled,
        )
        return Views((*strong, perturbed), supervised_weight=0.5)  # release: (L_x + U_1/4 + U_2/4 + U_fp/2) / 2

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return confident(label, self.threshold)
