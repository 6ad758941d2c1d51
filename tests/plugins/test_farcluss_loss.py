"""FARCLUSS's consistency loss against plain float64 loops, its gradient, its floor, pixels that do not count."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch.testing import assert_close

from helpers.farcluss import (
    all_valid,
    class_weight_of,
    label_of,
    loss_of,
    quick,
    random_logits,
    seeds,
    some_valid,
    weight_of,
)
from ssss_zoo.toolkit.losses import consistency, divisor, pixel_loss

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
