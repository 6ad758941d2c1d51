"""Loader processes: how they are started, and how their errors reach the run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from ssss_zoo.errors import UserError
from ssss_zoo.stopping import end_with_parent, signals_blocked

WORKER_KILLED = (
    "a process that loads images (train.workers) was killed, most likely by the system because memory ran out: lower "
    "train.workers (0 loads images in the process of the run) or set data.cache=none"
)
# Forked processes start at once and share the images in memory. Python 3.14 forks on no system unless it is asked to;
# on macOS forking is unsafe, and Windows cannot. None: the system's own way, which copies the data set.
START_METHOD = "fork" if sys.platform == "linux" else None
SHARED_MEMORY_ADVICE = (
    "/dev/shm is full or small; enlarge it, for a container with docker run --shm-size, or set train.workers=0"
)
SHARED_MEMORY_ERRORS = (  # parts of torch's messages
    "unable to allocate shared memory",
    "unable to write to file </torch",
    "unable to open shared memory",
)


class ErrorsAsItems(TorchDataset[Any]):
    """A data set that returns a UserError as an item: raised in a worker, it would arrive wrapped in a traceback."""

    def __init__(self, items: TorchDataset[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Any:
        try:
            return self.items[position]
        except UserError as error:
            return error


def collate_or_error(items: list[Any]) -> Any:
    """The items stacked along a new first dimension, or the first error among them."""
    error = next((item for item in items if isinstance(item, UserError)), None)
    return error if error else default_collate(items)


def set_up_worker(worker: int) -> None:
    """Give a loader process one thread, and let it end with the run's process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    end_with_parent()


def load_batches(items: TorchDataset[Any], workers: int, **settings: Any) -> Iterator[Any]:
    """The batches of a DataLoader with these settings, read by `workers` processes, which start at once.

    Signals that ask the run to stop do not reach the processes. Nothing is drawn from torch's global generators. Raises
    UserError as an item does, and where a process is killed or finds no shared memory.
    """
    loader: DataLoader[Any] = DataLoader(
        ErrorsAsItems(items),
        num_workers=workers,
        collate_fn=collate_or_error,
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),
        multiprocessing_context=START_METHOD if workers else None,
        **settings,
    )
    with signals_blocked(), keep_child_handler():
        batches = iter(loader)
    return raise_errors(batches)


@contextmanager
def keep_child_handler() -> Iterator[None]:
    """Keep torch from installing its handler of SIGCHLD, which interrupts the run wherever it is when a process has
    died. `raise_errors` notices that when the next batch is asked for."""
    child_signal = getattr(signal, "SIGCHLD", None)
    if child_signal is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(child_signal)
    try:
        yield
    finally:
        signal.signal(child_signal, before)


def raise_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; an error among them, and the death of a process, is raised as UserError."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if any(part in str(error) for part in SHARED_MEMORY_ERRORS):
                raise UserError(f"no shared memory for train.workers ({SHARED_MEMORY_ADVICE})") from None
            broken_off = isinstance(error, (ConnectionError, EOFError))  # the process died while it sent a batch
            if not broken_off and all(worker.is_alive() for worker in getattr(batches, "_workers", ())):
                raise
            raise UserError(WORKER_KILLED) from None
        if isinstance(batch, UserError):
            raise UserError(*batch.args)  # a new one: a cycle of `batch` and this frame would delay the workers' end
        yield batch
