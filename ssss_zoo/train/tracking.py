"""Logs a run's figures to MLflow. A failure of the store is logged as a warning and does not stop the run."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.schema import Config, as_tree

log = logging.getLogger("ssss_zoo")
UNFIT_SIGNS = re.compile(r"[^\w\-./ :]")  # in a metric's name, by MLflow's rule
METRIC_NAME_LENGTH_MAX = 250  # characters of a name, by MLflow's rule


class Tracker:
    """One MLflow run. Every call is allowed to fail: the first failure is logged as a warning and ends the tracking.

    name: of a run that is new in the store. Without it, the run is named after its configuration, which is stored too.
    """

    def __init__(self, config: Config, tags: Mapping[str, str], run_id: str | None, *, name: str | None = None) -> None:
        self.run_id = run_id
        self.name = name
        self.client: Any = None
        self.stored: dict[str, int] = {}  # the last step stored of each figure
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
        except Exception:  # the run began in another store
            return False
        return True

    def last_steps(self, run_id: str) -> dict[str, int]:
        """The last stored step of each figure. After a killed run the store may hold steps later than the checkpoint,
        which the resumed run repeats bit for bit."""
        names = self.client.get_run(run_id).data.metrics
        return {name: max(point.step for point in self.client.get_metric_history(run_id, name)) for name in names}

    def start(self, config: Config, tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        number = self.experiment(config)
        if self.name:
            return str(self.client.create_run(number, run_name=self.name, tags=dict(tags)).info.run_id)
        name = f"{config.method} {config.dataset} {config.data.split} seed{config.seed}"
        under = {"mlflow.parentRunId": config.tracking.parent} if config.tracking.parent else {}
        run = self.client.create_run(number, run_name=name, tags=dict(tags) | under)
        params = [Param(key, str(value)[:500]) for key, value in flatten_keys(as_tree(config)).items()]
        self.client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def experiment(self, config: Config) -> str:
        """The number of the run's experiment, which is created where the store has none."""
        found = self.client.get_experiment_by_name(config.tracking.experiment)
        return str(found.experiment_id) if found else self.make_experiment(config.tracking.experiment)

    def make_experiment(self, name: str) -> str:
        """Create an experiment. The artefacts of a SQLite store lie beside its file, not in the working directory."""
        artefacts = Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
        location = artefacts.as_uri() if self.uri.startswith("sqlite:///") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the figures of a step in one call, each under its `store_name`. Figures already stored are left out."""
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
        """End the run in the store. status: FINISHED, FAILED or KILLED; metrics: the final metrics.json, if it is not
        written yet."""
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
        except Exception as error:  # no failure of the store or the network may end the run
            self.client = None
            log.warning(
                "MLflow %s (%s: %s); the run continues, its figures are in history.jsonl",
                what,
                type(error).__name__,
                " ".join(str(error).split())[:200],
            )


def store_name(name: str) -> str:
    """`name` where MLflow accepts it. Otherwise `_` replaces the characters that MLflow refuses, the parts between
    slashes that are empty, `.` or `..`, and a leading `..`; digits of a digest keep two such names distinct."""
    parts = [part if part.strip(".") else "_" * max(1, len(part)) for part in UNFIT_SIGNS.sub("_", name).split("/")]
    fit = re.sub(r"^\.\.", "__", "/".join(parts))
    if fit == name and len(name) <= METRIC_NAME_LENGTH_MAX:
        return name
    mark = "_" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return fit[: METRIC_NAME_LENGTH_MAX - len(mark)] + mark


def default_uri() -> str:
    Path("runs").mkdir(exist_ok=True)
    return f"sqlite:///{Path('runs', 'mlflow.db').resolve()}"


def open_store(uri: str) -> Any:
    """A client of the store. A new SQLite file is initialised under a lock, because two runs that start on it at the
    same time would leave it unusable."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # the import has set it to INFO
    if not uri.startswith("sqlite:///"):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # fails here if the server does not answer
        return client
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        client = MlflowClient(tracking_uri=uri)  # makes the tables
        client.search_experiments(max_results=1)
    return client
