"""Where a data set lies, and its split lists in the format the field shares (UniMatch, ST++).

A list has one `<image path> <mask path>` a line, relative to the root. `splits/<name>/` holds `labeled.txt` and
`unlabeled.txt` of the split `<name>` (`1/8` is the folder `1_8`), `splits/` itself `val.txt` and perhaps `train.txt`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ssss_zoo.errors import UserError, unknown
from ssss_zoo.records import Sample

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig

LABELLED = ("labeled.txt", "labelled.txt")
UNLABELLED = ("unlabeled.txt", "unlabelled.txt")
TRAIN = ("train.txt", "train_aug.txt", "trainaug.txt")
CSV_NAMES = ("image", "images", "image_path", "img", "file", "filename", "path")  # of a CSV's first column
FORMAT = "expected '<image path> <mask path>' relative to"

Reader = Callable[[Path, bool], list[Sample]]  # (list file, masks needed)


@dataclass(frozen=True, eq=False)
class Lists:
    """The three lists of a run. files: where each is written down, of those that are."""

    labelled: list[Sample]
    unlabelled: list[Sample]
    val: list[Sample]
    files: dict[str, Path] = field(default_factory=dict)


# --- root -----------------------------------------------------------------------------------------------------------


def find_root(data: DataConfig, dataset: str, content: str) -> Path:
    """`data.root`, else `$SSSS_DATA/<dataset>`. Raises UserError, naming its `content`, when it is absent."""
    store = os.environ.get("SSSS_DATA")
    if data.root:
        root, origin = Path(data.root).expanduser(), "data.root"
    elif store:
        root, origin = Path(store).expanduser() / dataset, f"$SSSS_DATA/{dataset}"
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


def read_list(path: Path, root: Path, need_masks: bool, rename: Mapping[str, str] | None = None) -> list[Sample]:
    """The samples of a list, in its order; `Sample.name` is the image path as listed.

    Paths may hold spaces where only one place to part them gives two files; a TAB parts them for certain. Without
    `need_masks` the mask may be left out, be `None` or not exist: then `Sample.mask` is None. rename: pieces of a
    line to replace. Raises UserError, naming list and line, for a missing file and for an image listed twice.
    """
    exists = file_lookup(root)
    lines: dict[str, int] = {}
    samples = []
    for number, line in enumerate(list_lines(path), 1):
        if not line:
            continue
        for old, new in (rename or {}).items():
            line = line.replace(old, new)
        where = f"{path} line {number}"
        image, mask = split_line(line, exists, need_masks, where, root)
        if image in lines:
            raise UserError(f"{where}: {image} is listed twice, first in line {lines[image]}")
        lines[image] = number
        samples.append(Sample(image, root / image, root / mask if mask else None))
    if not samples:
        raise UserError(f"{path} is empty; {FORMAT} {root}, one a line")
    return samples


def list_lines(path: Path) -> list[str]:
    """The lines of a list; of a CSV file its first two columns, parted by a TAB, the line of their names left empty."""
    lines = read_lines(path)
    if path.suffix.lower() != ".csv":
        return lines
    rows = csv.reader(lines, delimiter=";" if ";" in lines[0] else ",")
    joined = ["\t".join(cell.strip() for cell in [*row, ""][:2]) if row else "" for row in rows]
    return ["", *joined[1:]] if joined[0].partition("\t")[0].lower() in CSV_NAMES else joined


def read_lines(path: Path) -> list[str]:
    """Stripped lines of a text file. Raises UserError when it cannot be read."""
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: not a text file in UTF-8") from None


def file_lookup(root: Path) -> Callable[[str], bool]:
    """Whether a path relative to `root` exists; reads each folder once, which is quick for long lists."""

    @cache
    def names(folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))
        except OSError:
            return frozenset()

    def exists(text: str) -> bool:
        folder, name = os.path.split(os.path.join(root, text))
        return bool(text) and name in names(folder)

    return exists


def split_line(line: str, exists: Callable[[str], bool], need_mask: bool, where: str, root: Path) -> tuple[str, str]:
    """Image and mask path of a line; the mask is "" where there is none and none is needed."""
    words = line.split("\t" if "\t" in line else " ")
    gap = "\t" if "\t" in line else " "
    choices = [(gap.join(words[:at]).strip(), gap.join(words[at:]).strip()) for at in range(1, len(words) + 1)]
    with_image = [(image, mask) for image, mask in choices if exists(image)]
    pairs = {(image, mask) for image, mask in with_image if exists(mask)}
    if len(pairs) > 1:
        raise UserError(f"{where}: '{line}' can be read in {len(pairs)} ways; put a TAB between the two paths")
    if pairs:
        return pairs.pop()
    if with_image and not need_mask:
        return with_image[-1][0], ""  # the longest path that exists
    raise missing_file(with_image, choices, where, root)


def missing_file(
    with_image: Sequence[tuple[str, str]], choices: Sequence[tuple[str, str]], where: str, root: Path
) -> UserError:
    """The error for a line of a list whose image, or mask, is not there."""
    if not with_image:
        image = choices[0][0] if len(choices) <= 2 else choices[-1][0]
        return UserError(f"{where}: no image {root / image}; {FORMAT} {root}")
    image, mask = with_image[-1] if with_image[-1][1] else with_image[0]
    if mask in ("", "None"):
        return UserError(f"{where}: no mask is given for {image}; {FORMAT} {root}")
    return UserError(f"{where}: no mask {root / mask}")


# --- the lists of a split -------------------------------------------------------------------------------------------


def read_split(root: Path, folder: Path, split: str, rename: Mapping[str, str] | None = None) -> Lists:
    """The lists of the split `split`, as `choose_split` finds them in `folder`, and `val.txt` from there."""

    read_files: list[Path] = []

    def read(path: Path, need_masks: bool) -> list[Sample]:
        read_files.append(path)
        return read_list(path, root, need_masks, rename)

    val = read(folder / "val.txt", True)
    labelled, unlabelled = choose_split(root, folder, split, read)
    check_apart(labelled, val)
    return Lists(labelled, unlabelled, val, dict(zip(("val", "labelled", "unlabelled"), read_files, strict=False)))


def choose_split(
    root: Path, folder: Path, split: str, read: Reader, pool: Sequence[Sample] | None = None
) -> tuple[list[Sample], list[Sample]]:
    """Labelled and unlabelled samples of a split.

    split: a folder's name (`1/8` or `1_8`, `366`); the path of a labelled list, from the working directory or the
    root; or `all`, every image of the train list labelled. What has no unlabelled list of its own takes every other
    image of `pool` (none: the train list), or, if no other is left, the labelled images themselves: with `all` the
    unlabelled images are the labelled ones. Raises UserError for an unknown split.
    """
    named, path = named_splits(folder), list_path(root, split)
    own = None
    if split.replace("/", "_") in named:
        home = folder / split.replace("/", "_")
        labelled, own = read(named[home.name], True), first_file(home, UNLABELLED)
    elif path:
        labelled = read(path, True)
    elif split == "all" and (named or first_file(folder, TRAIN)):
        labelled = read_pool(folder, named, read, True)
    else:
        raise unknown("split", split, {*(name.replace("_", "/") for name in named), "all"}, f"data.split={split}")
    if own:
        return labelled, read(own, False)
    rest = others(read_pool(folder, named, read, False) if pool is None else pool, labelled)
    return labelled, rest or labelled


def named_splits(folder: Path) -> dict[str, Path]:
    """The labelled list of each split in `folder`, by the folder's name."""
    homes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    lists = {home.name: first_file(home, LABELLED) for home in homes}
    return {name: path for name, path in lists.items() if path}


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def list_path(root: Path, split: str) -> Path | None:
    """`split` as the path of a list, where it is one. Raises UserError for a `.txt` or `.csv` that is not there."""
    for path in (Path(split).expanduser(), root / split):
        if path.is_file():
            return path
    if split.endswith((".txt", ".csv")):
        raise UserError(f"no list {split} (data.split), neither from the working directory nor from {root}")
    return None


def read_pool(folder: Path, named: Mapping[str, Path], read: Reader, need_masks: bool) -> list[Sample]:
    """Every training image: the train list, else both lists of the first split, whose union it is."""
    train = first_file(folder, TRAIN)
    if train:
        return read(train, need_masks)
    for path in named.values():
        rest = first_file(path.parent, UNLABELLED)
        if rest:
            return [*read(path, need_masks), *read(rest, need_masks)]
    raise UserError(f"no list of all training images in {folder}: put a train.txt there")


def others(pool: Sequence[Sample], taken: Sequence[Sample]) -> list[Sample]:
    """The samples of `pool` whose image is not in `taken`, in their order."""
    known = {sample.image for sample in taken}
    return [sample for sample in pool if sample.image not in known]


def check_apart(labelled: Sequence[Sample], val: Sequence[Sample]) -> None:
    """Raise UserError when an image is labelled and in val: the score would be of no worth."""
    known = {sample.image for sample in labelled}
    both = [sample.name for sample in val if sample.image in known]
    if both:
        raise UserError(f"{both[0]} is in the labelled and in the val list ({len(both)} images are): take it off one")
