"""Folders of images and masks for tests of `dataset=folder`, and ways to open them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, DataConfig
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.folder.dataset import Folder
from ssss_zoo.engine.registry import load
from ssss_zoo.toolkit.types import Sample
from ssss_zoo.train.setup import open_dataset

MASK = np.array([[0, 1], [2, 255]], np.uint8)


def write_images(root: Path, *names: str) -> None:
    """Black RGB images of 2x2 pixels, `names` from `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)


def write_masks(root: Path, *names: str, values: ArrayLike = MASK) -> None:
    """Masks that hold `values`, `names` from `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, np.uint8)).save(path)


def write_pairs(root: Path, count: int, part: str = "") -> Path:
    """images/00.jpg with masks/00.png and so on, `part` ("train/") between folder and file."""
    write_images(root, *(f"images/{part}{index:02d}.jpg" for index in range(count)))
    write_masks(root, *(f"masks/{part}{index:02d}.png" for index in range(count)))
    return root


def open_folder(root: Path | str, **settings: Any) -> Folder:
    """The folder data set with the settings of `data.`: no command line, no statistics of the images."""
    return Folder(DataConfig(root=str(root), **settings))


def open_as_run(*overrides: str) -> tuple[Config, Dataset]:
    """The configuration and data set that `ssss run dataset=folder` with `overrides` would have."""
    config = resolve(["dataset=folder", *overrides])
    dataset, config = open_dataset(load("datasets", "folder"), config)
    return config, dataset


def sample_names(samples: Iterable[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def write_photos(root: Path, *names: str, size: tuple[int, int] = (16, 24)) -> None:
    """Images of many colours, no two of them alike."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(sum(name.encode())).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)


def write_five_pairs(root: Path, mask_name: str = "masks/{}.png", image_name: str = "images/{}.jpg") -> Path:
    """Images and masks a00 to a04 by the names given."""
    write_photos(root, *(image_name.format(f"a{index:02d}") for index in range(5)))
    write_masks(root, *(mask_name.format(f"a{index:02d}") for index in range(5)))
    return root


def summary_of_files(dataset: Folder) -> str:
    """The note on all files: read as what, or left out."""
    (line,) = (note for note in dataset.notes if note.startswith("files read: "))
    return line
