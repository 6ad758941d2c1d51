"""PixCon (Tarubinga et al., 2026, arXiv 2607.03068): a contrastive term whose memory takes only labelled pixels that
the student already classifies correctly. An addition: run it as `unimatch_v2+pixcon` or on another method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate as resize

from ssss_zoo.toolkit import (
    NEVER, NO_CLASS, ClassBank, Labelled, Output, RunInfo, anchor_mean, check_choice, check_range, draw_anchors,
    draw_members, flatten_pixels, hookimpl, l2_normalize, projection_head,
)  # fmt: skip


@dataclass(eq=False)
class PixCon:
    paper: ClassVar[str] = "PixCon (Tarubinga et al., 2026, arXiv 2607.03068), an addition to UniMatch V2"

    weight: float = 0.1  # release
    temperature: float = 0.1  # release
    dim: int = 256  # release
    per_class: int = 64  # pixels of each class that are admitted a step, at most; release
    anchors: int = 1024  # of them all, at most; release
    memory: int = 256  # vectors of each class; release
    admit: str = "correct"  # correct: student right | all labelled pixels; both in the release

    def __post_init__(self) -> None:
        check_range("options.pixcon.weight", self.weight, 0, 1e6)
        check_range("options.pixcon.temperature", self.temperature, 1e-3, 1e3)
        for name in ("dim", "per_class", "anchors", "memory"):
            check_range(f"options.pixcon.{name}", getattr(self, name), 1, 1e6)
        check_choice("options.pixcon.admit", self.admit, ("correct", "all"))
        self.per_class = min(self.per_class, self.memory)

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.head = projection_head(info.feature_dim, self.dim)
        self.bank = ClassBank(info.num_classes, self.memory, self.dim)
        return {"pixcon_head": self.head, "pixcon_memory": self.bank}

    @hookimpl
    def regularize(self, labelled: Labelled, labelled_output: Output) -> dict[str, Tensor]:
        """InfoNCE of admitted pixels against the memory of earlier steps; then they join it."""
        maps = labelled_output.features.float()
        grid = maps.shape[-2:]
        truth = resize(labelled.mask.unsqueeze(1).float(), grid, mode="nearest")[:, 0].long()
        logits = resize(
            labelled_output.logits.float(), grid, mode="bilinear", align_corners=True
        )  # both as the release
        guess = logits.max(dim=1).indices
        ids = truth if self.admit == "all" else torch.where(guess == truth, truth, NO_CLASS)
        with torch.autocast(maps.device.type, enabled=False):
            cells = flatten_pixels(l2_normalize(self.head(maps)))
            drawn = draw_anchors(ids.flatten(), len(self.bank.filled), self.per_class)
            admitted = cells[drawn.cells]  # (C, A, D)
            some = draw_members(drawn.drawn.flatten().unsqueeze(0), self.anchors)
            rows, counted = some.cells[0], some.drawn[0]
            anchors, own = admitted.flatten(0, 1)[rows], rows // admitted.shape[1]
            loss = bank_nce(anchors, own, counted, self.bank, self.temperature)
            self.bank.push(admitted.detach(), drawn.drawn)
        return {"pixcon": self.weight * loss}


def bank_nce(anchors: Tensor, own: Tensor, counted: Tensor, bank: ClassBank, temperature: float) -> Tensor:
    """-log of the share that an anchor's own class has of sum exp(a . v / temperature) over the memory, mean over the
    counted anchors whose class the memory knows; 0, connected to the graph, without any.

    anchors: (N, D) of length 1; own: (N,) their classes; counted: (N,) bool.
    """
    there = bank.valid()  # (C, M)
    similarity = torch.einsum("nd,cmd->ncm", anchors, bank.vectors.clone()) / temperature
    each = similarity.masked_fill(~there, NEVER).logsumexp(dim=2)  # (N, C): the sum over each class's memory
    loss = each.logsumexp(dim=1) - each.gather(1, own.unsqueeze(1)).squeeze(1)
    return anchor_mean(loss.unsqueeze(0), (counted & there[own, 0]).unsqueeze(0), class_mean=False)
