"""CutMix boxes of CutMix-Seg, CPS, U2PL and AugSeg; UniMatch's are `augment.random_boxes`.

All return (B, n, 4) int64 on the CPU: top, left, bottom, right, half open, inside the image, and draw from torch's CPU
generator.
"""

from __future__ import annotations

import torch
from torch import Tensor


def toggled_boxes(batch: int, height: int, width: int, count: int, area: tuple[float, float]) -> Tensor:
    """CutMix-Seg's boxes (French et al., 2020): `count` an image, overlaps toggle.

    For each box a share q ~ U(area) of the image and u ~ U(0, 1): height q^u and width q^(1 - u), both times
    sqrt(1 / count); sizes and places are rounded, places uniform where the box fits. CutMix-Seg: one box of half the
    image, up to rounding; CPS with CutMix: three with q in (0.25, 0.5). Returns (batch, count, 4), no gate.
    """
    share = torch.empty(batch, count).uniform_(*area)
    tall = share.pow(torch.rand(batch, count))
    sizes = torch.stack([tall, share / tall], dim=-1) * (1 / count) ** 0.5  # (B, n, 2)
    sides = (sizes * torch.tensor([height, width])).round()
    corner = (torch.rand(batch, count, 2) * (torch.tensor([height, width]) - sides)).round()
    return torch.cat([corner, corner + sides], dim=-1).long()


def half_boxes(batch: int, height: int, width: int, chance: float = 0.5) -> Tensor:
    """U2PL's boxes (release): one coin for the whole batch; each image a box of half its area.

    Width: a whole number drawn uniformly from (W / 2, W); height: H * W / 2 / width, rounded; any place where it fits.
    Returns (batch, 1, 4); zeros for all images with probability 1 - chance.
    """
    if torch.rand(()) >= chance:
        return torch.zeros(batch, 1, 4, dtype=torch.int64)
    wide = torch.randint(min(width // 2 + 1, width), max(width, width // 2 + 2), (batch,)).clamp(max=width)
    tall = (0.5 * height * width / wide).round().long().clamp(1, height)
    top = (torch.rand(batch) * (height - tall + 1)).long()
    left = (torch.rand(batch) * (width - wide + 1)).long()
    return torch.stack([top, left, top + tall, left + wide], dim=-1).unsqueeze(1)


def centred_boxes(batch: int, height: int, width: int, beta: tuple[float, float]) -> Tensor:
    """AugSeg's boxes (release 7ead870): one size for the batch, a centre for each image, cut off at the border.

    Both sides are sqrt(1 - lambda) of the image's with lambda ~ Beta(beta), in the release (8, 2) for labelled pixels
    and (4, 4) for the mix; centres are uniform over [1/8, 1) of a side. Returns (batch, 1, 4), no gate; a box may be
    empty where its half rounds to 0 pixels.
    """
    side = (1 - torch.distributions.Beta(float(beta[0]), float(beta[1])).sample()).sqrt()
    whole = torch.tensor([height, width])
    half = (side * whole).long() // 2
    centre = ((1 / 8 + 7 / 8 * torch.rand(batch, 2)) * whole).long()
    corners = [(centre + sign * half).clamp(min=0).minimum(whole) for sign in (-1, 1)]
    return torch.cat(corners, dim=-1).unsqueeze(1)
