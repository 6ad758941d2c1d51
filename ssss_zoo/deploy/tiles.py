"""Large images in overlapping tiles, whose probabilities are blended smoothly, a band of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.evaluation.evaluator import window_starts
from ssss_zoo.memory import free_memory

TILE_SIDE = 1024  # pixels, where memory allows (our choice)
TILE_SIDE_MIN = 256  # pixels (our choice)
BAND_BYTES = 192 * 2**20  # of the probabilities of a row of tiles (our choice)
NETWORK_MEMORY_SHARE = 0.5  # of the free memory, for the network (our choice)
NETWORK_PIXEL_BYTES = 2048  # of an image in the network (our choice, about twice our estimate for the default network)
EDGE_WEIGHT = 1e-3  # of a tile's outermost pixel, above 0 so that a lone tile counts there
PredictTile = Callable[[np.ndarray], Tensor]  # (H, W, channels) -> probabilities (C, H, W)
# First and last row, exclusive -> pixels (rows, W, channels); and (rows, W) bool, true without data, or None.
ReadRows = Callable[[int, int], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, eq=False)
class Band:
    """Rows of an image. top: the first one. probs: (C, rows, W). missing: (rows, W) bool, true where there are no data;
    None where there are data everywhere."""

    top: int
    probs: Tensor
    missing: np.ndarray | None


@cache
def memory_at_start(device: torch.device) -> float:
    """Bytes of memory that were free on the device when this process first asked: one command has one tile size."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(free_memory() or math.inf)


def pixels_that_fit(memory: float) -> float:
    """The pixels that the network takes at once in the share of these bytes that it may have."""
    return memory * NETWORK_MEMORY_SHARE / NETWORK_PIXEL_BYTES


def choose_tile_side(width: int, classes: int, memory: float = math.inf) -> int:
    """The largest tile, halved from TILE_SIDE, for which a row of tiles takes at most BAND_BYTES, and which fits into
    so many bytes of memory."""
    side = TILE_SIDE
    while side > TILE_SIDE_MIN and (side * width * classes * 4 > BAND_BYTES or side**2 > pixels_that_fit(memory)):
        side //= 2
    return side


def tile_weight(height: int, width: int) -> Tensor:
    """(H, W): the weight of each pixel of a tile, highest in its centre, a product of two raised cosines."""
    rows, columns = (torch.hann_window(side + 2, periodic=False)[1:-1] + EDGE_WEIGHT for side in (height, width))
    return rows[:, None] * columns[None]


def blend_tiles(
    read_rows: ReadRows, size: tuple[int, int], side: int, overlap: float, classes: int, predict: PredictTile
) -> Iterator[Band]:
    """Bands of an image from top to bottom, their probabilities on the CPU.

    size: (H, W) of the image. side: of a tile, in pixels. overlap: the share of a tile that the next one covers again.
    A pixel's probabilities are the weighted mean over the tiles that see it. A tile without any data is not predicted:
    each class has the same probability there. Each row is read once, in order. One row of tiles is in memory at a time:
    a band is overwritten when the next one is asked for.
    """
    height, width = size
    high, wide = min(side, height), min(side, width)
    tops = window_starts(height, high, overlap)
    weight = tile_weight(high, wide)
    total = torch.zeros(classes + 1, high, width)  # the last layer of it sums the weights
    pixels, missing = read_rows(0, high)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in window_starts(width, wide, overlap):
            columns = slice(left, left + wide)
            if missing is None or not missing[:, columns].all():
                total[:-1, :, columns] += predict(pixels[:, columns]).cpu() * weight
            else:
                total[:-1, :, columns] += weight / classes
            total[-1, :, columns] += weight
        done = min(following, top + high) - top
        total[:-1, :done] /= total[-1, :done]
        yield Band(top, total[:-1, :done], None if missing is None else missing[:done])
        if following == height:
            return
        for layer in total:  # one at a time: a copy of all would double the memory
            layer[: high - done] = layer[done:].clone()
            layer[high - done :] = 0
        new_pixels, new_missing = read_rows(top + high, following + high)
        pixels = np.concatenate([pixels[done:], new_pixels])
        missing = join_missing(missing, new_missing, pixels.shape[:2], len(new_pixels))


def join_missing(
    above: np.ndarray | None, new: np.ndarray | None, size: tuple[int, ...], new_rows: int
) -> np.ndarray | None:
    """Where (H, W) rows have no data: the last ones of `above`, then the new ones. None stands for data everywhere."""
    if above is None and new is None:
        return None
    joined = np.zeros(size, bool)
    kept = size[0] - new_rows
    if above is not None and kept:
        joined[:kept] = above[-kept:]
    if new is not None:
        joined[kept:] = new
    return joined
