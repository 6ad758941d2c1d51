"""`ssss ui`: the address of MLflow's list of runs, and what it refuses."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from ssss_zoo.commands.ui import UiSettings, page_address, serve_ui
from ssss_zoo.errors import UserError
from ssss_zoo.train.mlflow_logger import open_store


def test_the_address_opens_the_list_of_the_experiments_runs(store):
    open_store(store).create_experiment("other")
    number = open_store(store).create_experiment("mine")
    address = page_address(UiSettings(uri=store, experiment="mine", port=5001))
    assert address == f"http://127.0.0.1:5001/#/experiments/{number}?workflowType=machine_learning"


def test_a_missing_store_experiment_port_or_package_is_one_line(store, tmp_path, monkeypatch):
    cases = {
        "there is no store of MLflow at ": [f"uri=sqlite:///{tmp_path / 'none.db'}", "port=5987"],
        "has no experiment mine; ": [f"uri={store}", "experiment=mine", "port=5987"],
    }
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for message, arguments in cases.items():
        with pytest.raises(UserError, match=message):
            serve_ui(arguments)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of this machine is in use; .* port={port + 1}"):
            serve_ui([f"uri={store}", f"port={port}"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ssss-zoo\[ui\]'"):
        serve_ui([])
