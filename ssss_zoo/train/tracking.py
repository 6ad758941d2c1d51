"""A run's log: `history.jsonl` always, MLflow when it can be had. A tracker that fails is a warning, never the end."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssss_zoo.config.schema import Config
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.record_files import HistoryLine, check_types, parse
from ssss_zoo.train.checkpoint import write_text

log = logging.getLogger("ssss_zoo")
DAMAGED = ".damaged"  # behind the name of a history that is kept aside
UNFIT = re.compile(r"[^\w\-./ :]")  # in a metric's name, by MLflow's rule
LONGEST = 250  # characters of a name, by MLflow's rule


class History:
    """`history.jsonl`: a line a logged step. Opened at `step`, it forgets what came after that step, and with
    `evaluates`, where the evaluation of that step is still to come, an earlier one of it as well."""

    def __init__(self, file: Path, step: int, evaluates: bool = False) -> None:
        self.file = file
        lines, damaged = sort_lines(file)
        if damaged:
            keep_aside(file, damaged)
        if step > 0 and not file.exists():
            log.warning(f"{file} is gone: it begins anew after step {step}")
        kept = [line for line in lines if line["step"] <= step]
        kept = [line for line in kept if not (evaluates and line["step"] == step and "val" in line)]
        write_text(file, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line. Raises UserError when the disk refuses."""
        try:
            with self.file.open("a") as handle:
                handle.write(json.dumps(dict(line), allow_nan=False) + "\n")
        except OSError as error:
            raise cannot_write(self.file, error) from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a history, each as `HistoryLine`; a warning tells of damaged ones. Raises UserError where it
    cannot be read."""
    lines, damaged = sort_lines(file)
    if damaged:
        log.warning(f"{file}: {told_of(damaged)}, left out")
    return lines


def sort_lines(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The whole lines of a history, and the numbers of damaged ones, from 1. A last line that a kill cut short belongs
    to neither. Raises UserError where the file cannot be read."""
    lines: list[dict[str, Any]] = []
    damaged: list[int] = []
    texts = read_bytes(file).split(b"\n") if file.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(dict(check_types(parse(text.decode("utf-8"), file, ""), HistoryLine, file, "")))
        except (UserError, UnicodeDecodeError):
            if text and number < len(texts):  # what follows the last end of a line is empty, or was cut short
                damaged.append(number)
    return lines, damaged


def read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def told_of(damaged: Sequence[int]) -> str:
    return f"line {damaged[0]} is damaged" if len(damaged) == 1 else f"{len(damaged)} lines are damaged"


def keep_aside(file: Path, damaged: Sequence[int]) -> None:
    """Add the file as it is to what was kept of it before. Raises UserError when the disk refuses."""
    aside = file.with_name(file.name + DAMAGED)
    try:
        with aside.open("ab") as handle:
            handle.write(file.read_bytes())
    except OSError as error:
        raise cannot_write(aside, error) from error
    log.warning(f"{file}: {told_of(damaged)}, left out; the file as it was is kept as {aside.name}")


class Tracker:
    """One MLflow run. Every call is allowed to fail: the first failure is logged as a warning and ends the tracking."""

    def __init__(self, config: Config, tags: Mapping[str, str], run_id: str | None) -> None:
        self.run_id = run_id
        self.client: Any = None
        self.stored: dict[str, int] = {}  # the last step that the store has of each figure
        if config.tracking.uri == "off":
            return
        with self.forgiven("cannot start"):
            self.uri = config.tracking.uri or default_uri()
            self.client = open_store(self.uri)
            if run_id is None or not self.knows(run_id):
                self.run_id = self.start(config, tags)
            else:
                self.stored = self.last_steps(run_id)

    def knows(self, run_id: str) -> bool:
        try:
            self.client.get_run(run_id)
        except Exception:  # another store than the one the run began in
            return False
        return True

    def last_steps(self, run_id: str) -> dict[str, int]:
        """Of a run that was killed, the store may know steps after the checkpoint; they are made again, to the bit."""
        names = self.client.get_run(run_id).data.metrics
        return {name: max(point.step for point in self.client.get_metric_history(run_id, name)) for name in names}

    def start(self, config: Config, tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        number = self.experiment(config)
        name = f"{config.method} {config.dataset} {config.data.split} seed{config.seed}"
        under = {"mlflow.parentRunId": config.tracking.parent} if config.tracking.parent else {}
        run = self.client.create_run(number, run_name=name, tags=dict(tags) | under)
        params = [Param(key, str(value)[:500]) for key, value in flat(asdict(config)).items()]
        self.client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def experiment(self, config: Config) -> str:
        """The number of the run's experiment, made where there is none."""
        found = self.client.get_experiment_by_name(config.tracking.experiment)
        return str(found.experiment_id) if found else self.make_experiment(config.tracking.experiment)

    def make_experiment(self, name: str) -> str:
        """A new experiment; a SQLite store's artefacts lie beside it, not in the working directory."""
        beside = Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
        location = beside.as_uri() if self.uri.startswith("sqlite:///") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """All figures of a step in one call, each under its `store_name`, but for those that the store has already."""
        if self.client is None:
            return
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self.forgiven("lost"):
            finite = {store_name(key): float(value) for key, value in figures.items() if math.isfinite(value)}
            new = {key: value for key, value in finite.items() if step > self.stored.get(key, -1)}
            metrics = [Metric(key, value, now, step) for key, value in new.items()]
            self.client.log_batch(self.run_id, metrics=metrics)

    def finish(self, status: str, artifacts: list[Path], metrics: Mapping[str, Any] | None = None) -> None:
        """status: FINISHED, FAILED or KILLED; metrics: what metrics.json is about to hold, in place of what it does."""
        if self.client is None:
            return
        with self.forgiven("lost at the end"):
            for path in artifacts:
                self.client.log_artifact(self.run_id, str(path))
            if metrics is not None:
                self.client.log_text(self.run_id, json.dumps(metrics, indent=1), "metrics.json")
            self.client.set_terminated(self.run_id, status)

    @contextmanager
    def forgiven(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a store or a network does must not end the run
            self.client = None
            log.warning(
                "MLflow %s (%s: %s); the run goes on, its figures are in history.jsonl",
                what,
                type(error).__name__,
                " ".join(str(error).split())[:200],
            )


def store_name(name: str) -> str:
    """`name` where MLflow takes it. Else `_` stands for what it does not take in a name: other characters, and parts
    between slashes that are empty, `.` or `..`, and `..` in front; digits of a digest tell two such names apart."""
    parts = [part if part.strip(".") else "_" * max(1, len(part)) for part in UNFIT.sub("_", name).split("/")]
    fit = re.sub(r"^\.\.", "__", "/".join(parts))
    if fit == name and len(name) <= LONGEST:
        return name
    mark = "_" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return fit[: LONGEST - len(mark)] + mark


def default_uri() -> str:
    Path("runs").mkdir(exist_ok=True)
    return f"sqlite:///{Path('runs', 'mlflow.db').resolve()}"


def open_store(uri: str) -> Any:
    """A client of the store. A fresh SQLite file is initialised under a lock: two runs that start at once on one
    leave it unusable."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # importing it has set it to INFO
    if not uri.startswith("sqlite:///"):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # fails here and now where nobody answers
        return client
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        client = MlflowClient(tracking_uri=uri)  # makes the tables
        client.search_experiments(max_results=1)
    return client


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree as `a.b.c` keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves
