"""What a step does to weights, averages and learning rates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from helpers.engine_steps import (
    START,
    STRONG,
    floats,
    gradients_at_step,
    hand_supervised,
    raw_batch,
    views,
)
from ssss_zoo.toolkit.teachers import EMATeacher
from ssss_zoo.toolkit.types import (
    Progress,
)


def test_accumulation_is_the_mean_of_its_batches(rig):
    batches = [raw_batch(1), raw_batch(2)]
    made = rig(None, "method=supervised", "train.accumulate=2")
    single = copy.deepcopy(made.student)
    losses, kept = gradients_at_step(made, batches)
    parts = [hand_supervised(single(floats(b.labelled.image)).logits, b.labelled.mask) for b in batches]
    mean = sum(parts) / 2
    mean.backward()
    assert losses["supervised"].item() == pytest.approx(mean.item(), rel=1e-6)
    assert losses["total"].item() == pytest.approx(mean.item(), rel=1e-6)
    for name, parameter in single.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-6, rtol=0)


def test_total_is_the_sum_of_the_parts(rig):
    hooks = {"regularize": lambda self, labelled_output: {"extra": labelled_output.logits.pow(2).mean()}}
    losses, _ = gradients_at_step(rig({**hooks, **views(STRONG)}), [raw_batch()])
    parts = [value.item() for name, value in losses.items() if name != "total"]
    assert set(losses) == {"supervised", "consistency", "extra", "total"}
    assert losses["total"].item() == pytest.approx(sum(parts), rel=1e-6)


def test_the_rate_falls_as_a_polynomial_before_each_step(rig):
    made = rig(None, "method=supervised", "optim.lr=0.005", "optim.head_multiplier=10", double=False)
    rates = []
    for step in (0, 1, 2, 120, 239):
        made.engine.step(iter([raw_batch()]), Progress(step, 240, 1))
        rates.append([group["lr"] for group in made.engine.optimizer.param_groups])
    for step, (encoder, head) in zip((0, 1, 2, 120, 239), rates, strict=True):
        assert encoder == pytest.approx(0.005 * (1 - step / 240) ** 0.9)
        assert head == pytest.approx(10 * encoder)
    assert [f"{encoder:.5f}" for encoder, _ in rates[:3]] == ["0.00500", "0.00498", "0.00496"]


def test_a_step_of_plain_sgd_moves_by_rate_times_gradient(rig):
    words = ("optim.momentum=0", "optim.weight_decay=0.01", "optim.lr=0.1", "optim.head_multiplier=3")
    made = rig(None, "method=supervised", *words)
    before = {name: p.detach().clone() for name, p in made.student.named_parameters()}
    _, kept = gradients_at_step(made, [raw_batch()], Progress(5, 10, 5))
    for name, parameter in made.student.named_parameters():
        rate = 0.1 * 0.5**0.9 * (1 if name.startswith("encoder") else 3)
        assert_close(parameter.detach(), before[name] - rate * (kept[name] + 0.01 * before[name]), atol=1e-9, rtol=0)


def test_without_decay_all_biases_and_norms_are_not_decayed(rig):
    words = (
        "optim.momentum=0",
        "optim.weight_decay=0.01",
        "optim.lr=0.1",
        "optim.head_multiplier=3",
        "optim.decay_all=false",
    )
    made = rig(None, "method=supervised", *words)
    before = {name: p.detach().clone() for name, p in made.student.named_parameters()}
    _, kept = gradients_at_step(made, [raw_batch()], Progress(5, 10, 5))
    flat = 0
    for name, parameter in made.student.named_parameters():
        rate = 0.1 * 0.5**0.9 * (1 if name.startswith("encoder") else 3)
        decay, flat = (0.01, flat) if parameter.dim() > 1 else (0, flat + 1)
        assert_close(parameter.detach(), before[name] - rate * (kept[name] + decay * before[name]), atol=1e-9, rtol=0)
    assert flat > 0


def test_two_groups_hold_every_trained_parameter_once(rig):
    frozen = nn.Linear(4, 4).requires_grad_(False)
    own, hooks = nn.Linear(8, 3), {"setup": lambda self: {"own": own, "frozen": frozen}}
    made = rig({**hooks, **views()}, double=False)
    encoder, head = (group["params"] for group in made.engine.optimizer.param_groups)
    assert {id(p) for p in encoder} == {id(p) for p in made.student.encoder.parameters()}
    others = [p for name, p in made.student.named_parameters() if not name.startswith("encoder.")]
    assert {id(p) for p in head} == {id(p) for p in [*others, *own.parameters()]}
    assert len(encoder) + len(head) == len({id(p) for p in [*encoder, *head]})


def test_the_averaged_teacher_follows_after_the_optimiser_step(rig):
    hooks = {"make_teacher": lambda self, students, index: EMATeacher(students[index], lambda progress: 0.75)}
    made = rig({**hooks, **views(STRONG)})
    teacher = made.engine.teachers[0].network
    old = {name: value.clone() for name, value in teacher.state_dict().items()}
    made.engine.step(iter([raw_batch()]), START)
    for name, value in made.student.state_dict().items():
        expected = 0.75 * old[name] + 0.25 * value if value.is_floating_point() else value
        assert_close(teacher.state_dict()[name], expected, atol=1e-9, rtol=0)


def test_after_step_comes_last_and_once_and_carries_no_gradient(rig):
    told = []

    def after_step(self, students, teachers, progress):
        told.append((students, teachers, progress.step, torch.is_grad_enabled()))

    made = rig({"after_step": after_step, **views()})
    made.engine.step(iter([raw_batch()]), Progress(3, 10, 5))
    assert told == [(made.engine.students, made.engine.teachers, 3, False)]


def test_every_draw_of_a_step_is_a_function_of_seed_and_step(tiny_run):
    made = tiny_run("method=unimatch", "seed=5")
    state = copy.deepcopy(made.student.state_dict())
    kept = copy.deepcopy(made.engine.optimizer.state_dict())
    first = made.engine.step(made.feed, START)
    made.student.load_state_dict(state)
    made.engine.optimizer.load_state_dict(kept)
    torch.rand(100)  # whatever ran in between
    again = made.engine.step(made.feed, START)
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in again.items()}
