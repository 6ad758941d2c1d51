"""Your own images: `images/`, `masks/`, `unlabelled/` and no line of code."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.files import SUFFIXES, THREADS, FileDataset, read_mask
from ssss_zoo.data.lists import (
    Lists,
    check_apart,
    choose_split,
    find_root,
    list_path,
    named_splits,
    others,
    palette,
    read_classes,
    read_list,
)
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.records import IGNORE, Sample

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig

HELD_OUT = 0.2  # share of the labelled images that validate where there is no val part (our choice)
LOOSE = ("unlabelled", "unlabeled")


class Folder(FileDataset):
    """Root: `images/` and `masks/`, paired by name without suffix; images without a mask, and all of `unlabelled/`,
    are the unlabelled ones. Optional: `images/val` with `masks/val` (then also `images/train`, `masks/train`), else a
    fixed fifth of the labelled images validates; `classes.txt` (name, or name R G B, a line), else classes are the
    values of the masks; `splits/` with lists as in `lists.py`.

    data.split: `all`, a share `1/4` or a number of the pairs (the same ones whenever asked, the smaller within the
    larger; the rest is unlabelled), a split of `splits/`, or the path of a labelled list. `notes` says what was
    understood. Raises UserError for a mask without an image, and for two files of one name.
    """

    source: ClassVar[str] = "your own images in data.root: images/, masks/, unlabelled/, classes.txt"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "folder", "images/, masks/ and unlabelled/")
        found = scan(root)
        lists, origin = listed(root, found, data.split) or shared(found, data.split)
        check_apart(lists.labelled, lists.val)
        self.labelled, self.unlabelled, self.val = lists.labelled, lists.unlabelled, lists.val
        self.class_names, self.colours, named = find_classes(root, [*self.labelled, *self.unlabelled, *self.val])
        self.notes = [
            f"{len(self.labelled)} labelled, {len(self.val)} {origin}, {len(self.unlabelled)} unlabelled, "
            f"{len(self.class_names)} classes from {named}"
        ]
        if lists.unlabelled is lists.labelled:
            self.notes.append("no unlabelled image found: the labelled ones serve as unlabelled, too")


# --- what is there --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Found:
    """pairs: images with masks, to train on; val: those of the val part; loose: images without a mask."""

    pairs: list[Sample]
    val: list[Sample]
    loose: list[Sample]


def scan(root: Path) -> Found:
    """Every image below `root` by what it is good for, sorted by name."""
    images, masks = by_stem(root, "images"), by_stem(root, "masks")
    lost = [stem for stem in masks if stem not in images]
    if lost:
        raise UserError(
            f"mask {masks[lost[0]]} has no image: no {root / 'images' / lost[0]}.* ({len(lost)} of {len(masks)} masks "
            "have none); a mask is called like its image"
        )
    samples = [Sample(path.relative_to(root).as_posix(), path, masks.get(stem)) for stem, path in images.items()]
    in_val = [sample for sample in samples if sample.name.startswith("images/val/")]
    bare = [sample.name for sample in in_val if sample.mask is None]
    if bare:
        raise UserError(f"{root / bare[0]} has no mask: an image to validate on needs one in {root / 'masks' / 'val'}")
    train = others(samples, in_val)
    loose = [sample for sample in train if sample.mask is None]
    loose += [Sample(path.relative_to(root).as_posix(), path) for name in LOOSE for path in image_files(root / name)]
    return Found(others(train, loose), in_val, loose)


def by_stem(root: Path, part: str) -> dict[str, Path]:
    """The image files of a folder by their path in it without suffix; a leading `train/` does not count.

    Raises UserError when there are none, and for two of one name.
    """
    folder = root / part
    if not folder.is_dir():
        raise UserError(f"no folder {part}/ in {root}: expected images/ and masks/, and unlabelled/ if you like")
    stems: dict[str, Path] = {}
    for path in image_files(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix().removeprefix("train/")
        if stem in stems:
            raise UserError(f"{stems[stem]} and {path} have the same name without suffix: remove or rename one")
        stems[stem] = path
    if not stems:
        raise UserError(f"no image in {folder} (looked for {' '.join(SUFFIXES)})")
    return stems


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth, links followed, sorted; hidden ones are left out. None when there is no such folder."""
    paths = (Path(home, name) for home, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


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
        return Lists(labelled, unlabelled, found.val), "for validation (images/val)"
    val, _ = hold_out(others(found.pairs, labelled), keep=0)
    return Lists(labelled, others(unlabelled, val) or labelled, val), "held out for validation (no val part found)"


def shared(found: Found, split: str) -> tuple[Lists, str]:
    """The lists of `all`, of a share or of a number of the pairs, and where val comes from."""
    count = share_of(split)  # before anything else: a misspelt split is the first thing to hear of
    origin = "for validation (images/val)"
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


# --- classes --------------------------------------------------------------------------------------------------------


def find_classes(
    root: Path, samples: Sequence[Sample]
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...], str]:
    """Names, colours, and where they come from: `classes.txt`, else the values of every mask."""
    if (root / "classes.txt").is_file():
        return *read_classes(root / "classes.txt"), "classes.txt"
    values = mask_values([sample.mask for sample in samples if sample.mask is not None])
    count = max(values, default=-1) + 1
    if values <= {0}:
        raise UserError(
            f"the masks in {root / 'masks'} hold only void ({IGNORE}) and 0: looks like 0/255 masks: write 1 for the "
            "object, or name the classes in classes.txt"
        )
    if count > 2 * len(values):  # {0, 128}: grey levels; {0, 2}: a class that does not occur
        shown = ", ".join(str(value) for value in sorted(values)[:8])
        raise UserError(
            f"the masks in {root / 'masks'} hold {len(values)} values up to {count - 1} ({shown}): looks like grey "
            "levels; write ids 0, 1, 2, ... or name all classes in classes.txt"
        )
    return tuple(f"class_{index}" for index in range(count)), palette(count), "the values of the masks"


def mask_values(paths: Sequence[Path]) -> set[int]:
    """The values of all masks, void left out."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda path: np.bincount(read_mask(path).ravel(), minlength=IGNORE + 1) > 0, paths)
        seen = np.any([np.zeros(IGNORE + 1, bool), *found], axis=0)
    return set(np.flatnonzero(seen[:IGNORE]).tolist())
