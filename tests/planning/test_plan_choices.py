"""The settings that follow from the data, and the time that a person allows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from helpers.errors import refusal
from ssss_zoo.planning.choices import (
    CropSize,
    averaging_settings,
    crop_candidates,
    evaluation_setting,
    hold_out_settings,
    read_rules,
    scale_setting,
)
from ssss_zoo.planning.crop_search import StepGoal, find_size
from ssss_zoo.planning.data_facts import DataFacts, class_thickness
from ssss_zoo.planning.duration import parse_duration
from ssss_zoo.planning.probe import RunCost

STREET = DataFacts(11, 3, 23, 344, 101, 360, 480, 360 * 480, "Pole", 3.1)


def test_durations():
    texts = {"90s": 90, "30m": 1800, "1h30m": 5400, "2h": 7200, "1.5h": 5400, "1d": 86400, "5min": 300, " 2M ": 120}
    assert {text: parse_duration(text) for text in texts} == texts


def test_a_wrong_time_is_refused_in_one_line():
    wrong = {
        "0": "no duration", "5": "give time=5m", "abc": "no duration", "": "no duration", "10s": "too short",
        "0m": "too short", "-5m": "no duration", "m": "no duration", "31d": "too long", "5m5h": "no duration",
    }  # fmt: skip
    for text, part in wrong.items():
        refusal(partial(parse_duration, text), f"time={text}", part)


def test_the_thickness_of_a_class_is_its_mean_run_across():
    mask = np.zeros((60, 60), np.uint8)
    mask[:, 10:13] = 1  # a pole, three pixels wide
    mask[40:45, 20:40] = 2  # a bar, five pixels high
    mask[50, 50] = 3  # too small to say anything
    found = class_thickness([mask, mask], 5)
    assert found[1] == 3
    assert found[2] == 5
    assert found.keys() == {0, 1, 2}


def test_crops_go_from_two_thirds_of_an_image_downwards():
    cpu = crop_candidates(STREET, None, None, gpu=False)
    assert cpu[0] == CropSize(240, 320, 4)
    assert cpu[-1] == CropSize(128, 160, 4)
    assert [size.pixels for size in cpu] == sorted((size.pixels for size in cpu), reverse=True)
    assert [size.batch for size in crop_candidates(STREET, None, None, gpu=True)[:3]] == [16, 8, 4]
    assert crop_candidates(replace(STREET, labelled=1), None, None, gpu=True)[0].batch == 4
    assert crop_candidates(STREET, (96, 128), 2, gpu=True) == [CropSize(96, 128, 2)]
    large, tiny = (replace(STREET, height=high, width=wide) for high, wide in ((3000, 4000), (10, 12)))
    assert crop_candidates(large, None, None, gpu=False)[0] == CropSize(384, 512, 4)
    assert crop_candidates(tiny, None, None, gpu=False) == [CropSize(64, 64, 4)]


def test_scales_leave_the_thinnest_class_its_pixels():
    assert scale_setting(STREET).value == "[0.5,1]"
    assert scale_setting(replace(STREET, thickness=2.0)).value == "[0.75,1.5]"
    assert scale_setting(replace(STREET, thickness=1.0)).value == "[1,2]"
    assert scale_setting(replace(STREET, thickness=0.0, thin_class="")).value == "[0.5,1]"
    assert scale_setting(replace(STREET, height=96, width=128)).value == "[0.75,1.5]"


def test_an_image_too_large_for_the_memory_is_evaluated_in_windows():
    assert evaluation_setting(STREET, 8e9).value == "whole"
    assert evaluation_setting(replace(STREET, largest_pixels=20_000**2), 8e9).value == "sliding"


def test_labelled_images_are_held_out_only_where_they_can_be_spared():
    assert hold_out_settings(val=10, labelled=20) == []
    assert hold_out_settings(val=0, labelled=1) == []
    assert [one.value for one in hold_out_settings(val=0, labelled=20)] == ["0.2"]


def test_the_teacher_averages_longer_in_a_longer_run():
    values = {steps: [one.value for one in averaging_settings(read_rules(), steps, 86)] for steps in (200, 1000, 10**6)}
    assert values == {200: ["0.980", "0.4"], 1000: ["0.980", "2"], 10**6: ["0.999", "5"]}


# --- the size of a step ---------------------------------------------------------------------------------------------


def cost_of(size: CropSize) -> RunCost:
    """A step that takes as long as its pixels are many, a second for a million."""
    return RunCost(size.pixels / 1e6, 1.0, 1000 * size.pixels, 86)


@pytest.mark.parametrize(
    ("training", "gpu_memory", "expected"),
    [
        (10_000, 0, CropSize(240, 320, 4)),
        (150, 0, CropSize(128, 160, 4)),  # 1,000 steps each of the smallest alone
        (1, 0, CropSize(128, 160, 4)),  # nothing fits: the cheapest
        (10_000, 1e12, CropSize(240, 320, 16)),
        (10_000, 600e6, CropSize(240, 320, 4)),  # a batch of 8 does not fit into the memory
    ],
)
def test_the_largest_size_of_which_enough_steps_fit(training, gpu_memory, expected):
    candidates = crop_candidates(STREET, None, None, gpu=gpu_memory > 0)
    goal = StepGoal(training, alone=False, steps=None)
    size, cost = find_size(cost_of, candidates, cost_of(candidates[-1]), goal, gpu_memory)
    assert (size, cost) == (expected, cost_of(expected))
