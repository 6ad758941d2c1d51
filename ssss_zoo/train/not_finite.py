"""A step whose loss is not finite: restores the state before it, saves a record that repeats it, and describes it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from typing_extensions import TypedDict

from ssss_zoo.atomic_write import write_json, write_text
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import FORMAT
from ssss_zoo.train.checkpointing import Checkpointer, Snapshot, TrainerState
from ssss_zoo.train.setup import RunParts
from ssss_zoo.train.stage import StageParts, image_names, open_loader

SKIPPED_IN_A_ROW_MAX = 10  # train.on_nan=skip stops after as many steps in a row (our choice)
log = logging.getLogger("ssss_zoo")


class StepRecord(TypedDict):
    """record.json of a kept step. step: counted from 0, in its stage. losses: text of `repr`, which loses no bit.
    images: names by stream."""

    format: int
    step: int
    stage: int
    seed: int
    losses: dict[str, str]
    images: dict[str, list[str]]


def rewind(
    parts: RunParts, stage: StageParts, snapshot: Snapshot, now: TrainerState, step: int
) -> tuple[TrainerState, BatchLoader]:
    """Put everything back to how it was before the step of that number (from 0).

    The last copy in memory is restored, and the steps since then are made once more, with the same images and draws.
    now: the counters as they are; losses that wait for a log line, skipped steps and seconds are kept. Returns the
    counters, and the loader at that step.
    """
    state = Checkpointer(parts, stage).restore_snapshot(snapshot)
    loader = open_loader(parts, stage, state.step)
    stage.stats.active = False
    while state.step < step:
        if state.step in now.skipped_steps:
            skip_images(parts, loader)
        else:
            stage.engine.step(loader, stage.progress(state.step))
        state.step += 1
    stage.stats.reset()
    state.unlogged_losses, state.skipped_steps, state.seconds = now.unlogged_losses, now.skipped_steps, now.seconds
    return state, loader


def skip_images(parts: RunParts, loader: BatchLoader) -> None:
    """Leave out the images of a step."""
    for _ in range(parts.config.train.accumulate):
        next(loader)


def report_broken_step(
    parts: RunParts, stage: StageParts, state: TrainerState, loader: BatchLoader, losses: Mapping[str, float]
) -> str:
    """Write down what repeats the next step, whose losses are not finite, and warn of it where it is to be skipped.

    Returns the names of those losses. Raises UserError with train.on_nan=stop, and where train.on_nan=skip has skipped
    as many steps in a row as it may.
    """
    record = keep_step(parts, stage, state, loader, losses)
    why = explain_losses(parts, stage, loader, state.step, losses, f"at step {state.step + 1}")
    last = [*state.skipped_steps, state.step][-SKIPPED_IN_A_ROW_MAX:]
    too_many = len(last) == SKIPPED_IN_A_ROW_MAX and last[-1] - last[0] == SKIPPED_IN_A_ROW_MAX - 1
    if parts.config.train.on_nan == "stop" or too_many:
        repeat = f"`ssss run replay={record}` repeats the step" if record else ""
        skips = f", {SKIPPED_IN_A_ROW_MAX} steps in a row" if too_many else "; train.on_nan=skip leaves such steps out"
        raise UserError(f"{why}{skips}; {repeat}")
    log.warning(f"step {state.step + 1} is left out: {why}")
    names = [name for name, value in losses.items() if not math.isfinite(value)]
    return ", ".join([name for name in names if name != "total"] or names)


def keep_step(
    parts: RunParts, stage: StageParts, state: TrainerState, loader: BatchLoader, losses: Mapping[str, float]
) -> Path | None:
    """Write what repeats the next step: the state before it, its seed, images and losses.

    losses: what it gave. Returns the file to give to `ssss run replay=`; None where the disk refuses, because the run
    has another error to tell.
    """
    folder = parts.folder.not_finite / f"step{stage.offset + state.step + 1}"
    record: StepRecord = {
        "format": FORMAT,
        "step": state.step,
        "stage": stage.index,
        "seed": parts.config.seed,
        "losses": {name: repr(value) for name, value in losses.items()},
        "images": image_names(parts, loader, state.step),
    }
    try:
        Checkpointer(parts, stage).save(folder, state)
        write_text(folder / "config.yaml", as_yaml(replace(parts.config, resume=False, overwrite=False)))
        write_json(folder / "record.json", record)
    except UserError as error:
        log.warning(str(error))
        return None
    return folder / "record.json"


def explain_losses(
    parts: RunParts, stage: StageParts, loader: BatchLoader, step: int, losses: Mapping[str, float], when: str
) -> str:
    """Say of losses that are not finite: when, which, what the images looked like, what helps. step: the next one of
    `loader`."""
    pictures = stage.engine.pictures(loader.upcoming(1)[0], stage.progress(step))
    views = "; ".join(
        f"{name} {image.min():.3g} to {image.max():.3g}, mean {image.mean():.3g}" for name, image in pictures.items()
    )
    values = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
    files = [name for names in image_names(parts, loader, step).values() for name in names]
    return (
        f"loss not finite {when}: {values}; views: {views}; images: {', '.join(files)}; lower optim.lr or set "
        "train.precision=32"
    )
