"""ESL (Ma et al., ICCV 2023), in part a reconstruction: soft labels over the fewest classes that hold most of the
teacher's probability, and a contrastive loss. The prior work closest to FARCLUSS's fuzzy labels, and their control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, EMATeacher, Labelled, Output, Progress, PrototypeContrast, PseudoLabel, Range, RunInfo, Teacher, View,
    ViewOutput, Views, confident_ids, downsample_label, downsample_nearest, hookimpl, one_hot, random_boxes, top_p_mask,
)  # fmt: skip


@dataclass(eq=False)
class ESL:
    paper: ClassVar[str] = "ESL (Ma et al., ICCV 2023), labels as published, contrast reconstructed"

    # eta, the probability that the kept classes hold; paper: best of 0.80, 0.90, 0.95, 0.99.
    mass: Annotated[float, Range(0, 1)] = 0.95
    weight: Annotated[float, Range(0, 1e6)] = 0.2  # lambda_u; paper
    # Warmed up, parameters and buffers [ours: the decay of the contrast's centres].
    ema_decay: Annotated[float, Range(0, 1)] = 0.99
    contrast_weight: Annotated[float, Range(0, 1e6)] = 0.1  # paper
    contrast_temperature: Annotated[float, Range(1e-3, 1e3)] = 0.5  # paper
    contrast_momentum: Annotated[float, Range(0, 1)] = 0.99  # of the class centres; paper
    contrast_confidence: Annotated[float, Range(0, 1)] = 0.95  # least confidence of an unlabelled anchor; paper
    contrast_dim: Annotated[int, Range(1, 1e6)] = 256  # [ours: U2PL, PixCon]
    contrast_anchors: Annotated[int, Range(1, 1e6)] = 256  # of each class [ours: U2PL]
    # The contrast begins after so many [ours: centres of an untrained head mean nothing].
    contrast_epochs: Annotated[float, Range(0, 1e6)] = 1.0

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.contrast = PrototypeContrast(info, self.contrast_dim, self.ema_decay)
        return {f"esl_{name}": module for name, module in self.contrast.named_children()}

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        cutmix = CutMix("next", random_boxes(*size))  # [ours: UniMatch's boxes; the paper's are not known]
        return Views((View("strong", loss_weight=self.weight, forward_group="labelled", cutmix=cutmix),))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        """The fewest likeliest classes that hold the mass, renormalised (eq. 5): (B, C, H, W)."""
        largest, classes = probs.sort(dim=1, descending=True)
        kept = largest * top_p_mask(largest, self.mass)
        target = torch.zeros_like(probs).scatter_(1, classes, kept / kept.sum(dim=1, keepdim=True))
        return PseudoLabel(target, largest[:, 0], valid)

    @hookimpl
    def regularize(
        self,
        labelled: Labelled,
        labelled_output: Output,
        teacher: Teacher,
        teacher_output: Output | None,
        label: PseudoLabel | None,
        views: tuple[ViewOutput, ...],
        progress: Progress,
    ) -> dict[str, Tensor] | None:
        """The teacher's confident cells move the centre of their class, to which the student's are drawn [ours: the
        paper has centres for parts of a class]."""
        if self.contrast_weight == 0 or progress.epoch < self.contrast_epochs:
            return None
        cells = self.contrast.anchor_cells(labelled, labelled_output, views, self.contrast_confidence)
        features = self.contrast.teacher_features(teacher(labelled.image), teacher_output)
        grid = labelled_output.features.shape[-2:]
        ids = [downsample_nearest(labelled.mask, *grid)]
        ids += [confident_ids(downsample_label(label, *grid), self.contrast_confidence)] if label else []
        membership = [one_hot(each, self.contrast.num_classes) for each in ids]
        self.contrast.move_prototypes(features, membership, self.contrast_momentum)
        loss = self.contrast.info_nce(cells, self.contrast_anchors, self.contrast_temperature)
        return {"esl_contrast": self.contrast_weight * loss}

    @hookimpl
    def after_step(self, progress: Progress) -> None:
        self.contrast.update(progress)
