"""CutMix-Seg against a step written out here after its release."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import cutmix_seg as module
from ssss_zoo.plugins.baselines.cutmix_seg import CutMixSeg
from torch.testing import assert_close

from helpers.by_hand import BOX, BOXES, START, assert_step, images, raw_batch, take_step
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import FixedAugmentation, Progress, PseudoLabel


@pytest.fixture
def rig(tiny_run, monkeypatch):
    def make(*words: str):
        monkeypatch.setattr(
            module, "toggled_boxes", lambda *size, count, area: BOXES if (count, area) == (1, (0.5, 0.5)) else 0
        )
        return tiny_run("method=cutmix_seg", "train.batch=3", "augment.flip=0", *words).double()

    return make


def released_step(network, teacher, batch, threshold: float):
    """(L_x, L_u): the teacher's logits are mixed before its softmax, confidence is one number for the batch."""
    x, w, far = images(batch)
    with torch.no_grad():
        z_0, z_1 = teacher.eval()(w).logits, teacher(far).logits
        q = torch.where(BOX[:, None], z_1, z_0).softmax(dim=1)
    kappa = (q.max(dim=1).values >= threshold).double().mean()
    valid = torch.where(BOX, batch.partner.valid, batch.unlabelled.valid)
    z_x = network(x).logits
    p = network(torch.where(BOX[:, None], far, w)).logits.softmax(dim=1)
    l_u, sure = 0.0, float(kappa)
    for b in range(3):
        for i in range(16):
            for j in range(16):
                if valid[b, i, j]:
                    l_u = l_u + sure * sum((p[b, c, i, j] - q[b, c, i, j]) ** 2 for c in range(5))
    if not bool((batch.labelled.mask != 255).any()):
        return z_x.sum() * 0, p.sum() * 0
    return F.cross_entropy(z_x, batch.labelled.mask.long(), ignore_index=255), l_u / (3 * 16 * 16)


@pytest.mark.parametrize("all_void", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_step_is_the_releases(rig, share, all_void):
    made, batch = rig("options.cutmix_seg.weight=3"), raw_batch(all_void)
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.student)
    _, w, far = images(batch)
    with torch.no_grad():
        probs = copy.deepcopy(network).eval()(torch.cat([w, far])).logits.softmax(dim=1)
    sure = probs.amax(dim=1).flatten().sort()[0]
    threshold = made.methods["cutmix_seg"].threshold = (
        float(sure[int(share * len(sure)) :][:2].mean()) if share else 0.0
    )
    l_x, l_u = released_step(network, teacher, batch, threshold)
    assert all_void or l_u > 0
    assert_step(made, batch, {"supervised": l_x, "consistency": 3 * l_u}, [network])


def test_a_threshold_that_nothing_reaches_leaves_the_labelled_loss(rig, tiny_run):
    losses, (gradients,) = take_step(rig("options.cutmix_seg.threshold=1"), raw_batch())
    supervised = tiny_run("method=supervised", "train.batch=3", "augment.flip=0").double()
    expected, (wanted,) = take_step(supervised, raw_batch())
    assert losses["consistency"] == 0
    assert losses["total"] == losses["supervised"] == expected["total"] > 0
    assert all(torch.equal(gradients[name], value) for name, value in wanted.items())


def test_confidence_at_the_threshold_counts():
    edge = torch.tensor(0.97)
    confidence = torch.stack([edge, torch.nextafter(edge, torch.tensor(0.0)), torch.tensor(0.98)]).view(1, 1, 3)
    label = PseudoLabel(torch.zeros(1, 1, 3, dtype=torch.int64), confidence, torch.ones(1, 1, 3, dtype=torch.bool))
    assert CutMixSeg().pixel_weight(label).tolist() == [[[1.0, 0.0, 1.0]]]


def test_confidence_is_one_number_for_the_batch_padding_counted(rig):
    made, seen = rig(), []
    consistency = made.engine.consistency
    made.engine.consistency = lambda one, progress: seen.append(one) or consistency(one, progress)
    made.engine.losses(raw_batch(), START)
    made.methods["cutmix_seg"].threshold = seen.pop().label.confidence.median().item()
    made.engine.losses(raw_batch(), START)
    (view,) = seen
    share = (view.label.confidence >= made.methods["cutmix_seg"].threshold).double().mean()
    assert 0.4 < share < 0.6
    assert_close(view.weight.double(), torch.full((3, 16, 16), share.item(), dtype=torch.float64), atol=1e-6, rtol=0)
    assert not view.label.valid.all()


def test_the_teacher_averages_parameters_and_buffers_at_a_constant_rate(rig):
    """Two steps: 0.99 from the first on, no warm-up; a copy of the student before them; statistics are averaged too."""
    made = rig()
    teacher = made.engine.teachers[0].network
    wanted = {name: value.clone() for name, value in made.student.state_dict().items()}
    for step in range(2):
        take_step(made, raw_batch(seed=step), Progress(step, 10, 5))
        for name, value in made.student.state_dict().items():
            floating = value.is_floating_point()
            wanted[name] = 0.99 * wanted[name] + 0.01 * value if floating else value.clone()
    for name, value in wanted.items():
        assert_close(teacher.state_dict()[name], value, atol=1e-12, rtol=0)
    assert not torch.equal(wanted["body.1.running_mean"], made.student.body[1].running_mean)


def test_the_teacher_is_what_is_reported(rig):
    assert rig().stage.result_name() == "teacher"


def test_who_sees_what_in_which_mode(rig):
    """Teacher on both sources in evaluation mode; labelled and mixed images in passes of their own."""
    made = rig()
    made.student.calls, made.engine.teachers[0].network.calls = [], []
    made.engine.losses(raw_batch(), START)
    sizes = [[(len(c.value), c.training, c.grad) for c in network.calls if c.half == "encode"]
             for network in (made.student, made.engine.teachers[0].network)]  # fmt: skip
    assert sizes == [[(3, True, True)] * 2, [(3, False, False)] * 2]


def test_strong_views_are_strengthened_before_they_are_mixed(rig):
    made, seen = rig("options.cutmix_seg.strength=strong"), []
    made.engine.strong = FixedAugmentation(lambda image: image / 2)
    pair = made.engine.pair
    made.engine.pair = lambda *given: seen.append(pair(*given)) or seen[-1]
    made.engine.losses(raw_batch(), START)
    _, w, far = images(raw_batch())
    assert_close(seen[0].image.double(), torch.where(BOX[:, None], far, w) / 2, atol=1e-6, rtol=0)


def test_an_option_out_of_range_is_refused_by_name(tiny_run):
    for option in ("threshold=2", "weight=-1", "ema_decay=1.5", "partner=self", "strength=stronk"):
        with pytest.raises(UserError, match=f"options.cutmix_seg.{option.partition('=')[0]}"):
            tiny_run("method=cutmix_seg", f"options.cutmix_seg.{option}")
