"""One run of a comparison, in a process of its own, or in a worker of a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import IO, Any

from ssss_zoo.comparison.run_state import BUSY, DONE, EXIT_CODES, FAILED, STOPPED, RunState
from ssss_zoo.errors import Interrupted, UserError, failure_reason
from ssss_zoo.lock import Busy, owned
from ssss_zoo.stopping import Stop, stop_this_process

PROCESS_CODE = (
    "import json, sys; job = json.loads(sys.stdin.readline()); sys.path[:] = job['path']; "
    "from ssss_zoo.comparison.run_one import run_process; sys.exit(run_process(job['overrides'], job['folder']))"
)


def start_process(
    overrides: Sequence[str], folder: Path, environment: Mapping[str, str], console: IO[Any] | int
) -> subprocess.Popen[bytes]:
    """Start a process that trains and scores a run. It imports the modules that this process would import, none from
    the working folder. It saves everything and stops when its input ends: when `request_stop` closes it, or when this
    process is gone. console: the file that it prints to."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROCESS_CODE],  # -P: the path is this process's own, and comes with the job
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=console,
        stderr=console,
        start_new_session=True,  # Ctrl-C reaches only this process, which then stops the other
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same for Windows
    )
    path = [os.path.abspath(entry) for entry in sys.path]
    job = {"overrides": list(overrides), "folder": str(folder), "path": path}
    assert process.stdin
    with suppress(BrokenPipeError):  # it died at once, which its exit code tells
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    return process


def request_stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process of `start_process` to save and stop."""
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()


def run_process(overrides: Sequence[str], folder: str) -> int:
    """The whole life of a process of `start_process`; returns its exit code."""
    state = RunState(STOPPED)
    stop = Stop()
    try:
        with stop.handlers_installed():
            Thread(target=stop_at_end_of_input, daemon=True).start()
            with stop.signals_deferred():
                import_module("ssss_zoo.train.run")  # an exception in the midst of it leaves torch broken
            if not stop.asked:
                state = run_one(overrides, Path(folder))
    except KeyboardInterrupt:
        pass
    return EXIT_CODES[state.status]


def stop_at_end_of_input() -> None:
    """Stop this process when the one that started it closes the input, or is gone."""
    while os.read(0, 1):
        pass
    stop_this_process()


def run_one(overrides: Sequence[str], folder: Path) -> RunState:
    """Train and score a run, or continue it; what is finished is not done again. Returns how it ended, and writes that
    into its folder, unless the folder is busy."""
    arguments = tuple(overrides)
    state = RunState(DONE, overrides=arguments)
    try:
        train_and_score(overrides, folder)
    except Busy as error:
        return RunState(BUSY, host=error.host, pid=error.pid)
    except (Interrupted, KeyboardInterrupt):
        state = RunState(STOPPED, overrides=arguments)
    except Exception as error:  # a bug here or in a plugin must not end the other runs
        if not isinstance(error, UserError):
            traceback.print_exc()
        state = RunState(FAILED, failure_reason(error), arguments)
    if folder.is_dir() or state.status == FAILED:
        from ssss_zoo.comparison.folders import ComparedRunFolder
        from ssss_zoo.comparison.run_files import write_state

        folder.mkdir(parents=True, exist_ok=True)
        write_state(ComparedRunFolder(folder), state)
    return state


def train_and_score(overrides: Sequence[str], folder: Path) -> None:
    """Raises Busy where another process works in the folder, and what a run raises."""
    from ssss_zoo.comparison.folders import ComparedRunFolder
    from ssss_zoo.comparison.report.per_image_counts import write_per_image_counts
    from ssss_zoo.comparison.run_files import finished_figures, is_done
    from ssss_zoo.comparison.scored_run import open_scored_run, write_network_cost
    from ssss_zoo.config.resolve import resolve
    from ssss_zoo.train.run import run_training

    config, files = resolve([*overrides, "resume=true"]), ComparedRunFolder(folder)
    if finished_figures(files) is None:
        run_training(config)
    with owned(folder):
        if not is_done(files):
            run = open_scored_run(resolve(overrides, files.config), files)
            write_network_cost(run, files)  # first: a run whose images are counted is done
            write_per_image_counts(run, files)
