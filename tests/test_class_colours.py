"""The colours of classes and of wrong pixels: colour-blind people can tell them apart."""

from __future__ import annotations

import numpy as np
import pytest

from ssss_zoo.data.benchmarks.cityscapes import CITYSCAPES_CLASSES
from ssss_zoo.data.benchmarks.shapes_scene import SHAPES_CLASSES
from ssss_zoo.data.class_colours import (
    CLASS_COLOURS,
    MIN_LAB_DISTANCE,
    WRONG_COLOUR,
    class_colours,
    is_near_wrong,
)
from ssss_zoo.data.colour_vision import COLOUR_VISIONS, lab_distances, lab_to_rgb, rgb_to_lab
from ssss_zoo.evaluation.painting import VOID_STRIPES

OUR_COLOURS = {"generated": class_colours(255), "shapes": tuple(SHAPES_CLASSES.values())}


def test_lab_is_that_of_the_standard():
    """Values of the CIE for sRGB's primaries under D65, and the identity."""
    lab = rgb_to_lab([(255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)])
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [0, 0, 0]]
    assert lab == pytest.approx(np.array(expected), abs=0.05)
    lightness, a, b = rgb_to_lab([(90, 160, 200)])[0]
    assert lab_to_rgb(lightness, float(np.hypot(a, b)), float(np.degrees(np.arctan2(b, a)))) == (90, 160, 200)


def test_colour_blindness_confuses_the_colours_that_it_is_known_to_confuse():
    red_and_green = [(200, 90, 60)], [(120, 120, 60)]
    for vision, confused in (("normal", False), ("protanopia", True), ("deuteranopia", True), ("tritanopia", False)):
        one, other = (rgb_to_lab(colours, vision)[0] for colours in red_and_green)
        assert (np.linalg.norm(one - other) < 25) == confused, vision
    assert all(np.sum(matrix, axis=1) == pytest.approx(np.ones(3), abs=1e-3) for matrix in COLOUR_VISIONS.values())


def test_no_class_of_ours_comes_near_the_colour_of_wrong_pixels():
    for name, colours in OUR_COLOURS.items():
        assert lab_distances(colours, [WRONG_COLOUR]).min() >= MIN_LAB_DISTANCE >= 15, name
        assert not is_near_wrong(colours)
    assert lab_distances(VOID_STRIPES, [WRONG_COLOUR]).min() >= MIN_LAB_DISTANCE
    assert is_near_wrong(list(CITYSCAPES_CLASSES.values()))  # these get stripes instead


def test_designed_colours_can_be_told_apart_by_everybody():
    for colours in (CLASS_COLOURS, tuple(SHAPES_CLASSES.values())):
        distances = lab_distances(colours, colours)
        assert distances[~np.eye(len(colours), dtype=bool)].min() >= MIN_LAB_DISTANCE
    assert len(CLASS_COLOURS) == 12
    assert set(SHAPES_CLASSES.values()) <= set(CLASS_COLOURS)


def test_generated_colours_are_different_and_an_overlay_can_bear_them():
    colours = class_colours(255)
    assert len(set(colours)) == 255
    assert class_colours(3) == colours[:3] == CLASS_COLOURS[:3]
    lightness = rgb_to_lab(colours)[:, 0]
    assert lightness.min() > 38  # black is never a class
    assert lightness.max() < 96
    later = lightness[12:]
    assert np.abs(np.diff(later)).mean() > 10  # neighbours in the list differ in lightness as well as in hue
