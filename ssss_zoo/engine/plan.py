"""The images that a step's views need labelled, and whether the batch can serve those views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.mixing import SECOND_BATCH_PARTNERS, nested_cutmix
from ssss_zoo.toolkit.teachers import Teacher
from ssss_zoo.toolkit.types import Batch, Progress, RawBatch, Unlabelled, View, Views


def weak_images(plan: Views, batch: Batch) -> dict[str, Unlabelled]:
    """The images that teachers label, by stream: `labelled`, `unlabelled`, `partner`. Every pixel of a labelled image
    counts, void included."""
    weak: dict[str, Unlabelled] = {}
    if any(view.images == "labelled" for view in plan.views):
        weak["labelled"] = Unlabelled(batch.labelled.image, torch.ones_like(batch.labelled.mask, dtype=torch.bool))
    if plan.views and batch.unlabelled:
        weak["unlabelled"] = batch.unlabelled
    if batch.partner and needs_second(plan.views):
        weak["partner"] = batch.partner
    return weak


def needs_second(views: Iterable[View]) -> bool:
    """Whether a view is mixed with a second unlabelled batch."""
    return any(cutmix.partner in SECOND_BATCH_PARTNERS for view in views for cutmix in nested_cutmix(view.cutmix))


def is_gated(view: View) -> bool:
    """Whether the teacher's prediction decides which images of a view are mixed."""
    return any(cutmix.gate for cutmix in nested_cutmix(view.cutmix))


def check_plan(plan: Views, batch: RawBatch, teachers: Sequence[Teacher], progress: Progress) -> None:
    """Raise UserError when views need a stream that was not opened, since neither the first nor the last step asked for
    it, or when a gate needs the teacher's prediction and the teacher predicts in the student's own pass."""
    if (plan.views and batch.unlabelled is None) or (needs_second(plan.views) and batch.partner is None):
        raise UserError(
            f"make_views asks at step {progress.step + 1} for unlabelled images that it asked for neither at the first "
            "nor at the last step; give such views a loss_weight of 0 there instead of leaving them out"
        )
    gated = [view.name for view in plan.views if is_gated(view)]
    if gated and any(teacher.reads_from for teacher in teachers):
        raise UserError(
            f"view '{gated[0]}' uses adaptive CutMix, which needs the teacher's prediction before the student runs; "
            "this run's teacher reuses the student's pass; choose hooks.make_teacher=METHOD whose teacher has its own"
        )
