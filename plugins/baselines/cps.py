"""CPS (Chen et al., CVPR 2021, arXiv 2106.01226): two networks that began apart label for each other, with or without
CutMix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, PeerTeacher, PseudoLabel, View, Views, check_choice, check_range, hookimpl, toggled_boxes,
)  # fmt: skip


@dataclass(eq=False)
class CPS:
    paper: ClassVar[str] = "CPS (Chen et al., CVPR 2021, arXiv 2106.01226)"

    weight: float = 1.5  # lambda; TorchSemiSeg: 1.5 VOC, 6 Cityscapes; with CutMix 1 and 5
    cutmix: bool = False  # with it, the cross loss is on mixed unlabelled images alone
    partner: str = "stream"  # cutmix: a second unlabelled batch; TorchSemiSeg's holds the same photographs: twin
    mask_padding: bool = False  # TorchSemiSeg: the peer teaches padded pixels like any other

    def __post_init__(self) -> None:
        check_range("options.cps.weight", self.weight, 0, 1e9)
        check_choice("options.cps.partner", self.partner, ("stream", "twin", "next", "reverse"))

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
        confidence, ids = probs.max(dim=1)
        return PseudoLabel(ids, confidence, valid if self.mask_padding else torch.ones_like(valid))
