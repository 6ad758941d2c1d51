"""Your own images, in the layouts and with the masks that people have, and no line of code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.classes import FILES
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.images import Reading
from ssss_zoo.data.layout import Found, scan
from ssss_zoo.data.lists import (
    Lists,
    check_apart,
    choose_split,
    find_root,
    first_file,
    list_path,
    named_splits,
    others,
    read_list,
)
from ssss_zoo.data.masks import understand
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.records import Sample

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig

HELD_OUT = 0.2  # share of the labelled images that validate where there is no val part (our choice)


class Folder(FileDataset):
    """Root: `images/` and `masks/`, paired by name without suffix; images without a mask, and all of `unlabelled/`,
    are the unlabelled ones. `layout` knows the other layouts (`train/` and `val/` inside or above, masks beside their
    images), `masks` what masks may hold (ids, other values, colours) and how `classes.txt` says it. Without a val part
    a fixed fifth of the labelled images validates; `splits/` may hold lists as in `lists`.

    data.split: `all`, a share `1/4` or a number of the pairs (the same ones whenever asked, the smaller within the
    larger; the rest is unlabelled), a split of `splits/`, or the path of a labelled list (also .csv). `notes` says what
    was understood. Raises UserError for what cannot be.
    """

    source: ClassVar[str] = "your own images in data.root: images/, masks/, unlabelled/, classes.txt"
    reads: ClassVar[tuple[str, ...]] = (
        *("root", "split", "cache", "hold_out", "layout", "images", "masks", "unlabelled"),
        *("encoding", "ignore", "snap", "channels", "low", "high", "nodata", "exif", "max_pixels"),
    )

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "folder", "images/, masks/ and unlabelled/")
        found = scan(root, data)
        lists, origin = listed(root, found, data.split) or shared(found, data.split)
        check_apart(lists.labelled, lists.val)
        self.faults = found.faults
        self.settled = Reading(bands=tuple(data.channels), exif=data.exif, max_pixels=data.max_pixels)
        self.take(lists)
        samples = {sample.image: sample for sample in (*self.labelled, *self.unlabelled, *self.val)}.values()
        classes = understand(data, root, [sample for sample in samples if sample.mask], found.regions)
        self.class_file = first_file(root, FILES)
        self.class_names, self.colours, self.encoding = classes.names, classes.colours, classes.encoding
        self.notes = [
            f"{len(self.labelled)} labelled, {len(self.val)} {origin}, {len(self.unlabelled)} unlabelled, "
            f"{len(self.class_names)} classes from {classes.origin}",
            f"layout {found.layout}: {found.said}; {self.encoding.said(self.class_names)}",
        ]
        if lists.unlabelled is lists.labelled:
            self.notes.append("no unlabelled image found: the labelled ones serve as unlabelled, too")
        if found.left:
            self.notes.append(f"{found.left} images of the test part are left alone")

    def read_mask(self, sample: Sample) -> np.ndarray:
        if sample.mask is None:
            raise UserError(f"{sample.name} has no mask")
        return self.voided(self.encoding.read(sample), sample)

    def mask_files(self, sample: Sample) -> list[Path]:
        return self.encoding.files(sample)


# --- what is used for what ------------------------------------------------------------------------------------------


def listed(root: Path, found: Found, split: str) -> tuple[Lists, str] | None:
    """The lists of a split that is written down, and where val comes from; None when `split` is no such one."""
    folder = root / "splits"
    if split.replace("/", "_") not in named_splits(folder) and not list_path(root, split):
        return None

    def read(path: Path, need_masks: bool) -> list[Sample]:
        return read_list(path, root, need_masks)

    labelled, unlabelled = choose_split(root, folder, split, read, [*found.pairs, *found.loose])
    if (folder / "val.txt").is_file():
        return Lists(labelled, unlabelled, read(folder / "val.txt", True)), "for validation (splits/val.txt)"
    if found.val:
        return Lists(labelled, unlabelled, found.val), "for validation (val part)"
    val, _ = hold_out(others(found.pairs, labelled), keep=0)
    return Lists(labelled, others(unlabelled, val) or labelled, val), "held out for validation (no val part found)"


def shared(found: Found, split: str) -> tuple[Lists, str]:
    """The lists of `all`, of a share or of a number of the pairs, and where val comes from."""
    count = share_of(split)  # before anything else: a misspelt split is the first thing to hear of
    origin = "for validation (val part)"
    val, pairs = found.val, found.pairs
    if not val:
        val, pairs = hold_out(pairs, keep=1)
        origin = "held out for validation (no val part found)"
    number = count(len(pairs))
    if not 1 <= number <= len(pairs):
        raise UserError(
            f"data.split={split} asks for {number} labelled images of {len(pairs)}; expected 1 to that many"
        )
    chosen = {sample.image for sample in shuffled(pairs, "labelled")[:number]}
    labelled = [sample for sample in pairs if sample.image in chosen]
    unlabelled = [*others(pairs, labelled), *found.loose]
    return Lists(labelled, unlabelled or labelled, val), origin


def share_of(split: str) -> Callable[[int], int]:
    """How many of n images `all`, `1/4` or `12` means. A share is rounded half up, and at least one image."""
    fraction = re.fullmatch(r"(\d+)[/_](\d+)", split)
    if split == "all":
        return lambda total: total
    if fraction and 0 < int(fraction[1]) <= int(fraction[2]):
        above, below = int(fraction[1]), int(fraction[2])
        return lambda total: max((2 * total * above + below) // (2 * below), min(total, 1))
    if re.fullmatch(r"\d+", split):
        return lambda total: int(split)
    raise unknown("split", split, ["all", "a share such as 1/4", "a number of images", "a list"], f"data.split={split}")


def hold_out(pairs: Sequence[Sample], keep: int) -> tuple[list[Sample], list[Sample]]:
    """A fixed share of `pairs` to validate on, and the rest. Raises UserError when fewer than `keep` would be left."""
    if len(pairs) < 1 + keep:
        raise UserError(
            f"{len(pairs)} labelled images to hold some out for validation, at least {1 + keep} needed: "
            "label more, or add images/val and masks/val"
        )
    number = max(int(len(pairs) * HELD_OUT + 0.5), 1)
    chosen = {sample.image for sample in shuffled(pairs, "val")[:number]}
    return [s for s in pairs if s.image in chosen], [s for s in pairs if s.image not in chosen]


def shuffled(samples: Sequence[Sample], salt: str) -> list[Sample]:
    """An arbitrary order that depends on the names alone, on no library's generator; new images hardly disturb it."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{salt} {sample.name}".encode()).digest())
