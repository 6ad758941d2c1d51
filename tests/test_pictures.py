"""`predictions.png`: true colours, what is wrong in red, void checked, any size, any number of channels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ssss_zoo.config.schema import EvaluateConfig
from ssss_zoo.data.classes import palette
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.figures import (
    MAX_PANEL_WIDTH,
    PANEL_GAP,
    TEXT_HEIGHT,
    VOID_SQUARE,
    WRONG_COLOUR,
    colour_classes,
    cut_start,
    evenly_spaced,
    prediction_panels,
    void_colours,
    write_predictions,
)
from ssss_zoo.toolkit.types import IGNORE, Output, Sample


class Drawn:
    """Images of one size, all of class 0 but for a void pixel at the upper left."""

    def __init__(self, size: tuple[int, int] = (4, 6), channels: int = 3, classes: int = 2, name: str = "c") -> None:
        self.size, self.channels = size, channels
        self.class_names = tuple(f"{name} {i}" for i in range(classes))
        self.colours = tuple((200, i % 256, 7) for i in range(classes))
        self.val = [Sample(f"a rather long name of an image, number {i}", i, i) for i in range(5)]

    def read_image(self, sample: Sample) -> np.ndarray:
        return np.full((*self.size, self.channels), 100, dtype=np.uint8)

    def read_mask(self, sample: Sample) -> np.ndarray:
        mask = np.zeros(self.size, dtype=np.uint8)
        mask[0, 0] = IGNORE
        return mask


class Left(nn.Module):
    """Class 0 in the left half, the last class in the right one."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Output:
        logits = torch.zeros(1, self.classes, *image.shape[-2:])
        logits[:, 0, :, : image.shape[-1] // 2] = 1
        logits[:, -1, :, image.shape[-1] // 2 :] = 1
        return Output(logits, logits)


def drawn(tmp_path, dataset: Drawn, count: int = 2) -> Image.Image:
    evaluator = Evaluator(dataset, EvaluateConfig(), (4, 4), torch.device("cpu"))
    file = tmp_path / "predictions.png"
    write_predictions(file, Left(len(dataset.class_names)), evaluator, evenly_spaced(dataset.val, count))
    with Image.open(file) as picture:
        picture.load()
        return picture


def test_class_ids_take_their_colours_and_void_is_checked():
    ids = np.full((2 * VOID_SQUARE, 2 * VOID_SQUARE), IGNORE)
    ids[0, :2] = 0, 1
    shown = colour_classes(ids, Drawn())
    first, second = void_colours(Drawn().colours)
    assert shown[0, :2].tolist() == [[200, 0, 7], [200, 1, 7]]
    assert shown[1, 0].tolist() == shown[-1, -1].tolist() == list(first)
    assert shown[1, VOID_SQUARE].tolist() == shown[VOID_SQUARE, 1].tolist() == list(second)


PALETTES = {
    "two greys": ((128, 128, 128), (100, 100, 100)),
    "black and white": ((0, 0, 0), (255, 255, 255)),
    "all corners": tuple(product((0, 255), repeat=3)),
    "VOC": palette(21),
    "as many as can be": palette(254),
    "what void had for two greys": void_colours(((128, 128, 128), (100, 100, 100))),
}


@pytest.mark.parametrize("name", PALETTES)
def test_no_class_has_a_colour_of_void_and_no_error_has_one(name):
    found = void_colours(PALETTES[name])
    taken = np.array([*PALETTES[name], WRONG_COLOUR])
    for colour in found:
        assert np.abs(taken - colour).sum(axis=1).min() >= 40
    assert np.abs(np.subtract(*found)).sum() >= 40


def test_the_four_panels_of_a_row():
    photo = np.full((2, 2, 3), 100, np.uint8)
    truth, predicted = np.array([[0, 0], [1, IGNORE]]), np.array([[0, 1], [1, 0]])
    four = [np.asarray(panel) for panel in prediction_panels(photo, truth, predicted, Drawn())]
    assert len(four) == 4
    scale = four[0].shape[0] // 2
    corners = [panel[scale // 2 :: scale, scale // 2 :: scale] for panel in four]  # one pixel of each enlarged one
    assert (corners[0] == 100).all()
    assert corners[1][1, 0].tolist() == [200, 1, 7]
    assert corners[2][0, 1].tolist() == [200, 1, 7]
    assert corners[3][0].tolist() == [[35, 35, 35], [230, 40, 40]]
    assert corners[3][1, 0].tolist() == [35, 35, 35]
    for panel in (four[1], four[3]):  # whole squares at whatever size
        void = panel[scale:, scale:].reshape(-1, 3)
        assert {tuple(colour) for colour in void.tolist()} == set(void_colours(Drawn().colours))


@pytest.mark.parametrize(
    ("height", "width"), [(10, 1000), (300, 481), (2000, 3), (1, 1), (700, 3), (480, 480), (100, 4096)]
)
def test_panels_keep_their_shape_and_are_never_too_wide(height, width):
    photo, ids = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int64)
    for panel in prediction_panels(photo, ids, ids, Drawn()):
        assert panel.width <= MAX_PANEL_WIDTH
        assert panel.width >= 1
        assert 1 <= panel.height <= max(height, MAX_PANEL_WIDTH)
        assert panel.height / panel.width == pytest.approx(height / width, abs=1 / panel.width + 0.01, rel=0.01)


def test_the_photo_is_not_changed_by_marking_what_is_wrong():
    photo = np.full((2, 2, 3), 100, np.uint8)
    prediction_panels(photo, np.zeros((2, 2), int), np.ones((2, 2), int), Drawn())
    assert (photo == 100).all()


def test_the_sheet_shows_every_row_and_every_class(tmp_path):
    picture = drawn(tmp_path, Drawn(classes=3), count=2)
    one = drawn(tmp_path, Drawn(classes=3), count=1)
    assert picture.mode == "RGB"
    assert picture.height > one.height
    colours = {colour for _, colour in picture.getcolors(2**20)}
    assert {(200, 0, 7), (200, 1, 7), (200, 2, 7), *void_colours(Drawn(classes=3).colours), WRONG_COLOUR} <= colours
    assert picture.width >= 480


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (200, 2)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_size_and_number_of_channels_can_be_shown(size, channels, tmp_path):
    picture = drawn(tmp_path, Drawn(size, channels), count=1)
    assert picture.width > 4 * PANEL_GAP
    assert picture.height > 2 * TEXT_HEIGHT


@pytest.mark.parametrize("name", ["道路", "été", "дорога", "", "a" * 200, "two\nlines"])
def test_a_class_may_be_called_anything(name, tmp_path):
    drawn(tmp_path, Drawn(name=name), count=1)


def test_many_classes_fit(tmp_path):
    assert drawn(tmp_path, Drawn(classes=200), count=1).height > 200 / 6 * TEXT_HEIGHT


def test_no_sample_makes_no_file(tmp_path):
    write_predictions(
        tmp_path / "p.png", Left(2), Evaluator(Drawn(), EvaluateConfig(), (4, 4), torch.device("cpu")), []
    )
    assert not (tmp_path / "p.png").exists()


def test_samples_are_spread_evenly_and_keep_their_order():
    assert evenly_spaced(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly_spaced(list(range(10)), 1) == [0]
    assert evenly_spaced(list(range(3)), 7) == [0, 1, 2]
    assert evenly_spaced([], 3) == []


def test_a_head_that_is_too_long_keeps_its_end():
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    whole = "weak view: shapes/train/000279"
    width = int(draw.textlength(whole[-12:]))
    short = cut_start(whole, width, draw)
    assert short.startswith("…")
    assert whole.endswith(short[1:])
    assert 0.7 * width < draw.textlength(short) <= width
    assert cut_start(whole, 10_000, draw) == whole
