"""CorrMatch against a step written out here after its release."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import corrmatch as module
from ssss_zoo.plugins.baselines.corrmatch import CorrMatch, Threshold, grow_regions, proposals
from torch import Tensor, nn
from torch.testing import assert_close

from helpers.by_hand import BOX, BOXES, START, assert_step, darker, for_any_batch, images, raw_batch, take_step
from helpers.unimatch_views import alternating_dropout, dropped
from ssss_zoo.toolkit.types import FixedAugmentation, Progress, PseudoLabel, RawBatch

GAMMA, MOMENTUM, REGIONS = 0.27, 0.9, 6


def cells_by_seed_7(maps: Tensor, number: int) -> Tensor:
    return torch.randint(maps.shape[-2:].numel(), (number,), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def rig(tiny_run, monkeypatch):
    """words -> a `TinyRun` of three float64 images a batch, without chance."""

    def make(*words: str):
        monkeypatch.setattr(module, "random_boxes", lambda *size: BOXES)
        monkeypatch.setattr(module, "channel_dropout", alternating_dropout)
        monkeypatch.setattr(module, "draw_cells", cells_by_seed_7)
        options = {"threshold": GAMMA, "momentum": MOMENTUM, "regions": REGIONS}
        given = [f"options.corrmatch.{key}={value}" for key, value in options.items()]
        made = tiny_run("method=corrmatch", "train.batch=3", "augment.flip=0", *given, *words)
        made.engine.strong = FixedAugmentation(darker)
        for part in made.run.modules.values():
            part.double()
        made.methods["corrmatch"].head.project[3].p = 0.0
        return made.double()

    return make


# --- the step, by hand ----------------------------------------------------------------------------------------------


def up(maps: Tensor, size: tuple[int, int] = (16, 16)) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def spread(head: nn.Module, last: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Propagated logits at full size, and the correlation (B, N, N), cell by cell."""
    shared = head.project(last)
    query, key = head.query(shared).flatten(2), head.key(shared).flatten(2)
    correlation = torch.stack(
        [torch.softmax(q.T @ k / math.sqrt(len(q)), dim=1) for q, k in zip(query, key, strict=True)]
    )
    small = up(logits.detach(), last.shape[-2:]).flatten(2)
    moved = torch.stack(
        [
            torch.stack([(z * r[:, j]).sum(dim=1) for j in range(len(r))], dim=1)
            for z, r in zip(small, correlation, strict=True)
        ]
    )
    return up(moved.unflatten(2, last.shape[-2:])), correlation


def mean_of_maxima(confidence: Tensor, label: Tensor, valid: Tensor) -> float | None:
    best: dict[int, float] = {}
    for c, k, v in zip(confidence.flatten().tolist(), label.flatten().tolist(), valid.flatten().tolist(), strict=True):
        if v:
            best[k] = max(best.get(k, 0), c)
    return sum(best.values()) / len(best) if best else None


def grown(label: Tensor, kept: Tensor, own: Tensor, correlation: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The region step image by image, region by region; `kept` that is asked stays what it was."""
    rows = torch.randint(correlation.shape[1], (REGIONS,), generator=torch.Generator().manual_seed(7)).tolist()
    side = math.isqrt(correlation.shape[1])
    label, wider = label.clone(), kept.clone()
    for b in range(len(label)):
        for row in rows:
            full = up(correlation[b, row].view(1, 1, side, side))[0, 0]
            region = ((full - full.min()) / (full.max() - full.min()) > 0.5) & own[b]
            sure = region & kept[b]
            if not region.any() or sure.sum() / region.sum() < gamma:
                continue
            values, number = label[b][sure].unique(return_counts=True)
            if number.max() / number.sum() > gamma:
                label[b][region] = values[number.argmax()]
                wider[b] |= region
    return label, wider


def cross_entropy(logits: Tensor, label: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
    log_q = logits.log_softmax(dim=1).gather(1, label.unsqueeze(1)).squeeze(1)
    return -(log_q * (kept & valid)).sum() / max(int(valid.sum()), 1)


def released_step(
    network: nn.Module,
    head: nn.Module,
    batch: RawBatch,
    gamma: float = GAMMA,
    regions=True,
    propagate=True,
    in_box=False,
) -> tuple[dict[str, Tensor], float, int]:
    """The engine's terms, the new gamma, and how many pixels the regions won."""
    x, w, far = images(batch)
    valid, far_valid, mask = batch.unlabelled.valid, batch.partner.valid, batch.labelled.mask.long()
    with torch.no_grad():
        confidence_far, label_far = network.eval()(far).logits.softmax(dim=1).max(dim=1)
    network.train()
    encoded = network.encode(torch.cat([x, w]))
    shaken = [torch.cat([*dropped([m[3:]], keep_odd=False), *dropped([m[:3]], keep_odd=True)]) for m in encoded]
    out = network.decode([torch.cat(pair) for pair in zip(encoded, shaken, strict=True)], (16, 16)).logits
    z_x, z_w, z_fp = out[:3], out[3:6], out[6:9]
    strong = network(torch.where(BOX[:, None], far * 0.8, w * 0.8))
    p_w = z_w.detach().softmax(dim=1)
    confidence, label = p_w.max(dim=1)
    moved = mean_of_maxima(confidence, label, valid)
    old, gamma = gamma, gamma if moved is None else MOMENTUM * gamma + (1 - MOMENTUM) * moved
    sure = confidence >= gamma
    label_s, kept = torch.where(BOX, label_far, label), torch.where(BOX, confidence_far >= old, sure)
    valid_s, before = torch.where(BOX, far_valid, valid), kept
    if regions:
        with torch.no_grad():
            _, correlation = spread(head, encoded[-1][3:].detach(), z_w)
        label_s, kept = grown(label_s, kept, valid_s & ~BOX, correlation, gamma)
    each = (p_w * (p_w.log() - strong.logits.log_softmax(dim=1))).sum(dim=1)
    counted = before & valid_s & (torch.ones_like(BOX) if in_box else ~BOX)
    known = mask != 255

    def supervised(logits: Tensor) -> Tensor:
        return cross_entropy(logits, mask * known, known, known)

    l_s, l_fp = cross_entropy(strong.logits, label_s, kept, valid_s), cross_entropy(z_fp, label, sure, valid)
    parts = {
        "supervised": supervised(z_x) / 4,
        "consistency": (l_s + l_fp) / 8,
        "corrmatch_kl": (each * counted).sum() / max(int(valid_s.sum()), 1) / 8,
    }
    if propagate:
        z_c, _ = spread(head, encoded[-1], out[:6])
        z_sc, _ = spread(head, strong.maps[-1], strong.logits)
        parts["corrmatch_labelled"] = supervised(z_c[:3]) / 4
        halves = cross_entropy(z_sc, label_s, kept, valid_s) + cross_entropy(z_c[3:], label, sure, valid)
        parts["corrmatch_unlabelled"] = halves / 2 / 8
    return parts, gamma, int((kept & valid_s & ~before).sum())


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ((), {}),
        (("kl_in_box=true",), {"in_box": True}),
        (("regions=0",), {"regions": False}),
        (("propagate=false", "regions=0"), {"propagate": False, "regions": False}),
    ],
    ids=["whole", "kl as released", "no regions", "baseline"],
)
def test_a_step_is_the_releases(rig, words, given):
    """The last one is the baseline: L_x / 4 + (L_s + L_fp + L_kl) / 8, without any correlation."""
    made, batch = rig(*(f"options.corrmatch.{word}" for word in words)), raw_batch()
    network, head = copy.deepcopy(made.student), copy.deepcopy(made.methods["corrmatch"].head)
    parts, gamma, won = released_step(network, head, batch, **given)
    assert (won > 0) == given.get("regions", True)
    assert all(part.item() > 0 for part in parts.values())
    kept: dict[str, Tensor] = {}
    own = made.methods["corrmatch"].head
    made.engine.optimizer.register_step_pre_hook(
        lambda *_: kept.update({name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None})
    )
    assert_step(made, batch, parts, [network])
    assert made.methods["corrmatch"].gamma.value.item() == pytest.approx(gamma, rel=1e-6)
    wanted = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert kept.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(kept[name], gradient, atol=1e-5, rtol=0)


@for_any_batch
def test_without_propagation_it_is_its_baseline_for_any_batch(rig, seed):
    made, batch = rig("options.corrmatch.propagate=false", "options.corrmatch.regions=0"), raw_batch(seed=seed)
    network, head = copy.deepcopy(made.student), copy.deepcopy(made.methods["corrmatch"].head)
    parts, _, _ = released_step(network, head, batch, propagate=False, regions=False)
    assert set(parts) == {"supervised", "consistency", "corrmatch_kl"}
    assert_step(made, batch, parts, [network], single="corrmatch_kl")  # of probabilities in float32


def test_what_a_region_may_change_matters_to_the_loss(rig):
    """The test above could not tell regions from none otherwise."""
    made, batch = rig(), raw_batch()
    parts = [
        released_step(copy.deepcopy(made.student), made.methods["corrmatch"].head, batch, regions=regions)[0]
        for regions in (True, False)
    ]
    assert parts[0]["consistency"].item() > 1.01 * parts[1]["consistency"].item()


def test_nothing_valid_gives_zeros_and_leaves_gamma(rig):
    made, batch = rig(), raw_batch(all_void=True)
    losses, _ = take_step(made, batch)
    assert set(losses.values()) == {0.0}
    assert made.methods["corrmatch"].gamma.value.item() == pytest.approx(GAMMA)


# --- gamma ----------------------------------------------------------------------------------------------------------


def test_gamma_over_two_steps(rig):
    """By a network copied before each step; only the unlabelled stream moves it, and partners are another one."""
    made, gamma = rig(), GAMMA
    for step, seed in enumerate((4, 5)):
        batch = raw_batch(seed=seed)
        network, head = copy.deepcopy(made.student), copy.deepcopy(made.methods["corrmatch"].head)
        _, gamma, _ = released_step(network, head, batch, gamma)
        take_step(made, batch, Progress(step, 10, 5))
        assert made.methods["corrmatch"].gamma.value.item() == pytest.approx(gamma, rel=1e-6)
    assert gamma != GAMMA


def test_gamma_follows_the_best_pixel_of_each_class_found():
    gamma = Threshold(0.5)
    confidence = torch.tensor([[[0.9, 0.6, 0.8, 0.99, 0.7]]])
    ids = torch.tensor([[[1, 1, 3, 3, 2]]])
    valid = torch.tensor([[[True, True, True, False, False]]])  # class 2 is found in padding alone
    gamma.update(PseudoLabel(ids, confidence, valid), 5, momentum=0.75)
    assert gamma.value.item() == pytest.approx(0.75 * 0.5 + 0.25 * (0.9 + 0.8) / 2)
    gamma.update(PseudoLabel(ids, confidence, torch.zeros_like(valid)), 5, momentum=0.75)
    assert gamma.value.item() == pytest.approx(0.75 * 0.5 + 0.25 * (0.9 + 0.8) / 2)


def test_gamma_comes_back_with_the_run(rig):
    made = rig()
    take_step(made, raw_batch())
    state = copy.deepcopy(made.run.modules["corrmatch_threshold"].state_dict())
    again = Threshold(0.1).double()
    again.load_state_dict(state)
    assert torch.equal(again.value, made.methods["corrmatch"].gamma.value)


def test_a_pixel_at_gamma_counts():
    method = CorrMatch()
    method.gamma = Threshold(0.25)
    below = math.nextafter(0.25, 0) - 1e-7
    label = PseudoLabel(torch.zeros(1, 1, 2).long(), torch.tensor([[[0.25, below]]]), torch.ones(1, 1, 2).bool())
    assert method.pixel_weight(label).tolist() == [[[1.0, 0.0]]]


# --- regions --------------------------------------------------------------------------------------------------------

WHOLE = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]).view(1, 1, 1, 8)  # `proposals` gives left and right half
MAPS = torch.cat([WHOLE, 1 - WHOLE, torch.tensor([0.0, 0, 1, 1, 1, 1, 0, 0]).view(1, 1, 1, 8)], dim=1)


def a_row(*numbers: int) -> Tensor:
    return torch.tensor(numbers).view(1, 1, -1)


def test_a_proposal_is_what_lies_above_half_height():
    assert proposals(MAPS, torch.Size((1, 8))).int().tolist() == MAPS.int().tolist()
    assert not proposals(torch.full((1, 1, 2, 2), 0.25), torch.Size((2, 2))).any()
    assert proposals(torch.tensor([0.2, 0.4, 0.6]).view(1, 1, 1, 3), torch.Size((1, 3))).tolist() == [
        [[[False, False, True]]]
    ]


@pytest.mark.parametrize(
    ("sure", "own", "gamma", "wanted", "taken"),
    [
        # left: 3 of 4 sure, 2 of 3 say 1; right: one of 4 sure; middle: 2 of 4 sure, both 1 by then
        ((1, 1, 1, 0, 1, 0, 0, 0), (1,) * 8, 0.5, (1, 1, 1, 1, 1, 1, 4, 4), (1, 1, 1, 1, 1, 1, 0, 0)),
        # 2 of 3 is not more than 0.7, so the left stays as it is; the middle's two sure pixels disagree
        ((1, 1, 1, 0, 1, 0, 0, 0), (1,) * 8, 0.7, (1, 1, 2, 3, 1, 4, 4, 4), (0,) * 8),
        # the box (or padding) over the two first pixels: 1 of 2 sure, and only what is left of the region changes
        ((1, 1, 1, 0, 0, 0, 0, 0), (0, 0, 1, 1, 1, 1, 1, 1), 0.5, (1, 1, 2, 2, 1, 4, 4, 4), (0, 0, 1, 1, 0, 0, 0, 0)),
        # nothing may change
        ((1,) * 8, (0,) * 8, 0.1, (1, 1, 2, 3, 1, 4, 4, 4), (0,) * 8),
        ((0,) * 8, (1,) * 8, 0.0, (1, 1, 2, 3, 1, 4, 4, 4), (0,) * 8),
    ],
)
def test_regions_grow_one_after_the_other(sure, own, gamma, wanted, taken):
    ids, where = grow_regions(
        a_row(1, 1, 2, 3, 1, 4, 4, 4), a_row(*sure).bool(), a_row(*own).bool(), MAPS, torch.tensor(gamma), 5
    )
    assert ids.flatten().tolist() == list(wanted)
    assert where.int().flatten().tolist() == list(taken)


def test_growing_a_batch_is_growing_each_image():
    made = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 3, (4, 16, 16), generator=made)
    sure, own = (torch.rand(4, 16, 16, generator=made) < share for share in (0.5, 0.8))
    correlation = (4 * torch.randn(4, 16, 16, generator=made).double()).softmax(dim=2)
    rows = torch.randint(16, (REGIONS,), generator=torch.Generator().manual_seed(7))
    for gamma in (0.3, 0.45, 0.6):
        wanted, kept = grown(ids, sure, own, correlation, gamma)
        got, taken = grow_regions(ids, sure, own, correlation[:, rows].unflatten(2, (4, 4)), torch.tensor(gamma), 3)
        assert torch.equal(got, wanted)
        assert torch.equal(sure | taken, kept)


@pytest.fixture
def strong(rig):
    """(method, the strong view before regions, the teacher's output)."""
    made, seen = rig("options.corrmatch.regions=0"), []
    pair, method = made.engine.pair, made.methods["corrmatch"]
    made.engine.pair = lambda *given: seen.append((pair(*given), given[2])) or seen[-1][0]
    made.engine.losses(raw_batch(), START)
    method.regions = REGIONS
    view, targets = seen[0]
    return method, view, targets["unlabelled"].output


def test_regions_leave_box_padding_and_foreign_weights_alone(strong):
    method, before, weak = strong
    after = method.refine(before, teacher_output=weak)
    assert torch.equal(after.notes[module.CONFIDENT_NOTE], before.weight > 0)
    moved = (after.label.target != before.label.target) | (after.weight != before.weight)
    assert moved.any()
    assert not (moved & (BOX | ~before.label.valid)).any()
    halved = method.refine(replace(before, weight=before.weight / 2), teacher_output=weak)
    assert torch.equal(halved.weight, torch.where(before.weight > 0, 0.5, after.weight))


def test_soft_targets_of_another_method_become_certain_where_a_region_is_taken(strong):
    method, before, weak = strong
    soft = 0.9 * F.one_hot(before.label.target, 5).movedim(-1, 1).float() + 0.02
    got = method.refine(replace(before, label=replace(before.label, target=soft)), teacher_output=weak)
    certain = got.label.target.amax(dim=1) == 1
    assert certain.any()
    assert torch.equal(got.label.ids, method.refine(before, teacher_output=weak).label.target)
    assert torch.equal(got.label.target.movedim(1, -1)[~certain], soft.movedim(1, -1)[~certain])


def test_a_view_without_boxes_keeps_its_labels(strong):
    method, before, weak = strong
    assert method.refine(replace(before, box=None), teacher_output=weak) is None


# --- options and streams --------------------------------------------------------------------------------------------


def test_shares_and_groups():
    plan = CorrMatch().make_views((2, 16, 16))
    assert plan.supervised_weight == 0.25
    assert [(view.name, view.strength, view.loss_weight, view.forward_group) for view in plan.views] == [
        ("strong", "strong", 0.125, "strong"),
        ("perturbed", "weak", 0.125, "labelled"),
        ("weak", "weak", 0.0, "labelled"),
    ]


def test_the_weak_view_costs_no_pass_of_its_own(rig):
    made, batch = rig(), raw_batch()
    made.student.calls = []
    made.engine.losses(batch, START)
    shapes = [(call.half, len(call.value), call.training) for call in made.student.calls]
    assert shapes == [
        ("encode", 3, False),
        ("decode", 3, False),
        ("encode", 6, True),
        ("decode", 12, True),
        ("encode", 3, True),
        ("decode", 3, True),
    ]


@pytest.mark.parametrize("partner", ["stream", "twin", "next", "reverse"])
def test_each_partner_runs(rig, partner):
    made = rig(f"options.corrmatch.partner={partner}")
    assert ("partner" in made.feed.streams) == (partner in ("stream", "twin"))
