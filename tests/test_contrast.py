"""Prototypes, anchors and the two losses over prototypes, against sums worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssss_zoo import contrast
from ssss_zoo.contrast import Anchors, Prototypes

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=30, deadline=None)


def directions(seed: int, count: int, dim: int) -> torch.Tensor:
    return contrast.unit(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def everyone(ids: torch.Tensor, classes: int) -> Anchors:
    return contrast.draw_anchors(ids, classes, ids.numel())


def by_hand(features, ids, vectors, known, temperature, class_mean):
    """InfoNCE in plain float64 loops, all cells of a known class being anchors."""
    losses: dict[int, list[float]] = {}
    for row, own in zip(features.tolist(), ids.tolist(), strict=True):
        if not (0 <= own < len(vectors) and known[own]):
            continue
        scores = {
            k: sum(a * b for a, b in zip(row, vectors[k].tolist(), strict=True)) / temperature
            for k in range(len(vectors))
            if known[k]
        }
        losses.setdefault(own, []).append(math.log(sum(math.exp(s) for s in scores.values())) - scores[own])
    if not losses or sum(known.tolist()) < 2:
        return 0.0
    if class_mean:
        return sum(sum(v) / len(v) for v in losses.values()) / len(losses)
    return sum(map(sum, losses.values())) / sum(map(len, losses.values()))


# ---- grid, directions, head


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
@quick
def test_grid_takes_the_pixel_under_the_cell_centre(height, width, tall, wide):
    pixels = torch.arange(2 * tall * wide).view(2, tall, wide)
    expected = F.interpolate(pixels.unsqueeze(1).double(), (height, width), mode="nearest-exact").squeeze(1).long()
    assert torch.equal(contrast.to_grid(pixels, height, width), expected)


def test_grid_keeps_type_and_leading_dimensions():
    assert contrast.to_grid(torch.ones(2, 8, 8, dtype=torch.bool), 2, 2).dtype == torch.bool
    target = torch.rand(2, 3, 8, 8)
    assert torch.equal(contrast.to_grid(target, 4, 4), target[..., 1::2, 1::2])


def test_unit_is_float32_of_length_one_and_leaves_zero_alone():
    maps = torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float16).view(1, 2, 1, 2)
    assert_close(contrast.unit(maps), torch.tensor([[0.6, 0.0], [0.8, 0.0]]).view(1, 2, 1, 2))


def test_cells_are_rows_in_batch_then_grid_order():
    maps = torch.arange(24).view(2, 3, 2, 2)
    assert contrast.as_cells(maps)[5].tolist() == maps[1, :, 0, 1].tolist()


def test_one_hot_of_void_is_zero():
    ids = torch.tensor([[[0, 2], [255, -1]]])
    assert contrast.as_cells(contrast.one_hot(ids, 3)).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_head_projects_to_its_width():
    head = contrast.projection_head(6, 4)
    assert head(torch.randn(2, 6, 3, 3)).shape == (2, 4, 3, 3)
    assert [type(part).__name__ for part in head] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]


# ---- prototypes


def test_first_update_is_the_normalised_weighted_mean_and_later_ones_move_by_momentum():
    prototypes = Prototypes(2, 2)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    prototypes.update(features, torch.tensor([[3.0, 0.0], [1.0, 0.0]]), momentum=0.9)  # mean (.75, .25)
    assert_close(prototypes.vectors[0], torch.tensor([3.0, 1.0]) / math.sqrt(10))
    assert prototypes.known.tolist() == [True, False]
    prototypes.update(features, torch.tensor([[0.0, 0.0], [2.0, 0.0]]), momentum=0.9)
    moved = torch.tensor([0.9 * 3 / math.sqrt(10), 0.9 / math.sqrt(10) + 0.1])
    assert_close(prototypes.vectors[0], moved / moved.norm())
    assert prototypes.vectors[1].tolist() == [0.0, 0.0]


@given(seeds, st.floats(0, 1))
@quick
def test_prototypes_have_length_one_and_absent_classes_keep_their_bits(seed, momentum):
    prototypes, features = Prototypes(4, 5), directions(seed, 12, 5)
    member = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed))
    prototypes.update(features, member, momentum)
    before = prototypes.vectors.clone()
    member[:, 2] = 0
    prototypes.update(-features, member, momentum)
    assert torch.equal(prototypes.vectors[2], before[2])
    assert prototypes.known.all()
    assert_close(prototypes.vectors.norm(dim=1), torch.ones(4))


def test_momentum_one_keeps_a_known_prototype_and_zero_gives_the_batch_centroid():
    features, member = directions(0, 6, 3), torch.ones(6, 1)
    prototypes = Prototypes(1, 3)
    prototypes.update(directions(1, 6, 3), member, 0.5)
    before = prototypes.vectors.clone()
    prototypes.update(features, member, 1.0)
    assert_close(prototypes.vectors, before)
    prototypes.update(features, member, 0.0)
    assert_close(prototypes.vectors, F.normalize(features.mean(dim=0, keepdim=True), dim=1))


def test_nothing_to_learn_from_changes_nothing():
    prototypes = Prototypes(3, 4)
    prototypes.update(directions(0, 5, 4), torch.zeros(5, 3), 0.9)
    assert not prototypes.known.any()
    assert not prototypes.vectors.any()


def test_prototypes_take_no_gradient_and_are_saved():
    prototypes, features = Prototypes(2, 3), directions(0, 4, 3).requires_grad_()
    prototypes.update(features, torch.ones(4, 2), 0.9)
    assert not prototypes.vectors.requires_grad
    assert set(prototypes.state_dict()) == {"vectors", "known"}
    assert list(prototypes.parameters()) == []


def test_sums_and_masses_are_taken_over_all_processes(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(2))
    assert contrast.process_sum(torch.ones(2)).tolist() == [2, 2]


def test_two_processes_with_half_a_batch_agree_with_one(monkeypatch):
    features, member = directions(0, 10, 4), torch.rand(10, 3)
    whole = Prototypes(3, 4)
    whole.update(features, member, 0.5)
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(contrast, "process_sum", lambda tensor: sent.append(tensor.clone()) or tensor)
    Prototypes(3, 4).update(features[:5], member[:5], 0.5)
    monkeypatch.setattr(contrast, "process_sum", lambda tensor: tensor + sent.pop(0))
    half = Prototypes(3, 4)
    half.update(features[5:], member[5:], 0.5)
    assert_close(half.vectors, whole.vectors)


# ---- anchors


@given(seeds, st.integers(1, 6), st.integers(1, 12))
@quick
def test_anchors_are_distinct_cells_of_their_class_and_as_many_as_there_are(seed, classes, per_class):
    ids = torch.randint(0, classes + 2, (40,), generator=torch.Generator().manual_seed(seed))
    ids[ids == classes] = contrast.NO_CLASS
    anchors = contrast.draw_anchors(ids, classes, per_class)
    assert anchors.cells.shape == anchors.drawn.shape == (classes, per_class)
    for own in range(classes):
        rows = anchors.cells[own][anchors.drawn[own]]
        assert (ids[rows] == own).all()
        assert len(set(rows.tolist())) == len(rows) == min(per_class, int((ids == own).sum()))


def test_every_cell_of_a_class_is_equally_likely():
    torch.manual_seed(0)
    ids = torch.tensor([1, 0, 1, 1, 255, 1, 0])
    counts = torch.zeros(7)
    for _ in range(600):
        counts[contrast.draw_anchors(ids, 2, 1).cells[1]] += 1
    assert counts[[0, 2, 3, 5]].min() > 110  # 150 expected, standard deviation 10.6
    assert counts.sum() == counts[[0, 2, 3, 5]].sum()


def test_draws_follow_the_cpu_seed_and_differ_from_step_to_step():
    ids = torch.zeros(200, dtype=torch.int64)
    torch.manual_seed(3)
    first, second = contrast.draw_anchors(ids, 1, 9).cells, contrast.draw_anchors(ids, 1, 9).cells
    torch.manual_seed(3)
    assert torch.equal(contrast.draw_anchors(ids, 1, 9).cells, first)
    assert not torch.equal(first, second)


# ---- losses


@given(seeds, st.booleans(), st.sampled_from([0.1, 0.5]))
@quick
def test_info_nce_equals_plain_loops(seed, class_mean, temperature):
    generator = torch.Generator().manual_seed(seed)
    features, vectors = directions(seed, 15, 6), directions(seed + 1, 4, 6)
    ids = torch.randint(0, 5, (15,), generator=generator)
    known = torch.rand(4, generator=generator) < 0.7
    loss = contrast.info_nce(features, everyone(ids, 4), vectors, known, temperature, class_mean)
    assert_close(float(loss), by_hand(features, ids, vectors, known, temperature, class_mean), rtol=1e-4, atol=1e-5)


@given(seeds, st.integers(2, 5))
@quick
def test_info_nce_lies_within_its_bounds(seed, classes):
    features, vectors = directions(seed, 8, 4), directions(seed + 1, classes, 4)
    ids, known = torch.arange(8) % classes, torch.ones(classes, dtype=torch.bool)
    loss = contrast.info_nce(features, everyone(ids, classes), vectors, known, 0.5)
    assert 0 < float(loss) <= math.log(1 + (classes - 1) * math.exp(2 / 0.5)) + 1e-5
    same = contrast.info_nce(features, everyone(ids, classes), vectors[:1].expand(classes, -1), known, 0.1)
    assert_close(float(same), math.log(classes), rtol=1e-5, atol=1e-5)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))).Q
    turned = contrast.info_nce(features @ turn, everyone(ids, classes), vectors @ turn, known, 0.5)
    assert_close(turned, loss, rtol=1e-4, atol=1e-5)


def test_the_upper_bound_is_reached_by_the_worst_anchor():
    vectors, known = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([True, True])
    loss = contrast.info_nce(torch.tensor([[-1.0, 0.0]]), everyone(torch.tensor([0]), 2), vectors, known, 0.1)
    assert_close(float(loss), math.log(1 + math.exp(20)), rtol=1e-5, atol=0)


def test_gradient_over_similarities_sums_to_zero_and_pulls_only_to_the_own_class():
    features, ids = directions(5, 6, 4).requires_grad_(), torch.tensor([0, 0, 1, 2, 2, 3])
    vectors, known = torch.eye(4), torch.ones(4, dtype=torch.bool)  # so a feature's entries are its similarities
    contrast.info_nce(features, everyone(ids, 4), vectors, known, 0.1, class_mean=False).backward()
    share = (features.detach().double() / 0.1).softmax(dim=1)
    assert_close(features.grad, ((share - F.one_hot(ids, 4)) / 0.1 / 6).float(), rtol=1e-4, atol=1e-6)
    assert_close(features.grad.sum(dim=1), torch.zeros(6), rtol=0, atol=1e-5)
    assert torch.equal(features.grad < 0, F.one_hot(ids, 4).bool())


@pytest.mark.parametrize("loss", [contrast.info_nce, contrast.center_margin])
@pytest.mark.parametrize(
    ("ids", "known"),
    [
        ([255, 255, 255], [True, True, True]),  # no anchor
        ([0, 0, 1], [True, False, False]),  # nothing to be pushed from
        ([0, 0, 1], [False, False, False]),  # no prototype at all
        ([2, 2, 2], [True, True, False]),  # anchors of an unknown class
    ],
)
def test_nothing_to_contrast_is_a_zero_with_a_graph(loss, ids, known):
    features = directions(0, 3, 4).requires_grad_()
    vectors = directions(1, 3, 4) * torch.tensor(known).unsqueeze(1)
    value = loss(features, everyone(torch.tensor(ids), 3), vectors, torch.tensor(known), 0.1)
    value.backward()
    assert value.item() == 0
    assert not features.grad.any()


def test_means_of_classes_and_of_anchors():
    values, counted = torch.tensor([[1.0, 3.0], [8.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    assert contrast.anchor_mean(values, counted, class_mean=True) == 5.0  # (2 + 8) / 2
    assert contrast.anchor_mean(values, counted, class_mean=False) == 4.0  # 12 / 3


@pytest.mark.parametrize(("margin", "push"), [(0.0, 0.6), (0.25, 0.35), (0.7, 0.0)])
def test_center_margin_pulls_and_pushes(margin, push):
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    ids, known = torch.tensor([0, 1, 1]), torch.tensor([True, True, True])
    loss = contrast.center_margin(features, everyone(ids, 3), vectors, known, margin)
    assert_close(float(loss), (1.0 + 0.4) / 2 + push, rtol=1e-5, atol=1e-6)  # class 2 has no anchors: no pair
    plain = contrast.center_margin(features, everyone(ids, 3), vectors, known, margin, class_mean=False)
    assert_close(float(plain), (1.0 + 0.4 + 0.4) / 3 + push, rtol=1e-5, atol=1e-6)


def test_center_margin_pushes_with_gradient():
    features = directions(2, 4, 3).abs().requires_grad_()
    vectors = torch.zeros(2, 3)  # no pull: what is left is the push
    known = torch.tensor([True, True])
    contrast.center_margin(features, everyone(torch.tensor([0, 0, 1, 1]), 2), vectors, known, 0.0).backward()
    assert (features.grad.abs().sum(dim=1) > 0).all()
