"""Where the runs of a comparison are executed: processes on this machine, SLURM, Ray. `LAUNCHERS` names the ways."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ssss_zoo.comparison.plan import PlannedRun
from ssss_zoo.comparison.run_files import read_state
from ssss_zoo.comparison.run_one import request_stop, run_one, start_process
from ssss_zoo.comparison.run_state import BUSY, EXIT_CODES, FAILED, STOPPED, STOPPED_BY_SIGNAL, RunState
from ssss_zoo.errors import MEMORY_ADVICE, UserError
from ssss_zoo.lock import owner

PROCESS_POLL = 0.3  # seconds between looks at the processes
QUEUE_POLL = 2.0  # seconds between looks at SLURM's queue and at Ray's (our choice: sites ask not to be asked often)
MISSED_POLLS = 5  # looks without a job before it is given up: its result may come late on a shared disk
SUBMITIT_CLUSTER = "slurm"  # `local` is submitit's stand-in, which needs no SLURM

EndedRun = tuple[PlannedRun, RunState]
LocalProcesses = dict[int, tuple[PlannedRun, subprocess.Popen[bytes]]]  # by the place that each occupies


class RunWatch(Protocol):
    """Learns from a launcher what its runs do."""

    def begin(self, run: PlannedRun) -> None:
        """A run begins. A launcher that does not learn of it may leave this out."""

    def refresh(self) -> None:
        """Runs are at work. Called at least every few seconds."""

    def stopping(self) -> None:
        """The runs at work were asked to save and stop."""


class Launcher(Protocol):
    """Executes runs, `jobs` at a time, and yields each with its state as it ends. Raises KeyboardInterrupt after
    Ctrl-C, when the runs that were executing have saved, and have been yielded. Closing it stops all runs."""

    def __call__(
        self, runs: Sequence[PlannedRun], jobs: int | None, watch: RunWatch
    ) -> Generator[EndedRun, None, None]: ...


def find_launcher(name: str) -> Launcher:
    if name not in LAUNCHERS:
        raise UserError(f"unknown launcher={name}; known: {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name]


# --- this machine ---------------------------------------------------------------------------------------------------


def run_locally(runs: Sequence[PlannedRun], jobs: int | None, watch: RunWatch) -> Generator[EndedRun, None, None]:
    """One process a run, `jobs` at a time: by default as many as there are GPUs, each on its own; on a CPU one at a
    time, or `jobs` that share the cores."""
    environments = list(process_environments(jobs))
    waiting, running = list(runs), LocalProcesses()
    try:
        while waiting or running:
            for place, environment in enumerate(environments):
                if place not in running and waiting:
                    run = waiting.pop(0)
                    running[place] = (run, start_run(run, environment))
                    watch.begin(run)
            watch.refresh()
            for place, (run, process) in list(running.items()):
                try:
                    code = process.wait(PROCESS_POLL / len(running))
                except subprocess.TimeoutExpired:
                    continue
                del running[place]
                state = state_after(run, code)
                yield run, state
                if state.status == STOPPED:  # the signal that stopped it was meant for this process as well
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        watch.stopping()
        yield from stop_processes(running)
        raise
    except BaseException:  # the reader of these results failed, and takes no more of them
        for _ in stop_processes(running):
            pass
        raise


def stop_processes(running: LocalProcesses) -> Iterator[EndedRun]:
    """Ask all processes to save and stop, then wait for each."""
    for _, process in running.values():
        request_stop(process)
    for run, process in running.values():
        yield run, state_after(run, process.wait())


def process_environments(jobs: int | None) -> Iterator[dict[str, str]]:
    """The environment of each process that may run at a time."""
    gpus = gpu_count()
    if gpus:
        for index in range(jobs or gpus):
            yield {"CUDA_VISIBLE_DEVICES": gpu_name(index % gpus)}
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for _ in range(jobs or 1):
        yield {"OMP_NUM_THREADS": str(max(1, cores // (jobs or 1)))} if jobs else {}


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def gpu_name(index: int) -> str:
    """The name of the index-th GPU that this process may use."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names[index] if names != [""] else str(index)


def start_run(run: PlannedRun, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process for the run, which prints to the console log of the run's folder."""
    run.folder.path.mkdir(parents=True, exist_ok=True)
    with run.folder.console.open("ab") as console:
        return start_process(run.overrides, run.folder.path, environment, console)


def state_after(run: PlannedRun, code: int) -> RunState:
    """How a run ended, from the exit code of its process and the state that it wrote; a killed process wrote none."""
    if code == EXIT_CODES[BUSY]:
        host, pid = owner(run.folder.path)
        return RunState(BUSY, host=host, pid=pid)
    if code == EXIT_CODES[STOPPED] or code in STOPPED_BY_SIGNAL:
        return RunState(STOPPED)
    state = read_state(run.folder)
    if state and code == EXIT_CODES[state.status]:
        return state
    killed = f"killed by signal {-code}; if the system did it, memory ran out: {MEMORY_ADVICE}"
    reason = killed if code < 0 else f"it ended with {code}"
    return RunState(FAILED, f"{reason} (see {run.folder.console})")


# --- clusters -------------------------------------------------------------------------------------------------------


def run_on_slurm(runs: Sequence[PlannedRun], jobs: int | None, watch: RunWatch) -> Generator[EndedRun, None, None]:
    """One SLURM job a run, by submitit, `jobs` at a time. `slurm.<name>=value` arguments of the study are submitit's
    parameters (slurm.timeout_min=600, slurm.gpus_per_node=1, slurm.slurm_partition=gpu). The jobs print to files in
    slurm/. Raises UserError where submitit or SLURM refuse."""
    running = submit_jobs(runs, jobs)
    missed: Counter[Any] = Counter()
    try:
        while running:
            for job in [job for job in running if job.done()]:
                error = job.exception()
                yield running.pop(job), job.result() if error is None else worker_died(error)
            missed = Counter({job: missed[job] + 1 for job in running if not in_queue(job)})
            for job in [job for job, times in missed.items() if times > MISSED_POLLS]:
                gone = RuntimeError("SLURM no longer lists the job, and it wrote no result")
                yield running.pop(job), worker_died(gone)
            watch.refresh()
            time.sleep(QUEUE_POLL)
    finally:
        for job in running:
            job.cancel()


def submit_jobs(runs: Sequence[PlannedRun], jobs: int | None) -> dict[Any, PlannedRun]:
    """A job of submitit for each run. Raises UserError where submitit or SLURM refuse."""
    submitit = import_extra("submitit", "slurm")
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns at every look where SLURM keeps no accounts
    if not runs:
        return {}
    plan = runs[0].plan
    try:
        executor = submitit.AutoExecutor(folder=plan.folder.slurm, cluster=SUBMITIT_CLUSTER)
        limits = {"slurm_array_parallelism": jobs} if jobs and SUBMITIT_CLUSTER == "slurm" else {}
        parameters = {key: int(value) if value.isdigit() else value for key, value in plan.cluster}
        executor.update_parameters(name="ssss", **limits, **parameters)
        with safe_path(), executor.batch():
            return {executor.submit(run_in, os.getcwd(), run.overrides, run.folder.path): run for run in runs}
    except Exception as error:  # submitit raises its own errors and those of sbatch
        raise UserError(f"launcher=slurm: {' '.join(str(error).split())}") from None


@contextmanager
def safe_path() -> Iterator[None]:
    """Processes started within do not search the working folder for modules, whatever command starts them: that of
    submitit is `python -m`."""
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
    if SUBMITIT_CLUSTER != "slurm":
        return True
    listed = subprocess.run(["squeue", "-h", "-j", job.job_id], capture_output=True, text=True)
    return listed.returncode == 0 and bool(listed.stdout.strip())


def run_on_ray(runs: Sequence[PlannedRun], jobs: int | None, watch: RunWatch) -> Generator[EndedRun, None, None]:
    """One Ray task a run, `jobs` at a time, on the cluster of $RAY_ADDRESS or on this machine, each on a GPU where the
    cluster has any. A task whose worker dies starts once more, and its run continues from what it had saved."""
    import_extra("ray", "ray")
    import ray

    with TemporaryDirectory() as empty:
        with chdir(empty):  # Ray's workers import modules from the folder in which it is started
            ray.init(address=os.environ.get("RAY_ADDRESS"), ignore_reinit_error=True, log_to_driver=False)
        resources = ray.cluster_resources()
        gpus = 1 if resources.get("GPU") else 0
        cores = max(1, int(resources.get("CPU", 1) // jobs)) if jobs else 1
        task = ray.remote(run_in).options(num_cpus=cores, num_gpus=gpus, max_retries=1)
        running = {task.remote(os.getcwd(), run.overrides, run.folder.path): run for run in runs}
        try:
            while running:
                watch.refresh()
                done, _ = ray.wait(list(running), num_returns=1, timeout=QUEUE_POLL)
                for reference in done:
                    run = running.pop(reference)
                    try:
                        state = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        state = worker_died(error)
                    yield run, state
        finally:
            for reference in running:
                ray.cancel(reference)


def run_in(working_folder: str, overrides: list[str], folder: Path) -> RunState:
    """`run_one` on another machine that sees the same files, in the same working folder."""
    os.chdir(working_folder)
    return run_one(overrides, folder)


def worker_died(error: BaseException) -> RunState:
    """The state of a run whose worker died before it could report one."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = f"its worker died ({type(error).__name__}: {first[:200]}); if memory ran out: {MEMORY_ADVICE}"
    return RunState(FAILED, reason)


def import_extra(name: str, extra: str) -> Any:
    """A package that an extra installs. Raises UserError where it is not there."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"launcher={extra}: pip install 'ssss-zoo[{extra}]'") from None


LAUNCHERS: dict[str, Launcher] = {"local": run_locally, "slurm": run_on_slurm, "ray": run_on_ray}
