"""`predictions.png` and what all pictures share: true colours, wrong pixels, void, overlays, any size and any name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ssss_zoo.config.schema import EvaluateConfig
from ssss_zoo.data.class_colours import WRONG_COLOUR
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.figures import evenly_spaced, prediction_panels, write_predictions
from ssss_zoo.evaluation.painting import (
    MAX_PICTURE_SIDE,
    MIN_PICTURE_SIDE,
    OVERLAY_OPACITY,
    STRIPE_WIDTH,
    VALUE_COLOURS,
    VOID_STRIPES,
    WRONG_STRIPES,
    class_edges,
    colour_classes,
    colour_values,
    draw_errors,
    draw_overlay,
    photo,
    picture_size,
    resize_nearest,
)
from ssss_zoo.evaluation.sheets import (
    MAX_COLUMNS,
    TITLE_LINES,
    VOID_NAME,
    WRONG_NAME,
    LegendEntry,
    Panel,
    PanelRow,
    class_legend,
    cut_start,
    draw_class_bars,
    draw_legend,
    draw_panel,
    draw_sheet,
    draw_table,
    flow_positions,
    line_height,
    load_font,
    text_size,
    wrap_text,
)
from ssss_zoo.toolkit.types import IGNORE, Output, Sample


def colours_in(picture) -> set[tuple[int, int, int]]:
    return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


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


# --- pixels ---------------------------------------------------------------------------------------------------------


def test_class_ids_take_their_colours_and_void_has_stripes():
    ids = np.full((2 * STRIPE_WIDTH, 2 * STRIPE_WIDTH), IGNORE)
    ids[0, :2] = 0, 1
    shown = colour_classes(ids, Drawn().colours)
    assert shown[0, :2].tolist() == [[200, 0, 7], [200, 1, 7]]
    assert colours_in(shown[1:]) == set(VOID_STRIPES)
    assert shown[1, 2].tolist() == shown[2, 1].tolist() == list(VOID_STRIPES[0])  # a stripe falls to the left
    assert shown[1, 2 + STRIPE_WIDTH].tolist() == list(VOID_STRIPES[1])


def test_wrong_pixels_have_one_colour_or_stripes_beside_a_class_like_it():
    image = np.full((12, 12, 3), (100, 100, 100), np.uint8)
    truth, predicted = np.zeros((12, 12), int), np.ones((12, 12), int)
    truth[:, 0], predicted[:, 6:] = IGNORE, 0
    drawn = draw_errors(image, truth, predicted, [(0, 90, 0), (90, 200, 0)])
    assert colours_in(drawn[:, 0]) == set(VOID_STRIPES)
    assert colours_in(drawn[:, 1:6]) == {WRONG_COLOUR}
    assert colours_in(drawn[:, 6:]) == {(40, 40, 40)}
    near = draw_errors(image, truth, predicted, [(0, 90, 0), (250, 0, 200)])
    assert colours_in(near[:, 1:6]) == set(WRONG_STRIPES)
    assert (image == 100).all()


def test_values_go_from_dark_to_bright_and_beyond_the_top_is_the_top():
    drawn = colour_values(np.array([[0.0, 1.0, 2.0, 9.0]]), 2.0)[0].tolist()
    assert drawn == [list(VALUE_COLOURS[0]), list(VALUE_COLOURS[4]), list(VALUE_COLOURS[-1]), list(VALUE_COLOURS[-1])]
    lightness = np.array(VALUE_COLOURS) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 10).all()  # readable on grey paper, too


def test_an_overlay_keeps_the_image_below_and_draws_the_edges_of_classes():
    image = np.full((600, 600, 3), 200, np.uint8)
    classes = np.zeros((600, 600), np.uint8)
    classes[:, 300:], classes[500:] = 1, IGNORE
    drawn = np.asarray(draw_overlay(image, classes, ((0, 0, 0), (100, 0, 0))))
    mixed = [round(200 * (1 - OVERLAY_OPACITY) + OVERLAY_OPACITY * channel) for channel in (0, 100)]
    assert drawn[10, 10] == pytest.approx([mixed[0]] * 3, abs=1)
    assert drawn[10, 590] == pytest.approx([mixed[1], mixed[0], mixed[0]], abs=1)
    assert drawn[10, 298:302].tolist() == [[0, 0, 0], [0, 0, 0], [100, 0, 0], [100, 0, 0]]
    assert (drawn[500:] == 200).all()
    assert not class_edges(np.zeros((1, 1), int)).any()


@pytest.mark.parametrize(
    ("height", "width"), [(96, 128), (720, 960), (10, 1000), (2000, 3), (1, 1), (300, 481), (256, 256), (100, 4096)]
)
def test_pictures_keep_their_shape_and_their_smaller_side_can_be_seen(height, width):
    new_width, new_height = picture_size(height, width)
    assert max(new_width, new_height) <= MAX_PICTURE_SIDE
    assert min(new_width, new_height) >= MIN_PICTURE_SIDE or max(new_width, new_height) == MAX_PICTURE_SIDE
    scale = max(new_height, new_width) / max(height, width)
    assert (new_height, new_width) == pytest.approx((height * scale, width * scale), abs=1)


def test_ids_of_another_size_are_ids_of_the_nearest_pixel():
    ids = np.array([[0, 1], [2, IGNORE]])
    assert resize_nearest(ids, (4, 2)).tolist() == [[0, 0, 1, 1], [2, 2, 255, 255]]
    assert resize_nearest(resize_nearest(ids, (6, 6)), (2, 2)).tolist() == ids.tolist()


# --- predictions ----------------------------------------------------------------------------------------------------


def test_the_four_panels_of_a_row():
    image = np.full((2, 2, 3), 100, np.uint8)
    truth, predicted = np.array([[0, 0], [1, IGNORE]]), np.array([[0, 1], [1, 0]])
    panels = prediction_panels(image, truth, predicted, Drawn())
    assert [panel.title for panel in panels] == ["image", "ground truth", "prediction", "where it is wrong"]
    four = [np.asarray(panel.picture) for panel in panels]
    scale = four[0].shape[0] // 2
    assert scale == MIN_PICTURE_SIDE // 2
    corners = [picture[scale // 2 :: scale, scale // 2 :: scale] for picture in four]  # one pixel of each enlarged one
    assert (corners[0] == 100).all()
    assert corners[1][1, 0].tolist() == [200, 1, 7]
    assert corners[2][0, 1].tolist() == [200, 1, 7]
    assert corners[3][0].tolist() == [[40, 40, 40], list(WRONG_COLOUR)]
    assert corners[3][1, 0].tolist() == [40, 40, 40]
    for picture in (four[1], four[3]):
        assert colours_in(picture[scale:, scale:]) == set(VOID_STRIPES)
    assert (image == 100).all()


def test_the_sheet_shows_every_row_and_every_class(tmp_path):
    picture = drawn(tmp_path, Drawn(classes=3), count=2)
    one = drawn(tmp_path, Drawn(classes=3), count=1)
    assert picture.mode == "RGB"
    assert picture.height > one.height
    colours = {colour for _, colour in picture.getcolors(2**20)}
    assert {(200, 0, 7), (200, 1, 7), (200, 2, 7), *VOID_STRIPES, WRONG_COLOUR} <= colours
    assert picture.width >= 4 * MIN_PICTURE_SIDE


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (200, 2)])
def test_images_of_any_size_and_number_of_channels_can_be_shown(size, tmp_path):
    for channels in (1, 2, 3, 5):
        picture = drawn(tmp_path, Drawn(size, channels), count=1)
        assert picture.height > 2 * line_height(text_size(picture.width))


@pytest.mark.parametrize("name", ["道路", "été", "дорога", "", "a" * 200, "two\nlines"])
def test_a_class_may_be_called_anything(name, tmp_path):
    drawn(tmp_path, Drawn(name=name), count=1)


def test_a_long_legend_names_the_classes_that_are_shown(tmp_path):
    few, many = (drawn(tmp_path, Drawn(classes=classes), count=1) for classes in (2, 200))
    assert many.height == few.height  # both show class 0 and the last one
    assert [entry.name for entry in class_legend(Drawn(classes=3), [0])] == ["c 0", "c 1", "c 2", VOID_NAME]
    long = class_legend(Drawn(classes=200), {0, 7, IGNORE}, errors=True)
    assert [entry.name for entry in long] == ["c 0", "c 7", WRONG_NAME, VOID_NAME]


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


# --- sheets ---------------------------------------------------------------------------------------------------------


def panel_of(width: int, title: str = "a", scale_top: float | None = None) -> Panel:
    return Panel(title, Image.new("RGB", (width, 20), (1, 2, 3)), scale_top)


def test_panels_beyond_the_columns_go_to_another_line():
    one, two, long = (draw_sheet([PanelRow("x", [panel_of(300)] * n)], []) for n in (1, MAX_COLUMNS, MAX_COLUMNS + 1))
    assert one.width < two.width == long.width
    assert two.height < long.height


def test_a_sheet_can_be_read_where_it_is_as_wide_as_a_phone():
    for width in (600, 1100, 1600, 2000):
        assert text_size(width) * 390 / width >= 8
    assert text_size(100) >= 12


def test_a_title_that_is_too_long_is_broken_and_keeps_its_end():
    font = load_font(20)
    whole = "weak view: shapes/train/000279"
    width = int(font.getlength(whole[-12:]))
    short = cut_start(whole, width, font)
    assert short.startswith("…")
    assert whole.endswith(short[1:])
    assert 0.7 * width < font.getlength(short) <= width
    assert cut_start(whole, 10_000, font) == whole
    lines = wrap_text(f"{whole} {'x' * 50}", 100, font)
    assert "".join(lines).replace(" ", "") == f"{whole}{'x' * 50}".replace(" ", "")
    assert all(font.getlength(line) <= 100 for line in lines)
    title, _ = draw_panel(panel_of(100, whole * 9), 20)
    assert title.height == TITLE_LINES * line_height(20)


def test_values_have_a_scale_bar_below_them():
    _, plain = draw_panel(panel_of(200), 20)
    _, with_bar = draw_panel(panel_of(200, scale_top=0.25), 20)
    assert with_bar.height > plain.height
    assert {VALUE_COLOURS[0], VALUE_COLOURS[-1]} <= colours_in(with_bar)
    assert VALUE_COLOURS[0] not in colours_in(plain)


def test_a_table_wraps_what_is_long_and_bars_are_in_proportion():
    short, long = (draw_table([("losses", text)], 600) for text in ("1", "supervised 0.1, " * 30))
    assert short.width == long.width == 600
    assert long.height > 4 * short.height
    bars = np.asarray(draw_class_bars("share", [0.75, 0.25, 0.0], Drawn(classes=3), "{:.2f}".format, 800))
    lengths = [int((bars == colour).all(axis=2).any(axis=0).sum()) for colour in Drawn(classes=3).colours]
    assert lengths[0] == pytest.approx(3 * lengths[1], abs=8)
    assert lengths[2] <= 1


def test_a_photo_has_three_channels():
    assert photo(np.full((2, 2, 1), 9.7)).tolist() == [[[9] * 3] * 2] * 2
    assert photo(np.zeros((2, 2, 5), np.uint8)).shape == (2, 2, 3)


def test_a_legend_takes_as_few_lines_as_its_names_need():
    """The names follow each other as words do: one long one does not widen the others."""
    assert flow_positions([40, 40, 40, 100, 10], 100) == [(0, 0), (40, 0), (0, 1), (0, 2), (0, 3)]
    assert flow_positions([300, 10], 100) == [(0, 0), (0, 1)]
    swatch = np.zeros((64, 64, 3), np.uint8)
    legend = [LegendEntry(name, swatch) for name in ("void, not counted", *"abcdefgh")]
    one_line = draw_legend(legend[1:], 800, 20).height
    assert draw_legend(legend, 800, 20).height == one_line
    assert draw_legend(legend, 300, 20).height > one_line
    assert draw_legend([], 300, 20).width == 300
