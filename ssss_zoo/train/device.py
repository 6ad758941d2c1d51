"""The device that a run uses, its threads and memory, and the description of the machine in metrics.json."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from ssss_zoo.config.schema import Config
from ssss_zoo.errors import UserError
from ssss_zoo.memory import peak_resident_memory
from ssss_zoo.text import count
from ssss_zoo.train.git_repository import git_commit


def choose_device(config: Config) -> torch.device:
    """The device, with torch's threads set. Raises UserError where it cannot be used."""
    name = config.train.device
    check_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise unusable_device(name, error) from None
    torch.set_num_threads(config.train.threads or default_threads())
    if config.train.precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16 needs a GPU; on a CPU take 32 (bf16 works and is slower on most)")
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = (
            False  # it may choose other kernels in the next run, and so change the numbers of a seed
        )
    return device


def check_device(name: str) -> None:
    """Raise UserError for a device that is not on this machine, without a start of it: a GPU's memory stays free."""
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unusable_device(name, "expected auto, cpu, cuda, cuda:1 or the like") from None
    here = torch.accelerator.current_accelerator(check_available=True)
    if device.type != "cpu" and (here is None or device.type != here.type):
        raise unusable_device(name, f"this machine has {here.type if here else 'no GPU'}")
    if device.index is not None and device.type != "cpu" and device.index >= torch.accelerator.device_count():
        raise unusable_device(
            name, f"this machine has {count(torch.accelerator.device_count(), 'device')} of this kind"
        )


def unusable_device(name: str, reason: object) -> UserError:
    return UserError(f"train.device={name} cannot be used: {str(reason).splitlines()[0]}")


def default_threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or os.cpu_count() or 1


def with_device_defaults(config: Config, device: torch.device) -> Config:
    """The configuration with the threads of torch and the loader processes that the device suggests, unless they are
    given."""
    given = config.train
    threads = default_threads() if given.threads is None else given.threads
    workers = (0 if device.type == "cpu" else 4) if given.workers is None else given.workers
    return replace(config, train=replace(given, threads=threads, workers=workers))


PROCESS_COUNT_VARIABLES = {  # the variable in which each launcher puts its number of processes
    "WORLD_SIZE": "torchrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}


def check_one_process() -> None:
    """Raise UserError where a launcher started this command several times at once."""
    for name, launcher in PROCESS_COUNT_VARIABLES.items():
        number = os.environ.get(name, "1")
        if number.isdigit() and int(number) > 1:
            raise UserError(
                f"{launcher} started {number} processes of this command ({name}={number}), and one process trains a "
                "run: start it once, without launcher; `ssss compare ... jobs=2` trains several runs at a time, each "
                "on a GPU of its own"
            )


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel after each step. This measured an eighth less
    CPU time per step at the same peak. Does nothing where there is no glibc."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # parameters of mallopt(3)
    try:
        libc = ctypes.CDLL("libc.so.6")
        for parameter in (trim_threshold, top_pad, mmap_threshold):
            libc.mallopt(parameter, 1 << 28)
    except (OSError, AttributeError):
        pass


def environment(device: torch.device) -> dict[str, Any]:
    """The versions, device and threads that the figures depend on besides the configuration, and the commit of the
    working folder, see `git_commit`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "packages": package_versions(),
        "commit": git_commit(),
    }


@cache
def package_versions() -> dict[str, str]:
    """The versions of the packages that compute the figures, by name. Kept, since a run writes them several times, and
    reading them takes 25 ms."""
    packages = ("ssss-zoo", "torch", "timm", "kornia", "torchmetrics", "pluggy", "mlflow-skinny")
    return {package: version(package) for package in packages}


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: allocated by torch on a GPU, or resident for this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_memory()
