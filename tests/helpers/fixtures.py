"""The fixtures of all tests: tiny runs for every test that wants one; torch on one thread."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine import plugin_source as plugins
from ssss_zoo.errors import Interrupted
from ssss_zoo.stopping import Stop
from ssss_zoo.testing.tiny import ExtraEntryPoints, make_tiny_run, tiny_entry_points, tiny_overrides
from ssss_zoo.train import run
from ssss_zoo.train.checkpointing import TrainerState
from ssss_zoo.train.run import run_training
from ssss_zoo.train.trainer import Trainer


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _garbage_of_tests_alone():
    """The collector leaves out what was imported, and looks for the garbage of tests less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def _no_flushing() -> Iterator[None]:
    """No file is flushed to the disk: tests kill processes, never the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def no_dry_run(monkeypatch):
    """Runs begin with their first step."""
    monkeypatch.setattr(run, "dry_run", lambda parts, stage, loader, state: 0.0)


@pytest.fixture
def tiny_plugins(monkeypatch) -> ExtraEntryPoints:
    """The entry points with `tiny` among data sets and models; `add` adds more."""
    made = tiny_entry_points()
    monkeypatch.setattr(plugins, "entry_points", made.entry_points)
    return made


@pytest.fixture
def tiny_config(tiny_plugins, tmp_path):
    """Overrides -> the configuration of a tiny run into `tmp_path/run`."""
    return lambda *more: resolve(tiny_overrides(f"output={tmp_path / 'run'}", *more))


@pytest.fixture
def tiny_run(tiny_config):
    """Overrides -> a `TinyRun`: everything made as `ssss run` makes it, no step done."""
    return lambda *more: make_tiny_run(tiny_config(*more))


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory, request) -> Path:
    """A store of MLflow initialised once for all processes of the tests (it takes seconds) and copied by each test."""
    from ssss_zoo.train.mlflow_logger import open_store

    session = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        session = session.parent  # the folder that the processes of one session share
    file = session / "fresh_store" / "mlflow.db"
    file.parent.mkdir(exist_ok=True)
    with FileLock(file.parent / "made.lock"):
        if not file.exists():
            open_store(f"sqlite:///{file}")
    return file


@pytest.fixture
def store(fresh_store, tmp_path) -> str:
    """The address of a store of MLflow without runs."""
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def warnings(caplog):
    """The warnings of the program so far."""
    caplog.set_level(logging.WARNING, "ssss_zoo")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "ssss_zoo"]


@pytest.fixture
def trained(tiny_config, tmp_path) -> Callable[..., Path]:
    """(name of a folder, words) -> the folder of a finished tiny run."""
    return lambda folder, *words: run_training(tiny_config(f"output={tmp_path / folder}", *words)).folder


@pytest.fixture
def broken_off(tiny_config, tmp_path) -> Callable[..., Path]:
    """(name of a folder, words) -> the folder of a tiny run that was interrupted."""

    def train(folder: str, *words: str) -> Path:
        with pytest.raises(Interrupted):
            run_training(tiny_config(f"output={tmp_path / folder}", *words))
        return tmp_path / folder

    return train


@pytest.fixture
def stop(monkeypatch) -> Iterator[Callable[..., None]]:
    """stop(step, signal, stage) arms `helpers.runs.signal_after_step` for the rest of the test."""
    from helpers.runs import signal_after_step

    yield lambda *arguments, **more: signal_after_step(monkeypatch, *arguments, **more)
    monkeypatch.undo()


@pytest.fixture
def make_trainer(tiny_run) -> Callable[..., Trainer]:
    """Words of the command line -> the trainer of a tiny run, at its first step. It can be asked, and not trained: it
    has no outputs."""

    def make(*more: str) -> Trainer:
        rig = tiny_run(*more)
        return Trainer(rig.run, rig.stage, TrainerState(), rig.feed, None, Stop(), 0.0)

    return make


@pytest.fixture
def ssss(capsys):
    """Words -> exit code, stdout, stderr of the command line in this process."""

    def call(*words: str) -> SimpleNamespace:
        from ssss_zoo.commands.cli import command_line

        capsys.readouterr()
        code = command_line(words)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call
