"""Boxes against the fingerprints of their releases; means within five standard errors of the sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssss_zoo.toolkit.augment import box_mask
from ssss_zoo.toolkit.cutmix_boxes import centred_boxes, half_boxes, toggled_boxes

SIDE, MANY = 321, 20_000


def shares(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Width and height of each box as shares of the side."""
    top, left, bottom, right = boxes.double().unbind(-1)
    return (right - left) / SIDE, (bottom - top) / SIDE


def assert_mean(values: torch.Tensor, expected: float) -> None:
    error = values.std() / len(values.flatten()) ** 0.5
    assert abs(values.mean() - expected) < 5 * error + 6e-4, (values.mean(), expected)  # expected has three digits


def test_one_toggled_box_covers_half_of_the_image():
    torch.manual_seed(0)
    wide, tall = shares(toggled_boxes(MANY, SIDE, SIDE, count=1, area=(0.5, 0.5)))
    assert (wide * tall - 0.5).abs().max() < 2 / SIDE
    assert_mean(tall.log(), -0.3466)  # 0.5^u, u uniform: the mean logarithm is log(0.5) / 2


def test_toggled_boxes_reach_every_place_alike():
    torch.manual_seed(0)
    boxes = toggled_boxes(MANY, SIDE, SIDE, count=1, area=(0.5, 0.5))[:, 0]
    for axis in (0, 1):
        room = SIDE - (boxes[:, axis + 2] - boxes[:, axis])
        place = (boxes[:, axis] / room)[room > 60].double()  # uniform over [0, 1]
        assert_mean(place, 0.5)
        assert place.std().item() == pytest.approx(12**-0.5, abs=0.005)
        assert (place.min(), place.max()) == (0, 1)


def test_three_toggled_boxes_have_the_coverage_of_cps():
    torch.manual_seed(0)
    cover = torch.cat([
        box_mask(toggled_boxes(500, 64, 64, count=3, area=(0.25, 0.5)), 64, 64, "cpu").double().mean((1, 2))
        for _ in range(12)
    ])  # fmt: skip
    assert_mean(cover, 0.251)
    assert cover.std() == pytest.approx(0.069, abs=0.003)
    assert torch.quantile(cover, torch.tensor([0.05, 0.95]).double()).tolist() == pytest.approx(
        [0.144, 0.371], abs=0.01
    )


def test_half_boxes_are_u2pls():
    torch.manual_seed(0)
    wide, tall = shares(half_boxes(MANY, SIDE, SIDE, chance=1.0))
    assert_mean(wide, 0.749)
    assert_mean(tall, 0.694)
    assert (wide * tall - 0.5).abs().max() < 1 / SIDE
    assert ((wide * SIDE).min().round(), (wide * SIDE).max().round()) == (SIDE // 2 + 1, SIDE - 1)


def test_without_its_chance_a_batch_has_no_box():
    assert half_boxes(2, 8, 10, chance=0.0).tolist() == [[[0, 0, 0, 0]]] * 2


def test_half_boxes_have_sizes_and_places_of_their_own():
    torch.manual_seed(0)
    boxes = half_boxes(MANY, SIDE, SIDE, chance=1.0)[:, 0]
    for axis in (0, 1):
        room = SIDE - (boxes[:, axis + 2] - boxes[:, axis])
        place = (boxes[:, axis] / room)[room > 60].double()
        assert_mean(place, 0.5)
        assert (place.min(), place.max()) == (0, 1)
    assert not (half_boxes(50, SIDE, SIDE, chance=0.0)).any()


def test_one_coin_decides_for_the_whole_batch():
    torch.manual_seed(0)
    drawn = [half_boxes(4, 16, 16).flatten(1).any(dim=1) for _ in range(400)]
    assert all(one.all() or not one.any() for one in drawn)
    assert 160 < sum(bool(one.all()) for one in drawn) < 240


@pytest.mark.parametrize(("beta", "mean"), [((8.0, 2.0), 0.2), ((4.0, 4.0), 0.5)])
def test_centred_boxes_share_a_size_and_spread_their_centres(beta, mean):
    torch.manual_seed(0)
    drawn = torch.stack([centred_boxes(64, SIDE, SIDE, beta) for _ in range(1500)])[:, :, 0]  # (1500, 64, 4)
    inside = (drawn[..., 0] > 0) & (drawn[..., 1] > 0) & (drawn[..., 2] < SIDE) & (drawn[..., 3] < SIDE)
    tall = drawn[..., 2] - drawn[..., 0]
    assert all(boxes[uncut].unique().numel() <= 1 for boxes, uncut in zip(tall, inside, strict=True))
    area = (tall.amax(dim=1) / SIDE).square().double()  # of 64 boxes one at least is whole
    assert area.mean() == pytest.approx(mean, abs=0.02)
    centres = drawn[inside][:, 0] + (drawn[inside][:, 2] - drawn[inside][:, 0]) / 2
    assert centres.min() >= SIDE / 8 - 1


def test_centres_are_uniform_from_an_eighth_of_each_side_on():
    torch.manual_seed(0)
    height, width = 320, 640
    boxes = torch.cat([centred_boxes(64, height, width, (40_000.0, 100.0)) for _ in range(150)])[:, 0]  # 1/20 of a side
    centre = (boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]).amax(dim=0) / 2) / torch.tensor([height, width])
    for along in centre.double().T:
        assert along.mean().item() == pytest.approx(9 / 16, abs=5 * 0.2526 / len(along) ** 0.5 + 0.005)
        assert along.std().item() == pytest.approx(7 / 8 / 12**0.5, abs=0.01)
        assert along.min() == pytest.approx(1 / 8, abs=0.01)
        assert along.max() == pytest.approx(1, abs=0.01)
    assert abs(torch.corrcoef(centre.T)[0, 1]) < 5 / len(centre) ** 0.5  # drawn apart


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**31))
def test_boxes_lie_inside_whatever_the_size(height, width, batch, seed):
    torch.manual_seed(seed)
    made = {
        "toggled": toggled_boxes(batch, height, width, 3, (0.25, 0.5)),
        "half": half_boxes(batch, height, width, 1.0),
        "centred": centred_boxes(batch, height, width, (4.0, 4.0)),
    }
    for name, boxes in made.items():
        top, left, bottom, right = boxes.unbind(-1)
        assert boxes.shape == (batch, 3 if name == "toggled" else 1, 4), name
        assert boxes.dtype == torch.int64
        assert ((top >= 0) & (top <= bottom) & (bottom <= height)).all(), name
        assert ((left >= 0) & (left <= right) & (right <= width)).all(), name
