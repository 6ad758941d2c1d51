"""PrevMatch on UniMatch against a step written out here after its release."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines.prevmatch import PastModels, PrevMatch, image_mean
from torch import Tensor, nn
from torch.testing import assert_close

from helpers.by_hand import BOXES, START, assert_step, images, raw_batch, received, take_step
from helpers.unimatch_views import SECOND_BOXES, box_masks, dropped, fixed_unimatch_run
from ssss_zoo.toolkit.mixing import ground_truth_label
from ssss_zoo.toolkit.types import Progress, RawBatch, RawLabelled

LATER = Progress(3, 10, 5)  # lambda = 0.6
THRESHOLD = 0.38
PICKED = [(1, 0.25), (0, 0.75)]


@pytest.fixture
def rig(tiny_run, monkeypatch):
    """Overrides -> a `TinyRun` of three float64 images a batch, without chance."""

    def make(*overrides: str, method: str = "prevmatch"):
        known = ["options.unimatch.threshold=0.3"]
        known += [f"options.prevmatch.threshold={THRESHOLD}"] if method == "prevmatch" else []
        return fixed_unimatch_run(tiny_run, monkeypatch, f"method={method}", *known, *overrides)

    return make


def shaken(network: nn.Module, seed: int) -> nn.Module:
    """A copy with noise on every parameter."""
    other, made = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=made, dtype=value.dtype))
    return other


def stocked(made) -> list[nn.Module]:
    """Two networks in the store."""
    past = made.run.modules["prevmatch_past"]
    networks = [shaken(made.student, seed) for seed in (1, 2)]
    for network in networks:
        past.keep(network)
    past.draw = lambda most: PICKED
    return networks


# --- the step, by hand ----------------------------------------------------------------------------------------------


def released_step(
    network, before: list[nn.Module], batch: RawBatch, strength: float, image: bool = False, factor: float = 1
) -> dict[str, Tensor]:
    """Supervised, consistency and previous term, each with its share of the total."""
    x, w, far = images(batch)
    valid, far_valid, mask = batch.unlabelled.valid, batch.partner.valid, batch.labelled.mask.long()
    with torch.no_grad():
        z_far = network.eval()(far).logits
        old = [sum(share * before[place].eval()(part).logits for place, share in PICKED) for part in (w, far)]
    network.train()
    strong = [
        torch.where(box_masks(BOXES)[:, None], far * 0.7, w * 0.8),
        torch.where(box_masks(SECOND_BOXES)[:, None], far * 0.5, w * 0.6),
    ]
    encoded = network.encode(torch.cat([x, w]))
    moved = [torch.cat([*dropped([m[3:]], keep_odd=False), *dropped([m[:3]], keep_odd=True)]) for m in encoded]
    out = network.decode([torch.cat(pair) for pair in zip(encoded, moved, strict=True)], (16, 16)).logits
    z_1, z_2 = network(torch.cat(strong)).logits.split([3, 3])
    views = [
        (z_1, box_masks(BOXES), 0.25),
        (z_2, box_masks(SECOND_BOXES), 0.25),
        (out[6:9], torch.zeros(3, 16, 16).bool(), 0.5),
    ]

    def against(own: Tensor, other: Tensor, threshold: float, by_image: bool) -> Tensor:
        (c, y), (c_far, y_far) = (z.detach().softmax(dim=1).max(dim=1) for z in (own, other))
        total = torch.zeros((), dtype=torch.float64)
        for z, box, share in views:
            sure, label = torch.where(box, c_far, c), torch.where(box, y_far, y)
            counted = torch.where(box, far_valid, valid)
            weight = (sure >= threshold).double()
            if by_image:
                for b in range(3):
                    weight[b] = factor * sure[b][counted[b]].mean() if counted[b].any() else 0
            loss = F.cross_entropy(z, label, reduction="none") * weight * counted
            total = total + share * loss.sum() / max(int(counted.sum()), 1)
        return total

    known = mask != 255
    l_x = (F.cross_entropy(out[:3], mask * known, reduction="none") * known).sum() / max(int(known.sum()), 1)
    parts = {"supervised": l_x, "consistency": against(out[3:6], z_far, 0.3, False)}
    if strength:
        parts["prevmatch"] = strength * against(old[0], old[1], THRESHOLD, image)
    return {name: part / (2 + strength) for name, part in parts.items()}


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ((), {}),
        (("previous_weight=image",), {"image": True}),
        (("previous_weight=image", "image_factor=4"), {"image": True, "factor": 4}),
    ],
    ids=["threshold", "image", "image as released"],
)
@pytest.mark.parametrize("progress", [LATER, Progress(8, 10, 5)], ids=["rising", "falling"])
def test_a_step_is_the_releases(rig, words, given, progress):
    made, batch = rig(*(f"options.prevmatch.{word}" for word in words)), raw_batch()
    before, network = stocked(made), copy.deepcopy(made.student)
    parts = released_step(network, before, batch, {3: 0.6, 8: 0.4}[progress.step], **given)
    assert all(part.item() > 0 for part in parts.values())
    assert_step(made, batch, parts, [network], progress)


def test_the_step_above_sees_sure_and_doubtful_pixels_of_several_classes(rig):
    made = rig()
    stocked(made)
    label = made.run.modules["prevmatch_past"].label(PICKED, received(made, raw_batch()).unlabelled)
    assert 0.1 < (label.confidence >= THRESHOLD).double().mean() < 0.9
    assert len(label.target.unique()) > 1


def test_nothing_valid_gives_zeros(rig):
    made, batch = rig(), raw_batch(all_void=True)
    stocked(made)
    losses, _ = take_step(made, batch, LATER)
    assert losses == {"supervised": 0, "consistency": 0, "prevmatch": 0, "total": 0}


# --- an empty store, or lambda = 0, is the method underneath ----------------------------------------------------------


@pytest.mark.parametrize("case", ["empty", "start"])
def test_it_is_the_base_bit_for_bit(rig, case):
    alone, with_it = rig(method="unimatch"), rig()
    if case == "start":
        stocked(with_it)
    progress, seeds = (LATER, (4, 5)) if case == "empty" else (START, (4,))
    for seed in seeds:
        first, second = (take_step(made, raw_batch(seed=seed), progress) for made in (alone, with_it))
        assert first[0] == second[0]
    for (name, one), other in zip(
        alone.student.state_dict().items(), with_it.student.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_lambda_rises_to_the_middle_and_falls(rig):
    made = rig()
    method, steps = made.methods["prevmatch"], (0, 1, 4, 5, 6, 9)
    assert [method.strength(Progress(step, 10, 5)) for step in steps] == [0] * 6
    stocked(made)
    assert [method.strength(Progress(step, 10, 5)) for step in steps] == pytest.approx([0, 0.2, 0.8, 1, 0.8, 0.2])


def test_shares_sum_to_one_with_the_term(rig):
    """(L_x + L_std + lambda L_prev) / (2 + lambda): the method underneath gives (L_x + L_std) / 2."""
    made = rig()
    stocked(made)
    plan = made.run.hooks.make_views((3, 16, 16), LATER)
    assert plan.supervised_weight == pytest.approx(1 / 2.6)
    assert [view.loss_weight for view in plan.views] == pytest.approx([0.25 / 2.6, 0.25 / 2.6, 0.5 / 2.6])
    assert sum(view.loss_weight for view in plan.views) * 1.6 + plan.supervised_weight == pytest.approx(1)


# --- the store ------------------------------------------------------------------------------------------------------


def marked(number: int) -> nn.Module:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, number)
    return layer


def marks(past: PastModels) -> list[float]:
    return [one.weight.item() for one in past.copies]


def test_the_oldest_copy_goes_first_and_a_resumed_store_goes_on():
    past = PastModels(marked(0) for _ in range(3))
    assert past.count == 0
    for number in (1, 2, 3, 4):
        past.keep(marked(number))
    assert (past.count, marks(past)) == (3, [4, 2, 3])
    again = PastModels(marked(9) for _ in range(3))
    again.load_state_dict(past.state_dict())
    assert (again.count, again.total, marks(again)) == (3, 4, [4, 2, 3])
    again.keep(marked(5))
    assert marks(again) == [4, 5, 3]
    nn.ModuleDict({"past": again}).load_state_dict(
        {f"past.{k}": v for k, v in PastModels(marked(7) for _ in range(3)).state_dict().items()}
    )
    assert again.count == 0


def test_copies_learn_nothing_and_stay_in_evaluation_mode():
    past = PastModels(nn.BatchNorm2d(2) for _ in range(2)).train()
    assert not any(part.training for part in past.copies.modules())
    assert not any(p.requires_grad for p in past.parameters())


def test_a_copy_is_kept_every_interval(tiny_run):
    """Epochs of 3 steps, a copy every second one, at most two of them."""
    made = tiny_run("method=prevmatch", "options.prevmatch.models=2", "options.prevmatch.interval=2", "train.steps=30")
    assert made.run.info.epoch_steps == 3
    past, feed, kept = made.run.modules["prevmatch_past"], made.feed, []
    for step in range(20):
        made.engine.step(feed, made.stage.progress(step))
        kept += [copy.deepcopy(made.student.state_dict())] if step % 6 == 5 else []
        assert past.total == past.kept.item() == len(kept)
    for place, state in ((0, kept[2]), (1, kept[1])):
        for name, value in past.copies[place].state_dict().items():
            assert torch.equal(value, state[name])


def scored(miou: float) -> dict:
    return {"miou": 1 - miou, "student": {"miou": miou}}


def test_by_epochs_the_validation_score_has_no_influence(rig):
    one, other = rig(), rig()
    for step, made in ((0, one), (0, other), (1, one), (1, other)):
        take_step(made, raw_batch(), Progress(step, 10, 1))
        if made is other:
            made.run.hooks.call("after_eval", metrics=scored(0.9), students=made.engine.students, progress=START)
    pasts = [made.run.modules["prevmatch_past"].state_dict() for made in (one, other)]
    assert pasts[0]["kept"] == 1
    assert all(torch.equal(a, b) for a, b in zip(pasts[0].values(), pasts[1].values(), strict=True))


def test_by_best_a_copy_is_kept_when_the_students_score_rises(rig):
    made = rig("options.prevmatch.store=best")
    past = made.run.modules["prevmatch_past"]
    for miou, total in ((0.3, 1), (0.2, 1), (0.3, 1), (0.31, 2)):
        made.run.hooks.call("after_eval", metrics=scored(miou), students=made.engine.students, progress=START)
        assert past.total == total
    again = PastModels(copy.deepcopy(made.student) for _ in past.copies).double()
    again.load_state_dict(past.state_dict())
    assert again.best.item() == 0.31
    take_step(made, raw_batch(), Progress(1, 10, 1))  # an epoch's end: nothing
    assert past.total == 2


# --- the ensemble ---------------------------------------------------------------------------------------------------


def test_an_ensemble_is_of_one_two_or_three_different_copies_with_flat_weights():
    torch.manual_seed(0)
    past = PastModels(marked(0) for _ in range(5))
    for number in range(4):
        past.keep(marked(number))
    drawn = []
    for seed in range(3000):
        torch.manual_seed(seed)  # each step has its own
        drawn.append(past.draw(3))
    for picked in drawn:
        assert len({place for place, _ in picked}) == len(picked)
        assert sum(share for _, share in picked) == pytest.approx(1)
        assert max(place for place, _ in picked) < 4
    sizes = torch.tensor([len(picked) for picked in drawn]).bincount(minlength=4) / len(drawn)
    assert_close(sizes, torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.03, rtol=0)
    pairs = torch.tensor([picked[0][1] for picked in drawn if len(picked) == 2])  # Dirichlet(1, 1): uniform
    assert_close(
        torch.quantile(pairs, torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), atol=0.05, rtol=0
    )
    places = torch.tensor([place for picked in drawn for place, _ in picked]).bincount(minlength=4)
    assert_close(places / places.sum(), torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_with_few_copies_all_there_are_may_be_taken():
    past = PastModels(marked(0) for _ in range(3))
    past.keep(marked(1))
    assert {tuple(past.draw(3)) for _ in range(20)} == {((0, 1.0),)}


def test_labelled_pixels_in_a_view_keep_their_own_labels():
    label = ground_truth_label(RawLabelled(torch.zeros(1, 3, 1, 3), torch.tensor([[[4, 255, 0]]])))
    assert label.target.tolist() == [[[4, 0, 0]]]
    assert label.confidence.tolist() == [[[1.0, 0.0, 1.0]]]
    assert label.valid.tolist() == [[[True, False, True]]]


def test_an_images_mean_leaves_padding_out():
    values, valid = (
        torch.tensor([[[0.2, 0.6, 0.9]], [[1.0, 1.0, 1.0]], [[0.3, 0.8, 0.5]]]),
        torch.tensor([[[1, 1, 0]], [[0, 0, 0]], [[0, 1, 0]]]).bool(),
    )
    assert_close(image_mean(values, valid)[..., 0], torch.tensor([[0.4], [0.0], [0.8]]))


# --- words ----------------------------------------------------------------------------------------------------------


def test_named_alone_it_stands_on_unimatch(tiny_config):
    assert tiny_config("method=prevmatch").plugins.names == ["unimatch", "prevmatch"]
    assert tiny_config("method=fixmatch+prevmatch").plugins.names == ["fixmatch", "prevmatch"]


def test_nothing_is_kept_before_setup():
    assert PrevMatch().strength(LATER) == 0  # views are asked for before the store is made
