"""CutMix done again to whatever goes with the images: partners, gates, boxes under boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssss_zoo.toolkit.augment import random_boxes
from ssss_zoo.toolkit.mixing import Mixing, ground_truth_label, nested_cutmix, partner_rows
from ssss_zoo.toolkit.types import CutMix, Labelled, PseudoLabel

SIZE = (3, 4, 5)
FULL = torch.tensor([[[0, 0, 4, 5]]] * 3)
LEFT = torch.tensor([[[0, 0, 4, 2]]] * 3)


def numbered(first: int) -> torch.Tensor:
    """(3, 1, 4, 5): image b holds first + b everywhere."""
    return (torch.arange(3) + first).view(3, 1, 1, 1).expand(3, 1, 4, 5).clone()


def mixing(cutmix: CutMix | None, probs=None) -> Mixing:
    return Mixing(cutmix, SIZE, torch.device("cpu"), probs)


@pytest.mark.parametrize(
    ("partner", "rows", "expected"),
    [
        ("next", None, [1, 2, 0]),
        ("reverse", None, [2, 1, 0]),  # the middle one meets itself
        ("rows", [1, 1, 2], [1, 1, 2]),
        ("stream", None, [10, 11, 12]),
        ("twin", None, [10, 11, 12]),
        ("stream", [2, 0, 1], [12, 10, 11]),
        ("labelled", None, [20, 21, 22]),
        ("labelled", [2, 2, 0], [22, 22, 20]),
    ],
)
def test_a_full_box_shows_the_partner(partner, rows, expected):
    cutmix = CutMix(partner, FULL, None if rows is None else torch.tensor(rows))
    shown = mixing(cutmix)(numbered(0), {"partner": numbered(10), "labelled": numbered(20)})
    assert shown[:, 0, 0, 0].tolist() == expected
    assert (shown == shown[:, :, :1, :1]).all()


def test_a_lone_image_is_its_own_next():
    assert partner_rows(CutMix("next", FULL[:1]), 1).tolist() == [0]


def test_without_cutmix_the_very_tensor_comes_back():
    own = numbered(0)
    assert mixing(None)(own, {}) is own
    assert mixing(None).box is None


def test_outside_the_box_stays_what_is_there_whatever_the_shape():
    mix = mixing(CutMix("next", LEFT))
    for own in (numbered(0), numbered(0)[:, 0], numbered(0).unsqueeze(1).expand(3, 2, 6, 4, 5)):
        shown = mix(own, {})
        assert torch.equal(shown[..., 2:], own[..., 2:])
        assert torch.equal(shown[..., :2], own.roll(-1, 0)[..., :2])


def test_a_gate_lets_only_some_images_be_mixed_by_the_teachers_word():
    probs = torch.tensor([0.9, 0.2, 0.9]).view(3, 1, 1, 1).expand(3, 2, 4, 5)
    mix = mixing(CutMix("labelled", FULL, gate=lambda given: given[:, 0].mean(dim=(1, 2)) < 0.5), probs)
    assert mix(numbered(0), {"labelled": numbered(20)})[:, 0, 0, 0].tolist() == [0, 21, 2]
    assert mix.box.flatten(1).all(dim=1).tolist() == [False, True, False]


def test_boxes_under_boxes_reach_an_image_only_through_its_partner():
    """AugSeg: the partner may hold labelled pixels; the image itself is the original one."""
    rows = torch.tensor([1, 2, 0])
    mix = mixing(CutMix("rows", LEFT, rows, under=CutMix("labelled", torch.tensor([[[0, 0, 2, 5]]] * 3), rows)))
    shown = mix(numbered(0), {"labelled": numbered(20)})[:, 0]
    assert shown[0].tolist() == [[22, 22, 0, 0, 0], [22, 22, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert len(nested_cutmix(CutMix("rows", LEFT, rows, under=CutMix("labelled", LEFT)))) == 2


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from(["next", "reverse", "stream"]))
def test_a_label_moves_as_its_image_does(seed, partner):
    torch.manual_seed(seed)
    mix = mixing(CutMix(partner, random_boxes(*SIZE, chance=1.0)))

    def a_label() -> PseudoLabel:
        return PseudoLabel(torch.randint(5, SIZE), torch.rand(SIZE), torch.rand(SIZE) < 0.5)

    own, other = a_label(), a_label()
    label = mix.label(own, {"partner": other})
    for name in ("target", "confidence", "valid"):
        assert torch.equal(getattr(label, name), mix(getattr(own, name), {"partner": getattr(other, name)}))
    soft = PseudoLabel(torch.rand(3, 2, 4, 5), own.confidence, own.valid)
    assert torch.equal(
        mix.label(soft, {"partner": soft}).target[:, 0], mix(soft.target[:, 0], {"partner": soft.target[:, 0]})
    )


def test_the_truth_of_labelled_pixels_as_a_label():
    mask = torch.tensor([[[2, 0, 255]]])
    label = ground_truth_label(Labelled(torch.zeros(1, 3, 1, 3), mask))
    assert label.target.tolist() == [[[2, 0, 0]]]
    assert label.confidence.tolist() == [[[1, 1, 0]]]
    assert label.valid.tolist() == [[[True, True, False]]]


def test_nothing_is_read_back_from_the_device():
    """A meta tensor has no values: whatever waits for one raises."""
    under = CutMix("labelled", LEFT, gate=lambda probs: probs.mean(dim=(1, 2, 3)) < 0.5)
    probs, image = torch.empty(3, 2, 4, 5, device="meta"), torch.empty(3, 3, 4, 5, device="meta")
    mix = Mixing(CutMix("next", LEFT, under=under), SIZE, torch.device("meta"), probs)
    assert mix(image, {"labelled": image}).shape == image.shape
