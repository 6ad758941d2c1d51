"""What only the images themselves can say: which values of deep files are dark and bright, which stand for no data, the
mean and the spread of channels that no pretrained encoder has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssss_zoo.data.base import WARNING, Dataset, Fault
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.image_headers import Headers, count_images, describe_headers, read_headers
from ssss_zoo.data.images import read_stored_values
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import Config, DataConfig

IMAGES_SAMPLED = 64  # training images looked at (our choice)
PIXELS_SAMPLED = 65536  # of each, at most (our choice)
DARK, BRIGHT = 0.1, 99.9  # percentiles that become 0 and 255 (our choice: single dead or glaring pixels do not count)
STD_MIN = 1e-3  # a channel's spread at least, of images in [0, 1]: one that is the same everywhere has none
STEPS, USED = 1000, 0.01  # equal ones of a range, and the share of them that should hold a pixel (our choice)
NODATA_SHARE_MIN = 1e-3  # of a channel's pixels hold one value that stands for no data, at least (our choice; as DARK)
NODATA_DISTANCE_MIN = 10.0  # times the spread of all other values: how far it lies from them, at least (our choice)
COMMON_NODATA_DISTANCE_MIN = 1.0  # the same, of a value that people take for it (our choice)
COMMON_NODATA = {
    -9999,
    -99999,
    -999,
    9999,
    99999,
    -32768,
    -32767,
    32767,
    65535,
    -2147483648,
    2147483647,
    4294967295,
    1e20,
}
NODATA_EFFECT = "void in masks, 0 in images, left out of range and statistics"  # of what has no data
OTHER_VALUES_MIN = 16  # other values at least: below, a picture is a drawing of a few levels (our choice)


def with_statistics(dataset: Dataset, config: Config) -> Config:
    """The configuration with `data.low`, `data.high` and `data.nodata` where files are deep, and `model.mean` and
    `model.std` where channels are not three, unless they are given. `dataset.notes` says what was found. Raises
    UserError for a range that no file is of."""
    samples = sample_images([*dataset.labelled, *dataset.unlabelled])
    if isinstance(dataset, FileDataset) and "low" in dataset.config_keys:
        every = [*dataset.labelled, *dataset.unlabelled, *dataset.val]
        headers = read_headers([sample.image for sample in every], config.data.max_pixels)
        fill_nodata(dataset, config.data, headers)
        config = replace(config, data=with_range(dataset, config.data, headers, samples))
        dataset.notes = [*dataset.notes, *describe_headers(headers, dataset.reading)]
    if config.model.in_channels != 3 and not config.model.mean and not config.model.std:
        mean, std = channel_mean_and_std(dataset, samples)
        config = replace(config, model=replace(config.model, mean=mean, std=std))
    return config


def sample_images(samples: Sequence[Sample]) -> list[Sample]:
    """At most LOOKS of the samples, evenly spread, none twice."""
    unique = list({sample.name: sample for sample in samples}.values())
    return unique[:: -(-len(unique) // IMAGES_SAMPLED) or 1]


# --- pixels without data --------------------------------------------------------------------------------------------


def fill_nodata(dataset: FileDataset, data: DataConfig, headers: Headers) -> None:
    """What is known of pixels without data before one is looked at: what is given, else what TIFFs say."""
    told = [found.nodata for found in headers.values() if found.nodata is not None]
    dataset.base_reading = replace(
        dataset.base_reading,
        nodata=tuple(float(value) for value in data.nodata if value != "off"),
        tags=bool(told) and not data.nodata,
        gaps=any(found.masked or found.depth == "floating-point" for found in headers.values()),
    )
    if dataset.base_reading.tags:
        values = ", ".join(f"{value:g}" for value in sorted(set(told))[:4])
        note = f"{count_images(len(told))} say by a tag that pixels of {values} have no data"
        dataset.notes = [*dataset.notes, f"{note}: {NODATA_EFFECT} (data.nodata=off takes them as any)"]
    if dataset.base_reading.nodata:
        dataset.notes = [
            *dataset.notes,
            f"pixels of {', '.join(data.nodata)} (data.nodata) have no data: {NODATA_EFFECT}",
        ]
    dataset.base_reading = replace(
        dataset.base_reading,
        gaps=bool(dataset.base_reading.gaps or dataset.base_reading.tags or dataset.base_reading.nodata),
    )


def find_nodata_values(values: np.ndarray) -> list[tuple[float, float]]:
    """Values of channels (N, channels) that stand for no data, NaN among them left out: held by many pixels exactly,
    and far from all others. Each with the largest share of a channel's pixels that hold it."""
    found: dict[float, float] = {}
    for channel in values.T:
        rest = channel[~np.isnan(channel)]
        while (one := find_nodata_extreme(rest)) is not None:
            found[one] = max(found.get(one, 0.0), float((rest == one).sum() / len(channel)))
            rest = rest[rest != one]
    return sorted(found.items())


def find_nodata_extreme(values: np.ndarray) -> float | None:
    """The lowest or the highest of values (N,), where that one stands for no data."""
    for end in (values.min(), values.max()) if len(values) else ():
        others = values[values != end]
        if len(values) - len(others) < NODATA_SHARE_MIN * len(values) or not len(others):
            continue
        low, high = np.percentile(others, (DARK, BRIGHT))
        away = max(low - end, end - high)
        if (
            away >= (COMMON_NODATA_DISTANCE_MIN if is_common_nodata(end) else NODATA_DISTANCE_MIN) * (high - low)
            and len(np.unique(others)) >= OTHER_VALUES_MIN
        ):
            return float(end)
    return None


def is_common_nodata(value: float) -> bool:
    """Whether people write a value for no data: one of USUAL, or the end of a floating-point type."""
    return float(value) in COMMON_NODATA or abs(value) >= 1e30


# --- range ----------------------------------------------------------------------------------------------------------


def with_range(dataset: FileDataset, data: DataConfig, headers: Headers, samples: Sequence[Sample]) -> DataConfig:
    """The settings with the values that become 0 and 255, and with those that stand for no data in deep files, unless
    they are given."""
    given, deep = bool(data.low), {path for path, found in headers.items() if found.depth}
    check_given_range(data, headers, deep)
    dataset.base_reading = replace(
        dataset.base_reading, low=tuple(data.low), high=tuple(data.high), mixed=given and bool(deep)
    )
    if not given and 2 * len(deep) <= len(headers):
        return data
    looked_at = [sample for sample in samples if sample.image in deep] if deep else samples
    values = sample_pixels(looked_at, lambda sample: read_stored_values(sample.image, dataset.reading)[0])
    if not len(values):
        return data
    if np.isnan(values).all(axis=1).any() and not dataset.base_reading.tags:
        dataset.notes = [*dataset.notes, f"some pixels hold no number (NaN), or no data: {NODATA_EFFECT}"]
    if deep and not data.nodata:
        values, data = adopt_nodata_values(dataset, data, headers, values)
    if not given:
        low, high = value_range(values)
        data = replace(data, low=low, high=high)
        dataset.base_reading = replace(dataset.base_reading, low=tuple(data.low), high=tuple(data.high))
        told = ", ".join(f"{low:g} to {high:g}" for low, high in zip(data.low, data.high, strict=True))
        dataset.notes = [*dataset.notes, f"deep images: {told} become dark to bright (data.low, data.high)"]
    if given and deep and len(deep) < len(headers):
        note = f"{len(headers) - len(deep)} of {count_images(len(headers))} have 8 bits a channel and stay as they are"
        dataset.notes = [*dataset.notes, f"{note}; data.low and data.high are of the deeper ones"]
    dataset.faults = [*dataset.faults, *warn_of_unused_range(values, data)]
    return data


def check_given_range(data: DataConfig, headers: Headers, deep: set[Path]) -> None:
    """Raise UserError for a range that is given and of no file."""
    if data.low and headers and not deep and max(data.high) > 255:
        raise UserError(
            f"data.high={data.high}, and every image has 8 bits a channel, 0 to 255: leave out data.low and data.high, "
            "or give values within that"
        )


def adopt_nodata_values(
    dataset: FileDataset, data: DataConfig, headers: Headers, values: np.ndarray
) -> tuple[np.ndarray, DataConfig]:
    """`values` without those that lie far off, and the settings with these as values without data."""
    found = find_nodata_values(values)
    if not found:
        return values, data
    tagged = {one.nodata for one in headers.values() if one.nodata is not None}
    new = sorted({value for value, _ in found} | tagged)
    dataset.base_reading = replace(dataset.base_reading, nodata=tuple(new), tags=False, gaps=True)
    told = " and ".join(f"{value:g} ({100 * share:.2g} % of the pixels)" for value, share in found)
    dataset.notes = [
        *dataset.notes,
        f"{told} lies far from all other values and is taken for no data: {NODATA_EFFECT} (data.nodata says "
        "which values are, data.nodata=off that none is)",
    ]
    rest = np.where(np.isin(values, [value for value, _ in found]), np.nan, values)
    return rest, replace(data, nodata=[f"{value!r}" for value in new])


def value_range(values: np.ndarray) -> tuple[list[float], list[float]]:
    """The values of each channel that DARK and BRIGHT percent of (N, channels) lie below, NaN left out."""
    known = np.where(np.isnan(values).all(axis=0), 0.0, values)  # a channel without any data
    low, high = np.nanpercentile(known, (DARK, BRIGHT), axis=0)
    high = np.maximum(high, np.asarray(low) + 1e-6 * np.maximum(np.abs(low), 1))  # a channel of one value
    return round_to_six_digits(low), round_to_six_digits(high)


def warn_of_unused_range(values: np.ndarray, data: DataConfig) -> list[Fault]:
    """A warning where the values of channels (N, channels) fill next to nothing of their range."""
    lows, highs = (np.broadcast_to(np.asarray(ends), values.shape[1]) for ends in (data.low, data.high))
    slight = [
        (number, low, high)
        for number, (channel, low, high) in enumerate(zip(values.T, lows, highs, strict=True), start=1)
        if 0 < count_filled_steps(channel, low, high) < USED * STEPS
    ]
    if not slight:
        return []
    which, (_, low, high) = ", ".join(str(number) for number, _, _ in slight), slight[0]
    message = (
        f"the range {low:g} to {high:g} is hardly used (channel {which}): the pixels fill less than {100 * USED:g} % "
        "of it; give data.low and data.high, or data.nodata for values that are no data"
    )
    return [Fault(WARNING, "range", "images", message)]


def count_filled_steps(values: np.ndarray, low: float, high: float) -> int:
    """How many of STEPS equal steps of a range hold a value; 0 where all are one."""
    rest = values[~np.isnan(values)]
    if not len(rest) or rest.min() == rest.max():
        return 0
    places = STEPS * (np.clip(rest, low, high) - low) / (high - low)
    return int(np.count_nonzero(np.bincount(places.astype(np.int64))))


# --- statistics -----------------------------------------------------------------------------------------------------


def channel_mean_and_std(dataset: Dataset, samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    """Of each channel over the samples' pixels, images in [0, 1]; empty where none can be read."""
    values = sample_pixels(samples, lambda sample: read_with_nan(dataset, sample)) / 255
    values = values[~np.isnan(values).all(axis=1)]
    if not len(values):
        return [], []
    return round_to_six_digits(np.nanmean(values, axis=0)), round_to_six_digits(
        np.maximum(np.nanstd(values, axis=0), STD_MIN)
    )


def read_with_nan(dataset: Dataset, sample: Sample) -> np.ndarray:
    """An image (H, W, channels), NaN where it has no data."""
    pixels = dataset.read_image(sample)
    if not isinstance(dataset, FileDataset) or not dataset.reading.gaps:
        return pixels
    values, missing = read_stored_values(sample.image, dataset.reading)
    gaps = np.isnan(values) if missing is None else np.isnan(values) | missing[..., None]
    return np.where(gaps, np.float32(np.nan), pixels)


def sample_pixels(samples: Sequence[Sample], read: Callable[[Sample], np.ndarray]) -> np.ndarray:
    """(N, channels) float64: up to PIXELS of each sample, evenly spread; what cannot be read is passed over."""
    found = []
    for sample in samples:
        try:
            pixels = read(sample)
        except UserError:
            continue
        flat = pixels.reshape(-1, pixels.shape[2])
        found.append(flat[:: -(-len(flat) // PIXELS_SAMPLED)].astype(np.float64))
    return np.concatenate(found) if found else np.empty((0, 1))


def round_to_six_digits(values: Sequence[float] | np.ndarray) -> list[float]:
    """To six digits, so that a written configuration says the same."""
    return [float(f"{value:.6g}") for value in values]
