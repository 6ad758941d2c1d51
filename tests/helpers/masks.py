"""Mask files for tests, and the classes that are detected in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import ArrayLike
from PIL import Image

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.folder.class_detection import ClassDetection, detect_classes
from ssss_zoo.toolkit.types import Sample

RED, BLUE, PINK = (255, 0, 0), (0, 0, 255), (255, 0, 255)
COLOURS = np.array([(0, 0, 0), RED, BLUE, PINK, (0, 255, 0), (255, 255, 0)], np.uint8)
COLOUR_LIST = ["background 0 0 0", "rust 255 0 0", "crack 0 0 255"]  # lines of a classes.txt


def save_mask(path: Path, pixels: ArrayLike, **options: Any) -> Path:
    """Writes `pixels` as 8 bits."""
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def save_masks(root: Path, masks: Sequence[ArrayLike]) -> list[Path]:
    """Writes 0.png, 1.png, ..."""
    return [save_mask(root / f"{index}.png", mask) for index, mask in enumerate(masks)]


def save_indexed(path: Path, indices: ArrayLike, colours: Sequence[Sequence[int]] | np.ndarray) -> Path:
    """Writes a mask with a palette."""
    image = Image.fromarray(np.asarray(indices, np.uint8), "P")
    image.putpalette([int(level) for colour in colours for level in colour])
    image.save(path)
    return path


def save_tiff(path: Path, pixels: ArrayLike, **tags: Any) -> Path:
    """Writes `pixels` in their own type."""
    tifffile.imwrite(path, np.asarray(pixels), **tags)
    return path


def detect(root: Path, masks: Sequence[Path], lines: Sequence[str] | None = None, **settings: Any) -> ClassDetection:
    """The classes of `masks` in `root`, with the settings of `data.` and the lines of a classes.txt."""
    if lines:
        (root / "classes.txt").write_text("\n".join(lines))
    return detect_classes(DataConfig(**settings), root, [Sample("", None, mask) for mask in masks])


def read_ids(found: ClassDetection, mask: Path) -> list[list[int]]:
    """A mask as class ids."""
    return found.encoding.read(Sample("", None, mask)).tolist()


def draw_squares(count: int, seed: int = 0, masks: int = 8) -> np.ndarray:
    """Masks (masks, 96, 128) of ids below `count`: squares on a ground of 0."""
    draws = np.random.default_rng(seed)
    drawn = np.zeros((masks, 96, 128), np.uint8)
    for mask in drawn:
        for index in [*range(1, count)] * 2:
            top, left, side = draws.integers(0, 70), draws.integers(0, 100), draws.integers(14, 26)
            mask[top : top + side, left : left + side] = index
    return drawn


def resize_drawn(mask: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """A drawn mask made smaller, 77x102."""
    return np.array(Image.fromarray(mask).resize((102, 77), how))
