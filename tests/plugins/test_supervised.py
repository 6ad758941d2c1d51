"""Supervised: labelled images and nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from ssss_zoo.plugins.baselines.supervised import Supervised
from torch.testing import assert_close

from helpers.by_hand import for_any_batch, raw_batch, take_step
from ssss_zoo.toolkit.types import Views


def test_it_asks_for_no_view_so_no_unlabelled_image_is_read(tiny_run):
    made = tiny_run("method=supervised")
    assert isinstance(Supervised().make_views(), Views)
    assert Supervised().make_views().views == ()
    assert not made.run.needs.unlabelled
    assert not made.run.needs.partner
    assert set(made.feed.streams) == {"labelled"}


def test_a_data_set_without_unlabelled_images_will_do(tiny_run):
    made = tiny_run("method=supervised", "data.split=unlabelled=0")
    assert set(made.steps(2)[1]) == {"supervised", "total"}


def test_two_steps_are_those_of_a_plain_training_loop(tiny_run):
    """SGD with momentum and weight decay on all parameters, mean cross-entropy, poly rate before each step."""
    made = tiny_run("method=supervised", "augment.flip=0", "optim.weight_decay=0.01")
    network = copy.deepcopy(made.student)
    speed: dict[str, torch.Tensor] = {}
    feed = made.feed
    for step, batch in enumerate([next(feed) for _ in range(2)]):
        network.zero_grad()
        logits = network(batch.labelled.image.float() / 255).logits
        mask = batch.labelled.mask.long()
        log_q = logits.double().log_softmax(dim=1).gather(1, mask.clamp(max=4)[:, None])[:, 0]
        (-log_q[mask != 255].mean()).backward()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                gradient = parameter.grad + 0.01 * parameter
                speed[name] = 0.9 * speed[name] + gradient if name in speed else gradient
                rate = 0.05 * (1 - step / 6) ** 0.9 * (1 if name.startswith("encoder") else 2)
                parameter -= rate * speed[name]
    losses = made.steps(2)
    assert losses[0].keys() == {"supervised", "total"}
    for name, value in network.state_dict().items():
        assert_close(made.student.state_dict()[name], value, atol=1e-5, rtol=0)


# --- what every method is when its unlabelled images weigh nothing ----------------------------------------------------

APART = {  # methods whose labelled images have a pass of their own
    "mean_teacher": ("method=mean_teacher",),
    "cutmix_seg": ("method=cutmix_seg",),
    "cps": ("method=cps",),
    "cps with CutMix": ("method=cps", "options.cps.cutmix=true"),
    "fixmatch, averaged teacher": ("method=fixmatch", "options.fixmatch.ema_decay=0.99"),
    "fixmatch, a teacher's pass of its own": ("method=fixmatch", "hooks.make_teacher=none"),
}
SHARED = {  # unlabelled images share the labelled pass: BatchNorm mixes their statistics into the labelled logits
    "fixmatch": ("method=fixmatch",),
    "fixmatch, second release": (
        "method=fixmatch",
        "options.fixmatch.ema_decay=0.99",
        "options.fixmatch.shared_pass=1",
    ),
    "unimatch": ("method=unimatch",),
}
FIXED = ("train.batch=3", "augment.flip=0")


def weightless(made):
    """The same run with all its views, each at a share of 0, and the whole labelled loss."""
    views = made.engine.hooks.make_views

    def planned(*given) -> Views:
        plan = views(*given)
        assert plan.views
        return replace(plan, views=tuple(replace(view, loss_weight=0.0) for view in plan.views), supervised_weight=1.0)

    made.engine.hooks.make_views = planned
    return made.double()


def supervised_twin(tiny_run, student):
    """A supervised run whose network has the weights of `student`."""
    made = tiny_run("method=supervised", *FIXED).double()
    made.student.load_state_dict(student.state_dict())
    made.student.train(student.training)
    return made


@pytest.mark.parametrize("name", APART)
@for_any_batch
def test_a_method_without_unlabelled_weight_is_supervised_bit_for_bit(name, tiny_run, seed):
    made, batch = weightless(tiny_run(*APART[name], *FIXED)), raw_batch(seed=seed)
    expected = [take_step(supervised_twin(tiny_run, student), batch) for student in made.engine.students]
    losses, found = take_step(made, batch)
    assert losses["consistency"] == 0
    together = torch.tensor([wanted["total"] for wanted, _ in expected]).sum().item()
    assert losses["supervised"] == losses["total"] == together > 0
    for gradients, (_, (wanted,)) in zip(found, expected, strict=True):
        assert all(torch.equal(gradients[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("name", SHARED)
def test_with_a_shared_pass_batchnorm_mixes_the_streams(name, tiny_run):
    made = weightless(tiny_run(*SHARED[name], *FIXED))
    expected, _ = take_step(supervised_twin(tiny_run, made.student), raw_batch())
    assert abs(take_step(made, raw_batch())[0]["supervised"] - expected["supervised"]) > 1e-4


@pytest.mark.parametrize("name", SHARED)
@for_any_batch
def test_with_a_shared_pass_and_batchnorm_frozen_it_is_supervised_too(name, tiny_run, seed):
    made, batch = weightless(tiny_run(*SHARED[name], *FIXED)), raw_batch(seed=seed)
    made.student.eval()
    expected, (wanted,) = take_step(supervised_twin(tiny_run, made.student), batch)
    losses, (gradients,) = take_step(made, batch)
    assert losses["total"] == pytest.approx(expected["total"], rel=1e-6)
    for key, value in wanted.items():
        assert_close(gradients[key], value, atol=1e-6, rtol=0)


def test_nothing_but_void_gives_a_zero_with_a_gradient(tiny_run):
    losses, (gradients,) = take_step(tiny_run("method=supervised", *FIXED), raw_batch(all_void=True))
    assert losses == {"supervised": 0, "total": 0}
    assert gradients
    assert all(value.abs().max() == 0 for value in gradients.values())
