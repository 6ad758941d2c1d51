"""The slow yardstick: the release's strong view, one 8-bit PIL image at a time, beside `augment.Strong` on one draw.

The pictures are scenes of the embedded data set. Bounds are grey levels of 255, set a little above what was measured:
PIL cuts off the fraction after each step, half a level in the mean, so up to two for the four parts of the jitter.
The statistics of the draws are in `test_augment.py`, the weak view against PIL in `data/test_stream.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from ssss_zoo.config.schema import AugmentConfig
from ssss_zoo.data.benchmarks.shapes_scene import draw_scene
from ssss_zoo.toolkit.augment import BRIGHTNESS, CONTRAST, HUE, SATURATION, Strong, StrongDraw

MANY = 6


@cache
def scenes() -> Tensor:
    """(MANY, 3, 96, 128) float; the last one has the black padding of a crop at its right and bottom."""
    pictures = np.stack([draw_scene("train", index).image for index in range(MANY)])
    image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    image[-1, :, 70:], image[-1, :, :, 100:] = 0, 0
    return image


def nothing(**changes: object) -> StrongDraw:
    off = torch.zeros(MANY, dtype=torch.bool)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).unsqueeze(1).repeat(1, MANY)
    return replace(StrongDraw(off, off, off, (0, 1, 2, 3), factors, torch.ones(MANY)), **changes)


def turned(picture: Image.Image, turns: float) -> Image.Image:
    """torchvision's hue for PIL images: the H of HSV, in 256 steps, wraps."""
    hsv = np.array(picture.convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(int) + int(turns * 255)) % 256
    return Image.fromarray(hsv, "HSV").convert("RGB")


PARTS = {
    BRIGHTNESS: lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    CONTRAST: lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    SATURATION: lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    HUE: turned,
}


def slow(pixels: np.ndarray, draw: StrongDraw, row: int) -> np.ndarray:
    """The view of one image, (H, W, 3) uint8 to uint8, every step rounded to 8 bits."""
    picture = Image.fromarray(pixels)
    if draw.jitter[row]:
        for part in draw.order:
            picture = PARTS[part](picture, float(draw.factors[part, row]))
    if draw.grey[row]:
        picture = picture.convert("L").convert("RGB")
    if draw.blur[row]:
        picture = picture.filter(ImageFilter.GaussianBlur(float(draw.sigma[row])))
    return np.asarray(picture)


def apart(draw: StrongDraw) -> Tensor:
    """Grey levels between the two, (MANY, H, W, 3)."""
    fast = Strong(AugmentConfig()).apply(scenes(), draw).permute(0, 2, 3, 1) * 255
    pixels = (scenes() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return (fast - torch.from_numpy(np.stack([slow(pixels[row], draw, row) for row in range(MANY)]))).abs()


def everyone() -> Tensor:
    return torch.ones(MANY, dtype=torch.bool)


def test_the_pictures_are_pictures_and_no_operation_means_no_difference():
    assert scenes().std(dim=(2, 3)).min() > 0.05
    assert apart(nothing()).max() < 1e-4


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.3, 1.5])
@pytest.mark.parametrize("part", [BRIGHTNESS, CONTRAST, SATURATION])
def test_a_part_of_the_jitter_is_within_a_level_and_a_half(part, factor):
    """PIL's contrast rounds the mean grey besides, its saturation the grey of each pixel. Measured: 1.07 at most."""
    draw = nothing(jitter=everyone(), order=(part,))
    draw.factors[part] = factor
    assert apart(draw).max() < 1.5
    assert apart(draw).mean() < 0.6


@pytest.mark.parametrize("turns", [-0.25, -0.1, 0.07, 0.25])
def test_hue_is_within_the_steps_of_eight_bits(turns):
    """PIL keeps hue and saturation in 256 steps: a bright colour moves by up to six levels a step of hue.
    Measured: 0.66 in the mean, 11.0 at most."""
    draw = nothing(jitter=everyone(), order=(HUE,))
    draw.factors[HUE] = turns
    assert apart(draw).mean() < 1
    assert apart(draw).max() < 13


def test_grey_is_within_a_level():
    assert apart(nothing(grey=everyone())).max() < 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_within_a_few_levels_at_edges_and_one_in_the_mean(sigma):
    """PIL's Gaussian is three boxes. Measured: 0.63 in the mean, 9.3 at most, at the edges."""
    difference = apart(nothing(blur=everyone(), sigma=torch.full((MANY,), sigma)))
    assert difference.mean() < 0.75
    assert difference.max() < 11


@pytest.mark.parametrize("order", list(permutations(range(4)))[::5])
def test_the_jitter_in_any_order_is_within_rounding(order):
    """Measured: 1.77 in the mean, 17.7 at most."""
    torch.manual_seed(sum(4**place * part for place, part in enumerate(order)))
    draw = replace(Strong(AugmentConfig()).draw(MANY), order=order)
    draw = replace(draw, jitter=everyone(), grey=~everyone(), blur=~everyone())
    assert apart(draw).mean() < 2
    assert apart(draw).max() < 21


def test_the_order_of_the_parts_matters_more_than_the_bounds():
    draw = nothing(jitter=everyone())
    draw.factors[:] = torch.tensor([1.5, 0.5, 1.5, 0.25]).unsqueeze(1)
    view = Strong(AugmentConfig())
    other = (view.apply(scenes(), draw) - view.apply(scenes(), replace(draw, order=(3, 2, 1, 0)))).abs() * 255
    assert other.mean() > 3


def test_the_whole_chain_is_within_rounding():
    """Measured: 1.34 in the mean, 2.46 in the worst image, 14.9 at most."""
    torch.manual_seed(0)
    seen, means, greatest = [], [], []
    for _ in range(12):
        draw = Strong(AugmentConfig()).draw(MANY)
        difference = apart(draw)
        seen += [(draw.jitter & draw.grey & draw.blur).any()]
        means.append(difference.mean(dim=(1, 2, 3)))
        greatest.append(difference.amax())
    assert any(seen)  # the chain was whole at least once
    assert torch.cat(means).mean() < 1.5
    assert torch.cat(means).max() < 3
    assert max(greatest) < 18
