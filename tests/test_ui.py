"""`ssss ui`: the address of MLflow's list of runs, and what it refuses."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from ssss_zoo.commands import ui
from ssss_zoo.commands.ui import UiSettings, page_address, serve_ui
from ssss_zoo.errors import UserError
from ssss_zoo.stopping import stop_this_process
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


@pytest.fixture
def free_port(store, tmp_path, monkeypatch) -> int:
    """Of a server that is `mlflow.py` in the working folder, where `python -m mlflow` finds it; the store has an
    experiment."""
    open_store(store).create_experiment("mine")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        return int(other.getsockname()[1])


def test_the_page_opens_once_the_server_answers_and_the_command_ends_with_it(
    store, free_port, tmp_path, monkeypatch, capfd
):
    """The server is another program, which listens at the port that it is given and ends after one visit."""
    (tmp_path / "mlflow.py").write_text(
        "import socket, sys\n"
        "with socket.create_server(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1]))) as server:\n"
        "    server.accept()[0].close()\n"
        "sys.exit(3)\n"
    )
    opened = []
    monkeypatch.setattr(ui.webbrowser, "open_new_tab", opened.append)
    assert serve_ui([f"uri={store}", "experiment=mine", f"port={free_port}"]) == 3
    (address,) = opened
    assert capfd.readouterr().out == f"{address}  (Ctrl-C ends it)\n"


def test_a_signal_to_stop_ends_the_server_too(store, free_port, tmp_path, monkeypatch):
    (tmp_path / "mlflow.py").write_text(
        "import socket, sys, time\n"
        "with socket.create_server(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1]))):\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setattr(ui.webbrowser, "open_new_tab", lambda address: stop_this_process())
    assert serve_ui([f"uri={store}", "experiment=mine", f"port={free_port}"]) == 0
    assert not ui.answers(free_port)
