"""Each operation by hand or by PIL, the statistics of the draws, and the laws of boxes and partners."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.config.schema import AugmentConfig
from ssss_zoo.toolkit.augment import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Strong,
    StrongDraw,
    box_mask,
    channel_dropout,
    paste,
    random_boxes,
    random_flip,
    turn_hue,
)

GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def strong(**changes: Any) -> Strong:
    return Strong(replace(AugmentConfig(), **changes))


def draw(batch: int, **changes: Any) -> StrongDraw:
    """A draw that does nothing, but for `changes`."""
    off = torch.zeros(batch, dtype=torch.bool)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).unsqueeze(1).repeat(1, batch)
    nothing = StrongDraw(off, off, off, order=(0, 1, 2, 3), factors=factors, sigma=torch.ones(batch))
    return replace(nothing, **changes)


def jittered(image: Tensor, part: int, factor: float) -> Tensor:
    """The image after one part of the jitter alone."""
    here = draw(len(image), jitter=torch.ones(len(image), dtype=torch.bool), order=(part,))
    here.factors[part] = factor
    return strong().apply(image, here)


def scene(batch: int = 2, height: int = 48, width: int = 64) -> Tensor:
    """Smooth colour, sharp discs and stripes, 8-bit values: what a photograph asks of an operation."""
    y = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    phase = torch.arange(batch * 3).view(batch, 3, 1, 1).float()
    image = 0.5 + 0.3 * torch.sin(7 * x + phase) * torch.cos(5 * y + 2 * phase)
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.04).expand(batch, 3, -1, -1)
    image = torch.where(disc, torch.rand(batch, 3, 1, 1), image)
    image = torch.where((x > 0.8) & ((y * 12).long() % 2 == 0), torch.rand(batch, 3, 1, 1), image)
    image[:, :, :, -4:] = 0.0  # the black padding of a crop
    return (image.clamp(0, 1) * 255).round() / 255


# -- flip --------------------------------------------------------------------------------------------------------------


def test_flip_moves_image_mask_and_validity_together():
    mask = torch.randint(0, 21, (64, 6, 7))
    mask[:, :, -1] = 255
    image, valid = mask.unsqueeze(1) / 255, mask != 255
    before = image.clone(), mask.clone(), valid.clone()
    flipped_image, flipped_mask, flipped_valid = random_flip((image, mask, valid), 0.5)
    assert (flipped_image.dtype, flipped_mask.dtype, flipped_valid.dtype) == (torch.float32, torch.int64, torch.bool)
    assert torch.equal((flipped_image[:, 0] * 255).round().long(), flipped_mask)
    assert torch.equal(flipped_mask != 255, flipped_valid)
    mirrored = (flipped_mask[:, :, 0] == 255).all(dim=1)
    assert torch.equal(flipped_mask[mirrored], mask[mirrored].flip(-1))
    assert torch.equal(flipped_mask[~mirrored], mask[~mirrored])
    assert 10 < mirrored.sum() < 54
    assert all(torch.equal(old, new) for old, new in zip(before, (image, mask, valid), strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float32])
def test_flip_keeps_the_dtype_and_obeys_a_sure_chance(dtype):
    tensor = torch.randint(0, 2, (3, 2, 5)).to(dtype)
    (always,) = random_flip((tensor,), 1.0)
    (never,) = random_flip((tensor,), 0.0)
    assert always.dtype == never.dtype == dtype
    assert torch.equal(always, tensor.flip(-1))
    assert torch.equal(never, tensor)


# -- strong view: each operation alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_brightness_multiplies(factor):
    image = scene()
    assert torch.equal(jittered(image, BRIGHTNESS, factor), (image * factor).clamp(0, 1))


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_contrast_blends_with_the_mean_grey_of_each_crop(factor):
    image = scene()
    mean = (image * GREY).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    assert_close(jittered(image, CONTRAST, factor), (mean + factor * (image - mean)).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_saturation_blends_with_the_grey_of_each_pixel(factor):
    image = scene()
    shade = (image * GREY).sum(dim=1, keepdim=True)
    assert_close(jittered(image, SATURATION, factor), (shade + factor * (image - shade)).clamp(0, 1), atol=1e-6, rtol=0)


def test_hue_turns_red_into_green_into_blue_and_keeps_grey():
    red_grey = torch.tensor([[0.9, 0.4], [0.1, 0.4], [0.1, 0.4]]).view(1, 3, 1, 2)
    third = jittered(red_grey, HUE, 1 / 3)
    assert_close(third[..., 0].flatten(), torch.tensor([0.1, 0.9, 0.1]), atol=1e-5, rtol=0)
    assert_close(jittered(red_grey, HUE, -1 / 3)[..., 0].flatten(), torch.tensor([0.1, 0.1, 0.9]), atol=1e-5, rtol=0)
    assert_close(third[..., 1], red_grey[..., 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.0, 0.25])
def test_hue_is_kornias(turns):
    from kornia.enhance import adjust_hue

    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3).T.reshape(1, 3, 3, 9)
    for image in (scene(), corners, torch.rand(2, 3, 32, 32)):
        shift = torch.full((len(image),), turns)
        assert_close(turn_hue(image, shift), adjust_hue(image, shift * 2 * math.pi), atol=5e-6, rtol=0)


def test_grey_weighs_the_channels_as_pil_does():
    image = scene()
    out = strong().apply(image, draw(2, grey=torch.tensor([True, True])))
    assert_close(out, (image * GREY).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-6, rtol=0)


def blurred(image: Tensor, *sigma: float) -> Tensor:
    here = draw(len(image), blur=torch.ones(len(image), dtype=torch.bool), sigma=torch.tensor(sigma))
    return strong().apply(image, here)


def test_blur_is_the_gaussian_convolution_of_each_image():
    image = scene().double()
    out = blurred(image.float(), 0.7, 2.0)
    for row, sigma in enumerate((0.7, 2.0)):
        taps = np.exp(-(np.arange(-6, 7) ** 2) / (2 * sigma**2))
        taps /= taps.sum()
        padded = np.pad(image[row].numpy(), ((0, 0), (6, 6), (6, 6)), mode="edge")
        across = np.apply_along_axis(np.convolve, 2, padded, taps, mode="valid")
        both = np.apply_along_axis(np.convolve, 1, across, taps, mode="valid")
        assert_close(out[row].double(), torch.from_numpy(both), atol=1e-6, rtol=0)


def test_blur_keeps_the_mean_and_a_flat_image():
    image = torch.full((1, 3, 32, 32), 0.25)
    assert_close(blurred(image, 2.0), image, atol=1e-6, rtol=0)
    image[:, :, 10:20, 12:18] = 1.0  # further from the edge than the kernel reaches
    assert_close(blurred(image, 2.0).mean(), image.mean(), atol=1e-6, rtol=0)


# -- strong view: against PIL, image by image as the release does it ---------------------------------------------------


def pil_hue(image: Image.Image, turns: float) -> Image.Image:
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(round(turns * 255) % 256)  # wraps
    return Image.fromarray(hsv, "HSV").convert("RGB")


def pil_strong(image: Tensor, here: StrongDraw) -> Tensor:
    """The slow yardstick: the same factors, one 8-bit PIL image at a time."""
    steps = {
        BRIGHTNESS: lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
        CONTRAST: lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
        SATURATION: lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
        HUE: pil_hue,
    }
    done = []
    for row, pixels in enumerate((image * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(pixels)
        for part in here.order if here.jitter[row] else ():
            picture = steps[part](picture, float(here.factors[part, row]))
        if here.grey[row]:
            picture = picture.convert("L").convert("RGB")
        if here.blur[row]:
            picture = picture.filter(ImageFilter.GaussianBlur(float(here.sigma[row])))
        done.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255)
    return torch.stack(done)


def test_the_strong_view_is_pils_but_for_rounding():
    image, view = scene(16, 96, 128), strong()
    apart = []
    for _ in range(8):
        here = view.draw(16)
        apart.append((view.apply(image, here) - pil_strong(image, here)).abs().mean(dim=(1, 2, 3)))
    apart = torch.cat(apart)
    assert apart.mean() < 1.5 / 255
    assert apart.max() < 3 / 255


@pytest.mark.parametrize("part", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
def test_each_part_is_pils_within_rounding(part):
    image = scene(1, 96, 128)
    factor = 0.2 if part == HUE else 1.4
    here = draw(1, jitter=torch.tensor([True]), order=(part,))
    here.factors[part] = factor
    bound = 2 if part == HUE else 1  # PIL's HSV has 256 hues
    assert (strong().apply(image, here) - pil_strong(image, here)).abs().mean() < bound / 255


# -- strong view: draws ------------------------------------------------------------------------------------------------


def test_gates_and_ranges_of_the_draws():
    here = strong().draw(20_000)
    for gate, chance in ((here.jitter, 0.8), (here.grey, 0.2), (here.blur, 0.5)):
        assert abs(gate.float().mean() - chance) < 0.015  # four standard errors
    both = (here.jitter & here.blur).float().mean()
    assert abs(both - 0.4) < 0.015  # drawn apart
    for part, (low, high) in {0: (0.5, 1.5), 1: (0.5, 1.5), 2: (0.5, 1.5), 3: (-0.25, 0.25)}.items():
        uniform(here.factors[part], low, high)
    uniform(here.sigma, 0.1, 2.0)
    orders = {strong().draw(1).order for _ in range(400)}
    assert len(orders) == 24


def uniform(values: Tensor, low: float, high: float) -> None:
    width = high - low
    assert low <= values.min() < low + 0.01 * width
    assert high - 0.01 * width < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 0.01 * width
    assert abs(values.std() - width / math.sqrt(12)) < 0.01 * width


def test_a_large_spread_starts_at_black():
    assert strong(brightness=2.0).draw(1000).factors[BRIGHTNESS].min() >= 0


def test_images_without_a_gate_are_untouched_and_the_others_change():
    image, view = scene(64, 24, 24), strong(jitter=0.4)
    here = view.draw(64)
    out = view.apply(image, here)
    changed = (out != image).flatten(1).any(dim=1)
    assert torch.equal(changed, here.jitter | here.grey | here.blur)
    assert 0 < changed.sum() < 64


def test_a_batch_mate_changes_nothing_but_the_draw():
    image, view = scene(6, 24, 32), strong()
    here = view.draw(6)
    out = view.apply(image, here)
    for row in range(6):
        one = slice(row, row + 1)
        alone = StrongDraw(
            here.jitter[one], here.grey[one], here.blur[one], here.order, here.factors[:, one], here.sigma[one]
        )
        assert_close(view.apply(image[one], alone), out[one], atol=1e-6, rtol=0)


def test_images_of_a_batch_get_their_own_factors_and_a_seed_repeats_them():
    image = scene(1).repeat(2, 1, 1, 1)
    view = strong(jitter=1.0, grey=0.0, blur=0.0)
    torch.manual_seed(5)
    first = view(image)
    torch.manual_seed(5)
    again = view(image)
    assert torch.equal(first, again)
    assert not torch.equal(first, view(image))
    assert (first[0] - first[1]).abs().mean() > 0.01


def test_parts_that_are_switched_off_stay_off():
    view = strong(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, jitter=1.0, grey=0.0, blur=0.0)
    image = scene()
    assert torch.equal(view(image), image)


# -- strong view: shapes, types, devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 33)])
def test_any_size_and_channel_count(channels, size):
    image = torch.rand(3, channels, *size)
    before = image.clone()
    view = strong(jitter=1.0, grey=0.5, blur=1.0)
    for _ in range(4):
        out = view(image)
        assert out.shape == image.shape
        assert out.dtype == torch.float32
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1
    assert torch.equal(image, before)


@pytest.mark.parametrize("channels", [1, 5])
def test_without_colour_brightness_and_contrast_remain(channels):
    image = torch.rand(2, channels, 8, 9)
    out = jittered(image, CONTRAST, 0.5)
    assert_close(out, 0.5 * image + 0.5 * image.mean(dim=(1, 2, 3), keepdim=True))
    assert torch.equal(jittered(image, BRIGHTNESS, 0.5), 0.5 * image)
    everything = torch.ones(2, dtype=torch.bool)
    here = draw(2, jitter=everything, grey=everything, order=(HUE, SATURATION))
    here.factors[:] = 0.2
    assert torch.equal(strong().apply(image, here), image)


def test_extreme_pixels_stay_in_range():
    for value in (0.0, 1.0):
        out = strong(jitter=1.0, grey=0.5, blur=1.0)(torch.full((8, 3, 9, 9), value))
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1


def test_half_precision_and_autocast_give_float32():
    image, view = scene(), strong(jitter=1.0, grey=0.0, blur=1.0)
    torch.manual_seed(1)
    plain = view(image)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = view(image)
    assert torch.equal(plain, cast)
    assert view(image.bfloat16()).dtype == torch.float32


def test_eight_bit_images_are_refused():
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        strong()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_channels_last_gives_the_same_view():
    image, view = scene(), strong(jitter=1.0, blur=1.0)
    here = view.draw(2)
    other = view.apply(image.to(memory_format=torch.channels_last), here)
    assert_close(other, view.apply(image, here), atol=1e-6, rtol=0)


def test_nothing_is_read_back_from_the_device(monkeypatch):
    """A meta tensor has no values: whatever waits for one raises."""
    monkeypatch.setattr(torch, "autocast", lambda *given, **more: nullcontext())  # it does not know the meta device
    image = torch.empty(8, 3, 16, 16, device="meta")
    view = strong(jitter=1.0, grey=1.0, blur=1.0)
    assert view.apply(image, view.draw(8)).device.type == "meta"
    random_flip((image, torch.empty(8, 16, 16, dtype=torch.long, device="meta")), 0.5)
    box = box_mask(random_boxes(8, 16, 16), 16, 16, "meta")
    paste(image, image.flip(0), box)
    channel_dropout(0.5)([image])


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_boxes_have_the_fingerprint_of_the_release():
    """Of 40,000 draws of the release's sampler, square crop; tolerances are four standard errors and the rounding."""
    side = 321
    top, left, bottom, right = random_boxes(20_000, side, side, chance=1.0)[:, 0].unbind(1)
    height, width = (bottom - top) / side, (right - left) / side
    area = height * width
    assert (area > 0).all()
    assert abs(area.mean() - 0.209) < 0.005
    assert abs(area.std() - 0.109) < 0.003
    assert abs(width.mean() - 0.388) < 0.006
    assert abs(height.mean() - 0.532) < 0.007
    assert abs((height / width).mean() - 1.615) < 0.03
    assert abs((height > width).float().mean() - 0.73) < 0.015


def test_half_the_boxes_are_empty_and_a_tenth_of_the_pixels_mixed():
    boxes = random_boxes(20_000, 160, 208)[:, 0]
    empty = (boxes == 0).all(dim=1)
    assert abs(empty.float().mean() - 0.5) < 0.015
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (160 * 208)
    assert abs(area.mean() - 0.105) < 0.005
    assert (random_boxes(50, 32, 32, chance=0.0) == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (2, 2), (1, 1000)])
def test_boxes_of_tiny_images_end(size):
    boxes = random_boxes(200, *size, chance=1.0)
    assert boxes.shape == (200, 1, 4)
    assert box_mask(boxes, *size, "cpu").shape == (200, *size)


sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@settings(deadline=None, max_examples=60)
@given(size=sizes, seed=st.integers(0, 2**31))
def test_a_box_is_empty_or_inside_and_its_mask_has_its_area(size, seed):
    torch.manual_seed(seed)
    boxes = random_boxes(7, *size, chance=0.7)
    assert boxes.dtype == torch.int64
    assert boxes.device.type == "cpu"
    top, left, bottom, right = boxes[:, 0].unbind(1)
    inside = (top >= 0) & (left >= 0) & (top < bottom) & (left < right) & (bottom <= size[0]) & (right <= size[1])
    assert (inside | (boxes[:, 0] == 0).all(dim=1)).all()
    mask = box_mask(boxes, *size, torch.device("cpu"))
    assert mask.dtype == torch.bool
    assert torch.equal(mask.sum(dim=(1, 2)), (bottom - top) * (right - left))


def test_overlapping_boxes_toggle():
    boxes = torch.tensor([[[0, 0, 2, 3], [1, 1, 3, 4]], [[0, 0, 3, 4], [0, 0, 3, 4]], [[0, 0, 0, 0], [2, 3, 3, 4]]])
    drawn = [["###.", "#..#", ".###"], ["....", "....", "...."], ["....", "....", "...#"]]
    expected = torch.tensor([[[letter == "#" for letter in line] for line in picture] for picture in drawn])
    assert torch.equal(box_mask(boxes, 3, 4, "cpu"), expected)
    assert not box_mask(torch.zeros(2, 0, 4, dtype=torch.long), 3, 4, "cpu").any()


def test_a_seed_repeats_the_boxes_and_each_image_has_its_own():
    torch.manual_seed(3)
    first = random_boxes(8, 64, 64, chance=1.0)
    torch.manual_seed(3)
    assert torch.equal(first, random_boxes(8, 64, 64, chance=1.0))
    assert len({tuple(box) for box in first[:, 0].tolist()}) == 8


# -- mixing ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(size=sizes, count=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_pasting_twice_gives_the_image_back(size, count, seed):
    torch.manual_seed(seed)
    image, partner = torch.rand(3, 2, *size), torch.rand(3, 2, *size)
    box = box_mask(torch.cat([random_boxes(3, *size, chance=0.8) for _ in range(count)], dim=1), *size, "cpu")
    mixed, other = paste(image, partner, box), paste(partner, image, box)
    assert torch.equal(paste(mixed, other, box), image)
    assert torch.equal(paste(image, image, box), image)
    assert torch.equal(mixed + other, image + partner)


def test_paste_takes_the_partner_inside_the_box_for_images_and_maps():
    box = torch.tensor([[[True, False]]])
    image, partner = torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1, 2)
    assert torch.equal(paste(image, partner, box)[0, :, 0], torch.tensor([[1.0, 0.0]] * 3))
    assert paste(torch.tensor([[[7, 7]]]), torch.tensor([[[255, 255]]]), box).tolist() == [[[255, 7]]]


# -- channel dropout ---------------------------------------------------------------------------------------------------


def test_channel_dropout_kills_whole_channels_and_scales_the_rest():
    maps = [torch.ones(16, 64, 3, 2), torch.ones(16, 128, 2, 1)]
    outs = channel_dropout(0.25)(maps)
    for level, out in zip(maps, outs, strict=True):
        assert out.shape == level.shape
        first = out[:, :, 0, 0]
        assert torch.equal(out, first[:, :, None, None].expand_as(out))
        assert_close(first.unique(), torch.tensor([0.0, 4 / 3]))
        assert abs((first == 0).float().mean() - 0.25) < 0.06
    assert not torch.equal(outs[0][0], outs[0][1])  # images differ
    assert not torch.equal(outs[0][:, :64, 0, 0], outs[1][:, :64, 0, 0])  # levels differ
    assert all((level == 1).all() for level in maps)


def test_channel_dropout_lets_the_gradient_through_the_survivors():
    level = torch.ones(4, 8, 2, 2, requires_grad=True)
    (out,) = channel_dropout()([level])
    out.sum().backward()
    assert level.grad is not None
    assert_close(level.grad, out.detach())
    assert torch.equal(channel_dropout(0.0)([level])[0], level)
