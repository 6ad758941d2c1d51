"""The losses of one step by hand, pixel by pixel, in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from helpers.engine_steps import (
    START,
    a_bit_brighter,
    box,
    check_step,
    floats,
    hand_consistency,
    hand_supervised,
    log_softmax,
    paste_by_hand,
    positions,
    raw_batch,
    softmax_by_hand,
    views,
)
from ssss_zoo.toolkit.types import (
    IGNORE,
    CutMix,
    Labelled,
    PseudoLabel,
    Unlabelled,
    View,
)


def test_a_supervised_step_is_the_mean_cross_entropy_over_labelled_pixels(rig):
    made, batch = rig(None, "method=supervised"), raw_batch()

    def hand(network):
        return {"supervised": hand_supervised(network(floats(batch.labelled.image)).logits, batch.labelled.mask)}

    losses = check_step(made, replace(batch, unlabelled=None, partner=None), hand)
    assert losses["supervised"] > 0.5


def test_a_batch_without_a_labelled_pixel_gives_a_zero_that_is_connected(rig):
    made, batch = rig(None, "method=supervised"), raw_batch()
    void = replace(batch, labelled=Labelled(batch.labelled.image, torch.full_like(batch.labelled.mask, IGNORE)))
    losses = made.engine.losses(void, START)
    losses["supervised"].backward()
    assert losses["supervised"].item() == 0
    assert not made.student.classifier.weight.grad.any()


CLASSES = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5])


def soft_label(self, probs, valid):
    """Half the teacher's distribution, half of it turned by one class."""
    return PseudoLabel((probs + probs.roll(1, dims=1)) / 2, probs.max(dim=1).values, valid)


def some_weight(self, probs):
    """By how much the first class leads the second, 0 where it does not."""
    return (probs[:, 0] - probs[:, 1]).clamp(min=0)


SOFT_HOOKS = {
    "pseudo_label": soft_label,
    "pixel_weight": some_weight,
    "class_weight": lambda self, num_classes: CLASSES,
}
TWO_BOXES = box(1, 1, 6, 6, 3, 3, 8, 8)  # they overlap, and the overlap toggles back


@pytest.mark.parametrize("partner", ["next", "reverse", "stream"])
@pytest.mark.parametrize("divide_by", ["valid", "kept", "weight", "all"])
def test_a_view_with_soft_targets_weights_class_weights_and_cutmix(rig, partner, divide_by):
    images = 3  # `next` and `reverse` differ
    view = View("look", loss_weight=0.7, cutmix=CutMix(partner, box(*TWO_BOXES[0].flatten(), images=images)))
    made = rig({**SOFT_HOOKS, **views(replace(view, divide_by=divide_by), supervised_weight=0.6)}, "train.batch=3")
    batch = raw_batch(images=images)
    order = {"next": [1, 2, 0], "reverse": [2, 1, 0], "stream": [0, 1, 2]}[partner]

    def told(network, unlabelled):
        with torch.no_grad():
            probs = softmax_by_hand(network.eval()(floats(unlabelled.image)).logits)
        network.train()
        target = (probs + probs[:, [4, 0, 1, 2, 3]]) / 2
        return target, (probs[:, 0] - probs[:, 1]).clamp(min=0), unlabelled.valid

    def hand(network):
        here = told(network, batch.unlabelled)
        there = told(network, batch.partner) if partner == "stream" else here
        strong = a_bit_brighter(floats(batch.unlabelled.image))
        other = a_bit_brighter(floats(batch.partner.image)) if partner == "stream" else strong
        shown = paste_by_hand(strong, other[order], view.cutmix.boxes)
        target, weight, valid = (
            paste_by_hand(a, b[order], view.cutmix.boxes) for a, b in zip(here, there, strict=True)
        )
        assert 0 < (weight[valid] > 0).sum() < valid.sum() < valid.numel()  # the four divisors differ
        labelled = network(floats(batch.labelled.image)).logits
        loss = hand_consistency(network(shown).logits, target, weight, valid, CLASSES, divide_by)
        return {"supervised": 0.6 * hand_supervised(labelled, batch.labelled.mask), "consistency": 0.7 * loss}

    assert check_step(made, batch, hand)["consistency"] > 0


def test_class_weights_per_class_multiply_the_target_itself(rig):
    made = rig({**SOFT_HOOKS, **views(View("look"))}, "loss.class_weight=per_class")
    batch = raw_batch()

    def hand(network):
        with torch.no_grad():
            probs = softmax_by_hand(network.eval()(floats(batch.unlabelled.image)).logits)
        network.train()
        target, weight = (probs + probs[:, [4, 0, 1, 2, 3]]) / 2, (probs[:, 0] - probs[:, 1]).clamp(min=0)
        labelled = network(floats(batch.labelled.image)).logits
        output = network(a_bit_brighter(floats(batch.unlabelled.image))).logits
        loss = hand_consistency(output, target, weight, batch.unlabelled.valid, CLASSES, per_class=True)
        return {"supervised": hand_supervised(labelled, batch.labelled.mask), "consistency": loss}

    check_step(made, batch, hand)


def test_a_pixel_at_the_threshold_counts_and_one_below_does_not(rig):
    made, batch = rig(None, "method=fixmatch", "options.fixmatch.partner=next"), raw_batch()
    peek = copy.deepcopy(made.student)
    weak = peek(torch.cat([floats(batch.labelled.image), floats(batch.unlabelled.image)])).logits[2:].detach()
    confidence = weak.float().softmax(dim=1).max(dim=1).values
    threshold = confidence.flatten().sort().values[60].item()  # the confidence of one pixel, exactly
    made.methods["fixmatch"].threshold = threshold
    seen = []
    made.engine.on_pseudo_label = lambda label, weight, hidden: seen.append((label, weight))
    made.engine.losses(batch, START)
    label, weight = seen[0]
    assert torch.equal(label.confidence, confidence)
    expected = [[[float(c >= threshold) for c in row] for row in image] for image in confidence.tolist()]
    assert weight.tolist() == expected
    assert weight[confidence == threshold].min() == 1
    assert 0 < weight.sum() < weight.numel()


def test_padding_never_counts_and_a_batch_of_padding_alone_gives_zero(rig):
    made, batch = rig(views(View("look"))), raw_batch()
    nothing = torch.zeros_like(batch.unlabelled.valid)
    padded = replace(batch, unlabelled=Unlabelled(batch.unlabelled.image, nothing))
    losses = made.engine.losses(padded, START)
    losses["consistency"].backward()
    assert losses["consistency"].item() == 0
    assert not made.student.classifier.weight.grad.any()


def test_hard_labels_by_hand_where_no_hook_speaks(rig):
    made, batch = rig(views(View("look", strength="weak"))), raw_batch()

    def hand(network):
        with torch.no_grad():
            ids = network.eval()(floats(batch.unlabelled.image)).logits.argmax(dim=1)
        network.train()
        hard = torch.stack([(ids == c).double() for c in range(5)], dim=1)
        labelled = network(floats(batch.labelled.image)).logits
        output = network(floats(batch.unlabelled.image)).logits
        loss = hand_consistency(output, hard, torch.ones(ids.shape), batch.unlabelled.valid, torch.ones(5))
        return {"supervised": hand_supervised(labelled, batch.labelled.mask), "consistency": loss}

    check_step(made, batch, hand)


def test_ohem_keeps_the_hard_pixels_by_hand(rig):
    words = ("method=supervised", "loss.supervised=ohem", "loss.ohem_threshold=0.2", "loss.ohem_min_kept=40")
    made, batch = rig(None, *words), raw_batch()

    def hand(network):
        logits = network(floats(batch.labelled.image)).logits
        pixels = [(b, y, x) for b, y, x in positions(batch.labelled.mask) if batch.labelled.mask[b, y, x] != IGNORE]
        losses = [-log_softmax(logits[b, :, y, x])[int(batch.labelled.mask[b, y, x])] for b, y, x in pixels]
        true_class = [math.exp(-loss.item()) for loss in losses]
        limit = max(0.2, sorted(true_class)[39])
        kept = [loss for loss, q in zip(losses, true_class, strict=True) if q <= limit]
        assert 40 <= len(kept) < len(losses)
        return {"supervised": sum(kept) / len(kept)}

    check_step(made, batch, hand)
