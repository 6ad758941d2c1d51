"""What only the images themselves can say: which values of deep files are dark and bright, the mean and the spread of
channels that no pretrained encoder has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.images import deep, stored_pixels
from ssss_zoo.errors import UserError
from ssss_zoo.records import Sample

if TYPE_CHECKING:
    from ssss_zoo.config import Config

LOOKS = 64  # training images looked at (our choice)
PIXELS = 65536  # of each, at most (our choice)
DARK, BRIGHT = 0.1, 99.9  # percentiles that become 0 and 255 (our choice: single dead or glaring pixels do not count)
LEAST = 1e-3  # a channel's spread at least, of images in [0, 1]: one that is the same everywhere has none


def settle(dataset: Dataset, config: Config) -> None:
    """Fill `data.low` and `data.high` where files are deep, `model.mean` and `model.std` where channels are not three,
    unless they are given; so the run's configuration holds them, and what is said of them is in `dataset.notes`."""
    samples = spread_over([*dataset.labelled, *dataset.unlabelled])
    if isinstance(dataset, FileDataset) and "low" in dataset.reads:
        given = bool(config.data.low)
        if not given and mostly_deep(samples):
            config.data.low, config.data.high = value_range(dataset, samples)
        if config.data.low and not given:
            told = ", ".join(
                f"{low:g} to {high:g}" for low, high in zip(config.data.low, config.data.high, strict=True)
            )
            dataset.notes = [*dataset.notes, f"deep images: {told} become dark to bright (data.low, data.high)"]
        dataset.stretch = (tuple(config.data.low), tuple(config.data.high))
    if config.model.in_channels != 3 and not config.model.mean and not config.model.std:
        config.model.mean, config.model.std = mean_and_std(dataset, samples)


def spread_over(samples: Sequence[Sample]) -> list[Sample]:
    """At most LOOKS of the samples, evenly spread, none twice."""
    unique = list({sample.name: sample for sample in samples}.values())
    return unique[:: -(-len(unique) // LOOKS) or 1]


def mostly_deep(samples: Sequence[Sample]) -> bool:
    """Whether most of the samples' files have more than 8 bits a channel; those that cannot be read are passed over.
    The rest, of the other depth, `read_image` refuses one by one."""
    depths = []
    for sample in samples:
        with suppress(UserError):
            depths.append(deep(sample.image))
    return 2 * sum(depths) > len(depths)


def value_range(dataset: FileDataset, samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    """The values of each channel that DARK and BRIGHT percent of the samples' pixels lie below; empty where none can
    be read."""
    values = pixels_of(samples, lambda sample: stored_pixels(sample.image, dataset.reading))
    if not len(values):
        return [], []
    low, high = np.nanpercentile(values, (DARK, BRIGHT), axis=0)
    high = np.maximum(high, np.asarray(low) + 1e-6 * np.maximum(np.abs(low), 1))  # a channel of one value
    return rounded(low), rounded(high)


def mean_and_std(dataset: Dataset, samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    """Of each channel over the samples' pixels, images in [0, 1]; empty where none can be read."""
    values = pixels_of(samples, dataset.read_image) / 255
    if not len(values):
        return [], []
    return rounded(values.mean(axis=0)), rounded(np.maximum(values.std(axis=0), LEAST))


def pixels_of(samples: Sequence[Sample], read: Callable[[Sample], np.ndarray]) -> np.ndarray:
    """(N, channels) float64: up to PIXELS of each sample, evenly spread; what cannot be read is passed over."""
    found = []
    for sample in samples:
        try:
            pixels = read(sample)
        except UserError:
            continue
        flat = pixels.reshape(-1, pixels.shape[2])
        found.append(flat[:: -(-len(flat) // PIXELS)].astype(np.float64))
    return np.concatenate(found) if found else np.empty((0, 1))


def rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """To six digits, so that a written configuration says the same."""
    return [float(f"{value:.6g}") for value in values]
