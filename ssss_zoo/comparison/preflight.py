"""What is looked at before the first cell starts, so that no row fails after hours for what was wrong all along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ssss_zoo.comparison.kept import finished_metrics, is_done
from ssss_zoo.comparison.study import Cell, Study
from ssss_zoo.config.schema import Config, check_budget
from ssss_zoo.engine.registry import build_methods, load
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import Metrics
from ssss_zoo.text import brief
from ssss_zoo.train.run import make_job
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import open_dataset


def check_study(study: Study) -> None:
    """Read every row's words, open the data, make every row's networks and methods, on the CPU. Raises UserError that
    names each row that cannot run, and why, and where rows are scored on other images or classes."""
    wrong, checked, scored = list[str](), False, dict[str, Judges]()
    for row in study.rows:
        cells = [cell for cell in study.cells() if cell.row is row]
        done = [metrics for cell in cells if (metrics := finished_metrics(cell.folder))]
        scored |= {f"{row.name}, as it was trained": Judges.of_run(metrics) for metrics in done}
        if all(is_done(cell.folder) for cell in cells):
            continue
        try:
            config = cells[0].config()
            methods = build_methods(config)
            check_budget(config)
            dataset = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
            make_job(on_cpu(config), methods, dataset, RunFolder(cells[0].folder))
            scored[row.name] = Judges(len(dataset.val), tuple(dataset.class_names))
        except UserError as error:
            wrong.append(f"{row.name}: {error}")
            continue
        if not checked:  # what its masks hold, once for all
            dataset.check()
            checked = True
    if wrong:
        raise UserError("; ".join(wrong))
    check_judges(scored)


class Judges(NamedTuple):
    """What a row is scored on: how many validation images, which classes."""

    images: int
    classes: tuple[str, ...]

    @classmethod
    def of_run(cls, metrics: Metrics) -> Judges:
        return cls(metrics["data"]["val"], tuple(metrics["val"]["iou"]))

    def __str__(self) -> str:
        return f"{self.images} validation images of {len(self.classes)} classes ({brief(', '.join(self.classes))})"


def check_judges(scored: Mapping[str, Judges]) -> None:
    """Raise UserError where there is nothing to be scored on, or not the same for all: figures would not compare."""
    first, *others = scored or {"": Judges(1, ())}
    for name in others:
        if scored[name] != scored[first]:
            raise UserError(
                f"{first} is scored on {scored[first]}, {name} on {scored[name]}: figures on other images or classes "
                "do not compare; give all rows the same, or put back what the data set held"
            )
    if scored and not scored[first].images:
        raise UserError("a comparison needs validation images: name some, or have some held out (data.hold_out=0.2)")


def on_cpu(config: Config) -> Config:
    """The same run without what a GPU or much memory is for: what is looked at is whether its parts fit together."""
    train = replace(config.train, device="cpu", precision="32", compile=False)
    return replace(config, data=replace(config.data, cache="none"), train=train)


def diagnosed(study: Study) -> Study:
    """The study with `diagnose=true` where every unlabelled image of every row has a hidden mask, and the words do
    not settle it. The masks are compared with the pseudo-labels, and reach no method."""
    given = [word for row in study.rows for word in row.words] + list(study.words)
    if any(word.startswith("diagnose=") for word in given):
        return study
    try:
        hidden = all(all_hidden(config) for config in configs(study))
    except UserError:
        return study  # which is told of by the row
    return replace(study, words=(*study.words, "diagnose=true")) if hidden else study


def all_hidden(config: Config) -> bool:
    unlabelled = open_dataset(load("datasets", config.dataset), config).unlabelled
    return all(sample.mask is not None for sample in unlabelled)


def configs(study: Study) -> Iterator[Config]:
    """One configuration for each data set among the rows."""
    seen = set()
    for row in study.rows:
        config = Cell(row, study.seeds[0], study).config()
        key = (config.dataset, repr(config.data), config.model.in_channels)
        if key not in seen:
            seen.add(key)
            yield config
