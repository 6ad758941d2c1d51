"""`predictions.png`: true colours, what is wrong in red, void in grey, any size, any number of channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ssss_zoo.config import EvaluateConfig
from ssss_zoo.evaluation import Evaluator
from ssss_zoo.pictures import GAP, LINE, WIDEST, coloured, cut, panels, predictions, spread
from ssss_zoo.records import IGNORE, Output, Sample


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
    predictions(file, Left(len(dataset.class_names)), evaluator, spread(dataset.val, count))
    with Image.open(file) as picture:
        picture.load()
        return picture


def test_class_ids_take_their_colours_and_void_is_grey():
    ids = np.array([[0, 1], [IGNORE, 0]])
    assert coloured(ids, Drawn()).tolist() == [[[200, 0, 7], [200, 1, 7]], [[128, 128, 128], [200, 0, 7]]]


def test_the_four_panels_of_a_row():
    photo = np.full((2, 2, 3), 100, np.uint8)
    truth, predicted = np.array([[0, 0], [1, IGNORE]]), np.array([[0, 1], [1, 0]])
    four = [np.asarray(panel) for panel in panels(photo, truth, predicted, Drawn())]
    assert len(four) == 4
    scale = four[0].shape[0] // 2
    corners = [panel[scale // 2 :: scale, scale // 2 :: scale] for panel in four]  # one pixel of each enlarged one
    assert (corners[0] == 100).all()
    assert corners[1][1, 0].tolist() == [200, 1, 7]
    assert corners[1][1, 1].tolist() == [128, 128, 128]
    assert corners[2][0, 1].tolist() == [200, 1, 7]
    assert corners[3].tolist() == [[[35, 35, 35], [230, 40, 40]], [[35, 35, 35], [128, 128, 128]]]


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (300, 481), (2000, 3), (1, 1), (480, 480), (100, 4096)])
def test_panels_keep_their_shape_and_are_never_too_wide(height, width):
    photo, ids = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int64)
    for panel in panels(photo, ids, ids, Drawn()):
        assert panel.width <= WIDEST
        assert panel.width >= 1
        assert panel.height >= 1
        assert panel.height / panel.width == pytest.approx(height / width, abs=1 / panel.width + 0.01, rel=0.01)


def test_the_photo_is_not_changed_by_marking_what_is_wrong():
    photo = np.full((2, 2, 3), 100, np.uint8)
    panels(photo, np.zeros((2, 2), int), np.ones((2, 2), int), Drawn())
    assert (photo == 100).all()


def test_the_sheet_shows_every_row_and_every_class(tmp_path):
    picture = drawn(tmp_path, Drawn(classes=3), count=2)
    one = drawn(tmp_path, Drawn(classes=3), count=1)
    assert picture.mode == "RGB"
    assert picture.height > one.height
    colours = {colour for _, colour in picture.getcolors(2**20)}
    assert {(200, 0, 7), (200, 1, 7), (200, 2, 7), (128, 128, 128), (230, 40, 40)} <= colours
    assert picture.width >= 480


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (200, 2)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_size_and_number_of_channels_can_be_shown(size, channels, tmp_path):
    picture = drawn(tmp_path, Drawn(size, channels), count=1)
    assert picture.width > 4 * GAP
    assert picture.height > 2 * LINE


@pytest.mark.parametrize("name", ["道路", "été", "дорога", "", "a" * 200, "two\nlines"])
def test_a_class_may_be_called_anything(name, tmp_path):
    drawn(tmp_path, Drawn(name=name), count=1)


def test_many_classes_fit(tmp_path):
    assert drawn(tmp_path, Drawn(classes=200), count=1).height > 200 / 6 * LINE


def test_no_sample_makes_no_file(tmp_path):
    predictions(tmp_path / "p.png", Left(2), Evaluator(Drawn(), EvaluateConfig(), (4, 4), torch.device("cpu")), [])
    assert not (tmp_path / "p.png").exists()


def test_samples_are_spread_evenly_and_keep_their_order():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread(list(range(10)), 1) == [0]
    assert spread(list(range(3)), 7) == [0, 1, 2]
    assert spread([], 3) == []


def test_a_head_that_is_too_long_keeps_its_end():
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    whole = "weak view: shapes/train/000279"
    width = int(draw.textlength(whole[-12:]))
    short = cut(whole, width, draw)
    assert short.startswith("…")
    assert whole.endswith(short[1:])
    assert 0.7 * width < draw.textlength(short) <= width
    assert cut(whole, 10_000, draw) == whole
