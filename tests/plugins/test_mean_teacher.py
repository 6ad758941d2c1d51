"""Mean Teacher against a step written out here after TorchSemiSeg."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines.mean_teacher import MeanTeacher
from torch.testing import assert_close

from helpers.by_hand import START, assert_step, images, raw_batch, take_step
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Progress


@pytest.fixture
def rig(tiny_run):
    return lambda *words: tiny_run("method=mean_teacher", "train.batch=3", "augment.flip=0", *words).double()


def apart(made) -> None:
    """A teacher that has gone its own way for a while."""
    torch.manual_seed(1)
    for value in made.engine.teachers[0].network.parameters():
        value.add_(0.1 * torch.randn_like(value))


@pytest.mark.parametrize("all_void", [False, True])
def test_a_step_is_the_releases(rig, all_void):
    made, batch = rig("options.mean_teacher.weight=7"), raw_batch(all_void)
    apart(made)
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.engine.teachers[0].network)
    x, w, _ = images(batch)
    z_x, z_u = network(x).logits, network(w).logits
    with torch.no_grad():
        p_x, p_u = (teacher.train()(image).logits.softmax(dim=1) for image in (x, w))
    squares = torch.cat([(z.softmax(dim=1) - p).square() for z, p in ((z_x, p_x), (z_u, p_u))])
    mask = batch.labelled.mask.long()
    labelled = z_x.sum() * 0 if all_void else F.cross_entropy(z_x, mask, ignore_index=255)
    parts = {"supervised": labelled, "consistency": 7 * squares.sum() / squares.numel()}  # padding and void included
    assert parts["consistency"] > 0
    assert_step(made, batch, parts, [network])
    for name, value in network.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-7, rtol=0)


def test_the_teacher_follows_by_its_parameters_and_keeps_its_own_statistics(rig):
    """Two steps: constant 0.99 from the first on, no warm-up; statistics of labelled images, then of weak views."""
    made = rig()
    teacher, network = made.engine.teachers[0].network, copy.deepcopy(made.engine.teachers[0].network)
    for step in range(2):
        x, w, _ = images(raw_batch(seed=step))
        network.train()(x), network(w)
        take_step(made, raw_batch(seed=step), Progress(step, 10, 5))
        student = dict(made.student.named_parameters())
        with torch.no_grad():
            for name, value in network.named_parameters():
                value.mul_(0.99).add_(0.01 * student[name])
    for name, value in network.state_dict().items():
        assert_close(
            teacher.state_dict()[name], value, atol=1e-7, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert not torch.equal(teacher.body[1].running_mean, made.student.body[1].running_mean)
    assert not any(value.requires_grad for value in teacher.parameters())


def test_its_label_is_the_whole_distribution_and_padding_counts():
    probs = torch.tensor([0.2, 0.7, 0.1]).view(1, 3, 1, 1)
    label = MeanTeacher().pseudo_label(probs, torch.zeros(1, 1, 1, dtype=torch.bool))
    assert label.target is probs
    assert label.confidence.item() == pytest.approx(0.7)
    assert label.valid.all()


def test_a_teacher_equal_to_the_student_teaches_nothing(rig):
    made, batch = rig(), raw_batch(all_void=True)
    losses, (gradients,) = take_step(made, batch)
    assert losses == {"supervised": 0, "consistency": 0, "total": 0}
    assert gradients
    assert all(value.abs().max() == 0 for value in gradients.values())


def test_student_and_teacher_see_the_same_images_once_each(rig):
    """Two passes with gradient, two of the teacher without; no image is decoded twice."""
    made = rig()
    made.student.calls, made.engine.teachers[0].network.calls = [], []
    made.engine.losses(raw_batch(), START)
    sizes = [[(c.half, len(c.value), c.training, c.grad) for c in network.calls]
             for network in (made.student, made.engine.teachers[0].network)]  # fmt: skip
    assert sizes[0] == [("encode", 3, True, True), ("decode", 3, True, True)] * 2
    assert sizes[1] == [("encode", 3, True, False), ("decode", 3, True, False)] * 2


def test_the_student_is_what_is_reported(rig):
    assert rig().stage.result_name() == "student"


def test_an_option_out_of_range_is_refused_by_name(tiny_run):
    for option in ("weight=-1", "ema_decay=1.5"):
        with pytest.raises(UserError, match=f"options.mean_teacher.{option.partition('=')[0]}"):
            tiny_run("method=mean_teacher", f"options.mean_teacher.{option}")
