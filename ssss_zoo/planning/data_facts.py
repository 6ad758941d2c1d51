"""The facts about a data set that a plan is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.images import channels_to_read, read_header
from ssss_zoo.data.sampling import evenly
from ssss_zoo.data.tools.audit import samples_by_part
from ssss_zoo.toolkit.types import IGNORE, Sample

IMAGES_READ = 32  # of the labelled images, evenly (our choice: below a second for photographs)
LEAST_PIXELS = 50  # of a class in these, for its extent to mean something (our choice)
RGB_CHANNELS = 3


@dataclass(frozen=True)
class DataFacts:
    """A data set in numbers. labelled, unlabelled, val: images; unlabelled ones that are labelled, too, do not count.
    height, width: the median, in pixels. largest_pixels: of a validation image. thin_class: the class with the thinnest
    regions, and its mean thickness in pixels; empty and 0 where no mask shows any."""

    classes: int
    channels: int
    labelled: int
    unlabelled: int
    val: int
    height: int
    width: int
    largest_pixels: int
    thin_class: str
    thickness: float


def collect_facts(dataset: Dataset) -> DataFacts:
    """Read some images and masks of the data set. Raises UserError for a file that cannot be read."""
    parts = samples_by_part(dataset)
    chosen = evenly(list(dataset.labelled), IMAGES_READ)
    masks = [dataset.read_mask(sample) for sample in chosen]
    heights, widths = zip(*(mask.shape for mask in masks), strict=True)
    thickness = class_thickness(masks, len(dataset.class_names))
    thinnest = min(thickness, key=lambda index: thickness[index], default=None)
    areas = dataset.areas(dataset.val) if dataset.val else []
    largest = max(areas, default=1)
    if largest == 1 and dataset.val:  # made in memory: all have the same size
        largest = int(dataset.read_mask(dataset.val[0]).size)
    return DataFacts(
        classes=len(dataset.class_names),
        channels=dataset.channels,
        labelled=len(parts["labelled"]),
        unlabelled=len(parts["unlabelled"]),
        val=len(parts["val"]),
        height=int(np.median(heights)),
        width=int(np.median(widths)),
        largest_pixels=largest,
        thin_class="" if thinnest is None else dataset.class_names[thinnest],
        thickness=0.0 if thinnest is None else thickness[thinnest],
    )


def class_thickness(masks: Sequence[np.ndarray], classes: int) -> dict[int, float]:
    """The thickness in pixels of each class's regions: the mean length of its horizontal or of its vertical runs, the
    smaller one. Classes with fewer than LEAST_PIXELS pixels are left out. masks: (H, W) ids."""
    pixels, runs = np.zeros(IGNORE + 1), np.zeros((2, IGNORE + 1))
    for mask in masks:
        pixels += np.bincount(mask.ravel(), minlength=IGNORE + 1)
        for axis in (0, 1):
            along = np.moveaxis(mask, axis, 1)
            starts = np.concatenate([along[:, :1].ravel(), along[:, 1:][along[:, 1:] != along[:, :-1]]])
            runs[axis] += np.bincount(starts, minlength=IGNORE + 1)
    return {
        index: float(pixels[index] / runs[:, index].max()) for index in range(classes) if pixels[index] >= LEAST_PIXELS
    }


def count_channels(samples: Sequence[Sample], data: DataConfig) -> int:
    """The channels of the first image where it cannot be read as RGB, else 3. An unreadable one counts as RGB, because
    reading it later says more."""
    file = samples[0].image if samples else None
    if not isinstance(file, Path) or data.channels:
        return len(data.channels) or RGB_CHANNELS
    header = read_header(file, data.max_pixels)
    readable = header.colours or channels_to_read(header, RGB_CHANNELS) is not None
    return RGB_CHANNELS if readable else header.channels
