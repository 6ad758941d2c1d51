"""CPS (Chen et al., CVPR 2021, arXiv 2106.01226): two networks with different initial weights
make pseudo-labels for each other, with or without CutMix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, PeerTeacher, PseudoLabel, Range, View, Views, hard_label, hookimpl, toggled_boxes,
)  # fmt: skip


@dataclass(eq=False)
class CPS:
    paper: ClassVar[str] = "CPS (Chen et al., CVPR 2021, arXiv 2106.01226)"

    # lambda; TorchSemiSeg: 1.5 VOC, 6 Cityscapes; with CutMix 1 and 5.
    weight: Annotated[float, Range(0, 1e9)] = 1.5
    cutmix: bool = False  # with it, the cross loss is on mixed unlabelled images alone
    # cutmix: a second unlabelled batch; TorchSemiSeg's holds the same photographs: twin.
    partner: Literal["stream", "twin", "next", "reverse"] = "stream"
    mask_padding: bool = False  # TorchSemiSeg: the peer teaches padded pixels like any other

    @hookimpl
    def make_students(self, make_network: Callable[[], nn.Module]) -> list[nn.Module]:
        return [make_network(), make_network()]

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> PeerTeacher:
        """Without CutMix labels are read off the peer's own training passes; with it, it makes passes for them."""
        return PeerTeacher(students[(index + 1) % len(students)], shares_pass=not self.cutmix, forward_group="weak")

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        if self.cutmix:
            mix = CutMix(self.partner, toggled_boxes(*size, count=3, area=(0.25, 0.5)))
            return Views((View("mixed", "weak", self.weight, "mixed", mix),), labelled_last=True)
        unlabelled = View("weak", "weak", self.weight / 2, "weak")  # the release's mean is over both streams together
        return Views((unlabelled, View("same", "weak", self.weight / 2, "labelled", images="labelled")))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        return hard_label(probs, valid if self.mask_padding else torch.ones_like(valid))
