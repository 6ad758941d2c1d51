"""What written masks hold: class ids, or what the training masks held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.trained_models import pointwise_model
from ssss_zoo.data.folder.mask_encoding import MaskEncoding
from ssss_zoo.data.images import Reading
from ssss_zoo.deploy.geotiff import write_geotiff
from ssss_zoo.deploy.mask_format import choose_mask_format, write_png
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

RED, GREEN, BLUE, BLACK = 0xFF0000, 0x00FF00, 0x0000FF, 0
ENCODINGS = {
    "ids": MaskEncoding("ids", {}),
    "values": MaskEncoding("values", {0: 0, 128: 1, 255: 2, 7: 255}),
    "a value of void to choose": MaskEncoding("values", {0: 0, 128: 1, 255: 2}),
    "two values of a class": MaskEncoding("values", {5: 0, 6: 0, 128: 1, 250: 2}),
    "16 bits": MaskEncoding("values", {0: 0, 1000: 1, 60000: 2}, ignored=(9,)),
    "colours": MaskEncoding("colours", {RED: 0, GREEN: 1, BLACK: 2, BLUE: 255}),
    "a colour of void to choose": MaskEncoding("colours", {RED: 0, GREEN: 1, BLACK: 2}),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("geotiff", [False, True])
def test_masks_are_read_back_as_the_classes_by_the_encoding_of_the_training_masks(name, geotiff, tmp_path):
    encoding = replace(ENCODINGS[name], reading=Reading())
    model = replace(pointwise_model(), mask_values=encoding.record())
    classes = np.random.default_rng(0).integers(0, 3, (6, 5), np.uint8)
    mask_format = choose_mask_format("training", model)
    file = tmp_path / ("mask.tif" if geotiff else "mask.png")
    bands = [classes[:4], classes[4:]]
    if geotiff:
        write_geotiff(file, classes.shape, bands, mask_format, ())
    else:
        write_png(file, classes.shape, bands, mask_format)
    np.testing.assert_array_equal(encoding.read(Sample("mask", None, file)), classes)


def test_void_has_the_value_that_it_had_or_one_that_no_class_has():
    found = {}
    for name, encoding in ENCODINGS.items():
        table = choose_mask_format("training", replace(pointwise_model(), mask_values=encoding.record())).table
        found[name] = 255 if table is None else table[255].tolist()
    assert found == {
        "ids": 255,
        "values": 7,
        "a value of void to choose": 65535,
        "two values of a class": 255,
        "16 bits": 9,
        "colours": [0, 0, 255],
        "a colour of void to choose": [255, 255, 255],
    }


def test_ids_have_a_palette_whatever_the_training_masks_held(tmp_path):
    model = replace(pointwise_model(), mask_values=ENCODINGS["values"].record())
    for write, name in ((write_png, "mask.png"), (write_geotiff, "mask.tif")):
        more = ((),) if write is write_geotiff else ()
        write(tmp_path / name, (1, 2), [np.array([[0, 2]], np.uint8)], choose_mask_format("ids", model), *more)
        image = Image.open(tmp_path / name)
        assert image.mode == "P"
        assert image.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
        assert np.asarray(image).tolist() == [[0, 2]]


def test_training_masks_that_are_not_known_or_fit_no_png_are_one_line():
    with pytest.raises(UserError, match="does not say what its training masks held"):
        choose_mask_format("training", pointwise_model())
    for value in (-1, 70000):
        encoding = MaskEncoding("values", {0: 0, 1: 1, value: 2})
        with pytest.raises(UserError, match=f"the value {value}; a PNG holds 0 to 65535"):
            choose_mask_format("training", replace(pointwise_model(), mask_values=encoding.record()))


def test_values_of_16_bits_are_a_png_that_pillow_reads(tmp_path):
    model = replace(pointwise_model(), mask_values=ENCODINGS["16 bits"].record())
    classes = np.array([[0, 1, 2]], np.uint8)
    write_png(tmp_path / "mask.png", (1, 3), [classes], choose_mask_format("training", model))
    assert np.asarray(Image.open(tmp_path / "mask.png")).tolist() == [[0, 1000, 60000]]
