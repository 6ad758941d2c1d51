"""What the codes of masks stand for, and a mask as class ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ssss_zoo.data.codes import AS_TOLD, LARGEST, VOIDED, hex_colour, lossy_file, read_codes, smeared, upright_size
from ssss_zoo.data.files import VALUES_SHOWN, read_mask
from ssss_zoo.data.images import Reading
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

STRANGE = 256  # in the table: a code that stands for nothing

Codes = dict[int, int]  # code to class id, or to 255 for void


@dataclass(frozen=True, eq=False)
class Encoding:
    """kind: `ids`, `values` or `colours`. codes: all that are declared, none of `ids`. ignored: values that are void
    whatever is declared, NaN and those of more bits than a code has among them. snap: an undeclared code is taken for
    the nearest declared one, and JPEG is allowed. reading: whether masks are turned by their own tags, and how large
    they may be."""

    kind: str
    codes: Codes
    snap: bool = False
    ignored: tuple[float, ...] = ()
    reading: Reading = AS_TOLD

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return [sample.mask]

    def size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the mask. Raises UserError, naming the file, when it cannot be read."""
        return upright_size(sample.mask, self.reading)

    def read(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read, and for
        codes that stand for nothing, with their number."""
        path = sample.mask
        if self.kind == "ids":
            return read_mask(path, self.ignored, self.reading)
        codes = self.codes_of(path, lossy=True)
        ids = self.looked_up(codes)
        strange = ids == STRANGE
        if strange.any():
            made_by = "" if self.snap else lossy_file(path)
            if made_by:
                count = f"{int(strange.sum()):,} of {strange.size:,} pixels have one that no class has"
                raise smeared(path, made_by, count)
            if not self.snap:
                raise self.undeclared(path, codes[strange])
            ids[strange] = self.nearest(codes[strange])
        return ids.astype(np.uint8)

    def codes_of(self, path: Path, lossy: bool = False) -> np.ndarray:
        """(H, W) codes of a mask. Raises UserError as `read_mask` and `read_codes` do."""
        if self.kind == "ids":
            return read_mask(path, self.ignored, self.reading)
        return read_codes(path, self.kind == "colours", lossy or self.snap, self.ignored, self.reading)

    @cached_property
    def known(self) -> Codes:
        """What each code stands for, those that are void among them."""
        void = [int(value) for value in self.ignored if abs(value) < LARGEST]
        return self.codes | dict.fromkeys(void, IGNORE)

    def looked_up(self, codes: np.ndarray) -> np.ndarray:
        """Ids (H, W) uint16 of codes (H, W), `STRANGE` where they stand for nothing."""
        if self.kind == "colours" or codes.dtype == np.uint8:
            return self.table[codes]
        order = np.array(sorted([*self.known, VOIDED]))
        ids = np.array([self.known.get(code, IGNORE) for code in order.tolist()], np.uint16)
        place = np.searchsorted(order, codes).clip(max=len(order) - 1)
        return np.where(order[place] == codes, ids[place], np.uint16(STRANGE))

    @cached_property
    def table(self) -> np.ndarray:
        """What each code stands for: 2^24 entries (32 MiB) for colours, 2^8 for values of 8 bits."""
        table = np.full(1 << (24 if self.kind == "colours" else 8), STRANGE, np.uint16)
        for code, index in self.known.items():
            if 0 <= code < len(table):
                table[code] = index
        return table

    def nearest(self, codes: np.ndarray) -> np.ndarray:
        """The class of the declared code that is closest (colours: by the sum of squares); (N,) to (N,)."""
        known = np.array(list(self.known), np.int64)
        unique, inverse = np.unique(codes.astype(np.int64), return_inverse=True)
        far = (self.levels(unique)[:, None] - self.levels(known)[None]) ** 2
        ids = np.array(list(self.known.values()), np.uint16)
        return ids[far.sum(axis=2).argmin(axis=1)][inverse.reshape(codes.shape)]

    def levels(self, codes: np.ndarray) -> np.ndarray:
        """(N,) codes as (N, 3) colours or (N, 1) values."""
        if self.kind == "colours":
            return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
        return codes[:, None]

    def undeclared(self, path: Path, codes: np.ndarray) -> UserError:
        """The error for codes (N,) of a mask that stand for nothing: how many, which, and the three ways out."""
        found, counts = np.unique(codes, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:VALUES_SHOWN]
        few = ", ".join(f"{self.word(found[index])} ({counts[index]:,} pixels)" for index in most)
        more = f" and {len(found) - VALUES_SHOWN} more" if len(found) > VALUES_SHOWN else ""
        all_of_them = ",".join(self.word(code, quoted=True) for code in found) if not more else "..."
        what, line = ("colours", "name R G B") if self.kind == "colours" else ("values", "VALUE: name")
        return UserError(
            f"mask {path} holds {what} that no class has, {codes.size:,} pixels of {len(found)} {what}: {few}{more}; "
            f"name them in classes.txt ('{line}'), leave them out (data.ignore=[{all_of_them}]), or take the nearest "
            "declared one (data.snap=true)"
        )

    def word(self, code: int, quoted: bool = False) -> str:
        if self.kind == "colours":
            return f"'{hex_colour(code)}'" if quoted else hex_colour(code)
        return str(code)

    def said(self, names: Sequence[str]) -> str:
        """What masks hold, in one line."""
        void = [self.word(code) for code, index in self.known.items() if index == IGNORE]
        void += [f"{value:g}" for value in self.ignored if not abs(value) < LARGEST]
        left_out = f"; void: {', '.join(void)}" if void else ""
        if self.kind == "ids":
            return f"masks hold class ids{left_out}"
        pairs = [f"{self.word(code)} is {names[index]}" for code, index in self.known.items() if index != IGNORE]
        more = f" and {len(pairs) - VALUES_SHOWN} more" if len(pairs) > VALUES_SHOWN else ""
        return f"masks hold {self.kind}: {', '.join(pairs[:VALUES_SHOWN])}{more}{left_out}"
