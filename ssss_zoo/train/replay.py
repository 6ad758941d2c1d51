"""`ssss run replay=FILE`: a step whose loss was not finite, once more, from what its run kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.registry import build_methods, load
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import read_record
from ssss_zoo.train import checkpoint
from ssss_zoo.train.run import make_job, reached
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import open_dataset

REMEDY = "give the record.json of a step in not_finite/ of the run's folder"


class StepRecord(TypedDict):
    """record.json. step: counted from 0, in its stage; losses: as `repr` writes them, which loses no bit; images: names
    by stream."""

    format: int
    step: int
    stage: int
    seed: int
    losses: dict[str, str]
    images: dict[str, list[str]]


def replay(file: Path, words: Sequence[str]) -> list[str]:
    """Make the step of a record again, words laid over the configuration of its run, and say what it gives beside what
    it gave then, a line a loss. On a CPU, with the same words, data and threads, they are the same to the bit. Nothing
    is written. Raises UserError where the record, the run's data or its methods are not what they were."""
    file = file / "record.json" if file.is_dir() else file
    record = read_record(file, StepRecord, REMEDY)
    place = file.parent
    config = resolve(words, place / "config.yaml")
    methods = build_methods(config)
    dataset, config = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    state = checkpoint.load_state(place)
    _, training = reached(make_job(config, methods, dataset, RunFolder(place.parents[1]), state))
    training.restore_folder(place, state)
    training.feed = training.open_feed(record["step"])
    training.engine.hooks.checked = config.trace
    images = training.images(record["step"])
    if images != record["images"]:
        raise UserError(f"{file}: the step showed other images than these data give now; the run's data have changed")
    losses = training.engine.step(training.feed, training.progress(record["step"]))
    now = {name: repr(value.item()) for name, value in losses.items()}
    lines = [f"{stream}: {', '.join(names)}" for stream, names in images.items()]
    lines += [f"{name}: {value} then, {now.get(name, 'nothing')} now" for name, value in record["losses"].items()]
    same = now == record["losses"]
    return [*lines, "the step gives what it gave then, to the bit" if same else "the step gives other losses than then"]
