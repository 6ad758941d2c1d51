"""Where a data set lies, and its split lists in the format the field shares (UniMatch, ST++).

A list has one `<image path> <mask path>` a line, relative to the root. `splits/<name>/` holds `labeled.txt` and
`unlabeled.txt` of the split `<name>` (`1/8` is the folder `1_8`), `splits/` itself `val.txt` and perhaps `train.txt`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssss_zoo.data.folder.tables import NO_MASK, TABLES, Row, read_rows
from ssss_zoo.data.folder.tree import composed, number_of
from ssss_zoo.errors import UserError, expanded, unknown
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

LABELLED_LISTS = ("labeled.txt", "labelled.txt")
UNLABELLED_LISTS = ("unlabeled.txt", "unlabelled.txt")
TRAIN_LISTS = ("train.txt", "train_aug.txt", "trainaug.txt")
LISTS = (".txt", ".lst", *TABLES)  # suffixes of lists
UNTIDY = re.compile(r"(^|/)\.{0,2}(/|$)")  # an absolute path, or one with `.`, `..` or two slashes in a row

Reader = Callable[[Path, bool], list[Sample]]  # (list file, masks needed)


@dataclass(frozen=True, eq=False)
class Lists:
    """The three lists of a run. files: where each is written down, of those that are; notes: what a person should know
    of them."""

    labelled: list[Sample]
    unlabelled: list[Sample]
    val: list[Sample]
    files: dict[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()


# --- root -----------------------------------------------------------------------------------------------------------


def find_root(data: DataConfig, dataset: str, content: str) -> Path:
    """`data.root`, else `$SSSS_DATA/<dataset>`. Raises UserError, naming its `content`, when it is absent."""
    store = os.environ.get("SSSS_DATA")
    if data.root:
        root, origin = expanded(data.root), "data.root"
    elif store:
        root, origin = expanded(store) / dataset, f"$SSSS_DATA/{dataset}"
    else:
        raise UserError(
            f"where is the data set {dataset}? give data.root=PATH, the folder of {content}, or put them at "
            f"$SSSS_DATA/{dataset}"
        )
    if not root.is_dir():
        raise UserError(f"no folder {root} ({origin}): put {content} there, or give data.root=PATH")
    return root


def need_folders(root: Path, names: tuple[str, ...], content: str) -> None:
    """Raise UserError for folders that are not in `root`, which should be `content`."""
    missing = [f"{name}/" for name in names if not (root / name).is_dir()]
    if missing:
        raise UserError(f"no {' and no '.join(missing)} in {root}: expected there {content}")


def split_folder(root: Path, name: str, origin: str) -> Path:
    """`splits/<name>` or `splits`, whichever holds `val.txt`. Raises UserError, naming `origin`, when none does."""
    for folder in (root / "splits" / name, root / "splits"):
        if (folder / "val.txt").is_file():
            return folder
    raise UserError(f"no {root / 'splits' / 'val.txt'}: put there the split lists of {origin}")


# --- one list -------------------------------------------------------------------------------------------------------


class Files:
    """Which files the words of a list name: by their path from `root`, in either way that Unicode writes a name, and
    with backslashes. Reads each folder once, which is quick for long lists."""

    expected = "expected '<image path> <mask path>' relative to"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, dict[str, str]] = {}

    def image(self, text: str) -> str:
        """The path from the root of the image that `text` names; empty where it names no regular file."""
        return self.there(text)

    def mask(self, text: str) -> str:
        return self.there(text)

    def mask_of(self, image: str) -> str:
        """The mask of an image that a list gives none for; empty where nothing else tells it."""
        return ""

    def why(self, text: str) -> str:
        """Why `text` names no image, where more is known."""
        return ""

    def there(self, text: str) -> str:
        spelled = [text, text.replace("\\", "/")] if "\\" in text else [text]
        return next((found for word in spelled if word and (found := self.spelled(word))), "")

    def spelled(self, text: str) -> str:
        """A path as it is spelled on disk; empty where no regular file is called so."""
        plain = self.tidy(text) if UNTIDY.search(text) else text
        folder, name = os.path.split(plain)
        names = self.names(folder)
        real = name if name in names else names.get(composed(name), "")
        return os.path.join(self.folder(folder), real) if real else ""

    def tidy(self, text: str) -> str:
        """A path without detours, from the root where it leads below it."""
        root, path = (os.path.abspath(place) for place in (self.root, os.path.join(self.root, text)))
        return os.path.relpath(path, root) if path.startswith(root + os.sep) else os.path.normpath(text)

    def names(self, folder: str) -> dict[str, str]:
        """The regular files of a folder by their name, and by that name composed."""
        if folder not in self.folders:
            try:
                with os.scandir(self.root / self.folder(folder)) as entries:
                    found = [entry.name for entry in entries if entry.is_file()]
            except (OSError, ValueError):
                found = []
            self.folders[folder] = {composed(name): name for name in found} | {name: name for name in found}
        return self.folders[folder]

    def folder(self, text: str) -> str:
        """A folder as it is spelled on disk; `text` where none is called so."""
        if not text or text.isascii() or os.path.isdir(self.root / text):
            return text
        above, name = os.path.split(text)
        inside = self.root / self.folder(above)
        real = next((other for other in listed(inside) if composed(other) == composed(name)), name)
        return os.path.join(self.folder(above), real)


def listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def read_list(path: Path, root: Path, need_masks: bool, rename: Mapping[str, str] | None = None) -> list[Sample]:
    """The samples of a list, in its order; `Sample.name` is the image's path from the root.

    Paths may hold spaces where only one place to part them gives two files; a TAB parts them for certain. Without
    `need_masks` the mask may be left out, be `None` or not exist: then `Sample.mask` is None. rename: pieces of a
    line to replace. Raises UserError, naming list and line, for a missing file, for an image listed twice, and for a
    column of parts.
    """
    rows = [renamed(row, rename or {}) for row in read_rows(path)]
    parted = next((row for row in rows if row.part), None)
    if parted:
        raise UserError(f"{path} has a column of parts, which only dataset=folder reads: leave it out")
    return samples_of(rows, path, Files(root), need_masks)


def renamed(row: Row, pieces: Mapping[str, str]) -> Row:
    """A row with pieces of its paths replaced."""
    for old, new in pieces.items():
        image, mask = row.image.replace(old, new), row.mask.replace(old, new)
        row = replace(row, text=row.text.replace(old, new), image=image, mask=mask)
    return row


def samples_of(rows: Sequence[Row], path: Path, files: Files, need_masks: bool) -> list[Sample]:
    """The samples of a list's rows, in their order. Raises UserError as `read_list` does."""
    lines: dict[str, int] = {}
    samples = []
    for row in rows:
        where = f"{path} line {row.number}"
        image, mask = split_line(row, files, need_masks, where)
        if image in lines:
            raise UserError(f"{where}: {image} is listed twice, first in line {lines[image]}")
        lines[image] = row.number
        samples.append(Sample(image, files.root / image, files.root / mask if mask else None))
    if not samples:
        raise UserError(f"{path} is empty; {files.expected} {files.root}, one a line")
    return samples


def split_line(row: Row, files: Files, need_mask: bool, where: str) -> tuple[str, str]:
    """Image and mask path of a row; the mask is "" where there is none and none is needed."""
    choices = [(row.image, row.mask)] if row.image else cut(row.text)
    with_image = [(found, mask) for image, mask in choices if (found := files.image(image))]
    pairs = {(image, found) for image, mask in with_image if (found := files.mask(mask))}
    if len(pairs) > 1:
        raise UserError(f"{where}: '{row.text}' can be read in {len(pairs)} ways; put a TAB between the two paths")
    if pairs:
        return pairs.pop()
    image, mask = with_image[-1] if with_image else ("", "")  # the longest path that exists
    known = files.mask_of(image) if mask.lower() in NO_MASK or not need_mask else ""
    if image and (known or not need_mask):
        return image, known
    raise missing_file(with_image, choices, where, files)


def cut(line: str) -> list[tuple[str, str]]:
    """Every way to part a line into two paths, the second one of which may be empty."""
    gap = "\t" if "\t" in line else " "
    words = line.split(gap)
    return [(gap.join(words[:at]).strip(), gap.join(words[at:]).strip()) for at in range(1, len(words) + 1)]


def missing_file(
    with_image: Sequence[tuple[str, str]], choices: Sequence[tuple[str, str]], where: str, files: Files
) -> UserError:
    """The error for a row of a list whose image, or mask, is not there."""
    root = files.root
    if not with_image:
        image = choices[0][0] if len(choices) <= 2 else choices[-1][0]
        other = exists(root / image)
        what = f"{root / image} is no regular file" if other else f"no image {root / image}{files.why(image)}"
        return UserError(f"{where}: {what}; {files.expected} {root}")
    image, mask = with_image[-1] if with_image[-1][1] else with_image[0]
    if mask.lower() in NO_MASK:
        return UserError(f"{where}: no mask is given for {image}; {files.expected} {root}")
    what = f"{root / mask} is no regular file" if exists(root / mask) else f"no mask {root / mask}"
    return UserError(f"{where}: {what}")


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def outside(samples: Iterable[Sample], root: Path) -> list[str]:
    """A note on files of a list that do not lie below `root`: an absolute path, or one with `..`, leads there."""
    paths = [path for sample in samples for path in (sample.image, sample.mask) if path is not None]
    far = [path for path in paths if not os.path.abspath(path).startswith(os.path.abspath(root) + os.sep)]
    return [f"the lists name {number_of(len(far), 'file')} outside {root}: {far[0]}"] if far else []


# --- the lists of a split -------------------------------------------------------------------------------------------


def read_split(root: Path, folder: Path, split: str, rename: Mapping[str, str] | None = None) -> Lists:
    """The lists of the split `split`, as `choose_split` finds them in `folder`, and `val.txt` from there."""

    read_files: list[Path] = []

    def read(path: Path, need_masks: bool) -> list[Sample]:
        read_files.append(path)
        return read_list(path, root, need_masks, rename)

    val = read(folder / "val.txt", True)
    labelled, unlabelled = choose_split(root, folder, split, read)
    files = dict(zip(("val", "labelled", "unlabelled"), read_files, strict=False))
    check_apart(labelled, f"{files['labelled']} (labelled)", val, f"{files['val']} (val)")
    return Lists(labelled, unlabelled, val, files, outside([*labelled, *unlabelled, *val], root))


def choose_split(root: Path, folder: Path, split: str, read: Reader) -> tuple[list[Sample], list[Sample]]:
    """Labelled and unlabelled samples of a split.

    split: a folder's name (`1/8` or `1_8`, `366`); the path of a labelled list, from the working directory or the
    root; or `all`, every image of the train list labelled. What has no unlabelled list of its own takes every other
    image of the train list, or, if no other is left, the labelled images themselves: with `all` the unlabelled images
    are the labelled ones. Raises UserError for an unknown split.
    """
    named, path = named_splits(folder), list_path(root, split)
    own = None
    if split.replace("/", "_") in named:
        home = folder / split.replace("/", "_")
        labelled, own = read(named[home.name], True), first_file(home, UNLABELLED_LISTS)
    elif path:
        labelled = read(path, True)
    elif split == "all" and (named or first_file(folder, TRAIN_LISTS)):
        labelled = read_pool(folder, named, read, True)
    else:
        raise unknown("split", split, {*(name.replace("_", "/") for name in named), "all"}, f"data.split={split}")
    if own:
        return labelled, read(own, False)
    rest = others(read_pool(folder, named, read, False), labelled)
    return labelled, rest or labelled


def named_splits(folder: Path) -> dict[str, Path]:
    """The labelled list of each split in `folder`, by the folder's name."""
    homes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    lists = {home.name: first_file(home, LABELLED_LISTS) for home in homes}
    return {name: path for name, path in lists.items() if path}


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def list_path(root: Path, split: str) -> Path | None:
    """`split` as the path of a list, where it is one. Raises UserError for a `.txt`, `.csv` and the like that is not
    there."""
    for path in (expanded(split), root / split):
        if path.is_file():
            return path
    if split.lower().endswith(LISTS):
        raise UserError(f"no list {split} (data.split), neither from the working directory nor from {root}")
    return None


def read_pool(folder: Path, named: Mapping[str, Path], read: Reader, need_masks: bool) -> list[Sample]:
    """Every training image: the train list, else both lists of the first split, whose union it is."""
    train = first_file(folder, TRAIN_LISTS)
    if train:
        return read(train, need_masks)
    for path in named.values():
        rest = first_file(path.parent, UNLABELLED_LISTS)
        if rest:
            return [*read(path, need_masks), *read(rest, need_masks)]
    raise UserError(f"no list of all training images in {folder}: put a train.txt there")


def others(pool: Sequence[Sample], taken: Sequence[Sample]) -> list[Sample]:
    """The samples of `pool` whose image is not in `taken`, in their order."""
    known = {sample.image for sample in taken}
    return [sample for sample in pool if sample.image not in known]


def check_apart(first: Sequence[Sample], one: str, second: Sequence[Sample], other: str) -> None:
    """Raise UserError when an image is in two lists that must have none in common: the score would be of no worth. one,
    other: what the two are called."""
    known = {sample.image for sample in first}
    both = [sample.name for sample in second if sample.image in known]
    if both:
        raise UserError(
            f"{both[0]} is in two lists, {one} and {other}: take it off one of them (both have "
            f"{number_of(len(both), 'such image')})"
        )
