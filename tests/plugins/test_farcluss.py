"""FARCLUSS: the golden values and the fifteen properties of its reconstruction, against plain float64 arithmetic."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ssss_zoo.plugins.farcluss import farcluss as module
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.by_hand import BOX, BOXES, assert_step, darker, for_any_batch, images, raw_batch
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit import contrast
from ssss_zoo.toolkit.losses import consistency, cross_entropy, divisor, pixel_loss
from ssss_zoo.toolkit.mixing import Mixing
from ssss_zoo.toolkit.types import (
    CutMix,
    FixedAugmentation,
    Labelled,
    Output,
    Progress,
    PseudoLabel,
    RunInfo,
    View,
    ViewOutput,
)

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
START, LATER = Progress(0, 1000, 10), Progress(60, 1000, 10)  # the ramp of 5 epochs ends at step 50


def random_logits(seed, classes=5, size=(2, 3, 4), scale=3.0):
    batch, height, width = size
    return scale * torch.randn(batch, classes, height, width, generator=torch.Generator().manual_seed(seed))


def all_valid(logits):
    return torch.ones(logits.shape[0], *logits.shape[2:], dtype=torch.bool)


def some_valid(logits, seed):
    return torch.rand(all_valid(logits).shape, generator=torch.Generator().manual_seed(seed)) < 0.7


def label_of(method, logits, valid=None):
    probs = logits.float().softmax(dim=1)
    return method.pseudo_label(probs=probs, logits=logits, valid=all_valid(logits) if valid is None else valid)


def weight_of(method, logits):
    return method.pixel_weight(probs=logits.float().softmax(dim=1))


def class_weight_of(method, label, classes):
    omega = method.class_weight(label=label, num_classes=classes)
    return torch.ones(classes) if omega is None else omega


def dense(label, classes):
    return F.one_hot(label.target, classes).movedim(-1, 1).float() if label.target.dim() == 3 else label.target


def loss_of(method, teacher, student, valid=None, per_class=False):
    label, classes = label_of(method, teacher, valid), teacher.shape[1]
    weight, omega = weight_of(method, teacher), class_weight_of(method, label, classes)
    return consistency(student, label, weight, omega, method.reduce, per_class)


def spread(*head, classes=21):
    """A distribution with the given first entries and the rest of the mass spread evenly."""
    return [*head, *[(1 - sum(head)) / (classes - len(head))] * (classes - len(head))]


def as_probs(*pixels):
    return torch.tensor(pixels).T.view(1, len(pixels[0]), 1, len(pixels))


def off(**options):
    """All but the fuzzy labels switched off, unless asked for."""
    return Farcluss(**{"uncertainty_gamma": 0.0, "rebalance": "off", "contrast": "off", **options})


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
    assert_close(method.kept_mass(probs).item(), mass)
    assert_close(label.confidence.item(), 0.5)


def test_golden_class_weights_of_one_rare_class():
    """1.15 M pixels of one class, five of about 0.1 M, 50 of the last: here divided by 50."""
    counts = torch.tensor([23000, 2000, 2000, 2000, 2000, 2000, 1])
    ids = torch.repeat_interleave(torch.arange(7), counts).view(1, 1, -1)
    label = PseudoLabel(ids, torch.ones(ids.shape), torch.ones(ids.shape, dtype=torch.bool))
    omega = Farcluss().class_weight(label=label, num_classes=7)
    assert_close(omega[[0, 1, 6]], torch.tensor([0.58, 1.97, 6.41]), rtol=0, atol=0.02)
    inverse = Farcluss(rebalance="inverse_mean").class_weight(label=label, num_classes=7)
    assert_close(inverse[6].item(), 6.98, rtol=0, atol=0.01)


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
    assert_close(method.kept_mass(teacher.softmax(dim=1)), confidence)
    hard = F.cross_entropy(student, ids, reduction="none") * confidence**power * valid
    assert_close(loss_of(method, teacher, student, valid), hard.sum() / max(int(valid.sum()), 1))


@given(seeds, st.integers(5, 9))
@quick
def test_3_all_classes_kept_is_soft_consistency(seed, top_k):
    teacher, student = random_logits(seed), random_logits(seed + 1).requires_grad_()
    method, p = off(top_k=top_k), teacher.softmax(dim=1)
    assert_close(label_of(method, teacher).target, p)
    assert_close(method.kept_mass(p), torch.ones(2, 3, 4))
    divergence = (p * (p.log() - student.log_softmax(dim=1))).sum(dim=1).mean()
    loss = loss_of(method, teacher, student)
    assert_close(loss, torch.special.entr(p).sum(dim=1).mean() + divergence)
    assert_close(*torch.autograd.grad([loss], student), *torch.autograd.grad([divergence], student))


@given(seeds, st.integers(2, 5))
@quick
def test_4_truncation_identities(seed, top_k):
    logits = random_logits(seed)
    p, method = logits.softmax(dim=1), off(top_k=top_k)
    target, mass = label_of(method, logits).target, method.kept_mass(p)
    divergence = (torch.xlogy(target, target) - target * p.log()).sum(dim=1)
    assert_close(divergence, -mass.log(), rtol=1e-4, atol=1e-5)
    assert_close((target - p).abs().sum(dim=1), 2 * (1 - mass), rtol=1e-4, atol=1e-5)
    assert (mass >= off(top_k=top_k - 1).kept_mass(p) - 1e-6).all()
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


# ---- 9 and 10: the loss, its gradient and its floor


def plain_class_weight(method, target, valid):
    """Section 2.4 in loops: target (B, C, H, W) and valid as tensors, float64."""
    classes = target.shape[1]
    if method.rebalance == "off":
        return [1.0] * classes
    mass = [0.0] * classes
    for b, i, j in valid.nonzero().tolist():
        pixel = target[b, :, i, j].tolist()
        for c in range(classes):
            mass[c] += pixel[c] if method.rebalance_counts == "soft" else float(c == pixel.index(max(pixel)))
    present = [c for c in range(classes) if mass[c] > method.rebalance_min_mass]
    if not present:
        return [1.0] * classes
    if method.rebalance == "inverse_mean":
        mean = sum(1 / mass[c] for c in present) / len(present)
        return [1 / mass[c] / mean if c in present else 1.0 for c in range(classes)]
    share = {c: mass[c] / sum(mass[k] for k in present) for c in present}
    limit = method.rebalance_max_ratio
    raw = {c: min(max((1 / (len(present) * share[c])) ** method.rebalance_alpha, 1 / limit), limit) for c in present}
    size = sum(share[c] * raw[c] for c in present)
    return [raw[c] / size if c in present else 1.0 for c in range(classes)]


def plain_target(method, pixel):
    """Section 2.2 for one pixel: the target and the kept mass."""
    p = [math.exp(z) / sum(map(math.exp, pixel)) for z in pixel]
    kept = sorted(range(len(p)), key=lambda c: -p[c])[: method.top_k]
    tempered = {c: math.exp(pixel[c] / method.temperature) for c in kept}
    return p, [tempered.get(c, 0.0) / sum(tempered.values()) for c in range(len(p))], sum(p[c] for c in kept)


def plain_loss(method, teacher, student, valid, per_class=False):
    """Sections 2.2 to 2.5 in loops and float64."""
    teacher, student = teacher.double(), student.double()
    classes, target = teacher.shape[1], torch.zeros_like(teacher, dtype=torch.float64)
    pixels = valid.nonzero().tolist()
    for b, i, j in pixels:
        target[b, :, i, j] = torch.tensor(plain_target(method, teacher[b, :, i, j].tolist())[1], dtype=torch.float64)
    omega = plain_class_weight(method, target, valid)
    total, weights = 0.0, 0.0
    for b, i, j in pixels:
        p, y, mass = plain_target(method, teacher[b, :, i, j].tolist())
        z = student[b, :, i, j].tolist()
        log_q = [value - math.log(sum(map(math.exp, z))) for value in z]
        entropy = -sum(v * math.log(v) for v in p) / math.log(classes)
        gamma = method.uncertainty_gamma
        u = (1 - entropy) ** gamma if method.uncertainty_form == "power" else math.exp(-gamma * entropy)
        if per_class:
            loss = -sum(omega[c] * y[c] * log_q[c] for c in range(classes))
        else:
            loss = -sum(o * v for o, v in zip(omega, y, strict=True)) * sum(
                v * q for v, q in zip(y, log_q, strict=True)
            )
        total += u * mass**method.mass_power * loss
        weights += u * mass**method.mass_power
    return total / (max(len(pixels), 1) if method.reduce == "valid" else max(weights, 1e-6))


VARIANTS = [
    Farcluss(),
    Farcluss(top_k=1, mass_power=1.0),
    Farcluss(top_k=2, mass_power=1.0, uncertainty_gamma=2.0, rebalance_alpha=1.0),
    Farcluss(top_k=9, uncertainty_form="exp", uncertainty_gamma=3.0, reduce="weight"),
    Farcluss(rebalance="inverse_mean", temperature=0.7),
    Farcluss(rebalance_counts="argmax", rebalance_max_ratio=1.2, reduce="weight"),
    Farcluss(rebalance_min_mass=3.0, rebalance_alpha=1.0),
    Farcluss(rebalance="off", uncertainty_gamma=0.0, mass_power=2.0),
]


@pytest.mark.parametrize("method", VARIANTS)
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_total_consistency_loss_equals_plain_loops(method, per_class, classes):
    for seed, size in ((1, (2, 3, 4)), (2, (1, 2, 5)), (3, (3, 3, 1))):  # an even batch, a single image, an odd batch
        teacher, student = random_logits(seed, classes, size), random_logits(seed + 10, classes, size)
        valid = some_valid(teacher, seed)
        loss = loss_of(method, teacher, student, valid, per_class)
        assert_close(float(loss), plain_loss(method, teacher, student, valid, per_class), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [VARIANTS[0], VARIANTS[2], VARIANTS[5]])
@pytest.mark.parametrize("per_class", [False, True])
def test_9_gradient_is_the_closed_form_and_matches_finite_differences(method, per_class):
    teacher, student = random_logits(4, size=(1, 2, 3)), random_logits(5, size=(1, 2, 3)).requires_grad_()
    valid = some_valid(teacher, 1)
    (gradient,) = torch.autograd.grad([loss_of(method, teacher, student, valid, per_class)], student)
    label = label_of(method, teacher, valid)
    weight, omega = weight_of(method, teacher), class_weight_of(method, label, 5).view(1, 5, 1, 1)
    q, y, s = student.detach().softmax(dim=1), label.target, (omega * label.target).sum(dim=1, keepdim=True)
    pixel = s * q - omega * y if per_class else s * (q - y)
    closed = pixel * (weight * valid / divisor(method.reduce, valid, weight)).unsqueeze(1)
    assert_close(gradient, closed, rtol=1e-4, atol=1e-6)
    assert_close(gradient.sum(dim=1), torch.zeros(1, 2, 3), rtol=0, atol=1e-6)
    if not per_class:
        assert ((q - y).abs().sum(dim=1) <= 2 + 1e-6).all()
    for index in ((0, 0, 0, 0), (0, 3, 1, 2), (0, 4, 0, 1)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = student.detach().double()
            moved[index] += step
            ends.append(plain_loss(method, teacher, moved, valid, per_class))
        assert_close(float(gradient[index]), (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("per_class", [False, True])
def test_9_gradient_vanishes_at_the_stated_optimum(per_class):
    teacher, method = random_logits(6), Farcluss()
    label = label_of(method, teacher)
    omega = class_weight_of(method, label, 5).view(1, 5, 1, 1)
    optimum = label.target * omega if per_class else label.target
    student = (optimum + 1e-12).log().requires_grad_()
    (gradient,) = torch.autograd.grad([loss_of(method, teacher, student, per_class=per_class)], student)
    assert gradient.abs().max() < 1e-7


@given(seeds, st.sampled_from([2, 3, 5]))
@quick
def test_10_loss_is_bounded_by_the_entropy_of_the_label(seed, top_k):
    teacher, student, method = random_logits(seed), random_logits(seed + 1), Farcluss(top_k=top_k)
    label = label_of(method, teacher)
    omega = class_weight_of(method, label, 5)
    floor = (omega.view(1, 5, 1, 1) * label.target).sum(dim=1) * torch.special.entr(label.target).sum(dim=1)
    assert (pixel_loss(student, label, omega, False) >= floor - 1e-5).all()
    assert_close(pixel_loss((label.target + 1e-20).log(), label, omega, False), floor, rtol=1e-4, atol=1e-5)
    weight = weight_of(method, teacher)
    loss = consistency(student, label, weight, omega, "valid")
    assert_close(consistency(student, label, 3 * weight, omega, "valid"), 3 * loss)


# ---- 11: ignored pixels


@given(seeds)
@quick
def test_11_ignored_pixels_do_not_count(seed):
    teacher, student, method = random_logits(seed), random_logits(seed + 1), Farcluss()
    valid = some_valid(teacher, seed)
    noise = torch.where(valid.unsqueeze(1), 0.0, 50.0) * random_logits(seed + 2)
    loss = loss_of(method, teacher, student, valid)
    assert_close(loss_of(method, teacher + noise, student - noise, valid), loss)
    more = [F.pad(t, (0, 3), value=7.0) for t in (teacher, student)]
    assert_close(loss_of(method, *more, F.pad(valid, (0, 3), value=False)), loss)


@pytest.mark.parametrize("method", VARIANTS)
def test_11_nothing_valid_is_a_zero_with_a_graph(method):
    teacher, student = random_logits(0), random_logits(1).requires_grad_()
    nothing = torch.zeros_like(all_valid(teacher))
    assert torch.equal(class_weight_of(method, label_of(method, teacher, nothing), 5), torch.ones(5))
    loss = loss_of(method, teacher, student, nothing)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_single_class_is_certain_and_costs_nothing(top_k):
    teacher, method = random_logits(0, classes=1), Farcluss(top_k=top_k, mass_power=1.0)
    assert torch.equal(weight_of(method, teacher), torch.ones(2, 3, 4))
    assert loss_of(method, teacher, random_logits(1, classes=1)).item() == 0
    assert class_weight_of(method, label_of(method, teacher), 1).tolist() == [1.0]


# ---- 12: class weights


def label_with_mass(mass):
    """One pixel a unit: a label whose class masses are the given ones (their sum is the number of pixels)."""
    pixels = round(sum(mass))
    target = (torch.tensor(mass) / pixels).view(1, -1, 1, 1).expand(1, len(mass), 1, pixels)
    return PseudoLabel(target, torch.ones(1, 1, pixels), torch.ones(1, 1, pixels, dtype=torch.bool))


@given(seeds, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 2.0, 5.0]), st.sampled_from([0.0, 4.0]))
@quick
def test_12_class_weights_keep_the_size_of_the_loss(seed, alpha, limit, least):
    method = Farcluss(rebalance_alpha=alpha, rebalance_max_ratio=limit, rebalance_min_mass=least)
    logits = random_logits(seed)
    label = label_of(method, logits, some_valid(logits, seed))
    omega = class_weight_of(method, label, 5)
    mass = (label.target * label.valid.unsqueeze(1)).sum(dim=(0, 2, 3))
    present = mass > least
    if present.any():
        assert_close((omega * mass).sum() / mass.sum(), torch.tensor(1.0))  # the mean of s over valid pixels
        assert omega[present].max() / omega[present].min() <= limit**2 * (1 + 1e-5)
        assert (omega[present][mass[present].argsort()].diff() <= 1e-6).all()
    assert (omega[~present] == 1).all()
    if alpha == 0:
        assert_close(omega, torch.ones(5))


def test_12_neutral_cases():
    method = Farcluss()
    assert_close(class_weight_of(method, label_with_mass([4.0, 4.0, 4.0]), 3), torch.ones(3))
    assert class_weight_of(method, label_with_mass([0.0, 7.0, 0.0]), 3).tolist() == [1.0, 1.0, 1.0]
    few, many = label_with_mass([1.0, 2.0, 9.0]), label_with_mass([10.0, 20.0, 90.0])
    assert_close(class_weight_of(method, few, 3), class_weight_of(method, many, 3))
    assert Farcluss(rebalance="off").class_weight(label=few, num_classes=3) is None


def test_12_absent_classes_change_no_other_weight_and_ratios_are_their_own():
    omega = class_weight_of(Farcluss(), label_with_mass([4.0, 16.0, 12.0]), 3)
    assert_close(omega[0] / omega[1], torch.tensor(2.0))  # (16 / 4) ^ 0.5
    wider = class_weight_of(Farcluss(), label_with_mass([4.0, 0.0, 16.0, 12.0, 0.0]), 5)
    assert_close(wider[[0, 2, 3]], omega)
    traced = class_weight_of(Farcluss(), label_with_mass([4.0, 15.99, 12.0, 0.01]), 4)
    assert_close(traced[0] / traced[1], torch.tensor(math.sqrt(15.99 / 4)))


def test_12_clip_binds_both_ways():
    omega = class_weight_of(
        Farcluss(rebalance_alpha=1.0, rebalance_max_ratio=2.0), label_with_mass([960.0, 30.0, 10.0]), 3
    )
    assert_close(omega / omega[1], torch.tensor([0.5, 2.0, 2.0]) / 2)  # raw .35, 11.1, 33.3


def test_12_inverse_mean_gives_every_present_class_the_same_share():
    mass = torch.tensor([4.0, 16.0, 0.0, 12.0])
    omega = class_weight_of(Farcluss(rebalance="inverse_mean"), label_with_mass(mass.tolist()), 4)
    assert_close(omega[[0, 1, 3]].mean(), torch.tensor(1.0))
    assert_close((omega * mass)[[0, 1, 3]].diff(), torch.zeros(2), rtol=0, atol=1e-4)
    assert omega[2] == 1


def test_12_counts_are_soft_or_of_the_likeliest_class():
    target = as_probs([0.6, 0.4], [0.6, 0.4], [0.1, 0.9])
    label = PseudoLabel(target, torch.ones(1, 1, 3), torch.ones(1, 1, 3, dtype=torch.bool))
    assert_close(module.class_mass(label, 2, soft=True), torch.tensor([1.3, 1.7]))
    assert module.class_mass(label, 2, soft=False).tolist() == [2.0, 1.0]
    omega = class_weight_of(Farcluss(rebalance_counts="argmax"), label, 2)
    assert_close(omega[1] / omega[0], torch.tensor(math.sqrt(2)))


def test_15_two_processes_with_half_a_batch_agree_with_one(monkeypatch):
    method, logits = Farcluss(), random_logits(3, size=(4, 3, 4))
    omega = class_weight_of(method, label_of(method, logits), 5)
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(module, "process_sum", lambda mass: sent.append(mass) or mass)
    class_weight_of(method, label_of(method, logits[:2]), 5)
    monkeypatch.setattr(module, "process_sum", lambda mass: mass + sent.pop())
    assert_close(class_weight_of(method, label_of(method, logits[2:]), 5), omega)


# ---- 13: contrast


def info(classes=3, feature_dim=4):
    names = tuple(f"class {c}" for c in range(classes))
    from ssss_zoo.toolkit.losses import cross_entropy

    sizes = {"class_names": names, "feature_dim": feature_dim, "map_dims": (feature_dim,), "in_channels": 3}
    budget = {"crop": (8, 8), "batch": 2, "steps": 1000, "epoch_steps": 10, "folder": Path("."), "students": ()}
    functions = {"read": print, "predict": print, "supervised": cross_entropy, "strong": abs}
    return RunInfo(**sizes, **budget, labelled=(), unlabelled=(), **functions)


def ready(classes=3, feature_dim=4, **options):
    """A method after setup whose projection is the identity, so that cells are the features themselves."""
    method = Farcluss(**{"contrast_dim": feature_dim, "contrast_anchors": 500, **options})
    method.setup(info=info(classes, feature_dim))
    method.head, method.slow_head = nn.Identity(), nn.Identity()
    return method


class FixedTeacher:
    """A teacher that answers the same features for whatever it is shown."""

    def __init__(self, output):
        self.output, self.asked = output, 0

    def __call__(self, image):
        self.asked += 1
        return self.output


def scene(seed, classes=3, batch=2, grid=4, size=8, width=4):
    """What `regularize` is called with: random features, labels, weights and masks with some void."""
    generator = torch.Generator().manual_seed(seed)

    def output(size=size):
        logits = 4 * torch.randn(batch, classes, size, size, generator=generator)
        return Output(logits, torch.randn(batch, width, grid, grid, generator=generator))

    mask = torch.randint(0, classes, (batch, size, size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    weak, student, strong = output(), output(), output()
    strong.features.requires_grad_()
    student.features.requires_grad_()
    label = label_of(Farcluss(), weak.logits, some_valid(weak.logits, seed))
    weight = weight_of(Farcluss(), weak.logits)
    image = torch.zeros(batch, 3, size, size)
    turned = replace(label, target=label.target.flip(0))
    seen = ViewOutput(View("strong"), image, strong, turned, weight.flip(0), None, lambda own, others: own)
    seen = replace(seen, label=replace(seen.label, confidence=label.confidence.flip(0), valid=label.valid.flip(0)))
    return {
        "labelled": Labelled(image, mask),
        "labelled_output": student,
        "teacher": FixedTeacher(output()),
        "teacher_output": weak,
        "label": label,
        "weight": weight,
        "views": (seen,),
        "progress": LATER,
    }


def rows(features):
    return contrast.l2_normalize(features.detach()).double().movedim(1, -1).flatten(0, 2).tolist()


def middle(pixels):
    """Every second pixel of an 8 x 8 map from the second on: what lies under the centres of a 4 x 4 grid."""
    return pixels[..., 1::2, 1::2]


def plain_members(label, weight, floor, classes, argmax=False):
    counted = middle(label.valid & (label.confidence >= floor)) * middle(weight).double()
    target = middle(label.target).double().movedim(1, -1)
    if argmax:
        target = F.one_hot(target.max(dim=-1).indices, classes).double()
    return (target * counted.unsqueeze(-1)).flatten(0, 2).tolist()


def plain_centroids(cells, members, classes):
    """The weighted mean direction of each class, or None."""
    answer = []
    for c in range(classes):
        mass = sum(member[c] for member in members)
        mean = [sum(m[c] * cell[d] for m, cell in zip(members, cells, strict=True)) for d in range(len(cells[0]))]
        length = math.sqrt(sum(v * v for v in mean))
        answer.append([v / length for v in mean] if mass > 0 else None)
    return answer


def mask_members(mask, classes):
    return [[float(c == i) for c in range(classes)] for i in middle(mask).flatten().tolist()]


def plain_info_nce(cells, ids, prototypes, temperature):
    losses: dict[int, list[float]] = {}
    for cell, own in zip(cells, ids, strict=True):
        if own < len(prototypes) and prototypes[own]:
            score = [
                sum(a * b for a, b in zip(cell, mu, strict=True)) / temperature if mu else None for mu in prototypes
            ]
            total = math.log(sum(math.exp(s) for s in score if s is not None))
            losses.setdefault(own, []).append(total - score[own])
    return sum(sum(v) / len(v) for v in losses.values()) / len(losses)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("source", ["teacher", "student"])
@pytest.mark.parametrize("joined", ["soft", "argmax"])
def test_13_contrastive_term_equals_plain_loops(seed, source, joined):
    given_, classes = scene(seed), 3
    options = {"contrast_confidence": 0.6, "contrast_centroids": source, "contrast_members": joined}
    method = ready(classes, **options)
    loss = method.regularize(**given_)["farcluss_contrast"]
    seen, student = given_["views"][0], given_["labelled_output"]
    if source == "teacher":
        cells = rows(given_["teacher"].output.features) + rows(given_["teacher_output"].features)
        unlabelled = plain_members(given_["label"], given_["weight"], 0.6, classes, joined == "argmax")
    else:
        cells = rows(student.features) + rows(seen.output.features)
        unlabelled = plain_members(seen.label, seen.weight, 0.6, classes, joined == "argmax")
    prototypes = plain_centroids(cells, mask_members(given_["labelled"].mask, classes) + unlabelled, classes)
    assert_close(method.prototypes.vectors.tolist(), prototypes, rtol=1e-4, atol=1e-5)
    sure = middle(seen.label.valid & (seen.label.confidence >= 0.6))
    ids = middle(given_["labelled"].mask).flatten().tolist()
    ids += torch.where(sure, middle(seen.label.ids), 255).flatten().tolist()
    expected = plain_info_nce(rows(student.features) + rows(seen.output.features), ids, prototypes, 0.1)
    assert_close(loss.item(), 0.1 * expected, rtol=1e-4, atol=1e-5)
    assert given_["teacher"].asked == (source == "teacher")


def test_13_prototypes_move_by_momentum_over_steps():
    method, first, second = ready(contrast_momentum=0.9), scene(1), scene(2)
    method.regularize(**first)
    before = method.prototypes.vectors.clone()
    method.regularize(**second)
    fresh = ready()
    fresh.regularize(**second)
    cells = torch.cat([second["teacher"].output.features, second["teacher_output"].features])
    members = mask_members(second["labelled"].mask, 3) + plain_members(second["label"], second["weight"], 0.7, 3)
    member = torch.tensor(members).double()
    mean = (member.T @ torch.tensor(rows(cells)).double()) / member.sum(dim=0).unsqueeze(1)
    assert_close(fresh.prototypes.vectors.double(), F.normalize(mean, dim=1), rtol=1e-4, atol=1e-5)
    assert_close(
        method.prototypes.vectors.double(), F.normalize(0.9 * before + 0.1 * mean, dim=1), rtol=1e-4, atol=1e-5
    )


def test_13_an_absent_class_keeps_its_prototype_to_the_bit():
    method = ready()
    method.regularize(**scene(1))
    before = method.prototypes.vectors.clone()
    later = scene(2)
    later["labelled"].mask[later["labelled"].mask == 2] = 255
    target = later["label"].target.clone()
    target[:, 2] = 0
    later["label"] = replace(later["label"], target=target)
    method.regularize(**later)
    assert torch.equal(method.prototypes.vectors[2], before[2])
    assert not torch.equal(method.prototypes.vectors[:2], before[:2])


@pytest.mark.parametrize("form", ["proto_infonce", "center_margin"])
def test_11_and_13_nothing_to_contrast_is_a_zero_with_a_graph(form):
    method, given_ = ready(contrast=form), scene(1)
    given_["labelled"].mask.fill_(255)
    given_["label"].valid.fill_(False)
    given_["views"][0].label.valid.fill_(False)
    loss = method.regularize(**given_)["farcluss_contrast"]
    loss.backward()
    assert loss.item() == 0
    assert not given_["views"][0].output.features.grad.any()
    assert not method.prototypes.initialized.any()


def test_13_values_of_ignored_pixels_reach_neither_loss_nor_prototypes():
    plain, noisy = ready(), ready()
    given_, other = scene(4), scene(4)
    for part in (other["label"], other["views"][0].label):
        part.target[~part.valid.unsqueeze(1).expand_as(part.target)] = 0.9
        part.confidence[~part.valid] = 1.0
    other["weight"][~other["label"].valid] = 77.0
    assert_close(plain.regularize(**given_), noisy.regularize(**other))
    assert torch.equal(plain.prototypes.vectors, noisy.prototypes.vectors)


def test_13_one_class_alone_gives_zero_and_scaling_features_changes_nothing():
    method, given_ = ready(), scene(5)
    given_["labelled"].mask.clamp_(max=0)
    given_ |= {"teacher_output": None, "label": None, "weight": None, "views": ()}
    assert method.regularize(**given_)["farcluss_contrast"].item() == 0
    assert method.prototypes.initialized.tolist() == [True, False, False]
    losses = []
    for factor in (1.0, 7.0):
        scaled = scene(6)
        scaled["labelled_output"] = Output(torch.zeros(0), factor * scaled["labelled_output"].features)
        losses.append(ready().regularize(**scaled)["farcluss_contrast"])
    assert_close(*losses)


def test_13_center_margin_on_labelled_cells_by_hand():
    method = ready(classes=2, feature_dim=2, contrast="center_margin", contrast_weight=1.0, contrast_momentum=0.0)
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).T.view(1, 2, 1, 2).clone().requires_grad_()
    side = Output(torch.zeros(1, 2, 1, 2), features)
    image = torch.zeros(1, 3, 1, 2)
    labelled = Labelled(image, torch.tensor([[[0, 1]]]))
    given_ = {"labelled": labelled, "labelled_output": side, "teacher": FixedTeacher(side.detach()), "progress": LATER}
    loss = method.regularize(**given_, teacher_output=None, label=None, weight=None, views=())["farcluss_contrast"]
    assert_close(loss.item(), 0.6)  # both anchors lie on their prototypes; the two centroids share 0.6


def test_13_centroids_pass_the_slow_head_and_anchors_the_trained_one():
    minus = nn.Conv2d(4, 4, 1, bias=False)
    minus.weight.data = -torch.eye(4).view(4, 4, 1, 1)
    plain, slow, both = ready(), ready(), ready()
    slow.slow_head, both.slow_head, both.head = minus, minus, minus
    losses = [each.regularize(**scene(1))["farcluss_contrast"] for each in (plain, slow, both)]
    assert_close(slow.prototypes.vectors, -plain.prototypes.vectors)
    assert_close(losses[2], losses[0])
    assert abs(losses[1] - losses[0]) > 0.01


def test_perturbed_views_give_no_anchors_and_hard_labels_work():
    given_, hard = scene(1), scene(1)
    seen = given_["views"][0]
    given_["views"] = (seen, replace(seen, view=View("perturbed", perturb=lambda maps: maps)))
    assert_close(ready().regularize(**given_), ready().regularize(**scene(1)))
    hard["label"] = replace(hard["label"], target=hard["label"].ids)
    assert_close(ready().regularize(**hard), ready(contrast_members="argmax").regularize(**scene(1)))


def test_contrast_waits_for_the_end_of_the_ramp_and_can_be_off():
    assert ready().regularize(**(scene(1) | {"progress": Progress(49, 1000, 10)})) is None
    assert ready().regularize(**(scene(1) | {"progress": Progress(50, 1000, 10)})) is not None
    assert ready(ramp_epochs=0.0).regularize(**(scene(1) | {"progress": START})) is not None
    assert Farcluss(contrast="off").setup(info=info()) is None
    assert Farcluss(contrast="off").regularize(**scene(1)) is None


def test_10_contrast_is_linear_in_its_weight():
    losses = [ready(contrast_weight=w).regularize(**scene(1))["farcluss_contrast"] for w in (0.0, 0.1, 0.3)]
    assert_close(losses[2], 3 * losses[1])
    assert losses[0].item() == 0


def test_9_gradient_reaches_the_student_and_the_head_and_nothing_else():
    torch.manual_seed(0)
    method, given_ = Farcluss(contrast_dim=4), scene(1)
    modules = method.setup(info=info())
    given_["teacher_output"].features.requires_grad_()
    method.regularize(**given_)["farcluss_contrast"].backward()
    assert given_["labelled_output"].features.grad.any()
    assert given_["views"][0].output.features.grad.any()
    assert given_["teacher_output"].features.grad is None
    assert all(p.grad is not None for p in modules["farcluss_head"].parameters())
    assert all(p.grad is None and not p.requires_grad for p in modules["farcluss_slow_head"].parameters())
    assert not modules["farcluss_prototypes"].vectors.requires_grad
    assert not modules["farcluss_slow_head"].training


def test_two_calls_before_one_backward():
    method, first, second = ready(), scene(1), scene(2)
    loss = sum(method.regularize(**each)["farcluss_contrast"] for each in (first, second))
    loss.backward()
    assert first["labelled_output"].features.grad.any()


def test_contrast_is_float32_whatever_autocast():
    answers = []
    for mixed_precision in (False, True):
        torch.manual_seed(0)
        method = Farcluss(contrast_dim=4, contrast_anchors=500)
        method.setup(info=info())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed_precision):
            answers.append([method.regularize(**scene(1))["farcluss_contrast"], method.prototypes.vectors])
    assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-6)


def test_half_precision_features_are_taken():
    def halved(output):
        return Output(output.logits, output.features.detach().bfloat16())

    half, method = scene(1), Farcluss(contrast_dim=4)
    method.setup(info=info())
    half |= {key: halved(half[key]) for key in ("labelled_output", "teacher_output")}
    half["teacher"] = FixedTeacher(halved(half["teacher"].output))
    half["views"] = tuple(replace(view, output=halved(view.output)) for view in half["views"])
    loss = method.regularize(**half)["farcluss_contrast"]
    assert loss.dtype == method.prototypes.vectors.dtype == torch.float32
    assert loss.isfinite()


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
    head, slow = (modules[name][0].weight for name in ("farcluss_head", "farcluss_slow_head"))
    assert torch.equal(head, slow)
    with torch.no_grad():
        head.add_(1.0)
    before = slow.clone()
    method.after_step(progress=Progress(500, 1000, 10))
    assert_close(slow, 0.9 * before + 0.1 * head.detach())
    method.after_step(progress=START)
    assert torch.equal(slow, head)
    Farcluss(contrast="off").after_step(progress=START)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 0.2), (25, 0.5), (50, 1.0), (900, 1.0)])
def test_15_share_ramps_linearly_and_stays(step, share):
    (view,) = Farcluss(unsupervised_weight=2.0).make_views(size=(2, 16, 16), progress=Progress(step, 1000, 10)).views
    assert_close(view.loss_weight, 2 * share)
    assert (view.strength, view.forward_group, view.divide_by) == ("strong", "labelled", "valid")
    (now,) = Farcluss(ramp_epochs=0.0).make_views(size=(2, 16, 16), progress=START).views
    assert now.loss_weight == 1.0


def test_15_without_its_weights_the_total_is_the_supervised_loss_and_gradient():
    teacher, student, method = random_logits(0), random_logits(1).requires_grad_(), Farcluss()
    mask, given_ = torch.randint(0, 5, (2, 3, 4)), scene(1)
    (view,) = method.make_views(size=(2, 3, 4), progress=START).views
    supervised = cross_entropy(student, mask)
    extra = ready(contrast_weight=0.0).regularize(**given_)["farcluss_contrast"]
    total = supervised + view.loss_weight * loss_of(method, teacher, student) + extra
    assert torch.equal(total, supervised)
    assert torch.equal(*(torch.autograd.grad([t], student, retain_graph=True)[0] for t in (total, supervised)))


def test_views_follow_their_switches():
    torch.manual_seed(0)
    view = Farcluss(reduce="weight").make_views(size=(40, 32, 32), progress=LATER).views[0]
    assert view.divide_by == "weight"
    assert view.cutmix.partner == "next"
    assert view.cutmix.boxes.shape == (40, 1, 4)
    assert 5 < int((view.cutmix.boxes.sum(dim=(1, 2)) > 0).sum()) < 35
    assert Farcluss(cutmix=False).make_views(size=(2, 8, 8), progress=LATER).views[0].cutmix is None
    strong, dropped = Farcluss(feature_perturbation=0.5).make_views(size=(2, 8, 8), progress=LATER).views
    assert (strong.loss_weight, dropped.loss_weight) == (0.5, 0.5)
    assert strong.cutmix is not None
    assert (dropped.strength, dropped.forward_group, dropped.cutmix) == ("weak", "perturbed", None)
    (kept,) = dropped.perturb([torch.ones(4, 50, 3, 3)])
    assert set(kept.unique().tolist()) == {0.0, 2.0}


# ---- options, silence towards the host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 0),
        ("mass_power", -0.1),
        ("temperature", 0.0),
        ("label_mass", 0.0),
        ("label_mode", "adaptive"),
        ("uncertainty_form", "linear"),
        ("uncertainty_gamma", -1.0),
        ("reduce", "mean"),
        ("rebalance", "on"),
        ("rebalance_alpha", math.nan),
        ("rebalance_max_ratio", 0.5),
        ("rebalance_counts", "hard"),
        ("rebalance_min_mass", -1.0),
        ("contrast", "supcon"),
        ("contrast_weight", math.inf),
        ("contrast_temperature", 0.0),
        ("contrast_dim", 0),
        ("contrast_momentum", 1.1),
        ("contrast_anchors", 0),
        ("contrast_confidence", 2.0),
        ("contrast_members", "all"),
        ("contrast_centroids", "both"),
        ("center_margin", 2.0),
        ("unsupervised_weight", -1.0),
        ("ramp_epochs", -1.0),
        ("ema_decay", 1.5),
        ("feature_perturbation", -0.5),
    ],
)
def test_wrong_options_are_named_in_one_line(name, value):
    with pytest.raises(UserError, match=rf"^options\.farcluss\.{name} must be [^\n]+$"):
        Farcluss(**{name: value})


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
def test_no_hook_waits_for_the_device(monkeypatch, form, source):
    method, given_ = Farcluss(contrast=form, contrast_centroids=source, mass_power=1.0, contrast_dim=4), scene(1)
    method.setup(info=info())
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(contrast, "device_generator", lambda device: generator)  # reads the CPU's seed, not the device
    with NoHostSync():
        for mode in ("fixed_k", "cumulative"):
            label = label_of(Farcluss(label_mode=mode), given_["teacher_output"].logits, given_["label"].valid)
            method.class_weight(label=label, num_classes=3)
        method.pixel_weight(probs=given_["teacher_output"].logits.softmax(dim=1))
        method.regularize(**given_)["farcluss_contrast"].backward()
        method.after_step(progress=LATER)
    with pytest.raises(AssertionError, match="waits"), NoHostSync():
        torch.ones(1).item()


# ---- a whole step of the engine, worked out with loops


@pytest.mark.parametrize("all_void", [False, True])
@pytest.mark.parametrize("top_k", [1, 3])
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


@pytest.mark.parametrize("rebalance", ["mass", "inverse_mean"])
def test_a_single_class_weighs_one(rebalance):
    ids = torch.full((1, 2, 3), 2)
    label = PseudoLabel(ids, torch.ones(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool))
    assert Farcluss(rebalance=rebalance).class_weight(label=label, num_classes=4).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("option", "value"), [("label_mass", 1.5), ("contrast_temperature", 2e6)])
def test_an_option_out_of_its_range_is_refused(option, value):
    with pytest.raises(UserError, match=f"options.farcluss.{option} must be between"):
        Farcluss(**{option: value})
