"""The split lists in a user's folder: which of them are used, for which part, and why others are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssss_zoo.data.classes import CLASS_LIST_NAMES
from ssss_zoo.data.folder.file_tree import normalize_name, relative_name
from ssss_zoo.data.folder.list_rows import TABLE_SUFFIXES, ListRow, has_part_column, read_list_rows
from ssss_zoo.data.folder.part_names import LABELLED, TEST, TRAIN, UNLABELLED, VAL, part_of_name
from ssss_zoo.data.folder.scan import ScanResult
from ssss_zoo.data.split_lists import (
    INDEX_MASKS,
    LIST_SUFFIXES,
    UNLABELLED_LISTS,
    VAL_LIST,
    FileFinder,
    check_disjoint,
    find_folder_split,
    find_list,
    first_existing,
    samples_of_rows,
    ways_to_split,
)
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Sample

LIST_FOLDERS = ("", "splits", "split", "lists", "ImageSets/Segmentation", "ImageSets")  # in the root; the first counts
PARTS_WITH_MASKS = (LABELLED, VAL)
ROWS_TRIED = 50  # rows that are looked up to tell a list from other text (our choice)


@dataclass(frozen=True, eq=False)
class ListedPart:
    """The samples that a list gives for a part of the data. path: of the list."""

    samples: list[Sample]
    path: Path


@dataclass(frozen=True, eq=False)
class FolderLists:
    """The lists of a folder. parts: those that are used, by part; unused: the others, and why. index_masks: the folder
    of masks that belongs to a split by its path; whatever the other masks hold, these hold class ids."""

    parts: dict[str, ListedPart]
    unused: dict[Path, str]
    index_masks: Path | None = None


class PairedFileFinder(FileFinder):
    """Finds files in a folder whose images are paired already. A list names an image by its path from the root or from
    the folder of images, with or without suffix, or by its name alone where no other image is called so."""

    expected = "expected '<image path> <mask path>', or the image alone where the folder gives its mask, relative to"

    def __init__(self, scanned: ScanResult) -> None:
        super().__init__(scanned.root)
        self.scanned = scanned
        self.samples = [*scanned.pairs, *scanned.val, *scanned.unmasked, *scanned.ignored]

    @cached_property
    def mask_of_image(self) -> dict[str, str]:
        return {
            sample.name: relative_name(sample.mask, self.root) for sample in self.samples if sample.mask is not None
        }

    @cached_property
    def image_of_spelling(self) -> dict[str, str]:
        homes = [relative_name(pair.images, self.root) for pair in self.scanned.folder_pairs]
        return unambiguous({sample.name: spellings_of(sample.name, homes) for sample in self.samples})

    @cached_property
    def mask_of_spelling(self) -> dict[str, str]:
        homes = [relative_name(pair.masks, self.root) for pair in self.scanned.folder_pairs]
        return unambiguous({mask: spellings_of(mask, homes) for mask in self.mask_of_image.values()})

    def find_image(self, text: str) -> str:
        return self.find_file(text) or self.image_of_spelling.get(normalize_name(text), "")

    def find_mask(self, text: str) -> str:
        return self.find_file(text) or self.mask_of_spelling.get(normalize_name(text), "")

    def paired_mask(self, image: str) -> str:
        return self.mask_of_image.get(image, "")

    def explain_missing(self, text: str) -> str:
        called = [sample.name for sample in self.samples if normalize_name(text) in spellings_of(sample.name, ())]
        return f" ({' and '.join(called[:2])} are called so: write the path)" if len(called) > 1 else ""


def spellings_of(name: str, homes: Sequence[str]) -> set[str]:
    """The names by which a list may mean a file: its path from the root or from one of `homes`, or its name alone, each
    with and without suffix."""
    path = normalize_name(name)
    whole = {path, path.rpartition("/")[2], *(path.removeprefix(f"{home}/") for home in homes)}
    return whole | {os.path.splitext(spelling)[0] for spelling in whole}


def unambiguous(spellings: Mapping[str, set[str]]) -> dict[str, str]:
    """The file that each spelling means; spellings of several files are left out."""
    meant: dict[str, list[str]] = {}
    for name, spelled in spellings.items():
        for spelling in spelled:
            meant.setdefault(spelling, []).append(name)
    return {spelling: names[0] for spelling, names in meant.items() if len(names) == 1}


# --- which lists ----------------------------------------------------------------------------------------------------


def find_folder_lists(scanned: ScanResult, split: str) -> FolderLists:
    """The lists that `data.split` names, and for the parts that these leave open, the lists in the folder.

    Raises UserError for a list that cannot be read, for two lists of one part in one folder, and for an image in two
    lists that must have none in common.
    """
    files = PairedFileFinder(scanned)
    path = find_list(scanned.root, split)
    labelled_list = find_folder_split(scanned.root, scanned.root / "splits", split)
    named: dict[str, ListedPart] = {}
    wanted = {TRAIN, LABELLED, UNLABELLED, VAL, TEST}
    if labelled_list:
        home = labelled_list.parent
        own_unlabelled = first_existing(home, UNLABELLED_LISTS)
        own_val = first_existing(home, [VAL_LIST])
        named = read_list_parts(labelled_list, files, LABELLED)
        named |= read_list_parts(own_unlabelled, files, UNLABELLED) if own_unlabelled else {}
        named |= read_list_parts(own_val, files, VAL) if own_val else {}
        wanted = {VAL, TEST}
    elif path:
        named = read_list_parts(path, files, LABELLED)
        wanted = {UNLABELLED, VAL, TEST}
    others = read_other_lists(scanned.root, files, {part.path for part in named.values()}, wanted - set(named))
    parts = named | others.parts
    check_parts_disjoint(scanned, parts)
    index_masks = Path(os.path.abspath(labelled_list.parent / INDEX_MASKS)) if labelled_list else None
    return FolderLists(parts, others.unused, index_masks)


def read_list_parts(path: Path, files: FileFinder, default: str) -> dict[str, ListedPart]:
    """The parts of a list: those that its column of parts names. default: the part of a list without such a column."""
    rows: dict[str, list[ListRow]] = {}
    for row in read_list_rows(path):
        rows.setdefault(row.part or default, []).append(row)
    if not rows:
        samples_of_rows([], path, files, need_masks=False)  # raises the error for an empty list
    return {
        name: ListedPart(samples_of_rows(of_part, path, files, need_masks=name in PARTS_WITH_MASKS), path)
        for name, of_part in rows.items()
    }


def read_other_lists(root: Path, files: FileFinder, already_read: set[Path], wanted: set[str]) -> FolderLists:
    """The lists in `LIST_FOLDERS` for the `wanted` parts."""
    parts: dict[str, ListedPart] = {}
    unused: dict[Path, str] = {}
    for path in candidate_lists(root):
        if any(path.samefile(other) for other in already_read):
            continue
        content = inspect_list(path, files)
        taken = next((parts[name].path for name in content.parts if name in parts), None)
        if taken and taken.parent == path.parent:
            raise UserError(f"{taken} and {path} are both the list of one part: rename or remove one")
        if taken:
            unused[path] = f"{relative_name(taken, root)} is used"
        elif content.parts and not set(content.parts) <= wanted:
            unused[path] = "data.split names others"
        elif content.why_unused:
            unused[path] = content.why_unused
        elif content.parts:
            parts |= read_list_parts(path, files, content.parts[0])
    return FolderLists(parts, unused)


def candidate_lists(root: Path) -> Iterator[Path]:
    """The files in `LIST_FOLDERS` that may be lists, by their names."""
    for name in LIST_FOLDERS:
        folder = root / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            may_be_list = path.suffix.lower() in LIST_SUFFIXES and path.name not in CLASS_LIST_NAMES
            if may_be_list and path.is_file() and path.name[0] != ".":
                yield path


@dataclass(frozen=True)
class ListContent:
    """What a file says as a list. parts: for which parts it has rows; why_unused: why it is a list and cannot be used.
    Both are empty for other text."""

    parts: Sequence[str] = ()
    why_unused: str = ""


def inspect_list(path: Path, files: FileFinder) -> ListContent:
    """The parts of a list, by its column of parts or its name.

    Raises UserError for a file that cannot be read although its name or its columns are those of a list.
    """
    part = part_of_name(path.stem)
    is_table = path.suffix.lower() in TABLE_SUFFIXES
    try:
        rows = read_list_rows(path)
    except UserError as error:
        if part or has_part_column(path):
            raise
        return ListContent(why_unused=brief(error, 240) if is_table else "")
    found = [names_an_image(row, files) for row in rows[:ROWS_TRIED]]
    parts = list(dict.fromkeys(row.part or part for row in rows))
    if any(found) and all(parts):
        return ListContent(parts)
    if found and all(found):
        remedy = f"data.split={path.name} takes its images as the labelled ones"
        return ListContent(why_unused=f"its name says no part: {remedy}")
    if rows and (part or (is_table and any(parts))):
        example = brief(rows[0].image or rows[0].text)
        return ListContent(why_unused=f"it names no image that is here, but {example}")
    return ListContent()


def names_an_image(row: ListRow, files: FileFinder) -> bool:
    texts = [row.image] if row.image else [pair.image for pair in ways_to_split(row.text)]
    return any(files.find_image(text) for text in texts)


def check_parts_disjoint(scanned: ScanResult, parts: Mapping[str, ListedPart]) -> None:
    """Raise UserError for an image to train on that is also in val or test."""
    root = scanned.root
    for train in (LABELLED, TRAIN, UNLABELLED):
        if train not in parts:
            continue
        train_name = f"{relative_name(parts[train].path, root)} ({train})"
        for held_out in (VAL, TEST):
            if held_out in parts:
                path = parts[held_out].path
                ours = path == root / "splits" / VAL_LIST
                origin = ", which `ssss data split` writes where there is none" if ours else ""
                name = f"{relative_name(path, root)} ({held_out}){origin}"
                check_disjoint(parts[train].samples, train_name, parts[held_out].samples, name)
        if VAL not in parts:
            name = f"the val part of the folder ({scanned.description})"
            check_disjoint(parts[train].samples, train_name, scanned.val, name)
