"""Operations on tensors that networks, methods and evaluation share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Corner-aligned bilinear resizing of (B, D, h, w) maps to `size`, height and width."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def next_multiple(side: int, multiple: int) -> int:
    """The side, rounded up to a multiple. It is written as the multiple times a whole number, which torch.export can
    divide without conditions."""
    return multiple * ((side + multiple - 1) // multiple)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """The image (B, channels, H, W) with its last row and column repeated until both sides are multiples."""
    height, width = image.shape[-2:]
    missing = (0, next_multiple(width, multiple) - width, 0, next_multiple(height, multiple) - height)
    return F.pad(image, missing, mode="replicate")


def crop_corner(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """The upper left corner of (B, D, h, w) maps, of `size`, height and width. torch.export would fix whether a slice
    leaves something out to what it is for the image that it traces."""
    height, width = size
    if torch.compiler.is_exporting():
        return maps.index_select(-2, torch.arange(height)).index_select(-1, torch.arange(width))
    return maps[..., :height, :width]
