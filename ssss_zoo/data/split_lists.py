"""Where a data set lies, and its split lists in the format that the field shares (UniMatch, ST++).

A list has one `<image path> <mask path>` per line, relative to the root. `splits/<name>/` holds `labeled.txt` and
`unlabeled.txt` of the split `<name>` (the folder of `1/8` is `1_8`); `splits/` holds `val.txt` and perhaps `train.txt`.
The folder of a split may lie anywhere; its path is the split then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ssss_zoo.data.folder.file_tree import normalize_name, pluralize
from ssss_zoo.data.folder.list_rows import NO_MASK_CELLS, TABLE_SUFFIXES, ListRow, read_list_rows
from ssss_zoo.errors import UserError, expanded, unknown
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

LABELLED_LISTS = ("labeled.txt", "labelled.txt")
UNLABELLED_LISTS = ("unlabeled.txt", "unlabelled.txt")
VAL_LIST = "val.txt"
INDEX_MASKS = "masks"  # the folder of a split for masks that lie outside of the data set
TRAIN_LISTS = ("train.txt", "train_aug.txt", "trainaug.txt")
LIST_SUFFIXES = (".txt", ".lst", *TABLE_SUFFIXES)
UNTIDY_PATH = re.compile(r"(^|/)\.{0,2}(/|$)")  # an absolute path, or one with `.`, `..` or two slashes in a row


@dataclass(frozen=True, eq=False)
class SplitLists:
    """The three lists of a run. files: the file of each list, `labelled`, `unlabelled` or `val`, that was read from
    one; notes: what the user should know of the lists."""

    labelled: list[Sample]
    unlabelled: list[Sample]
    val: list[Sample]
    files: dict[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()


# --- root -----------------------------------------------------------------------------------------------------------


def find_root(data: DataConfig, dataset: str, content: str) -> Path:
    """`data.root`, else `$SSSS_DATA/<dataset>`. Raises UserError, naming the `content` of the folder, when it does not
    exist."""
    store = os.environ.get("SSSS_DATA")
    if data.root:
        root = expanded(data.root)
        origin = "data.root"
    elif store:
        root = expanded(store) / dataset
        origin = f"$SSSS_DATA/{dataset}"
    else:
        raise UserError(
            f"where is the data set {dataset}? give data.root=PATH, the folder of {content}, or put them at "
            f"$SSSS_DATA/{dataset}"
        )
    if not root.is_dir():
        raise UserError(f"no folder {root} ({origin}): put {content} there, or give data.root=PATH")
    return root


def require_folders(root: Path, names: tuple[str, ...], content: str) -> None:
    """Raise UserError, naming the expected `content`, for folders that are missing in `root`."""
    missing = [f"{name}/" for name in names if not (root / name).is_dir()]
    if missing:
        raise UserError(f"no {' and no '.join(missing)} in {root}: expected there {content}")


def find_split_folder(root: Path, name: str, origin: str) -> Path:
    """`splits/<name>` or `splits`, whichever holds `val.txt`. Raises UserError, naming the `origin` of the lists, when
    none does."""
    for folder in (root / "splits" / name, root / "splits"):
        if (folder / VAL_LIST).is_file():
            return folder
    raise UserError(f"no {root / 'splits' / 'val.txt'}: put there the split lists of {origin}")


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


# --- the files that a list names ------------------------------------------------------------------------------------


class FileFinder:
    """Finds the file that a list names by its path from `root`. Backslashes and both Unicode forms of a name are
    accepted. Each folder is read once, which makes long lists quick."""

    expected = "expected '<image path> <mask path>' relative to"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names_in: dict[str, dict[str, str]] = {}  # by folder, the name on disk of each name

    def find_image(self, text: str) -> str:
        """The path from the root of the image that `text` names; empty where no regular file is called so."""
        return self.find_file(text)

    def find_mask(self, text: str) -> str:
        return self.find_file(text)

    def paired_mask(self, image: str) -> str:
        """The mask of an image for which the list gives none; empty where only the list could give it."""
        return ""

    def explain_missing(self, text: str) -> str:
        """Why `text` names no image, where more is known."""
        return ""

    def find_file(self, text: str) -> str:
        spellings = [text, text.replace("\\", "/")] if "\\" in text else [text]
        return next((found for path in spellings if path and (found := self.path_on_disk(path))), "")

    def path_on_disk(self, text: str) -> str:
        """A path as it is spelled on disk; empty where no regular file is called so."""
        folder, name = os.path.split(self.from_root(text) if UNTIDY_PATH.search(text) else text)
        names = self.file_names(folder)
        real = name if name in names else names.get(normalize_name(name), "")
        return os.path.join(self.folder_on_disk(folder), real).replace(os.sep, "/") if real else ""

    def from_root(self, text: str) -> str:
        """A path without detours; relative to the root where it leads below it."""
        root = os.path.abspath(self.root)
        path = os.path.abspath(os.path.join(self.root, text))
        return os.path.relpath(path, root) if path.startswith(root + os.sep) else os.path.normpath(text)

    def file_names(self, folder: str) -> dict[str, str]:
        """The regular files of a folder: the name on disk of each name, and of each normalised name."""
        if folder not in self.names_in:
            try:
                with os.scandir(self.root / self.folder_on_disk(folder)) as entries:
                    found = [entry.name for entry in entries if entry.is_file()]
            except (OSError, ValueError):
                found = []
            self.names_in[folder] = {normalize_name(name): name for name in found} | {name: name for name in found}
        return self.names_in[folder]

    def folder_on_disk(self, text: str) -> str:
        """A folder as it is spelled on disk; `text` where none is called so."""
        if not text or text.isascii() or os.path.isdir(self.root / text):
            return text
        above, name = os.path.split(text)
        try:
            others = os.listdir(self.root / self.folder_on_disk(above))
        except OSError:
            others = []
        real = next((other for other in others if normalize_name(other) == normalize_name(name)), name)
        return os.path.join(self.folder_on_disk(above), real)


# --- one list -------------------------------------------------------------------------------------------------------


def read_list(path: Path, root: Path, *, need_masks: bool, rename: Mapping[str, str] | None = None) -> list[Sample]:
    """The samples of a list, in its order; `Sample.name` is the image's path from the root.

    Paths may hold spaces where only one way to split the line gives two files; a TAB always splits it. Without
    `need_masks` the mask may be omitted, be `None` or not exist: then `Sample.mask` is None. rename: pieces of each
    line, and what replaces them. Raises UserError, naming list and line, for a missing file, for an image listed twice,
    and for a column of parts.
    """
    rows = [rename_in_row(row, rename or {}) for row in read_list_rows(path)]
    if any(row.part for row in rows):
        raise UserError(f"{path} has a column of parts, which only dataset=folder reads: leave it out")
    return samples_of_rows(rows, path, FileFinder(root), need_masks=need_masks)


def rename_in_row(row: ListRow, rename: Mapping[str, str]) -> ListRow:
    for old, new in rename.items():
        row = replace(
            row,
            text=row.text.replace(old, new),
            image=row.image.replace(old, new),
            mask=row.mask.replace(old, new),
        )
    return row


def samples_of_rows(rows: Sequence[ListRow], path: Path, files: FileFinder, *, need_masks: bool) -> list[Sample]:
    """The samples of a list's rows, in their order. Raises UserError as `read_list` does."""
    lines: dict[str, int] = {}
    samples = []
    for row in rows:
        where = f"{path} line {row.number}"
        image, mask = find_row_files(row, files, where, need_mask=need_masks)
        if image in lines:
            raise UserError(f"{where}: {image} is listed twice, first in line {lines[image]}")
        lines[image] = row.number
        samples.append(Sample(image, files.root / image, files.root / mask if mask else None))
    if not samples:
        raise UserError(f"{path} is empty; {files.expected} {files.root}, one a line")
    return samples


class PathPair(NamedTuple):
    """An image and its mask as a list names them, or by their paths from the root; the mask may be empty."""

    image: str
    mask: str


def find_row_files(row: ListRow, files: FileFinder, where: str, *, need_mask: bool) -> PathPair:
    """The files of a row; the mask is empty where there is none and none is needed."""
    candidates = [PathPair(row.image, row.mask)] if row.image else ways_to_split(row.text)
    with_image = [PathPair(found, mask) for image, mask in candidates if (found := files.find_image(image))]
    complete = {PathPair(image, found) for image, mask in with_image if (found := files.find_mask(mask))}
    if len(complete) > 1:
        raise UserError(f"{where}: '{row.text}' can be read in {len(complete)} ways; put a TAB between the two paths")
    if complete:
        return complete.pop()
    image, mask = with_image[-1] if with_image else PathPair("", "")  # the longest path that exists
    paired = files.paired_mask(image) if mask.lower() in NO_MASK_CELLS or not need_mask else ""
    if image and (paired or not need_mask):
        return PathPair(image, paired)
    raise missing_file_error(with_image, candidates, where, files)


def ways_to_split(line: str) -> list[PathPair]:
    """Every way to split a line into two paths; the second one may be empty."""
    gap = "\t" if "\t" in line else " "
    pieces = line.split(gap)
    return [PathPair(gap.join(pieces[:at]).strip(), gap.join(pieces[at:]).strip()) for at in range(1, len(pieces) + 1)]


def missing_file_error(
    with_image: Sequence[PathPair], candidates: Sequence[PathPair], where: str, files: FileFinder
) -> UserError:
    """The error for a row whose image or mask does not exist. with_image: the candidates whose image exists."""
    root = files.root
    if not with_image:
        image = candidates[0].image if len(candidates) <= 2 else candidates[-1].image
        missing = f"no image {root / image}{files.explain_missing(image)}"
        what = f"{root / image} is no regular file" if path_exists(root / image) else missing
        return UserError(f"{where}: {what}; {files.expected} {root}")
    image, mask = with_image[-1] if with_image[-1].mask else with_image[0]
    if mask.lower() in NO_MASK_CELLS:
        return UserError(f"{where}: no mask is given for {image}; {files.expected} {root}")
    what = f"{root / mask} is no regular file" if path_exists(root / mask) else f"no mask {root / mask}"
    return UserError(f"{where}: {what}")


def path_exists(path: Path) -> bool:
    """Whether a path exists; false for what is no path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def describe_files_outside(samples: Iterable[Sample], root: Path) -> list[str]:
    """A note on listed files that are not below `root`, as absolute paths or those with `..` may be; else none."""
    paths = [path for sample in samples for path in (sample.image, sample.mask) if path is not None]
    outside = [path for path in paths if not os.path.abspath(path).startswith(os.path.abspath(root) + os.sep)]
    return [f"the lists name {pluralize(len(outside), 'file')} outside {root}: {outside[0]}"] if outside else []


# --- the lists of a split -------------------------------------------------------------------------------------------


class ListReader(Protocol):
    """Reads the samples of a list file."""

    def __call__(self, path: Path, *, need_masks: bool) -> list[Sample]: ...


@dataclass(frozen=True, eq=False)
class TrainLists:
    """The labelled and the unlabelled samples of a split. files: of the lists, by `labelled` and `unlabelled`."""

    labelled: list[Sample]
    unlabelled: list[Sample]
    files: dict[str, Path]


def read_split(root: Path, folder: Path, split: str, rename: Mapping[str, str] | None = None) -> SplitLists:
    """The lists of a split, as `choose_split` finds them in `folder`, and `val.txt` from there."""

    def read(path: Path, *, need_masks: bool) -> list[Sample]:
        return read_list(path, root, need_masks=need_masks, rename=rename)

    val_file = folder / VAL_LIST
    val = read(val_file, need_masks=True)
    train = choose_split(root, folder, split, read)
    files = {"val": val_file, **train.files}
    check_disjoint(train.labelled, f"{files['labelled']} (labelled)", val, f"{val_file} (val)")
    notes = describe_files_outside([*train.labelled, *train.unlabelled, *val], root)
    return SplitLists(train.labelled, train.unlabelled, val, files, notes)


def choose_split(root: Path, folder: Path, split: str, read: ListReader) -> TrainLists:
    """Labelled and unlabelled samples of a split.

    split: a folder's name (`1/8` or `1_8`, `366`); the path of such a folder or of a labelled list, from the working
    directory or the root; or `all`, every image of the train list labelled. Without an unlabelled list every other
    image of the train list is unlabelled, or, if none is left, the labelled images themselves; so they are with `all`.
    Raises UserError for an unknown split.
    """
    named = named_splits(folder)
    path = find_list(root, split)
    labelled_list = find_folder_split(root, folder, split)
    own_unlabelled = first_existing(labelled_list.parent, UNLABELLED_LISTS) if labelled_list else None
    if labelled_list:
        labelled_files = [labelled_list]
    elif path:
        labelled_files = [path]
    elif split == "all" and (named or first_existing(folder, TRAIN_LISTS)):
        labelled_files = train_files(folder, named)
    else:
        raise unknown("split", split, {*(name.replace("_", "/") for name in named), "all"}, f"data.split={split}")
    labelled = [sample for file in labelled_files for sample in read(file, need_masks=True)]
    unlabelled_files = [own_unlabelled] if own_unlabelled else train_files(folder, named)
    unlabelled = [sample for file in unlabelled_files for sample in read(file, need_masks=False)]
    if not own_unlabelled:
        unlabelled = exclude_samples(unlabelled, labelled) or labelled
    files = [*labelled_files, *unlabelled_files]
    return TrainLists(labelled, unlabelled, {"labelled": files[0], "unlabelled": files[1]})


def named_splits(folder: Path) -> dict[str, Path]:
    """The labelled list of each split in `folder`, by the name of the split's folder."""
    homes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    lists = {home.name: first_existing(home, LABELLED_LISTS) for home in homes}
    return {name: path for name, path in lists.items() if path}


def find_folder_split(root: Path, folder: Path, split: str) -> Path | None:
    """The labelled list of a split that is a folder: one in `folder` by its name, or any by its path, from the working
    directory or the root. None where `split` is no such folder."""
    named = named_splits(folder).get(split.replace("/", "_"))
    if named or split in ("", "all"):
        return named
    found = (first_existing(path, LABELLED_LISTS) for path in (expanded(split), root / split))
    return next(filter(None, found), None)


def find_list(root: Path, split: str) -> Path | None:
    """The list whose path `split` is; None where it is no path. Raises UserError for the name of a list (`.txt`, `.csv`
    and the like) that does not exist."""
    for path in (expanded(split), root / split):
        if path.is_file():
            return path
    if split.lower().endswith(LIST_SUFFIXES):
        raise UserError(f"no list {split} (data.split), neither from the working directory nor from {root}")
    return None


def train_files(folder: Path, named: Mapping[str, Path]) -> list[Path]:
    """The lists of all training images: the train list, else both lists of the first split, whose union it is."""
    train = first_existing(folder, TRAIN_LISTS)
    if train:
        return [train]
    for path in named.values():
        rest = first_existing(path.parent, UNLABELLED_LISTS)
        if rest:
            return [path, rest]
    raise UserError(f"no list of all training images in {folder}: put a train.txt there")


def exclude_samples(samples: Sequence[Sample], excluded: Sequence[Sample]) -> list[Sample]:
    """The samples whose image is not in `excluded`, in their order."""
    images = {sample.image for sample in excluded}
    return [sample for sample in samples if sample.image not in images]


def check_disjoint(first: Sequence[Sample], first_name: str, second: Sequence[Sample], second_name: str) -> None:
    """Raise UserError when an image is in two lists that must have none in common: the score would be worthless."""
    images = {sample.image for sample in first}
    both = [sample.name for sample in second if sample.image in images]
    if both:
        raise UserError(
            f"{both[0]} is in two lists, {first_name} and {second_name}: take it off one of them (both have "
            f"{pluralize(len(both), 'such image')})"
        )
