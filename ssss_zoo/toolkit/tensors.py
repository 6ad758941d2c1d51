"""Operations on tensors that networks, methods and evaluation share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Corner-aligned bilinear resizing of (B, D, h, w) maps to `size`, height and width."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
