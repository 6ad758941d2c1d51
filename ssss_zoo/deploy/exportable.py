"""A network in the form that exporters take: images in their files' range in, logits or class ids of that size out."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.toolkit.tensors import crop_corner, pad_to_multiple, resize


class Exportable(nn.Module):
    """Images (B, channels, H, W) of any size in [0, value_range] to logits (B, C, H, W) float32, or with `argmax` to
    class ids (B, H, W) int64.

    network: normalises its images itself. fit: how an image gets a size that the network takes, as `evaluate.fit`; the
    logits are cropped or resized back. half: the network computes in float16; images stay float32.
    """

    def __init__(
        self, network: nn.Module, *, value_range: float = 255.0, fit: str = "pad", argmax: bool = False,
        half: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        traceable = with_traceable_convolutions(copy.deepcopy(network).cpu().eval())
        self.network = traceable.half() if half else traceable
        self.multiple = int(getattr(network, "multiple", 1))
        self.value_range = value_range
        self.fit = fit
        self.argmax = argmax
        self.half_precision = half

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        fitted = self.fit_sides(image / self.value_range)
        logits = self.network(fitted.half() if self.half_precision else fitted).logits.float()
        if self.fit == "resize" and self.multiple > 1:
            logits = resize(logits, (height, width))
        else:
            logits = crop_corner(logits, (height, width))
        return logits.argmax(dim=1) if self.argmax else logits

    def fit_sides(self, image: Tensor) -> Tensor:
        """The image with sides that are multiples of the network's."""
        height, width = image.shape[-2:]
        multiple = self.multiple
        if multiple == 1:
            return image
        if self.fit == "resize":
            rows = torch.sym_max(1, (2 * height + multiple) // (2 * multiple))
            columns = torch.sym_max(1, (2 * width + multiple) // (2 * multiple))
            return resize(image, (multiple * rows, multiple * columns))  # type: ignore[arg-type]  # sizes of a traced image
        return pad_to_multiple(image, multiple)


class SameConvolution(nn.Module):
    """timm's convolution of stride 2 with TensorFlow's `same` padding, for odd kernels.

    timm computes the padding by a maximum over sizes, and torch.export then needs minutes for a network of several.
    Here the sum of side and padding is twice a whole number plus a constant. The results are equal.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, image: Tensor) -> Tensor:
        convolution = self.convolution
        tall, wide = convolution.kernel_size
        height, width = image.shape[-2:]
        above = 2 * ((height + 1) // 2) - height + (tall - 3) // 2
        left = 2 * ((width + 1) // 2) - width + (wide - 3) // 2
        padded = F.pad(image, (left, (wide - 1) // 2, above, (tall - 1) // 2))
        return F.conv2d(padded, convolution.weight, convolution.bias, 2, 0, 1, convolution.groups)


def with_traceable_convolutions(network: Any) -> Any:
    """The network, with `SameConvolution` in place of each of timm's convolutions that it stands for."""
    from timm.layers import Conv2dSame

    for name, module in list(network.named_modules()):
        halves = isinstance(module, Conv2dSame) and module.stride == (2, 2) and module.dilation == (1, 1)
        if halves and all(side % 2 and side >= 3 for side in module.kernel_size):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, SameConvolution(module))
    return network
