"""AugSeg's intensity policy (Zhao et al., CVPR 2023): a random number of operations, each of random strength.

Each operation runs on the device for its group of images. Random values are drawn on the CPU, so nothing waits for the
device. The operations are PIL's on floats, without rounding to 8 bits between them. Some are written here because
kornia lacks them (autocontrast), truncates to 8 bits instead of rounding (equalise, posterise), or needs 3 x 3 pixels
(sharpness).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.toolkit.augment import blur, to_grey, turn_hue

LEVELS = 255.0
BLUR_TAPS = 13  # three times the largest sigma, 2.0, on either side


@dataclass(frozen=True, eq=False)
class IntensityDraw:
    """What chance decides about B images, on the CPU. count: (B,) how many operations each gets; choice: (most, B)
    which, by turn; strength: (most, B) in [0, 1]."""

    count: Tensor
    choice: Tensor
    strength: Tensor


@dataclass(frozen=True)
class RandomIntensity:
    """For each image k ~ uniform {1, ..., most} of eleven operations, drawn with replacement, applied in turn (release
    7ead870: most = 3)."""

    most: int = 3

    def __call__(self, image: Tensor) -> Tensor:
        """Draw and apply at once."""
        return self.apply(image, self.draw(len(image)))

    def draw(self, images: int) -> IntensityDraw:
        """Operations and strengths for every image and turn, used or not."""
        return IntensityDraw(
            count=torch.randint(1, self.most + 1, (images,)),
            choice=torch.randint(len(OPERATIONS), (self.most, images)),
            strength=torch.rand(self.most, images),
        )

    def apply(self, image: Tensor, draw: IntensityDraw) -> Tensor:
        """image: (B, channels, H, W) float in [0, 1]. Returns a new tensor of that shape, float32 in [0, 1]. Images
        without exactly 3 channels have no colour: saturation and hue leave them alone."""
        if not image.is_floating_point():
            raise TypeError(f"RandomIntensity expects float images in [0, 1], got {image.dtype}; divide by 255")
        with torch.autocast(image.device.type, enabled=False):
            out = image.to(torch.float32, copy=True)
            for turn in range(self.most):
                for number, (operation, needs_colour) in enumerate(OPERATIONS.values()):
                    rows = ((draw.choice[turn] == number) & (turn < draw.count)).nonzero()[:, 0]
                    if len(rows) and (image.shape[1] == 3 or not needs_colour):
                        there = rows.to(image.device, non_blocking=True)
                        out.index_copy_(0, there, operation(out[there], draw.strength[turn, rows]).clamp(0, 1))
        return out


def across(values: Tensor, image: Tensor) -> Tensor:
    """(n,) on the CPU to (n, 1, 1, 1) beside the image."""
    return values.to(image, non_blocking=True).view(-1, 1, 1, 1)


def blend(image: Tensor, other: Tensor, u: Tensor) -> Tensor:
    """PIL's enhancers: other + factor * (image - other), factor = 0.05 + 0.9 u, so always weaker (release)."""
    return other + across(0.05 + 0.9 * u, image) * (image - other)


def identity(image: Tensor, u: Tensor) -> Tensor:
    return image


def autocontrast(image: Tensor, u: Tensor) -> Tensor:
    """Each channel stretched to [0, 1]; a flat one stays, also where a blur before has left rounding errors in it."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    span = high - low
    flat = span < 0.5 / LEVELS
    return torch.where(flat, image, (image - low) / torch.where(flat, 1.0, span))


def equalise(image: Tensor, u: Tensor) -> Tensor:
    """PIL's equalisation of each channel's histogram, on 256 levels; a channel of one level stays."""
    levels = (image * LEVELS).round().long().flatten(2)  # (n, channels, H * W)
    counts = torch.zeros(*levels.shape[:2], 256, device=image.device, dtype=torch.int64)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = (counts * (torch.arange(256, device=image.device) == levels.amax(2, keepdim=True))).sum(2, keepdim=True)
    step = (levels.shape[2] - last) // LEVELS  # of all pixels but those of the highest level, as PIL has it
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, device=image.device, dtype=table.dtype))
    return (table.gather(2, levels) / LEVELS).view_as(image)


def blurred(image: Tensor, u: Tensor) -> Tensor:
    """Gaussian, sigma ~ U(0.1, 2.0) pixels."""
    return blur(image, 0.1 + 1.9 * u, BLUR_TAPS)


def contrast(image: Tensor, u: Tensor) -> Tensor:
    """Towards the mean grey of the whole image."""
    shade = to_grey(image)[:, :1] if image.shape[1] == 3 else image.mean(1, keepdim=True)
    return blend(image, shade.mean((2, 3), keepdim=True), u)


def brightness(image: Tensor, u: Tensor) -> Tensor:
    return blend(image, torch.zeros_like(image), u)


def saturation(image: Tensor, u: Tensor) -> Tensor:
    return blend(image, to_grey(image), u)


def sharpness(image: Tensor, u: Tensor) -> Tensor:
    """Towards PIL's SMOOTH: the 3x3 mean with the middle counting five times; the border pixels stay."""
    channels = image.shape[1]
    kernel = torch.ones(3, 3, device=image.device)
    kernel[1, 1] = 5.0
    smooth = image.clone()
    if min(image.shape[-2:]) > 2:
        weight = (kernel / 13).expand(channels, 1, 3, 3)
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(image, weight, groups=channels)
    return blend(image, smooth, u)


def posterise(image: Tensor, u: Tensor) -> Tensor:
    """Keep 8 - max(1, ceil(4 u)) of 8 bits: 4 to 7."""
    step = across(2 ** (4 * u).ceil().clamp(min=1), image)
    return ((image * LEVELS).round() / step).floor() * step / LEVELS


def solarise(image: Tensor, u: Tensor) -> Tensor:
    """Invert levels from 256 - max(1, ceil(255 u)) on: a threshold of 1 to 255."""
    threshold = across(256 - (LEVELS * u).ceil().clamp(min=1), image)
    return torch.where((image * LEVELS).round() < threshold, image, 1 - image)


def hue(image: Tensor, u: Tensor) -> Tensor:
    """Shift by up to half of the hue circle, either way."""
    return turn_hue(image, u - 0.5)


OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {  # and whether it needs colour
    "identity": (identity, False),
    "autocontrast": (autocontrast, False),
    "equalise": (equalise, False),
    "blur": (blurred, False),
    "contrast": (contrast, False),
    "brightness": (brightness, False),
    "saturation": (saturation, True),
    "sharpness": (sharpness, False),
    "posterise": (posterise, False),
    "solarise": (solarise, False),
    "hue": (hue, True),
}
