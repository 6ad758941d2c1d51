"""Reads the files of runs and comparisons and checks their types. A missing or wrong value is an error of one line.

A record holds `format`, the number of the format that it was written in. A record without it is older than these
numbers and counts as 0. Unknown keys are kept, so that files of a later version with more keys can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, NotRequired, TypeVar

from typing_extensions import TypedDict

from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
FORMAT = 1  # of the records that this version writes, and the highest that it reads
JSON_KINDS = {
    dict: "keys and values",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
}


class Newer(UserError):
    """A record in a format that only a newer version reads."""


# --- records in the files of a run ----------------------------------------------------------------------------------


class Numbered(TypedDict):
    """Any record."""

    format: NotRequired[int]


class Scores(TypedDict):
    """Figures of one network, in [0, 1]; the IoU of an absent class is None. calibration_error: expected calibration
    error of the evaluation after the last step."""

    miou: float
    iou: dict[str, float | None]
    pixel_accuracy: NotRequired[float]
    calibration_error: NotRequired[float]


class Val(Scores):
    """Figures on the validation images, of the network that counts as the run's result and of each single network."""

    step: int
    network: str
    student: Scores
    teacher: NotRequired[Scores]


class TimeRecord(TypedDict):
    """Seconds, steps a second, bytes; None where nothing was measured."""

    train_seconds: float
    evaluate_seconds: float
    data_wait_seconds: float
    steps_per_second: float | None
    peak_memory_bytes: int | None


class DataRecord(TypedDict):
    """Numbers of images, a fingerprint of their contents, and the statistics measured on them."""

    labelled: int
    unlabelled: int
    val: int
    fingerprint: str
    low: NotRequired[list[float]]
    high: NotRequired[list[float]]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]


class Protocol(TypedDict):
    """How a run was scored."""

    name: str | None
    digest: str
    settings: dict[str, Any]
    lists: dict[str, Any]


class Metrics(Numbered):
    """metrics.json. val, best: as `Val`, or empty where nothing was evaluated yet (see `read_metrics`)."""

    status: str
    method: str
    dataset: str
    split: str
    seed: int
    step: int
    val: dict[str, Any]
    best: dict[str, Any]
    skipped_steps: NotRequired[int]
    time: TimeRecord
    environment: dict[str, Any]
    data: DataRecord
    pseudo_labels: dict[str, Any] | None
    first_weights: NotRequired[str]
    absent_classes: str
    protocol: Protocol


class PseudoLabelFigures(TypedDict):
    """Statistics of the pseudo-labels of a step. used: the share of valid pixels with a weight. weight, confidence:
    means over valid pixels. classes: the share of each class among used pixels. accuracy, class_accuracy: of used
    pixels, with diagnose=true; None for a class that is not predicted."""

    used: float
    weight: float
    confidence: float
    classes: list[float]
    accuracy: NotRequired[float]
    class_accuracy: NotRequired[list[float | None]]


class HistoryLine(TypedDict):
    """A line of history.jsonl: of a logged step (losses, lr), of an evaluation (val), or of a step that was left out
    (skipped: the losses that were not finite)."""

    step: int
    stage: NotRequired[str]
    losses: NotRequired[dict[str, float]]
    lr: NotRequired[float]
    pseudo_labels: NotRequired[dict[str, Any]]
    val: NotRequired[Val]
    skipped: NotRequired[str]


class Digests(Numbered):
    """digests.json of a checkpoint: SHA-256 by the name of the file."""

    sha256: dict[str, str]


class MaskValuesRecord(TypedDict):
    """What training masks held for each class. kind: `ids`, `values` or `colours`, see `MaskEncoding`. values: of the
    classes, by id; void: of pixels that count for nothing, None where no value did. Empty for ids."""

    kind: Literal["ids", "values", "colours"]
    values: list[int]
    void: int | None


class CheckpointRecord(Numbered):
    """state.pt of a checkpoint to predict with. global_step: with the steps of earlier stages. classes: names of the
    network's output classes, in their order; colours: of each, [R, G, B]. reading: the fields of `Reading`, with which
    image files are read; without it the configuration has them. mask_values: without it the masks were polygons, or it
    is not known."""

    step: int
    global_step: int
    reported: str
    classes: NotRequired[list[str]]
    colours: NotRequired[list[list[int]]]
    reading: NotRequired[dict[str, Any]]
    mask_values: NotRequired[MaskValuesRecord]


class OptimizerState(TypedDict):
    """As torch's optimisers write it."""

    state: dict[Any, Any]
    param_groups: list[dict[str, Any]]


class ResumeRecord(CheckpointRecord):
    """state.pt of a checkpoint to resume from. config: the configuration, from `a.b.c` keys to text. contents: digests
    of the data, see `data/fingerprint.py`. tracked_runs: the run's id in each logger; earlier versions wrote mlflow_run
    alone."""

    stage: int
    optimizer: OptimizerState
    scaler: dict[str, Any]
    best: dict[str, Any]
    val: dict[str, Any]
    seen: dict[str, Any]
    window: list[dict[str, float]]
    spent: dict[str, float]
    config: dict[str, str]
    threads: int
    tracked_runs: NotRequired[dict[str, str]]
    mlflow_run: NotRequired[str | None]
    evaluations: NotRequired[int]
    evaluation_due: NotRequired[bool]
    skipped: NotRequired[list[int]]
    contents: NotRequired[dict[str, dict[str, str]]]


def tracked_run_ids(record: ResumeRecord) -> dict[str, str]:
    """The id of the run in each logger, by the logger's name."""
    if "tracked_runs" in record:
        return dict(record["tracked_runs"])
    mlflow_run = record.get("mlflow_run")
    return {"mlflow": mlflow_run} if mlflow_run else {}


# --- reading --------------------------------------------------------------------------------------------------------


def read_record(file: Path, schema: type[T], remedy: str) -> T:
    """The record in a JSON file, as `schema` (a TypedDict) has it. remedy: what to do about a damaged file,
    as the end of a sentence. Raises UserError with the file, the fault, its place in the file, and the remedy."""
    return check_record(parse(read_regular_text(file, remedy), file, remedy), schema, file, remedy)


def read_metrics(file: Path, remedy: str) -> Metrics:
    """metrics.json, its figures as `Val` where there are any. Raises UserError as `read_record` does."""
    metrics = read_record(file, Metrics, remedy)
    for key, figures in (("val", metrics["val"]), ("best", metrics["best"])):
        if figures:
            check_types(figures, Val, file, remedy, key)
    return metrics


def read_regular_text(file: Path, remedy: str) -> str:
    """The text of a regular file. Raises UserError where it cannot be read or is not a regular file."""
    if not file.is_file():  # reading a pipe would block, and reading a device might never end
        raise UserError(f"{file} is {'not a file' if file.exists() else 'not there'}; {remedy}")
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is damaged: it is not text in UTF-8; {remedy}") from None


def parse(text: str, file: Path, remedy: str) -> Any:
    """The value of a JSON text. NaN and infinity are refused, because this program writes neither."""
    if not text.strip():
        raise UserError(f"{file} is damaged: it is empty; {remedy}")
    try:
        return json.loads(text, parse_constant=refuse_number, parse_float=parse_finite)
    except RecursionError:
        raise UserError(f"{file} is damaged: it is nested too deeply; {remedy}") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged: it is not JSON ({brief(error)}); {remedy}") from None


def refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def parse_finite(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else refuse_number(text)


def check_record(value: object, schema: type[T], file: Path, remedy: str) -> T:
    """`value` as a record of this kind; its keys stay as they are. Raises UserError as `read_record` does."""
    if not isinstance(value, Mapping):
        raise UserError(f"{file} is damaged: it holds {json_kind(value)}, not keys and values; {remedy}")
    number = value.get("format", 0)
    if type(number) is not int or number < 0:
        raise UserError(f"{file} is damaged: 'format' should be a whole number, got {brief(repr(number))}; {remedy}")
    check_format(number, file)
    return check_types(value, schema, file, remedy)


def check_format(number: int, file: Path) -> None:
    """Raise UserError for a file in a later format than this version reads."""
    if number > FORMAT:
        raise Newer(f"{file} was written by a newer ssss-zoo (format {number}, this one reads up to {FORMAT}): upgrade")


def check_types(value: object, schema: type[T], file: Path, remedy: str, under: str = "") -> T:
    """Check that `value` has every key of `schema` with its type, and return it. under: the key of `value`."""
    from pydantic import ValidationError

    try:
        adapter(schema).validate_python(value, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise damaged_record(error, file, remedy, under) from None
    return value  # type: ignore[return-value]


def damaged_record(error: ValidationError, file: Path, remedy: str, under: str) -> UserError:
    """The error for a record that pydantic refuses: its first fault, and the number of others."""
    wrong = error.errors(include_url=False)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return UserError(f"{file} is damaged, or of another version: {complaint_text(wrong[0], under)}{more}; {remedy}")


def complaint_text(wrong: Mapping[str, Any], under: str) -> str:
    """One fault that pydantic found, as text: `'val.miou' should be a valid number, got 'high'`."""
    place = ".".join(map(str, (under, *wrong["loc"]) if under else wrong["loc"]))
    if wrong["type"] == "missing":
        return f"'{brief(place)}' is missing"
    expected = wrong["msg"].removeprefix("Input ").replace("dictionary", "mapping").replace("an object", "a mapping")
    return f"'{brief(place)}' {expected}, got {brief(repr(wrong['input']))}"


def json_kind(value: object) -> str:
    return "nothing" if value is None else JSON_KINDS.get(type(value), type(value).__name__)


@lru_cache
def adapter(schema: Any) -> TypeAdapter[Any]:
    """The pydantic adapter that checks values of a type, cached because it is slow to make."""
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


# --- records that are dataclasses -----------------------------------------------------------------------------------


def check_dataclass(tree: object, schema: type[T], file: Path, remedy: str, under: str = "") -> T:
    """The JSON value `tree` as `schema`, a dataclass; its arrays become tuples, and unknown keys are left out.
    under: the key of the value. Raises UserError as `check_types` does."""
    from pydantic import ValidationError

    try:
        record: T = adapter(schema).validate_json(json.dumps(tree), strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise damaged_record(error, file, remedy, under) from None
    return record


def dataclass_tree(record: Any) -> dict[str, Any]:
    """The JSON value of a dataclass record, in the order of its fields."""
    fields = adapter(type(record)).dump_python(record, by_alias=True)  # type: ignore[arg-type]
    tree: dict[str, Any] = json.loads(json.dumps(fields))  # pydantic's own JSON turns whole numbers into floats
    return tree
