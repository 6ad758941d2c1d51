"""A hook's wrong answer stops the first step and is named."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from helpers.engine_steps import (
    SIDE,
    START,
    STRONG,
    box,
    gradients_at_step,
    raw_batch,
    views,
)
from helpers.errors import refusal
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.types import (
    IGNORE,
    CutMix,
    PseudoLabel,
    View,
    Views,
)


def label_with(**parts):
    def answer(self, probs, valid):
        confidence, ids = probs.max(dim=1)
        return replace(PseudoLabel(ids, confidence, valid), **{name: make(probs) for name, make in parts.items()})

    return answer


BAD = [
    ("pixel_weight", lambda self, probs: probs[:, :1], "(2, 1, 8, 8)"),
    ("pixel_weight", lambda self, probs: 1.0, "float"),
    ("pixel_weight", lambda self, probs: probs[:, 0] * math.nan, "finite"),
    ("pixel_weight", lambda self, probs: probs[:, 0] - 2, ">= 0"),
    ("pixel_weight", lambda self, probs: probs[:, 0] > 0, "bool"),
    ("class_weight", lambda self, num_classes: torch.ones(num_classes + 1), "(6,)"),
    ("class_weight", lambda self, num_classes: torch.full((num_classes,), math.inf), "finite"),
    ("class_weight", lambda self, num_classes: [1.0] * num_classes, "list"),
    ("class_weight", lambda self, num_classes: -torch.ones(num_classes), ">= 0"),
    ("pseudo_label", lambda self, probs: probs, "PseudoLabel"),
    ("pseudo_label", label_with(target=lambda probs: probs * 2), "sum to 1"),
    ("pseudo_label", label_with(target=lambda probs: probs[:, :4]), "(2, 4, 8, 8)"),
    ("pseudo_label", label_with(target=lambda probs: torch.full((2, 8, 8), IGNORE)), "255"),
    ("pseudo_label", label_with(target=lambda probs: torch.full((2, 8, 8), -1)), ">= 0"),
    ("pseudo_label", label_with(valid=lambda probs: probs[:, 0]), "bool"),
    ("pseudo_label", label_with(confidence=lambda probs: probs), "confidence"),
    ("pseudo_label", label_with(confidence=lambda probs: probs[:, 0] * math.nan), "finite"),
    ("make_views", lambda self: [View("look")], "list"),
    ("make_views", lambda self: Views((View("a"), View("a"))), "different names"),
    ("make_views", lambda self: Views((View("a", strength="hard"),)), "hard"),
    ("make_views", lambda self: Views((View("a", divide_by="sum"),)), "sum"),
    ("make_views", lambda self: Views((View("a", cutmix=CutMix("other", box(0, 0, 1, 1))),)), "other"),
    ("make_views", lambda self: Views((View("a", cutmix=CutMix("next", box(0, 0, 1, 1, images=3))),)), "boxes"),
    ("make_views", lambda self: Views((View("a", loss_weight=math.nan),)), "loss weights"),
    ("make_views", lambda self: Views((View("a", loss_weight=-1.0),)), "loss weights"),
    ("make_views", lambda self: Views((), supervised_weight=math.nan), "supervised_weight"),
    ("regularize", lambda self, label: torch.zeros(()), "dict"),
    ("regularize", lambda self, label: {"extra": torch.zeros(2)}, "'extra'"),
    ("regularize", lambda self, label: {"extra": 1.0}, "'extra'"),
    ("regularize", lambda self, label: {"extra": torch.tensor(math.nan)}, "finite"),
    ("make_teacher", lambda self, index: nn.Linear(2, 2), "Teacher"),
    ("make_students", lambda self, make_network: make_network(), "list"),
    ("make_students", lambda self, make_network: [], "list"),
    ("setup", lambda self: {"memory": torch.zeros(3)}, "modules"),
    ("setup", lambda self: nn.Linear(2, 2), "modules"),
]


def first_step(rig, **hooks):
    rig({**views(STRONG), **hooks}).engine.step(iter([raw_batch()]), START)


def test_a_wrong_answer_stops_the_first_step_naming_plugin_and_hook(rig):
    for hook, answer, word in BAD:
        refusal(partial(first_step, rig, **{hook: answer}), "'own'", hook, word)


def test_a_wrapper_that_spoils_an_answer_is_refused_too(rig):
    @hookimpl(wrapper=True)
    def pixel_weight(self):
        answers = yield
        return [answer[:, None] for answer in answers] or [torch.ones(2, 1, SIDE, SIDE)]

    refusal(partial(first_step, rig, pixel_weight=pixel_weight), "pixel_weight")


@pytest.mark.parametrize("name", ["supervised", "consistency", "total"])
def test_a_regularizer_cannot_replace_a_loss_of_the_engine(rig, name):
    """Refused, or added: the engine's own term must not vanish."""
    plain, _ = gradients_at_step(rig(views(STRONG)), [raw_batch()])
    hooks = {"regularize": lambda self, labelled_output: {name: labelled_output.logits.mean() * 0 + 1.0}}
    try:
        losses, _ = gradients_at_step(rig({**hooks, **views(STRONG)}), [raw_batch()])
    except UserError as error:
        assert name in str(error)  # noqa: PT017 - refusing is the other way to be right
        return
    assert losses["total"].item() == pytest.approx(plain["total"].item() + 1, rel=1e-6)
