"""How a mask says which class a pixel is: by class ids, by other values, by colours; and the way from there to ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssss_zoo.data.classes import FILES, ClassLine, Colour, palette, read_class_list, shown_colours
from ssss_zoo.data.codes import code_of, hex_colour, is_jpeg, packed, read_codes, smeared, unpacked
from ssss_zoo.data.files import COLOURED, SHOWN, THREADS, grey_codes, read_mask
from ssss_zoo.data.images import opened
from ssss_zoo.data.lists import first_file
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.records import IGNORE, Sample

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig
    from ssss_zoo.data.regions import Regions

KINDS = ("auto", "ids", "values", "colours")
LOOKS = 16  # masks looked at to tell colours from values (our choice)
MOST = 64  # more codes than this are no classes, but smeared edges or a photograph (our choice)
STRANGE = 256  # in the table: a code that stands for nothing

Codes = dict[int, int]  # code to class id, or to 255 for void


@dataclass(frozen=True, eq=False)
class Encoding:
    """kind: `ids`, `values` or `colours`. codes: of `ids`, those that are void; else all that are declared. snap: an
    undeclared code is taken for the nearest declared one, and JPEG is allowed."""

    kind: str
    codes: Codes
    snap: bool = False

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return [sample.mask]

    def read(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read, and for
        codes that stand for nothing, with their number."""
        path = sample.mask
        if self.kind == "ids":
            mask = read_mask(path)
            return self.voided[mask] if self.codes else mask
        codes = read_codes(path, self.kind == "colours", lossy=True)
        ids = self.table[codes]
        strange = ids == STRANGE
        if strange.any():
            if not self.snap and is_jpeg(path):
                count = f"{int(strange.sum()):,} of {strange.size:,} pixels have one that no class has"
                raise smeared(path, self.kind, count)
            if not self.snap:
                raise self.undeclared(path, codes[strange])
            ids[strange] = self.nearest(codes[strange])
        return ids.astype(np.uint8)

    @cached_property
    def voided(self) -> np.ndarray:
        table = np.arange(IGNORE + 1, dtype=np.uint8)
        table[[code for code in self.codes if code <= IGNORE]] = IGNORE
        return table

    @cached_property
    def table(self) -> np.ndarray:
        """What each code stands for: 2^24 entries (32 MiB) for colours, 2^16 for values."""
        table = np.full(1 << (24 if self.kind == "colours" else 16), STRANGE, np.uint16)
        for code, index in self.codes.items():
            table[code] = index
        return table

    def nearest(self, codes: np.ndarray) -> np.ndarray:
        """The class of the declared code that is closest (colours: by the sum of squares); (N,) to (N,)."""
        known = np.array(list(self.codes), np.int64)
        unique, inverse = np.unique(codes, return_inverse=True)
        far = (self.place(unique)[:, None] - self.place(known)[None]) ** 2
        ids = np.array(list(self.codes.values()), np.uint16)
        return ids[far.sum(axis=2).argmin(axis=1)][inverse.reshape(codes.shape)]

    def place(self, codes: np.ndarray) -> np.ndarray:
        """(N,) codes as (N, 3) colours or (N, 1) values."""
        if self.kind == "colours":
            return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
        return codes[:, None]

    def undeclared(self, path: Path, codes: np.ndarray) -> UserError:
        """The error for codes (N,) of a mask that stand for nothing: how many, which, and the three ways out."""
        found, counts = np.unique(codes, return_counts=True)
        few = ", ".join(
            f"{self.word(found[index])} ({counts[index]:,} pixels)"
            for index in np.argsort(-counts, kind="stable")[:SHOWN]
        )
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        what = "colours" if self.kind == "colours" else "values"
        return UserError(
            f"mask {path} holds {what} that no class has, {codes.size:,} pixels of {len(found)} {what}: {few}{more}; "
            f"name them in classes.txt, leave them out (data.ignore={self.word(found[counts.argmax()], quoted=True)}), "
            "or take the nearest declared one (data.snap=true)"
        )

    def word(self, code: int, quoted: bool = False) -> str:
        text = hex_colour(code) if self.kind == "colours" else str(code)
        return f"['{text}']" if quoted else text

    def said(self, names: Sequence[str]) -> str:
        """What masks hold, in one line."""
        void = [self.word(code) for code, index in self.codes.items() if index == IGNORE]
        left_out = f"; void: {', '.join(void)}" if void else ""
        if self.kind == "ids":
            return f"masks hold class ids{left_out}"
        pairs = [f"{self.word(code)} is {names[index]}" for code, index in self.codes.items() if index != IGNORE]
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        return f"masks hold {self.kind}: {', '.join(pairs[:SHOWN])}{more}{left_out}"


@dataclass(frozen=True, eq=False)
class Classes:
    """What was understood of the classes of a folder. origin: where the names come from."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    encoding: Encoding | Regions
    origin: str


# --- understanding a folder's masks ---------------------------------------------------------------------------------


def understand(data: DataConfig, root: Path, samples: Sequence[Sample], regions: Regions | None = None) -> Classes:
    """Names, colours and encoding of the classes: from the list in `root` where there is one, else from all masks.
    regions: how masks are put together, where they are no images of codes.

    Raises UserError, with the setting that mends it, where they cannot be class ids and `data.encoding=auto`.
    """
    check_choice("data.encoding", data.encoding, KINDS)
    file = first_file(root, FILES)
    lines = read_class_list(file) if file else []
    if regions:
        given = {"encoding": data.encoding != "auto", "ignore": bool(data.ignore), "snap": data.snap}
        wrong = next((key for key, said in given.items() if said), None)
        if wrong:
            what = f"{regions.said_of}; a class called void in classes.txt leaves pixels out"
            raise UserError(f"data.{wrong} is of masks that hold ids, values or colours, and here {what}")
        known = regions.settle(samples, lines, file)
        names, origin = tuple(line.name for line in known), file.name if file else "the regions of the masks"
        return Classes(names, shown_colours(known), regions, origin)
    masks = [sample.mask for sample in samples]
    kind = data.encoding if data.encoding != "auto" else guessed(lines, masks)
    ignored = {code_of(word, kind): IGNORE for word in data.ignore}
    if not lines:
        return found_classes(kind, root, masks, ignored, data.snap)
    assert file is not None
    codes = declared(kind, lines, file, lambda: census(masks, kind, data.snap)) | ignored
    named = [line for line in lines if not line.void]
    plain = (
        kind == "ids" and not data.snap and all(code == index for code, index in codes.items() if code not in ignored)
    )
    encoding = Encoding(kind, ignored) if plain else Encoding("values" if kind == "ids" else kind, codes, data.snap)
    return Classes(tuple(line.name for line in named), shown_colours(named), encoding, file.name)


def guessed(lines: Sequence[ClassLine], masks: Sequence[Path]) -> str:
    """`colours` where most masks are coloured, else `ids`.

    Raises UserError for coloured masks whose colours no list declares.
    """
    looked_at = masks[:: max(len(masks) // LOOKS, 1)]
    colourful = [path for path in looked_at if coloured(path)]
    if 2 * len(colourful) > len(looked_at):
        if any(line.colour for line in lines):
            return "colours"
        raise UserError(
            f"masks are coloured, such as {colourful[0]}, and no list says what the colours mean: give classes.txt "
            "with a line 'name R G B' for each class, or data.encoding=colours, which makes every colour found a class"
        )
    return "ids"


def coloured(path: Path) -> bool:
    """Whether a mask has colours: three channels that are not all equal. A file that cannot be read has none."""
    try:
        with opened(path) as image:
            return image.mode in COLOURED and grey_codes(np.array(image)) is None
    except UserError:
        return False


def declared(kind: str, lines: Sequence[ClassLine], file: Path, found: Callable[[], list[int]]) -> Codes:
    """The codes of a list's classes in its order; the ids count the classes that are not void. Values that a list of
    names leaves out are the places in it, or, with `values`, those found, when there are as many. In ids 255 is void
    unless the list gives it to a class."""
    if kind == "colours":
        bare = [line.name for line in lines if line.colour is None]
        if bare:
            raise UserError(
                f"{file} gives no colour for class '{bare[0]}', and masks hold colours: 'name R G B' a line"
            )
        codes = [packed(*(line.colour or (0, 0, 0))) for line in lines]
        if len(set(codes)) < len(codes):
            raise UserError(f"{file} gives one colour to two classes: masks of colours cannot tell them apart")
    elif kind == "ids" or any(line.value is not None for line in lines):
        codes = [index if line.value is None else line.value for index, line in enumerate(lines)]
    else:
        codes = found()
        if len(codes) != len(lines):
            values = ", ".join(map(str, codes[: 2 * SHOWN]))
            raise UserError(
                f"{file} names {len(lines)} classes and the masks hold {len(codes)} values ({values}): write "
                "'VALUE: name' in each line"
            )
    ids = iter(range(len(lines)))
    void = {IGNORE: IGNORE} if kind == "ids" else {}
    return void | {code: IGNORE if line.void else next(ids) for code, line in zip(codes, lines, strict=True)}


def found_classes(kind: str, root: Path, masks: Sequence[Path], ignored: Codes, snap: bool) -> Classes:
    """Classes of a folder without a list: one for each value or colour found, `class_0`, `class_1`, ... in their order;
    of `ids` one for each id up to the largest."""
    if snap:
        raise UserError(
            f"data.snap=true takes the nearest {kind} that a class has: name them in {root / 'classes.txt'}"
        )
    if kind == "ids":
        values = set(census(masks, kind, snap)) - {IGNORE, *ignored}
        check_ids(values, root)
        count = max(values) + 1
        names = tuple(f"class_{index}" for index in range(count))
        return Classes(names, palette(count), Encoding(kind, ignored), "the values of the masks")
    codes = [code for code in census(masks, kind, snap) if code not in ignored]
    if not 2 <= len(codes) <= MOST:
        hint = f"; smeared edges? name the classes with their {kind} in classes.txt, and give data.snap=true"
        raise UserError(
            f"the masks in {root} hold {len(codes)} {kind}; expected 2 to {MOST}{hint if len(codes) > MOST else ''}"
        )
    encoding = Encoding(kind, {code: index for index, code in enumerate(codes)} | ignored)
    names = tuple(f"class_{index}" for index in range(len(codes)))
    colours = tuple(unpacked(code) for code in codes) if kind == "colours" else palette(len(codes))
    return Classes(names, colours, encoding, f"the {kind} of the masks")


def check_ids(values: set[int], root: Path) -> None:
    """Raise UserError when the values of masks, void left out, cannot be class ids."""
    mend = "data.encoding=values makes a class of each value"
    if values <= {0}:
        raise UserError(
            f"the masks in {root} hold only void ({IGNORE}) and 0: looks like 0/255 masks, {IGNORE} for the object; "
            f"{mend}"
        )
    if max(values) + 1 > 2 * len(values):  # {0, 128}: grey levels; {0, 2}: a class that does not occur
        shown = ", ".join(str(value) for value in sorted(values)[:8])
        raise UserError(
            f"the masks in {root} hold {len(values)} values up to {max(values)} ({shown}): looks like grey levels; "
            f"{mend}, or name all classes in classes.txt"
        )


def census(masks: Sequence[Path], kind: str, snap: bool) -> list[int]:
    """All codes that occur in the masks, sorted."""

    def look(path: Path) -> np.ndarray:
        return np.unique(read_mask(path) if kind == "ids" else read_codes(path, kind == "colours", snap))

    with ThreadPoolExecutor(THREADS) as pool:
        return sorted({int(code) for codes in pool.map(look, masks) for code in codes})
