"""AugSeg against a step written out here after its release."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import augseg as module
from ssss_zoo.plugins.baselines.augseg import AugSeg, doubtful, sureness
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import FixedAugmentation, Progress, RawBatch, RawLabelled, RawUnlabelled

START = Progress(0, 10, 5)
INJECTED = torch.tensor([[[0, 0, 6, 16]], [[3, 3, 14, 14]], [[8, 8, 16, 16]]])
MIXED = torch.tensor([[[2, 3, 9, 12]], [[0, 0, 0, 0]], [[5, 1, 16, 7]]])
ORDER, CHANCES = torch.tensor([2, 0, 1]), torch.tensor([0.99, 0.0, 0.99])  # image 1 is never injected into


def a_batch(all_void: bool = False) -> RawBatch:
    made = torch.Generator().manual_seed(6)
    image = torch.randint(0, 256, (2, 3, 3, 16, 16), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, 5, (3, 16, 16), generator=made, dtype=torch.uint8)
    mask[:, 8:11, 3:9] = 255
    valid = torch.ones(3, 16, 16, dtype=torch.bool)
    valid[0, 12:], valid[2, :, 10:] = False, False
    if all_void:
        mask[:], valid[:] = 255, False
    return RawBatch(RawLabelled(image[0], mask), RawUnlabelled(image[1], valid))


@pytest.fixture
def rig(tiny_run, monkeypatch):
    def make(*words: str):
        monkeypatch.setattr(module, "centred_boxes", lambda *given: INJECTED if given[-1] == (8.0, 2.0) else MIXED)
        monkeypatch.setattr(torch, "randperm", lambda number: ORDER[:number])
        monkeypatch.setattr(module, "doubtful", lambda chances: doubtful(CHANCES))
        monkeypatch.setattr(module, "RandomIntensity", lambda most: FixedAugmentation(lambda image: image * 0.8))
        made = tiny_run("method=augseg", "train.batch=3", "augment.flip=0", *words)
        return made.double()

    return make


def test_chances_decide_with_probability_one_minus_kappa():
    probs = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.8, 0.2]])[:, :, None, None].expand(3, 2, 4, 4)
    by_hand = (1 + (0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(2)) * 0.8
    assert_close(sureness(probs), torch.tensor([1.0, 0.0, by_hand]))
    assert doubtful(torch.tensor([0.99, 0.0, by_hand + 0.01]))(probs).tolist() == [False, True, True]
    assert doubtful(torch.tensor([0.99, 0.99, by_hand - 0.01]))(probs).tolist() == [False, True, False]
    assert sureness(torch.ones(2, 1, 3, 3)).tolist() == [1.0, 1.0]


def inside(boxes: Tensor, b: int, i: int, j: int) -> bool:
    top, left, bottom, right = boxes[b, 0].tolist()
    return top <= i < bottom and left <= j < right


def released_step(network, teacher, batch: RawBatch, threshold: float, mask_padding: bool) -> tuple[Tensor, Tensor]:
    """(L_x, L_u) with a loop over pixels."""
    x, w = (part.image.double() / 255 for part in (batch.labelled, batch.unlabelled))
    mask, valid = batch.labelled.mask.long(), batch.unlabelled.valid
    with torch.no_grad():
        p = teacher.eval()(w).logits.softmax(dim=1)
    confidence, label = p.max(dim=1)
    kappa = [
        sum((1 + float((p[b, :, i, j] * p[b, :, i, j].log()).sum()) / math.log(5)) * float(confidence[b, i, j])
            for i in range(16) for j in range(16)) / 256
        for b in range(3)
    ]  # fmt: skip
    injected = [float(CHANCES[b]) >= kappa[b] for b in range(3)]
    assert injected == [True, False, True]
    strong, shown = w * 0.8, (w * 0.8).clone()
    ids, counts = label.clone(), confidence >= threshold
    ok = valid.clone() if mask_padding else torch.ones_like(valid)
    for b in range(3):
        for i in range(16):
            for j in range(16):
                if not inside(MIXED, b, i, j):
                    continue
                other = int(ORDER[b])
                if injected[other] and inside(INJECTED, other, i, j):
                    truth = int(ORDER[other])
                    shown[b, :, i, j] = x[truth, :, i, j]
                    ids[b, i, j], counts[b, i, j] = mask[truth, i, j] % 255, True
                    ok[b, i, j] = mask[truth, i, j] != 255
                else:
                    shown[b, :, i, j] = strong[other, :, i, j]
                    ids[b, i, j], counts[b, i, j] = label[other, i, j], confidence[other, i, j] >= threshold
                    ok[b, i, j] = valid[other, i, j] if mask_padding else True
    z_x, z_s = network(torch.cat([x, shown])).logits.split([3, 3])
    per_pixel = F.cross_entropy(z_s, ids, reduction="none")
    return F.cross_entropy(z_x, mask, ignore_index=255), (per_pixel * (counts & ok)).sum() / (3 * 16 * 16)


@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_step_is_the_releases(rig, share, mask_padding):
    made, batch = rig(f"options.augseg.mask_padding={mask_padding}", "options.augseg.weight=0.7"), a_batch()
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.student).eval()
    sure = teacher(batch.unlabelled.image.double() / 255).logits.softmax(dim=1).amax(dim=1).detach().flatten().sort()[0]
    threshold = made.methods["augseg"].threshold = float(sure[int(share * 768) :][:2].mean()) if share else 0.0
    l_x, l_u = released_step(network, teacher, batch, threshold, mask_padding)
    (l_x + 0.7 * l_u).backward()
    kept = {}
    made.engine.optimizer.register_step_pre_hook(
        lambda *_: kept.update({name: p.grad.clone() for name, p in made.student.named_parameters()})
    )
    losses = made.engine.step(iter([batch]), START)
    assert l_u.item() > 0
    assert losses["supervised"].item() == pytest.approx(l_x.item(), rel=1e-6)
    assert losses["consistency"].item() == pytest.approx(0.7 * l_u.item(), rel=1e-6)
    for name, parameter in network.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-5, rtol=0)


def test_all_ignored_gives_zero(rig):
    made = rig("options.augseg.mask_padding=true")
    losses = made.engine.step(iter([a_batch(all_void=True)]), START)
    assert {name: value.item() for name, value in losses.items()} == {"supervised": 0, "consistency": 0, "total": 0}


def test_the_teacher_copies_for_an_epoch_and_averages_later(rig):
    method = rig("options.augseg.ema_decay=0.9").methods["augseg"]
    decays = [method.decay(Progress(step, 100, 5)) for step in (0, 4, 5, 9, 50)]
    assert decays == [0.0, 0.0, pytest.approx(5 / 6), pytest.approx(0.9), 0.9]


def test_without_injection_no_labelled_pixel_is_shown():
    (view,) = AugSeg(inject=False).make_views((2, 16, 16)).views
    assert view.cutmix.under is None
    (view,) = AugSeg().make_views((2, 16, 16)).views
    assert view.cutmix.under.partner == "labelled"
    assert view.cutmix.rows.tolist() == view.cutmix.under.rows.tolist()


def test_chance_decides_for_each_image_of_the_batch():
    (view,) = AugSeg().make_views((3, 16, 20)).views
    assert sorted(view.cutmix.rows.tolist()) == [0, 1, 2]
    assert view.cutmix.under.gate(torch.full((3, 5, 16, 20), 0.2)).shape == (3,)
    assert (module.INJECTED_BETA, module.MIXED_BETA) == ((8, 2), (4, 4))  # of Beta: release


def test_a_teacher_that_speaks_too_late_is_refused_in_one_line(tiny_run):
    made = tiny_run("method=augseg", "hooks.make_teacher=fixmatch")
    with pytest.raises(UserError, match=r"choose hooks\.make_teacher=METHOD"):
        made.steps(1)


def test_an_option_out_of_range_is_refused_by_name(tiny_run):
    for option in ("threshold=1.1", "ema_decay=2", "operations=0", "weight=-1", "copy_epochs=-1"):
        with pytest.raises(UserError, match=f"options.augseg.{option.partition('=')[0]}"):
            tiny_run("method=augseg", f"options.augseg.{option}")
