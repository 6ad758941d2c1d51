"""Tiny runs for every test that wants one; torch on one thread."""

from __future__ import annotations

import logging

import pytest
import torch

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine import registry as plugins
from ssss_zoo.testing.tiny import Shelf, make_rig, shelf, words

collect_ignore = ["fixtures"]  # one of them is a package with tests of its own: test_packages.py runs them


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
    return lambda *more: make_rig(tiny_config(*more))


@pytest.fixture
def warnings(caplog):
    """The warnings of the program so far."""
    caplog.set_level(logging.WARNING, "ssss_zoo")
    logging.getLogger("ssss_zoo").propagate = True
    return lambda: [record.getMessage() for record in caplog.records if record.name == "ssss_zoo"]
