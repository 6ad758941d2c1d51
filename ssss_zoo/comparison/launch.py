"""Where the cells of a comparison run: processes on this machine, SLURM, Ray. `LAUNCHERS` names the ways."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ssss_zoo.comparison.kept import read_state
from ssss_zoo.comparison.run_one import ASKED, BUSY, CODES, FAILED, STOPPED, begin, end_input, run_cell
from ssss_zoo.comparison.study import Cell
from ssss_zoo.errors import LESS, UserError
from ssss_zoo.lock import owner

POLL = 0.3  # seconds between looks at the processes
QUEUE_POLL = 2.0  # seconds between looks at SLURM's queue (our choice: sites ask not to be asked often)
PATIENCE = 5  # looks without a job before it is given up: its result may be late on a shared disk
OnEnd = Callable[[Cell, dict[str, Any]], None]


class Launcher(Protocol):
    """Runs cells, several at a time, and tells of each as it ends. Raises KeyboardInterrupt after Ctrl-C, when those
    that ran have saved what they had."""

    def __call__(self, cells: Sequence[Cell], jobs: int | None, on_end: OnEnd) -> None: ...


def local(cells: Sequence[Cell], jobs: int | None, on_end: OnEnd) -> None:
    """One process a cell, `jobs` at a time: as many as there are GPUs, each on its own; on a CPU one at a time, or
    `jobs` that share the cores."""
    places = list(devices(jobs))
    waiting, running = list(cells), dict[int, tuple[Cell, subprocess.Popen[bytes]]]()
    try:
        while waiting or running:
            for place in range(len(places)):
                if place not in running and waiting:
                    cell = waiting.pop(0)
                    running[place] = (cell, start(cell, places[place]))
            for place, (cell, process) in list(running.items()):
                try:
                    code = process.wait(POLL / len(running))
                except subprocess.TimeoutExpired:
                    continue
                del running[place]
                state = ended(cell, code)
                on_end(cell, state)
                if state["status"] == STOPPED:  # it was told to stop: so were we
                    raise KeyboardInterrupt
    finally:
        for _, process in running.values():
            end_input(process)  # each saves its step and stops
        for cell, process in running.values():
            on_end(cell, ended(cell, process.wait()))


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


def start(cell: Cell, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process for the cell. Its words go to the cell's console.log."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / "console.log").open("ab") as console:
        return begin(cell.words, cell.folder, environment, console)


def ended(cell: Cell, code: int) -> dict[str, Any]:
    """How a cell ended, by its code and what it wrote; a process that was killed wrote nothing."""
    if code == CODES[BUSY]:
        host, pid = owner(cell.folder)
        return {"status": BUSY, "host": host, "pid": pid}
    if code == CODES[STOPPED] or code in ASKED:
        return {"status": STOPPED}
    state = read_state(cell.folder)
    if state and code == CODES[state["status"]]:
        return dict(state)
    killed = (
        f"killed by signal {-code}; if the system did it, memory ran out: {LESS}"
        if code < 0
        else f"it ended with {code}"
    )
    return {"status": FAILED, "reason": f"{killed} (see {cell.folder / 'console.log'})"}


# --- clusters -------------------------------------------------------------------------------------------------------


def slurm(cells: Sequence[Cell], jobs: int | None, on_end: OnEnd) -> None:
    """One SLURM job a cell, by submitit, `jobs` at a time. `slurm.<name>=value` among the study's words are submitit's
    parameters (slurm.timeout_min=600, slurm.gpus_per_node=1, slurm.slurm_partition=gpu). What a job says lies in
    slurm/. Raises UserError where submitit or SLURM refuse."""
    submitit = package("submitit", "slurm")
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns at every look where SLURM keeps no accounts
    if not cells:
        return
    study = cells[0].study
    try:
        executor = submitit.AutoExecutor(folder=study.folder / "slurm", cluster=CLUSTER)
        limits = {"slurm_array_parallelism": jobs} if jobs and CLUSTER == "slurm" else {}
        executor.update_parameters(name="ssss", **limits, **{key: number(value) for key, value in study.cluster})
        with safe_path(), executor.batch():
            running = {executor.submit(elsewhere, os.getcwd(), cell.words, cell.folder): cell for cell in cells}
    except Exception as error:  # submitit raises whatever sbatch and its own checks say
        raise UserError(f"launcher=slurm: {' '.join(str(error).split())}") from None
    missed: Counter[Any] = Counter()
    try:
        while running:
            for job in [job for job in running if job.done()]:
                cell = running.pop(job)
                died = job.exception()
                on_end(cell, job.result() if died is None else crashed(died))
            missed = Counter({job: missed[job] + 1 for job in running if not in_queue(job)})
            for job in [job for job, times in missed.items() if times > PATIENCE]:
                on_end(running.pop(job), crashed(RuntimeError("SLURM no longer knows the job, and it left no result")))
            time.sleep(QUEUE_POLL)
    finally:
        for job in running:
            job.cancel()


@contextmanager
def safe_path() -> Iterator[None]:
    """Within, Python starts without the working folder on its path, whatever command starts it: submitit's is `-m`."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def in_queue(job: Any) -> bool:
    """Whether SLURM still has the job; submitit alone never learns of a killed one where SLURM keeps no accounts."""
    if CLUSTER != "slurm":
        return True
    listed = subprocess.run(["squeue", "-h", "-j", job.job_id], capture_output=True, text=True)
    return listed.returncode == 0 and bool(listed.stdout.strip())


def ray(cells: Sequence[Cell], jobs: int | None, on_end: OnEnd) -> None:
    """One Ray task a cell, on the cluster of $RAY_ADDRESS or one of this machine's own, `jobs` at a time, each on a
    GPU where the cluster has any. A task whose worker dies is begun once more, and goes on where its run had saved."""
    package("ray", "ray")
    import ray as library

    with TemporaryDirectory() as nowhere:
        with chdir(nowhere):  # its workers import from the folder that this is called in
            library.init(address=os.environ.get("RAY_ADDRESS"), ignore_reinit_error=True, log_to_driver=False)
        have = library.cluster_resources()
        gpus = 1 if have.get("GPU") else 0
        cores = max(1, int(have.get("CPU", 1) // jobs)) if jobs else 1
        task = library.remote(elsewhere).options(num_cpus=cores, num_gpus=gpus, max_retries=1)
        running = {task.remote(os.getcwd(), cell.words, cell.folder): cell for cell in cells}
        try:
            while running:
                done, _ = library.wait(list(running), num_returns=1)
                cell = running.pop(done[0])
                try:
                    state = library.get(done[0])
                except library.exceptions.RayError as error:
                    state = crashed(error)
                on_end(cell, state)
        finally:
            for reference in running:
                library.cancel(reference)


CLUSTER = "slurm"  # submitit's name of it; its `local` does without SLURM


def number(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def elsewhere(folder: str, words: list[str], output: Path) -> dict[str, Any]:
    """`run_cell` on another machine that sees the same files, in the same working directory."""
    os.chdir(folder)
    return run_cell(words, output)


def crashed(error: BaseException) -> dict[str, Any]:
    """How a cell ended whose process did not live to say."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return {
        "status": FAILED,
        "reason": f"its worker died ({type(error).__name__}: {first[:200]}); if memory ran out: {LESS}",
    }


def package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"launcher={extra}: pip install 'ssss-zoo[{extra}]'") from None


LAUNCHERS: dict[str, Launcher] = {"local": local, "slurm": slurm, "ray": ray}


def launcher(name: str) -> Launcher:
    if name not in LAUNCHERS:
        raise UserError(f"launcher={name} is none; known: {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name]
