"""The embedded data set of drawn street scenes, `shapes`; `shapes_scene.py` draws them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.random import PCG64, Generator

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks.shapes_scene import SCENES_PER_PART, SHAPES_CLASSES, SHAPES_VERSION, draw_scene
from ssss_zoo.errors import check_range, unknown
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

# Our choice: this set follows no publication.
SHAPES_SPLITS = {"1/32": 10, "1/16": 20, "1/8": 40, "1/4": 80, "all": 320}  # labelled scenes
FEWEST_LABELLED = min(SHAPES_SPLITS.values())  # the shortest list; it shows every class, and so does each longer one


@cache
def labelling_order() -> tuple[int, ...]:
    """The train scenes in the order in which they get labels, the same in every run. It is drawn again until the first
    FEWEST_LABELLED show every class."""
    rng = Generator(PCG64([SHAPES_VERSION, len(SCENES_PER_PART)]))
    while True:
        order = tuple(int(number) for number in np.argsort(rng.random(SCENES_PER_PART["train"]), kind="stable"))
        masks = np.stack([draw_scene("train", number).mask for number in order[:FEWEST_LABELLED]])
        if len(np.unique(masks)) == len(SHAPES_CLASSES):
            return order


def count_labelled_scenes(split: str) -> int:
    """The number of labelled scenes of a split, given by its name or as a number."""
    if split in SHAPES_SPLITS:
        return SHAPES_SPLITS[split]
    if not split.isdecimal():
        raise unknown(
            "split",
            split,
            [*SHAPES_SPLITS, f"{FEWEST_LABELLED} to {SCENES_PER_PART['train']} (labelled scenes)"],
            f"data.split={split}",
        )
    check_range("data.split", int(split), FEWEST_LABELLED, SCENES_PER_PART["train"])
    return int(split)


def shapes_samples(part: str, numbers: tuple[int, ...] | range) -> list[Sample]:
    return [
        Sample(f"shapes-v{SHAPES_VERSION}/{part}/{number:03d}", (part, number), (part, number)) for number in numbers
    ]


class Shapes(Dataset):
    """320 scenes to train on, as many of them labelled as the split says, and 64 to validate on."""

    source: ClassVar[str] = "little street scenes drawn in memory, 9 classes, 96 x 128 pixels; nothing to download"

    def __init__(self, data: DataConfig) -> None:
        count = count_labelled_scenes(str(data.split))
        self.class_names = tuple(SHAPES_CLASSES)
        self.colours = tuple(SHAPES_CLASSES.values())
        train = shapes_samples("train", labelling_order())
        self.labelled, self.unlabelled = train[:count], train[count:]
        self.val = shapes_samples("val", range(SCENES_PER_PART["val"]))

    def read_image(self, sample: Sample) -> np.ndarray:
        return draw_scene(*sample.image).image.copy()

    def read_mask(self, sample: Sample) -> np.ndarray:
        return draw_scene(*sample.mask).mask.copy()
