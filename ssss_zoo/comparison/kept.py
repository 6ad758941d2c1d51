"""What a comparison keeps in its folder, read back by its types: the study, how each cell ended, figures, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Len
from typing_extensions import TypedDict

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.report.per_image_scores import ANEW, SCORES, Scores, read_scores
from ssss_zoo.comparison.run_one import DONE, FAILED, STATE, STOPPED
from ssss_zoo.config.parse import read_file
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.record_files import FORMAT, Metrics, Newer, check_types, read_metrics, read_record
from ssss_zoo.text import brief

STUDY, FIGURES, PICTURES = "study.json", "compare.json", "pictures"
INDEX = "pictures.json"  # in PICTURES
WRONG = (213, 94, 0)  # RGB of wrong pixels in the pictures, vermilion for the colour-blind (our choice)


# --- cells ----------------------------------------------------------------------------------------------------------


class CellState(TypedDict):
    """cell.json. status: done, failed or stopped; reason: of a failure."""

    format: NotRequired[int]
    status: str
    reason: NotRequired[str]
    words: NotRequired[list[str]]


def read_state(folder: Path) -> CellState | None:
    """How a cell ended last; None where it never did, or the file does not say."""
    try:
        state = read_record(folder / STATE, CellState, ANEW)
        check_choice("status", state["status"], (DONE, FAILED, STOPPED))
    except UserError as error:
        refuse_newer(error)
        return None
    return {"reason": "of an unknown reason", **state}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    write_json(folder / STATE, {"format": FORMAT, **state})


class KeptModel(TypedDict):
    """What of `model` is told of in a report."""

    encoder: str
    weights: str


class KeptTrain(TypedDict):
    """What of `train` is told of in a report."""

    crop: list[str]


class KeptConfig(TypedDict):
    """config.yaml of a cell, as text."""

    dataset: str
    data: dict[str, Any]
    model: KeptModel
    train: KeptTrain
    evaluate: dict[str, Any]


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml of a cell. Raises UserError where it is not whole."""
    file = folder / "config.yaml"
    tree = read_file(file)
    check_types(tree, KeptConfig, file, ANEW)
    return tree


def finished_metrics(folder: Path) -> Metrics | None:
    """Those of a cell that is trained to its end, None where it is not, or a file that must tell of it is damaged.
    Raises UserError where a newer version wrote it."""
    try:
        metrics = read_metrics(folder / "metrics.json", ANEW)
        read_config(folder)
    except UserError as error:
        refuse_newer(error)
        return None
    return metrics if metrics["status"] == "finished" and metrics["val"] and metrics["best"] else None


def finished_scores(folder: Path, metrics: Metrics) -> Scores | None:
    """Those of a cell that is scored, with all that its pictures are made of; None where it is not, or they are
    damaged, or of another run."""
    try:
        return read_scores(folder, metrics["data"]["val"], len(metrics["val"]["iou"]))
    except UserError:
        return None


def is_done(folder: Path) -> bool:
    """Whether a cell is trained and scored."""
    metrics = finished_metrics(folder)
    return metrics is not None and finished_scores(folder, metrics) is not None


def damaged(folder: Path) -> list[str]:
    """The names of a cell's records that are there and not whole. Raises UserError where a newer version wrote one."""
    readers: dict[str, Callable[[], object]] = {
        "metrics.json": lambda: read_metrics(folder / "metrics.json", ANEW),
        "config.yaml": lambda: read_config(folder),
        SCORES: lambda: read_scores(folder),
    }
    return [name for name, read in readers.items() if (folder / name).exists() and not reads_whole(read)]


def reads_whole(read: Callable[[], object]) -> bool:
    try:
        read()
    except UserError as error:
        refuse_newer(error)
        return False
    return True


def refuse_newer(error: UserError) -> None:
    """What a newer version wrote is not damaged, and not to be made again."""
    if isinstance(error, Newer):
        raise error


# --- the study ------------------------------------------------------------------------------------------------------


class StudyRecord(TypedDict):
    """study.json. common: what all rows share, text by key of the configuration; rows: words by the folder's name;
    steps_per_second: of each row, where time is shared out."""

    format: NotRequired[int]
    common: dict[str, str]
    rows: dict[str, list[str]]
    mlflow_run: NotRequired[str | None]
    steps_per_second: NotRequired[dict[str, float]]


def read_study_record(folder: Path) -> StudyRecord | None:
    """What is compared in a folder; None where nothing is yet. Raises UserError for a damaged record."""
    file = folder / STUDY
    if not file.exists():
        return None
    return read_record(file, StudyRecord, "put it back from a copy, or choose another output=")


def write_study_record(folder: Path, record: StudyRecord) -> None:
    write_json(folder / STUDY, {**record, "format": FORMAT})


# --- figures --------------------------------------------------------------------------------------------------------


class Spread(TypedDict):
    """Over seeds."""

    mean: float | None
    std: float | None
    values: list[float | None]


class Gain(TypedDict):
    """A paired difference with its interval."""

    mean: float
    low: float
    high: float
    sure: bool


class Point(TypedDict):
    """Pseudo-labels at a step."""

    step: int
    used: float | None
    accuracy: float | None


class OfClass(TypedDict):
    """Pseudo-labels of a class."""

    share: float | None
    accuracy: float | None


Settings = TypedDict("Settings", {"model.encoder": str, "model.weights": str, "train.crop": str})


class Origin(TypedDict):
    """Of a split list: which of the field's it is."""

    list: str


class RowProtocol(TypedDict):
    """How a row was scored."""

    name: str | None
    digest: str
    settings: dict[str, Any]
    lists: dict[str, Origin]


class BareRow(TypedDict):
    """Of a row without a finished run."""

    name: str
    words: list[str]
    seeds: list[int]


class FullRow(BareRow):
    """Of a row with finished runs. folders: of the runs, within the comparison's, by seed."""

    network: str
    last: Spread
    best: Spread
    student: Spread
    teacher: Spread
    iou: dict[str, Spread]
    rare: Spread
    border_iou: Spread
    calibration_error: Spread
    pseudo_labels: dict[str, Spread] | None
    pseudo_labels_over_time: list[Point]
    pseudo_label_classes: dict[str, OfClass]
    train_seconds: Spread
    steps_per_second: Spread
    wait_share: Spread
    peak_memory_bytes: Spread
    steps: int
    protocol: RowProtocol
    settings: Settings
    folders: dict[str, str]
    over_supervised: Gain | None
    rare_over_supervised: Gain | None
    border_over_supervised: Gain | None
    to_best: Gain | None


class Failure(TypedDict):
    """A cell that failed."""

    row: str
    seed: int
    reason: str


class Figures(TypedDict):
    """compare.json. rows: a `FullRow`, or a `BareRow` where no seed is finished."""

    format: NotRequired[int]
    headline: str
    dataset: str | None
    split: str | None
    classes: list[str]
    classes_in_mean: NotRequired[list[str]]
    rare_classes: list[str]
    budget: str
    seeds: list[int]
    words: list[str]
    protocols_differ: bool
    first_weights_differ: list[str]
    settings_differ: dict[str, dict[str, str]]
    rows: list[BareRow]
    failed: list[Failure]
    missing: list[Annotated[list[str | int], Len(2, 2)]]
    left_out: list[str]
    interval: float
    environment: dict[str, Any] | None


def read_figures(folder: Path) -> dict[str, Any]:
    """compare.json of a comparison. Raises UserError where there is none, or it is damaged."""
    file = folder / FIGURES
    if not file.exists():
        raise UserError(f"{folder} holds no comparison (no {FIGURES}); give the folder of `ssss compare`")
    figures = read_record(file, Figures, ANEW)
    for number, row in enumerate(figures["rows"]):
        if row["seeds"]:
            check_row(check_types(row, FullRow, file, ANEW, f"rows.{number}"), figures, file)
    return dict(figures)


def check_row(row: FullRow, figures: Figures, file: Path) -> None:
    """Raise UserError for a row that lacks something that the rest of the file speaks of."""
    names = {name for key in figures["settings_differ"].values() for name in key}
    classes, runs = set(figures["classes"]), {str(seed) for seed in row["seeds"]}
    lacking = [
        what
        for what, whole in (
            ("IoUs", classes <= row["iou"].keys()),
            ("pseudo-labels", not row["pseudo_label_classes"] or classes <= row["pseudo_label_classes"].keys()),
            ("folders", runs <= row["folders"].keys()),
            ("settings", not names or row["name"] in names),
            ("a method", any(word.startswith("method=") for word in row["words"])),
            ("a mean", row["last"]["mean"] is not None),
        )
        if not whole
    ]
    if lacking:
        raise UserError(f"{file} is damaged: row '{brief(row['name'])}' lacks {', '.join(lacking)}; {ANEW}")


# --- pictures -------------------------------------------------------------------------------------------------------


class RowPictures(TypedDict):
    """File names."""

    predicted: str
    wrong: str


class ImagePictures(TypedDict):
    """File names."""

    image: str
    truth: str
    rows: dict[str, RowPictures]


class Image(TypedDict):
    """A validation image under every row."""

    index: int
    name: str
    worst: bool
    miou: dict[str, float]
    files: ImagePictures


class Drawn(TypedDict):
    """A row's pseudo-labels at a step."""

    step: int
    file: str


class Drawings(TypedDict):
    """Pseudo-labels of one unlabelled image, by row."""

    image: str | None
    rows: dict[str, list[Drawn]]


class Pictures(TypedDict):
    """The index of the pictures. colours: RGB of each class; void: the two that its squares are drawn with."""

    format: NotRequired[int]
    colours: list[Annotated[list[int], Len(3, 3)]]
    void: NotRequired[Annotated[list[Annotated[list[int], Len(3, 3)]], Len(2, 2)]]
    images: list[Image]
    diary: Drawings


def read_pictures_index(folder: Path) -> Pictures | None:
    """None where a comparison has no pictures yet. Raises UserError for a damaged index."""
    file = folder / PICTURES / INDEX
    return read_record(file, Pictures, ANEW) if file.exists() else None
