"""Augmentation on the training device, a batch at a time: flips, strong photometric views, CutMix boxes and channel
dropout.

Images are float (B, channels, H, W) in [0, 1]. All draws take torch's global generators, which the engine seeds for
each step: the CPU's for gates, factors and boxes, the device's for channel dropout. No value is copied from the device
to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.toolkit.types import Perturbation

if TYPE_CHECKING:
    from ssss_zoo.config.schema import AugmentConfig

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
BOX_TRIES = 256  # a box of the largest area fits in about one try of twelve: 256 failures have a chance of 1e-9


def random_flip(tensors: tuple[Tensor, ...], chance: float = 0.5) -> tuple[Tensor, ...]:
    """Mirror some images left to right, each with probability `chance` (0.5 throughout the field).

    tensors: any that share B and end in W: image (B, channels, H, W), mask and validity (B, H, W), any dtype. One draw
    per image moves them together. Returns them in the same order, shapes and dtypes; the originals are not changed.
    """
    return flip(tensors, gated(tensors[0].shape[0], chance))


def flip(tensors: tuple[Tensor, ...], picked: Tensor) -> tuple[Tensor, ...]:
    """Mirror the images where `picked`, (B,) bool on the CPU, is True; tensors as in `random_flip`."""
    rows = picked.nonzero()[:, 0].to(tensors[0].device, non_blocking=True)
    return tuple(tensor.index_copy(0, rows, tensor[rows].flip(-1)) for tensor in tensors)


def gated(batch: int, chance: float) -> Tensor:
    """(B,) bool on the CPU: each True with probability `chance`."""
    return torch.rand(batch) < chance


@dataclass(frozen=True, eq=False)
class StrongDraw:
    """The random draws for one strong view of B images, on the CPU.

    jitter, grey, blur: (B,) bool, the images that get this operation. order: the four parts of the jitter as they are
    applied. factors: (4, B), by part: three multipliers, then the hue's shift in turns of the circle. sigma: (B,), in
    pixels.
    """

    jitter: Tensor
    grey: Tensor
    blur: Tensor
    order: tuple[int, ...]
    factors: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class Strong:
    """The strong photometric view of ST++, UniMatch and their FixMatch (numbers: UniMatch release, V1 and V2 alike).

    Per image: colour jitter with p = 0.8 (brightness, contrast, saturation times U(0.5, 1.5); hue shifted by U(-0.25,
    0.25) turns), then grey with p = 0.2, then Gaussian blur with p = 0.5 (sigma U(0.1, 2.0)). Contrast blends with the
    mean grey of the whole crop, padding included, as in the release.

    Known differences from the release, which works image by image on 8-bit PIL images: the order of the jitter's four
    parts is drawn once a batch; the blur is a Gaussian cut at three times the largest sigma (13 taps) where PIL takes
    three box filters, with the same repeated edge; nothing is rounded to 8 bits between operations.

    Images without exactly 3 channels have no colour: saturation, hue and grey are left out, though still drawn;
    brightness and contrast apply to all channels, contrast around the mean of them all.
    """

    settings: AugmentConfig

    def __call__(self, image: Tensor) -> Tensor:
        """image: (B, channels, H, W) float in [0, 1]. Returns a new tensor of that shape, float32 in [0, 1]; images
        that no gate picks are bit-identical."""
        return self.apply(image, self.draw(image.shape[0]))

    def draw(self, batch: int) -> StrongDraw:
        """Draw factors for every image, picked or not, so that a gate never changes another image's draw."""
        own = self.settings
        ranges = [(max(1 - spread, 0), 1 + spread) for spread in (own.brightness, own.contrast, own.saturation)]
        ranges.append((-own.hue, own.hue))
        return StrongDraw(
            jitter=gated(batch, own.jitter),
            grey=gated(batch, own.grey),
            blur=gated(batch, own.blur),
            order=tuple(torch.randperm(4).tolist()),
            factors=torch.stack([torch.empty(batch).uniform_(low, high) for low, high in ranges]),
            sigma=torch.empty(batch).uniform_(*own.blur_sigma),
        )

    def apply(self, image: Tensor, draw: StrongDraw) -> Tensor:
        """The view that `draw` describes; the same draw gives the same view. Raises TypeError for 8-bit images."""
        if not image.is_floating_point():
            raise TypeError(f"Strong expects float images in [0, 1], got {image.dtype}; divide 8-bit images by 255")
        with torch.autocast(image.device.type, enabled=False):  # a bfloat16 convolution would add visible noise
            return self.changed(image, draw)

    def changed(self, image: Tensor, draw: StrongDraw) -> Tensor:
        out = image.to(torch.float32, copy=True)
        own, colour = self.settings, out.shape[1] == 3
        spreads = (own.brightness, own.contrast, own.saturation * colour, own.hue * colour)
        parts = [part for part in draw.order if spreads[part] > 0]
        taps = 2 * int(3 * max(own.blur_sigma) + 0.5) + 1
        change_rows(out, draw.jitter, lambda images, rows: jitter(images, draw.factors[:, rows], parts))
        if colour:
            change_rows(out, draw.grey, lambda images, rows: to_grey(images))
        change_rows(out, draw.blur, lambda images, rows: blur(images, draw.sigma[rows], taps))
        return out


def change_rows(image: Tensor, gate: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace, in place, the images that `gate` (B,) bool on the CPU picks by `change(images, rows)`, cut to [0, 1].

    Only the picked images are computed: kornia's own `p` computes all of them and then selects.
    """
    rows = gate.nonzero()[:, 0]
    if len(rows) > 0:
        there = rows.to(image.device, non_blocking=True)
        image.index_copy_(0, there, change(image[there], rows).clamp(0, 1))


def jitter(image: Tensor, factors: Tensor, parts: Sequence[int]) -> Tensor:
    """Colour jitter by the formulas of kornia's ColorJitter (torchvision's; ColorJiggle has others), in order `parts`.

    image: (n, channels, H, W); factors: (4, n) as in `StrongDraw`. Each part cuts to [0, 1], as PIL does.
    """
    from kornia import enhance

    steps = {
        BRIGHTNESS: enhance.adjust_brightness_accumulative,
        CONTRAST: enhance.adjust_contrast_with_mean_subtraction,
        SATURATION: enhance.adjust_saturation_with_gray_subtraction,
        HUE: turn_hue,
    }
    for part in parts:
        image = steps[part](image, factors[part])
    return image


def turn_hue(image: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue; saturation and value stay. Kornia's `adjust_hue` to 2e-6, at a third of its time on a CPU.

    image: (n, 3, H, W) in [0, 1]; turns: (n,), 1 is once round the circle. With hue t in sixths of the circle, value v
    and chroma c, channel m = 5, 3, 1 is v - c * clip(min(k, 4 - k), 0, 1), k = (t + m) mod 6; no HSV image
    is made.
    """
    value, least = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    chroma = value - least
    divisor = torch.where(chroma == 0, 1.0, chroma)
    red, green, blue = image.split(1, dim=1)
    below = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(value == red, (green - blue) / divisor, below)
    sixths = sixths + 6 * turns.to(image.device, non_blocking=True).view(-1, 1, 1, 1)
    channel = 5 - 2 * torch.arange(3, device=image.device, dtype=image.dtype).view(1, 3, 1, 1)
    k = (sixths + channel).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def to_grey(image: Tensor) -> Tensor:
    """Three equal channels of 0.299 R + 0.587 G + 0.114 B (PIL's mode L). image: (n, 3, H, W)."""
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(image).expand_as(image)


def blur(image: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Gaussian blur, one sigma per image, in two passes of `taps` weights; the edge is repeated, so any size will do.

    image: (n, channels, H, W); sigma: (n,) > 0, in pixels, on the CPU (kornia reads its sign).
    """
    from kornia.filters import gaussian_blur2d

    return gaussian_blur2d(image, taps, sigma[:, None].expand(-1, 2), border_type="replicate", separable=True)


def random_boxes(
    batch: int,
    height: int,
    width: int,
    chance: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    redraw: bool = False,
) -> Tensor:
    """One CutMix box per image, as in the UniMatch release (FixMatch, UniMatch V1 and V2; all numbers are from it).

    With probability 1 - chance the box is empty. Else its area is drawn once, as a share of the image; the ratio
    height / width (uniform, not log-uniform) and the corner are drawn again until the box fits. redraw: draw the area
    again too, which favours small boxes (the cut-out of ST++'s release).
    Returns (batch, 1, 4) int64 on the CPU: top, left, bottom, right, half open; zeros where empty, and where nothing
    fits in `BOX_TRIES` tries (tiny or very long images).
    """
    picked = gated(batch, chance)
    pixels = torch.empty(batch, BOX_TRIES if redraw else 1).uniform_(*area) * (height * width)
    ratio = torch.empty(batch, BOX_TRIES).uniform_(*aspect)
    tall, wide = (pixels * ratio).sqrt().long(), (pixels / ratio).sqrt().long()
    top, left = torch.randint(height, ratio.shape), torch.randint(width, ratio.shape)
    fits = (top + tall <= height) & (left + wide <= width) & (tall > 0) & (wide > 0)
    first = fits.int().argmax(dim=1)  # the first maximum, so the first try that fits
    tries = torch.stack([top, left, top + tall, left + wide], dim=-1)  # (B, tries, 4)
    boxes = tries[torch.arange(batch), first] * (picked & fits.any(dim=1)).unsqueeze(1)
    return boxes.unsqueeze(1)


def box_mask(boxes: Tensor, height: int, width: int, device: torch.device | str) -> Tensor:
    """(B, H, W) bool on `device`, True inside the boxes. Boxes of one image toggle: pixels where two overlap are False.

    boxes: (B, n, 4) int64 as in `CutMix`; n may be 0.
    """
    top, left, bottom, right = boxes.to(device, non_blocking=True).unsqueeze(-1).unbind(dim=2)  # each (B, n, 1)
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # (B, n, H), (B, n, W)
    mask = torch.zeros(boxes.shape[0], height, width, dtype=torch.bool, device=device)
    for k in range(boxes.shape[1]):
        mask ^= rows[:, k, :, None] & columns[:, k, None, :]
    return mask


def paste(image: Tensor, partner: Tensor, box: Tensor) -> Tensor:
    """`partner` where `box` is True, `image` elsewhere. box: (B, H, W) bool; the others (B, ..., H, W), of one shape
    and dtype."""
    wide = box.reshape(box.shape[0], *(1,) * (image.dim() - 3), *box.shape[1:])
    return torch.where(wide, partner, image)


def channel_dropout(probability: float = 0.5) -> Perturbation:
    """UniMatch's feature perturbation (release: p = 0.5): whole channels become 0, survivors are scaled by 1 / (1 - p).

    Returns a function over a list of maps (B, D, h, w); each image, channel and map is drawn independently.
    """

    def perturb(maps: list[Tensor]) -> list[Tensor]:
        return [F.dropout2d(level, probability, training=True) for level in maps]

    return perturb
