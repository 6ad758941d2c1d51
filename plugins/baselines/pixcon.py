"""PixCon (Tarubinga et al., 2026, arXiv 2607.03068): a contrastive term whose memory bank holds only labelled pixels
that the student classifies correctly. An addition: run it as `unimatch_v2+pixcon` or on another method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ssss_zoo.toolkit import (
    NO_CLASS, NO_SIMILARITY, ClassBank, Labelled, Output, Range, RunInfo, anchor_mean, draw_anchors, draw_members,
    flatten_pixels, hookimpl, l2_normalize, projection_head,
)  # fmt: skip


@dataclass(eq=False)
class PixCon:
    paper: ClassVar[str] = "PixCon (Tarubinga et al., 2026, arXiv 2607.03068), an addition to UniMatch V2"

    weight: Annotated[float, Range(0, 1e6)] = 0.1  # release
    temperature: Annotated[float, Range(1e-3, 1e3)] = 0.1  # release
    dim: Annotated[int, Range(1, 1e6)] = 256  # release
    # Pixels of each class that are admitted a step, at most, never more than `memory`; release.
    per_class: Annotated[int, Range(1, 1e6)] = 64
    anchors: Annotated[int, Range(1, 1e6)] = 1024  # of them all, at most; release
    memory: Annotated[int, Range(1, 1e6)] = 256  # vectors of each class; release
    admit: Literal["correct", "all"] = (
        "correct"  # where the student is right | all labelled pixels; both in the release
    )

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.head = projection_head(info.feature_dim, self.dim)
        self.bank = ClassBank(info.num_classes, self.memory, self.dim)
        return {"pixcon_head": self.head, "pixcon_memory": self.bank}

    @hookimpl
    def regularize(self, labelled: Labelled, labelled_output: Output) -> dict[str, Tensor]:
        """InfoNCE of admitted pixels against the memory of earlier steps; then they join it. Each process draws the
        pixels of its own images."""
        maps = labelled_output.features.float()
        ids = self.admitted_ids(labelled, labelled_output).flatten()
        with torch.autocast(maps.device.type, enabled=False):
            features = flatten_pixels(l2_normalize(self.head(maps)))  # (N, D)
            admitted = draw_anchors(ids, len(self.bank.filled), min(self.per_class, self.memory))
            vectors = features[admitted.cells]  # (C, A, D)
            chosen = draw_members(admitted.drawn.flatten().unsqueeze(0), self.anchors)
            rows = chosen.cells[0]
            classes = rows // vectors.shape[1]
            loss = bank_nce(vectors.flatten(0, 1)[rows], classes, chosen.drawn[0], self.bank, self.temperature)
            self.bank.push(vectors.detach(), admitted.drawn)
        return {"pixcon": self.weight * loss}

    def admitted_ids(self, labelled: Labelled, output: Output) -> Tensor:
        """The class of each feature cell that is admitted, NO_CLASS elsewhere: (B, h, w). Truth is the nearest pixel,
        logits are interpolated corner-aligned, both as in the release."""
        grid = output.features.shape[-2:]
        truth = interpolate(labelled.mask.unsqueeze(1).float(), grid, mode="nearest")[:, 0].long()
        if self.admit == "all":
            return truth
        logits = interpolate(output.logits.float(), grid, mode="bilinear", align_corners=True)
        return torch.where(logits.max(dim=1).indices == truth, truth, NO_CLASS)


def bank_nce(anchors: Tensor, classes: Tensor, counted: Tensor, bank: ClassBank, temperature: float) -> Tensor:
    """-log of the share that an anchor's own class has of sum exp(a . v / temperature) over the memory, mean over the
    counted anchors whose class the memory holds; 0, connected to the graph, without any.

    anchors: (N, D) of length 1; classes: (N,) theirs; counted: (N,) bool.
    """
    filled = bank.valid()  # (C, M)
    similarity = torch.einsum("nd,cmd->ncm", anchors, bank.vectors.clone()) / temperature
    scores = similarity.masked_fill(~filled, NO_SIMILARITY).logsumexp(dim=2)  # (N, C): the sum over a class's memory
    loss = scores.logsumexp(dim=1) - scores.gather(1, classes.unsqueeze(1)).squeeze(1)
    return anchor_mean(loss.unsqueeze(0), (counted & filled[classes, 0]).unsqueeze(0), class_mean=False)
