"""UniMatch V2 (Yang et al., TPAMI 2025, arXiv 2410.10777): an averaged teacher labels two strong views whose features
lose complementary halves of their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, Perturbation, PseudoLabel, View, Views, check_choice, check_range, hookimpl, random_boxes,
)  # fmt: skip


@dataclass(eq=False)
class UniMatchV2:
    paper: ClassVar[str] = "UniMatch V2 (Yang et al., TPAMI 2025, arXiv 2410.10777)"

    threshold: float = 0.95  # a pixel counts from this confidence on; release, all data sets
    ema_decay: float = 0.996  # of the teacher, parameters and buffers, warmed up; release
    dropout: bool = True  # complementary channel dropout between the two views; paper section 3.3 and release
    partner: str = "reverse"  # CutMix partner; release: the batch read backwards, so an odd one mixes with itself

    def __post_init__(self) -> None:
        check_range("options.unimatch_v2.threshold", self.threshold, 0, 1)
        check_range("options.unimatch_v2.ema_decay", self.ema_decay, 0, 1)
        check_choice("options.unimatch_v2.partner", self.partner, ("reverse", "next", "stream"))

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        halves = complementary_dropout(size[0]) if self.dropout else (None, None)
        views = tuple(
            View(name, loss_weight=0.25, cutmix=CutMix(self.partner, random_boxes(*size)), perturb=half)
            for name, half in zip(("strong1", "strong2"), halves, strict=True)
        )
        return Views(views, supervised_weight=0.5)  # release: (L_x + (U_1 + U_2) / 2) / 2

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return (label.confidence >= self.threshold).float()


def complementary_dropout(images: int) -> tuple[Perturbation, Perturbation]:
    """What happens to the maps of two views: for each image every channel is kept, doubled, in one view and zero in the
    other, by a fair coin; floor(B / 2) images, drawn without replacement, keep all channels in both (release).

    The coins come from a seed drawn here, so maps of the same width share a mask, as the release's four token maps do.
    """
    seed, spared = int(torch.randint(2**62, ())), torch.zeros(images, dtype=torch.bool)
    spared[torch.randperm(images)[: images // 2]] = True

    def half(first: bool) -> Perturbation:
        def perturb(maps: list[Tensor]) -> list[Tensor]:
            gates = {level.shape[1]: gate(level.shape[1]).to(level, non_blocking=True) for level in maps}
            return [level * gates[level.shape[1]] for level in maps]

        def gate(width: int) -> Tensor:
            coins = torch.rand(images, width, generator=torch.Generator().manual_seed(seed)) < 0.5
            factors = 2.0 * (coins if first else ~coins)
            return torch.where(spared.unsqueeze(1), 1.0, factors)[:, :, None, None]

        return perturb

    return half(True), half(False)
