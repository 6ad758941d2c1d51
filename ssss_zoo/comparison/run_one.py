"""One run of a comparison, in a process of its own that `begin` starts, or in whatever a cluster gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import IO, Any

from ssss_zoo.errors import MEMORY, Interrupted, UserError, out_of_memory
from ssss_zoo.lock import Busy, owned
from ssss_zoo.stopping import Stop

STATE = "cell.json"
DONE, FAILED, STOPPED, BUSY = "done", "failed", "stopped", "busy"
CODES = {DONE: 0, FAILED: 2, STOPPED: 130, BUSY: 75}  # of the process; 75 is sysexits.h's "try again later"
ASKED = (
    -signal.SIGTERM,
    -signal.SIGHUP,
    -signal.SIGINT,
)  # codes of a process that was told to stop before it could hear
START = (
    "import json, sys; job = json.loads(sys.stdin.readline()); sys.path[:] = job['path']; "
    "from ssss_zoo.comparison.run_one import main; sys.exit(main(job))"
)


def begin(
    words: list[str], folder: Path, environment: Mapping[str, str], console: IO[Any] | int
) -> subprocess.Popen[bytes]:
    """A process that trains and scores a run. It imports what this process would, not what lies in the working
    folder. It stops, with everything saved, when its input ends: that is closed here, or this process is gone. console:
    where its words go."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START],  # -P: the path is this process's own, and comes with the job
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=console,
        stderr=console,
        start_new_session=True,  # Ctrl-C comes to us alone, and we tell it
    )
    job = {"words": words, "folder": str(folder), "path": [os.path.abspath(entry) for entry in sys.path]}
    assert process.stdin
    with suppress(BrokenPipeError):  # it died at once, which its code tells
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    return process


def end_input(process: subprocess.Popen[bytes]) -> None:
    """Tell a process of `begin` to stop."""
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()


def main(job: Mapping[str, Any]) -> int:
    """The process's life; returns its exit code."""
    state: dict[str, Any] = {"status": STOPPED}
    stop = Stop()
    try:
        with stop.hearing():
            Thread(target=stop_at_end_of_input, daemon=True).start()
            with stop.patient():
                import_module("ssss_zoo.train.run")  # torch does not survive an exception in the midst of its import
            if not stop.asked:
                state = run_cell(job["words"], Path(job["folder"]))
    except KeyboardInterrupt:
        pass
    return CODES[state["status"]]


def stop_at_end_of_input() -> None:
    """Wait until whoever started this process wants it to stop, or is gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def run_cell(words: list[str], folder: Path) -> dict[str, Any]:
    """Train and score, or go on with it; what is finished is not done again. Returns and writes how it ended: `status`
    (done, failed, stopped) and, of a failure, its `reason`; `busy`, which is not written, where another process works
    in the folder, its `host` and `pid` with it."""
    state: dict[str, Any] = {"status": DONE, "words": words}
    try:
        train_and_score(words, folder)
    except Busy as error:
        return {"status": BUSY, "host": error.host, "pid": error.pid}
    except (Interrupted, KeyboardInterrupt):
        state["status"] = STOPPED
    except UserError as error:
        state |= {"status": FAILED, "reason": str(error)}
    except Exception as error:  # a bug of ours or of a plugin must not end the other cells
        traceback.print_exc()
        why = MEMORY if out_of_memory(error) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        state |= {"status": FAILED, "reason": why}
    if folder.is_dir() or state["status"] == FAILED:
        from ssss_zoo.comparison.kept import write_state

        folder.mkdir(parents=True, exist_ok=True)
        write_state(folder, state)
    return state


def train_and_score(words: list[str], folder: Path) -> None:
    """Raises Busy where another process works in the folder, and what a run raises."""
    from ssss_zoo.comparison.kept import finished_metrics, is_done
    from ssss_zoo.comparison.report.per_image_scores import score
    from ssss_zoo.config.schema import resolve
    from ssss_zoo.train.run import run

    config = resolve([*words, "resume=true"])
    if finished_metrics(folder) is None:
        run(config)
    with owned(folder):
        if not is_done(folder):
            score(resolve(words, folder / "config.yaml"), folder)
