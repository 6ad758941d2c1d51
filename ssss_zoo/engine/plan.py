"""What a step's views need: the images that teachers label, and the streams that must be open for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.mixing import SECOND, chain
from ssss_zoo.toolkit.teachers import Teacher
from ssss_zoo.toolkit.types import Batch, Progress, RawBatch, Unlabelled, View, Views


def weak_images(plan: Views, batch: Batch) -> dict[str, Unlabelled]:
    """The images that teachers label, by stream: `labelled`, `unlabelled`, `partner`. Of labelled images every pixel
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
    return any(cutmix.partner in SECOND for view in views for cutmix in chain(view.cutmix))


def is_gated(view: View) -> bool:
    """Whether the teacher's prediction decides which images of a view are mixed."""
    return any(cutmix.gate for cutmix in chain(view.cutmix))


def check_plan(plan: Views, batch: RawBatch, teachers: Sequence[Teacher], progress: Progress) -> None:
    """Raise UserError when views need a stream that was not opened, because neither the first nor the last step did, or
    a prediction of the teacher before its student looks."""
    if (plan.views and batch.unlabelled is None) or (needs_second(plan.views) and batch.partner is None):
        raise UserError(
            f"make_views asks at step {progress.step + 1} for unlabelled images that it asked for neither at the first "
            "nor at the last step; give such views a share of 0 there instead of leaving them out"
        )
    gated = [view.name for view in plan.views if is_gated(view)]
    if gated and any(teacher.reads_from for teacher in teachers):
        raise UserError(
            f"view '{gated[0]}' is mixed by what the teacher says of each image, and this run's teacher says it in "
            "the student's own pass; choose hooks.make_teacher=METHOD, one whose teacher makes passes of its own"
        )
