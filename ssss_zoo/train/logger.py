"""The interface of a logger: a service, such as MLflow, that keeps the figures of runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ssss_zoo.config.schema import TrackingConfig

TableCell = str | float | int | None


@dataclass(frozen=True)
class TrackedDataset:
    """Images that a run reads. name: of the data set, its split and the part; role: `training` or `validation`;
    digest: of the data set's content; source: where it lies; images: how many."""

    name: str
    role: str
    digest: str
    source: str
    images: int


@dataclass(frozen=True)
class TrackedTable:
    """A table: the name of each column, and the cells of each row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        texts = [["" if cell is None else str(cell).replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in texts)


@dataclass(frozen=True)
class TrackedRun:
    """A run, or a comparison, as its loggers are told of it when it starts.

    name: for people. folder: of the run; a logger that writes files makes a folder of its own in it. settings:
    `tracking` of the configuration. params: the configuration, by `a.b.c` key. tags: short texts to search by. note: a
    description in Markdown. first_step: the first step that will be logged; a resumed run logs it and those after it
    again.
    """

    name: str
    folder: Path
    settings: TrackingConfig
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[TrackedDataset, ...] = ()
    note: str = ""
    first_step: int = 0


class Logger(ABC):
    """Keeps one run. A function that raises ends the logging of this run here, with a warning; the run itself goes on.

    A package adds a logger by an entry point of the group `ssss_zoo.loggers`; its name is what `tracking.to` takes.
    """

    title: ClassVar[str]  # the service's name, for messages
    package: ClassVar[str] = ""  # a module that the logger imports, and whose absence is told before the run
    extra: ClassVar[str] = ""  # the extra of ssss-zoo that installs it
    run_id: str  # given back as `run_id` when the run is resumed

    @abstractmethod
    def __init__(self, run: TrackedRun, run_id: str | None) -> None:
        """Start logging. run_id: of the run as an earlier process logged it, None for a new one."""

    @abstractmethod
    def log_metrics(self, figures: Mapping[str, float], step: int) -> None:
        """Log finite figures of a step. A step that was logged before the run was resumed may come again."""

    @abstractmethod
    def log_summary(self, figures: Mapping[str, float]) -> None:
        """Log finite figures of no step. They replace earlier ones of their names."""

    @abstractmethod
    def log_picture(self, name: str, file: Path, step: int) -> None:
        """Log a picture, a PNG file. Several pictures of a name differ in their step."""

    @abstractmethod
    def log_table(self, name: str, table: TrackedTable, step: int) -> None:
        """Log a table. A later one of its name replaces it."""

    @abstractmethod
    def log_file(self, name: str, text: str) -> None:
        """Keep a text file of the run. A later one of its name replaces it. Loggers without files do nothing."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """End the run. status: FINISHED, FAILED or KILLED."""

    def log_model(self, run_folder: Path) -> None:  # noqa: B027  # optional, unlike the others
        """Keep the best network of a finished run as a model. Loggers without models do nothing."""

    def log_note(self, text: str) -> None:  # noqa: B027  # optional, too
        """Describe the run in Markdown, in place of an earlier description. Loggers without notes do nothing."""

    def view(self) -> str:
        """The command or the address that shows the run; empty where there is none."""
        return ""
