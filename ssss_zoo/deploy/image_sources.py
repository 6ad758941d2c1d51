"""The images to predict: a file, a folder, a pattern, or a list of paths."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.images import (
    IMAGE_SUFFIXES,
    Header,
    Reading,
    channels_to_read,
    check_channel_count,
    describe_channels,
    is_deeper,
    is_shallower,
)
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.text import brief

LIST_SUFFIX = ".txt"
MASKS_PROBED = 3  # images whose content is looked at (our choice)
MASK_VALUES_MAX = 32  # different values in an image that may be a mask (our choice)


@dataclass(frozen=True)
class SourceImage:
    """An image file to predict. file: its path below the input folder, with `/`; name: the same without
    suffix, which outputs have, too."""

    path: Path
    file: str
    name: str


def find_images(text: str) -> list[SourceImage]:
    """The images that `input=` names, sorted by path, each once. Raises UserError where there are none."""
    path = expanded(text)
    if path.is_dir():
        root, files = path, [file for file in sorted(path.rglob("*")) if is_image_name(file)]
    elif path.is_file() and path.suffix.lower() == LIST_SUFFIX:
        files = read_path_list(path)
        root = common_folder(files)
    elif path.is_file():
        root, files = path.parent, [path]
    else:
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True)) if is_image_name(Path(file))]
        root = common_folder(files)
    if not files:
        kind = "no such file or folder" if not (path.exists() or glob.has_magic(text)) else "no images there"
        raise UserError(f"input={brief(text)}: {kind}; images end in {', '.join(IMAGE_SUFFIXES[:6])} and others")
    return name_images(list(dict.fromkeys(files)), root)


def is_image_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_path_list(file: Path) -> list[Path]:
    """The absolute paths of a text file, one a line; a relative one counts from the file's folder."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {file}: {error}") from None
    return [Path(os.path.abspath(file.parent / expanded(line.strip()))) for line in lines if line.strip()]


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    parents = [set(file.parents) for file in files]
    shared = set.intersection(*parents) if parents else set()
    return max(shared, key=lambda folder: len(folder.parts), default=Path())


def name_images(files: Sequence[Path], root: Path) -> list[SourceImage]:
    """The files by their names below `root`. Those that differ only in the suffix keep it in their names."""
    below = [file.relative_to(root) for file in files]
    counts = Counter(path.with_suffix("") for path in below)
    names = [path.as_posix() if counts[path.with_suffix("")] > 1 else path.with_suffix("").as_posix() for path in below]
    return [SourceImage(*each) for each in zip(files, map(Path.as_posix, below), names, strict=True)]


def check_output(text: str, output: Path) -> None:
    """Raise UserError for an output folder in the input folder, whose masks would be images the next time."""
    source = expanded(text)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"output={output} lies inside input={source}: choose a folder outside of it")


def looks_like_masks(images: Iterable[SourceImage], classes: int) -> bool:
    """Whether the first images are PNGs of one channel with few values, all of them class ids or 255."""
    probed = list(images)[:MASKS_PROBED]
    return bool(probed) and all(looks_like_mask(image.path, classes) for image in probed)


def looks_like_mask(path: Path, classes: int) -> bool:
    if path.suffix.lower() != ".png":
        return False
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                return False
            values = np.unique(np.asarray(image))
    except (OSError, ValueError, SyntaxError):
        return False
    return len(values) <= MASK_VALUES_MAX and all(value < classes or value == 255 for value in values)


def check_like_training(found: Header, reading: Reading, path: Path) -> None:
    """Raise UserError for an image whose channels or bits are not those of the images that a run was trained on.
    found: the header of `path`. reading: how the run reads images."""
    if not reading.bands and not found.colours and channels_to_read(found, reading.channels) is None:
        raise UserError(
            f"{path} has {describe_channels(found)}; the run was trained on images of {reading.channels} channels"
        )
    check_channel_count(found, reading, path)
    if is_deeper(found.depth, reading):
        raise UserError(f"{path} is a {found.depth} image; the run was trained on images with 8 bits a channel")
    if is_shallower(found.depth, reading):
        raise UserError(
            f"{path} has 8 bits a channel; the run was trained on deeper images, with values to {max(reading.high):g}"
        )
