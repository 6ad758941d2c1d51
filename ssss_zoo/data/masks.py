"""What the masks of a folder say of its classes, understood from all of them, and whether files contradict it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssss_zoo.data.base import UNUSABLE, WARNING, Fault
from ssss_zoo.data.classes import FILES, ClassLine, Colour, palette, read_class_list, shown_colours
from ssss_zoo.data.codes import VOIDED, code_of, is_coloured, packed, unpacked
from ssss_zoo.data.files import VALUES_SHOWN
from ssss_zoo.data.folder.evidence import Census, census
from ssss_zoo.data.folder.mask_encoding import Codes, Encoding
from ssss_zoo.data.folder.palettes import kind_by_palettes
from ssss_zoo.data.images import Reading
from ssss_zoo.data.lists import first_file
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.toolkit.types import IGNORE, Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig
    from ssss_zoo.data.folder.regions import Regions

KINDS = ("auto", "ids", "values", "colours")
LOOKS = 16  # masks looked at to tell colours from values, and smeared ones where a list names the classes (our choice)
MOST = 64  # more codes than this are no classes, but smeared edges or a photograph (our choice)
UNREAD = np.zeros((0, 0), np.int64)
REMAINS = 0.05  # pixels of other classes as a share of those of 255, at most, where 255 is taken for one (our choice)
SMEARED = (
    "edges in the masks look smeared: from one class to another they often lead over a value between the two, as "
    "resizing or rotating with interpolation makes them"
)
AGAIN, CORRECT = "make the masks again with nearest neighbour", "correct the masks"


@dataclass(frozen=True, eq=False)
class Classes:
    """What was understood of the classes of a folder. origin: where the names come from; notes: what was guessed;
    faults: what contradicts it."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    encoding: Encoding | Regions
    origin: str
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


# --- understanding a folder's masks ---------------------------------------------------------------------------------


def understand(data: DataConfig, root: Path, samples: Sequence[Sample], regions: Regions | None = None) -> Classes:
    """Names, colours and encoding of the classes: from the list in `root` where there is one, else from all masks.
    regions: how masks are put together, where they are no images of codes.

    Raises UserError, with the setting that mends it, where they cannot be class ids and `data.encoding=auto`.
    """
    check_choice("data.encoding", data.encoding, KINDS)
    reading = Reading(exif=data.exif, max_pixels=data.max_pixels)
    file = first_file(root, FILES)
    lines = read_class_list(file) if file else []
    if regions:
        return of_regions(data, samples, regions, lines, file)
    masks = [sample.mask for sample in samples]
    kind = data.encoding
    notes: tuple[str, ...] = ()
    if kind == "auto":
        kind = guessed(lines, masks, reading)
        if kind == "ids":
            kind, notes = kind_by_palettes(lines, masks, reading)
    ignored = tuple(code_of(word, kind) for word in data.ignore)
    blank = Encoding(kind, {}, data.snap, ignored, reading)
    if file:
        return named_classes(blank, lines, file, masks, notes)
    return found_classes(blank, root, masks)


def of_regions(
    data: DataConfig, samples: Sequence[Sample], regions: Regions, lines: list[ClassLine], file: Path | None
) -> Classes:
    """The classes of masks that are put together. Raises UserError for settings that are of others."""
    given = {"encoding": data.encoding != "auto", "ignore": bool(data.ignore), "snap": data.snap}
    wrong = next((key for key, said in given.items() if said), None)
    if wrong:
        what = f"{regions.said_of}; a class called void in classes.txt leaves pixels out"
        raise UserError(f"data.{wrong} is of masks that hold ids, values or colours, and here {what}")
    regions.reading = Reading(exif=data.exif, max_pixels=data.max_pixels)
    known = regions.settle(samples, lines, file)
    names, origin = tuple(line.name for line in known), file.name if file else "the regions of the masks"
    return Classes(names, shown_colours(known), regions, origin)


def guessed(lines: Sequence[ClassLine], masks: Sequence[Path], reading: Reading) -> str:
    """`colours` where most masks are coloured, else `ids`.

    Raises UserError for coloured masks whose colours no list declares.
    """
    looked_at = masks[:: max(len(masks) // LOOKS, 1)]
    colourful = [path for path in looked_at if is_coloured(path, reading)]
    if 2 * len(colourful) > len(looked_at):
        if any(line.colour for line in lines):
            return "colours"
        raise UserError(
            f"masks are coloured, such as {colourful[0]}, and no list says what the colours mean: give classes.txt "
            "with a line 'name R G B' for each class, or data.encoding=colours, which makes every colour found a class"
        )
    return "ids"


# --- classes of a list ----------------------------------------------------------------------------------------------


def named_classes(
    blank: Encoding, lines: list[ClassLine], file: Path, masks: Sequence[Path], notes: tuple[str, ...]
) -> Classes:
    """The classes of a list, and what their codes are. blank: an encoding without any."""
    codes = declared(blank, lines, file, masks)
    named = [line for line in lines if not line.void]
    as_they_are = all(code == index for code, index in codes.items() if code not in blank.ignored)
    if blank.kind == "ids" and as_they_are and not blank.snap:
        encoding = blank
    else:
        encoding = replace(blank, kind="values" if blank.kind == "ids" else blank.kind, codes=codes)
    names = tuple(line.name for line in named)
    return Classes(names, shown_colours(named), encoding, file.name, notes, tuple(doubts_of_named(encoding, masks)))


def declared(blank: Encoding, lines: Sequence[ClassLine], file: Path, masks: Sequence[Path]) -> Codes:
    """The codes of a list's classes in its order; the ids count the classes that are not void. Values that a list of
    names leaves out are the places in it, or, with `values`, those found, when there are as many. In ids 255 is void
    unless the list gives it to a class."""
    kind = blank.kind
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
        seen = census(masks, blank.codes_of, blank.levels)
        codes = classes_in(blank, seen)
        if len(codes) != len(lines):
            raise UserError(
                f"{file} names {len(lines)} classes and the masks hold {len(codes)} values ({shares(blank, seen)}): "
                "write 'VALUE: name' in each line, and give data.snap=true where others are strays"
            )
    ids = iter(range(len(lines)))
    known = {code: IGNORE if line.void else next(ids) for code, line in zip(codes, lines, strict=True)}
    return known | ({IGNORE: known.get(IGNORE, IGNORE)} if kind == "ids" else {})


def doubts_of_named(encoding: Encoding, masks: Sequence[Path]) -> Iterator[Fault]:
    """Whether a few masks, read as the list says, have smeared edges."""
    code_of_id = np.full(IGNORE + 1, IGNORE, np.int64) if encoding.codes else np.arange(IGNORE + 1)
    for code, index in reversed(encoding.known.items()):
        code_of_id[index] = code

    def read(path: Path) -> np.ndarray:
        try:
            return code_of_id[encoding.read(Sample("", None, path))]
        except UserError:  # the check names it
            return UNREAD

    looked_at = masks[:: max(len(masks) // LOOKS, 1)]
    if looked_at and census(looked_at, read, encoding.levels).smeared():
        yield Fault(WARNING, "smeared", "masks", f"{SMEARED}; {AGAIN}")


# --- classes that are found -----------------------------------------------------------------------------------------


def found_classes(blank: Encoding, root: Path, masks: Sequence[Path]) -> Classes:
    """Classes of a folder without a list: one for each value or colour found, `class_0`, `class_1`, ... in their order;
    of `ids` one for each id up to the largest."""
    kind = blank.kind
    if blank.snap:
        raise UserError(
            f"data.snap=true takes the nearest {kind} that a class has: name them in {root / 'classes.txt'}"
        )
    seen = census(masks, blank.codes_of, blank.levels)
    codes = classes_in(blank, seen)
    if kind == "ids":
        check_ids(blank, seen, root)
    if not 2 <= len(codes) <= MOST and (kind != "ids" or len(codes) > MOST):
        hint = f"; smeared edges? {way_out(blank, seen)}"
        raise UserError(
            f"the masks in {root} hold {len(codes)} {kind} ({shares(blank, seen)}); expected 2 to {MOST}"
            f"{hint if len(codes) > MOST else ''}"
        )
    count = max(codes) + 1 if kind == "ids" else len(codes)
    names = tuple(f"class_{index}" for index in range(count))
    faults = tuple(doubts_of_found(blank, seen))
    if kind == "ids":
        return Classes(names, palette(count), blank, "the values of the masks", faults=faults)
    encoding = replace(blank, codes={code: index for index, code in enumerate(codes)})
    colours = tuple(unpacked(code) for code in codes) if kind == "colours" else palette(count)
    return Classes(names, colours, encoding, f"the {kind} of the masks", faults=faults)


def classes_in(blank: Encoding, seen: Census) -> list[int]:
    """The codes that may be classes: of ids 255 is none."""
    void = {*blank.ignored, VOIDED} | ({IGNORE} if blank.kind == "ids" else set())
    return [int(code) for code in seen.codes if code not in void]


def check_ids(blank: Encoding, seen: Census, root: Path) -> None:
    """Raise UserError when the values of masks, void left out, cannot be class ids."""
    values = classes_in(blank, seen)
    mend = "data.encoding=values makes a class of each value"
    if set(values) <= {0}:
        raise UserError(
            f"the masks in {root} hold only void ({IGNORE}) and 0: looks like 0/255 masks, {IGNORE} for the object; "
            f"{mend}"
        )
    if max(values) + 1 > 2 * len(values):  # {0, 128}: grey levels; {0, 2}: a class that does not occur
        if seen.smeared():
            raise UserError(f"{SMEARED} ({shares(blank, seen)}); {way_out(blank, seen)}")
        shown = ", ".join(str(value) for value in values[:8])
        in_masks = len(seen.holders_of(IGNORE))
        also = f"; and {IGNORE}, which ids leave out, in {in_masks} of {seen.masks} masks" if in_masks else ""
        raise UserError(
            f"the masks in {root} hold {len(values)} values up to {max(values)} ({shown}{also}): looks like grey "
            f"levels; {mend}, or name all classes in classes.txt ('VALUE: name' a line)"
        )


def doubts_of_found(blank: Encoding, seen: Census) -> Iterator[Fault]:
    """What says that codes found are no classes: smeared edges, strays, or an object that is left out as void."""
    codes = classes_in(blank, seen)
    areas = [code for code in codes if code not in seen.codes[seen.thin]]
    strays = [code for code in codes if code in seen.codes[seen.strays()]]
    lines = sum(seen.pixels_of(code) for code in codes if code not in areas)
    name = str(seen.holders[0][0]) if codes else "masks"
    if seen.smeared():
        yield Fault(UNUSABLE, "smeared", name, f"{SMEARED} ({shares(blank, seen)}); {way_out(blank, seen)}")
    elif strays:
        told = ", ".join(stray(blank, seen, code) for code in strays[:VALUES_SHOWN])
        more = f" and {len(strays) - VALUES_SHOWN} more" if len(strays) > VALUES_SHOWN else ""
        message = f"{told}{more}: almost no pixels in few masks, so strays rather than classes"
        yield Fault(
            UNUSABLE, "stray", str(seen.holders_of(strays[0])[0]), f"{message}; {way_out(blank, seen, CORRECT)}"
        )
    elif blank.kind == "ids" and len(areas) <= 1 < len(codes) and lines < REMAINS * seen.pixels_of(IGNORE):
        message = f"{IGNORE}, which ids leave out, holds an area, and of the others one ({shares(blank, seen)})"
        yield Fault(UNUSABLE, "binary", name, f"{message}: looks like 0/255 masks; {way_out(blank, seen)}")
    elif rims := [code for code in seen.between_areas() if code in codes]:
        told = ", ".join(map(blank.word, rims))
        message = f"{told} only occurs in lines between two others: a class, or smeared edges? ({shares(blank, seen)})"
        yield Fault(WARNING, "line", name, f"{message}; {way_out(blank, seen)}")


def stray(blank: Encoding, seen: Census, code: int) -> str:
    """A code of few pixels, with the masks that hold it."""
    held = seen.holders_of(code)
    more = f" and {len(held) - 1} more" if len(held) > 1 else ""
    return f"{blank.word(code)} ({seen.pixels_of(code):,} pixels in {held[0]}{more})"


def shares(blank: Encoding, seen: Census) -> str:
    """The codes with most pixels, and their shares."""
    most = np.argsort(-seen.pixels, kind="stable")[: 2 * VALUES_SHOWN]
    told = ", ".join(f"{blank.word(int(seen.codes[at]))} {seen.pixels[at] / seen.pixels.sum():.2%}" for at in most)
    return told + (", ..." if len(seen.codes) > 2 * VALUES_SHOWN else "")


def way_out(blank: Encoding, seen: Census, mend: str = AGAIN) -> str:
    """The lines of classes.txt, and the setting, that keep the codes with areas of pixels alone. mend: what else helps;
    it comes first where smeared edges lead over codes that are kept."""
    odd = set(seen.codes[seen.thin | seen.strays()].tolist())
    kept = seen.without({*odd, *blank.ignored, VOIDED})
    if not odd or not 2 <= len(kept) <= MOST:
        return f"{mend}, or name every class in classes.txt, which takes them as they are"
    plain = [code for code in kept if code != IGNORE] if blank.kind == "ids" else kept
    void = IGNORE if len(plain) > 1 and max(plain) < 2 * len(plain) else None
    names = ["void" if code == void else f"class_{at}" for at, code in enumerate(kept)]
    lines = [
        f"'{name} {' '.join(map(str, unpacked(code)))}'" if blank.kind == "colours" else f"'{code}: {name}'"
        for code, name in zip(kept, names, strict=True)
    ]
    more = ", ..." if len(lines) > 2 * VALUES_SHOWN else ""
    snap = (
        f"write classes.txt of the lines {', '.join(lines[: 2 * VALUES_SHOWN])}{more} with names of your own, and give "
        "data.snap=true, which takes the nearest of them"
    )
    ways = [mend, snap] if mend == AGAIN and len(plain) > 2 else [snap, mend]
    return f"{'; or '.join(ways)}; or name every class in classes.txt"
