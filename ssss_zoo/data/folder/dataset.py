"""Your own images, in the layouts and with the masks that people have, and no line of code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.base import WARNING, Fault
from ssss_zoo.data.classes import FILES
from ssss_zoo.data.codes import upright_size
from ssss_zoo.data.duplicates import describe_dropped_copies, drop_copies, split_off
from ssss_zoo.data.files import FileDataset, resize_mask, same_aspect
from ssss_zoo.data.folder.layout import Found, scan
from ssss_zoo.data.folder.parts import LABELLED, TEST, TRAIN, UNLABELLED, VAL
from ssss_zoo.data.folder.tree import MISSED, Fate, fates, label, number_of, summary
from ssss_zoo.data.folder.written import Chosen, Written, written
from ssss_zoo.data.images import Reading, image_size
from ssss_zoo.data.lists import LISTS, Lists, find_root, first_file, list_path, named_splits, others, outside
from ssss_zoo.data.masks import understand
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig
    from ssss_zoo.data.folder.mask_encoding import Encoding
    from ssss_zoo.data.folder.regions import Regions

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
        *("root", "split", "cache", "hold_out", "changed", "layout", "images", "masks", "parts", "unlabelled"),
        *("encoding", "ignore", "snap", "resize_masks", "channels", "low", "high", "nodata", "exif", "max_pixels"),
    )

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "folder", "images/, masks/ and unlabelled/")
        found = scan(root, data)
        chosen = written(found, data.split)
        lists, origin = arranged(found, chosen.parts, data.split)
        self.settled = Reading(bands=tuple(data.channels), exif=data.exif, max_pixels=data.max_pixels)
        self.take(lists)
        samples = {sample.image: sample for sample in (*self.labelled, *self.unlabelled, *self.val)}.values()
        masked = [sample for sample in samples if sample.mask]
        self.resize_masks = data.resize_masks
        classes = understand(data, root, masked, found.regions)
        self.class_file = first_file(root, FILES)
        self.class_names, self.colours, self.encoding = classes.names, classes.colours, classes.encoding
        fates = account(found, chosen, lists, self.encoding.files)
        self.account = {label(path, root): str(fate) for path, fate in fates.items()}
        self.faults = [*found.faults, *left_out(fates, chosen, root), *classes.faults]
        self.notes = [
            f"{len(self.labelled)} labelled, {len(self.val)} {origin}, {len(self.unlabelled)} unlabelled, "
            f"{len(self.class_names)} classes from {classes.origin}",
            f"layout {found.layout}: {found.said}; {self.encoding.said(self.class_names)}",
            *self.notes,
            *classes.notes,
            *(f"{label(path, root)} is not used: {why}" for path, why in chosen.idle.items()),
            summary(fates, root),
        ]
        if data.resize_masks:
            count = sum(resized(self.encoding, sample, self.settled) for sample in masked)
            self.notes.append(f"{count} of {len(masked)} masks are resized to their images' size (nearest neighbour)")
        if lists.unlabelled is lists.labelled:
            self.notes.append("no unlabelled image found: the labelled ones serve as unlabelled, too")
        if found.left:
            self.notes.append(f"{len(found.left)} images of the test part are left alone")

    def read_mask(self, sample: Sample) -> np.ndarray:
        if sample.mask is None:
            raise UserError(f"{sample.name} has no mask")
        mask = self.encoding.read(sample)
        if self.resize_masks:
            mask = resize_mask(mask, image_size(sample.image, self.reading))
        return self.voided(mask, sample)

    def mask_files(self, sample: Sample) -> list[Path]:
        return self.encoding.files(sample)


def resized(encoding: Encoding | Regions, sample: Sample, reading: Reading) -> bool:
    """Whether a mask has another size than its image, and the same aspect; a file that cannot be read is no such."""
    try:
        mask, image = encoding.size(sample), upright_size(sample.image, reading)
    except UserError:
        return False
    return mask != image and same_aspect(mask, image)


# --- what is used for what ------------------------------------------------------------------------------------------


def arranged(found: Found, parts: Mapping[str, Written], split: str) -> tuple[Lists, str]:
    """The lists of a run, and where val comes from. parts: those that are written down; what they leave open, the
    folder gives.

    Val is the list, else the val part, else held out: of the pairs that are in no list, where there are some. What is
    in val or test is never trained on. Without an unlabelled list every other image is unlabelled.
    """
    listed = {name: part.samples for name, part in parts.items()}
    count = share_of("all" if is_list(found.root, split) else split)  # a misspelt split is the first thing to hear of
    val = listed.get(VAL, found.val)
    away = [*val, *listed.get(TEST, [])]
    train = listed.get(LABELLED) or [sample for sample in listed.get(TRAIN, found.pairs) if sample.mask]
    pairs = others(train, away)
    spare = others(found.pairs, [*train, *away])
    spare = drop_copies(spare, pairs) or spare
    held = not val
    if val:
        origin = f"for validation ({label(parts[VAL].path, found.root) if VAL in parts else 'val part'})"
    else:
        val, rest = hold_out(spare, keep=0) if spare else hold_out(pairs, keep=1)
        pairs = pairs if spare else rest
        origin = "held out for validation (no val part found)"
    number = count(len(pairs))
    if not 1 <= number <= len(pairs):
        raise UserError(
            f"data.split={split} asks for {number} labelled images of {len(pairs)}; expected 1 to that many"
        )
    chosen = {sample.image for sample in shuffled(pairs, "labelled")[:number]}
    labelled = [sample for sample in pairs if sample.image in chosen]
    within = listed.get(UNLABELLED) or (listed[TRAIN] if {TRAIN, LABELLED} <= set(listed) else None)
    pool = [*others(pairs, labelled), *within] if within else pool_of(found, pairs, listed.get(TRAIN, []))
    every = others(once(pool), [*labelled, *val, *away])
    unlabelled = drop_copies(every, val, labelled) if held else every
    notes = [*list_notes(found.root, parts), *describe_dropped_copies(len(every) - len(unlabelled))]
    return Lists(labelled, unlabelled or labelled, val, notes=notes), origin


def pool_of(found: Found, pairs: Sequence[Sample], train: Sequence[Sample]) -> list[Sample]:
    """Every image of a folder that may be trained on without its mask, and those of lists."""
    return [*found.pairs, *pairs, *train, *found.loose]


def once(samples: Sequence[Sample]) -> list[Sample]:
    return list({sample.image: sample for sample in samples}.values())


def is_list(root: Path, split: str) -> bool:
    return split.replace("/", "_") in named_splits(root / "splits") or list_path(root, split) is not None


def list_notes(root: Path, parts: Mapping[str, Written]) -> list[str]:
    """What a person should know of the lists that are used."""
    told: dict[str, list[str]] = {}
    for name, part in parts.items():
        told.setdefault(label(part.path, root), []).append(f"{name}: {len(part.samples)}")
    notes = [f"lists: {', '.join(f'{file} (' + ', '.join(counts) + ')' for file, counts in told.items())}"]
    notes = notes if parts else []
    both = {LABELLED, UNLABELLED} <= set(parts)
    shown = {sample.image for sample in parts[LABELLED].samples} if both else set()
    twice = [sample.name for sample in parts[UNLABELLED].samples if sample.image in shown] if both else []
    if twice:
        files = " and ".join(label(parts[name].path, root) for name in (LABELLED, UNLABELLED))
        notes.append(f"{len(twice)} images are in two lists, {files}, such as {twice[0]}: they count as labelled")
    return [*notes, *outside([sample for part in parts.values() for sample in part.samples], root)]


# --- what became of every file --------------------------------------------------------------------------------------


def account(
    found: Found, chosen: Chosen, lists: Lists, mask_files: Callable[[Sample], Sequence[Path]]
) -> dict[Path, Fate]:
    """What became of every file below the root. mask_files: the files of a sample's mask."""
    claims: dict[Path, Fate] = {}
    idle = Fate(why="image that no list names")
    test = [*found.left, *(chosen.parts[TEST].samples if TEST in chosen.parts else [])]
    groups = (
        (Fate("validation image"), Fate("mask"), lists.val),
        (Fate("labelled image"), Fate("mask"), lists.labelled),
        (Fate("unlabelled image"), Fate("mask"), lists.unlabelled),
        (Fate(why="image of the test part"), Fate(why="mask of the test part"), test),
        (idle, Fate(why="mask of an image that no list names"), [*found.pairs, *found.val, *found.loose]),
    )
    for image, mask, samples in groups:
        for sample in samples:
            claims.setdefault(sample.image, image)
            for path in mask_files(sample) if sample.mask else []:
                drawn = mask.what and path.suffix.lower() == ".json"
                claims.setdefault(path, Fate("file of annotations") if drawn else mask)
    files = [part.path for part in chosen.parts.values()]
    lying = [path for path in found.tree.below(found.root / "splits") if path.suffix.lower() in LISTS]
    unused = {path: Fate(why="unused list") for path in (*lying, *chosen.idle)}
    classes = first_file(found.root, FILES)
    told = {path: Fate("list") for path in files} | ({classes: Fate("class list")} if classes else {})
    return fates(found.trees, {**claims, **unused, **told, **found.refused})


def left_out(account: Mapping[Path, Fate], chosen: Chosen, root: Path) -> list[Fault]:
    """A warning for each kind of file that may well be meant to be read, and for each list that is not used."""
    kinds: dict[Fate, list[Path]] = {}
    for path, fate in account.items():
        if fate.mend in MISSED:
            kinds.setdefault(fate, []).append(path)
    faults = []
    for fate, paths in kinds.items():
        names = label(paths[0], root)
        message = f"{number_of(len(paths), fate.why)} left out, such as {names}: {fate.mend}"
        faults.append(Fault(WARNING, "left out", names, message))
    for path, why in chosen.idle.items():
        faults.append(Fault(WARNING, "list", label(path, root), f"{label(path, root)} is not used: {why}"))
    return faults


# --- what is held out -----------------------------------------------------------------------------------------------


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
    """A fixed share of `pairs` to validate on, and the rest; copies of an image on one side. Raises UserError where
    fewer than `keep` would be left."""
    if len(pairs) < 1 + keep:
        raise UserError(
            f"{len(pairs)} labelled images to hold some out for validation, at least {1 + keep} needed: "
            "label more, or add images/val and masks/val"
        )
    number = max(int(len(pairs) * HELD_OUT + 0.5), 1)
    chosen = {sample.image for sample in split_off(shuffled(pairs, "val"), number, keep)}
    return [s for s in pairs if s.image in chosen], [s for s in pairs if s.image not in chosen]


def shuffled(samples: Sequence[Sample], salt: str) -> list[Sample]:
    """An arbitrary order that depends on the names alone, on no library's generator; new images hardly disturb it."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{salt} {sample.name}".encode()).digest())
