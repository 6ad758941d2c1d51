"""The colours of pictures: of classes that bring none of their own, and of wrong pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import count

from ssss_zoo.data.colour_vision import Colour, lab_distances, lab_to_rgb

# Twelve colours that are at least 18 apart in Lab for every vision of `colour_vision`. They were searched for under
# this condition: neither grey (photographs are, and void is) nor black (a mask over a photograph would only darken it).
CLASS_COLOURS: tuple[Colour, ...] = (
    (40, 175, 250),  # sky blue
    (240, 140, 40),  # orange
    (0, 125, 85),  # deep green
    (245, 220, 60),  # yellow
    (168, 48, 120),  # plum
    (0, 252, 252),  # cyan
    (144, 84, 12),  # brown
    (252, 156, 192),  # pink
    (132, 240, 108),  # lime
    (144, 180, 132),  # sage
    (168, 144, 72),  # khaki
    (192, 240, 180),  # pale green
)
WRONG_COLOUR: Colour = (255, 0, 200)  # magenta; no colour of ours comes nearer than MIN_LAB_DISTANCE
MIN_LAB_DISTANCE = 15.0  # between WRONG_COLOUR and a class (our choice; about 2 is the least that people see)
GOLDEN_ANGLE = 137.508  # degrees between the hues of the colours after the twelve
MORE_LIGHTNESSES = (78.0, 52.0, 66.0)  # CIE L of these colours, in turn
MORE_CHROMAS = (62.0, 44.0)  # CIE C of these colours; the second after 60 of them


@cache
def class_colours(number: int) -> tuple[Colour, ...]:
    """`number` different colours, none near WRONG_COLOUR. The first twelve can be told apart by colour-blind people."""
    colours = list(CLASS_COLOURS[:number])
    candidates = count()
    while len(colours) < number:
        step = next(candidates)
        chroma = MORE_CHROMAS[step // 60 % len(MORE_CHROMAS)]
        colour = lab_to_rgb(MORE_LIGHTNESSES[step % len(MORE_LIGHTNESSES)], chroma, step * GOLDEN_ANGLE)
        if colour not in colours and not is_near_wrong([colour]):
            colours.append(colour)
    return tuple(colours)


def is_near_wrong(colours: Sequence[Colour]) -> bool:
    """Whether one of the colours could be taken for WRONG_COLOUR."""
    return bool(lab_distances(colours, [WRONG_COLOUR]).min() < MIN_LAB_DISTANCE)
