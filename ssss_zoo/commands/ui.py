"""`ssss ui`: MLflow's page over the runs of this folder."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssss_zoo.config.fields import Range
from ssss_zoo.config.parse import build_typed, parse_overrides
from ssss_zoo.config.schema import TrackingConfig
from ssss_zoo.errors import UserError
from ssss_zoo.stopping import Stop

HOST = "127.0.0.1"
POLL_SECONDS = 0.3


@dataclass(frozen=True)
class UiSettings:
    """The arguments of `ssss ui`."""

    uri: str = "sqlite:///runs/mlflow.db"
    """The store of MLflow, as `tracking.uri`."""
    experiment: str = TrackingConfig.experiment
    """The experiment that the page opens with, as `tracking.experiment`."""
    port: Annotated[int, Range(1, 65535)] = 5000
    """The port of the page on this machine."""
    open: bool = True
    """Open the page in a browser."""


def serve_ui(overrides: Sequence[str]) -> int:
    """Start MLflow's server, print and open the address of the list of runs, and wait until Ctrl-C or another signal to
    stop ends it. The exit code of the server.

    Raises UserError where the extra `ui` is not installed, and where there is no store.
    """
    settings: UiSettings = build_typed(UiSettings, parse_overrides(overrides))
    if not importlib.util.find_spec("flask"):  # mlflow-skinny has no server
        raise UserError("ssss ui needs other packages: pip install 'ssss-zoo[ui]'")
    if answers(settings.port):
        raise UserError(f"port {settings.port} of this machine is in use; give another one: port={settings.port + 1}")
    address = page_address(settings)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.uri, "--host", HOST, "--port",
               str(settings.port), "--workers", "1"]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # jobs are about traces: 6 processes
    with Stop().handlers_installed(), subprocess.Popen(command, env=environment) as server:
        try:
            while server.poll() is None and not answers(settings.port):
                time.sleep(POLL_SECONDS)
            if server.poll() is None:
                print(f"{address}  (Ctrl-C ends it)", flush=True)
                if settings.open:
                    webbrowser.open_new_tab(address)
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0


def answers(port: int) -> bool:
    """Whether a server listens at the port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def page_address(settings: UiSettings) -> str:
    """The address of the list of the experiment's runs. Without `workflowType` MLflow opens a page about traces of
    language models. Raises UserError where the store is a file that is not there, or lacks the experiment."""
    from ssss_zoo.train.mlflow_logger import open_store

    file = Path(settings.uri.removeprefix("sqlite:///"))
    if settings.uri.startswith("sqlite:///") and not file.is_file():
        raise UserError(
            f"there is no store of MLflow at {file}; start `ssss ui` in the folder in which runs/ lies, or give "
            "uri=sqlite:///FILE"
        )
    experiment = open_store(settings.uri).get_experiment_by_name(settings.experiment)
    if experiment is None:
        raise UserError(f"the store {settings.uri} has no experiment {settings.experiment}; give experiment=NAME")
    return f"http://{HOST}:{settings.port}/#/experiments/{experiment.experiment_id}?workflowType=machine_learning"
