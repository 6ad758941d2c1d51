"""Runs on images of 8 x 8 pixels that a test drives step by step, and packages that are not there."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import pytest

from helpers.engine_steps import SIDE, a_bit_brighter
from ssss_zoo.engine import plugin_source
from ssss_zoo.testing.tiny import TinyRun, make_method
from ssss_zoo.toolkit.types import FixedAugmentation


@pytest.fixture
def rig(tiny_plugins, tiny_run):
    """(hooks of one method, overrides) -> a `TinyRun` of 8 x 8 images: no flip, a fixed strong view, float64."""

    def make(hooks: dict | None = None, *overrides: str, double: bool = True) -> TinyRun:
        if hooks is not None:
            tiny_plugins.add("methods", "own", make_method(**hooks))
            overrides = ("method=own", *overrides)
        made = tiny_run(f"train.crop=[{SIDE},{SIDE}]", "augment.flip=0", *overrides)
        made.engine.strong = FixedAugmentation(a_bit_brighter)
        return made.double() if double else made

    return make


@pytest.fixture
def two(tiny_plugins, rig):
    """(hooks of `left`, hooks of `right`) -> a `TinyRun` of method=left+right."""

    def make(left: dict, right: dict, *overrides: str) -> TinyRun:
        tiny_plugins.add("methods", "left", make_method("Left", **left))
        tiny_plugins.add("methods", "right", make_method("Right", **right))
        return rig(None, "method=left+right", *overrides)

    return make


@pytest.fixture
def add_entry_points(monkeypatch):
    """Entry points of a package that is not there, beside the real ones."""

    def add(*points: EntryPoint) -> None:
        monkeypatch.setattr(
            plugin_source,
            "entry_points",
            lambda group: [*entry_points(group=group), *(point for point in points if point.group == group)],
        )

    return add
