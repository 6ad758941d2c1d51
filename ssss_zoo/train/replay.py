"""`ssss run replay=FILE`: makes a step again whose loss was not finite, from the record that its run kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.registry import build_methods, load
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import ResumeRecord, read_record
from ssss_zoo.train import checkpoint
from ssss_zoo.train.checkpointing import Checkpointer
from ssss_zoo.train.not_finite import StepRecord
from ssss_zoo.train.run import reach_stage
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import make_parts, open_dataset
from ssss_zoo.train.stage import image_names, open_loader

RECORD_REMEDY = "give the record.json of a step in not_finite/ of the run's folder"


def replay(file: Path, overrides: Sequence[str]) -> list[str]:
    """Make a recorded step again, and say in a line for each loss what it gave then and what it gives now.

    overrides: laid over the configuration of the run. On a CPU, with the same overrides, data and threads, the losses
    are the same to the bit. Nothing is written. Raises UserError where the record, the run's data or its methods have
    changed.
    """
    file = file / "record.json" if file.is_dir() else file
    record = read_record(file, StepRecord, RECORD_REMEDY)
    folder = file.parent
    config = resolve(overrides, folder / "config.yaml")
    methods = build_methods(config)
    dataset, config = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    parts = make_parts(config, methods, dataset, RunFolder(folder.parents[1]))
    resumed = checkpoint.load_typed(folder, ResumeRecord)
    _, stage = reach_stage(parts, resumed["stage"])
    Checkpointer(parts, stage).restore(folder, resumed)
    loader = open_loader(parts, stage, record["step"])
    images = image_names(parts, loader, record["step"])
    if images != record["images"]:
        raise UserError(f"{file}: the step showed other images than these data give now; the run's data have changed")
    parts.hooks.checked = config.trace
    losses = stage.engine.step(loader, stage.progress(record["step"]))
    now = {name: repr(value.item()) for name, value in losses.items()}
    lines = [f"{stream}: {', '.join(names)}" for stream, names in images.items()]
    lines += [f"{name}: {value} then, {now.get(name, 'nothing')} now" for name, value in record["losses"].items()]
    same = now == record["losses"]
    return [*lines, "the step gives what it gave then, to the bit" if same else "the step gives other losses than then"]
