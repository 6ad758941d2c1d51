"""Hands the figures of a run to its loggers. A logger that fails is left out with a warning, and the run goes on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssss_zoo.config.schema import Config, TrackingConfig
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.train.logger import Logger, TrackedRun, TrackedTable

TRACKING_OFF = "off"
BUILT_IN_LOGGERS = {
    name: EntryPoint(name, f"ssss_zoo.train.{name}_logger:{logger}", "ssss_zoo.loggers")
    for name, logger in (("mlflow", "MLflowLogger"), ("tensorboard", "TensorBoardLogger"), ("wandb", "WandbLogger"))
}
log = logging.getLogger("ssss_zoo")


class Tracker:
    """The loggers of a run. The first failure of a logger is logged as a warning, and ends its part of the tracking.

    loggers: by their names in `tracking.to`. run_ids: by these names, with which a resumed run continues in each.
    """

    def __init__(self, loggers: Mapping[str, Logger], run_ids: Mapping[str, str]) -> None:
        self.loggers = dict(loggers)
        self.run_ids = dict(run_ids)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the finite ones of a step's figures."""
        finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        self.send(lambda logger: logger.log_metrics(finite, step))

    def log_summary(self, figures: Mapping[str, float]) -> None:
        """Log the finite ones of figures that belong to no step. They replace earlier ones."""
        finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        self.send(lambda logger: logger.log_summary(finite))

    def log_picture(self, name: str, file: Path, step: int) -> None:
        """Log a picture, where the file exists: a full disk may have prevented it."""
        if file.is_file():
            self.send(lambda logger: logger.log_picture(name, file, step))

    def log_table(self, name: str, table: TrackedTable, step: int) -> None:
        self.send(lambda logger: logger.log_table(name, table, step))

    def log_note(self, text: str) -> None:
        """Describe the run in Markdown, in place of what its loggers were told before."""
        self.send(lambda logger: logger.log_note(text))

    def views(self) -> tuple[str, ...]:
        """For each logger that has one, its name and the command or address that shows the run."""
        found: list[str] = []
        self.send(lambda logger: found.append(f"{logger.title}: {logger.view()}") if logger.view() else None)
        return tuple(found)

    def log_model(self, run_folder: Path) -> None:
        """Log the best network of the run in this folder."""
        self.send(lambda logger: logger.log_model(run_folder))

    def finish(self, status: str, files: Iterable[Path], texts: Mapping[str, str] | None = None) -> None:
        """End the run in each logger. status: FINISHED, FAILED or KILLED. files: text files to be kept with the run.
        texts: more of them, content by name, which are not written yet."""
        read = {file.name: file.read_text("utf-8", "replace") for file in files if file.is_file()}

        def end(logger: Logger) -> None:
            for name, text in {**read, **(texts or {})}.items():
                logger.log_file(name, text)
            logger.finish(status)

        self.send(end, "lost at the end")

    def send(self, call: Callable[[Logger], None], failure: str = "lost") -> None:
        """Call each logger. failure: how the warning names what happened to a logger that raises."""
        for name, logger in list(self.loggers.items()):
            try:
                call(logger)
            except Exception as error:  # no failure of a service, a disk or a network may end the run
                del self.loggers[name]
                warn_of_failure(logger.title, failure, error)


def start_tracker(run: TrackedRun, run_ids: Mapping[str, str]) -> Tracker:
    """The tracker of a run, started in each logger of `tracking.to`. run_ids: by logger, of an earlier process."""
    started = dict[str, Logger]()
    for name in chosen_loggers(run.settings):
        logger_class = load_logger(name)
        try:
            started[name] = logger_class(run, run_ids.get(name))
        except Exception as error:  # no failure of a service, a disk or a network may end the run
            warn_of_failure(logger_class.title, "cannot start", error)
    return Tracker(started, {**run_ids, **{name: logger.run_id for name, logger in started.items()}})


def chosen_loggers(settings: TrackingConfig) -> list[str]:
    """The names of the loggers that a run uses."""
    return [] if settings.uri == TRACKING_OFF else list(dict.fromkeys(settings.to))


def check_loggers(config: Config) -> None:
    """Raise UserError for a logger that is unknown, or whose package is not installed."""
    for name in chosen_loggers(config.tracking):
        logger = load_logger(name)
        if logger.package and not is_importable(logger.package):
            raise UserError(f"tracking.to={name} needs another package: pip install 'ssss-zoo[{logger.extra or name}]'")
    for key, wanted, package in (
        ("model", config.tracking.model, "pandas"),
        ("system", config.tracking.system, "psutil"),
    ):
        if wanted and "mlflow" in chosen_loggers(config.tracking) and not is_importable(package):
            raise UserError(f"tracking.{key}=true needs another package: pip install 'ssss-zoo[tracking]'")


def load_logger(name: str) -> type[Logger]:
    """The class of a logger by its name. Raises UserError where it is unknown or cannot be imported."""
    logger = BUILT_IN_LOGGERS[name].load() if name in BUILT_IN_LOGGERS else load_from_package(name)
    if not (isinstance(logger, type) and issubclass(logger, Logger)):
        raise UserError(f"tracking.to={name}: expected a subclass of ssss_zoo.train.logger.Logger, found {logger!r}")
    return logger


def load_from_package(name: str) -> Any:
    """What the entry point of a logger names. Raises UserError as `load_logger` does."""
    from ssss_zoo.engine.plugin_source import installed
    from ssss_zoo.engine.registry import load  # imports torch, without which the built-in loggers load

    if name not in installed("loggers"):
        raise unknown("logger", name, [*BUILT_IN_LOGGERS, *installed("loggers")], f"tracking.to={name}")
    return load("loggers", name)


def is_importable(package: str) -> bool:
    """Whether a package is installed. A folder of that name in the working directory, such as W&B's own, is not it."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def warn_of_failure(title: str, failure: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:200]
    log.warning(
        f"{title} {failure} ({type(error).__name__}: {reason}); the run continues, its figures are in history.jsonl"
    )
