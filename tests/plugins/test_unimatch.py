"""UniMatch V1 against a step written out here after its release.

The release pairs each image with another crop of itself, which its author calls unintended (`partner=twin`); the
default is an independent draw. The arithmetic of a step is the same.
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import unimatch as module
from ssss_zoo.plugins.baselines.unimatch import UniMatch
from torch import Tensor
from torch.testing import assert_close

from helpers.by_hand import BOXES, START, for_any_batch, images, raw_batch, take_step
from helpers.unimatch_views import SECOND_BOXES, box_masks, dropped, fixed_unimatch_run
from ssss_zoo.toolkit.types import FixedAugmentation, PseudoLabel, RawBatch

METHODS = ("unimatch", "fixmatch")
BOX_PAIR = (BOXES, SECOND_BOXES)


@pytest.fixture
def rig(tiny_run, monkeypatch):
    """Overrides -> a `TinyRun` of three float64 images a batch, without chance."""
    return lambda *overrides: fixed_unimatch_run(tiny_run, monkeypatch, "method=unimatch", *overrides)


def released_step(network, batch: RawBatch, threshold: float, perturb_labelled: bool = True) -> dict[str, Tensor]:
    """L_x, U_1, U_2, U_fp; leaves the network's BatchNorm statistics as the release would."""
    x, w, far = images(batch)
    network.eval()
    with torch.no_grad():
        confidence_far, label_far = network(far).logits.softmax(dim=1).max(dim=1)
    network.train()
    masks = [box_masks(boxes) for boxes in BOX_PAIR]
    s1 = torch.where(masks[0][:, None], far * 0.7, w * 0.8)
    s2 = torch.where(masks[1][:, None], far * 0.5, w * 0.6)
    encoded = network.encode(torch.cat([x, w]))
    shaken_x = dropped([level[:3] for level in encoded], keep_odd=True)
    shaken_w = dropped([level[3:] for level in encoded], keep_odd=False)
    stack = [encoded, shaken_x, shaken_w] if perturb_labelled else [encoded, shaken_w]
    out = network.decode([torch.cat(level) for level in zip(*stack, strict=True)], (16, 16)).logits
    z_x, z_w, z_fp = out[:3], out[3:6], out[-3:]
    z_1, z_2 = network(torch.cat([s1, s2])).logits.split([3, 3])
    confidence, label = z_w.detach().softmax(dim=1).max(dim=1)

    def loss(z: Tensor, box: Tensor) -> Tensor:
        ids, sure = torch.where(box, label_far, label), torch.where(box, confidence_far, confidence) >= threshold
        ignored = torch.where(box, ~batch.partner.valid, ~batch.unlabelled.valid)
        return (F.cross_entropy(z, ids, reduction="none") * (sure & ~ignored)).sum() / (~ignored).sum()

    nowhere = torch.zeros(3, 16, 16, dtype=torch.bool)
    return {
        "x": F.cross_entropy(z_x, batch.labelled.mask.long(), ignore_index=255),
        "1": loss(z_1, masks[0]),
        "2": loss(z_2, masks[1]),
        "fp": loss(z_fp, nowhere),
    }


def whole(parts: dict[str, Tensor]) -> Tensor:
    return (parts["x"] + parts["1"] / 4 + parts["2"] / 4 + parts["fp"] / 2) / 2


@pytest.mark.parametrize("perturb_labelled", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_a_step_is_the_releases(rig, monkeypatch, threshold, perturb_labelled):
    if not perturb_labelled:  # then the only call is for the weak images
        monkeypatch.setattr(module, "channel_dropout", lambda probability: lambda maps: dropped(maps, keep_odd=False))
    words = (f"options.unimatch.threshold={threshold}", f"options.unimatch.perturb_labelled={perturb_labelled}")
    made, batch = rig(*words), raw_batch()
    network = copy.deepcopy(made.student)
    parts = released_step(network, batch, threshold, perturb_labelled)
    whole(parts).backward()
    kept = {}

    def keep(*_):
        kept.update({name: p.grad.clone() for name, p in made.student.named_parameters()})

    made.engine.optimizer.register_step_pre_hook(keep)
    losses = made.engine.step(iter([batch]), START)
    assert min(part.item() for part in parts.values()) > 0
    assert losses["supervised"].item() == pytest.approx(parts["x"].item() / 2, rel=1e-6)
    assert losses["total"].item() == pytest.approx(whole(parts).item(), rel=1e-6)
    for name, parameter in network.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-5, rtol=0)
    for name, value in network.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-7, rtol=0)


def test_who_is_decoded_with_whom(rig):
    """Encoded once: [x, w]; decoded together: [x, w, perturbed w, perturbed x]; both strong views share a pass."""
    made, batch = rig(), raw_batch()
    made.student.calls = []
    made.engine.losses(batch, START)
    shapes = [(call.half, len(call.value), call.training) for call in made.student.calls]
    assert shapes == [
        ("encode", 3, False),
        ("decode", 3, False),
        ("encode", 6, True),
        ("decode", 12, True),
        ("encode", 6, True),
        ("decode", 6, True),
    ]


def test_a_threshold_that_nothing_reaches_leaves_half_the_labelled_loss(rig):
    made, batch = rig("options.unimatch.threshold=1"), raw_batch()
    parts = released_step(copy.deepcopy(made.student), batch, 1)
    losses = made.engine.step(iter([batch]), START)
    assert losses["consistency"].item() == 0
    assert losses["total"].item() == pytest.approx(parts["x"].item() / 2, rel=1e-6)


def test_threshold_zero_uses_every_valid_pixel(rig):
    made, batch, seen = rig("options.unimatch.threshold=0"), raw_batch(), []
    made.engine.on_pseudo_label = lambda label, weight, hidden: seen.append((label, weight))
    made.engine.losses(batch, START)
    assert seen[0][1].min() == 1


def test_without_dropout_the_perturbed_output_is_the_weak_one(tiny_run):
    """Its target is that output's own likeliest class, its confidence that output's largest probability."""
    made = tiny_run("method=unimatch", "options.unimatch.dropout=0", "options.unimatch.threshold=0", "train.batch=3")
    seen = []
    pair = made.engine.pair
    made.engine.pair = lambda *given: seen.append(pair(*given)) or seen[-1]
    made.engine.losses(raw_batch(), START)
    (weak,) = [one for one in seen if one.view.name == "perturbed"]
    logits = weak.output.logits.detach()
    assert torch.equal(logits.argmax(dim=1), weak.label.target)
    assert_close(logits.softmax(dim=1).max(dim=1).values, weak.label.confidence)


def test_shares_are_those_of_the_paper():
    plan = UniMatch().make_views((2, 16, 16))
    assert [(view.name, view.loss_weight, view.forward_group) for view in plan.views] == [
        ("strong1", 0.125, "strong"),
        ("strong2", 0.125, "strong"),
        ("perturbed", 0.25, "labelled"),
    ]
    assert plan.supervised_weight == 0.5


def test_a_pixel_at_the_threshold_counts():
    confidence = torch.tensor([[[0.25, 0.5, 0.75]]])
    label = PseudoLabel(torch.zeros(1, 1, 3, dtype=torch.int64), confidence, torch.ones(1, 1, 3, dtype=torch.bool))
    assert UniMatch(threshold=0.5).pixel_weight(label).tolist() == [[[0, 1, 1]]]


def test_each_strong_view_has_boxes_of_its_own():
    torch.manual_seed(0)
    first, second, _ = UniMatch().make_views((64, 32, 32)).views
    assert not torch.equal(first.cutmix.boxes, second.cutmix.boxes)


@pytest.mark.parametrize("partner", ["stream", "twin", "next", "reverse"])
def test_a_second_batch_is_read_only_when_asked_for_and_a_twin_shows_the_same_photographs(rig, partner):
    feed = rig(f"options.unimatch.partner={partner}").feed
    assert ("partner" in feed.streams) == (partner in ("stream", "twin"))
    if "partner" in feed.streams:
        names, batch = feed.names(0), next(feed)
        assert (names["unlabelled"] == names["partner"]) == (partner == "twin")
        assert not torch.equal(batch.unlabelled.image, batch.partner.image)


@pytest.mark.parametrize("removed", [True, False])
@for_any_batch
def test_with_one_view_and_nothing_perturbed_it_is_fixmatch(tiny_run, monkeypatch, removed, seed):
    """The other views taken out, or of share 0 in passes of their own (in the passes of the first they would change its
    BatchNorm statistics, even at a share of 0); the share that is left is FixMatch's."""
    unimatch, fixmatch = (tiny_run(f"method={name}", "train.batch=3", "augment.flip=0") for name in METHODS)
    views = unimatch.engine.hooks.make_views

    def planned(*given):
        plan = views(*given)
        first, second, perturbed = plan.views
        rest = [
            replace(view, loss_weight=0.0, forward_group=view.name, perturb_labelled=False)
            for view in (second, perturbed)
        ]
        return replace(plan, views=(replace(first, loss_weight=0.5), *([] if removed else rest)))

    monkeypatch.setattr(unimatch.engine.hooks, "make_views", planned)
    for made in (unimatch, fixmatch):
        options = made.methods[made.config.method]
        options.threshold = 0.25
        monkeypatch.setattr(importlib.import_module(type(options).__module__), "random_boxes", lambda *size: BOXES)
        made.engine.strong = FixedAugmentation(lambda image: image * 0.7)
        made.double()
    assert type(unimatch.methods["unimatch"]) is not type(fixmatch.methods["fixmatch"])
    (losses, (gradients,)), (expected, (wanted,)) = (
        take_step(made, raw_batch(seed=seed)) for made in (unimatch, fixmatch)
    )
    assert losses == expected
    assert losses["consistency"] > 0
    assert all(torch.equal(gradients[name], value) for name, value in wanted.items())
