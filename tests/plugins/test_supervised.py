"""Supervised: labelled images and nothing else."""

from __future__ import annotations

import copy

import torch
from ssss_plugins.baselines.supervised import Supervised
from torch.testing import assert_close

from ssss_zoo.records import Views


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
