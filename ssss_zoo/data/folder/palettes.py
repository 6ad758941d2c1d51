"""Whether the palettes of masks agree with one another and with the colours that a class list declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssss_zoo.data.classes import ClassLine, Colour
from ssss_zoo.data.codes import hex_colour, packed, stored
from ssss_zoo.data.folder.evidence import THREADS
from ssss_zoo.data.images import Reading, open_with_pillow
from ssss_zoo.errors import UserError

GREYS = [level for level in range(256) for _ in range(3)]  # a palette that says nothing: each index is its own grey
DECIDE = (
    "data.encoding=colours goes by the colours (classes.txt: 'name R G B' a line), data.encoding=ids by the indices"
)

Shown = Mapping[int, Mapping[Colour, Path]]  # of each index that occurs its colours, and a mask where it has each


def kind_by_palettes(
    lines: Sequence[ClassLine], masks: Sequence[Path], reading: Reading
) -> tuple[str, tuple[str, ...]]:
    """`ids`, or `colours` where the list declares every colour that occurs and palettes have one at another index; and
    what there is to say of it. Masks are opened where palettes differ, or hold a declared colour at another index.

    Raises UserError where palettes contradict the list in part, or one another.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        palettes = {
            path: found
            for path, found in zip(masks, pool.map(lambda path: palette_of(path, reading), masks), strict=True)
            if found
        }
    declared = {
        line.colour: index if line.value is None else line.value for index, line in enumerate(lines) if line.colour
    }
    distinct = set(palettes.values())
    if len(distinct) < 2 and not any(elsewhere(palette, declared) for palette in distinct):
        return "ids", ()
    shown = shown_by(palettes, reading)
    colours = {colour for of_index in shown.values() for colour in of_index}
    moved = next((found for found in misplaced(shown, declared)), None)
    if moved and colours <= set(declared):
        note = f"{moved}: masks are read by their colours, all of which are declared (data.encoding=ids reads indices)"
        return "colours", (note,)
    if moved:
        raise UserError(f"{moved}, and some colours are not declared: {DECIDE}")
    differing = next((index for index, of_index in shown.items() if len(of_index) > 1), None)
    if differing is not None:
        told = " and ".join(f"{word(colour)} in {path}" for colour, path in list(shown[differing].items())[:2])
        raise UserError(f"the palettes of the masks differ: index {differing} is {told}: {DECIDE}")
    return "ids", ()


def palette_of(path: Path, reading: Reading) -> tuple[int, ...]:
    """The palette of a mask, three numbers an entry; empty where it has none, says nothing by it or cannot be read."""
    try:
        with open_with_pillow(path, reading.max_pixels) as image:
            found = (image.getpalette("RGB") or []) if image.mode in ("P", "PA") else []
    except UserError:
        return ()
    one_colour = len(found) > 3 and len(set(zip(found[::3], found[1::3], found[2::3], strict=True))) == 1
    return () if one_colour or found == GREYS[: len(found)] else tuple(found)


def elsewhere(palette: Sequence[int], declared: Mapping[Colour, int]) -> bool:
    """Whether a palette has a declared colour, and not at its index."""
    entries = [tuple(palette[at : at + 3]) for at in range(0, len(palette), 3)]
    at_its_index = {colour: entries[index : index + 1] == [colour] for colour, index in declared.items()}
    return any(colour in entries and not right for colour, right in at_its_index.items())


def shown_by(palettes: Mapping[Path, Sequence[int]], reading: Reading) -> Shown:
    """The colours of each index, of all that occur in the masks' pixels; masks with one colour for two are left out."""

    def look(path: Path) -> list[int]:
        try:
            pixels = stored(path, reading)
            return np.unique(pixels).tolist() if pixels.ndim == 2 else []  # greys that were indexed for size
        except UserError:  # the check names it
            return []

    shown: dict[int, dict[Colour, Path]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for (path, palette), found in zip(palettes.items(), pool.map(look, palettes), strict=True):
            colours = [tuple((*palette[3 * index : 3 * index + 3], 0, 0, 0)[:3]) for index in found]
            for index, (red, green, blue) in zip(found, colours, strict=True):
                if len(set(colours)) == len(colours):
                    shown.setdefault(index, {}).setdefault((red, green, blue), path)
    return shown


def misplaced(shown: Shown, declared: Mapping[Colour, int]) -> Iterator[str]:
    """Each colour that the list declares for one index and a mask has at another that the list declares as well."""
    names = {index: colour for colour, index in declared.items()}
    for index, colours in sorted(shown.items()):
        for colour, path in colours.items():
            if colour in declared and declared[colour] != index and names.get(index) != colour:
                declares = f"the class list has the colour {word(colour)} at {declared[colour]}"
                yield f"{declares}, the palette of {path} has it at {index}"


def word(colour: Colour) -> str:
    return hex_colour(packed(*colour))
