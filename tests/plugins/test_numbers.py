"""The defaults that a paper or a release states, so that no slip of the keyboard changes what a method is. What is our
own choice stands in the methods and may move."""

from __future__ import annotations

import pytest

from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import load

STATED = {
    "augseg": {"threshold": 0.95, "ema_decay": 0.999, "copy_epochs": 1, "operations": 3, "weight": 1, "inject": True,
        "mask_padding": False},
    "corrmatch": {"threshold": 0.85, "momentum": 0.999, "regions": 128, "kl_weight": 0.125, "dropout": 0.5},
    "cps": {"weight": 1.5, "cutmix": False, "mask_padding": False},
    "cutmix_seg": {"threshold": 0.97, "weight": 1, "ema_decay": 0.99, "strength": "weak"},
    "esl": {
        "mass": 0.95, "weight": 0.2, "contrast_weight": 0.1, "contrast_temperature": 0.5, "contrast_momentum": 0.99,
        "contrast_confidence": 0.95,
    },
    "fixmatch": {"threshold": 0.95, "ema_decay": 0},
    "mean_teacher": {"weight": 100, "ema_decay": 0.99},
    "pixcon": {"weight": 0.1, "temperature": 0.1, "dim": 256, "per_class": 64, "anchors": 1024, "memory": 256},
    "prevmatch": {"models": 8, "drawn": 3, "threshold": 0.9, "previous_weight": "threshold"},
    "rankmatch": {"weight": 0.1, "agents": 64, "guard": 1e-10},
    "stpp": {"reliable": 0.5, "flip": True, "rank_scale": 1, "cutout": 0.5},
    "u2pl": {
        "drop": 20, "warm_epochs": 1, "copy_epochs": 1, "ema_decay": 0.99, "contrast_weight": 0.1, "dim": 256,
        "temperature": 0.5, "anchors": 256, "negatives": 50, "anchor_floor": 0.3, "low_rank": 3, "high_rank": 20,
    },
    "unimatch": {"threshold": 0.95, "dropout": 0.5, "perturb_labelled": True},
    "unimatch_v2": {"threshold": 0.95, "ema_decay": 0.996, "dropout": True, "partner": "reverse"},
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_a_method_starts_from_the_numbers_of_its_source(name):
    method = load("methods", name)()
    assert {option: getattr(method, option) for option in STATED[name]} == STATED[name]


def test_all_methods_that_have_such_numbers_are_here():
    assert set(installed("methods")) - set(STATED) == {"supervised", "farcluss"}  # none; a reconstruction
