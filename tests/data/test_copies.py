"""Copies of a picture are found however they were made; other pictures, however smooth, are none."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssss_zoo.data.tools import near_duplicates
from ssss_zoo.data.tools.near_duplicates import (
    cell_weights,
    find_near_duplicates,
    packed_copy,
    small_copy,
    unpacked_copy,
)


def photograph(seed, size=(120, 160)):
    """Detail of every size, as photographs have it: its strength falls with its frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / np.maximum(frequency, 1 / size[1])
    light = np.fft.irfft2(spectrum, size)
    return Image.fromarray((128 + 45 * (light - light.mean()) / light.std()).clip(0, 255).astype(np.uint8)).convert(
        "RGB"
    )


def smooth(seed, side=200):
    """One level, a slight slope, grain, a stripe: smooth surfaces that look alike."""
    rng = np.random.default_rng(seed)
    down, along = np.mgrid[:side, :side] / side
    turn, place = rng.uniform(0, 2 * np.pi), rng.integers(side - 5)
    image = rng.uniform(40, 210) + rng.uniform(5, 20) * (np.cos(turn) * along + np.sin(turn) * down)
    image += rng.normal(0, 6, (side, side))
    stripe = (slice(None), slice(place, place + 5)) if rng.random() < 0.5 else (slice(place, place + 5),)
    image[stripe] += rng.choice([-40, 40])
    return Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert("RGB")


def small(image):
    return unpacked_copy(packed_copy(small_copy(np.asarray(image))))


def as_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image, share, how=Image.Resampling.BILINEAR):
    return image.resize((round(image.width * share), round(image.height * share)), how)


def cropped(image, left, top, right, bottom):
    size = np.array(image.size * 2)
    return image.crop(tuple((size * [left, top, 1 - right, 1 - bottom]).round().astype(int)))


COPIES = {
    "itself": lambda image: image,
    "JPEG of quality 75": lambda image: as_jpeg(image, 75),
    "JPEG of quality 40": lambda image: as_jpeg(image, 40),
    "half as large": lambda image: scaled(image, 0.5),
    "a quarter as large": lambda image: scaled(image, 0.25, Image.Resampling.BICUBIC),
    "larger": lambda image: scaled(image, 1.5),
    "darker": lambda image: image.point(lambda level: int(level * 0.6)),
    "brighter": lambda image: image.point(lambda level: min(level + 30, 255)),
    "of another gamma": lambda image: image.point(lambda level: int(255 * (level / 255) ** 0.7)),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "without a twentieth all around": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "without a tenth all around": lambda image: cropped(image, 0.1, 0.1, 0.1, 0.1),
    "without its left": lambda image: cropped(image, 0.12, 0, 0, 0),
    "without its bottom": lambda image: cropped(image, 0, 0, 0, 0.18),
    "without parts of each side": lambda image: cropped(image, 0.03, 0.11, 0.14, 0.02),
    "cropped, smaller, darker, as JPEG": lambda image: as_jpeg(
        scaled(cropped(image, 0.07, 0.02, 0.06, 0.09), 0.7).point(lambda level: int(level * 0.75)), 75
    ),
}
PHOTOGRAPHS = [photograph(seed) for seed in range(5)]
SMALL_PHOTOGRAPHS = [small(image) for image in PHOTOGRAPHS]


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_photographs_are_found_and_nothing_else(way):
    changed = [small(COPIES[way](image)) for image in PHOTOGRAPHS]
    for first, second in ((SMALL_PHOTOGRAPHS, changed), (changed, SMALL_PHOTOGRAPHS)):
        found = find_near_duplicates(first, second)
        assert sorted((pair.first, pair.second) for pair in found) == [(at, at) for at in range(len(PHOTOGRAPHS))]
        assert [pair.likeness for pair in found] == sorted((pair.likeness for pair in found), reverse=True)


SMOOTH = [small(smooth(seed)) for seed in range(120)]


def test_of_smooth_pictures_none_is_a_copy():
    assert find_near_duplicates(SMOOTH[:24], SMOOTH[24:]) == []


@pytest.mark.parametrize("way", ["itself", "JPEG of quality 75", "half as large", "darker", "larger"])
def test_copies_of_smooth_pictures_are_found_by_their_grain(way):
    found = find_near_duplicates(SMOOTH[:8], [small(COPIES[way](smooth(seed))) for seed in range(8)])
    assert [(pair.first, pair.second) for pair in sorted(found, key=lambda pair: pair.first)] == [
        (at, at) for at in range(8)
    ]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_pictures_without_detail_are_no_copies(level):
    plain = small(Image.new("RGB", (80, 60), (level, level, level)))
    slope = np.broadcast_to(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], (60, 80, 3))
    assert find_near_duplicates([plain], [plain]) == []
    assert find_near_duplicates([small(slope)], [small(slope[:, ::-1])]) == []
    assert find_near_duplicates([], [plain]) == find_near_duplicates([plain], []) == []


@settings(max_examples=50, deadline=None)
@given(begin=st.floats(0, 0.24), end=st.floats(0, 0.24), count=st.sampled_from([1, 8, 32]))
def test_cells_are_means_of_what_is_left(begin, end, count):
    weights = cell_weights(np.array([begin]), np.array([end]), count)[0]
    assert weights.shape == (count, near_duplicates.COPY_SIDE)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-3)
    middle = (np.arange(near_duplicates.COPY_SIDE) + 0.5) / near_duplicates.COPY_SIDE
    wanted = begin + (1 - begin - end) * (np.arange(count) + 0.5) / count
    np.testing.assert_allclose(weights @ middle, wanted, atol=1 / near_duplicates.COPY_SIDE)


def test_deep_and_grey_images_have_a_small_copy():
    ramp = np.linspace(100, 101, 64 * 64, dtype=np.float32).reshape(64, 64, 1)
    assert np.ptp(small(ramp)) == 255  # what little there is, is kept
    assert small_copy(np.repeat(ramp, 5, axis=2)).shape == (near_duplicates.COPY_SIDE, near_duplicates.COPY_SIDE)


def test_at_most_so_many_pairs_are_looked_at_closely(monkeypatch):
    asked = []
    monkeypatch.setattr(near_duplicates, "PAIRS_COMPARED", 2)
    monkeypatch.setattr(near_duplicates, "align", lambda *given: asked.append(given) or (1.0, 1.0))
    find_near_duplicates([*map(small, PHOTOGRAPHS)], [*map(small, PHOTOGRAPHS)])
    assert len(asked) == 2
