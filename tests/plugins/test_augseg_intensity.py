"""AugSeg's operations against PIL's on 8-bit images, and what chance decides."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from ssss_zoo.plugins.baselines import augseg_intensity as intensity
from ssss_zoo.plugins.baselines.augseg_intensity import OPERATIONS, RandomIntensity
from torch.testing import assert_close


def photo(seed: int = 0, side: int = 40) -> np.ndarray:
    """(side, side, 3) uint8: smooth, with edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [120 + 60 * np.sin(a * x + b * y) + 40 * (x > y) for a, b in rng.uniform(1, 9, (3, 2))]
    return (np.stack(waves, axis=2) + rng.integers(-8, 9, (side, side, 3))).clip(20, 230).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def ours(name: str, image: np.ndarray, u: float) -> np.ndarray:
    out = OPERATIONS[name][0](tensor(image), torch.tensor([u])).clamp(0, 1)
    return (out[0].permute(1, 2, 0) * 255).numpy()


def bits(u: float) -> int:
    return 8 - max(1, int(np.ceil(4 * u)))


PIL = {
    "identity": lambda image, u: image,
    "autocontrast": lambda image, u: ImageOps.autocontrast(image),
    "equalise": lambda image, u: ImageOps.equalize(image),
    "blur": lambda image, u: image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * u)),
    "contrast": lambda image, u: ImageEnhance.Contrast(image).enhance(0.05 + 0.9 * u),
    "brightness": lambda image, u: ImageEnhance.Brightness(image).enhance(0.05 + 0.9 * u),
    "saturation": lambda image, u: ImageEnhance.Color(image).enhance(0.05 + 0.9 * u),
    "sharpness": lambda image, u: ImageEnhance.Sharpness(image).enhance(0.05 + 0.9 * u),
    "posterise": lambda image, u: ImageOps.posterize(image, bits(u)),
    "solarise": lambda image, u: ImageOps.solarize(image, 256 - max(1, int(np.ceil(255 * u)))),
}


WITHIN = {"identity": 1e-4, "equalise": 1e-4, "posterise": 1e-4, "solarise": 1e-4, "blur": 9}  # others: 1.6


@pytest.mark.parametrize("u", [0.03, 0.4, 0.5, 0.97])
@pytest.mark.parametrize("name", PIL)
def test_an_operation_is_pils(name, u):
    """Exactly, where PIL looks up levels; to 1.6 of them where it rounds; at its blur, of boxes, to 1 in the mean."""
    image = photo()
    difference = np.abs(ours(name, image, u) - np.asarray(PIL[name](Image.fromarray(image), u)).astype(float))
    assert difference.max() <= WITHIN.get(name, 1.6), difference.max()
    assert difference.mean() <= 1.0


@pytest.mark.parametrize("u", [0.1, 0.5, 0.8])
def test_hue_turns_as_pils_hsv_does(u):
    image = photo()
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(int) + round((u - 0.5) * 256)) % 256
    expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).astype(float)
    assert np.abs(ours("hue", image, u) - expected).mean() < 2


def test_a_flat_image_stays_under_contrast_stretching_and_equalisation():
    flat = np.full((6, 6, 3), 77, np.uint8)
    for name in ("autocontrast", "equalise"):
        assert np.allclose(ours(name, flat, 0.5), 77, atol=0.01)


def test_rounding_errors_are_not_stretched():
    nearly = torch.full((1, 3, 6, 6), 77 / 255) + 1e-6 * torch.rand(1, 3, 6, 6)
    for name in ("autocontrast", "equalise"):
        assert torch.allclose(OPERATIONS[name][0](nearly, torch.tensor([0.5])), nearly, atol=1e-4)


def test_equalisation_of_few_levels_is_pils():
    image = np.repeat(np.array([[3, 3, 9, 200]], np.uint8), 20, axis=0).repeat(30, axis=1)[:, :, None].repeat(3, axis=2)
    assert np.abs(ours("equalise", image, 0.5) - np.asarray(ImageOps.equalize(Image.fromarray(image)))).max() < 0.01


# --- chance ---------------------------------------------------------------------------------------------------------


def drawn(monkeypatch, batch: int = 600, rounds: int = 10) -> tuple[list[str], torch.Tensor, list[int]]:
    """Names and strengths of all operations, and how many each image had."""
    names, strengths, counts = [], [], []

    def spy(name, needs_colour):
        def operation(image, u):
            names.extend([name] * len(image))
            strengths.append(u)
            return image + 1 / 1024

        return operation, needs_colour

    monkeypatch.setattr(intensity, "OPERATIONS", {name: spy(name, known[1]) for name, known in OPERATIONS.items()})
    torch.manual_seed(0)
    for _ in range(rounds):
        counts += (RandomIntensity()(torch.zeros(batch, 3, 1, 1))[:, 0, 0, 0] * 1024).round().int().tolist()
    return names, torch.cat(strengths), counts


def test_one_to_three_operations_all_alike(monkeypatch):
    names, strengths, counts = drawn(monkeypatch)
    assert np.bincount(counts)[1:] / len(counts) == pytest.approx([1 / 3] * 3, abs=0.03)
    shares = [names.count(name) / len(names) for name in OPERATIONS]
    assert len(shares) == 11
    assert shares == pytest.approx([1 / 11] * 11, abs=0.012)
    assert strengths.mean() == pytest.approx(0.5, abs=0.015)
    assert strengths.std() == pytest.approx(12**-0.5, abs=0.01)


def test_strengths_reach_the_ends_of_the_release_s_ranges():
    u = torch.tensor([1e-6, 0.2, 0.3, 0.6, 0.9, 1.0])
    assert (8 - (4 * u).ceil().clamp(min=1)).tolist() == [7, 7, 6, 5, 4, 4]
    white = torch.full((1, 3, 4, 4), 1.0)
    assert intensity.brightness(white, torch.tensor([0.0]))[0, 0, 0, 0] == pytest.approx(0.05)
    assert intensity.brightness(white, torch.tensor([1.0]))[0, 0, 0, 0] == pytest.approx(0.95)


def test_the_view_is_the_draw_image_by_image_in_turn():
    image = torch.rand(60, 3, 12, 10)
    torch.manual_seed(1)
    out = RandomIntensity()(image)
    torch.manual_seed(1)
    count, choice, strength = torch.randint(1, 4, (60,)), torch.randint(11, (3, 60)), torch.rand(3, 60)
    operations = [operation for operation, _ in OPERATIONS.values()]
    for row in range(60):
        expected = image[row : row + 1]
        for turn in range(int(count[row])):
            expected = operations[choice[turn, row]](expected, strength[turn, row : row + 1]).clamp(0, 1)
        assert (out[row] - expected[0]).abs().quantile(0.95) < 1e-4, row  # a last bit may tip a pixel over a threshold


def test_identity_leaves_every_bit_and_the_argument_is_never_written():
    image = torch.rand(200, 3, 5, 4)
    before = image.clone()
    torch.manual_seed(0)
    out = RandomIntensity(1)(image)
    torch.manual_seed(0)
    torch.randint(1, 2, (200,))
    alone = torch.randint(11, (1, 200))[0] == list(OPERATIONS).index("identity")
    assert alone.any()
    assert torch.equal(out[alone], image[alone])
    assert torch.equal(image, before)
    assert (out[~alone] != image[~alone]).flatten(1).any(dim=1).float().mean() > 0.9


def test_hue_turns_either_way_by_up_to_half_the_circle(monkeypatch):
    turns = []
    monkeypatch.setattr(intensity, "turn_hue", lambda image, by: turns.append(by) or image)
    torch.manual_seed(0)
    intensity.hue(torch.zeros(4000, 3, 1, 1), torch.rand(4000))
    assert (turns[0] > 0).float().mean() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)
    assert turns[0].abs().mean() == pytest.approx(0.25, abs=5 * 0.1443 / 4000**0.5)
    assert 0.499 < turns[0].abs().max() <= 0.5


def test_without_colour_saturation_and_hue_do_nothing(monkeypatch):
    only = {name: OPERATIONS[name] for name in ("saturation", "hue")}
    monkeypatch.setattr(intensity, "OPERATIONS", only)
    grey, colour = torch.rand(20, 5, 6, 6), torch.rand(20, 3, 6, 6)
    assert torch.equal(RandomIntensity()(grey), grey)
    assert not torch.equal(RandomIntensity()(colour), colour)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"saturation", "hue", "identity"}))
def test_every_other_operation_works_on_any_number_of_channels(name, monkeypatch):
    monkeypatch.setattr(intensity, "OPERATIONS", {name: OPERATIONS[name]})
    torch.manual_seed(0)
    bands = 0.2 + 0.6 * torch.rand(12, 5, 6, 6)
    changed = RandomIntensity()(bands)
    assert not torch.equal(changed, bands)
    assert 0 <= changed.min() <= changed.max() <= 1


def test_without_colour_the_grey_that_contrast_is_taken_towards_is_the_mean():
    image = torch.rand(1, 2, 4, 4)
    expected = image.mean() + 0.05 * (image - image.mean())
    assert_close(OPERATIONS["contrast"][0](image, torch.zeros(1)), expected)


def test_eight_bit_images_are_refused():
    with pytest.raises(TypeError, match=r"float images in \[0, 1\], got torch.uint8"):
        RandomIntensity()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_tiny_images_pass_every_operation(size):
    for name, (operation, _) in OPERATIONS.items():
        out = operation(torch.rand(7, 3, *size), torch.rand(7))
        assert out.shape == (7, 3, *size), name
        assert out.isfinite().all(), name


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_stays_in_range_and_a_seed_repeats_it_with_or_without_autocast(channels):
    image = torch.rand(40, channels, 9, 7)
    made = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            made.append(RandomIntensity()(image))
    assert torch.equal(*made)
    assert made[0].dtype == torch.float32
    assert made[0].min() >= 0
    assert made[0].max() <= 1
    assert not torch.equal(made[0], image)


def test_nothing_is_read_back_from_the_device(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *given, **more: nullcontext())  # it does not know the meta device
    torch.manual_seed(0)
    assert RandomIntensity()(torch.empty(64, 3, 8, 8, device="meta")).device.type == "meta"
