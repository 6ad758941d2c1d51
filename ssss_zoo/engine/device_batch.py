"""A raw batch on the training device: floats in [0, 1], flipped, image and mask together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssss_zoo.toolkit.augment import flip
from ssss_zoo.toolkit.types import Batch, Labelled, RawBatch, RawUnlabelled, Unlabelled


def to_device(raw: RawBatch, flips: Mapping[str, Tensor], device: torch.device, channels_last: bool) -> Batch:
    """flips: (B,) bool by stream, the images to mirror. Copies from pinned memory run beside the host."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    def weak(stream: RawUnlabelled | None, name: str) -> Unlabelled | None:
        if stream is None:
            return None
        return Unlabelled(*flip((floats(stream.image, device, channels_last), moved(stream.valid)), flips[name]))

    pixels = floats(raw.labelled.image, device, channels_last)
    image, mask = flip((pixels, moved(raw.labelled.mask).long()), flips["labelled"])
    hidden = None
    if raw.unlabelled and raw.hidden is not None:
        (hidden,) = flip((moved(raw.hidden).long(),), flips["unlabelled"])
    labelled = Labelled(image, mask, raw.labelled.pseudo)
    return Batch(labelled, weak(raw.unlabelled, "unlabelled"), weak(raw.partner, "partner"), hidden)


def floats(image: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """8-bit images (B, channels, H, W) as floats in [0, 1] on the device."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return image.to(device, non_blocking=True).float().div_(255).contiguous(memory_format=layout)
