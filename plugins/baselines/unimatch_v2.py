"""UniMatch V2 (Yang et al., TPAMI 2025, arXiv 2410.10777): an averaged teacher labels two strong views whose features
lose complementary halves of their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, Perturbation, PseudoLabel, Range, View, Views, confident, hookimpl, random_boxes,
)  # fmt: skip


@dataclass(eq=False)
class UniMatchV2:
    paper: ClassVar[str] = "UniMatch V2 (Yang et al., TPAMI 2025, arXiv 2410.10777)"

    # A pixel counts from this confidence on; release, all data sets.
    threshold: Annotated[float, Range(0, 1)] = 0.95
    # Of the teacher, parameters and buffers, warmed up; release.
    ema_decay: Annotated[float, Range(0, 1)] = 0.996
    dropout: bool = True  # complementary channel dropout between the two views; paper section 3.3 and release
    # Whose pixels CutMix pastes; release: the batch read backwards, so the middle image of an odd one meets itself.
    partner: Literal["reverse", "next", "stream"] = "reverse"

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
        return confident(label, self.threshold)


def complementary_dropout(images: int) -> tuple[Perturbation, Perturbation]:
    """The perturbations of two views: a fair coin decides for each image and channel in which view the channel is
    doubled; in the other it is 0. floor(B / 2) images, drawn without replacement, keep all channels in both (release).

    Coins are drawn on the device, once for each width: maps of the same width share a mask, as the release's four token
    maps do, and so do the two views.
    """
    coins: dict[int, Tensor] = {}
    spared = torch.zeros(images, dtype=torch.bool)
    spared[torch.randperm(images)[: images // 2]] = True

    def half(first: bool) -> Perturbation:
        """The perturbation of one of the two views."""

        def perturb(maps: list[Tensor]) -> list[Tensor]:
            gates = {level.shape[1]: gate(level.shape[1], level.device).to(level.dtype) for level in maps}
            return [level * gates[level.shape[1]] for level in maps]

        def gate(width: int, device: torch.device) -> Tensor:
            if width not in coins:
                coins[width] = torch.rand(images, width, device=device) < 0.5
            factors = 2.0 * (coins[width] if first else ~coins[width])
            whole = spared.to(device, non_blocking=True).unsqueeze(1)
            return torch.where(whole, 1.0, factors)[:, :, None, None]

        return perturb

    return half(True), half(False)
