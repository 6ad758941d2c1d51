"""Shows a run to a person: its log lines, its progress, and its figures as a table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ssss_zoo.progress_display import ProgressLine, Screen, find_screen
from ssss_zoo.record_files import PseudoLabelFigures
from ssss_zoo.text import duration, visible

log = logging.getLogger("ssss_zoo")


class ConsoleHandler(logging.Handler):
    """Log lines on the screen, above the progress line. On a terminal they are wrapped by words; a log file or the
    output of a CI job gets each in one line, to search in."""

    def __init__(self, output: Screen) -> None:
        super().__init__(logging.INFO)
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        prefix = "warning: " if is_warning else ""
        lines = [visible(line) for line in record.getMessage().split("\n")]
        self.output.print_lines([prefix + lines[0], *lines[1:]], style="yellow" if is_warning else None)


def current_screen() -> Screen:
    """The screen that the log lines go to, so that a progress line stands below them; a new one where they go to
    none."""
    shown_on = [handler.output for handler in log.handlers if isinstance(handler, ConsoleHandler)]
    return shown_on[-1] if shown_on else find_screen()


@dataclass(frozen=True)
class LoggedStep:
    """The figures of a log step. step, steps: of the stage. losses: means since the last log step. rate: the
    learning rate. pseudo_labels: None in a step without any. seconds_left: until the run ends, without what a method
    does between two stages. stage: see `StageParts.label`."""

    step: int
    steps: int
    losses: Mapping[str, float]
    rate: float
    pseudo_labels: PseudoLabelFigures | None
    steps_per_second: float
    seconds_left: float
    stage: str = ""


class RunConsole:
    """The console of a run, and its `run.log`. As a context manager it receives the log lines of the block.

    Lines stay in memory until `log_to` names the file, so that a run that cannot start leaves no file.
    """

    def __init__(self, output: Screen | None = None) -> None:
        self.output = output or find_screen()
        self.progress: ProgressLine | None = None
        self.propagated = True  # whether the lines went to the handlers of the program, which they do again afterwards
        self.waiting = MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
        self.handlers: list[logging.Handler] = [self.waiting, ConsoleHandler(self.output)]

    def __enter__(self) -> RunConsole:
        log.setLevel(logging.INFO)
        self.propagated, log.propagate = log.propagate, False
        for handler in self.handlers:
            log.addHandler(handler)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        log.propagate = self.propagated
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

    def begin(self, steps: int, done: int, stage: str = "") -> None:
        """Begin to show the progress of a stage, where the screen can. stage: see `StageParts.label`."""
        if self.output.is_live:
            self.progress = ProgressLine(steps, done, unit=f"{stage}, step" if stage else "step")
            self.output.show(self.progress)

    def step(self, step: int) -> None:
        self.update(lambda progress: replace(progress, step=step))

    def note(self, text: str) -> None:
        """Show a text in place of the figures of the progress line, where there is one."""
        self.update(lambda progress: replace(progress, details=(text,)))

    def report(self, logged: LoggedStep) -> None:
        """Show a log step in one line: losses, pixels used and their mean weight, speed, time left."""
        details = tuple(map(visible, logged_details(logged)))
        left = f"{duration(logged.seconds_left)} left"
        stage = [logged.stage] if logged.stage else []
        line = "  ".join([*stage, f"step {logged.step}/{logged.steps}", *details, left])
        if self.progress:
            ends = time.monotonic() + logged.seconds_left
            self.update(lambda progress: replace(progress, step=logged.step, details=details, ends=ends))
            self.handlers[0].emit(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))
        else:
            log.info(line)

    def update(self, change: Callable[[ProgressLine], ProgressLine]) -> None:
        """Show a changed progress line, where there is one."""
        if self.progress:
            self.progress = change(self.progress)
            self.output.show(self.progress)

    def stop(self) -> None:
        if self.progress:
            self.output.hide()
            self.progress = None


def logged_details(logged: LoggedStep) -> list[str]:
    """The figures of a log step as texts, the most telling ones first."""
    details = [f"{name} {value:.4f}" for name, value in logged.losses.items()]
    if logged.pseudo_labels:
        used = logged.pseudo_labels["used"]
        weight = logged.pseudo_labels["weight"] / max(used, 1e-9)  # mean over the used pixels
        details.append(f"pixels used {share(used)}{'' if weight > 0.995 else f', weight {weight:.2g}'}")
    return [*details, f"{logged.steps_per_second:.2f} steps/s"]


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
