"""Prototypes, anchors and the two losses over prototypes, against sums worked out by hand."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssss_zoo.toolkit import contrast
from ssss_zoo.toolkit.contrast import Anchors, ClassBank, Prototypes

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=30, deadline=None)


def project(seed: int, count: int, dim: int) -> torch.Tensor:
    return contrast.l2_normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


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


# ---- grid, project, head


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
@quick
def test_grid_takes_the_pixel_under_the_cell_centre(height, width, tall, wide):
    pixels = torch.arange(2 * tall * wide).view(2, tall, wide)
    expected = F.interpolate(pixels.unsqueeze(1).double(), (height, width), mode="nearest-exact").squeeze(1).long()
    assert torch.equal(contrast.downsample_nearest(pixels, height, width), expected)


def test_grid_keeps_type_and_leading_dimensions():
    assert contrast.downsample_nearest(torch.ones(2, 8, 8, dtype=torch.bool), 2, 2).dtype == torch.bool
    target = torch.rand(2, 3, 8, 8)
    assert torch.equal(contrast.downsample_nearest(target, 4, 4), target[..., 1::2, 1::2])


def test_unit_is_float32_of_length_one_and_leaves_zero_alone():
    maps = torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float16).view(1, 2, 1, 2)
    assert_close(contrast.l2_normalize(maps), torch.tensor([[0.6, 0.0], [0.8, 0.0]]).view(1, 2, 1, 2))


def test_cells_are_rows_in_batch_then_grid_order():
    maps = torch.arange(24).view(2, 3, 2, 2)
    assert contrast.flatten_pixels(maps)[5].tolist() == maps[1, :, 0, 1].tolist()


def test_one_hot_of_void_is_zero():
    ids = torch.tensor([[[0, 2], [255, -1]]])
    assert contrast.flatten_pixels(contrast.one_hot(ids, 3)).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


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
    assert prototypes.initialized.tolist() == [True, False]
    prototypes.update(features, torch.tensor([[0.0, 0.0], [2.0, 0.0]]), momentum=0.9)
    moved = torch.tensor([0.9 * 3 / math.sqrt(10), 0.9 / math.sqrt(10) + 0.1])
    assert_close(prototypes.vectors[0], moved / moved.norm())
    assert prototypes.vectors[1].tolist() == [0.0, 0.0]


@given(seeds, st.floats(0, 1))
@quick
def test_prototypes_have_length_one_and_absent_classes_keep_their_bits(seed, momentum):
    prototypes, features = Prototypes(4, 5), project(seed, 12, 5)
    member = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed))
    prototypes.update(features, member, momentum)
    before = prototypes.vectors.clone()
    member[:, 2] = 0
    prototypes.update(-features, member, momentum)
    assert torch.equal(prototypes.vectors[2], before[2])
    assert prototypes.initialized.all()
    assert_close(prototypes.vectors.norm(dim=1), torch.ones(4))


def test_momentum_one_keeps_a_known_prototype_and_zero_gives_the_batch_centroid():
    features, member = project(0, 6, 3), torch.ones(6, 1)
    prototypes = Prototypes(1, 3)
    prototypes.update(project(1, 6, 3), member, 0.5)
    before = prototypes.vectors.clone()
    prototypes.update(features, member, 1.0)
    assert_close(prototypes.vectors, before)
    prototypes.update(features, member, 0.0)
    assert_close(prototypes.vectors, F.normalize(features.mean(dim=0, keepdim=True), dim=1))


def test_nothing_to_learn_from_changes_nothing():
    prototypes = Prototypes(3, 4)
    prototypes.update(project(0, 5, 4), torch.zeros(5, 3), 0.9)
    assert not prototypes.initialized.any()
    assert not prototypes.vectors.any()


def test_prototypes_take_no_gradient_and_are_saved():
    prototypes, features = Prototypes(2, 3), project(0, 4, 3).requires_grad_()
    prototypes.update(features, torch.ones(4, 2), 0.9)
    assert not prototypes.vectors.requires_grad
    assert set(prototypes.state_dict()) == {"vectors", "initialized"}
    assert list(prototypes.parameters()) == []


def test_two_processes_with_half_a_batch_agree_with_one(monkeypatch):
    features, member = project(0, 10, 4), torch.rand(10, 3)
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


@given(seeds, st.integers(1, 5), st.integers(1, 12))
@quick
def test_members_are_drawn_once_each_and_stand_first(seed, classes, per_class):
    members = torch.rand(classes, 9, generator=torch.Generator().manual_seed(seed)) < 0.4
    drawn = contrast.draw_members(members, per_class)
    assert drawn.cells.shape == drawn.drawn.shape == (classes, min(per_class, 9))
    for own in range(classes):
        rows = drawn.cells[own][drawn.drawn[own]].tolist()
        assert members[own, rows].all()
        assert len(set(rows)) == len(rows) == min(per_class, int(members[own].sum()))
        assert drawn.drawn[own].tolist() == sorted(drawn.drawn[own].tolist(), reverse=True)


def test_every_member_is_equally_likely_and_may_belong_to_several_classes():
    torch.manual_seed(0)
    members, counts = (
        torch.tensor([[True, False, True, True, True], [False, True, True, False, False]]),
        torch.zeros(2, 5),
    )
    for _ in range(600):
        counts[torch.arange(2), contrast.draw_members(members, 1).cells[:, 0]] += 1
    assert not counts[~members].any()
    assert counts[0][members[0]].min() > 110  # 150 expected, standard deviation 10.6
    assert counts[1][members[1]].min() > 250  # 300 expected, 12.2


# ---- bank


def rows_of(bank: ClassBank, own: int) -> list[list[float]]:
    """A class's vectors from oldest to newest."""
    filled, place, capacity = int(bank.filled[own]), int(bank.pointer[own]), bank.vectors.shape[1]
    return [bank.vectors[own, (place - filled + n) % capacity].tolist() for n in range(filled)]


@given(seeds, st.integers(1, 7), st.integers(1, 6))
@quick
def test_a_bank_is_a_queue_of_the_latest_vectors_of_each_class(seed, capacity, pushes):
    generator = torch.Generator().manual_seed(seed)
    bank, queues = ClassBank(3, capacity, 2), [deque(maxlen=capacity) for _ in range(3)]
    for _ in range(pushes):
        width = int(torch.randint(1, capacity + 1, (), generator=generator))
        vectors = torch.randn(3, width, 2, generator=generator)
        number = torch.randint(0, width + 1, (3,), generator=generator)
        bank.push(vectors, torch.arange(width) < number.unsqueeze(1))
        for own, queue in enumerate(queues):
            queue.extend(vectors[own, : number[own]].tolist())
    for own, queue in enumerate(queues):
        assert int(bank.filled[own]) == len(queue)
        assert rows_of(bank, own) == list(queue)
        assert int(bank.valid()[own].sum()) == len(queue)
        assert bank.valid()[own, : len(queue)].all()


def test_a_bank_wraps_around_where_it_is_full():
    bank, number = ClassBank(1, 3, 1), torch.arange(1.0, 9.0).view(1, 8, 1)
    bank.push(number[:, :2], torch.tensor([[True, True]]))
    assert (bank.filled.item(), bank.pointer.item(), bank.vectors.flatten().tolist()) == (2, 2, [1, 2, 0])
    bank.push(number[:, 2:5], torch.tensor([[True, True, False]]))
    assert (bank.filled.item(), bank.pointer.item(), bank.vectors.flatten().tolist()) == (3, 1, [4, 2, 3])
    bank.push(number[:, 5:8], torch.ones(1, 3, dtype=torch.bool))
    assert (bank.filled.item(), bank.pointer.item(), bank.vectors.flatten().tolist()) == (3, 1, [8, 6, 7])


def test_a_class_that_is_absent_keeps_its_bits():
    torch.manual_seed(0)
    bank = ClassBank(3, 4, 2)
    bank.push(torch.randn(3, 3, 2), torch.ones(3, 3, dtype=torch.bool))
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    bank.push(torch.full((3, 3, 2), torch.nan), torch.tensor([[False] * 3, [False] * 3, [True] * 3]))
    for name, value in bank.state_dict().items():
        assert torch.equal(value[:2], before[name][:2])
    assert bank.vectors[2].isnan().all(dim=1).tolist() == [True, True, False, True]


def test_a_bank_is_saved_takes_no_gradient_and_any_float():
    bank, vectors = ClassBank(2, 3, 2), torch.ones(2, 1, 2, dtype=torch.bfloat16, requires_grad=True)
    bank.push(vectors, torch.ones(2, 1, dtype=torch.bool))
    assert set(bank.state_dict()) == {"vectors", "filled", "pointer"}
    assert list(bank.parameters()) == []
    assert bank.vectors.dtype == torch.float32
    assert not bank.vectors.requires_grad


def test_drawn_anchors_go_into_a_bank_as_they_are():
    ids, rows = torch.tensor([1, 255, 0, 1, 1, 0]), torch.arange(6.0).view(6, 1)
    anchors, bank = contrast.draw_anchors(ids, 3, 4), ClassBank(3, 5, 1)
    bank.push(rows[anchors.cells], anchors.drawn)
    assert bank.filled.tolist() == [2, 3, 0]
    assert [sorted(v[0] for v in rows_of(bank, own)) for own in range(3)] == [[2, 5], [0, 3, 4], []]


def test_a_sample_is_of_its_class_with_replacement_and_a_copy():
    torch.manual_seed(0)
    bank = ClassBank(3, 4, 1)
    values = torch.arange(1.0, 13.0).view(3, 4, 1)
    bank.push(values, torch.tensor([[True] * 4, [True] * 3 + [False], [False] * 4]))
    sample = bank.sample(torch.tensor([1, 0, 1, 2]), 1200)
    assert sample.shape == (4, 1200, 1)
    found = [{float(v): int((row == v).sum()) for v in row.unique()} for row in sample]
    assert set(found[0]) == set(found[2]) == {5, 6, 7}
    assert set(found[1]) == {1, 2, 3, 4}
    assert set(found[3]) == {0}  # nothing there
    assert min(found[0].values()) > 320  # 400 expected, standard deviation 16
    assert min(found[1].values()) > 235  # 300 expected, 15
    assert not torch.equal(sample[0], sample[2])
    bank.vectors.zero_()
    assert sample[:3].min() > 0


def test_samples_follow_the_cpu_seed_and_never_leave_what_is_filled(monkeypatch):
    bank = ClassBank(1, 50, 1)
    bank.push(torch.arange(50.0).view(1, 50, 1), torch.ones(1, 50, dtype=torch.bool))
    torch.manual_seed(3)
    first, second = (bank.sample(torch.zeros(1, dtype=torch.int64), 30) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(bank.sample(torch.zeros(1, dtype=torch.int64), 30), first)
    assert not torch.equal(first, second)
    most = torch.tensor([[1 - 2**-24]])  # the largest draw there is
    monkeypatch.setattr(torch, "rand", lambda *size, **given: most)
    for filled in (1, 3, 7, 50):
        bank.filled.fill_(filled)
        assert bank.sample(torch.zeros(1, dtype=torch.int64), 1).item() == filled - 1


# ---- losses


@given(seeds, st.booleans(), st.sampled_from([0.1, 0.5]))
@quick
def test_info_nce_equals_plain_loops(seed, class_mean, temperature):
    generator = torch.Generator().manual_seed(seed)
    features, vectors = project(seed, 15, 6), project(seed + 1, 4, 6)
    ids = torch.randint(0, 5, (15,), generator=generator)
    known = torch.rand(4, generator=generator) < 0.7
    loss = contrast.info_nce(features, everyone(ids, 4), vectors, known, temperature, class_mean=class_mean)
    assert_close(float(loss), by_hand(features, ids, vectors, known, temperature, class_mean), rtol=1e-4, atol=1e-5)


@given(seeds, st.integers(2, 5))
@quick
def test_info_nce_lies_within_its_bounds(seed, classes):
    features, vectors = project(seed, 8, 4), project(seed + 1, classes, 4)
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
    features, ids = project(5, 6, 4).requires_grad_(), torch.tensor([0, 0, 1, 2, 2, 3])
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
    features = project(0, 3, 4).requires_grad_()
    vectors = project(1, 3, 4) * torch.tensor(known).unsqueeze(1)
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
    features = project(2, 4, 3).abs().requires_grad_()
    vectors = torch.zeros(2, 3)  # no pull: what is left is the push
    known = torch.tensor([True, True])
    contrast.center_margin(features, everyone(torch.tensor([0, 0, 1, 1]), 2), vectors, known, 0.0).backward()
    assert (features.grad.abs().sum(dim=1) > 0).all()
