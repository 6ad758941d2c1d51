"""Two processes of one run: the same work in each, what each found."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PROCESSES = 2


def in_two_processes(work: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The answers of `work(rank)` in two processes that know of each other. Forked: nothing is imported anew."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work_in_one, args=(work, rank, folder)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def work_in_one(work: Callable[[int], dict[str, Any]], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
