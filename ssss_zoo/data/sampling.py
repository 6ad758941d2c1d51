"""A part of a sequence that stands for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

Items = TypeVar("Items", bound=Sequence[object])


def evenly(items: Items, most: int) -> Items:
    """At most `most` of the items, at equal distances, the first one among them; all where they are no more."""
    step = max(-(-len(items) // most), 1)  # rounded up
    return cast(Items, items[::step])
