"""Validation at any size: windows that cover everything, padding that is cut away, modes that are put back."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import EvaluateConfig
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator, ValidationImages, nearest_multiple, predict_image, window_starts
from ssss_zoo.toolkit.types import IGNORE, Output, Sample

CPU = torch.device("cpu")
SETTINGS = EvaluateConfig()


class Pixelwise(nn.Module):
    """Class scores from each pixel alone; notes the size and the mode of every pass."""

    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.multiple, self.sizes, self.modes = multiple, [], []
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Output:
        self.sizes.append(tuple(image.shape[-2:]))
        self.modes.append(self.training)
        assert image.shape[-2] % self.multiple == 0
        assert image.shape[-1] % self.multiple == 0
        return Output(4 * image.half(), image)


class Arrays:
    """A data set in memory: images (H, W, 3) uint8, masks (H, W) uint8 by number."""

    class_names = ("red", "green", "blue")

    def __init__(self, *sizes: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.masks = [image.argmax(axis=2).astype(np.uint8) for image in self.images]
        self.samples = [Sample(f"image{i}", i, i) for i in range(len(sizes))]

    def read_image(self, sample: Sample) -> np.ndarray:
        return self.images[sample.image]

    def read_mask(self, sample: Sample) -> np.ndarray:
        return self.masks[sample.mask]


def evaluator(dataset=None, crop: tuple[int, int] = (4, 4), **changes) -> Evaluator:
    return Evaluator(dataset or Arrays((4, 4)), replace(SETTINGS, **changes), crop, CPU)


def image(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 100 + width))


# --- windows --------------------------------------------------------------------------------------------------------


def test_the_windows_of_cityscapes_begin_where_unimatch_v2s_do():
    overlap = resolve(["dataset=cityscapes"]).evaluate.overlap
    assert window_starts(1024, 798, overlap) == [0, 226]
    assert window_starts(2048, 798, overlap) == [0, 532, 1064, 1250]
    assert window_starts(2048, 801, overlap) == [0, 534, 1068, 1247]


def test_an_overlap_of_a_third_steps_two_thirds_of_the_window_rounded_down():
    for window in range(1, 1500):
        assert window_starts(10**5, window, 1 / 3)[1] == max(1, 2 * window // 3)


def test_windows_by_numbers():
    assert window_starts(10, 10, 0.5) == [0]
    assert window_starts(10, 4, 0) == [0, 4, 6]
    assert window_starts(8, 4, 0) == [0, 4]
    assert window_starts(7, 4, 0.5) == [0, 2, 3]
    assert window_starts(3, 1, 0.95) == [0, 1, 2]


def test_windows_of_the_releases():
    assert window_starts(1024, 801, 0, 534, "cut") == [0, 534]  # UniMatch V1: 801 and 490 high
    assert window_starts(2048, 801, 0, 534, "cut") == [0, 534, 1068, 1602]  # the last one 446 wide
    assert window_starts(2048, 800, 0, 534, "shift") == [0, 534, 1068, 1248]  # CPS
    assert window_starts(1024, 769, 0, 513, "shift") == [0, 255]  # U2PL


def test_windows_cut_at_the_border_see_less():
    network, picture = Pixelwise(), image(9, 10)
    found = evaluator(mode="sliding", edge="cut", stride=[3]).logits(network, picture)
    assert_close(found, (4 * picture.half()).float().softmax(dim=1))
    assert (3, 1) in network.sizes
    assert (4, 4) in network.sizes


def test_logits_are_averaged_where_they_are_to_be():
    picture = image(6, 7)
    found = evaluator(mode="sliding", sums="logits", stride=[2]).logits(Pixelwise(), picture)
    assert_close(found, (4 * picture.half()).float())


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((4, 4), (0, 4), (0, 4)), ((2, 3), (1, 3), (0, 3)), ((7, 4), (0, 4), (0, 4)), ((3, 9), (0, 3), (0, 4))],
)
def test_centre_frames_image_and_mask_alike(size, rows, columns):
    dataset, network = Arrays(size), Pixelwise()
    network.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    ((picture, mask),) = evaluator(dataset, mode="centre", pad_label=9).pairs(dataset.samples, network)
    assert picture.shape == (1, 3, 4, 4)
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[rows[0] : rows[1], columns[0] : columns[1]] = True
    assert (mask[0][~inside] == 9).all()
    assert_close(picture[0][:, ~inside], torch.tensor([[0.1], [0.2], [0.3]]).expand(-1, int((~inside).sum())))
    top, left = max(0, (size[0] - 4) // 2), max(0, (size[1] - 4) // 2)
    seen = dataset.masks[0][top : top + 4, left : left + 4]
    assert mask[0][inside].tolist() == seen.ravel().tolist()


def test_padding_that_counts_as_a_class_is_scored():
    """U2PL: an image of 2x4 in a window of 4x4 brings 8 pixels of background, all right or all wrong."""
    dataset, network = Arrays((2, 4)), Pixelwise()
    network.register_buffer("mean", torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1))  # its padding looks red, class 0
    counted = evaluator(dataset, mode="centre", pad_label=0)({"student": network}, dataset.samples)["student"]
    left_out = evaluator(dataset, mode="centre", pad_label=255)({"student": network}, dataset.samples)["student"]
    assert counted["pixel_accuracy"] == left_out["pixel_accuracy"] == 1
    network.mean.copy_(torch.tensor([0.1, 0.9, 0.1]).view(1, 3, 1, 1))
    wrong = evaluator(dataset, mode="centre", pad_label=0)({"student": network}, dataset.samples)["student"]
    assert wrong["pixel_accuracy"] == 0.5


@pytest.mark.parametrize("mode", [{}, {"mode": "sliding"}, {"mode": "sliding", "sums": "logits"}], ids=str)
def test_calibration_is_that_of_the_probabilities(mode):
    """Where windows overlap, `logits` gives probabilities or logits; void is left out."""
    dataset, network = Arrays((6, 7)), Pixelwise()
    dataset.masks[0][:2] = 255
    one = evaluator(dataset, **mode)
    (found,) = one({"student": network}, dataset.samples, calibration=True).values()
    bins = torch.zeros(15, 3, dtype=torch.float64)
    for picture, mask in one.pairs(dataset.samples, network):
        confidence, predicted = one.probabilities(network, picture).max(dim=1)
        for sure, right in zip(
            confidence[mask != 255].tolist(), (predicted == mask)[mask != 255].tolist(), strict=True
        ):
            bins[math.ceil(15 * sure) - 1] += torch.tensor([1, sure, right])
    gaps = (bins[:, 1] - bins[:, 2]).abs().sum() / bins[:, 0].sum()
    assert found["calibration_error"] == pytest.approx(float(gaps), abs=1e-6)
    assert bins[:, 0].sum() < sum(mask.size for mask in dataset.masks)
    assert "calibration_error" not in one({"student": network}, dataset.samples)["student"]


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 300), window=st.integers(1, 300), overlap=st.floats(0, 0.95))
def test_windows_lie_inside_cover_every_pixel_and_never_repeat(size, window, overlap):
    window = min(size, window)
    found = window_starts(size, window, overlap)
    assert found[0] == 0
    assert found[-1] + window == size
    assert found == sorted(set(found))
    assert all(after <= before + window for before, after in pairwise(found))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (4, 4), (3, 9), (13, 2), (8, 8)])
@pytest.mark.parametrize("overlap", [0.0, 0.333, 0.75])
def test_sliding_windows_of_a_pixelwise_network_average_to_its_softmax(size, overlap):
    network, picture = Pixelwise(), image(*size)
    found = evaluator(mode="sliding", overlap=overlap).logits(network, picture)
    assert_close(found, (4 * picture.half()).float().softmax(dim=1))
    assert set(network.sizes) == {(min(4, size[0]), min(4, size[1]))}


def test_a_window_as_large_as_the_image_is_the_whole_image():
    class Context(nn.Module):
        def forward(self, picture: Tensor) -> Output:
            return Output(picture + picture.mean(dim=(2, 3), keepdim=True) * picture, picture)

    network, picture = Context(), image(6, 9)
    slid = evaluator(mode="sliding", window=[6, 9]).logits(network, picture)
    assert_close(slid, evaluator().logits(network, picture).softmax(dim=1))
    larger = evaluator(mode="sliding", window=[50]).logits(network, picture)
    assert_close(larger, slid)


def test_the_window_is_the_crop_unless_it_is_named():
    assert evaluator(crop=(3, 5)).window == (3, 5)
    assert evaluator(crop=(3, 5), window=[7]).window == (7, 7)
    assert evaluator(crop=(3, 5), window=[7, 8]).window == (7, 8)


def test_the_last_window_is_shifted_and_what_it_sees_twice_counts_by_half():
    class Numbered(nn.Module):
        """A different answer in each pass: class 0 in the first, class 1 in the second."""

        passes = -1

        def forward(self, picture: Tensor) -> Output:
            self.passes += 1
            logits = torch.full((1, 2, *picture.shape[-2:]), -100.0)
            logits[:, self.passes] = 100.0
            return Output(logits, picture)

    found = evaluator(mode="sliding", overlap=0.0, window=[1, 4]).logits(Numbered(), image(1, 6))
    assert_close(found[0, 0, 0], torch.tensor([1.0, 1.0, 0.5, 0.5, 0.0, 0.0]))


# --- any size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (14, 14), (15, 28), (3, 100)])
@pytest.mark.parametrize("mode", ["whole", "sliding"])
@pytest.mark.parametrize("multiple", [1, 14])
def test_every_size_gets_logits_of_its_own_size_in_float32(size, mode, multiple):
    network = Pixelwise(multiple)
    found = evaluator(mode=mode).logits(network, image(*size))
    assert found.shape == (1, 3, *size)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_padding_repeats_the_edge_right_and_below_and_is_cut_away():
    seen = []

    class Looks(nn.Module):
        multiple = 4

        def forward(self, picture: Tensor) -> Output:
            seen.append(picture)
            return Output(picture, picture)

    picture = image(3, 5)
    assert_close(predict_image(Looks(), picture), picture)
    (padded,) = seen
    assert padded.shape == (1, 3, 4, 8)
    assert_close(padded[..., :3, :5], picture)
    assert_close(padded[..., 3, :5], picture[..., 2, :])
    assert_close(padded[..., :3, 7], picture[..., 4])


@pytest.mark.parametrize(("side", "expected"), [(1, 14), (7, 14), (20, 14), (21, 28), (27, 28), (500, 504), (375, 378)])
def test_the_nearest_multiple_of_14_is_unimatch_v2s(side, expected):
    assert nearest_multiple(side, 14) == expected


def test_resizing_goes_to_the_nearest_multiple_and_back_with_aligned_corners():
    network = Pixelwise(4)
    ramp = torch.linspace(0, 1, 9).view(1, 1, 1, 9).expand(1, 3, 6, 9).contiguous()
    found = evaluator(fit="resize").logits(network, ramp)
    assert network.sizes == [(8, 8)]
    assert found.dtype == torch.float32
    assert_close(found, 4 * ramp, atol=4e-3, rtol=0)  # a ramp survives only where the corners are aligned
    padding = Pixelwise(4)
    evaluator(fit="pad").logits(padding, ramp)
    assert padding.sizes == [(8, 12)]


def test_windows_are_resized_too():
    network = Pixelwise(4)
    found = evaluator(fit="resize", mode="sliding", window=[6, 5], overlap=0.0).logits(network, image(6, 10))
    assert network.sizes == [(8, 4), (8, 4)]
    assert found.shape == (1, 3, 6, 10)


def test_an_unknown_fit_is_refused():
    with pytest.raises(UserError, match=r"evaluate.fit must be one of pad, resize; got 'crop'"):
        resolve(["evaluate.fit=crop"])


@pytest.mark.parametrize("mode", ["whole", "sliding"])
@pytest.mark.parametrize("training", [True, False])
def test_networks_are_scored_in_evaluation_mode_and_put_back(mode, training):
    network = Pixelwise().train(training)
    found = evaluator(mode=mode).logits(network, image(5, 6))
    assert network.modes
    assert not any(network.modes)
    assert network.training == network.norm.training == training
    assert not found.requires_grad


def test_a_network_that_fails_is_put_back_too():
    class Fails(nn.Module):
        def forward(self, picture: Tensor) -> Output:
            raise RuntimeError("no")

    network = Fails().train()
    with pytest.raises(RuntimeError, match="no"):
        evaluator().logits(network, image(2, 2))
    assert network.training


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_networks_are_scored_side_by_side_over_images_of_any_size(mode):
    class Wrong(nn.Module):
        def forward(self, picture: Tensor) -> Output:
            return Output(picture.roll(1, dims=1), picture)

    dataset, ticks = Arrays((4, 4), (5, 7), (1, 1)), []
    networks = {"student": Pixelwise(), "teacher": Wrong()}
    found = evaluator(dataset, mode=mode)(networks, dataset.samples, lambda done, of: ticks.append((done, of)))
    assert found["student"]["pixel_accuracy"] > 0.9  # half precision may swap what is nearly equal
    assert found["teacher"]["miou"] < 0.1
    assert list(found["student"]["iou"]) == ["red", "green", "blue"]
    assert ticks == [(1, 3), (2, 3), (3, 3)]


def test_void_and_absent_classes_follow_the_settings():
    dataset = Arrays((2, 2))
    dataset.images[0] = np.array([[[9, 0, 0], [9, 0, 0]], [[0, 9, 0], [0, 9, 0]]], dtype=np.uint8) * 20
    dataset.masks[0] = np.array([[0, IGNORE], [1, 0]], dtype=np.uint8)
    scored = {absent: evaluator(dataset, absent=absent)({"student": Pixelwise()}, dataset.samples) for absent in
              ("exclude", "zero")}  # fmt: skip
    assert scored["exclude"]["student"]["iou"] == {"red": 0.5, "green": 0.5, "blue": None}
    assert scored["exclude"]["student"]["miou"] == 0.5
    assert scored["zero"]["student"]["miou"] == pytest.approx(1 / 3)


def test_images_reach_the_network_between_zero_and_one():
    dataset = Arrays((3, 4))
    ((picture, mask),) = evaluator(dataset).pairs(dataset.samples, Pixelwise())
    assert picture.shape == (1, 3, 3, 4)
    assert_close(picture[0, :, 1, 2], torch.from_numpy(dataset.images[0][1, 2]).float() / 255)
    assert mask.dtype == torch.int64
    assert mask[0].tolist() == dataset.masks[0].tolist()


def test_a_mask_of_another_size_than_its_image_is_named():
    dataset = Arrays((3, 4))
    dataset.masks[0] = np.zeros((4, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"image0: image is \(3, 4\), mask \(4, 3\)"):
        ValidationImages(dataset, dataset.samples)[0]
