"""A run's folder: where it lies, what may be done to what lies there, and nothing of a stranger's touched."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssss_zoo import checkpoint
from ssss_zoo.config import Config
from ssss_zoo.errors import UserError, expanded

log = logging.getLogger("ssss_zoo")

# What may differ between a stopped run and its continuation: where things lie and how they are shown.
FREE = {
    "output", "resume", "overwrite", "trace", "diagnose", "tracking.uri", "tracking.experiment", "tracking.parent",
    "data.root", "train.workers", "train.threads", "train.device", "train.log_every", "train.checkpoint_every",
    "train.checkpoint_minutes", "train.on_nan",
    "evaluate.predictions",
}  # fmt: skip
OURS = ("config.yaml", "metrics.json", "history.jsonl", "predictions.png", "run.log")


def output_folder(config: Config) -> Path:
    """`output`, else runs/<dataset>/<method>/<split>/seed<seed>, with `/` of a split written `_`, and `:` of a method
    `-`, which is in no method's name."""
    if config.output:
        return expanded(config.output)
    split = Path(config.data.split).stem if Path(config.data.split).suffix else config.data.split.replace("/", "_")
    return Path("runs", config.dataset, config.method.replace(":", "-"), split, f"seed{config.seed}")


def open_folder(folder: Path, config: Config) -> dict[str, Any] | None:
    """The state to resume from, or None for a fresh run. Raises UserError rather than lose what lies there."""
    if config.overwrite and config.resume:
        raise UserError("give resume=true to go on or overwrite=true to start anew, not both")
    metrics = folder / "metrics.json"
    if config.overwrite:
        return None
    finished = metrics.is_file() and '"status": "finished"' in metrics.read_text()
    if finished:
        raise UserError(
            f"{folder} holds a finished run; look at it with `ssss evaluate run={folder}`, choose another output=, or "
            "start anew with overwrite=true"
        )
    last = checkpoint.find_folder(folder / "last")
    if not config.resume:
        if last or (folder / "config.yaml").exists():
            raise UserError(f"{folder} holds an unfinished run; resume=true goes on, overwrite=true starts anew")
        return None
    if last is None:
        log.warning("%s holds no checkpoint to resume from: starting from the first step", folder)
        return None
    state = checkpoint.load_state(last)
    compare(state["config"], flat_config(config), folder)
    return state | {"from": str(last)}


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
    from ssss_zoo.tracking import flat

    return {key: str(value) for key, value in flat(asdict(config)).items() if key not in FREE}


def compare(old: dict[str, str], new: dict[str, str], folder: Path) -> None:
    """Refuse to go on with another configuration than the checkpoint's, naming the first key that differs."""
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise UserError(
            f"{folder} was started with {key}={old.get(key, 'nothing')}, now {key}={new.get(key, 'nothing')}{more}; "
            "resume with the same configuration, or choose another output="
        )
