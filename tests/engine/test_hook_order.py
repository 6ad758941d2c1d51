"""Who is asked when, and how the answers of several methods combine."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from helpers.engine_steps import (
    START,
    STRONG,
    box,
    floats,
    raw_batch,
    run_losses,
    views,
)
from ssss_zoo.testing.tiny import TinyRun, make_method
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.types import (
    CutMix,
    PseudoLabel,
    RawBatch,
    View,
    Views,
)
from ssss_zoo.train.run import run_training


def look(made: TinyRun, batch: RawBatch | None = None) -> list[tuple[PseudoLabel, Tensor]]:
    seen: list[tuple[PseudoLabel, Tensor]] = []
    made.engine.on_pseudo_label = lambda label, weight, hidden: seen.append((label, weight))
    made.engine.losses(batch or raw_batch(), START)
    return seen


def test_weights_of_two_methods_are_multiplied(two):
    made = two({"pixel_weight": lambda self, probs: probs[:, 0]}, {"pixel_weight": lambda self, probs: probs[:, 1] * 3})
    peek = copy.deepcopy(made.student).eval()
    probs = peek(floats(raw_batch().unlabelled.image)).logits.float().softmax(dim=1)
    assert_close(look(made)[0][1], probs[:, 0] * probs[:, 1] * 3, atol=1e-6, rtol=0)


def test_class_weights_of_two_methods_are_multiplied(two, rig):
    def answer(*factors):
        return {"class_weight": lambda self, num_classes: torch.tensor(factors), **views(STRONG)}

    both = run_losses(two(answer(1.0, 2.0, 3.0, 1.0, 0.0), answer(2.0, 1.0, 0.5, 1.0, 1.0)), raw_batch())
    one = run_losses(rig(answer(2.0, 2.0, 1.5, 1.0, 0.0)), raw_batch())
    assert both["consistency"].item() == pytest.approx(one["consistency"].item(), rel=1e-6)


def test_terms_of_two_methods_are_summed_also_under_one_name(two):
    def term(value):
        return torch.tensor(value, requires_grad=True)

    left = {"regularize": lambda self, label: {"shared": term(1.0), "left": term(2.0)}}
    right = {"regularize": lambda self, label: {"shared": term(10.0)}}
    losses = run_losses(two(left, right), raw_batch())
    assert {name: losses[name].item() for name in ("shared", "left")} == {"shared": 11.0, "left": 2.0}


def test_the_leftmost_answer_counts_and_none_declines(two):
    def always(number):
        def answer(self, probs, valid):
            return PseudoLabel(torch.full(valid.shape, number), probs.max(dim=1).values, valid)

        return {"pseudo_label": answer}

    assert look(two(always(2), always(3)))[0][0].target.unique().tolist() == [2]
    assert look(two({"pseudo_label": lambda self: None}, always(3)))[0][0].target.unique().tolist() == [3]


def test_the_leftmost_method_is_asked_first_at_every_hook(two):
    asked: list[str] = []

    def hooks(side):
        def say(answer=None):
            def hook(self):
                asked.append(side)
                return answer

            return hook

        return {name: say() for name in ("pixel_weight", "class_weight", "regularize", "pseudo_label", "after_step")}

    made = two(hooks("left"), hooks("right"))
    made.engine.step(iter([raw_batch()]), START)
    assert asked == ["left", "right"] * 5


def test_hooks_are_asked_in_the_order_that_the_spec_promises(rig):
    asked: list[str] = []

    def say(name):
        def hook(self):
            asked.append(name)

        return hook

    order = ["make_views", "pseudo_label", "pixel_weight", "class_weight", "regularize", "after_step"]
    made = rig({name: say(name) for name in order})
    asked.clear()  # the run asked for views before
    made.engine.step(iter([raw_batch()]), START)
    assert asked == order


def test_a_wrapper_refines_what_another_method_answers(two):
    @hookimpl(wrapper=True)
    def pseudo_label(self, probs):
        label = yield
        return replace(label, target=(label.target + 1) % probs.shape[1])

    @hookimpl(wrapper=True)
    def pixel_weight(self):
        answers = yield
        return [answer * 4 for answer in answers]

    made = two(
        {"pseudo_label": pseudo_label, "pixel_weight": pixel_weight},
        {"pixel_weight": lambda self, probs: torch.full_like(probs[:, 0], 0.5)},
    )
    peek = copy.deepcopy(made.student).eval()
    ids = peek(floats(raw_batch().unlabelled.image)).logits.argmax(dim=1)
    label, weight = look(made)[0]
    assert torch.equal(label.target, (ids + 1) % 5)
    assert weight.unique().tolist() == [2.0]


def test_the_hook_named_for_one_method_alone_is_answered_by_it_alone(two):
    made = two(
        {"pixel_weight": lambda self, probs: torch.full_like(probs[:, 0], 0.25)},
        {"pixel_weight": lambda self, probs: torch.full_like(probs[:, 0], 0.5)},
        "hooks.pixel_weight=right",
    )
    assert look(made)[0][1].unique().tolist() == [0.5]


def test_partners_of_a_second_batch_are_labelled_by_the_same_hooks(rig):
    asked = []

    def pseudo_label(self, probs, valid):
        asked.append(valid)
        return PseudoLabel(probs.argmax(dim=1), probs.max(dim=1).values, valid)

    batch = raw_batch()
    made = rig({"pseudo_label": pseudo_label, **views(View("look", cutmix=CutMix("stream", box(0, 0, 4, 4))))})
    run_losses(made, batch)
    assert len(asked) == 2
    assert torch.equal(asked[0], batch.unlabelled.valid)
    assert torch.equal(asked[1], batch.partner.valid)


def test_a_method_may_begin_with_labels_alone(tiny_plugins, tiny_config):
    """Views from the third pass over the images on: the streams must be open by then."""

    def make_views(self, progress):
        return Views((View("look", cutmix=CutMix("stream", box(0, 0, 4, 4))),) if progress.epoch >= 2 else ())

    tiny_plugins.add("methods", "later", make_method(make_views=make_views))
    result = run_training(tiny_config("method=later", "train.steps=9"))
    lines = [json.loads(line) for line in (result.folder / "history.jsonl").read_text().splitlines()]
    assert ["consistency" in line["losses"] for line in lines if "losses" in line] == [False] * 6 + [True] * 3
