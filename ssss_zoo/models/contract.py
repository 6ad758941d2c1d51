"""The base class of all networks. A model of the entry-point group `ssss_zoo.models` is a subclass, built as
`Model(settings: ModelConfig, num_classes: int)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Output


class Network(nn.Module, ABC):
    """A segmentation network in two halves, so that a method may change the features between them.

    source: the paper, one line for `ssss list`. feature_dim: D, the channels of `Output.features`. multiple: both
    sides of an image must be a multiple of it; the evaluation pads images where it is above 1. encoder: the pretrained
    half; all other parameters form the head. mean, std: (1, channels, 1, 1), saved with the weights.
    """

    source: ClassVar[str]
    feature_dim: int
    multiple: int = 1
    encoder: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """mean, std: one number per channel, in units of images in [0, 1]."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @abstractmethod
    def encode(self, image: Tensor) -> list[Tensor]:
        """The maps that `decode` reads. image: (B, channels, H, W) in [0, 1]; this method calls `normalise` on it."""

    @abstractmethod
    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Output:
        """logits (B, C, *size) and the decoder's last map (B, D, h, w), from `encode`'s maps or a changed copy."""

    def forward(self, image: Tensor) -> Output:
        """image: (B, channels, H, W) in [0, 1]. The logits have the size H x W."""
        height, width = image.shape[-2:]
        maps = self.encode(image)
        return replace(self.decode(maps, (height, width)), maps=tuple(maps))

    def normalise(self, image: Tensor) -> Tensor:
        """(image - mean) / std. Raises UserError for another number of channels, which might broadcast unnoticed."""
        if image.shape[1] != self.mean.shape[1]:
            raise UserError(
                f"the images have {image.shape[1]} channels, the network {self.mean.shape[1]}: set model.in_channels"
            )
        return (image - self.mean) / self.std

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters in two groups: `encoder` (pretrained) and `head` (new, so with a larger learning rate)."""
        encoder = list(self.encoder.parameters())
        known = {id(parameter) for parameter in encoder}
        return {"encoder": encoder, "head": [p for p in self.parameters() if id(p) not in known]}


def check_crop(network: Network, crop: tuple[int, int], name: str) -> None:
    """Raise UserError when a training crop (height, width) does not fit the network. name: its name in `model=`."""
    multiple = network.multiple
    if any(side % multiple for side in crop):
        nearest = "x".join(str(max(round(side / multiple), 1) * multiple) for side in crop)
        raise UserError(
            f"train.crop={crop[0]}x{crop[1]} does not fit model={name}: both sides must be multiples of {multiple}; "
            f"nearest: {nearest}"
        )
