"""FARCLUSS as a whole: teacher, ramp, views, options, a step of the engine, nothing that waits for the device."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.by_hand import BOX, BOXES, assert_step, darker, for_any_batch, images, raw_batch
from helpers.farcluss import AFTER_RAMP, RAMP_START, info, label_of, loss_of, random_logits, ready, scene
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.losses import cross_entropy
from ssss_zoo.toolkit.types import FixedAugmentation, Progress

# ---- 14 and 15: teacher, ramp, composition


def tiny_network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_14_teacher_copies_first_then_averages_within_the_history():
    student = tiny_network()
    teacher = Farcluss(ema_decay=0.9).make_teacher(students=[tiny_network(), student], index=1)
    assert torch.equal(teacher.network[0].weight, student[0].weight)
    history = [student[0].weight.detach().clone()]
    for step in range(6):
        with torch.no_grad():
            student[0].weight.add_(torch.randn_like(student[0].weight))
            student(torch.randn(2, 3, 4, 4))
        history.append(student[0].weight.detach().clone())
        teacher.update(student, Progress(step, 10, 5))
        if step == 0:
            assert torch.equal(teacher.network[0].weight, student[0].weight)
    past = torch.stack(history)
    weight = teacher.network[0].weight
    assert ((weight >= past.amin(dim=0) - 1e-6) & (weight <= past.amax(dim=0) + 1e-6)).all()
    assert not torch.equal(weight, student[0].weight)
    assert teacher.decay(Progress(10**6, 10**7, 5)) == 0.9
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert torch.equal(teacher.network[1].num_batches_tracked, student[1].num_batches_tracked)
    assert (teacher.network[1].running_var > 0).all()
    assert not teacher.network.training


def test_14_the_projection_follows_as_the_teacher_does():
    method = Farcluss(ema_decay=0.9)
    modules = method.setup(info=info())
    head, slow = modules["farcluss_head"][0].weight, modules["farcluss_slow_head"].average[0].weight
    assert torch.equal(head, slow)
    with torch.no_grad():
        head.add_(1.0)
    before = slow.clone()
    method.after_step(progress=Progress(500, 1000, 10))
    assert_close(slow, 0.9 * before + 0.1 * head.detach())
    method.after_step(progress=RAMP_START)
    assert torch.equal(slow, head)
    Farcluss(contrast="off").after_step(progress=RAMP_START)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 0.2), (25, 0.5), (50, 1.0), (900, 1.0)])
def test_15_share_ramps_linearly_and_stays(step, share):
    (view,) = Farcluss(unsupervised_weight=2.0).make_views(size=(2, 16, 16), progress=Progress(step, 1000, 10)).views
    assert_close(view.loss_weight, 2 * share)
    assert (view.strength, view.forward_group, view.divide_by) == ("strong", "labelled", "valid")
    (now,) = Farcluss(ramp_epochs=0.0).make_views(size=(2, 16, 16), progress=RAMP_START).views
    assert now.loss_weight == 1.0


def test_15_without_its_weights_the_total_is_the_supervised_loss_and_gradient():
    teacher, student, method = random_logits(0), random_logits(1).requires_grad_(), Farcluss()
    mask, given_ = torch.randint(0, 5, (2, 3, 4)), scene(1)
    (view,) = method.make_views(size=(2, 3, 4), progress=RAMP_START).views
    supervised = cross_entropy(student, mask)
    extra = ready(contrast_weight=0.0).regularize(**given_)["farcluss_contrast"]
    total = supervised + view.loss_weight * loss_of(method, teacher, student) + extra
    assert torch.equal(total, supervised)
    assert torch.equal(*(torch.autograd.grad([t], student, retain_graph=True)[0] for t in (total, supervised)))


def test_views_follow_their_switches():
    torch.manual_seed(0)
    view = Farcluss(reduce="weight").make_views(size=(40, 32, 32), progress=AFTER_RAMP).views[0]
    assert view.divide_by == "weight"
    assert view.cutmix.partner == "next"
    assert view.cutmix.boxes.shape == (40, 1, 4)
    assert 5 < int((view.cutmix.boxes.sum(dim=(1, 2)) > 0).sum()) < 35
    assert Farcluss(cutmix=False).make_views(size=(2, 8, 8), progress=AFTER_RAMP).views[0].cutmix is None
    strong, dropped = Farcluss(feature_perturbation=0.5).make_views(size=(2, 8, 8), progress=AFTER_RAMP).views
    assert (strong.loss_weight, dropped.loss_weight) == (0.5, 0.5)
    assert strong.cutmix is not None
    assert (dropped.strength, dropped.forward_group, dropped.cutmix) == ("weak", "perturbed", None)
    (kept,) = dropped.perturb([torch.ones(4, 50, 3, 3)])
    assert set(kept.unique().tolist()) == {0.0, 2.0}


# ---- options, silence towards the host


WRONG_OPTIONS = """
    top_k=0 mass_power=-0.1 temperature=0.0 label_mass=0.0 label_mode=adaptive
    uncertainty_form=linear uncertainty_gamma=-1.0 reduce=mean rebalance=on rebalance_alpha=nan
    rebalance_max_ratio=0.5 rebalance_counts=hard rebalance_min_mass=-1.0 contrast=supcon contrast_weight=inf
    contrast_temperature=0.0 contrast_dim=0 contrast_momentum=1.1 contrast_anchors=0 contrast_confidence=2.0
    contrast_members=all contrast_centroids=both center_margin=2.0 unsupervised_weight=-1.0 ramp_epochs=-1.0
    ema_decay=1.5 feature_perturbation=-0.5 label_mass=1.5 contrast_temperature=2e6
"""


def test_wrong_options_are_named_in_one_line(tiny_run):
    for option in WRONG_OPTIONS.split():
        with pytest.raises(UserError, match=rf"^options\.farcluss\.{option.partition('=')[0]}[^\n]+$"):
            tiny_run("method=farcluss", f"options.farcluss.{option}")


def test_paper_is_no_option():
    assert "2506.11142" in Farcluss.paper
    assert "paper" not in {field.name for field in fields(Farcluss)}


class NoHostSync(TorchDispatchMode):
    """Fails on what would wait for a device: reading a value, shapes that depend on values."""

    waits = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "bincount",
        "equal.default",
        "repeat_interleave",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        assert not name.lstrip("_").startswith(tuple(w.lstrip("_") for w in self.waits)), f"{func} waits for the device"
        if name.startswith("index"):
            indices = args[1] if isinstance(args[1], (list, tuple)) else ()
            assert all(i is None or i.dtype != torch.bool for i in indices), f"{func} with a boolean mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["proto_infonce", "center_margin"])
@pytest.mark.parametrize("source", ["teacher", "student"])
def test_no_hook_waits_for_the_device(form, source):
    method, given_ = Farcluss(contrast=form, contrast_centroids=source, mass_power=1.0, contrast_dim=4), scene(1)
    method.setup(info=info())
    with NoHostSync():
        for mode in ("fixed_k", "cumulative"):
            label = label_of(Farcluss(label_mode=mode), given_["teacher_output"].logits, given_["label"].valid)
            method.class_weight(label=label, num_classes=3)
        method.pixel_weight(probs=given_["teacher_output"].logits.softmax(dim=1))
        method.regularize(**given_)["farcluss_contrast"].backward()
        method.after_step(progress=AFTER_RAMP)
    with pytest.raises(AssertionError, match="waits"), NoHostSync():
        torch.ones(1).item()


# ---- a whole step of the engine, worked out with loops


@pytest.mark.parametrize(
    ("top_k", "all_void"),
    [(3, False), (1, True), *(pytest.param(*case, marks=pytest.mark.long) for case in ((1, False), (3, True)))],
)
@for_any_batch
def test_a_step_of_the_engine_is_the_formulas(tiny_run, monkeypatch, top_k, all_void, seed):
    """Labels, weights and class weights of README.md, the strong view mixed by boxes, half way up the ramp. With
    top_k=1 everything else is off here: it is a mean teacher with hard labels."""
    monkeypatch.setattr("ssss_zoo.plugins.farcluss.farcluss.random_boxes", lambda *size: BOXES)
    progress, words = Progress(15, 100, 6), ("options.farcluss.contrast=off", f"options.farcluss.top_k={top_k}")
    plain = ("options.farcluss.uncertainty_gamma=0", "options.farcluss.rebalance=off") if top_k == 1 else ()
    made, batch = (
        tiny_run("method=farcluss", "train.batch=3", "augment.flip=0", *words, *plain),
        raw_batch(all_void, seed),
    )
    made.engine.strong = FixedAugmentation(darker)
    made.double()
    network = copy.deepcopy(made.student)
    x, w, _ = images(batch)
    with torch.no_grad():
        p = copy.deepcopy(network).eval()(w).logits.float().softmax(dim=1).double()
    labels, weights = torch.zeros_like(p), torch.ones(3, 16, 16, dtype=torch.float64)
    for b, i, j in itertools.product(range(3), range(16), range(16)):
        kept = sorted(range(5), key=lambda c: -p[b, c, i, j])[:top_k]
        for c in kept:
            labels[b, c, i, j] = p[b, c, i, j] / sum(p[b, k, i, j] for k in kept)
        if not plain:
            weights[b, i, j] = 1 + float((p[b, :, i, j] * p[b, :, i, j].log()).sum()) / math.log(5)
    s, valid = darker(w), batch.unlabelled.valid
    s, labels = (torch.where(BOX[:, None], part.roll(-1, 0), part) for part in (s, labels))
    weights, valid = (torch.where(BOX, part.roll(-1, 0), part) for part in (weights, valid))
    mass = (labels * valid[:, None]).sum(dim=(0, 2, 3))
    omega = torch.ones(5, dtype=torch.float64)
    if not plain and not all_void:
        share = mass / mass.sum()
        ratio = (1 / (int((mass > 0).sum()) * share)).sqrt().clamp(1 / 5, 5)
        omega = torch.where(mass > 0, ratio / (share * ratio)[mass > 0].sum(), 1.0)
    z_x, z_s = network(torch.cat([x, s])).logits.split([3, 3])
    factor = (labels * omega.view(1, -1, 1, 1)).sum(dim=1)
    per_pixel = -factor * (labels * z_s.log_softmax(dim=1)).sum(dim=1) * weights
    l_u = (per_pixel * valid).sum() / valid.sum().clamp(min=1)
    mask = batch.labelled.mask.long()
    l_x = z_x.sum() * 0 if all_void else F.cross_entropy(z_x, mask, ignore_index=255)
    assert_step(
        made, batch, {"supervised": l_x, "consistency": 15 / 6 / 5 * l_u}, [network], progress, single="consistency"
    )
