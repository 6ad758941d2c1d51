"""Where the cells of a comparison run: processes on this machine, one a device. `LAUNCHERS` names the ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

from ssss_zoo.compare.cell import FAILED, MEMORY, read_state
from ssss_zoo.compare.study import Cell
from ssss_zoo.errors import UserError

POLL = 0.3  # seconds between looks at the processes
OnEnd = Callable[[Cell, dict[str, Any]], None]


class Launcher(Protocol):
    """Runs cells, several at a time, and tells of each as it ends. Raises KeyboardInterrupt after Ctrl-C, when those
    that ran have saved what they had."""

    def __call__(self, cells: Sequence[Cell], jobs: int | None, on_end: OnEnd) -> None: ...


def local(cells: Sequence[Cell], jobs: int | None, on_end: OnEnd) -> None:
    """One process a cell, `jobs` at a time: as many as there are GPUs, each on its own; on a CPU one at a time, or
    `jobs` that share the cores."""
    places = list(devices(jobs))
    waiting, running = list(cells), dict[int, tuple[Cell, subprocess.Popen[bytes], Path]]()
    try:
        while waiting or running:
            for place in range(len(places)):
                if place not in running and waiting:
                    cell = waiting.pop(0)
                    running[place] = (cell, *start(cell, places[place]))
            for place, (cell, process, file) in list(running.items()):
                try:
                    code = process.wait(POLL / len(running))
                except subprocess.TimeoutExpired:
                    continue
                file.unlink(missing_ok=True)
                del running[place]
                on_end(cell, ended(cell, code))
                if code == 130:  # it was told to stop: so were we
                    raise KeyboardInterrupt
    finally:
        for cell, process, file in running.values():
            process.terminate()  # each saves its step and stops
            process.wait()
            file.unlink(missing_ok=True)
            on_end(cell, ended(cell, process.returncode))


def devices(jobs: int | None) -> Iterator[dict[str, str]]:
    """The environment of each process that may run at a time."""
    gpus = gpu_count()
    if gpus:
        for index in range(jobs or gpus):
            yield {"CUDA_VISIBLE_DEVICES": visible(index % gpus)}
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for _ in range(jobs or 1):
        yield {"OMP_NUM_THREADS": str(max(1, cores // (jobs or 1)))} if jobs else {}


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def visible(index: int) -> str:
    """The name of the index-th GPU that this process may use."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names[index] if names != [""] else str(index)


def start(cell: Cell, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    """A process for the cell, and the file that tells it what to do. Its words go to the cell's console.log."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump({"words": cell.words, "folder": str(cell.folder)}, file)
    with (cell.folder / "console.log").open("ab") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "ssss_zoo.compare.cell", file.name],
            env=os.environ | environment,
            stdout=console,
            stderr=console,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes to us alone, and we tell it
        )
    return process, Path(file.name)


def ended(cell: Cell, code: int) -> dict[str, Any]:
    """How a cell ended, by what it wrote; a process that was killed wrote nothing."""
    state = read_state(cell.folder)
    if code in (0, 2, 130) and state:
        return state
    killed = f"killed by signal {-code}; if that was the system: {MEMORY}" if code < 0 else f"it ended with {code}"
    return {"status": FAILED, "reason": f"{killed} (see {cell.folder / 'console.log'})"}


LAUNCHERS: dict[str, Launcher] = {"local": local}


def launcher(name: str) -> Launcher:
    if name not in LAUNCHERS:
        raise UserError(f"launcher={name} is none; known: {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name]
