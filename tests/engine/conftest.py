"""Runs on images of 8 x 8 pixels, driven step by step."""

from __future__ import annotations

import pytest

from helpers.engine_steps import (
    SIDE,
    a_bit_brighter,
)
from ssss_zoo.testing.tiny import Rig, make_method


@pytest.fixture
def rig(tiny_shelf, tiny_run):
    """(hooks of one method, words) -> a `Rig` on 8 x 8 images: no flip, a fixed strong view, float64 networks."""

    def make(hooks: dict | None = None, *words: str, double: bool = True) -> Rig:
        if hooks is not None:
            tiny_shelf.offer("methods", "own", make_method(**hooks))
            words = ("method=own", *words)
        made = tiny_run(f"train.crop=[{SIDE},{SIDE}]", "augment.flip=0", *words)
        made.engine.strong = a_bit_brighter
        return made.double() if double else made

    return make


@pytest.fixture
def two(tiny_shelf, rig):
    """(hooks of `left`, hooks of `right`) -> a `Rig` of method=left+right."""

    def make(left: dict, right: dict, *words: str) -> Rig:
        tiny_shelf.offer("methods", "left", make_method("Left", **left))
        tiny_shelf.offer("methods", "right", make_method("Right", **right))
        return rig(None, "method=left+right", *words)

    return make
