"""Items read by loader processes, whose errors reach the caller as they are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from ssss_zoo.errors import UserError
from ssss_zoo.stopping import end_with_parent, unheard


class ErrorsAsItems(TorchDataset[Any]):
    """Items that hand a UserError over as one of them: raised in a worker, it would arrive wrapped in a traceback."""

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
    """Set up a loader process: the processes share the cores among themselves, and end when they are told to."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    end_with_parent()


WORKER_KILLED = (
    "a process that reads images for train.workers was killed, most likely by the system for its memory: fewer "
    "train.workers (0 reads in the run itself) or data.cache=none needs less"
)


SHARED_MEMORY_ADVICE = (
    "/dev/shm is full or small; give a container more of it, as docker run --shm-size, or take train.workers=0"
)


SHARED_MEMORY_ERRORS = (
    "unable to allocate shared memory",
    "unable to write to file </torch",
    "unable to open shared memory",
)


def load_batches(items: TorchDataset[Any], workers: int, **settings: Any) -> Iterator[Any]:
    """What a DataLoader of these settings makes of the items, read by so many processes, which begin at once and which
    no signal that asks to stop reaches. Draws nothing from torch's global generators.

    Raises UserError as an item does, and where a process was killed or finds no shared memory.
    """
    loader: DataLoader[Any] = DataLoader(
        ErrorsAsItems(items),
        num_workers=workers,
        collate_fn=collate_or_error,
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),
        **settings,
    )
    with unheard(), keep_child_handler():
        batches = iter(loader)
    return raise_errors(batches)


@contextmanager
def keep_child_handler() -> Iterator[None]:
    """Keep torch from breaking into whatever runs when a process has died: it is found where its batch is asked for."""
    kind = getattr(signal, "SIGCHLD", None)
    if kind is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(kind)
    try:
        yield
    finally:
        signal.signal(kind, before)


def raise_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, their errors raised."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if any(words in str(error) for words in SHARED_MEMORY_ERRORS):
                raise UserError(f"no shared memory for train.workers ({SHARED_MEMORY_ADVICE})") from None
            broken_off = isinstance(error, (ConnectionError, EOFError))  # in the middle of what it was sending
            if not broken_off and all(worker.is_alive() for worker in getattr(batches, "_workers", ())):
                raise
            raise UserError(WORKER_KILLED) from None
        if isinstance(batch, UserError):
            raise UserError(*batch.args)  # a new one: a cycle of `batch` and this frame would delay the workers' end
        yield batch
