"""The rows of a split list: one image per line of a text file, or the named columns of a CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssss_zoo.data.folder.part_names import PART_OF_WORD, part_of_name
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

TABLE_SUFFIXES = (".csv", ".tsv")  # of lists with columns
COLUMN_NAMES = {  # accepted names of each column, in upper or lower case
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
NO_MASK_CELLS = ("", "none", "nan", "null", "-")  # cells, in upper or lower case, of an image without a mask


@dataclass(frozen=True)
class ListRow:
    """A line of a list. text: the whole line, where its paths are not separated yet; part: the part that the line's
    column of parts names, as `part_of_name` returns it; empty without such a column."""

    number: int
    text: str = ""
    image: str = ""
    mask: str = ""
    part: str = ""


def read_list_rows(path: Path) -> list[ListRow]:
    """The rows of a list that are not blank.

    Raises UserError, naming file and line, for a file that cannot be read, an unknown column and an unknown part.
    """
    lines = read_text_lines(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return [ListRow(number, line) for number, line in enumerate(lines, 1) if line]
    delimiter = "\t" if path.suffix.lower() == ".tsv" or "\t" in lines[0] else ";" if ";" in lines[0] else ","
    try:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}") from None
    numbered = [(number, row) for number, row in enumerate(cells, 1) if any(row)]
    if not numbered:
        return []
    columns = parse_table_header(numbered[0][1], path)
    if columns:
        return [parse_table_row(number, row, columns, path) for number, row in numbered[1:]]
    wide = next(((number, row) for number, row in numbered if len(row) > 2), None)
    if wide:
        raise UserError(
            f"{path} line {wide[0]} has {len(wide[1])} columns, and line 1 gives them no names: write image,mask,split "
            "above them"
        )
    return [parse_table_row(number, row, ["image", "mask"], path) for number, row in numbered]


def parse_table_header(cells: Sequence[str], path: Path) -> list[str]:
    """The meaning of each column (image, mask or part) by the names in the first line; empty where that line holds no
    names.

    Raises UserError for an unknown name, for two columns of one meaning, and without a column of images.
    """
    meanings = [next((kind for kind, names in COLUMN_NAMES.items() if cell.lower() in names), "") for cell in cells]
    if not any(meanings):
        return []
    known = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in COLUMN_NAMES.items())
    strange = next((cell for cell, kind in zip(cells, meanings, strict=True) if not kind), None)
    if strange is not None:
        name = f"'{brief(strange)}' that is not known" if strange else "without a name"
        raise UserError(f"{path} has a column {name}: leave it out, or rename it (known are {known})")
    for kind in COLUMN_NAMES:
        count = meanings.count(kind)
        if count > 1 or (kind == "image" and count == 0):
            raise UserError(f"{path} has {count} columns of the {kind}; expected one (known are {known})")
    return meanings


def has_part_column(path: Path) -> bool:
    """Whether a file has a column of images and one of parts, even if the rest of it is wrong."""
    try:
        cells = {cell.strip(" \"'").lower() for cell in re.split("[,;\t]", read_text_lines(path)[0])}
    except UserError:
        return False
    return all(cells & set(COLUMN_NAMES[kind]) for kind in ("image", "part"))


def parse_table_row(number: int, cells: Sequence[str], columns: Sequence[str], path: Path) -> ListRow:
    """A row by its columns. Raises UserError for a row with too many cells and for an unknown part."""
    if len(cells) > len(columns):
        raise UserError(f"{path} line {number} has {len(cells)} columns, and {len(columns)} are named")
    found = dict(zip(columns, cells, strict=False))
    part = part_of_name(found.get("part", ""))
    if "part" in columns and not part:
        known = ", ".join(dict.fromkeys(PART_OF_WORD))
        raise UserError(f"{path} line {number}: '{brief(found.get('part', ''))}' is no part; expected one of {known}")
    mask = found.get("mask", "")
    return ListRow(number, image=found.get("image", ""), mask="" if mask.lower() in NO_MASK_CELLS else mask, part=part)


def read_text_lines(path: Path) -> list[str]:
    """The stripped lines of a text file. Raises UserError when it cannot be read."""
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: not a text file in UTF-8") from None
