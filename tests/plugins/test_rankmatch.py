"""RankMatch on UniMatch against a term written out here, pixel by pixel."""

from __future__ import annotations

import copy
import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import rankmatch as module
from ssss_zoo.plugins.baselines.rankmatch import RankMatch, choose_agents, is_strong, log_orders, ranking_loss
from torch import Tensor
from torch.testing import assert_close

from helpers.by_hand import BOXES, START, images, raw_batch, take_step
from helpers.unimatch_views import SECOND_BOXES, box_masks, fixed_unimatch_run
from ssss_zoo.toolkit.types import CutMix, RawBatch, View

AGENTS = 6
GUARD = 1e-10  # the release's


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def seeded_agents(features: Tensor) -> Tensor:
    """Stands in for the draw of each image's first agent."""
    return torch.randint(features.shape[1], (len(features),), generator=seeded())


def no_dropout(probability: float):
    return lambda maps: [level * 1 for level in maps]


@pytest.fixture
def rig(tiny_run, monkeypatch):
    """Overrides -> a `TinyRun` of three float64 images a batch, without chance; no channel is dropped."""

    def make(*overrides: str, method: str = "rankmatch"):
        monkeypatch.setattr(module, "first_agents", seeded_agents)
        options = [f"options.rankmatch.agents={AGENTS}"] if method == "rankmatch" else []
        given = (f"method={method}", *options, *overrides)
        return fixed_unimatch_run(tiny_run, monkeypatch, *given, dropout=no_dropout)

    return make


# --- the term, by hand ----------------------------------------------------------------------------------------------


def agents_of(cells: list[Tensor], first: int, number: int) -> list[int]:
    """Greedily the place whose largest |cosine| to the chosen ones is smallest."""
    unit = [cell / max(float(cell.norm()), 1e-6) for cell in cells]
    chosen = [first]
    while len(chosen) < number:
        worst = {
            place: max(abs(float(unit[place] @ unit[other])) for other in chosen)
            for place in range(len(cells))
            if place not in chosen
        }
        chosen.append(min(worst, key=lambda place: worst[place]))
    return chosen


def orders(q: Tensor, guard: float) -> Tensor:
    """The probability of each order of four entries, by Plackett and Luce; q: (4, ...), result (24, ...)."""
    found = []
    for order in permutations(range(4)):
        probability = torch.ones_like(q[0])
        for place in range(4):
            probability = probability * q[order[place]] / (sum(q[entry] for entry in order[place:]) + guard)
        found.append(probability)
    return torch.stack(found)


def term(weak: Tensor, strong: Tensor, guard: float) -> Tensor:
    """weak, strong: (B, D, h, w). Mean over images, cells and orders of p log(p / q)."""
    first = torch.randint(weak.shape[2] * weak.shape[3], (len(weak),), generator=seeded()).tolist()
    values = []
    for b in range(len(weak)):
        own, other = (list(maps[b].flatten(1).T) for maps in (weak, strong))
        places, best_p, best_q = agents_of(own, first[b], AGENTS), [], []
        for cell in range(len(own)):
            p = torch.stack([own[cell] @ own[place] for place in places]).softmax(dim=0)
            q = torch.stack([other[cell] @ other[place] for place in places]).softmax(dim=0)
            top = p.argsort(descending=True)[:4]
            best_p, best_q = [*best_p, p[top]], [*best_q, q[top]]
        p, q = (orders(torch.stack(best, dim=1), guard) for best in (best_p, best_q))
        p, q = p + guard, q + guard
        values.append((p * (p / q).log()).mean())
    return torch.stack(values).mean()


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def by_hand(network, batch: RawBatch, guard: float) -> Tensor:
    x, w, far = images(batch)
    with torch.no_grad():
        f_far = network.eval()(far).features
    network.train()
    f_w = network(torch.cat([x, w])).features[3:].detach()
    boxes, looks = (box_masks(BOXES), box_masks(SECOND_BOXES)), ((0.8, 0.7), (0.6, 0.5))
    strong = [torch.where(box[:, None], far * other, w * own) for box, (own, other) in zip(boxes, looks, strict=True)]
    seen = network(torch.cat(strong)).features.split([3, 3])
    terms = []
    for box, features in zip(boxes, seen, strict=True):
        large = torch.where(box[:, None], resized(f_far, (16, 16)), resized(f_w, (16, 16)))
        terms.append(term(resized(large, features.shape[-2:]), features, guard))
    return 0.1 * (terms[0] + terms[1]) / 2


@pytest.mark.parametrize("guard", [1e-10, 0.01, 0.0])  # the release's, one that is felt on these tensors, ours
def test_its_term_and_gradient_are_the_releases(rig, guard):
    """What UniMatch's own terms give is taken off: the same run without RankMatch."""
    made, alone, batch = rig(f"options.rankmatch.guard={guard}"), rig(method="unimatch"), raw_batch()
    network = copy.deepcopy(made.student)
    wanted = by_hand(network, batch, guard)
    wanted.backward()
    losses, (gradient,) = take_step(made, batch)
    others, (its,) = take_step(alone, batch)
    assert wanted.item() > 1e-6
    assert losses["rankmatch"] == pytest.approx(wanted.item(), rel=1e-5)  # float32 differences of like numbers
    assert {name: losses[name] for name in ("supervised", "consistency")} == {
        name: others[name] for name in ("supervised", "consistency")
    }
    assert losses["total"] == pytest.approx(others["total"] + wanted.item(), rel=1e-6)
    largest = 0.0
    for name, parameter in network.named_parameters():
        pull = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(gradient[name] - its[name], pull, atol=1e-6, rtol=1e-3)
        largest = max(largest, pull.abs().max().item())
    assert largest > 1e-4  # else the line above says nothing


def test_nothing_valid_and_nothing_labelled_stays_finite(rig):
    made, batch = rig(), raw_batch(all_void=True)
    losses, _ = take_step(made, batch)
    assert losses["supervised"] == losses["consistency"] == 0
    assert math.isfinite(losses["rankmatch"])
    assert losses["rankmatch"] >= 0


# --- laws -----------------------------------------------------------------------------------------------------------


def features(seed: int, scale: float = 1.0, side: int = 5) -> Tensor:
    return scale * torch.randn(2, 8, side, side, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_it_is_zero_for_like_features_and_never_below(scale):
    weak = features(1, scale)
    for guard in (0.0, GUARD):
        assert ranking_loss(weak, weak.clone(), 8, guard).item() == 0
    for seed in range(2, 12):
        loss = ranking_loss(weak, features(seed, scale), 8, 0.0).item()
        assert loss > 0
        assert math.isfinite(loss)
        guarded = ranking_loss(weak, features(seed, scale), 8, GUARD).item()
        assert guarded >= 0 or guarded == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
    ("sharpness", "release", "ours"),
    [(1, 0.023422, 0.023422), (5, 0.206595, 0.206663), (10, 0.000388, 0.416645), (20, 0, 0.833333), (50, 0, 2.083333)],
)
def test_the_releases_guard_switches_a_sharp_pixel_off(sharpness, release, ours):
    """One pixel, four agents. The row comes from the release's own function; since this test the guard is the default,
    where the order's probability had none."""
    weak, strong = (sharpness * torch.tensor(scores) for scores in ([3.0, 2.0, 1.0, 0.0], [2.0, 3.0, 1.0, 0.0]))
    for guard, wanted in ((RankMatch().guard, release), (0.0, ours)):
        told, said = (log_orders(scores.double().log_softmax(dim=0), guard) for scores in (weak, strong))
        assert (told.exp() * (told - said)).mean().item() == pytest.approx(wanted, abs=1e-6)


def test_a_pixel_that_is_switched_off_has_a_finite_gradient_and_waits_for_nothing():
    """Float32 loses its smallest shares altogether: zeros among the factors of a product."""
    scores = (200 * torch.tensor([3.0, 2.0, 1.0, 0.0])).requires_grad_()
    log_orders(scores.log_softmax(dim=0), GUARD).sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_it_teaches_the_strong_side_alone():
    weak, strong = features(1).requires_grad_(), features(2).requires_grad_()
    ranking_loss(weak, strong, 8, GUARD).backward()
    assert weak.grad is None
    assert strong.grad is not None
    assert torch.isfinite(strong.grad).all()
    assert strong.grad.abs().sum() > 0


def test_probabilities_of_all_orders_sum_to_one():
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.0], [500.0, -500.0, 0.0, 0.0]])
    got = log_orders(scores, 0.0)
    assert got.shape == (2, 24)
    assert torch.isfinite(got).all()
    assert_close(got.exp().sum(dim=1), torch.ones(2))
    assert_close(got[0].exp(), orders(scores[0].softmax(dim=0), 0.0))


def test_agents_are_as_unlike_as_can_be(monkeypatch):
    monkeypatch.setattr(module, "first_agents", seeded_agents)
    cells = torch.randn(2, 25, 8, generator=torch.Generator().manual_seed(3))  # of both signs: opposites are alike
    first = torch.randint(25, (2,), generator=seeded()).tolist()
    for number in (4, 9, 25):
        chosen = choose_agents(cells, number).tolist()
        assert chosen == [agents_of(list(image), start, number) for image, start in zip(cells, first, strict=True)]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_places_without_features_are_not_chosen_twice(value):
    chosen = choose_agents(torch.full((1, 10, 4), value), 10)
    assert sorted(chosen[0].tolist()) == list(range(10))


def test_more_agents_than_places_are_no_harm():
    chosen = choose_agents(features(1, side=2).flatten(2).transpose(1, 2), 9)
    assert chosen.shape == (2, 9)
    assert chosen.max() < 4
    assert math.isfinite(ranking_loss(features(1, side=2), features(2, side=2), 9, GUARD).item())


@pytest.mark.parametrize(
    ("view", "counts"),
    [
        (View("strong"), True),
        (View("mixed", "weak", cutmix=CutMix("next", torch.zeros(1, 1, 4).long())), True),
        (View("own", lambda image: image), True),
        (View("weak", "weak"), False),
        (View("perturbed", "weak", perturb=lambda maps: maps), False),
        (View("both", perturb=lambda maps: maps), False),
        (View("strong", images="labelled"), False),
    ],
)
def test_which_views_are_strong(view, counts):
    assert is_strong(view) == counts


def test_without_strong_views_it_says_nothing(rig):
    assert "rankmatch" not in take_step(rig("hooks.make_views=supervised", "train.batch=3"), raw_batch(), START)[0]


def test_named_alone_it_stands_on_unimatch(tiny_config):
    assert tiny_config("method=rankmatch").plugins.names == ["unimatch", "rankmatch"]
