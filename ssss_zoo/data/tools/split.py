"""`ssss data split`: labelled lists, each within the larger ones, whose first images show every class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssss_zoo.atomic_write import write_text
from ssss_zoo.data.folder.selection import parse_share
from ssss_zoo.data.split_lists import LABELLED_LISTS, UNLABELLED_LISTS, VAL_LIST
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample


def labelled_order(classes: Sequence[set[int]], seed: int) -> list[int]:
    """An order of all images; a labelled list is its first n images, so that smaller lists lie within larger ones.

    classes: those that each image shows. The first images together show every class: each adds as many of the missing
    classes as possible (our choice). The others follow. Ties and the others are in an order drawn from `seed`.
    """
    drawn = [int(index) for index in np.random.default_rng(seed).permutation(len(classes))]
    missing, first = set().union(*classes), []
    while missing:
        best = max(drawn, key=lambda index: len(classes[index] & missing))  # the first of equals
        drawn.remove(best)
        first.append(best)
        missing -= classes[best]
    return first + drawn


def list_sizes(text: str, images: int) -> dict[str, int]:
    """The number of labelled images of each list in `1/16,1/8,30`. Raises UserError for anything else."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    sizes = {name: parse_share(name)(images) for name in names}
    wrong = [name for name, size in sizes.items() if not 1 <= size < images]
    if not sizes or wrong:
        what = f"'{wrong[0]}', which leaves nothing unlabelled or nothing labelled" if wrong else "nothing"
        raise UserError(f"sizes names {what}; expected shares or numbers of the {images} images, as sizes=1/16,1/8,30")
    return sizes


def write_lists(
    root: Path,
    pool: Sequence[Sample],
    unmasked: Sequence[Sample],
    val: Sequence[Sample],
    sizes: dict[str, int],
    *,
    overwrite: bool,
) -> list[Path]:
    """Write `splits/<size>/labeled.txt` and `unlabeled.txt` below `root`, and `splits/val.txt` where there is none.

    pool: the images with masks in their order. unmasked: images without masks, unlabelled in every list. overwrite:
    whether existing lists are replaced; where they may not be, UserError is raised and nothing is written.
    """
    homes = {size: root / "splits" / size.replace("/", "_") for size in sizes}
    there = [home for home in homes.values() if home.exists()]
    if there and not overwrite:
        raise UserError(
            f"{there[0]} is there already; overwrite=true replaces it (runs made with it are then of another list)"
        )
    written = []
    for size, count in sizes.items():
        parts = {LABELLED_LISTS[0]: pool[:count], UNLABELLED_LISTS[0]: [*pool[count:], *unmasked]}
        for name, samples in parts.items():
            written.append(homes[size] / name)
            write_list(written[-1], root, samples)
    if val and not (root / "splits" / VAL_LIST).is_file():
        written.append(root / "splits" / VAL_LIST)
        write_list(written[-1], root, val)
    return written


def write_list(file: Path, root: Path, samples: Sequence[Sample]) -> None:
    """Write a line `<image> <mask>` a sample, relative to `root` or, where they lie outside of it, with their whole
    paths; with a TAB between them where a name has a space."""
    pairs = [[path_in_list(path, root) for path in (s.image, s.mask) if path is not None] for s in samples]
    gap = "\t" if any(" " in path for pair in pairs for path in pair) else " "
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(f"{gap.join(pair)}\n" for pair in pairs))


def path_in_list(path: Path, root: Path) -> str:
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute, os.path.abspath(root))
    return (absolute if relative.startswith(os.pardir) else relative).replace(os.sep, "/")
