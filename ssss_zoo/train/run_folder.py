"""A run's folder: where it lies, what may be done to what lies there, and nothing of a stranger's touched."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.contents import Contents, differences
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.record_files import Metrics, TrainingState, read_metrics
from ssss_zoo.train import checkpoint
from ssss_zoo.train.tracking import DAMAGED, flat, read_lines

log = logging.getLogger("ssss_zoo")

# What may differ between a stopped run and its continuation: where things lie and how they are shown.
FREE = {
    "output", "resume", "overwrite", "trace", "diagnose", "tracking.uri", "tracking.experiment", "tracking.parent",
    "data.root", "train.workers", "train.threads", "train.device", "train.log_every", "train.checkpoint_every",
    "train.checkpoint_minutes", "train.on_nan",
    "data.changed", "evaluate.predictions", "format",
}  # fmt: skip
OURS = ("config.yaml", "metrics.json", "history.jsonl", f"history.jsonl{DAMAGED}", "predictions.png", "run.log")
KEPT = ("config.yaml", "metrics.json", "history.jsonl", "last", "best")  # by which a run is known
ESTIMATED = ("data.low", "data.high", "model.mean", "model.std")  # from the images, which are asked about before them
NO_METRICS = "remove it to go on from the checkpoint beside it (resume=true), or start anew with overwrite=true"


def output_folder(config: Config) -> Path:
    """`output`, else runs/<dataset>/<method>/<split>/seed<seed>, with `/` of a split written `_`, and `:` of a method
    `-`, which is in no method's name."""
    if config.output:
        return expanded(config.output)
    split = Path(config.data.split).stem if Path(config.data.split).suffix else config.data.split.replace("/", "_")
    return Path("runs", config.dataset, config.method.replace(":", "-"), split, f"seed{config.seed}")


def open_folder(folder: Path, config: Config, dataset: Dataset) -> dict[str, Any] | None:
    """The state to resume from, or None for a fresh run. Raises UserError rather than lose what lies there, or go on
    with other data or another configuration."""
    if config.overwrite and config.resume:
        raise UserError("give resume=true to go on or overwrite=true to start anew, not both")
    if config.overwrite:
        return None
    file = folder / "metrics.json"
    metrics = read_metrics(file, NO_METRICS) if file.exists() else None
    if metrics and metrics["status"] == "finished":
        raise UserError(finished(folder))
    if not config.resume:
        if any((folder / name).exists() for name in KEPT):
            raise UserError(f"{folder} holds an unfinished run; resume=true goes on, overwrite=true starts anew")
        return None
    last = checkpoint.find_folder(folder / "last")
    if last is None:
        check_nothing_is_lost(folder, metrics)
        log.warning("%s holds no checkpoint to resume from: starting from the first step", folder)
        return None
    state = checkpoint.load_typed(last, TrainingState)
    old, new = state["config"], flat_config(config)
    compare(without(ESTIMATED, old), without(ESTIMATED, new), folder)
    compare_data(state.get("contents"), dataset, config.data.changed, folder)
    compare(old, new, folder)
    return {**state, "from": str(last)}


def without(keys: Iterable[str], settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key not in set(keys)}


def finished(folder: Path) -> str:
    """What can be done with a finished run, and why it is not simply made longer."""
    return (
        f"{folder} holds a finished run; look at it with `ssss evaluate run={folder}`. To train on from its weights, "
        f"give another output= and model.weights={folder}/last/student.safetensors. The run itself is not made longer: "
        "its learning rate has come to the end of its schedule, and with more train.steps each step would have had "
        "another. overwrite=true starts it anew"
    )


def check_nothing_is_lost(folder: Path, metrics: Metrics | None) -> None:
    """Raise UserError where a run without a checkpoint had come to one: starting anew would erase what there is of it.
    A checkpoint is written before the first evaluation, and before metrics.json tells of a step."""
    lines = read_lines(folder / "history.jsonl")
    saved = metrics is not None and metrics["step"] > 0
    evaluated = (metrics is not None and bool(metrics["val"])) or any("val" in line for line in lines)
    if not (saved or evaluated or any((folder / name).exists() for name in ("last", "best"))):
        return
    step = max([line["step"] for line in lines] + [metrics["step"] if metrics else 0])
    best = checkpoint.find_folder(folder / "best")
    left = f" (`ssss evaluate run={folder} weights=best` reads what is left)" if best else ""
    raise UserError(
        f"{folder / 'last' / checkpoint.STATE} is gone, and the run had come to step {step}: bring a whole copy of "
        f"{folder / 'last'} back, or start anew with overwrite=true{left}"
    )


def clear(folder: Path) -> None:
    """Remove what a run of ours wrote into `folder`, and nothing else."""
    for name in ("last", "best", "rehearsal"):
        for suffix in ("", ".new", ".old"):
            shutil.rmtree(folder / f"{name}{suffix}", ignore_errors=True)
    for name in ("stages", "pseudo_labels", "not_finite"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in OURS:
        (folder / name).unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill left half-written beside a whole checkpoint, and what a rehearsal wrote."""
    shutil.rmtree(folder / "rehearsal", ignore_errors=True)
    for name in ("last", "best"):
        if checkpoint.find_folder(folder / name) == folder / name:
            for suffix in (".new", ".old"):
                shutil.rmtree(folder / f"{name}{suffix}", ignore_errors=True)


def flat_config(config: Config) -> dict[str, str]:
    return {key: str(value) for key, value in flat(asdict(config)).items() if key not in FREE}


def compare_data(old: Contents | None, dataset: Dataset, changed: str, folder: Path) -> None:
    """Refuse to go on with other data than the run began with, saying what differs; `changed`=allow goes on with a
    warning. Classes must be the same in any case: they are what the network's outputs stand for. old: None of a run
    from before contents were kept."""
    told = differences(old, dataset.contents) if old is not None else ""
    if not told or old is None:
        return
    same_classes = list(old["classes"].items()) == list(dataset.contents["classes"].items())
    if changed == "allow" and same_classes:
        log.warning(f"the data have changed since {folder} began: {told}; best and history.jsonl are of both")
        return
    allow = "go on with data.changed=allow (best and history.jsonl are then of both), " if same_classes else ""
    raise UserError(
        f"{folder} began with other data: {told}; bring these back, {allow}or start anew with overwrite=true"
    )


def compare(old: dict[str, str], new: dict[str, str], folder: Path) -> None:
    """Refuse to go on with another configuration than the checkpoint's, naming the first key that differs. A key that
    the checkpoint's version did not have counts as its default, a method's new option as it is given."""
    usual = flat_config(Config())
    added = {key for key in new.keys() - old.keys() if key.startswith("options.")}
    before = {key: value for key, value in usual.items() if key not in old} | old
    different = [
        key for key in sorted((before.keys() | new.keys()) - added) if before.get(key) != new.get(key, usual.get(key))
    ]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise UserError(
            f"{folder} was started with {key}={before.get(key, 'nothing')}, now {key}={new.get(key, 'nothing')}{more}; "
            "resume with the same configuration, or choose another output="
        )
