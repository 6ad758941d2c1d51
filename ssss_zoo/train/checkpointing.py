"""What a stage saves and restores: weights, optimizer and counters, on the disk or as a copy in memory.

Draws and positions in the streams of images are functions of seed and step, so the step stands for both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.folder.mask_encoding import MaskEncoding
from ssss_zoo.data.images import Reading
from ssss_zoo.record_files import FORMAT, PseudoLabelFigures, ResumeRecord, tracked_run_ids
from ssss_zoo.toolkit.types import StageResult
from ssss_zoo.train import checkpoint
from ssss_zoo.train.checkpoint import METHODS, fill_module
from ssss_zoo.train.resume import flat_config
from ssss_zoo.train.setup import RunParts
from ssss_zoo.train.stage import StageParts

COPY_TIME_SHARE = 0.01  # of the training time that copies of all state into memory may take (our choice)
Weights = dict[str, Mapping[str, Tensor]]  # tensors by file and by name
LoadModule = Callable[[str, nn.Module], None]  # fills a network, or the methods' modules, by the name of its file
log = logging.getLogger("ssss_zoo")


@dataclass
class TrainerState:
    """What a stage counts while it trains; with the weights and the optimizer, all that `state.pt` holds of it."""

    step: int = 0  # optimizer steps done in this stage
    val: dict[str, Any] = field(default_factory=dict)  # figures of the last evaluation, of the run
    best: dict[str, Any] = field(default_factory=dict)  # figures of the evaluation with the highest mIoU, of this stage
    evaluations: int = 0
    evaluation_due: bool = False  # the step is done and its evaluation is still to come
    skipped_steps: list[int] = field(default_factory=list)  # steps that train.on_nan=skip left out
    pseudo_labels: PseudoLabelFigures | None = None  # of the last logged step
    unlogged_losses: list[dict[str, float]] = field(default_factory=list)  # of each step since the last logged one
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "wait": 0.0})
    tracked_runs: dict[str, str] = field(default_factory=dict)  # the id of the run in each logger

    @classmethod
    def from_record(cls, record: ResumeRecord) -> TrainerState:
        """The counters of a checkpoint. Checkpoints of format 0 lack some of them."""
        return cls(
            step=record["step"],
            val=record["val"],
            best=record["best"],
            evaluations=record.get("evaluations", 0),
            evaluation_due=record.get("evaluation_due", False),
            skipped_steps=list(record.get("skipped", ())),
            pseudo_labels=cast("PseudoLabelFigures | None", record["seen"] or None),
            unlogged_losses=list(record["window"]),
            seconds=dict(record["spent"]),
            tracked_runs=tracked_run_ids(record),
        )


@dataclass(frozen=True)
class Snapshot:
    """A copy in memory of all that a stage is at a step, to go back to when the steps after it come to nothing.

    weights, record: as a checkpoint holds them, on the CPU. seconds: how long the copy took.
    """

    weights: Weights
    record: ResumeRecord
    taken_at: float
    seconds: float

    def is_old(self) -> bool:
        """Whether it is time for a new copy, so that copies take COPY_TIME_SHARE of the training time."""
        return time.monotonic() - self.taken_at > self.seconds / COPY_TIME_SHARE

    def load(self, name: str, module: nn.Module) -> None:
        fill_module(module, self.weights[name], name)


def copy_on_host(value: Any) -> Any:
    """A copy of nested mappings, lists and tensors, with the tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copy_on_host(item) for key, item in value.items()}
    return [copy_on_host(item) for item in value] if isinstance(value, list) else value


def dataset_record(dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint holds of the data set, so that its networks predict where the data are not there."""
    record: dict[str, Any] = {
        "classes": list(dataset.class_names),
        "colours": [list(map(int, colour)) for colour in dataset.colours],
    }
    reading = getattr(dataset, "reading", None)  # a data set made in memory reads no files
    if isinstance(reading, Reading):
        record["reading"] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in vars(reading).items()
        }
    encoding = getattr(dataset, "encoding", None)  # of a person's folder
    if encoding is None:
        record["mask_values"] = {"kind": "ids", "values": [], "void": None}
    elif isinstance(encoding, MaskEncoding):
        record["mask_values"] = encoding.record()
    return record


@dataclass(frozen=True, eq=False)
class Checkpointer:
    """Saves and restores one stage of a run."""

    parts: RunParts
    stage: StageParts

    # --- save ---------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, state: TrainerState) -> None:
        """Write a checkpoint to resume from. Raises UserError when the disk refuses."""
        record = {**self.record(state), **dataset_record(self.parts.dataset)}
        checkpoint.save_folder(folder, self.weights(), record | {"contents": self.parts.dataset.contents})

    def save_for_prediction(self, folder: Path, state: TrainerState) -> None:
        """Write a checkpoint of the networks alone, to predict with. Raises UserError when the disk refuses."""
        weights = {name: network.state_dict() for name, network in self.stage.networks().items()}
        record: Mapping[str, Any] = self.record(state)
        kept = {key: record[key] for key in ("format", "step", "global_step", "reported")}
        checkpoint.save_folder(folder, weights, kept | dataset_record(self.parts.dataset))

    def save_result(self, folder: Path, state: TrainerState) -> None:
        """Keep a finished stage, so that a resumed run need not train it again."""
        checkpoint.save_folder(folder, self.weights(), {"val": state.val, "best": state.best})

    def take_snapshot(self, state: TrainerState) -> Snapshot:
        """Copy all that the stage is now. A stage that goes back to the copy repeats the steps since then."""
        began = time.monotonic()
        weights, record = copy_on_host(self.weights()), copy_on_host(self.record(state))
        now = time.monotonic()
        return Snapshot(weights, record, taken_at=now, seconds=now - began)

    def weights(self) -> Weights:
        """The live tensors of the networks and of the methods' modules."""
        weights: Weights = {name: network.state_dict() for name, network in self.stage.networks().items()}
        return weights | {METHODS: nn.ModuleDict(self.parts.modules).state_dict()}

    def record(self, state: TrainerState) -> ResumeRecord:
        """What `state.pt` holds: plain types and live tensors."""
        stage = self.stage
        return {
            "format": FORMAT,
            "step": state.step,
            "global_step": stage.offset + state.step,
            "reported": stage.result_name(),
            "stage": stage.index,
            "optimizer": stage.engine.optimizer.state_dict(),  # type: ignore[typeddict-item]
            "scaler": stage.engine.scaler.state_dict(),
            "best": state.best,
            "val": state.val,
            "evaluations": state.evaluations,
            "evaluation_due": state.evaluation_due,
            "skipped": list(state.skipped_steps),
            "seen": {**state.pseudo_labels} if state.pseudo_labels else {},
            "window": list(state.unlogged_losses),
            "spent": dict(state.seconds),
            "tracked_runs": dict(state.tracked_runs),
            "config": flat_config(self.parts.config),
            "threads": torch.get_num_threads(),
        }

    # --- restore ------------------------------------------------------------------------------------------------------

    def restore(self, folder: Path, record: ResumeRecord) -> TrainerState:
        """Fill weights and optimizer from a checkpoint, and return its counters. record: the `state.pt` of `folder`."""
        if record["threads"] != torch.get_num_threads():
            log.warning(
                f"the run began with {record['threads']} threads and goes on with {torch.get_num_threads()}: the "
                "last bits of its numbers will differ"
            )
        return self.restore_from(record, lambda name, module: checkpoint.load_module_weights(folder, name, module))

    def restore_snapshot(self, snapshot: Snapshot) -> TrainerState:
        """Fill weights and optimizer from a copy in memory, and return its counters. The copy stays as it is."""
        return self.restore_from(copy_on_host(snapshot.record), snapshot.load)

    def restore_from(self, record: ResumeRecord, load: LoadModule) -> TrainerState:
        """See `restore`; `load` knows where the weights are."""
        self.load_weights(load)
        engine = self.stage.engine
        engine.optimizer.load_state_dict(record["optimizer"])  # type: ignore[arg-type]
        engine.optimizer.zero_grad(set_to_none=True)
        engine.scaler.load_state_dict(record["scaler"])
        return TrainerState.from_record(record)

    def read_result(self, folder: Path) -> StageResult:
        """Fill the networks with the weights of a stage that an earlier process finished, and return its result."""
        self.load_weights(lambda name, module: checkpoint.load_module_weights(folder, name, module))
        return self.stage.result(checkpoint.load_state(folder)["val"])

    def load_weights(self, load: LoadModule) -> None:
        for name, network in self.stage.networks().items():
            load(name, network)
        load(METHODS, nn.ModuleDict(self.parts.modules))
