"""FARCLUSS's labels and pixel weights: golden values, and the properties 1 to 8 of its reconstruction."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch import Tensor
from torch.testing import assert_close

from helpers.farcluss import (
    as_probs,
    class_weight_of,
    dense,
    label_of,
    loss_of,
    off,
    quick,
    random_logits,
    seeds,
    some_valid,
    weight_of,
)
from ssss_zoo.toolkit.losses import consistency
from ssss_zoo.toolkit.mixing import Mixing
from ssss_zoo.toolkit.types import CutMix, PseudoLabel


def spread(*head, classes=21):
    """A distribution with the given first entries and the rest of the mass spread evenly."""
    return [*head, *[(1 - sum(head)) / (classes - len(head))] * (classes - len(head))]


# ---- golden values


@pytest.mark.parametrize(
    ("head", "even", "of_21", "of_19"),
    [
        ((1.0,), False, 1.000000, 1.000000),
        ((0.95, 0.05), False, 0.934796, 0.932580),
        ((0.95,), True, 0.885597, 0.883498),
        ((0.5, 0.5), False, 0.772330, 0.764591),
        ((0.6, 0.3, 0.1), False, 0.705062, 0.695037),
        ((1 / 3, 1 / 3, 1 / 3), False, 0.639151, 0.626886),
        ((0.70,), True, 0.504164, 0.498045),
        ((), True, 0.000000, 0.000000),
    ],
)
def test_golden_uncertainty_weights(head, even, of_21, of_19):
    for classes, expected in ((21, of_21), (19, of_19)):
        pixel = spread(*head, classes=classes) if even else [*head, *[0.0] * (classes - len(head))]
        weight = Farcluss().pixel_weight(probs=as_probs(pixel))
        assert_close(weight, torch.full((1, 1, 1), expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("top_k", "expected", "mass"),
    [
        (1, (1, 0, 0, 0), 0.5),
        (2, (0.6667, 0.3333, 0, 0), 0.75),
        (3, (0.5556, 0.2778, 0.1667, 0), 0.9),
        (4, (0.5, 0.25, 0.15, 0.1), 1.0),
    ],
)
def test_golden_labels(top_k, expected, mass):
    probs = as_probs([0.5, 0.25, 0.15, 0.1, 0.0, 0.0])
    method = off(top_k=top_k)
    label = method.pseudo_label(probs=probs, logits=probs.log(), valid=torch.ones(1, 1, 1, dtype=torch.bool))
    assert_close(dense(label, 6).flatten(), torch.tensor([*expected, 0.0, 0.0], dtype=torch.float32), rtol=0, atol=5e-5)
    assert_close(method.kept_mass(probs, top_k).item(), mass)
    assert_close(label.confidence.item(), 0.5)


# ---- 1 to 5: labels


@given(seeds, st.integers(1, 6), st.integers(1, 8))
@quick
def test_1_simplex_and_support(seed, classes, top_k):
    logits = random_logits(seed, classes)
    target = dense(label_of(off(top_k=top_k), logits), classes)
    assert (target >= 0).all()
    assert_close(target.sum(dim=1), torch.ones(2, 3, 4))
    assert ((target > 0).sum(dim=1) == min(top_k, classes)).all()
    assert torch.equal(target.max(dim=1).indices, logits.max(dim=1).indices)


def test_ties_keep_exactly_k_classes():
    target = label_of(off(top_k=3), torch.zeros(1, 5, 2, 2)).target
    assert ((target > 0).sum(dim=1) == 3).all()
    assert_close(target.max(dim=1).values, torch.full((1, 2, 2), 1 / 3))


@given(seeds, st.sampled_from([0.0, 1.0, 2.0]))
@quick
def test_2_one_class_kept_is_the_hard_label_times_confidence(seed, power):
    teacher, student = random_logits(seed), random_logits(seed + 1)
    method, valid = off(top_k=1, mass_power=power), some_valid(teacher, seed)
    confidence, ids = teacher.softmax(dim=1).max(dim=1)
    assert torch.equal(label_of(method, teacher).target, ids)
    assert_close(method.kept_mass(teacher.softmax(dim=1), 1), confidence)
    hard = F.cross_entropy(student, ids, reduction="none") * confidence**power * valid
    assert_close(loss_of(method, teacher, student, valid), hard.sum() / max(int(valid.sum()), 1))


@given(seeds, st.integers(5, 9))
@quick
def test_3_all_classes_kept_is_soft_consistency(seed, top_k):
    teacher, student = random_logits(seed), random_logits(seed + 1).requires_grad_()
    method, p = off(top_k=top_k), teacher.softmax(dim=1)
    assert_close(label_of(method, teacher).target, p)
    assert_close(method.kept_mass(p, top_k), torch.ones(2, 3, 4))
    divergence = (p * (p.log() - student.log_softmax(dim=1))).sum(dim=1).mean()
    loss = loss_of(method, teacher, student)
    assert_close(loss, torch.special.entr(p).sum(dim=1).mean() + divergence)
    assert_close(*torch.autograd.grad([loss], student), *torch.autograd.grad([divergence], student))


@given(seeds, st.integers(2, 5))
@quick
def test_4_truncation_identities(seed, top_k):
    logits = random_logits(seed)
    p, method = logits.softmax(dim=1), off(top_k=top_k)
    target, mass = label_of(method, logits).target, method.kept_mass(p, top_k)
    divergence = (torch.xlogy(target, target) - target * p.log()).sum(dim=1)
    assert_close(divergence, -mass.log(), rtol=1e-4, atol=1e-5)
    assert_close((target - p).abs().sum(dim=1), 2 * (1 - mass), rtol=1e-4, atol=1e-5)
    assert (mass >= method.kept_mass(p, top_k - 1) - 1e-6).all()
    assert (mass >= top_k / 5 - 1e-6).all()
    kept = target > 0
    lowered = torch.where(kept, logits, logits - 1.5)
    assert_close(label_of(method, lowered).target, target)


@given(seeds)
@quick
def test_5_entropy_of_the_label_grows_with_k_up_to_log_k(seed):
    logits, before = random_logits(seed), torch.zeros(2, 3, 4)
    for top_k in range(2, 6):
        entropy = torch.special.entr(label_of(off(top_k=top_k), logits).target).sum(dim=1)
        assert (entropy <= math.log(top_k) + 1e-5).all()
        assert (entropy >= before - 1e-5).all()
        before = entropy


def test_temperature_sharpens_the_label_alone():
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0]).view(1, 4, 1, 1)
    method = Farcluss(top_k=2, temperature=0.5)
    share = 1 / (1 + math.exp(-2))
    assert_close(label_of(method, logits).target.flatten(), torch.tensor([share, 1 - share, 0, 0]))
    assert torch.equal(weight_of(method, logits), weight_of(Farcluss(top_k=2), logits))


def test_cumulative_keeps_the_fewest_classes_that_reach_the_mass():
    probs = as_probs([0.97, 0.01, 0.01, 0.01], [0.6, 0.37, 0.02, 0.01], [0.4, 0.3, 0.2, 0.1])
    method = off(label_mode="cumulative", label_mass=0.95, mass_power=1.0)
    label = method.pseudo_label(probs=probs, logits=probs.log(), valid=torch.ones(1, 1, 3, dtype=torch.bool))
    assert (label.target > 0).sum(dim=1).flatten().tolist() == [1, 2, 3]  # the last would need four: top_k caps it
    assert_close(label.target[0, :2, 0, 1], torch.tensor([60 / 97, 37 / 97]))
    assert_close(method.pixel_weight(probs=probs).flatten(), torch.tensor([0.97, 0.97, 0.9]))


# ---- 6: invariance


@given(seeds, st.permutations(range(5)))
@quick
def test_6_shifts_and_class_permutations_change_nothing_else(seed, order):
    teacher, student, method = random_logits(seed), random_logits(seed + 1), Farcluss(mass_power=1.0)
    valid, loss = some_valid(teacher, seed), loss_of(method, teacher, student, some_valid(teacher, seed))
    shift = random_logits(seed + 2, 1)
    assert_close(label_of(method, teacher + shift).target, label_of(method, teacher).target, rtol=1e-4, atol=1e-5)
    assert_close(loss_of(method, teacher + shift, student + shift, valid), loss, rtol=1e-4, atol=1e-5)
    assert_close(weight_of(method, teacher[:, order]), weight_of(method, teacher))
    assert_close(label_of(method, teacher[:, order]).target, label_of(method, teacher).target[:, order])
    omega = class_weight_of(method, label_of(method, teacher, valid), 5)
    assert_close(class_weight_of(method, label_of(method, teacher[:, order], valid), 5), omega[order])
    assert_close(loss_of(method, teacher[:, order], student[:, order], valid), loss)


def by_mask(own: PseudoLabel, other: PseudoLabel, box: Tensor) -> PseudoLabel:
    mixing = Mixing(CutMix("stream", torch.zeros(len(box), 0, 4, dtype=torch.int64)), tuple(box.shape), box.device)
    mixing.box = box
    return mixing.label(own, {"partner": other})


@given(seeds, st.sampled_from([1, 3]))
@quick
def test_6_targets_commute_with_flips_crops_and_cutmix(seed, top_k):
    one, other, method = random_logits(seed), random_logits(seed + 1), Farcluss(top_k=top_k, mass_power=1.0)
    box = some_valid(one, seed)
    mixed_first = label_of(method, torch.where(box.unsqueeze(1), other, one))
    mixed_last = by_mask(label_of(method, one), label_of(method, other), box)
    assert_close(mixed_first.target, mixed_last.target)
    assert_close(mixed_first.confidence, mixed_last.confidence)
    for change in (lambda t: t.flip(-1), lambda t: t[..., 1:, 1:3]):
        assert_close(label_of(method, change(one)).target, change(label_of(method, one).target))
        assert_close(weight_of(method, change(one)), change(weight_of(method, one)))


def test_6_ids_and_their_one_hot_form_give_the_same_loss():
    teacher, student, method = random_logits(0), random_logits(1), Farcluss(top_k=1)
    ids = label_of(method, teacher, some_valid(teacher, 2))
    hot = replace(ids, target=dense(ids, 5))
    weight, omega = weight_of(method, teacher), class_weight_of(method, ids, 5)
    assert_close(class_weight_of(method, hot, 5), omega)
    assert_close(consistency(student, hot, weight, omega, "valid"), consistency(student, ids, weight, omega, "valid"))


# ---- 7 and 8: uncertainty, precision


@given(seeds, st.integers(2, 21), st.sampled_from(["power", "exp"]))
@quick
def test_7_weight_is_in_range_falls_with_temperature_and_ignores_k(seed, classes, form):
    logits = random_logits(seed, classes)
    method = Farcluss(uncertainty_form=form)
    weights = [weight_of(method, logits / temperature) for temperature in (0.5, 1, 2, 8)]
    assert all(((w >= 0) & (w <= 1)).all() for w in weights)
    assert all((hot <= cold + 1e-5).all() for cold, hot in itertools.pairwise(weights))
    assert torch.equal(weight_of(Farcluss(uncertainty_form=form, top_k=1), logits), weights[1])


def test_7_weight_is_one_where_sure_and_zero_where_lost():
    probs = as_probs([1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3])
    assert_close(Farcluss().pixel_weight(probs=probs).flatten(), torch.tensor([1.0, 0.0]), rtol=0, atol=1e-6)
    rounded = torch.tensor([1.000001, 0.0, 0.0]).view(1, 3, 1, 1)  # a float32 softmax may sum to a little above 1
    assert Farcluss().pixel_weight(probs=rounded).item() == 1
    exp = Farcluss(uncertainty_form="exp", uncertainty_gamma=2.0).pixel_weight(probs=probs).flatten()
    assert_close(exp, torch.tensor([1.0, math.exp(-2)]))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 4.0])
def test_7_gamma_is_the_exponent_and_zero_is_off(gamma):
    probs = as_probs([0.5, 0.5, 0.0, 0.0], [0.25] * 4)
    weight = Farcluss(uncertainty_gamma=gamma).pixel_weight(probs=probs).flatten()
    assert_close(weight, torch.tensor([0.5**gamma, 0.0**gamma]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("top_k", [1, 3, 6])
def test_8_half_precision_is_finite_and_near_float64(kind, top_k):
    rows = torch.tensor(
        [[6e4, -6e4, 0, 0, 0, 0], [0.0] * 6, [3e4] * 6, [50, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [-6e4] * 5 + [6e4]]
    )
    teacher = rows.to(kind).T.reshape(1, 6, 2, 3)
    student = teacher.flip(1).clone().requires_grad_()
    method = Farcluss(top_k=top_k, mass_power=1.0)
    label, weight = label_of(method, teacher), weight_of(method, teacher)
    loss = loss_of(method, teacher, student)
    loss.backward()
    parts = [dense(label, 6), weight, label.confidence, class_weight_of(method, label, 6), loss, student.grad]
    assert all(part.isfinite().all() for part in parts)
    assert ((weight >= 0) & (weight <= 1)).all()
    p = teacher.double().softmax(dim=1)
    u = 1 - torch.special.entr(p).sum(dim=1) / math.log(6)
    assert_close(weight.double(), u * p.topk(top_k, dim=1).values.sum(dim=1), rtol=2e-3, atol=2e-3)
