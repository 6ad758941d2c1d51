"""Whether the palettes of masks agree with one another and with the colours that a class list declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssss_zoo.data.classes import ClassLine
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.data.folder.value_counts import COUNTING_THREADS
from ssss_zoo.data.images import Reading, open_with_pillow
from ssss_zoo.data.mask_values import hex_colour, pack_colour, read_stored_mask
from ssss_zoo.errors import UserError

GREY_PALETTE = [level for level in range(256) for _ in range(3)]  # each index is its own grey: it means nothing
ENCODING_CHOICE = (
    "data.encoding=colours goes by the colours (classes.txt: 'name R G B' a line), data.encoding=ids by the indices"
)

ColoursOfIndex = Mapping[int, Mapping[Colour, Path]]  # for each index that occurs, its colours, each with one mask


@dataclass(frozen=True)
class PaletteVerdict:
    """What palettes say of masks. encoding: `ids` or `colours`; notes: what the user should know."""

    encoding: str
    notes: tuple[str, ...] = ()


def judge_palettes(lines: Sequence[ClassLine], masks: Sequence[Path], reading: Reading) -> PaletteVerdict:
    """Masks are read by their indices (`ids`); by their `colours` where the list declares every colour that occurs and
    a palette has one of them at another index. Pixels are read only where palettes differ, or hold a declared colour at
    another index.

    Raises UserError where palettes contradict one another, or the list in part.
    """
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        found = list(pool.map(lambda path: read_palette(path, reading), masks))
    palettes = {path: palette for path, palette in zip(masks, found, strict=True) if palette}
    declared = {
        line.colour: index if line.value is None else line.value for index, line in enumerate(lines) if line.colour
    }
    distinct = set(palettes.values())
    if len(distinct) < 2 and not any(has_colour_elsewhere(palette, declared) for palette in distinct):
        return PaletteVerdict("ids")
    shown = colours_of_indices(palettes, reading)
    colours = {colour for of_index in shown.values() for colour in of_index}
    misplaced = next(describe_misplaced_colours(shown, declared), None)
    if misplaced and colours <= set(declared):
        note = "masks are read by their colours, all of which are declared (data.encoding=ids reads indices)"
        return PaletteVerdict("colours", (f"{misplaced}: {note}",))
    if misplaced:
        raise UserError(f"{misplaced}, and some colours are not declared: {ENCODING_CHOICE}")
    differing = next((index for index, of_index in shown.items() if len(of_index) > 1), None)
    if differing is not None:
        examples = list(shown[differing].items())[:2]
        each = " and ".join(f"{name_colour(colour)} in {path}" for colour, path in examples)
        raise UserError(f"the palettes of the masks differ: index {differing} is {each}: {ENCODING_CHOICE}")
    return PaletteVerdict("ids")


def read_palette(path: Path, reading: Reading) -> tuple[int, ...]:
    """The palette of a mask, three numbers per entry. Empty where the mask has none or cannot be read, and where the
    palette means nothing: greys in their order, or a single colour."""
    try:
        with open_with_pillow(path, reading.max_pixels) as image:
            found = (image.getpalette("RGB") or []) if image.mode in ("P", "PA") else []
    except UserError:
        return ()
    one_colour = len(found) > 3 and len(set(zip(found[::3], found[1::3], found[2::3], strict=True))) == 1
    return () if one_colour or found == GREY_PALETTE[: len(found)] else tuple(found)


def has_colour_elsewhere(palette: Sequence[int], declared: Mapping[Colour, int]) -> bool:
    """Whether a palette holds a declared colour, and not at the index that is declared for it."""
    entries = [tuple(palette[at : at + 3]) for at in range(0, len(palette), 3)]
    at_its_index = {colour: entries[index : index + 1] == [colour] for colour, index in declared.items()}
    return any(colour in entries and not right for colour, right in at_its_index.items())


def colours_of_indices(palettes: Mapping[Path, Sequence[int]], reading: Reading) -> ColoursOfIndex:
    """The colours of each index that occurs in the pixels of the masks. Masks whose palette has one colour for two
    indices are left out."""

    def indices_of(path: Path) -> list[int]:
        try:
            pixels = read_stored_mask(path, reading)
            return np.unique(pixels).tolist() if pixels.ndim == 2 else []  # greys that were indexed for size
        except UserError:  # the check names it
            return []

    shown: dict[int, dict[Colour, Path]] = {}
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        for (path, palette), found in zip(palettes.items(), pool.map(indices_of, palettes), strict=True):
            colours = [tuple((*palette[3 * index : 3 * index + 3], 0, 0, 0)[:3]) for index in found]
            for index, (red, green, blue) in zip(found, colours, strict=True):
                if len(set(colours)) == len(colours):
                    shown.setdefault(index, {}).setdefault((red, green, blue), path)
    return shown


def describe_misplaced_colours(shown: ColoursOfIndex, declared: Mapping[Colour, int]) -> Iterator[str]:
    """Each colour that the list declares for one index, and that a mask has at another index of the list."""
    names = {index: colour for colour, index in declared.items()}
    for index, colours in sorted(shown.items()):
        for colour, path in colours.items():
            if colour in declared and declared[colour] != index and names.get(index) != colour:
                declares = f"the class list has the colour {name_colour(colour)} at {declared[colour]}"
                yield f"{declares}, the palette of {path} has it at {index}"


def name_colour(colour: Colour) -> str:
    return hex_colour(pack_colour(*colour))
