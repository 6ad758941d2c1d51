"""Sums over images, in the one place that knows of other processes.

A run of W processes with B images each is to give the numbers of one process with W * B images. Every process computes
the gradient of its own loss, and the gradients are averaged. So a loss that is a sum over a count stays right when each
process divides its own sum by `process_mean` of the counts; what a loss only reads (class masses, prototypes,
thresholds) is the same everywhere after `process_sum` or `process_max`; a bank takes in what `process_gather` returns.
Reducing a loss itself would divide its gradient by W.

In a single process each function returns its argument. With several, every process must make the same calls in the same
order, so a call may depend on the step and on the configuration, never on the images.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """How many processes train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, without gradient; the tensor itself in a single process."""
    return reduced(tensor, dist.ReduceOp.SUM) if process_count() > 1 else tensor


def process_max(tensor: Tensor) -> Tensor:
    """The largest of each element over all processes, without gradient; the tensor itself in a single process."""
    return reduced(tensor, dist.ReduceOp.MAX) if process_count() > 1 else tensor


def process_mean(tensor: Tensor, least: float | None = None) -> Tensor:
    """The mean over all processes, float, without gradient; the tensor itself, of its own type, in a single process.

    least: the sum over all processes is never less: `process_mean(count, least=1)` is what each process divides a sum
    of its own by, and a single counted pixel among all processes is enough for the mean over all.
    """
    total = process_sum(tensor)
    if least is not None:
        total = total.clamp(min=least)
    return total / process_count() if process_count() > 1 else total


def process_gather(tensor: Tensor) -> Tensor:
    """(N, ...) of every process to (W * N, ...), process after process, without gradient; N is the same in all of
    them. The tensor itself in a single process."""
    if process_count() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(process_count())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    total = tensor.detach().clone()
    dist.all_reduce(total, op=operation)
    return total
