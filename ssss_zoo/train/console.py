"""Prints a run's progress: a bar on a terminal, a line per log step elsewhere, and the figures as a table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ssss_zoo.record_files import PseudoLabelFigures
from ssss_zoo.text import visible

log = logging.getLogger("ssss_zoo")


class ConsoleHandler(logging.Handler):
    """Log lines on the screen, above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        text = "\n".join(map(visible, record.getMessage().split("\n")))
        self.console.print(prefix + text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


@dataclass(frozen=True)
class LoggedStep:
    """The figures of a log step. step, steps: of the stage. losses: means since the last log step. rate: the
    learning rate. pseudo_labels: None in a step without any. seconds_left: until the stage ends."""

    step: int
    steps: int
    losses: Mapping[str, float]
    rate: float
    pseudo_labels: PseudoLabelFigures | None
    steps_per_second: float
    seconds_left: float


class RunConsole:
    """The console of a run, and its `run.log`. As a context manager it receives the log lines of the block.

    Lines stay in memory until `log_to` names the file, so that a run that cannot start leaves no file.
    """

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar: Progress | None = None
        self.task: Any = None
        self.waiting = MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
        self.handlers: list[logging.Handler] = [self.waiting, ConsoleHandler(self.console)]

    def __enter__(self) -> RunConsole:
        log.setLevel(logging.INFO)
        log.propagate = False
        for handler in self.handlers:
            log.addHandler(handler)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for handler in self.handlers:
            log.removeHandler(handler)
            handler.close()

    def log_to(self, file: Path) -> None:
        """Append all earlier and later log lines to a file."""
        to_file = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.removeHandler(self.waiting)
        self.waiting.setTarget(to_file)
        self.waiting.flush()
        self.handlers[0] = to_file
        log.addHandler(to_file)

    def begin(self, steps: int, done: int) -> None:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(24),
                TextColumn("{task.description}", markup=False),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("starting", total=steps, completed=done)
            self.bar.start()

    def step(self, step: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=step)

    def note(self, text: str) -> None:
        """Show a text beside the progress bar, where there is one."""
        if self.bar:
            self.bar.update(self.task, description=text)

    def report(self, logged: LoggedStep) -> None:
        """Show a log step in one line: losses, pixels used and their mean weight, speed, time left."""
        parts = [f"{name} {value:.4f}" for name, value in logged.losses.items()]
        if logged.pseudo_labels:
            used = logged.pseudo_labels["used"]
            weight = logged.pseudo_labels["weight"] / max(used, 1e-9)  # mean over the used pixels
            parts.append(f"pixels used {share(used)}{'' if weight > 0.995 else f', weight {weight:.2g}'}")
        parts += [f"{logged.steps_per_second:.2f} steps/s", f"{duration(logged.seconds_left)} left"]
        text = visible("  ".join(parts))
        line = f"step {logged.step}/{logged.steps}  {text}"
        if self.bar:
            self.bar.update(self.task, completed=logged.step, description=text)
            self.handlers[0].emit(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))
        else:
            log.info(line)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None


def duration(seconds: float) -> str:
    """A duration as text: `1 h 05 min`, `3 min 20 s` or `8 s`; `?` for an infinite one."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def share(value: float) -> str:
    """A share as text in percent. Only exactly 0 and 1 become `0%` and `100%`."""
    if 0 < value < 0.01:
        return f"{value:.2%}" if value >= 0.0001 else "below 0.01%"
    return f"{value:.0%}" if value in (0, 1) or value < 0.995 else f"{min(value, 0.9999):.2%}"


def percent(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"


def table_text(text: object) -> Text:
    """Text from users' files as a table cell, without rich's markup and without the terminal's control characters."""
    return Text(visible(str(text)))


def iou_table(title: str, figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """IoU per class and mIoU in percent, one column per network. Names of classes and files are shown unchanged."""
    table = Table(title=table_text(title), title_justify="left")
    table.add_column("IoU, %")
    for network in figures:
        table.add_column(table_text(network), justify="right")
    first = next(iter(figures.values()))
    for name in first["iou"]:
        table.add_row(table_text(name), *(percent(part["iou"][name]) for part in figures.values()))
    table.add_section()
    table.add_row(mean_over(first), *(percent(part["miou"]) for part in figures.values()), style="bold")
    return table


def mean_over(figures: Mapping[str, Any]) -> str:
    """The name of the mean IoU, with the number of classes in it where some are absent."""
    of = len(figures["iou"])
    counted = figures.get("classes_in_mean", of)  # missing in files of earlier versions
    return "mIoU" if counted == of else f"mIoU over {counted} of {of} classes"
