"""The cost of a network at work: its parameters, its operations for an image, and the images that it predicts in a
second."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ssss_zoo.errors import out_of_memory
from ssss_zoo.evaluation.evaluator import Predictor

FIRST_BATCH_SECONDS = 0.3  # of timed calls with one image (our choice)
LARGER_BATCH_SECONDS = 0.1  # of timed calls with each larger batch (our choice)
TOTAL_SECONDS = 1.0  # after which no larger batch is tried (our choice)
CALLS_TIMED_MAX = 30  # at each batch size (our choice)
BATCH_SIZE_MAX = 64  # the largest batch that is tried (our choice)
FASTER_BY = 1.02  # a larger batch must be so many times as fast as the best one, or no larger one is tried (our choice)
CALLS_IN_GPU_GROUP = 5  # calls between two synchronisations, so that the GPU never waits for the host (our choice)


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """The cost of a network that predicts images of one size in float32, as the run is scored: whole, or in windows.

    parameters: numbers in the network that training sets. flops: operations for an image, a multiplication with its
    addition counted as two. images_per_second: one image at a time; best_images_per_second: in batches of `best_batch`,
    the fastest of those that were tried. device: its name, and the threads of a CPU.
    """

    height: int
    width: int
    parameters: int
    flops: int
    images_per_second: float
    best_images_per_second: float
    best_batch: int
    device: str


def measure_network_cost(
    network: nn.Module, predictor: Predictor, shape: tuple[int, int, int], device: torch.device, device_name: str
) -> NetworkCost:
    """Measure a network on its device, in about `TOTAL_SECONDS`, longer where one image takes longer.

    shape: channels, height and width of the images. The median of the timed calls counts, after one that does not.
    """
    flops = count_flops(network, predictor, images_of_shape(shape, 1, device))
    speeds = dict(images_per_second(network, predictor, shape, device))
    best = max(speeds, key=lambda batch: speeds[batch])
    return NetworkCost(
        height=shape[1],
        width=shape[2],
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=flops,
        images_per_second=speeds[1],
        best_images_per_second=speeds[best],
        best_batch=best,
        device=device_name,
    )


def cost_key(network: nn.Module, predictor: Predictor, shape: Sequence[int], device_name: str) -> str:
    """A digest that two networks share where they cost the same: the same layers, images, scoring and device."""
    shapes = [(name, tuple(value.shape)) for name, value in network.state_dict().items()]
    settings = (asdict(predictor.settings), predictor.window, tuple(shape), device_name, torch.__version__)
    return hashlib.sha256(repr((repr(network), shapes, settings)).encode()).hexdigest()[:16]


def images_of_shape(shape: tuple[int, int, int], batch: int, device: torch.device) -> Tensor:
    """(batch, *shape) in [0, 1]. They are the same in each call, and no random number of the program is used up."""
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device)


def count_flops(network: nn.Module, predictor: Predictor, image: Tensor) -> int:
    """The operations of one call, as torch counts them: those of convolutions, products of matrices and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        predictor.logits(network, image)
    return int(counter.get_total_flops())


def images_per_second(
    network: nn.Module, predictor: Predictor, shape: tuple[int, int, int], device: torch.device
) -> Iterator[tuple[int, float]]:
    """Each batch size that is tried, 1, 2, 4 and so on, with its images a second. It ends where a larger batch is not
    faster, does not fit into memory, or would take too long."""
    began, batch, best = time.perf_counter(), 1, 0.0
    while batch <= BATCH_SIZE_MAX:
        try:
            seconds = seconds_per_call(network, predictor, images_of_shape(shape, batch, device), device)
        except Exception as error:
            if batch == 1 or not out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            return
        yield batch, batch / seconds
        expected = 2 * 2 * seconds  # a warm-up and one timed call of twice the images
        too_long = time.perf_counter() - began + expected > TOTAL_SECONDS
        if too_long or batch / seconds < FASTER_BY * best:
            return
        best = max(best, batch / seconds)
        batch *= 2


def seconds_per_call(network: nn.Module, predictor: Predictor, images: Tensor, device: torch.device) -> float:
    """The median time of predicting a batch, after one call that does not count."""
    budget = FIRST_BATCH_SECONDS if len(images) == 1 else LARGER_BATCH_SECONDS
    calls = CALLS_IN_GPU_GROUP if device.type == "cuda" else 1
    predictor.logits(network, images)
    synchronize(device)
    times: list[float] = []
    while not times or (sum(times) < budget and len(times) * calls < CALLS_TIMED_MAX):
        began = time.perf_counter()
        for _ in range(calls):
            predictor.logits(network, images)
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / calls


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
