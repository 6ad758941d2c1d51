"""Which images of a folder are labelled, which unlabelled, and which validate: by lists, by parts, or held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssss_zoo.data.duplicates import describe_dropped_copies, drop_copies, split_off
from ssss_zoo.data.folder.file_tree import relative_name
from ssss_zoo.data.folder.folder_lists import ListedPart
from ssss_zoo.data.folder.part_names import LABELLED, TEST, TRAIN, UNLABELLED, VAL
from ssss_zoo.data.folder.scan import ScanResult
from ssss_zoo.data.split_lists import SplitLists, describe_files_outside, exclude_samples, find_folder_split, find_list
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.toolkit.types import Sample

HELD_OUT_SHARE = 0.2  # of the labelled images, where there is no val part (our choice)


@dataclass(frozen=True, eq=False)
class Selection:
    """The lists of a run. val_origin: where the validation images come from, for the user. val_held_out: whether they
    were drawn from the images with masks."""

    lists: SplitLists
    val_origin: str
    val_held_out: bool


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Validation images that are held out, and the remaining images."""

    val: list[Sample]
    rest: list[Sample]


def select_samples(scanned: ScanResult, parts: Mapping[str, ListedPart], split: str) -> Selection:
    """Decide the use of each image. parts: those that lists give; the folder gives the others. split: `data.split`.

    The validation images are those of the val list, else of the val part, else held out: from pairs that no list names,
    where there are some. Images of val and test are never trained on. Without an unlabelled list every other image is
    unlabelled.
    """
    listed = {name: part.samples for name, part in parts.items()}
    count_labelled = parse_split(scanned.root, split)  # first, since the user should hear of a misspelt split first
    val = listed.get(VAL, scanned.val)
    not_trained = [*val, *listed.get(TEST, [])]
    train = listed.get(LABELLED) or [sample for sample in listed.get(TRAIN, scanned.pairs) if sample.mask]
    pairs = exclude_samples(train, not_trained)
    spare = exclude_samples(scanned.pairs, [*train, *not_trained])
    spare = drop_copies(spare, pairs) or spare
    hold_out = not val
    if hold_out:
        held = hold_out_val(spare, keep=0) if spare else hold_out_val(pairs, keep=1)
        val = held.val
        pairs = pairs if spare else held.rest
        val_origin = "held out for validation (no val part found)"
    else:
        val_file = relative_name(parts[VAL].path, scanned.root) if VAL in parts else "val part"
        val_origin = f"for validation ({val_file})"
    labelled = choose_labelled(pairs, count_labelled(len(pairs)), split)
    pool = unlabelled_pool(scanned, listed, pairs, labelled)
    every = exclude_samples(unique_samples(pool), [*labelled, *val, *not_trained])
    unlabelled = drop_copies(every, val, labelled) if hold_out else every
    notes = [*describe_lists(scanned.root, parts), *describe_dropped_copies(len(every) - len(unlabelled))]
    return Selection(SplitLists(labelled, unlabelled or labelled, val, notes=notes), val_origin, hold_out)


def choose_labelled(pairs: Sequence[Sample], number: int, split: str) -> list[Sample]:
    """The same `number` of pairs whenever asked, the smaller numbers within the larger. Raises UserError for fewer than
    1 or more than there are."""
    if not 1 <= number <= len(pairs):
        raise UserError(
            f"data.split={split} asks for {number} labelled images of {len(pairs)}; expected 1 to that many"
        )
    chosen = {sample.image for sample in order_by_hash(pairs, "labelled")[:number]}
    return [sample for sample in pairs if sample.image in chosen]


def unlabelled_pool(
    scanned: ScanResult, listed: Mapping[str, list[Sample]], pairs: Sequence[Sample], labelled: Sequence[Sample]
) -> list[Sample]:
    """The images that may be unlabelled: those of the unlabelled list, or of the train list beside a labelled one, with
    the pairs that are not labelled; else every image."""
    within = listed.get(UNLABELLED) or (listed[TRAIN] if {TRAIN, LABELLED} <= set(listed) else None)
    if within:
        return [*exclude_samples(pairs, labelled), *within]
    return [*scanned.pairs, *pairs, *listed.get(TRAIN, []), *scanned.unmasked]


def unique_samples(samples: Sequence[Sample]) -> list[Sample]:
    """One sample per image; the last one counts, in the place of the first."""
    return list({sample.image: sample for sample in samples}.values())


# --- how many -------------------------------------------------------------------------------------------------------


def parse_split(root: Path, split: str) -> Callable[[int], int]:
    """How many of n images `data.split` labels; all where it names a list."""
    is_list = find_folder_split(root, root / "splits", split) or find_list(root, split)
    return parse_share("all" if is_list else split)


def parse_share(split: str) -> Callable[[int], int]:
    """How many of n images `all`, `1/4` or `12` means. A share is rounded half up, and is at least one image."""
    fraction = re.fullmatch(r"(\d+)[/_](\d+)", split)
    if split == "all":
        return lambda total: total
    if fraction and 0 < int(fraction[1]) <= int(fraction[2]):
        above, below = int(fraction[1]), int(fraction[2])
        return lambda total: max((2 * total * above + below) // (2 * below), min(total, 1))
    if re.fullmatch(r"\d+", split):
        return lambda total: int(split)
    raise unknown(
        "split",
        split,
        ["all", "a share such as 1/4", "a number of images", "a list or a folder of lists"],
        f"data.split={split}",
    )


def hold_out_val(pairs: Sequence[Sample], keep: int) -> HeldOut:
    """Hold out a fixed share of `pairs`; copies of an image stay on one side. Raises UserError where fewer than `keep`
    would remain."""
    if len(pairs) < 1 + keep:
        raise UserError(
            f"{len(pairs)} labelled images to hold some out for validation, at least {1 + keep} needed: "
            "label more, or add images/val and masks/val"
        )
    number = max(int(len(pairs) * HELD_OUT_SHARE + 0.5), 1)
    chosen = {sample.image for sample in split_off(order_by_hash(pairs, "val"), number, keep)}
    return HeldOut(
        val=[sample for sample in pairs if sample.image in chosen],
        rest=[sample for sample in pairs if sample.image not in chosen],
    )


def order_by_hash(samples: Sequence[Sample], salt: str) -> list[Sample]:
    """An arbitrary order that depends on the names alone: on no library's generator, and hardly on new images."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{salt} {sample.name}".encode()).digest())


# --- notes ----------------------------------------------------------------------------------------------------------


def describe_lists(root: Path, parts: Mapping[str, ListedPart]) -> list[str]:
    """Notes on the lists that are used: their files, images in two lists, files outside the root."""
    if not parts:
        return []
    counts: dict[str, list[str]] = {}
    for name, part in parts.items():
        counts.setdefault(relative_name(part.path, root), []).append(f"{name}: {len(part.samples)}")
    files_with_counts = [f"{file} ({', '.join(of_file)})" for file, of_file in counts.items()]
    notes = [f"lists: {', '.join(files_with_counts)}"]
    if {LABELLED, UNLABELLED} <= set(parts):
        labelled = {sample.image for sample in parts[LABELLED].samples}
        twice = [sample.name for sample in parts[UNLABELLED].samples if sample.image in labelled]
        if twice:
            files = " and ".join(relative_name(parts[name].path, root) for name in (LABELLED, UNLABELLED))
            notes.append(f"{len(twice)} images are in two lists, {files}, such as {twice[0]}: they count as labelled")
    return [*notes, *describe_files_outside([sample for part in parts.values() for sample in part.samples], root)]
