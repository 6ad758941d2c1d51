"""Tiny runs for every test that wants one; torch on one thread."""

from __future__ import annotations

import pytest
import torch
from tiny import Rig, Shelf, shelf, words

from ssss_zoo import plugins
from ssss_zoo.config import resolve


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny_shelf(monkeypatch) -> Shelf:
    """The entry points with `tiny` among data sets and models; `offer` adds more."""
    made = shelf()
    monkeypatch.setattr(plugins, "entry_points", made.entry_points)
    return made


@pytest.fixture
def tiny_config(tiny_shelf, tmp_path):
    """Words of the command line -> the configuration of a tiny run into `tmp_path/run`."""
    return lambda *more: resolve(words(f"output={tmp_path / 'run'}", *more))


@pytest.fixture
def tiny_run(tiny_config):
    """Words of the command line -> a `Rig`: everything made as `ssss run` makes it, no step done."""

    def make(*more: str) -> Rig:
        from ssss_zoo.place import output_folder
        from ssss_zoo.plugins import build_methods, load
        from ssss_zoo.records import Stage
        from ssss_zoo.run import make_job, make_training

        config = tiny_config(*more)
        methods = build_methods(config)
        dataset = load("datasets", config.dataset)(config.data)
        folder = output_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        job = make_job(config, methods, dataset, folder)
        return Rig(config, job, make_training(job, Stage(), 0, 0), methods)

    return make
