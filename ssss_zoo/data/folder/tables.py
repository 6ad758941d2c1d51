"""The rows of a split list: of a text file one image a line, of a CSV file its columns by name."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssss_zoo.data.folder.parts import WORDS, role
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

TABLES = (".csv", ".tsv")  # suffixes of lists with columns
COLUMNS = {  # by what a column holds, the names that it may have, in any case
    "image": (
        *("image", "images", "image_path", "image_file", "img", "img_path", "file", "filename", "file_name"),
        *("filepath", "file_path", "path", "photo", "picture", "input"),
    ),
    "mask": (
        *("mask", "masks", "mask_path", "mask_file", "label", "labels", "label_path", "annotation", "gt", "target"),
        *("ground_truth", "seg", "segmentation"),
    ),
    "part": ("split", "part", "subset", "set", "partition", "phase", "usage"),
}
NO_MASK = ("", "none", "nan", "null", "-")  # cells, in any case, of an image without a mask


@dataclass(frozen=True)
class Row:
    """A line of a list. text: all of it, where paths are not yet parted; part: what its column of parts says, by
    `parts.role`, empty without one."""

    number: int
    text: str = ""
    image: str = ""
    mask: str = ""
    part: str = ""


def read_rows(path: Path) -> list[Row]:
    """The rows of a list that are not blank. Raises UserError, naming file and line, for a file that cannot be read, a
    column that is not known, and a part that is none."""
    lines = read_lines(path)
    if path.suffix.lower() not in TABLES:
        return [Row(number, line) for number, line in enumerate(lines, 1) if line]
    gap = "\t" if path.suffix.lower() == ".tsv" or "\t" in lines[0] else ";" if ";" in lines[0] else ","
    try:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=gap)]
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}") from None
    numbered = [(number, row) for number, row in enumerate(cells, 1) if any(row)]
    if not numbered:
        return []
    columns = header(numbered[0][1], path)
    if columns:
        return [row_of(number, row, columns, path) for number, row in numbered[1:]]
    wide = next(((number, row) for number, row in numbered if len(row) > 2), None)
    if wide:
        raise UserError(
            f"{path} line {wide[0]} has {len(wide[1])} columns, and line 1 gives them no names: write image,mask,split "
            "above them"
        )
    return [row_of(number, row, ["image", "mask"], path) for number, row in numbered]


def header(cells: Sequence[str], path: Path) -> list[str]:
    """What each column holds by the names in the first line; empty where that line holds no names. Raises UserError for
    a name that is not known, for two columns of one kind, and for none of images."""
    held = [next((kind for kind, names in COLUMNS.items() if cell.lower() in names), "") for cell in cells]
    if not any(held):
        return []
    known = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in COLUMNS.items())
    strange = next((cell for cell, kind in zip(cells, held, strict=True) if not kind), None)
    if strange is not None:
        name = f"'{brief(strange)}' that is not known" if strange else "without a name"
        raise UserError(f"{path} has a column {name}: leave it out, or rename it (known are {known})")
    for kind in COLUMNS:
        if held.count(kind) > 1 or (kind == "image" and kind not in held):
            raise UserError(f"{path} has {held.count(kind)} columns of the {kind}; expected one (known are {known})")
    return held


def has_parts(path: Path) -> bool:
    """Whether a file has columns of images and of parts, whatever else is wrong with it."""
    try:
        cells = {cell.strip(" \"'").lower() for cell in re.split("[,;\t]", read_lines(path)[0])}
    except UserError:
        return False
    return all(cells & set(COLUMNS[kind]) for kind in ("image", "part"))


def row_of(number: int, cells: Sequence[str], columns: Sequence[str], path: Path) -> Row:
    """A row by its columns. Raises UserError for a row of another length, and for a part that is none."""
    if len(cells) > len(columns):
        raise UserError(f"{path} line {number} has {len(cells)} columns, and {len(columns)} are named")
    found = dict(zip(columns, cells, strict=False))
    part = role(found.get("part", ""))
    if "part" in columns and not part:
        known = ", ".join(dict.fromkeys(WORDS))
        raise UserError(f"{path} line {number}: '{brief(found.get('part', ''))}' is no part; expected one of {known}")
    mask = found.get("mask", "")
    return Row(number, image=found.get("image", ""), mask="" if mask.lower() in NO_MASK else mask, part=part)


def read_lines(path: Path) -> list[str]:
    """Stripped lines of a text file. Raises UserError when it cannot be read."""
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: not a text file in UTF-8") from None
