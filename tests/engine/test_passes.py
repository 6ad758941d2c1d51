"""Which images go through which network together, in which mode."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from helpers.engine_steps import (
    STRONG,
    a_bit_brighter,
    box,
    floats,
    hand_consistency,
    hand_supervised,
    passes,
    raw_batch,
    record,
    run_losses,
    token_batch,
    views,
)
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.teachers import EMATeacher, PeerTeacher, SelfTeacher
from ssss_zoo.toolkit.types import (
    CutMix,
    View,
)


def test_the_self_teacher_labels_in_evaluation_mode_by_a_pass_of_its_own(rig):
    made = record(rig(views(STRONG)))
    run_losses(made)
    assert passes(made.student) == [
        ("eval", "still", "w0 w1"),
        ("train", "grad", "x0 x1"),
        ("train", "grad", "w0+ w1+"),
    ]


def test_a_joining_self_teacher_reads_its_labels_off_the_labelled_pass(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    made = record(rig({**hooks, **views(View("look", cutmix=CutMix("stream", box(0, 0, 4, 4))))}))
    run_losses(made)
    assert passes(made.student) == [
        ("eval", "still", "p0 p1"),
        ("train", "grad", "x0 x1 w0 w1"),
        ("train", "grad", "p0+ p1+"),  # the box covers the first pixel
    ]


def test_a_joining_teacher_without_views_adds_nothing_to_the_labelled_pass(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    made = record(rig({**hooks, **views()}))
    run_losses(made, replace(token_batch(), unlabelled=None, partner=None))
    assert passes(made.student) == [("train", "grad", "x0 x1")]


@pytest.mark.parametrize("train_mode", [False, True])
def test_the_averaged_teacher_labels_weak_views_and_partners_with_its_own_network(rig, train_mode):
    hooks = {"make_teacher": lambda self, students, index: EMATeacher(students[index], 0.9, train_mode=train_mode)}
    made = record(rig({**hooks, **views(View("look", cutmix=CutMix("stream", box(0, 0, 0, 0))))}))
    teacher = made.engine.teachers[0].network
    teacher.calls = []
    run_losses(made)
    mode = "train" if train_mode else "eval"
    assert passes(teacher) == [(mode, "still", "w0 w1"), (mode, "still", "p0 p1")]
    assert passes(made.student) == [("train", "grad", "x0 x1"), ("train", "grad", "w0+ w1+")]
    assert not teacher.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_peers_label_for_each_other_in_train_mode(rig):
    hooks = {
        "make_students": lambda self, make_network: [make_network(), make_network()],
        "make_teacher": lambda self, students, index: PeerTeacher(students[1 - index]),
    }
    made = record(rig({**hooks, **views(STRONG)}))
    losses = run_losses(made)
    torch.stack(list(losses.values())).sum().backward()
    first, second = made.engine.students
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    labels, learns = ("train", "still", "w0 w1"), [("train", "grad", "x0 x1"), ("train", "grad", "w0+ w1+")]
    assert passes(first) == [labels, *learns]  # teachers speak before anybody learns
    assert passes(second) == [labels, *learns]
    assert all(parameter.grad is not None for network in (first, second) for parameter in network.parameters())


def test_two_students_losses_are_the_sum_of_each_ones(rig):
    hooks = {
        "make_students": lambda self, make_network: [make_network(), make_network()],
        "make_teacher": lambda self, students, index: PeerTeacher(students[1 - index]),
    }
    made, batch = rig({**hooks, **views(STRONG)}), raw_batch()
    networks = copy.deepcopy(made.engine.students)
    expected = {"supervised": 0.0, "consistency": 0.0}
    for index in (0, 1):
        student, peer = networks[index], networks[1 - index]
        ids = peer(floats(batch.unlabelled.image)).logits.argmax(dim=1)
        hard = torch.stack([(ids == c).double() for c in range(5)], dim=1)
        labelled = student(floats(batch.labelled.image)).logits
        output = student(a_bit_brighter(floats(batch.unlabelled.image))).logits
        ones = torch.ones(ids.shape)
        expected["supervised"] += hand_supervised(labelled, batch.labelled.mask).item()
        expected["consistency"] += hand_consistency(output, hard, ones, batch.unlabelled.valid, torch.ones(5)).item()
    losses = run_losses(made, batch)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_views_of_a_group_share_a_pass_and_its_batch_statistics(rig):
    planned = views(
        View("a", forward_group="one"), View("b", "weak", forward_group="two"), View("c", "weak", forward_group="one")
    )
    made = record(rig(planned))
    before = copy.deepcopy(made.student)
    run_losses(made)
    assert passes(made.student)[1:] == [
        ("train", "grad", "x0 x1"),
        ("train", "grad", "w0+ w1+ w0 w1"),
        ("train", "grad", "w0 w1"),
    ]
    raw = token_batch()
    weak = floats(raw.unlabelled.image)
    for image in (floats(raw.labelled.image), torch.cat([a_bit_brighter(weak), weak]), weak):
        before(image)
    for name, value in before.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-9, rtol=0)


def test_a_view_of_the_group_labelled_goes_through_the_labelled_pass(rig):
    made = record(rig(views(View("look", forward_group="labelled"))))
    run_losses(made)
    assert passes(made.student)[1:] == [("train", "grad", "x0 x1 w0+ w1+")]


def test_fuse_puts_all_views_into_the_labelled_pass(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    made = record(rig({**hooks, **views(View("a"), View("b", forward_group="else"))}, "train.fuse=true"))
    run_losses(made)
    assert passes(made.student) == [("train", "grad", "x0 x1 w0 w1 w0+ w1+ w0+ w1+")]


def test_a_perturbed_view_reuses_encoded_features_and_is_decoded_with_the_rest(rig):
    given = []

    def perturb(maps):
        given.append([tuple(level.shape) for level in maps])
        return [level * 0 + 7 for level in maps]

    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    view = View("shaken", "weak", forward_group="labelled", perturb=perturb, perturb_labelled=True)
    made = record(rig({**hooks, **views(view)}))
    run_losses(made)
    assert passes(made.student) == [("train", "grad", "x0 x1 w0 w1")]  # encoded once
    (decoded,) = [call.value for call in made.student.calls if call.half == "decode"]
    assert [bool((row == 7).all()) for row in decoded] == [False] * 4 + [True] * 4
    assert given == [[(2, 6, 4, 4), (2, 8, 2, 2)]] * 2  # the weak and the labelled images, both levels


def test_without_perturb_labelled_only_the_view_is_perturbed(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    view = View("shaken", "weak", forward_group="labelled", perturb=lambda maps: [level * 0 + 7 for level in maps])
    made = record(rig({**hooks, **views(view)}))
    run_losses(made)
    assert passes(made.student, "decode") == [("train", "grad", "6")]


def test_gradient_reaches_the_encoder_through_a_perturbed_view(rig):
    view = View("shaken", "weak", perturb=lambda maps: [level * 2 for level in maps])
    made = rig(views(view, supervised_weight=0.0))
    losses = run_losses(made, raw_batch())
    losses["consistency"].backward()
    assert made.student.encoder.low[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["weak", "labelled", "look labelled"])
def test_a_views_name_changes_no_number_or_is_refused(rig, name):
    """`weak` and `labelled` are also what the engine calls its own outputs."""

    def planned(name):
        twin = View("look", "weak", loss_weight=0.0, perturb=lambda maps: maps, perturb_labelled=True)
        hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
        return {**hooks, **views(View(name, perturb=lambda maps: [level * 0 for level in maps]), twin)}

    plain = run_losses(rig(planned("another")), raw_batch())
    try:
        renamed = run_losses(rig(planned(name), "seed=0"), raw_batch())
    except UserError as error:
        assert name in str(error)  # noqa: PT017 - refusing is the other way to be right
        return
    assert {k: v.item() for k, v in renamed.items()} == {k: v.item() for k, v in plain.items()}
