"""A run as its loggers show it: its name, settings, tags, data sets and note, and its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.schema import Config, as_tree
from ssss_zoo.record_files import Metrics
from ssss_zoo.text import brief, duration
from ssss_zoo.train.changed_settings import changed_settings, repeat_command
from ssss_zoo.train.console import percent
from ssss_zoo.train.logger import TrackedDataset, TrackedRun, TrackedTable
from ssss_zoo.train.run_folder import split_folder_name
from ssss_zoo.train.setup import RunParts
from ssss_zoo.train.tracking import chosen_loggers

METHOD_NAME_LENGTH_MAX = 40  # characters of a method with its options in a run's name (our choice)
SPLIT_NAME_LENGTH_MAX = 24  # characters of a split in a run's name (our choice)
NOT_LOGGED = ("tracking.", "resume", "overwrite", "trace")  # beginnings of keys that say nothing about the run
GIB = 2**30  # bytes


def tracked_run(parts: RunParts, first_step: int) -> TrackedRun:
    """The run when it starts. first_step: see `TrackedRun`."""
    config = parts.config
    changed = changed_settings(config) if chosen_loggers(config.tracking) else {}
    return TrackedRun(
        name=run_name(config, changed),
        folder=parts.folder.path,
        settings=config.tracking,
        params={k: value for k, value in flatten_keys(as_tree(config)).items() if not k.startswith(NOT_LOGGED)},
        tags={**run_tags(parts), "overrides": " ".join(f"{key}={text}" for key, text in changed.items())},
        datasets=tracked_datasets(parts),
        note=settings_note(changed, repeat_command(config)) if chosen_loggers(config.tracking) else "",
        first_step=first_step,
    )


def run_name(config: Config, changed: Mapping[str, str]) -> str:
    """`farcluss:top_k=1 1/8 seed 0`; below a comparison without the split, which its runs share. The data set is a tag,
    since a list of runs is narrow. changed: the settings that differ from the defaults, of which the name says the
    options of the methods."""
    options = (f":{key.rpartition('.')[2]}={text}" for key, text in changed.items() if key.startswith("options."))
    split = config.data.split
    folder_name = split_folder_name(split)
    short = split if folder_name == split.replace("/", "_") else folder_name  # of a list file its name alone
    method = brief(config.method + "".join(options), METHOD_NAME_LENGTH_MAX)
    own_split = [] if config.tracking.parent else [brief(short, SPLIT_NAME_LENGTH_MAX)]
    return " ".join([method, *own_split, f"seed {config.seed}"])


def run_tags(parts: RunParts) -> dict[str, str]:
    """The tags by which the run is found in a logger."""
    config, protocol = parts.config, parts.protocol
    return {
        "method": config.method,
        "dataset": config.dataset,
        "split": config.data.split,
        "seed": str(config.seed),
        "data": parts.dataset.fingerprint,
        "protocol": protocol["name"] or "none",
        "protocol_digest": protocol["digest"],
        "folder": folder_tag(parts.folder.path),
    }


def folder_tag(folder: Path) -> str:
    """A folder as a tag shows it: from the working folder where it lies below it, else its whole path, because the run
    could not be found otherwise."""
    path, here = folder.resolve(), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def tracked_datasets(parts: RunParts) -> tuple[TrackedDataset, ...]:
    """The images of each part of the data set that the run reads."""
    config, dataset = parts.config, parts.dataset
    source = str(Path(config.data.root).resolve()) if config.data.root else config.dataset
    roles = {"labelled": "training", "unlabelled": "training", "val": "validation"}
    images = {"labelled": len(dataset.labelled), "unlabelled": len(dataset.unlabelled), "val": len(dataset.val)}
    return tuple(
        TrackedDataset(f"{config.dataset} {config.data.split} {part}", role, dataset.fingerprint, source, images[part])
        for part, role in roles.items()
        if images[part]
    )


def settings_note(changed: Mapping[str, str], command: str) -> str:
    """The settings that differ from the defaults and the command that makes the run again, in Markdown. It is short,
    because MLflow's page shows its first lines only."""
    settings = ", ".join(f"`{key}={text}`" for key, text in changed.items())
    differs = f"Differs from the defaults: {settings}." if changed else "Every setting has its default."
    return f"{differs}\n\n```\n{command}\n```\n"


# --- results --------------------------------------------------------------------------------------------------------


def run_summary(metrics: Metrics) -> dict[str, float]:
    """The figures of a finished run that belong to no step; each name says its unit, and mIoU is in [0, 1]."""
    time = metrics["time"]
    figures = {"train_seconds": time["train_seconds"], "evaluate_seconds": time["evaluate_seconds"]}
    if metrics["best"]:
        figures["val/best_miou"] = metrics["best"]["miou"]
    if time["peak_memory_bytes"] is not None:
        figures["peak_memory_gib"] = round(time["peak_memory_bytes"] / GIB, 3)
    return figures


def result_note(metrics: Metrics) -> str:
    """The result of a finished run in Markdown."""
    time, val, best = metrics["time"], metrics["val"], metrics["best"]
    cost = f"{duration(time['train_seconds'])} of training"
    if time["peak_memory_bytes"] is not None:
        cost += f", peak memory {time['peak_memory_bytes'] / GIB:.1f} GiB"
    if not val:
        return f"No validation images; {cost}.\n\n"
    figures = f"**mIoU {percent(val['miou'])} %** of the {val['network']} at step {val['step']}"
    return f"{figures}, best {percent(best['miou'])} % at step {best['step']}; {cost}.\n\n"


def per_class_iou_table(metrics: Metrics) -> TrackedTable:
    """The IoU of each class in the last and in the best evaluation of a run."""
    last, best = metrics["val"]["iou"], metrics["best"]["iou"]
    return TrackedTable(("class", "last", "best"), tuple((name, iou, best.get(name)) for name, iou in last.items()))
