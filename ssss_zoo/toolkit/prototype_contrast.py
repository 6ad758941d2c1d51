"""Contrast with class prototypes: the teacher's features move them, the student's are drawn to their own.

B images, N feature cells (B * h * w), D projection width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit.contrast import (
    NO_CLASS,
    Prototypes,
    downsample_nearest,
    draw_anchors,
    flatten_pixels,
    info_nce,
    project,
    projection_head,
)
from ssss_zoo.toolkit.teachers import Decay, EMAModule
from ssss_zoo.toolkit.types import Labelled, Output, Progress, PseudoLabel, RunInfo, ViewOutput


@dataclass(frozen=True, eq=False)
class AnchorCells:
    """The student's feature cells from which anchors are drawn. features: (N, D) float32 of length 1, with gradient;
    ids: (N,) int64, the class of each, NO_CLASS for a cell that cannot be an anchor."""

    features: Tensor
    ids: Tensor


def downsample_label(label: PseudoLabel, height: int, width: int) -> PseudoLabel:
    """The pseudo-label of the pixel under the centre of each of height x width feature cells."""
    target, confidence, valid = (
        downsample_nearest(part, height, width) for part in (label.target, label.confidence, label.valid)
    )
    return PseudoLabel(target, confidence, valid)


def confident_pixels(label: PseudoLabel, confidence: float) -> Tensor:
    """Where a pseudo-label is valid and has at least this confidence: bool (B, H, W)."""
    return label.valid & (label.confidence >= confidence)


def confident_ids(label: PseudoLabel, confidence: float) -> Tensor:
    """The likeliest class of each pixel that is valid and has at least this confidence, else NO_CLASS: int64
    (B, H, W)."""
    return torch.where(confident_pixels(label, confidence), label.ids, NO_CLASS)


class PrototypeContrast(nn.Module):
    """A projection head, its running average, and a prototype of each class.

    head: projects the student's features, and is trained.
    slow_head: the running average of `head`, projects the teacher's features; call `update` after each step.
    prototypes: a running mean of the projected features of each class, moved by `prototypes.update`.

    A method's `setup` returns the three under names of its own: `named_children()` lists them.
    """

    def __init__(self, info: RunInfo, dim: int, ema_decay: Decay) -> None:
        super().__init__()
        self.num_classes = info.num_classes
        self.head = projection_head(info.feature_dim, dim)
        self.slow_head = EMAModule(self.head, ema_decay)
        self.prototypes = Prototypes(info.num_classes, dim)

    def anchor_cells(
        self, labelled: Labelled, labelled_output: Output, views: Sequence[ViewOutput], confidence: float
    ) -> AnchorCells:
        """The student's cells: those of the labelled images with their classes, then those of each view with the
        likeliest class of its pseudo-label where that has at least `confidence`. Views with perturbed features give
        none."""
        views = [view for view in views if view.view.perturb is None]
        height, width = labelled_output.features.shape[-2:]
        features = project(self.head, [labelled_output.features, *(view.output.features for view in views)])
        ids = [downsample_nearest(labelled.mask, height, width)]
        ids += [confident_ids(downsample_label(view.label, height, width), confidence) for view in views]
        return AnchorCells(features, torch.cat(ids).flatten())

    def teacher_features(self, *outputs: Output | None) -> Tensor:
        """The teacher's features of several passes, projected by the slow head without gradient: (N, D) of length 1.
        None stands for a pass that was not made."""
        return project(self.slow_head, [output.features for output in outputs if output is not None])

    def move_prototypes(self, features: Tensor, membership: list[Tensor], momentum: float) -> None:
        """Move each class's prototype towards the mean of its cells (see `Prototypes.update`).

        features: (N, D); membership: how much each cell belongs to each class, (B, C, h, w) for each pass that the
        features come from, in the same order.
        """
        with torch.autocast(features.device.type, enabled=False):
            self.prototypes.update(features, flatten_pixels(torch.cat(membership)), momentum)

    def info_nce(self, cells: AnchorCells, per_class: int, temperature: float, *, class_mean: bool = True) -> Tensor:
        """InfoNCE over the prototypes as they are now, a scalar; at most `per_class` anchors of each class are drawn.
        In float32, whatever autocast; see `contrast.info_nce`."""
        with torch.autocast(cells.features.device.type, enabled=False):
            vectors = self.prototypes.vectors.clone()
            initialized = self.prototypes.initialized.clone()
            anchors = draw_anchors(cells.ids, len(initialized), per_class)
            return info_nce(cells.features, anchors, vectors, initialized, temperature, class_mean=class_mean)

    def update(self, progress: Progress) -> None:
        """Let the slow head follow the head, as a teacher follows its student."""
        self.slow_head.update(self.head, progress)
