"""Collects the metrics of a run for `metrics.json`."""

from __future__ import annotations

from ssss_zoo.record_files import FORMAT, DataRecord, Metrics, TimeRecord
from ssss_zoo.train.checkpointing import TrainerState
from ssss_zoo.train.device import environment, peak_memory
from ssss_zoo.train.setup import RunParts
from ssss_zoo.train.stage import StageParts


def run_metrics(parts: RunParts, stage: StageParts, state: TrainerState, status: str) -> Metrics:
    """The metrics of the whole run, from its last stage. status: running, finished, stopped or failed."""
    config = parts.config
    metrics: Metrics = {
        "format": FORMAT,
        "status": status,
        "method": config.method,
        "dataset": config.dataset,
        "split": config.data.split,
        "seed": config.seed,
        "step": stage.offset + state.step,
        "val": state.val,
        "best": state.best and state.best | {"of": state.evaluations},  # the best of how many evaluations
        "skipped_steps": len(state.skipped_steps),
        "time": time_record(parts, stage, state),
        "environment": environment(parts.device),
        "data": data_record(parts, stage),
        "pseudo_labels": None,
        "first_weights": parts.first_weights,
        "absent_classes": config.evaluate.absent,
        "protocol": parts.protocol,
    }
    if state.pseudo_labels:
        metrics["pseudo_labels"] = {**state.pseudo_labels, "labelled_classes": stage.stats.histogram.tolist()}
    return metrics


def time_record(parts: RunParts, stage: StageParts, state: TrainerState) -> TimeRecord:
    """The seconds that the run spent, and the memory that it took."""
    train_seconds, steps = state.seconds["train"], stage.offset + state.step
    return {
        "train_seconds": round(train_seconds, 3),
        "evaluate_seconds": round(state.seconds["evaluate"], 3),
        "data_wait_seconds": round(state.seconds["wait"], 3),
        "steps_per_second": round(steps / train_seconds, 4) if train_seconds else None,
        "peak_memory_bytes": peak_memory(parts.device),
    }


def data_record(parts: RunParts, stage: StageParts) -> DataRecord:
    """How many images the run used, and how it read them. Unlabelled images count where views show them, or where an
    earlier stage gave them masks."""
    dataset, config, student = parts.dataset, parts.config, parts.students[0]
    uses_unlabelled = parts.needs.unlabelled or any(sample.pseudo for sample in stage.labelled)
    return {
        "labelled": len(dataset.labelled),
        "unlabelled": len(dataset.unlabelled) if uses_unlabelled else 0,
        "val": len(dataset.val),
        "fingerprint": dataset.fingerprint,
        "low": list(config.data.low),
        "high": list(config.data.high),
        "mean": student.mean.flatten().tolist(),
        "std": student.std.flatten().tolist(),
    }
