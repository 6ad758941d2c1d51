"""The lists that lie in a folder of one's own: which are used, for what, and which are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssss_zoo.data.classes import FILES
from ssss_zoo.data.folder.layout import Found
from ssss_zoo.data.folder.parts import LABELLED, TEST, TRAIN, UNLABELLED, VAL, role
from ssss_zoo.data.folder.tables import TABLES, Row, has_parts, read_rows
from ssss_zoo.data.folder.tree import composed, label
from ssss_zoo.data.lists import (
    LISTS,
    UNLABELLED_LISTS,
    Files,
    check_apart,
    cut,
    first_file,
    list_path,
    named_splits,
    samples_of,
)
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Sample

PLACES = ("", "splits", "split", "lists", "ImageSets/Segmentation", "ImageSets")  # in the root, the first one counts
NEED_MASKS = (LABELLED, VAL)
PEEKED = 50  # rows looked at to tell a list from other text (our choice)


@dataclass(frozen=True, eq=False)
class Written:
    """A part that is written down. path: in which file."""

    samples: list[Sample]
    path: Path


@dataclass(frozen=True, eq=False)
class Chosen:
    """The lists of a folder. parts: those that are used, by `parts.role`; idle: those that are not, and why."""

    parts: dict[str, Written]
    idle: dict[Path, str]


class Known(Files):
    """Files as lists name them in a folder whose images are paired: by the path from the root or from the folder of
    images, with or without suffix, or by the name alone where only one is called so."""

    expected = "expected '<image path> <mask path>', or the image alone where the folder gives its mask, relative to"

    def __init__(self, found: Found) -> None:
        super().__init__(found.root)
        self.found = found
        self.samples = [*found.pairs, *found.val, *found.loose, *found.left]

    @cached_property
    def pairing(self) -> dict[str, str]:
        """The mask of each image."""
        return {sample.name: label(sample.mask, self.root) for sample in self.samples if sample.mask is not None}

    @cached_property
    def images(self) -> dict[str, str]:
        """The image that each spelling means."""
        homes = [label(corner.images, self.root) for corner in self.found.corners]
        return unique({sample.name: spellings(sample.name, homes) for sample in self.samples})

    @cached_property
    def masks(self) -> dict[str, str]:
        homes = [label(corner.masks, self.root) for corner in self.found.corners]
        return unique({mask: spellings(mask, homes) for mask in self.pairing.values()})

    def image(self, text: str) -> str:
        return self.there(text) or self.images.get(composed(text), "")

    def mask(self, text: str) -> str:
        return self.there(text) or self.masks.get(composed(text), "")

    def mask_of(self, image: str) -> str:
        return self.pairing.get(image, "")

    def why(self, text: str) -> str:
        called = [sample.name for sample in self.samples if composed(text) in spellings(sample.name, ())]
        return f" ({' and '.join(called[:2])} are called so: write the path)" if len(called) > 1 else ""


def spellings(name: str, homes: Sequence[str]) -> set[str]:
    """What a list may call a file: its path from the root or a folder, or its name, with and without suffix."""
    path = composed(name)
    whole = {path, path.rpartition("/")[2], *(path.removeprefix(f"{home}/") for home in homes)}
    return whole | {os.path.splitext(way)[0] for way in whole}


def unique(ways: Mapping[str, set[str]]) -> dict[str, str]:
    """The one that each spelling means; those that mean several are left out."""
    meant: dict[str, list[str]] = {}
    for name, spelled in ways.items():
        for way in spelled:
            meant.setdefault(way, []).append(name)
    return {way: names[0] for way, names in meant.items() if len(names) == 1}


# --- which lists ----------------------------------------------------------------------------------------------------


def written(found: Found, split: str) -> Chosen:
    """The lists that `data.split` names, and those that lie in the folder for the parts that these leave open.

    Raises UserError for a list that cannot be read, for two lists of one part in one place, and for an image in two
    lists that must have none in common.
    """
    known = Known(found)
    named, path = named_splits(found.root / "splits"), list_path(found.root, split)
    home = named.get(split.replace("/", "_"))
    given: dict[str, Written] = {}
    open_to = {TRAIN, LABELLED, UNLABELLED, VAL, TEST}
    if home:
        given, open_to = read_parts(home, known, LABELLED), {VAL, TEST}
        own = first_file(home.parent, UNLABELLED_LISTS)
        given |= read_parts(own, known, UNLABELLED) if own else {}
    elif path:
        given, open_to = read_parts(path, known, LABELLED), {UNLABELLED, VAL, TEST}
    lying = lying_lists(found.root, known, {part.path for part in given.values()}, open_to - set(given))
    check_lists(found, given | lying.parts)
    return Chosen(given | lying.parts, lying.idle)


def read_parts(path: Path, known: Files, part: str) -> dict[str, Written]:
    """The parts of a list: those that its column names, else `part`."""
    rows: dict[str, list[Row]] = {}
    for row in read_rows(path):
        rows.setdefault(row.part or part, []).append(row)
    if not rows:
        samples_of([], path, known, need_masks=False)  # which says what an empty list should hold
    return {
        name: Written(samples_of(of_part, path, known, need_masks=name in NEED_MASKS), path)
        for name, of_part in rows.items()
    }


def lying_lists(root: Path, known: Files, given: set[Path], wanted: set[str]) -> Chosen:
    """The lists that lie in `PLACES` for the parts that are wanted. given: lists that are read already."""
    parts: dict[str, Written] = {}
    idle: dict[Path, str] = {}
    for path in candidates(root):
        if any(path.samefile(other) for other in given):
            continue
        roles, why = roles_of(path, known)
        taken = next((parts[name].path for name in roles if name in parts), None)
        if taken and taken.parent == path.parent:
            raise UserError(f"{taken} and {path} are both the list of one part: rename or remove one")
        if taken or (roles and not set(roles) <= wanted):
            why = f"{label(taken, root)} is used" if taken else "data.split names others"
        if why:
            idle[path] = why
        elif roles:
            parts |= read_parts(path, known, roles[0])
    return Chosen(parts, idle)


def candidates(root: Path) -> Iterator[Path]:
    for place in PLACES:
        folder = root / place
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix.lower() in LISTS and path.name not in FILES and path.is_file() and path.name[0] != ".":
                yield path


def roles_of(path: Path, known: Files) -> tuple[list[str], str]:
    """The parts that a list speaks of, by its column or its name; or why a list is not used; neither for other text.

    Raises UserError for one that is a list by its name or columns and cannot be read: it is not passed over.
    """
    by_name, table = role(path.stem), path.suffix.lower() in TABLES
    try:
        rows = read_rows(path)
    except UserError as error:
        if by_name or has_parts(path):
            raise
        return [], brief(error, 240) if table else ""
    named = [
        any(known.image(word) for word, _ in ([(row.image, "")] if row.image else cut(row.text)))
        for row in rows[:PEEKED]
    ]
    roles = list(dict.fromkeys(row.part or by_name for row in rows))
    if any(named) and all(roles):
        return roles, ""
    if named and all(named):
        return [], f"its name says no part: data.split={path.name} takes its images as the labelled ones"
    lost = bool(rows) and (by_name or (table and any(roles)))
    return [], f"it names no image that is here, but {brief(rows[0].image or rows[0].text)}" if lost else ""


def check_lists(found: Found, parts: Mapping[str, Written]) -> None:
    """Raise UserError for an image that is to train on, and to validate or test on."""
    root = found.root
    for one in (LABELLED, TRAIN, UNLABELLED):
        for other in (VAL, TEST):
            if one in parts and other in parts:
                titles = [f"{label(parts[name].path, root)} ({name})" for name in (one, other)]
                ours = parts[other].path == root / "splits" / "val.txt"
                origin = ", which `ssss data split` writes where there is none" if ours else ""
                check_apart(parts[one].samples, titles[0], parts[other].samples, titles[1] + origin)
        if one in parts and VAL not in parts:
            title = f"{label(parts[one].path, root)} ({one})"
            check_apart(parts[one].samples, title, found.val, f"the val part of the folder ({found.said})")
