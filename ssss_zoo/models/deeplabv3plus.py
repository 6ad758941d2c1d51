"""DeepLabV3+ (Chen et al., 2018, arXiv 1802.02611) as UniMatch trains it, on any timm encoder that can be dilated.

With `resnet50_deep_stem` or `resnet101_deep_stem` at output stride 16 it is UniMatch's network: 40.476 M and
59.468 M parameters at 21 classes. Bilinear resizing is corner-aligned; the head keeps PyTorch's default initialisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.errors import UserError
from ssss_zoo.models.contract import Network
from ssss_zoo.models.encoders import make_encoder
from ssss_zoo.toolkit.tensors import resize
from ssss_zoo.toolkit.types import Output

if TYPE_CHECKING:
    from ssss_zoo.config.schema import ModelConfig

LOW_STRIDE = 4  # stride of the low-level map that the decoder reads; Chen et al., section 3.1


class DeepLabV3Plus(Network):
    """Encoder, atrous spatial pyramid on its deepest map, decoder at stride 4.

    `encode` gives [low (B, D_low, H/4, W/4), deep (B, D_deep, H/s, W/s)], s the output stride; feature_dim is
    `model.channels`. Encoders with padding, such as ResNets and EfficientNets, take any image size, even one pixel;
    patch stems such as ConvNeXt's need 4 by 4. In train mode BatchNorm needs two values per channel: a batch of one
    image must then be larger than one cell of the deep map, or torch raises ValueError.
    """

    source: ClassVar[str] = "DeepLabV3+ (Chen et al., 2018, arXiv 1802.02611), as in UniMatch (arXiv 2208.09910)"

    def __init__(self, settings: ModelConfig, num_classes: int) -> None:
        """Raises UserError for settings that do not fit the encoder or each other."""
        encoder, mean, std = make_encoder(settings)
        super().__init__(mean, std)
        self.encoder = encoder
        self.feature_dim = width = settings.channels
        self.low_level = pick_low_level(settings.encoder, encoder.feature_info.reduction())
        low, deep = (encoder.feature_info.channels()[index] for index in (self.low_level, -1))
        rates = list(settings.rates) or default_rates(settings.output_stride)
        self.pyramid = Pyramid(deep, width, rates, settings.dropout, settings.separable)
        self.reduce = conv_norm_act(low, settings.low_level_channels, 1)
        self.fuse = nn.Sequential(
            conv_norm_act(settings.low_level_channels + width, width, 3, separable=settings.separable),
            conv_norm_act(width, width, 3, separable=settings.separable),
        )
        self.classify = nn.Conv2d(width, num_classes, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        maps = self.encoder(self.normalise(image))
        return [maps[self.low_level], maps[-1]]

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Output:
        low, deep = features
        context = resize(self.pyramid(deep), low.shape[-2:])
        last = self.fuse(torch.cat([self.reduce(low), context], dim=1))
        return Output(resize(self.classify(last), size), last)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, one 3x3 convolution per rate and the image's mean are
    concatenated and projected to `width`; then channel dropout (0 in UniMatch, 0.5 in ST++). Maps (B, inputs, h, w) to
    (B, width, h, w)."""

    def __init__(self, inputs: int, width: int, rates: list[int], dropout: float, separable: bool) -> None:
        super().__init__()
        dilated = [conv_norm_act(inputs, width, 3, rate, separable) for rate in rates]
        self.branches = nn.ModuleList([conv_norm_act(inputs, width, 1), *dilated])
        self.pooled = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), PooledNorm(width), nn.ReLU(inplace=True))
        self.project = conv_norm_act((len(rates) + 2) * width, width, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, deep: Tensor) -> Tensor:
        mean = self.pooled(deep.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *deep.shape[-2:])
        maps = [branch(deep) for branch in self.branches]
        return self.dropout(self.project(torch.cat([*maps, mean], dim=1)))


class PooledNorm(nn.BatchNorm2d):
    """BatchNorm of the pooled branch, (B, D, 1, 1). A batch of one image has one value per channel and so no variance:
    it is normalised with the running statistics, in train mode too, and does not update them. This is our choice; the
    papers train with more than one image."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[0] * input.shape[2] * input.shape[3] > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def conv_norm_act(inputs: int, outputs: int, kernel: int, dilation: int = 1, separable: bool = False) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU, at the input's size. separable: a depthwise convolution,
    then a 1x1 one."""
    padding = dilation * (kernel // 2)
    if separable:
        depthwise = nn.Conv2d(inputs, inputs, kernel, 1, padding, dilation, groups=inputs, bias=False)
        convolutions = [depthwise, nn.Conv2d(inputs, outputs, 1, bias=False)]
    else:
        convolutions = [nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, bias=False)]
    return nn.Sequential(*convolutions, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def default_rates(output_stride: int) -> list[int]:
    """6, 12, 18 at output stride 16, twice that at 8 (Chen et al., 2017, arXiv 1706.05587); half at 32: our choice."""
    step = 96 // output_stride
    return [step, 2 * step, 3 * step]


def pick_low_level(name: str, reductions: list[int]) -> int:
    """Index of the encoder's last map at stride 4. Raises UserError when it has none."""
    at_stride = [index for index, reduction in enumerate(reductions) if reduction == LOW_STRIDE]
    if not at_stride:
        raise UserError(f"model.encoder={name} has no map at stride {LOW_STRIDE} (it has {reductions}): choose another")
    return at_stride[-1]
