"""Large images in overlapping tiles, whose probabilities are blended smoothly, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.evaluation.evaluator import window_starts

TILE_SIDE = 1024  # pixels, where memory allows (our choice)
TILE_SIDE_MIN = 256  # pixels (our choice)
BAND_BYTES = 192 * 2**20  # of the probabilities of a row of tiles (our choice)
EDGE_WEIGHT = 1e-3  # of a tile's outermost pixel, above 0 so that a lone tile counts there
PredictTile = Callable[[np.ndarray], Tensor]  # (H, W, channels) -> probabilities (C, H, W)
ReadWindow = Callable[[int, int], np.ndarray]  # first and last row, exclusive -> (rows, W, channels)


def choose_tile_side(width: int, classes: int) -> int:
    """The largest tile, halved from TILE_SIDE, for which a row of tiles takes at most BAND_BYTES."""
    side = TILE_SIDE
    while side > TILE_SIDE_MIN and side * width * classes * 4 > BAND_BYTES:
        side //= 2
    return side


def tile_weight(height: int, width: int) -> Tensor:
    """(H, W): the weight of each pixel of a tile, highest in its centre, a product of two raised cosines."""
    rows, columns = (torch.hann_window(side + 2, periodic=False)[1:-1] + EDGE_WEIGHT for side in (height, width))
    return rows[:, None] * columns[None]


def blend_tiles(
    read_rows: ReadWindow, size: tuple[int, int], side: int, overlap: float, predict: PredictTile
) -> Iterator[tuple[int, Tensor]]:
    """Bands of an image from top to bottom: the first row and the probabilities (C, rows, W), on the CPU.

    size: (H, W) of the image. side: of a tile, in pixels. overlap: the share of a tile that the next one covers again.
    A pixel's probabilities are the weighted mean over the tiles that see it. One row of tiles is in memory at a time: a
    band is overwritten when the next one is asked for.
    """
    height, width = size
    high, wide = min(side, height), min(side, width)
    tops = window_starts(height, high, overlap)
    weight = tile_weight(high, wide)
    total = torch.empty(0)
    for number, top in enumerate(tops):
        pixels = read_rows(top, top + high)
        for left in window_starts(width, wide, overlap):
            probs = predict(pixels[:, left : left + wide]).cpu()
            if not len(total):
                total = torch.zeros(probs.shape[0] + 1, high, width)  # the last row of it sums the weights
            total[:-1, :, left : left + wide] += probs * weight
            total[-1, :, left : left + wide] += weight
        following = tops[number + 1] if number + 1 < len(tops) else height
        done = min(following, top + high) - top
        total[:-1, :done] /= total[-1, :done]
        yield top, total[:-1, :done]
        for layer in total:  # one at a time: a copy of all would double the memory
            layer[: high - done] = layer[done:].clone()
            layer[high - done :] = 0
