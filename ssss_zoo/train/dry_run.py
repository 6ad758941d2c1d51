"""A dry run before the first step: whatever would fail in the last step, in an evaluation or on the disk fails now."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.metrics import import_torchmetrics
from ssss_zoo.record_files import ResumeRecord
from ssss_zoo.toolkit.types import Progress
from ssss_zoo.train import checkpoint
from ssss_zoo.train.checkpointing import Checkpointer, TrainerState
from ssss_zoo.train.not_finite import explain_losses
from ssss_zoo.train.setup import LATE_STEP, RunParts
from ssss_zoo.train.stage import StageParts

log = logging.getLogger("ssss_zoo")


def dry_run(parts: RunParts, stage: StageParts, loader: BatchLoader, state: TrainerState) -> float:
    """Make one step as the last one will be, evaluate one image, write and read one checkpoint, and undo it all.

    The step shows `loader`'s next images, which come again in the first step. Returns the seconds that an evaluation is
    expected to take, 0 without validation images. Raises UserError for what a person can fix.
    """
    began, expected = time.perf_counter(), 0.0
    checkpointer, folder = Checkpointer(parts, stage), parts.folder.dry_run
    checkpointer.save(folder, state)
    try:
        losses = try_step(parts, stage, loader, state)
        warn_of_terms_that_never_begin(stage, loader, losses)
        if len(parts.dataset.val):
            expected = try_evaluation(parts, stage)
            if stage.snapshots:
                stage.snapshots.draw(stage.steps, stage.progress(stage.steps - 1))
        checkpointer.restore(folder, checkpoint.load_typed(folder, ResumeRecord))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - began
    log.info(f"dry run passed: one step, one validation image, one checkpoint ({seconds:.1f} s)")
    return expected


def try_step(parts: RunParts, stage: StageParts, loader: BatchLoader, state: TrainerState) -> dict[str, Tensor]:
    """The losses of a step with the progress of the last one, so that terms that begin late take part."""
    batches = iter(loader.upcoming(parts.config.train.accumulate))
    parts.hooks.checked = True
    losses = stage.engine.step(batches, stage.progress(stage.steps - 1))
    parts.hooks.checked = False
    if not all(torch.isfinite(loss) for loss in losses.values()):
        values = {name: loss.item() for name, loss in losses.items()}
        raise UserError(explain_losses(parts, stage, loader, state.step, values, "in the dry run of the last step"))
    return losses


def try_evaluation(parts: RunParts, stage: StageParts) -> float:
    """Score the largest validation image, which needs the most memory. Returns how many seconds all are expected to
    take, in proportion to their areas."""
    val = parts.dataset.val
    areas = parts.dataset.areas(val)
    largest = max(range(len(val)), key=areas.__getitem__)
    import_torchmetrics()  # takes seconds, which are no part of an evaluation
    for _ in range(2 if parts.device.type == "cuda" else 1):  # a GPU loads its kernels in the first one
        began = time.perf_counter()
        parts.evaluator(stage.networks(), val[largest : largest + 1])
    return (time.perf_counter() - began) * sum(areas) / areas[largest]


def warn_of_terms_that_never_begin(stage: StageParts, loader: BatchLoader, last_losses: Mapping[str, Tensor]) -> None:
    """Warn of loss terms that a much later step has and the last step of this run lacks."""
    batch = loader.upcoming(1)[0]
    with torch.no_grad():
        late_losses = stage.engine.losses(batch, Progress(LATE_STEP, LATE_STEP + 1, stage.epoch_steps))
    missing = [name for name in late_losses if name not in last_losses]
    if missing:
        log.warning(
            f"in {stage.steps} steps of {stage.epoch_steps} an epoch {', '.join(missing)} never begins: the "
            "method waits longer than the run lasts; give it more steps, or a shorter ramp among its options"
        )
