"""ESL (Ma et al., ICCV 2023), in part a reconstruction: soft labels over the fewest classes that hold most of the
teacher's probability, kept apart by contrast. The nearest prior art of FARCLUSS's fuzzy labels, and their control."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    NO_CLASS, CutMix, EMATeacher, Labelled, Output, Progress, Prototypes, PseudoLabel, RunInfo, Teacher, View,
    ViewOutput, Views, check_range, downsample_nearest, draw_anchors, ema_update_, ema_warmup, flatten_pixels,
    hookimpl, info_nce, one_hot, project, projection_head, random_boxes, top_p_mask,
)  # fmt: skip


@dataclass(eq=False)
class ESL:
    paper: ClassVar[str] = "ESL (Ma et al., ICCV 2023), labels as published, contrast reconstructed"

    mass: float = 0.95  # eta: probability that the kept classes hold; paper: best of 0.80, 0.90, 0.95, 0.99
    weight: float = 0.2  # lambda_u; paper
    ema_decay: float = 0.99  # warmed up, parameters and buffers [ours: the decay of its contrast's centres]
    contrast_weight: float = 0.1  # paper
    contrast_temperature: float = 0.5  # paper
    contrast_momentum: float = 0.99  # of the class centres; paper
    contrast_confidence: float = 0.95  # least confidence of an unlabelled anchor; paper
    contrast_dim: int = 256  # [ours: U2PL, PixCon]
    contrast_anchors: int = 256  # of each class [ours: U2PL]
    contrast_epochs: float = 1.0  # the contrast begins after so many [ours: centres of an untrained head mean nothing]

    def __post_init__(self) -> None:
        for name in ("mass", "ema_decay", "contrast_momentum", "contrast_confidence"):
            check_range(f"options.esl.{name}", getattr(self, name), 0, 1)
        for name in ("weight", "contrast_weight", "contrast_epochs"):
            check_range(f"options.esl.{name}", getattr(self, name), 0, 1e6)
        for name in ("contrast_dim", "contrast_anchors"):
            check_range(f"options.esl.{name}", getattr(self, name), 1, 1e6)
        check_range("options.esl.contrast_temperature", self.contrast_temperature, 1e-3, 1e3)

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.head = projection_head(info.feature_dim, self.contrast_dim)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False).eval()
        self.centres = Prototypes(info.num_classes, self.contrast_dim)
        return {"esl_head": self.head, "esl_slow_head": self.slow_head, "esl_centres": self.centres}

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        mix = CutMix("next", random_boxes(*size))  # [ours: UniMatch's boxes; the paper's are not known]
        return Views((View("strong", loss_weight=self.weight, forward_group="labelled", cutmix=mix),))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        """The fewest likeliest classes with the mass, renormalised (eq. 5); (B, C, H, W)."""
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
        """Student cells are drawn to the centre of their class, which the teacher's cells move [ours: the paper has
        centres for parts of a class]."""
        if self.contrast_weight == 0 or progress.epoch < self.contrast_epochs:
            return None
        grid = labelled_output.features.shape[-2:]
        mask = downsample_nearest(labelled.mask, *grid)
        shown = [view for view in views if view.view.perturb is None]
        ids = torch.cat([mask, *(self.sure_ids(view.label, grid) for view in shown)]).flatten()
        features = project(self.head, [labelled_output.features, *(view.output.features for view in shown)])
        told = [teacher(labelled.image), *([teacher_output] if teacher_output else [])]
        means = project(self.slow_head.eval(), [output.features for output in told])
        members = torch.cat([mask, *([self.sure_ids(label, grid)] if label else [])])
        classes = len(self.centres.initialized)
        self.centres.update(means, flatten_pixels(one_hot(members, classes)), self.contrast_momentum)
        vectors, initialized = self.centres.vectors.clone(), self.centres.initialized.clone()
        anchors = draw_anchors(ids, classes, self.contrast_anchors)
        loss = info_nce(features, anchors, vectors, initialized, self.contrast_temperature)
        return {"esl_contrast": self.contrast_weight * loss}

    def sure_ids(self, label: PseudoLabel, grid: torch.Size) -> Tensor:
        """The likeliest class of each feature cell that is sure, NO_CLASS elsewhere; (B, h, w)."""
        sure = label.valid & (label.confidence >= self.contrast_confidence)
        return downsample_nearest(torch.where(sure, label.ids, NO_CLASS), *grid)

    @hookimpl
    def after_step(self, progress: Progress) -> None:
        ema_update_(self.slow_head, self.head, ema_warmup(progress.step, self.ema_decay))
