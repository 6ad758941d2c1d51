"""What the values of masks stand for, and a mask as class ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ssss_zoo.data.checks import VALUES_SHOWN
from ssss_zoo.data.files import read_mask
from ssss_zoo.data.images import Reading
from ssss_zoo.data.mask_values import (
    DEFAULT_READING,
    VALUE_LIMIT,
    VOID_VALUE,
    hex_colour,
    lossy_format_of_file,
    lossy_mask_error,
    read_mask_values,
    upright_size,
)
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import MaskValuesRecord
from ssss_zoo.toolkit.types import IGNORE, Sample

UNDECLARED = 256  # in place of the class id: the value stands for nothing

IdOfValue = dict[int, int]  # class id of each mask value; 255 for void


@dataclass(frozen=True, eq=False)
class MaskEncoding:
    """How mask values become class ids.

    kind: `ids`, `values` or `colours`. declared: the class id of each declared value; empty for plain ids. nearest:
    whether an undeclared value becomes the nearest declared one; JPEG is then allowed. ignored: values that are void
    whatever is declared, among them NaN and those of more than 32 bits. reading: whether masks are turned by their own
    EXIF tags, and how large they may be.
    """

    kind: str
    declared: IdOfValue
    nearest: bool = False
    ignored: tuple[float, ...] = ()
    reading: Reading = DEFAULT_READING

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return [sample.mask]

    def size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the mask. Raises UserError, naming the file, when it cannot be read."""
        return upright_size(sample.mask, self.reading)

    def read(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void.

        Raises UserError, naming the file, when it cannot be read, and for undeclared values, with their number.
        """
        path = sample.mask
        if self.kind == "ids":
            return read_mask(path, self.ignored, self.reading)
        values = self.read_values(path, lossy=True)
        ids = self.look_up(values)
        undeclared = ids == UNDECLARED
        if undeclared.any():
            lossy_format = "" if self.nearest else lossy_format_of_file(path)
            if lossy_format:
                count = f"{int(undeclared.sum()):,} of {undeclared.size:,} pixels have one that no class has"
                raise lossy_mask_error(path, lossy_format, count)
            if not self.nearest:
                raise self.undeclared_error(path, values[undeclared])
            ids[undeclared] = self.nearest_ids(values[undeclared])
        return ids.astype(np.uint8)

    def read_values(self, path: Path, *, lossy: bool = False) -> np.ndarray:
        """(H, W) values of a mask. lossy: whether JPEG and the like are allowed. Raises UserError as `read_mask` and
        `read_mask_values` do."""
        if self.kind == "ids":
            return read_mask(path, self.ignored, self.reading)
        colours = self.kind == "colours"
        return read_mask_values(path, self.ignored, self.reading, colours=colours, lossy=lossy or self.nearest)

    @cached_property
    def id_of_value(self) -> IdOfValue:
        """The class id of every value, 255 for those that are ignored."""
        void = [int(value) for value in self.ignored if abs(value) < VALUE_LIMIT]
        return self.declared | dict.fromkeys(void, IGNORE)

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """(H, W) values to (H, W) uint16 class ids, `UNDECLARED` where a value stands for nothing."""
        if self.kind == "colours" or values.dtype == np.uint8:
            return self.lookup_table[values]
        order = np.array(sorted([*self.id_of_value, VOID_VALUE]))
        ids = np.array([self.id_of_value.get(value, IGNORE) for value in order.tolist()], np.uint16)
        place = np.searchsorted(order, values).clip(max=len(order) - 1)
        return np.where(order[place] == values, ids[place], np.uint16(UNDECLARED))

    @cached_property
    def lookup_table(self) -> np.ndarray:
        """The class id of each value: 2^24 entries (32 MiB) for colours, 2^8 for values of 8 bits."""
        table = np.full(1 << (24 if self.kind == "colours" else 8), UNDECLARED, np.uint16)
        for value, index in self.id_of_value.items():
            if 0 <= value < len(table):
                table[value] = index
        return table

    def nearest_ids(self, values: np.ndarray) -> np.ndarray:
        """(N,) values to (N,) class ids of the nearest declared values; between colours, by the sum of squares."""
        known = np.array(list(self.id_of_value), np.int64)
        unique, inverse = np.unique(values.astype(np.int64), return_inverse=True)
        distances = (self.as_levels(unique)[:, None] - self.as_levels(known)[None]) ** 2
        ids = np.array(list(self.id_of_value.values()), np.uint16)
        return ids[distances.sum(axis=2).argmin(axis=1)][inverse.reshape(values.shape)]

    def as_levels(self, values: np.ndarray) -> np.ndarray:
        """(N,) values as (N, 3) colours or (N, 1) numbers."""
        if self.kind == "colours":
            return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1)
        return values[:, None]

    def undeclared_error(self, path: Path, values: np.ndarray) -> UserError:
        """The error for undeclared values (N,) of a mask: how many, which, and the three remedies."""
        found, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:VALUES_SHOWN]
        few = ", ".join(f"{self.format_value(found[index])} ({counts[index]:,} pixels)" for index in order)
        more = f" and {len(found) - VALUES_SHOWN} more" if len(found) > VALUES_SHOWN else ""
        every = ",".join(self.format_value(value, quoted=True) for value in found) if not more else "..."
        noun, line = ("colours", "name R G B") if self.kind == "colours" else ("values", "VALUE: name")
        return UserError(
            f"mask {path} holds {noun} that no class has, {values.size:,} pixels of {len(found)} {noun}: {few}{more}; "
            f"name them in classes.txt ('{line}'), leave them out (data.ignore=[{every}]), or take the nearest "
            "declared one (data.snap=true)"
        )

    def format_value(self, value: int, *, quoted: bool = False) -> str:
        """A value as the user writes it: a number, or a colour such as #ff0000."""
        if self.kind == "colours":
            return f"'{hex_colour(value)}'" if quoted else hex_colour(value)
        return str(value)

    def record(self) -> MaskValuesRecord:
        """What masks hold for each class, by id: of several values of a class the first that is declared."""
        if self.kind == "ids":
            return {"kind": "ids", "values": [], "void": None}
        value_of_id = {index: value for value, index in reversed(self.id_of_value.items())}
        void = value_of_id.pop(IGNORE, None)
        kind: Literal["values", "colours"] = "colours" if self.kind == "colours" else "values"
        return {"kind": kind, "values": [value_of_id[index] for index in sorted(value_of_id)], "void": void}

    def describe(self, names: Sequence[str]) -> str:
        """What masks hold, in one line. names: of the classes, by id."""
        void = [self.format_value(value) for value, index in self.id_of_value.items() if index == IGNORE]
        void += [f"{value:g}" for value in self.ignored if not abs(value) < VALUE_LIMIT]
        left_out = f"; void: {', '.join(void)}" if void else ""
        if self.kind == "ids":
            return f"masks hold class ids{left_out}"
        pairs = [
            f"{self.format_value(value)} is {names[index]}"
            for value, index in self.id_of_value.items()
            if index != IGNORE
        ]
        more = f" and {len(pairs) - VALUES_SHOWN} more" if len(pairs) > VALUES_SHOWN else ""
        return f"masks hold {self.kind}: {', '.join(pairs[:VALUES_SHOWN])}{more}{left_out}"
