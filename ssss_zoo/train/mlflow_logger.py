"""Logs a run to MLflow."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from getpass import getuser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ssss_zoo.config.schema import TrackingConfig
from ssss_zoo.train.checkpoint import find_folder
from ssss_zoo.train.git_repository import DIRTY_MARK, git_commit
from ssss_zoo.train.logger import Logger, TrackedDataset, TrackedRun, TrackedTable
from ssss_zoo.train.run_folder import RunFolder

UNFIT_SIGNS = re.compile(r"[^\w\-./ :]")  # in a metric's name, by MLflow's rule
METRIC_NAME_LENGTH_MAX = 250  # characters of a name, by MLflow's rule
RUN_NAME_LENGTH_MAX = 250  # characters (our choice)
PARAM_LENGTH_MAX = 6000  # characters of a value, by MLflow's rule
MODEL_NAME = "model"  # of the network that a run logs
NOTE_TAG = "mlflow.note.content"  # the description on the run's page, in Markdown
TAG_LENGTH_MAX = 5000  # characters of a tag, by the rule of MLflow's older servers; newer ones take 8000
NOTE_END = "*Notes below this line are kept.*"
DIGEST_LENGTH_MAX = 36  # characters of a data set's digest, by MLflow's rule


class MLflowLogger(Logger):
    """One run of MLflow. It is reached by a client, so that nothing changes in the MLflow that a notebook uses."""

    title = "MLflow"
    package = "mlflow"

    def __init__(self, run: TrackedRun, run_id: str | None) -> None:
        self.settings = run.settings
        self.uri = run.settings.uri or default_uri()
        self.client = open_store(self.uri)
        self.stored: dict[str, int] = {}  # the last step stored of each figure
        self.run_id = run_id if run_id is not None and self.knows(run_id) else self.create(run)
        if self.run_id == run_id:
            self.stored = self.last_steps(run_id)
            self.client.update_run(run_id, status="RUNNING", name=run.name[:RUN_NAME_LENGTH_MAX])
            self.log_tags(run.tags)
        self.log_note(run.note)
        self.monitor = start_system_monitor(self.run_id, self.uri) if run.settings.system else None

    def knows(self, run_id: str) -> bool:
        """Whether the store has the run."""
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

    def create(self, run: TrackedRun) -> str:
        """Create the run with its parameters, tags and data sets. Returns its id."""
        from mlflow.entities import Param

        under = {"mlflow.parentRunId": run.settings.parent} if run.settings.parent else {}
        name = run.name[:RUN_NAME_LENGTH_MAX]
        experiment = self.experiment(run.settings.experiment)
        tags = {key: text[:TAG_LENGTH_MAX] for key, text in {**source_tags(), **run.tags, **under}.items()}
        run_id = str(self.client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        params = [Param(key, str(value)[:PARAM_LENGTH_MAX]) for key, value in run.params.items()]
        self.client.log_batch(run_id, params=params)
        if run.datasets:
            self.client.log_inputs(run_id, datasets=[dataset_input(dataset) for dataset in run.datasets])
        return run_id

    def experiment(self, name: str) -> str:
        """The number of an experiment, which is created where the store has none."""
        found = self.client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        # The artefacts of a SQLite store lie beside its file, not in the working directory.
        artefacts = Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
        location = artefacts.as_uri() if self.uri.startswith("sqlite:///") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def log_metrics(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures in one call, each under its `store_name`. Figures that the store has already are left out."""
        named = {store_name(name): value for name, value in figures.items()}
        self.log_batch({name: value for name, value in named.items() if step > self.stored.get(name, -1)}, step)

    def log_summary(self, figures: Mapping[str, float]) -> None:
        """Log figures at step 0. Of several values of a step, MLflow shows the latest."""
        self.log_batch({store_name(name): value for name, value in figures.items()}, 0)

    def log_batch(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, text[:TAG_LENGTH_MAX]) for key, text in tags.items()])

    def log_note(self, text: str) -> None:
        """Describe the run on its page. Whatever a person wrote below NOTE_END stays, and so does a description without
        that line, which a person wrote instead."""
        if not text:
            return
        stored = self.client.get_run(self.run_id).data.tags.get(NOTE_TAG, NOTE_END)
        end = f"\n{NOTE_END}{stored.partition(NOTE_END)[2]}"
        if NOTE_END in stored and len(end) < TAG_LENGTH_MAX:
            self.client.set_tag(self.run_id, NOTE_TAG, text[: TAG_LENGTH_MAX - len(end)] + end)

    def log_picture(self, name: str, file: Path, step: int) -> None:
        """Keep a picture as an artefact under `pictures`. One named as its file is the only one of its name."""
        folder = "pictures" if file.stem == name else f"pictures/{name}"
        self.client.log_artifact(self.run_id, str(file), folder)

    def log_table(self, name: str, table: TrackedTable, step: int) -> None:
        """Keep a table as CSV, which MLflow's page shows as a table."""
        sink = io.StringIO()
        csv.writer(sink, lineterminator="\n").writerows([table.columns, *table.rows])
        self.client.log_text(self.run_id, sink.getvalue(), f"tables/{name}.csv")

    def log_file(self, name: str, text: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def log_model(self, run_folder: Path) -> None:
        """Keep the best network as the logged model `model` of the run, `runs:/<run id>/model`."""
        from mlflow.entities import LoggedModelOutput

        experiment = self.client.get_run(self.run_id).info.experiment_id
        model = self.client.create_logged_model(experiment, name=MODEL_NAME, source_run_id=self.run_id)
        with TemporaryDirectory() as folder:
            path = save_model(Path(folder), run_folder, model.model_id, self.run_id)
            self.client.log_model_artifacts(model.model_id, str(path))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def view(self) -> str:
        """The address of the run on a server; for a SQLite file the command that shows the list of runs."""
        if self.uri.startswith(("http://", "https://")):
            run = self.client.get_run(self.run_id).info
            page = f"{without_login(self.uri)}/#/experiments/{run.experiment_id}/runs/{self.run_id}"
            return f"{page}?workflowType=machine_learning"  # without it the page is one about language models
        if not self.uri.startswith("sqlite:///"):
            return ""
        given = {"uri": self.settings.uri, "experiment": self.settings.experiment}
        usual = {"uri": None, "experiment": TrackingConfig.experiment}
        words = [f"{key}={value}" for key, value in given.items() if value != usual[key]]
        return shlex.join(["ssss", "ui", *words])

    def finish(self, status: str) -> None:
        if self.monitor:
            self.monitor.finish()
        self.client.set_terminated(self.run_id, status)


def save_model(folder: Path, run_folder: Path, model_id: str, run_id: str) -> Path:
    """Write the network of a run as a model of MLflow into `folder`, and return its path there. The model holds the
    checkpoint, the configuration and a short module of code; nothing is pickled."""
    import mlflow.pyfunc
    from mlflow.models import Model

    run = RunFolder(run_folder)
    copy = RunFolder(folder / "run")
    copy.path.mkdir()
    shutil.copyfile(run.config, copy.config)
    best = find_folder(run.best)
    shutil.copytree(best or run.last, copy.best if best else copy.last)
    path = folder / MODEL_NAME
    mlflow.pyfunc.save_model(
        path,
        python_model=str(Path(__file__).with_name("mlflow_model.py")),
        artifacts={"run": str(copy.path)},
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        pip_requirements=["ssss-zoo"],
    )
    return path


def source_tags() -> dict[str, str]:
    """The tags by which MLflow's page shows who ran what: user, program, and the commit of the working folder."""
    program = Path(sys.argv[0])
    # `python -m ssss_zoo` is a file of this package, and a comparison starts its runs by `python -c`.
    is_ours = program.is_relative_to(Path(__file__).parents[1]) or program.name in ("", "-c")
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "ssss" if is_ours else program.name}
    with suppress(Exception):  # a container may have no name for its user
        tags["mlflow.user"] = getuser()
    commit = git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit.removesuffix(DIRTY_MARK)
    return tags


def without_login(uri: str) -> str:
    """An address without the name and password that it may hold, and without a slash at its end."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def dataset_input(dataset: TrackedDataset) -> Any:
    """A data set as MLflow lists it on the run's page. `mlflow.data.get_source` reads where it lies."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(
        name=dataset.name,
        digest=dataset.digest[:DIGEST_LENGTH_MAX],
        source_type="local",
        source=json.dumps({"uri": dataset.source}),
        profile=json.dumps({"images": dataset.images}),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", dataset.role)])


def start_system_monitor(run_id: str, uri: str) -> Any:
    """Start the thread of MLflow that logs the load of processors, memory, disk and network."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    return monitor


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
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of the copies that a model consists of
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
