"""Decides whether a run may start or resume in a folder, so that no earlier result is lost or mixed with another."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.schema import Config, as_tree
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.fingerprint import ContentDigests, describe_differences
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import Metrics, ResumeRecord, read_metrics
from ssss_zoo.train import checkpoint
from ssss_zoo.train.history import read_history
from ssss_zoo.train.run_folder import RunFolder

log = logging.getLogger("ssss_zoo")

# Keys that a resumed run may change: locations, display, and settings that no training step depends on.
MAY_DIFFER = {
    "output", "resume", "overwrite", "trace", "diagnose", "tracking.uri", "tracking.experiment", "tracking.parent",
    "tracking.to", "tracking.group", "tracking.online", "tracking.model", "tracking.system",
    "data.root", "train.workers", "train.threads", "train.device", "train.log_every", "train.checkpoint_every",
    "train.checkpoint_minutes", "train.on_nan",
    "data.changed", "evaluate.predictions", "format",
}  # fmt: skip
ESTIMATED_KEYS = ("data.low", "data.high", "model.mean", "model.std")  # measured on the images of the run
METRICS_REMEDY = "remove it to continue from the checkpoint beside it (resume=true), or start again with overwrite=true"


@dataclass(frozen=True)
class ResumePoint:
    """The folder of a checkpoint to resume from, and the record in its `state.pt`."""

    folder: Path
    record: ResumeRecord


def find_resume_point(folder: RunFolder, config: Config, dataset: Dataset) -> ResumePoint | None:
    """The checkpoint to resume from, or None for a run that starts at its first step.

    Raises UserError where starting would lose an earlier result, and where the run began with other data or another
    configuration.
    """
    if config.overwrite and config.resume:
        raise UserError("give resume=true to continue or overwrite=true to start again, not both")
    if config.overwrite:
        return None
    metrics = read_metrics(folder.metrics, METRICS_REMEDY) if folder.metrics.exists() else None
    if metrics and metrics["status"] == "finished":
        raise UserError(finished_message(folder))
    if not config.resume:
        if folder.holds_run():
            raise UserError(
                f"{folder.path} holds an unfinished run; continue it with resume=true, or start again with "
                "overwrite=true"
            )
        return None
    last = checkpoint.find_folder(folder.last)
    if last is None:
        check_nothing_is_lost(folder, metrics)
        log.warning(f"{folder.path} holds no checkpoint to resume from: starting from the first step")
        return None
    record = checkpoint.load_typed(last, ResumeRecord)
    check_same_run(record, config, dataset, folder)
    return ResumePoint(last, record)


def finished_message(folder: RunFolder) -> str:
    """The message for a finished run: how to use it, and why it cannot be made longer."""
    return (
        f"{folder.path} holds a finished run; look at it with `ssss evaluate run={quote(str(folder.path))}`. To train "
        f"on from its encoder, give another output= and model.weights={folder.last}/student.safetensors. The run "
        "itself cannot be made longer: its learning rate has reached the end of its schedule, and with more "
        "train.steps every step would have had another rate. overwrite=true starts it again"
    )


def check_nothing_is_lost(folder: RunFolder, metrics: Metrics | None) -> None:
    """Raise UserError where the checkpoint of a run is missing: starting again would erase the rest of that run.

    A checkpoint is written before the first evaluation, and before metrics.json names a step.
    """
    lines = read_history(folder.history)
    saved = metrics is not None and metrics["step"] > 0
    evaluated = (metrics is not None and bool(metrics["val"])) or any("val" in line for line in lines)
    if not (saved or evaluated or folder.last.exists() or folder.best.exists()):
        return
    step = max([line["step"] for line in lines] + [metrics["step"] if metrics else 0])
    best = checkpoint.find_folder(folder.best)
    still = f" (`ssss evaluate run={quote(str(folder.path))} weights=best` still works)" if best else ""
    raise UserError(
        f"{folder.last / checkpoint.STATE} is missing, although the run had reached step {step}: restore "
        f"{folder.last} from a copy, or start again with overwrite=true{still}"
    )


def flat_config(config: Config) -> dict[str, str]:
    """The configuration as a flat mapping from `a.b.c` keys to text, without the keys that a resumed run may change."""
    return {key: str(value) for key, value in flatten_keys(as_tree(config)).items() if key not in MAY_DIFFER}


def check_same_run(record: ResumeRecord, config: Config, dataset: Dataset, folder: RunFolder) -> None:
    """Raise UserError for another configuration or other data than the checkpoint's.

    Other images also change the keys that are measured on them, so these keys are compared last: the message then names
    the images.
    """
    old, new = record["config"], flat_config(config)
    check_same_config(without_estimates(old), without_estimates(new), folder)
    check_same_data(record.get("contents"), dataset, config.data.changed, folder)
    check_same_config(old, new, folder)


def without_estimates(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key not in ESTIMATED_KEYS}


def check_same_data(old: ContentDigests | None, dataset: Dataset, changed: str, folder: RunFolder) -> None:
    """Raise UserError where the data differ from those that the run began with; `changed`="allow" only warns.

    The classes must be the same in any case, because the network's outputs stand for them. old: None for a run whose
    version did not record its data.
    """
    difference = describe_differences(old, dataset.contents) if old is not None else ""
    if not difference or old is None:
        return
    same_classes = list(old["classes"].items()) == list(dataset.contents["classes"].items())
    if changed == "allow" and same_classes:
        log.warning(f"the data have changed since {folder.path} began: {difference}; best and history.jsonl cover both")
        return
    allow = "continue with data.changed=allow (best and history.jsonl then cover both), " if same_classes else ""
    raise UserError(
        f"{folder.path} began with other data: {difference}; restore them, {allow}or start again with overwrite=true"
    )


def check_same_config(old: Mapping[str, str], new: Mapping[str, str], folder: RunFolder) -> None:
    """Raise UserError for another configuration than the checkpoint's, naming the first key that differs.

    A key that the checkpoint's version did not have counts as its default; a new option of a method counts as given.
    """
    defaults = flat_config(Config())
    added = {key for key in new.keys() - old.keys() if key.startswith("options.")}
    before = {key: value for key, value in defaults.items() if key not in old} | dict(old)
    keys = sorted((before.keys() | new.keys()) - added)
    different = [key for key in keys if before.get(key) != new.get(key, defaults.get(key))]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise UserError(
            f"{folder.path} was started with {key}={before.get(key, 'nothing')}, now {key}={new.get(key, 'nothing')}"
            f"{more}; resume with the same configuration, or choose another output="
        )
