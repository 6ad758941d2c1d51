"""The records that a comparison keeps in its folder: compare.json, its figures, and study.json, what is compared.

Field names are the keys of the files, but for aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.network_cost import NetworkCost
from ssss_zoo.record_files import FORMAT, check_dataclass, dataclass_tree, read_record
from ssss_zoo.text import brief

REMAKE = "the same `ssss compare` command makes it anew"
NETWORK_KEYS = ("model.encoder", "model.weights", "train.crop")  # settings that published figures are matched by

Overrides = Annotated[tuple[str, ...], Field(alias="words")]


# --- figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SeedStatistics:
    """A figure over seeds. values: one a seed, None where nothing was measured; mean, std: of the measured ones, the
    standard deviation of the sample, which one value does not have."""

    mean: float | None
    std: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference in mIoU over the seeds that two rows share, and its interval from `low` to `high`. significant:
    the interval excludes 0, with seeds enough to say so."""

    mean: float
    low: float
    high: float
    seeds: tuple[int, ...] = ()
    significant: Annotated[bool, Field(alias="sure")]


@dataclass(frozen=True, kw_only=True)
class PseudoLabelStatistics:
    """Pseudo-labels towards the end of training, shares in [0, 1]. used: of valid pixels, those with a weight; weight:
    mean over valid pixels; accuracy: of used pixels, those that agree with hidden labels."""

    used: SeedStatistics
    weight: SeedStatistics
    accuracy: SeedStatistics


@dataclass(frozen=True, kw_only=True)
class PseudoLabelPoint:
    """Pseudo-labels at a step, means over seeds, as in `PseudoLabelStatistics`."""

    step: int
    used: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class PseudoLabelClass:
    """Pseudo-labels of a class. share: of the used pixels, in [0, 1]; accuracy: of those, where hidden labels are."""

    share: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class ScoringProtocol:
    """How a row was scored, see `evaluation.protocol`. lists: the split lists, by `labelled`, `unlabelled`, `val`."""

    name: str | None
    digest: str
    settings: dict[str, Any]
    lists: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RowStatistics:
    """The figures of a row with finished runs. Shares are in [0, 1].

    last, best: mIoU of the last and of the best evaluation; best_of: from how many evaluations each seed's best was
    chosen, None where a run does not say; rare: mIoU of the rare classes; network_cost: one measurement for all rows
    with the same network, None where an earlier version scored the runs; folders: of the runs, within the comparison's
    folder, by seed.
    """

    network: str
    last: SeedStatistics
    best: SeedStatistics
    best_of: tuple[int | None, ...] = ()
    student: SeedStatistics
    teacher: SeedStatistics
    iou: dict[str, SeedStatistics]
    rare: SeedStatistics
    border_iou: SeedStatistics
    calibration_error: SeedStatistics
    pseudo_labels: PseudoLabelStatistics | None
    pseudo_labels_over_time: tuple[PseudoLabelPoint, ...]
    pseudo_label_classes: dict[str, PseudoLabelClass]
    train_seconds: SeedStatistics
    steps_per_second: SeedStatistics
    wait_share: SeedStatistics
    peak_memory_bytes: SeedStatistics
    network_cost: NetworkCost | None = None
    steps: int
    protocol: ScoringProtocol
    data: dict[str, Any] | None = None
    settings: dict[str, str]
    folders: dict[str, str]
    over_supervised: Difference | None
    rare_over_supervised: Difference | None
    border_over_supervised: Difference | None
    vs_best: Annotated[Difference | None, Field(alias="to_best")]


@dataclass(frozen=True, kw_only=True)
class RowFigures:
    """A row of a comparison. seeds: of its finished runs; statistics: of them, None where no run is finished."""

    name: str
    overrides: Overrides
    seeds: tuple[int, ...]
    statistics: RowStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    """A run that failed, and why."""

    row: str
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ComparisonFigures:
    """compare.json: everything that tables and report are made from. Figures are shares in [0, 1], seconds, bytes.

    classes_in_mean: None in files of earlier versions, whose means are over all classes; settings_differ: by key of the
    configuration, the value of each row; missing: row and seed of the runs that are not finished; left_out: finished
    runs in the folder that the command does not name.
    """

    format: int = 0
    headline: str
    dataset: str | None
    split: str | None
    classes: tuple[str, ...]
    rare_classes: tuple[str, ...]
    absent_classes: str = "exclude"
    classes_in_mean: tuple[str, ...] | None = None
    budget: str
    seeds: tuple[int, ...]
    overrides: Overrides
    protocols_differ: bool
    first_weights_differ: tuple[str, ...]
    settings_differ: dict[str, dict[str, str]]
    best: str | None = None
    rows: tuple[RowFigures, ...]
    failed: tuple[FailedRun, ...]
    missing: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]
    interval: float
    bootstrap_draws: int | None = None
    environment: dict[str, Any] | None

    def ranked(self) -> list[RowFigures]:
        """The rows, the best mIoU first, those without a finished run last."""
        return sorted(self.rows, key=lambda row: -(row.statistics.last.mean or 0.0) if row.statistics else 1.0)

    def finished(self) -> dict[str, RowStatistics]:
        """The figures of the rows that have any, by the row's name, the best mIoU first."""
        return {row.name: row.statistics for row in self.ranked() if row.statistics}


def figures_tree(figures: ComparisonFigures) -> dict[str, Any]:
    """The figures as compare.json holds them: a row's statistics are keys of the row itself."""
    tree = dataclass_tree(figures)
    rows = [{key: value for key, value in row.items() if key != "statistics"} | (row["statistics"] or {})
            for row in tree["rows"]]  # fmt: skip
    return tree | {"rows": rows}


def read_figures(folder: ComparisonFolder) -> ComparisonFigures:
    """compare.json of a comparison. Raises UserError where there is none, or it is damaged."""
    file = folder.figures
    if not file.exists():
        raise UserError(f"{folder.path} holds no comparison (no {file.name}); give a folder that `ssss compare` wrote")
    tree = read_record(file, dict[str, Any], REMAKE)
    figures = check_dataclass(tree, ComparisonFigures, file, REMAKE)
    rows = tuple(
        replace(row, statistics=read_statistics(item, figures, file, f"rows.{number}") if row.seeds else None)
        for number, (row, item) in enumerate(zip(figures.rows, tree["rows"], strict=True))
    )
    return replace(figures, rows=rows)


def read_statistics(row: Mapping[str, Any], figures: ComparisonFigures, file: Path, key: str) -> RowStatistics:
    """The statistics of a row, which stands at `key` of the file. Raises UserError where it lacks some, or something
    that the rest of the file refers to."""
    found = check_dataclass(row, RowStatistics, file, REMAKE, key)
    compared = {name for values in figures.settings_differ.values() for name in values}
    classes, seeds = set(figures.classes), {str(seed) for seed in row["seeds"]}
    whole = {
        "IoUs": classes <= found.iou.keys(),
        "pseudo-labels": not found.pseudo_label_classes or classes <= found.pseudo_label_classes.keys(),
        "folders": seeds <= found.folders.keys(),
        "settings": (not compared or row["name"] in compared) and found.settings.keys() >= set(NETWORK_KEYS),
        "a method": any(argument.startswith("method=") for argument in row["words"]),
        "a mean": found.last.mean is not None,
    }
    lacking = [what for what, there in whole.items() if not there]
    if lacking:
        raise UserError(f"{file} is damaged: row '{brief(row['name'])}' lacks {', '.join(lacking)}; {REMAKE}")
    return found


# --- the study ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """study.json. common: what all rows share, text by key of the configuration; rows: overrides by the row's folder;
    tracked_runs: the comparison's id in each logger, of which earlier versions wrote mlflow_run; steps_per_second:
    of each row, where the budget is time; jobs: runs at a time of the last command, where given; unknown: what another
    version keeps beside these."""

    common: dict[str, str]
    rows: dict[str, tuple[str, ...]]
    tracked_runs: dict[str, str] | None = None
    mlflow_run: str | None = None
    steps_per_second: dict[str, float] | None = None
    jobs: int | None = None
    format: int = FORMAT
    unknown: Annotated[dict[str, Any], Field(exclude=True)] = field(default_factory=dict)

    def logger_run_ids(self) -> dict[str, str]:
        """The id of the comparison in each logger, by the logger's name."""
        if self.tracked_runs is not None:
            return self.tracked_runs
        return {"mlflow": self.mlflow_run} if self.mlflow_run else {}


def read_study_record(folder: ComparisonFolder) -> StudyRecord | None:
    """The record of a folder, None where there is none yet. Raises UserError for a damaged one."""
    file = folder.study
    if not file.exists():
        return None
    remedy = "restore it from a copy, or choose another output="
    tree = read_record(file, dict[str, Any], remedy)
    known = {key.name for key in fields(StudyRecord)}
    return replace(
        check_dataclass(tree, StudyRecord, file, remedy),
        unknown={key: value for key, value in tree.items() if key not in known},
    )


def write_study_record(folder: ComparisonFolder, record: StudyRecord) -> None:
    tree = dataclass_tree(replace(record, format=FORMAT))
    known = {key: value for key, value in tree.items() if value is not None}
    write_json(folder.study, known | record.unknown)
