"""Settings that are estimated from the images: the range of files with more than 8 bits a channel, the values
that stand for missing data, and mean and standard deviation of channels that no pretrained encoder has seen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssss_zoo.data.base import WARNING, Dataset, Fault
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.image_headers import Headers, count_images, describe_headers, read_headers
from ssss_zoo.data.images import Reading, read_stored_values
from ssss_zoo.data.sampling import evenly
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import Config, DataConfig

IMAGES_SAMPLED = 64  # training images that are read (our choice)
PIXELS_SAMPLED = 65536  # of each image at most (our choice)
DARK, BRIGHT = 0.1, 99.9  # percentiles that become 0 and 255 (our choice: single dead or glaring pixels do not count)
STD_MIN = 1e-3  # of a channel's standard deviation, of images in [0, 1]: that of a constant channel is 0
RANGE_STEPS = 1000  # equal steps of a range (our choice)
STEPS_USED_MIN = 0.01  # share of the steps that should hold a pixel (our choice)
NODATA_SHARE_MIN = 1e-3  # of a channel's pixels that hold the value for no data, at least (our choice; as DARK)
NODATA_DISTANCE_MIN = 10.0  # from all other values, in units of their range, at least (our choice)
COMMON_NODATA_DISTANCE_MIN = 1.0  # the same of a value in COMMON_NODATA (our choice)
COMMON_NODATA = frozenset(
    (
        *(-9999, -99999, -999, 9999, 99999, -32768, -32767, 32767),
        *(65535, -2147483648, 2147483647, 4294967295, 1e20),
    )
)
NODATA_EFFECT = "void in masks, 0 in images, left out of range and statistics"  # of pixels without data
OTHER_VALUES_MIN = 16  # with fewer other values an image is a drawing of a few levels (our choice)
TAG_VALUES_NAMED = 4


@dataclass(frozen=True)
class ReadingEstimate:
    """How the images of a data set are to be read.

    reading: with range and values for no data filled in. nodata: values for `data.nodata`, where they were found in the
    images. notes, faults: for the data set.
    """

    reading: Reading
    nodata: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def with_statistics(dataset: Dataset, config: Config) -> tuple[Dataset, Config]:
    """The data set with the complete `base_reading`, notes on it, and faults; and the configuration with, unless given,
    `data.low`, `data.high` and `data.nodata` for files with more than 8 bits a channel, and `model.mean` and
    `model.std` for images without three channels.

    Raises UserError for a given range that fits no file.
    """
    samples = sample_images([*dataset.labelled, *dataset.unlabelled])
    if isinstance(dataset, FileDataset) and "low" in dataset.config_keys:
        every = [*dataset.labelled, *dataset.unlabelled, *dataset.val]
        headers = read_headers([sample.image for sample in every], config.data.max_pixels)
        estimate = estimate_reading(dataset.reading, config.data, headers, samples)
        dataset = copy.copy(dataset)
        dataset.base_reading = estimate.reading
        dataset.faults = [*dataset.faults, *estimate.faults]
        dataset.notes = [*dataset.notes, *estimate.notes, *describe_headers(headers, dataset.reading)]
        data = config.data
        if not data.low:
            data = replace(data, low=list(estimate.reading.low), high=list(estimate.reading.high))
        if estimate.nodata:
            data = replace(data, nodata=list(estimate.nodata))
        config = replace(config, data=data)
    if config.model.in_channels != 3 and not config.model.mean and not config.model.std:
        mean, std = channel_mean_and_std(dataset, samples)
        config = replace(config, model=replace(config.model, mean=mean, std=std))
    return dataset, config


def sample_images(samples: Sequence[Sample]) -> list[Sample]:
    """At most IMAGES_SAMPLED of the samples, evenly, none of them twice."""
    return evenly(list({sample.name: sample for sample in samples}.values()), IMAGES_SAMPLED)


def estimate_reading(
    reading: Reading, data: DataConfig, headers: Headers, samples: Sequence[Sample]
) -> ReadingEstimate:
    """Complete `reading` by the values that become 0 and 255, and by those that stand for no data in files with more
    than 8 bits a channel, unless `data` gives them. Raises UserError for a given range that fits no file."""
    deep = {path for path, header in headers.items() if header.depth}
    given = bool(data.low)
    check_given_range(data, headers, deep)
    reading, notes = reading_with_known_nodata(reading, data, headers)
    reading = replace(reading, low=tuple(data.low), high=tuple(data.high), mixed=given and bool(deep))
    if not given and 2 * len(deep) <= len(headers):
        return ReadingEstimate(reading, notes=notes)
    values = sample_pixels(
        [sample for sample in samples if sample.image in deep] if deep else samples,
        lambda sample: read_stored_values(sample.image, reading)[0],
    )
    if not len(values):
        return ReadingEstimate(reading, notes=notes)
    if np.isnan(values).all(axis=1).any() and not reading.tags:
        notes = (*notes, f"some pixels are NaN or have no data: {NODATA_EFFECT}")
    found = find_nodata_values(values) if deep and not data.nodata else []
    nodata = found_and_tagged(found, headers)
    if found:
        values = np.where(np.isin(values, [value for value, _ in found]), np.nan, values)
        reading = replace(reading, nodata=nodata, tags=False, gaps=True)
        notes = (*notes, describe_found_nodata(found))
    if not given:
        low, high = value_range(values)
        reading = replace(reading, low=tuple(low), high=tuple(high))
        ranges = ", ".join(f"{dark:g} to {bright:g}" for dark, bright in zip(low, high, strict=True))
        notes = (*notes, f"images deeper than 8 bits: {ranges} are mapped to black to white (data.low, data.high)")
    elif deep and len(deep) < len(headers):
        note = f"{len(headers) - len(deep)} of {count_images(len(headers))} have 8 bits a channel and are not scaled"
        notes = (*notes, f"{note}; data.low and data.high apply to the deeper ones")
    faults = tuple(warn_of_unused_range(values, reading))
    return ReadingEstimate(reading, tuple(f"{value!r}" for value in nodata), notes, faults)


# --- pixels without data --------------------------------------------------------------------------------------------


def reading_with_known_nodata(reading: Reading, data: DataConfig, headers: Headers) -> tuple[Reading, tuple[str, ...]]:
    """`reading` with the values for no data that `data` gives or that tags of TIFFs give, and notes on them."""
    tagged = [header.nodata for header in headers.values() if header.nodata is not None]
    nodata = tuple(float(value) for value in data.nodata if value != "off")
    by_tag = bool(tagged) and not data.nodata
    marked = any(header.masked or header.depth == "floating-point" for header in headers.values())
    notes: tuple[str, ...] = ()
    if by_tag:
        values = ", ".join(f"{value:g}" for value in sorted(set(tagged))[:TAG_VALUES_NAMED])
        note = f"{count_images(len(tagged))} declare {values} as no data, in a tag"
        notes = (*notes, f"{note}: {NODATA_EFFECT} (data.nodata=off treats them as data)")
    if nodata:
        notes = (*notes, f"pixels with the value {', '.join(data.nodata)} (data.nodata) have no data: {NODATA_EFFECT}")
    return replace(reading, nodata=nodata, tags=by_tag, gaps=bool(marked or by_tag or nodata)), notes


def find_nodata_values(values: np.ndarray) -> list[tuple[float, float]]:
    """The values that stand for no data, each with the largest share of a channel's pixels that hold it. values: (N,
    channels), NaN left out. Such a value is held by many pixels exactly and lies far from all others."""
    found: dict[float, float] = {}
    for channel in values.T:
        rest = channel[~np.isnan(channel)]
        while (extreme := find_nodata_extreme(rest)) is not None:
            found[extreme] = max(found.get(extreme, 0.0), float((rest == extreme).sum() / len(channel)))
            rest = rest[rest != extreme]
    return sorted(found.items())


def find_nodata_extreme(values: np.ndarray) -> float | None:
    """The lowest or the highest of values (N,), if it stands for no data."""
    for extreme in (values.min(), values.max()) if len(values) else ():
        others = values[values != extreme]
        if len(values) - len(others) < NODATA_SHARE_MIN * len(values) or not len(others):
            continue
        low, high = np.percentile(others, (DARK, BRIGHT))
        distance = max(low - extreme, extreme - high)
        least = COMMON_NODATA_DISTANCE_MIN if is_common_nodata(extreme) else NODATA_DISTANCE_MIN
        if distance >= least * (high - low) and len(np.unique(others)) >= OTHER_VALUES_MIN:
            return float(extreme)
    return None


def is_common_nodata(value: float) -> bool:
    """Whether a value often stands for no data: one of COMMON_NODATA, or the end of a floating-point type."""
    return float(value) in COMMON_NODATA or abs(value) >= 1e30


def found_and_tagged(found: Sequence[tuple[float, float]], headers: Headers) -> tuple[float, ...]:
    """The values found in the images with those of tags; none where none was found."""
    tagged = {header.nodata for header in headers.values() if header.nodata is not None}
    return tuple(sorted({value for value, _ in found} | tagged)) if found else ()


def describe_found_nodata(found: Sequence[tuple[float, float]]) -> str:
    """A note on values, each with its share of the pixels, that are taken for no data."""
    values = " and ".join(f"{value:g} ({100 * share:.2g} % of the pixels)" for value, share in found)
    return (
        f"{values} lies far from all other values and is treated as no data: {NODATA_EFFECT} (data.nodata=VALUE "
        "chooses the value, data.nodata=off none)"
    )


# --- range ----------------------------------------------------------------------------------------------------------


def check_given_range(data: DataConfig, headers: Headers, deep: set[Path]) -> None:
    """Raise UserError for a given range beyond 255 where no file has more than 8 bits a channel."""
    if data.low and headers and not deep and max(data.high) > 255:
        raise UserError(
            f"data.high={data.high}, and every image has 8 bits a channel, 0 to 255: remove data.low and data.high, or "
            "give values in that range"
        )


def value_range(values: np.ndarray) -> tuple[list[float], list[float]]:
    """The DARK and the BRIGHT percentile of each channel of values (N, channels), NaN left out."""
    known = np.where(np.isnan(values).all(axis=0), 0.0, values)  # a channel without any data
    low, high = np.nanpercentile(known, (DARK, BRIGHT), axis=0)
    high = np.maximum(high, np.asarray(low) + 1e-6 * np.maximum(np.abs(low), 1))  # a channel of one value
    return round_to_six_digits(low), round_to_six_digits(high)


def warn_of_unused_range(values: np.ndarray, reading: Reading) -> list[Fault]:
    """A warning where the values (N, channels) leave nearly all of their range unused."""
    lows, highs = (np.broadcast_to(np.asarray(ends), values.shape[1]) for ends in (reading.low, reading.high))
    unused = [
        (number, low, high)
        for number, (channel, low, high) in enumerate(zip(values.T, lows, highs, strict=True), start=1)
        if 0 < count_filled_steps(channel, low, high) < STEPS_USED_MIN * RANGE_STEPS
    ]
    if not unused:
        return []
    channels = ", ".join(str(number) for number, _, _ in unused)
    _, low, high = unused[0]
    message = (
        f"the range {low:g} to {high:g} is hardly used (channel {channels}): the pixels fill less than "
        f"{100 * STEPS_USED_MIN:g} % of it; give data.low and data.high, or data.nodata for values of missing data"
    )
    return [Fault(WARNING, "range", "images", message)]


def count_filled_steps(values: np.ndarray, low: float, high: float) -> int:
    """The number of the RANGE_STEPS steps of a range that hold one of the values (N,); 0 where all are equal."""
    rest = values[~np.isnan(values)]
    if not len(rest) or rest.min() == rest.max():
        return 0
    steps = RANGE_STEPS * (np.clip(rest, low, high) - low) / (high - low)
    return int(np.count_nonzero(np.bincount(steps.astype(np.int64))))


# --- mean and standard deviation ------------------------------------------------------------------------------------


def channel_mean_and_std(dataset: Dataset, samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the samples' pixels, for images in [0, 1]; empty where no image
    can be read."""
    values = sample_pixels(samples, lambda sample: read_with_nan(dataset, sample)) / 255
    values = values[~np.isnan(values).all(axis=1)]
    if not len(values):
        return [], []
    std = np.maximum(np.nanstd(values, axis=0), STD_MIN)
    return round_to_six_digits(np.nanmean(values, axis=0)), round_to_six_digits(std)


def read_with_nan(dataset: Dataset, sample: Sample) -> np.ndarray:
    """An image (H, W, channels), NaN where it has no data."""
    pixels = dataset.read_image(sample)
    if not isinstance(dataset, FileDataset) or not dataset.reading.gaps:
        return pixels
    values, missing = read_stored_values(sample.image, dataset.reading)
    gaps = np.isnan(values) if missing is None else np.isnan(values) | missing[..., None]
    return np.where(gaps, np.float32(np.nan), pixels)


def sample_pixels(samples: Sequence[Sample], read: Callable[[Sample], np.ndarray]) -> np.ndarray:
    """(N, channels) float64: up to PIXELS_SAMPLED pixels of each sample, evenly. An image that cannot be read is left
    out."""
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
    """Rounded, so that a configuration that was written and read again is the same."""
    return [float(f"{value:.6g}") for value in values]
