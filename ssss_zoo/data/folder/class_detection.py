"""The classes of a folder's masks: from a class list or from the values of all masks, checked against the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssss_zoo.data.base import UNUSABLE, WARNING, Fault
from ssss_zoo.data.checks import VALUES_SHOWN
from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.classes import CLASS_LIST_NAMES, ClassLine, display_colours, read_class_list
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.data.folder.mask_encoding import IdOfValue, MaskEncoding
from ssss_zoo.data.folder.palette_check import judge_palettes
from ssss_zoo.data.folder.regions import RegionEncoding, RegionSource, detect_region_classes
from ssss_zoo.data.folder.value_counts import ValueCounts, count_mask_values
from ssss_zoo.data.images import Reading
from ssss_zoo.data.mask_values import VOID_VALUE, is_coloured, pack_colour, parse_ignored_value, unpack_colour
from ssss_zoo.data.split_lists import first_existing
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.toolkit.types import IGNORE, Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

ENCODING_CHOICES = ("auto", "ids", "values", "colours")
MASKS_SAMPLED = 16  # masks that are opened to tell colours from values, or to check a class list (our choice)
MAX_CLASSES_FOUND = 64  # more values than this are smeared edges or a photograph, no classes (our choice)
REMAINING_PIXELS = 0.05  # of other classes as a share of those of 255, below which 255 is an object (our choice)
UNREAD_MASK = np.zeros((0, 0), np.int64)
SMEARED_EDGES_FOUND = (
    "edges in the masks look smeared: between two classes there is often a value in between, as after resizing or "
    "rotating with interpolation"
)
REMAKE_MASKS = "make the masks again with nearest neighbour"
CORRECT_MASKS = "correct the masks"


@dataclass(frozen=True, eq=False)
class ClassDetection:
    """The classes of a folder and what masks hold for them. origin: where the names come from; notes: what was guessed;
    faults: what in the files contradicts it."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    encoding: MaskEncoding | RegionEncoding
    origin: str
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def detect_classes(
    data: DataConfig, root: Path, samples: Sequence[Sample], regions: RegionSource | None = None
) -> ClassDetection:
    """The classes of the list in `root` if there is one, else of all masks. regions: where masks are put together from
    regions.

    Raises UserError, with the setting that helps, where masks cannot hold class ids and `data.encoding=auto`.
    """
    check_choice("data.encoding", data.encoding, ENCODING_CHOICES)
    file = first_existing(root, CLASS_LIST_NAMES)
    lines = read_class_list(file) if file else []
    if regions:
        return classes_of_regions(data, samples, regions, lines, file)
    reading = Reading(exif=data.exif, max_pixels=data.max_pixels)
    masks = [sample.mask for sample in samples]
    kind = data.encoding
    notes: tuple[str, ...] = ()
    if kind == "auto":
        kind = guess_encoding(lines, masks, reading)
        if kind == "ids":
            verdict = judge_palettes(lines, masks, reading)
            kind = verdict.encoding
            notes = verdict.notes
    ignored = tuple(parse_ignored_value(text, kind) for text in data.ignore)
    empty = MaskEncoding(kind, {}, data.snap, ignored, reading)
    if file:
        return classes_of_list(empty, lines, file, masks, notes)
    return classes_of_values(empty, root, masks)


def classes_of_regions(
    data: DataConfig, samples: Sequence[Sample], regions: RegionSource, lines: list[ClassLine], file: Path | None
) -> ClassDetection:
    """The classes of masks that are put together from regions. Raises UserError for settings that only other masks
    have a use for."""
    given = {"encoding": data.encoding != "auto", "ignore": bool(data.ignore), "snap": data.snap}
    wrong = next((key for key, is_given in given.items() if is_given), None)
    if wrong:
        what = f"{regions.description}; a class called void in classes.txt leaves pixels out"
        raise UserError(f"data.{wrong} applies to masks with ids, values or colours; here {what}")
    reading = Reading(exif=data.exif, max_pixels=data.max_pixels)
    found = detect_region_classes(regions, samples, lines, file, reading)
    names = tuple(line.name for line in found.lines)
    origin = file.name if file else "the regions of the masks"
    return ClassDetection(names, display_colours(found.lines), found.encoding, origin)


def guess_encoding(lines: Sequence[ClassLine], masks: Sequence[Path], reading: Reading) -> str:
    """`colours` where most masks are coloured, else `ids`. Raises UserError for coloured masks whose colours no list
    declares."""
    sampled = masks[:: max(len(masks) // MASKS_SAMPLED, 1)]
    coloured = [path for path in sampled if is_coloured(path, reading)]
    if 2 * len(coloured) <= len(sampled):
        return "ids"
    if any(line.colour for line in lines):
        return "colours"
    raise UserError(
        f"masks are coloured, such as {coloured[0]}, and no list says what the colours mean: give classes.txt "
        "with a line 'name R G B' for each class, or data.encoding=colours, which makes every colour found a class"
    )


# --- classes of a list ----------------------------------------------------------------------------------------------


def classes_of_list(
    empty: MaskEncoding, lines: list[ClassLine], file: Path, masks: Sequence[Path], notes: tuple[str, ...]
) -> ClassDetection:
    """The classes of a list and their values. empty: an encoding in which no value is declared yet."""
    declared = declare_values(empty, lines, file, masks)
    classes = [line for line in lines if not line.void]
    values_are_ids = all(value == index for value, index in declared.items() if value not in empty.ignored)
    if empty.kind == "ids" and values_are_ids and not empty.nearest:
        encoding = empty
    else:
        encoding = replace(empty, kind="values" if empty.kind == "ids" else empty.kind, declared=declared)
    names = tuple(line.name for line in classes)
    faults = tuple(find_faults_of_list(encoding, masks))
    return ClassDetection(names, display_colours(classes), encoding, file.name, notes, faults)


def declare_values(empty: MaskEncoding, lines: Sequence[ClassLine], file: Path, masks: Sequence[Path]) -> IdOfValue:
    """The class id of each value, by a list. Ids count the classes that are not void.

    A list of names without values means the places in the list; with `data.encoding=values`, the values that masks
    hold, when there are as many. In ids 255 is void unless the list gives it to a class.
    """
    if empty.kind == "colours":
        values = declared_colours(lines, file)
    elif empty.kind == "ids" or any(line.value is not None for line in lines):
        values = [index if line.value is None else line.value for index, line in enumerate(lines)]
    else:
        counts = count_mask_values(masks, empty.read_values, empty.as_levels)
        values = class_values(empty, counts)
        if len(values) != len(lines):
            raise UserError(
                f"{file} names {len(lines)} classes and the masks hold {len(values)} values "
                f"({describe_shares(empty, counts)}): write 'VALUE: name' in each line, and give data.snap=true where "
                "others are strays"
            )
    ids = iter(range(len(lines)))
    declared = {value: IGNORE if line.void else next(ids) for value, line in zip(values, lines, strict=True)}
    return declared | ({IGNORE: declared.get(IGNORE, IGNORE)} if empty.kind == "ids" else {})


def declared_colours(lines: Sequence[ClassLine], file: Path) -> list[int]:
    """The colour of each line as a mask value. Raises UserError for a line without a colour and for a colour that two
    lines have."""
    bare = [line.name for line in lines if line.colour is None]
    if bare:
        raise UserError(
            f"{file} gives no colour for class '{bare[0]}', and masks hold colours: 'name R G B' in each line"
        )
    values = [pack_colour(*(line.colour or (0, 0, 0))) for line in lines]
    if len(set(values)) < len(values):
        raise UserError(f"{file} gives one colour to two classes: masks of colours cannot tell them apart")
    return values


def find_faults_of_list(encoding: MaskEncoding, masks: Sequence[Path]) -> Iterator[Fault]:
    """A warning where a sample of masks, read by the list, has smeared edges."""
    value_of_id = np.full(IGNORE + 1, IGNORE, np.int64) if encoding.declared else np.arange(IGNORE + 1)
    for value, index in reversed(encoding.id_of_value.items()):
        value_of_id[index] = value

    def read_declared_values(path: Path) -> np.ndarray:
        try:
            return value_of_id[encoding.read(Sample("", None, path))]
        except UserError:  # the check names it
            return UNREAD_MASK

    sampled = masks[:: max(len(masks) // MASKS_SAMPLED, 1)]
    if sampled and count_mask_values(sampled, read_declared_values, encoding.as_levels).look_smeared():
        yield Fault(WARNING, "smeared", "masks", f"{SMEARED_EDGES_FOUND}; {REMAKE_MASKS}")


# --- classes of values ----------------------------------------------------------------------------------------------


def classes_of_values(empty: MaskEncoding, root: Path, masks: Sequence[Path]) -> ClassDetection:
    """The classes of a folder without a list, `class_0`, `class_1`, ...: one for each value or colour, in their order;
    for ids, one for each id up to the largest."""
    kind = empty.kind
    if empty.nearest:
        raise UserError(f"data.snap=true maps to the nearest {kind} of a class: name them in {root / 'classes.txt'}")
    counts = count_mask_values(masks, empty.read_values, empty.as_levels)
    values = class_values(empty, counts)
    if kind == "ids":
        check_ids(empty, counts, root)
    too_many = len(values) > MAX_CLASSES_FOUND
    if too_many or (len(values) < 2 and kind != "ids"):
        hint = f"; smeared edges? {suggest_class_list(empty, counts)}" if too_many else ""
        raise UserError(
            f"the masks in {root} hold {len(values)} {kind} ({describe_shares(empty, counts)}); expected 2 to "
            f"{MAX_CLASSES_FOUND}{hint}"
        )
    count = max(values) + 1 if kind == "ids" else len(values)
    names = tuple(f"class_{index}" for index in range(count))
    faults = tuple(find_faults_of_values(empty, counts))
    if kind == "ids":
        return ClassDetection(names, class_colours(count), empty, "the values of the masks", faults=faults)
    encoding = replace(empty, declared={value: index for index, value in enumerate(values)})
    colours = tuple(unpack_colour(value) for value in values) if kind == "colours" else class_colours(count)
    return ClassDetection(names, colours, encoding, f"the {kind} of the masks", faults=faults)


def class_values(empty: MaskEncoding, counts: ValueCounts) -> list[int]:
    """The values that may be classes; 255 is none in ids."""
    void = {*empty.ignored, VOID_VALUE} | ({IGNORE} if empty.kind == "ids" else set())
    return [int(value) for value in counts.values if value not in void]


def check_ids(empty: MaskEncoding, counts: ValueCounts, root: Path) -> None:
    """Raise UserError when the values of masks, void left out, cannot be class ids."""
    values = class_values(empty, counts)
    remedy = "data.encoding=values makes a class of each value"
    if set(values) <= {0}:
        raise UserError(
            f"the masks in {root} hold only void ({IGNORE}) and 0: looks like 0/255 masks, {IGNORE} for the object; "
            f"{remedy}"
        )
    if max(values) + 1 > 2 * len(values):  # {0, 128}: grey levels; {0, 2}: a class that does not occur
        if counts.look_smeared():
            shares = describe_shares(empty, counts)
            raise UserError(f"{SMEARED_EDGES_FOUND} ({shares}); {suggest_class_list(empty, counts)}")
        few = ", ".join(str(value) for value in values[:8])
        in_masks = len(counts.masks_holding(IGNORE))
        also = f"; and {IGNORE}, which ids leave out, in {in_masks} of {counts.mask_count} masks" if in_masks else ""
        raise UserError(
            f"the masks in {root} hold {len(values)} values up to {max(values)} ({few}{also}): looks like grey "
            f"levels; {remedy}, or name all classes in classes.txt ('VALUE: name' a line)"
        )


def find_faults_of_values(empty: MaskEncoding, counts: ValueCounts) -> Iterator[Fault]:
    """The first sign that values are no classes: smeared edges, stray pixels, an object that counts as void, lines
    between two values."""
    values = class_values(empty, counts)
    areas = [value for value in values if value not in counts.values[counts.is_line]]
    strays = [value for value in values if value in counts.values[counts.is_stray]]
    line_pixels = sum(counts.pixels_of(value) for value in values if value not in areas)
    name = str(counts.masks_with[0][0]) if values else "masks"
    shares = describe_shares(empty, counts)
    remedy = suggest_class_list(empty, counts)
    if counts.look_smeared():
        yield Fault(UNUSABLE, "smeared", name, f"{SMEARED_EDGES_FOUND} ({shares}); {remedy}")
    elif strays:
        few = ", ".join(describe_stray(empty, counts, value) for value in strays[:VALUES_SHOWN])
        more = f" and {len(strays) - VALUES_SHOWN} more" if len(strays) > VALUES_SHOWN else ""
        message = f"{few}{more}: almost no pixels in few masks, so strays rather than classes"
        correct = suggest_class_list(empty, counts, CORRECT_MASKS)
        yield Fault(UNUSABLE, "stray", str(counts.masks_holding(strays[0])[0]), f"{message}; {correct}")
    elif empty.kind == "ids" and len(areas) <= 1 < len(values) and object_is_void(counts, line_pixels):
        message = f"{IGNORE}, which ids leave out, holds an area, and of the others one ({shares})"
        yield Fault(UNUSABLE, "binary", name, f"{message}: looks like 0/255 masks; {remedy}")
    elif rims := [value for value in counts.rims_between_areas() if value in values]:
        few = ", ".join(map(empty.format_value, rims))
        message = f"{few} only occurs in lines between two others: a class, or smeared edges? ({shares})"
        yield Fault(WARNING, "line", name, f"{message}; {remedy}")


def object_is_void(counts: ValueCounts, line_pixels: int) -> bool:
    """Whether 255 has so many pixels that it is the object of a mask, and the values in lines are its edges."""
    return line_pixels < REMAINING_PIXELS * counts.pixels_of(IGNORE)


def describe_stray(empty: MaskEncoding, counts: ValueCounts, value: int) -> str:
    """A value of few pixels, and the masks that hold it."""
    masks = counts.masks_holding(value)
    more = f" and {len(masks) - 1} more" if len(masks) > 1 else ""
    return f"{empty.format_value(value)} ({counts.pixels_of(value):,} pixels in {masks[0]}{more})"


def describe_shares(empty: MaskEncoding, counts: ValueCounts) -> str:
    """The values with most pixels, and their shares."""
    order = np.argsort(-counts.pixels, kind="stable")[: 2 * VALUES_SHOWN]
    shares = counts.pixels / counts.pixels.sum()
    few = ", ".join(f"{empty.format_value(int(counts.values[at]))} {shares[at]:.2%}" for at in order)
    return few + (", ..." if len(counts.values) > 2 * VALUES_SHOWN else "")


def suggest_class_list(empty: MaskEncoding, counts: ValueCounts, remedy: str = REMAKE_MASKS) -> str:
    """The lines of a classes.txt that keep only the values with areas of pixels, and the setting that goes with it.

    remedy: what else helps; it comes first where smeared edges cross values that are kept.
    """
    odd = set(counts.values[counts.is_line | counts.is_stray].tolist())
    kept = counts.values_except({*odd, *empty.ignored, VOID_VALUE})
    if not odd or not 2 <= len(kept) <= MAX_CLASSES_FOUND:
        return f"{remedy}, or name every class in classes.txt, which keeps them unchanged"
    objects = [value for value in kept if value != IGNORE] if empty.kind == "ids" else kept
    void = IGNORE if len(objects) > 1 and max(objects) < 2 * len(objects) else None
    names = ["void" if value == void else f"class_{at}" for at, value in enumerate(kept)]
    lines = [
        f"'{name} {' '.join(map(str, unpack_colour(value)))}'" if empty.kind == "colours" else f"'{value}: {name}'"
        for value, name in zip(kept, names, strict=True)
    ]
    more = ", ..." if len(lines) > 2 * VALUES_SHOWN else ""
    class_list = (
        f"write classes.txt with the lines {', '.join(lines[: 2 * VALUES_SHOWN])}{more} with your own names, and set "
        "data.snap=true, which maps all other values to the nearest of them"
    )
    first = remedy == REMAKE_MASKS and len(objects) > 2
    ways = [remedy, class_list] if first else [class_list, remedy]
    return f"{'; or '.join(ways)}; or name every class in classes.txt"
