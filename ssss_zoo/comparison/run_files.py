"""The folder of one run of a comparison: how the run ended, its figures, and whether its files are whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.folders import ComparedRunFolder
from ssss_zoo.comparison.network_costs import read_network_cost
from ssss_zoo.comparison.records import REMAKE, ScoringProtocol
from ssss_zoo.comparison.report.per_image_counts import PerImageCounts, read_per_image_counts
from ssss_zoo.comparison.run_state import DONE, FAILED, STOPPED, RunState
from ssss_zoo.config.parse import read_file
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.record_files import FORMAT, Metrics, Newer, check_types, read_metrics, read_record
from ssss_zoo.train.history import read_history

ClassIous = dict[str, float | None]  # by class, in [0, 1]; None for a class in neither truth nor prediction


# --- how a run ended ------------------------------------------------------------------------------------------------


class StateRecord(TypedDict):
    """The key that every version of cell.json has."""

    status: str


def read_state(folder: ComparedRunFolder) -> RunState | None:
    """How the run ended last; None where it never ended, or the file that says so is damaged."""
    file = folder.state
    try:
        record = read_record(file, dict[str, Any], REMAKE)
        check_types(record, StateRecord, file, REMAKE)
        check_choice("status", record["status"], (DONE, FAILED, STOPPED))
    except UserError as error:
        refuse_newer(error)
        return None
    return RunState(record["status"], record.get("reason", "for an unknown reason"))


def write_state(folder: ComparedRunFolder, state: RunState) -> None:
    record = {"format": FORMAT, "status": state.status, "words": state.overrides, "reason": state.reason}
    write_json(folder.state, {key: value for key, value in record.items() if value is not None})


# --- its figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """The figures of a finished run that a comparison keeps, from its metrics.json. network: the one that stands for
    the run, whose IoUs of the last and of the best evaluation are `last` and `best`; miou: of the last evaluation, in
    [0, 1]; best_of: from how many evaluations the best was chosen; first_weights: digest of the initial weights."""

    dataset: str
    split: str
    step: int
    network: str
    miou: float
    last: ClassIous
    best: ClassIous
    best_of: int | None
    student: ClassIous
    teacher: ClassIous | None
    absent_classes: str
    train_seconds: float
    data_wait_seconds: float
    steps_per_second: float | None
    peak_memory_bytes: int | None
    validation_images: int
    data: Mapping[str, Any]
    protocol: ScoringProtocol
    first_weights: str
    environment: Mapping[str, Any]

    @classmethod
    def from_metrics(cls, metrics: Metrics) -> RunFigures:
        """The figures that a finished run's metrics.json holds."""
        val, best, time, protocol = metrics["val"], metrics["best"], metrics["time"], metrics["protocol"]
        return cls(
            dataset=metrics["dataset"],
            split=metrics["split"],
            step=metrics["step"],
            network=val["network"],
            miou=val["miou"],
            last=val["iou"],
            best=best["iou"],
            best_of=best.get("of"),
            student=val["student"]["iou"],
            teacher=val["teacher"]["iou"] if "teacher" in val else None,
            absent_classes=metrics["absent_classes"],
            train_seconds=time["train_seconds"],
            data_wait_seconds=time["data_wait_seconds"],
            steps_per_second=time["steps_per_second"],
            peak_memory_bytes=time["peak_memory_bytes"],
            validation_images=metrics["data"]["val"],
            data=metrics["data"],
            protocol=ScoringProtocol(
                name=protocol["name"],
                digest=protocol["digest"],
                settings=protocol["settings"],
                lists=protocol["lists"],
            ),
            first_weights=metrics.get("first_weights", "unknown"),
            environment=metrics["environment"],
        )


def finished_figures(folder: ComparedRunFolder) -> RunFigures | None:
    """The figures of a run that is trained to its end; None where it is not, or a file that must say so is damaged.
    Raises UserError where a newer version wrote it."""
    try:
        metrics = read_metrics(folder.metrics, REMAKE)
        read_config(folder.config)
    except UserError as error:
        refuse_newer(error)
        return None
    finished = metrics["status"] == "finished" and metrics["val"] and metrics["best"]
    return RunFigures.from_metrics(metrics) if finished else None


# --- its configuration ----------------------------------------------------------------------------------------------


class ModelRecord(TypedDict):
    """The keys of `model` that a report shows."""

    encoder: str
    weights: str


class TrainRecord(TypedDict):
    """The keys of `train` that a report shows."""

    crop: list[str]


class ConfigRecord(TypedDict):
    """config.yaml of a run, as text."""

    dataset: str
    data: dict[str, Any]
    model: ModelRecord
    train: TrainRecord
    evaluate: dict[str, Any]


def read_config(file: Path) -> dict[str, Any]:
    """A run's config.yaml. Raises UserError where it is not whole."""
    tree = read_file(file)
    check_types(tree, ConfigRecord, file, REMAKE)
    return tree


# --- its history ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LoggedPseudoLabels:
    """Pseudo-labels of a logged step, shares in [0, 1], see `train.pseudo_label_stats`. classes: share of each class
    among the used pixels; class_accuracy: of those, where hidden labels are."""

    step: int
    used: float | None
    weight: float | None
    accuracy: float | None
    classes: tuple[float | None, ...] | None
    class_accuracy: tuple[float | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class LoggedLoss:
    """Losses of a logged step: the supervised one and the sum of all others, each times its weight; and the learning
    rate."""

    supervised: float
    other: float
    rate: float


@dataclass(frozen=True)
class RunHistory:
    """history.jsonl of a run. pseudo_labels: of the logged steps, empty for a method without any; miou: by step of each
    evaluation, of the network that stands for the run; losses: by step of each logged step."""

    pseudo_labels: tuple[LoggedPseudoLabels, ...] = ()
    miou: Mapping[int, float] = field(default_factory=dict)
    losses: Mapping[int, LoggedLoss] = field(default_factory=dict)


def read_run_history(folder: ComparedRunFolder) -> RunHistory:
    """Damaged lines are left out with a warning. Raises UserError where the file cannot be read."""
    lines = read_history(folder.history)
    keys = ("used", "weight", "accuracy", "classes", "class_accuracy")
    logged = [
        LoggedPseudoLabels(step=line["step"], **{key: line["pseudo_labels"].get(key) for key in keys})
        for line in lines
        if "pseudo_labels" in line
    ]
    miou = {line["step"]: line["val"]["miou"] for line in lines if "val" in line}
    losses = {line["step"]: logged_loss(line) for line in lines if "losses" in line and "lr" in line}
    return RunHistory(tuple(logged), miou, losses)


def logged_loss(line: Mapping[str, Any]) -> LoggedLoss:
    """What a line of a logged step says. A stage of a method may have no supervised loss."""
    losses = line["losses"]
    supervised = losses.get("supervised", 0.0)
    return LoggedLoss(supervised=supervised, other=losses.get("total", supervised) - supervised, rate=line["lr"])


# --- whether its files are whole ------------------------------------------------------------------------------------


def finished_counts(folder: ComparedRunFolder, figures: RunFigures) -> PerImageCounts | None:
    """The counts of each validation image, with all files that the report's pictures are made of; None where they are
    not there, damaged, or of another run."""
    try:
        return read_per_image_counts(folder, figures.validation_images, len(figures.last))
    except UserError:
        return None


def is_done(folder: ComparedRunFolder) -> bool:
    """Whether a run is trained and scored. A run that an earlier version scored has no cost of its network; one whose
    cost is damaged is scored again."""
    figures = finished_figures(folder)
    if figures is None or finished_counts(folder, figures) is None:
        return False
    return not folder.cost.exists() or reads_whole(lambda: read_network_cost(folder))


def damaged_files(folder: ComparedRunFolder) -> list[Path]:
    """A run's records that are there and not whole. Raises UserError where a newer version wrote one."""
    readers: dict[Path, Callable[[], object]] = {
        folder.metrics: lambda: read_metrics(folder.metrics, REMAKE),
        folder.config: lambda: read_config(folder.config),
        folder.counts: lambda: read_per_image_counts(folder),
        folder.cost: lambda: read_network_cost(folder),
    }
    return [file for file, read in readers.items() if file.exists() and not reads_whole(read)]


def reads_whole(read: Callable[[], object]) -> bool:
    try:
        read()
    except UserError as error:
        refuse_newer(error)
        return False
    return True


def refuse_newer(error: UserError) -> None:
    """Raise the error where a newer version wrote the file: it is not damaged, and must not be made again."""
    if isinstance(error, Newer):
        raise error
