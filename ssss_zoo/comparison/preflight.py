"""The checks before the first run of a comparison starts, so that no row fails after hours for an old mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ssss_zoo.comparison.plan import PlannedRun, StudyPlan
from ssss_zoo.comparison.run_files import finished_figures, is_done
from ssss_zoo.config.checks import check_budget
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.registry import build_methods, load
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.train.device import check_device
from ssss_zoo.train.setup import make_parts, open_dataset
from ssss_zoo.train.tracking import check_loggers


def check_rows_can_run(plan: StudyPlan) -> None:
    """Read every row's overrides, open its data, and build its networks and methods on the CPU. Raises UserError that
    names each row that cannot run, and why; and where rows are scored on other images or classes."""
    problems = list[str]()
    masks_checked = False
    scored_on = dict[str, ScoredOn]()
    for row in plan.rows:
        runs = plan.runs_of(row)
        for figures in (finished_figures(run.folder) for run in runs):
            if figures:
                scored_on[f"{row.name}, as it was trained"] = ScoredOn(figures.validation_images, tuple(figures.last))
        if all(is_done(run.folder) for run in runs):
            continue
        try:
            dataset = check_run(runs[0])
            scored_on[row.name] = ScoredOn(len(dataset.val), tuple(dataset.class_names))
        except UserError as error:
            problems.append(f"{row.name}: {error}")
            continue
        if not masks_checked:  # reading the masks takes long, and rows share them
            dataset.check()
            masks_checked = True
    if problems:
        raise UserError("; ".join(problems))
    check_scored_alike(scored_on)


def check_run(run: PlannedRun) -> Dataset:
    """Build all parts of a run on the CPU; returns its data set. Raises UserError where they do not fit together."""
    config = run.config()
    methods = build_methods(config)
    check_loggers(config)
    check_budget(config)
    if run.plan.launcher == "local":  # else it may be a device of another machine
        check_device(config.train.device)
    dataset, config = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    make_parts(on_cpu(config), methods, dataset, run.folder)
    return dataset


def on_cpu(config: Config) -> Config:
    """The same run without the settings that need a GPU or much memory."""
    train = replace(config.train, device="cpu", precision="32", compile=False)
    return replace(config, data=replace(config.data, cache="none"), train=train)


@dataclass(frozen=True)
class ScoredOn:
    """What a row is scored on: the number of validation images, and the classes."""

    images: int
    classes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.images} validation images of {len(self.classes)} classes ({brief(', '.join(self.classes))})"


def check_scored_alike(scored_on: Mapping[str, ScoredOn]) -> None:
    """Raise UserError where rows are scored on other images or classes than the first one, or on no images at all."""
    if not scored_on:
        return
    first, *others = scored_on
    for name in others:
        if scored_on[name] != scored_on[first]:
            raise UserError(
                f"{first} is scored on {scored_on[first]}, {name} on {scored_on[name]}: figures on different images or "
                "classes cannot be compared; give all rows the same, or restore the files of the data set"
            )
    if not scored_on[first].images:
        raise UserError("a comparison needs validation images: add some, or hold some out (data.hold_out=0.2)")


# --- hidden masks ---------------------------------------------------------------------------------------------------


def with_diagnosis(plan: StudyPlan) -> StudyPlan:
    """The plan with `diagnose=true`, which compares pseudo-labels with hidden masks, where every unlabelled image of
    every row has such a mask and no override sets the key. The masks reach no method."""
    given = [argument for row in plan.rows for argument in row.overrides] + list(plan.overrides)
    if any(argument.startswith("diagnose=") for argument in given):
        return plan
    try:
        hidden = all(has_hidden_masks(config) for config in data_configs(plan))
    except UserError:
        return plan  # `check_rows_can_run` names the row and the error
    return replace(plan, overrides=(*plan.overrides, "diagnose=true")) if hidden else plan


def has_hidden_masks(config: Config) -> bool:
    unlabelled = open_dataset(load("datasets", config.dataset), config)[0].unlabelled
    return all(sample.mask is not None for sample in unlabelled)


def data_configs(plan: StudyPlan) -> Iterator[Config]:
    """One configuration for each data set among the rows."""
    seen = set()
    for row in plan.rows:
        config = plan.runs_of(row)[0].config()
        key = (config.dataset, repr(config.data), config.model.in_channels)
        if key not in seen:
            seen.add(key)
            yield config
