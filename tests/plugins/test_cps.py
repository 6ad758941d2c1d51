"""CPS, with and without CutMix, against steps written out here after TorchSemiSeg."""

from __future__ import annotations

import copy

import pytest
import torch
from ssss_zoo.plugins.baselines import cps as module
from torch.testing import assert_close

from helpers.by_hand import BOX, BOXES, START, assert_step, for_any_batch, images, raw_batch, take_step
from ssss_zoo.config.resolve import resolve


@pytest.fixture
def rig(tiny_run, monkeypatch):
    def make(*words: str):
        monkeypatch.setattr(
            module, "toggled_boxes", lambda *size, count, area: BOXES if (count, area) == (3, (0.25, 0.5)) else 0
        )
        return tiny_run("method=cps", "train.batch=3", "augment.flip=0", *words).double()

    return make


def mean_ce(logits, ids, ignored=None):
    """Mean cross-entropy with loops; `ignored` pixels do not count at all."""
    log_q, total, count = logits.log_softmax(dim=1), logits.sum() * 0, 0
    for b, i, j in torch.ones_like(ids).nonzero().tolist():
        if ids[b, i, j] != 255 and not (ignored is not None and ignored[b, i, j]):
            total, count = total - log_q[b, ids[b, i, j], i, j], count + 1
    return total / max(count, 1)


def plain_step(networks, batch, weight):
    (x, w, _), mask = images(batch), batch.labelled.mask.long()
    (z1x, z1u), (z2x, z2u) = ((net(x).logits, net(w).logits) for net in networks)
    z1, z2 = torch.cat([z1x, z1u]), torch.cat([z2x, z2u])
    cross = mean_ce(z1, z2.detach().argmax(1)) + mean_ce(z2, z1.detach().argmax(1))  # padding and void included
    return {"supervised": mean_ce(z1x, mask) + mean_ce(z2x, mask), "consistency": weight * cross}


def cutmix_step(networks, batch, weight, mask_padding):
    (x, w, far), mask = images(batch), batch.labelled.mask.long()
    with torch.no_grad():
        ids = [torch.where(BOX, net(far).logits.argmax(1), net(w).logits.argmax(1)) for net in networks]
    mixed = torch.where(BOX[:, None], far, w)
    ignored = ~torch.where(BOX, batch.partner.valid, batch.unlabelled.valid) if mask_padding else None
    z = [net(mixed).logits for net in networks]
    z_x = [net(x).logits for net in networks]
    cross = mean_ce(z[0], ids[1], ignored) + mean_ce(z[1], ids[0], ignored)
    return {"supervised": mean_ce(z_x[0], mask) + mean_ce(z_x[1], mask), "consistency": weight * cross}


@pytest.mark.parametrize("all_void", [False, True])
def test_a_step_without_cutmix_is_the_releases(rig, all_void):
    made, batch = rig("options.cps.weight=1.5"), raw_batch(all_void)
    networks = copy.deepcopy(made.engine.students)
    parts = plain_step(networks, batch, 1.5)
    assert parts["consistency"] > 0
    assert_step(made, batch, parts, networks)
    for network, student in zip(networks, made.engine.students, strict=True):
        for name, value in network.named_buffers():
            assert_close(student.get_buffer(name), value, atol=1e-7, rtol=0)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_a_step_with_cutmix_is_the_releases(rig, mask_padding):
    made, batch = (
        rig("options.cps.cutmix=true", "options.cps.weight=1", f"options.cps.mask_padding={mask_padding}"),
        raw_batch(),
    )
    networks = copy.deepcopy(made.engine.students)
    for network, student in zip(networks, made.engine.students, strict=True):  # the release labels u0, u1 in this order
        assert network is not student
    released = copy.deepcopy(networks)
    with torch.no_grad():
        x, w, far = images(batch)
        mixed = torch.where(BOX[:, None], far, w)
        for network in released:  # running statistics end with the labelled pass
            network(w), network(far), network(mixed), network(x)
    assert_step(made, batch, cutmix_step(networks, batch, 1.0, mask_padding), networks)
    for network, student in zip(released, made.engine.students, strict=True):
        for name, value in network.named_buffers():
            assert_close(student.get_buffer(name), value, atol=1e-7, rtol=0)


def test_nothing_valid_with_padding_masked_leaves_nothing(rig):
    words = ("options.cps.mask_padding=true", "options.cps.cutmix=true")
    losses, _ = take_step(rig(*words), raw_batch(all_void=True))
    assert losses == {"supervised": 0, "consistency": 0, "total": 0}


@pytest.mark.parametrize("cutmix", [False, True])
@for_any_batch
def test_two_equal_networks_stay_equal(rig, cutmix, seed):
    """The same losses, the same gradient, the same weights after the step."""
    made = rig(f"options.cps.cutmix={cutmix}")
    first, second = made.engine.students
    second.load_state_dict(first.state_dict())
    parts, losses_of = [], made.engine.student_losses
    made.engine.student_losses = lambda *given: parts.append(losses_of(*given)) or parts[-1]
    losses, (one, other) = take_step(made, raw_batch(seed=seed))
    assert {name: value.item() for name, value in parts[0].items()} == {n: v.item() for n, v in parts[1].items()}
    assert losses["consistency"] == 2 * parts[0]["consistency"].item() > 0
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_one_optimiser_over_both_is_two_optimisers(rig, optimiser):
    """The release steps two; nothing couples parameters, so one gives the same weights."""
    made = rig(f"optim.name={optimiser}", "optim.weight_decay=0.01")
    networks, optim = copy.deepcopy(made.engine.students), made.config.optim
    for network in networks:
        groups = network.parameter_groups()
        given = [
            {"params": groups["encoder"], "lr": optim.lr},
            {"params": groups["head"], "lr": optim.lr * optim.head_multiplier},
        ]
        if optimiser == "adamw":
            network.optimizer = torch.optim.AdamW(given, weight_decay=0.01)
        else:
            network.optimizer = torch.optim.SGD(given, momentum=0.9, weight_decay=0.01)
    torch.stack(list(plain_step(networks, raw_batch(), 1.5).values())).sum().backward()
    for network in networks:
        network.optimizer.step()
    take_step(made, raw_batch(), START)
    for network, student in zip(networks, made.engine.students, strict=True):
        for name, value in network.named_parameters():
            assert_close(student.get_parameter(name), value, atol=1e-6, rtol=1e-5)


def test_heads_begin_apart_and_encoders_alike(rig):
    first, second = rig().engine.students
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_no_more_passes_than_the_release_makes(rig):
    made = rig()
    made.student.calls = []
    made.engine.losses(raw_batch(), START)
    assert [(call.half, len(call.value), call.grad) for call in made.student.calls] == [
        ("encode", 3, True), ("decode", 3, True), ("encode", 3, True), ("decode", 3, True),
    ]  # fmt: skip


def test_no_more_passes_than_the_release_makes_with_cutmix(rig):
    """u0 and u1 in train mode without gradient, then the mixed images, then the labelled ones."""
    made = rig("options.cps.cutmix=true")
    for network in made.engine.students:
        network.calls = []
    made.engine.losses(raw_batch(), START)
    x, w, far = images(raw_batch())
    for network in made.engine.students:
        encoded = [call for call in network.calls if call.half == "encode"]
        assert [(call.training, call.grad) for call in encoded] == [(True, False)] * 2 + [(True, True)] * 2
        for call, image in zip(encoded, (w, far, torch.where(BOX[:, None], far, w), x), strict=True):
            assert_close(call.value.double(), image, atol=1e-6, rtol=0)


def test_the_first_network_is_what_is_reported(rig):
    made = rig()
    assert made.stage.result_name() == "student"
    assert list(made.engine.networks()) == ["student", "student1"]


@pytest.mark.parametrize(("dataset", "processes", "rate"), [("voc", 4, 0.01), ("cityscapes", 8, 0.02)])
@pytest.mark.parametrize("recipe", ["cps", "cps_cutmix", "mean_teacher"])
def test_a_recipes_rate_and_decay_are_the_releases_gradient_divided_by_processes(recipe, dataset, processes, rate):
    """Momentum SGD by hand for three steps: `rate`, decay 1e-4 and gradients over `processes`, once more than usual."""
    optim = resolve([f"method={recipe}", f"dataset={dataset}"]).optim
    assert (optim.name, optim.head_multiplier) == ("sgd", 1)
    ours = theirs = torch.linspace(-1, 1, 7, dtype=torch.float64)
    speed, far_speed = torch.zeros(2, 7, dtype=torch.float64)
    for gradient in torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        speed = optim.momentum * speed + gradient + optim.weight_decay * ours
        far_speed = 0.9 * far_speed + gradient / processes + 1e-4 * theirs
        ours, theirs = ours - optim.lr * speed, theirs - rate * far_speed
    assert_close(ours, theirs, atol=1e-12, rtol=0)
