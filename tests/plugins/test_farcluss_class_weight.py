"""FARCLUSS's class weights: a golden value, and property 12 of its reconstruction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ssss_zoo.plugins.farcluss import farcluss as module
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch.testing import assert_close

from helpers.farcluss import as_probs, class_weight_of, label_of, quick, random_logits, seeds, some_valid
from ssss_zoo.toolkit.types import PseudoLabel


def test_golden_class_weights_of_one_rare_class():
    """1.15 M pixels of one class, five of about 0.1 M, 50 of the last: here divided by 50."""
    counts = torch.tensor([23000, 2000, 2000, 2000, 2000, 2000, 1])
    ids = torch.repeat_interleave(torch.arange(7), counts).view(1, 1, -1)
    label = PseudoLabel(ids, torch.ones(ids.shape), torch.ones(ids.shape, dtype=torch.bool))
    omega = Farcluss().class_weight(label=label, num_classes=7)
    assert_close(omega[[0, 1, 6]], torch.tensor([0.58, 1.97, 6.41]), rtol=0, atol=0.02)
    inverse = Farcluss(rebalance="inverse_mean").class_weight(label=label, num_classes=7)
    assert_close(inverse[6].item(), 6.98, rtol=0, atol=0.01)


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
    for counts, ratio in (("soft", 1.3 / 1.7), ("argmax", 2 / 1)):
        omega = class_weight_of(Farcluss(rebalance_counts=counts), label, 2)
        assert_close(omega[1] / omega[0], torch.tensor(math.sqrt(ratio)))


def test_15_two_processes_with_half_a_batch_agree_with_one(monkeypatch):
    method, logits = Farcluss(), random_logits(3, size=(4, 3, 4))
    omega = class_weight_of(method, label_of(method, logits), 5)
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(module, "process_sum", lambda mass: sent.append(mass) or mass)
    class_weight_of(method, label_of(method, logits[:2]), 5)
    monkeypatch.setattr(module, "process_sum", lambda mass: mass + sent.pop())
    assert_close(class_weight_of(method, label_of(method, logits[2:]), 5), omega)


@pytest.mark.parametrize("rebalance", ["mass", "inverse_mean"])
def test_a_single_class_weighs_one(rebalance):
    ids = torch.full((1, 2, 3), 2)
    label = PseudoLabel(ids, torch.ones(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool))
    assert Farcluss(rebalance=rebalance).class_weight(label=label, num_classes=4).tolist() == [1, 1, 1, 1]
