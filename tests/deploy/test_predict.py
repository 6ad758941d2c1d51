"""`ssss predict`: from files to masks."""

from __future__ import annotations

import csv
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image

from helpers.images import save_image
from helpers.trained_models import pointwise_model
from ssss_zoo.commands.cli import main
from ssss_zoo.data import images
from ssss_zoo.data.images import Reading, read_image
from ssss_zoo.data.tiff import YCBCR
from ssss_zoo.deploy import predict, tiff_windows
from ssss_zoo.deploy.image_sources import find_images
from ssss_zoo.deploy.inference import predict_pixels
from ssss_zoo.deploy.predict import predict_files
from ssss_zoo.deploy.predict_settings import PredictSettings
from ssss_zoo.deploy.tiff_windows import open_tiff_windows
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.painting import OVERLAY_OPACITY, draw_overlay


@pytest.fixture
def pointwise(monkeypatch):
    """`run=` of any name is the model of `pointwise_model`."""
    monkeypatch.setattr(predict, "open_model", lambda *arguments: pointwise_model())


@pytest.fixture
def colours() -> np.ndarray:
    """(20, 30, 3) random pixels."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    return ["run=any", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", *more]


def table(tmp_path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((tmp_path / "out/predictions.csv").open()))


# --- tiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [8, 13, 20, 64])
def test_tiles_of_a_pointwise_network_blend_to_the_whole(colours, tile):
    settings = PredictSettings()
    model = pointwise_model()
    whole = predict_pixels(model, settings, [colours])[0]
    tiled = PredictSettings(tile=tile, overlap=0.3)
    torch.testing.assert_close(predict_pixels(model, tiled, [colours])[0], whole, atol=1e-6, rtol=0)


def test_mirrored_and_rescaled_images_are_averaged(colours):
    flat = np.broadcast_to(np.uint8([200, 10, 10]), (8, 8, 3)).copy()
    model = pointwise_model()
    both = PredictSettings(flip=True, scales=[0.5, 1.0, 2.0])
    plain = PredictSettings()
    for image, scaled in ((flat, both), (colours, PredictSettings(flip=True))):
        expected = predict_pixels(model, plain, [image])[0]
        torch.testing.assert_close(predict_pixels(model, scaled, [image])[0], expected, atol=1e-5, rtol=0)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pointwise")
def test_masks_keep_names_and_folders(tmp_path, colours):
    for name in ("a.png", "deep/er/b.bmp", "same.png", "same.bmp"):
        save_image(tmp_path / "in" / name, colours)
    result = predict_files(arguments(tmp_path))
    masks = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert masks == ["masks/a.png", "masks/deep/er/b.png", "masks/same.bmp.png", "masks/same.png.png"]
    assert result.predicted == 4
    mask = Image.open(tmp_path / "out/masks/a.png")
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), colours.argmax(axis=2))
    assert mask.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "masks",
        "predictions.csv",
        "predictions.json",
    ]


@pytest.mark.usefixtures("pointwise")
def test_shares_and_confidence_by_hand(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, :, 0] = 255
    pixels[1, 0, 1] = 255
    pixels[1, 1, 2] = 255
    save_image(tmp_path / "in/a.png", pixels)
    predict_files(arguments(tmp_path))
    confidence = np.exp(4) / (np.exp(4) + 2)
    assert table(tmp_path) == [
        {"file": "a.png", "width": "2", "height": "2", "share red": "0.500000", "share green": "0.250000",
         "share blue": "0.250000", "mean confidence": f"{confidence:.6f}"}
    ]  # fmt: skip


@pytest.mark.usefixtures("pointwise")
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_predicted(tmp_path, colours):
    save_image(tmp_path / "in/a.png", colours)
    save_image(tmp_path / "in/c.png", colours)
    save_image(tmp_path / "in/four.png", np.dstack([colours[..., :1], colours[..., :1]]))
    (tmp_path / "in/b.png").write_bytes(b"no image")
    done = CliRunner().invoke(main, ["predict", *arguments(tmp_path)])
    assert done.exit_code == 1
    assert "b.png: not an image, or damaged" in done.stderr
    assert "3 images predicted by pointwise, 1 file not readable" in done.stdout
    assert [row["file"] for row in table(tmp_path)] == ["a.png", "c.png", "four.png"]


@pytest.mark.usefixtures("pointwise")
def test_each_image_is_decoded_once_and_the_table_is_written_now_and_then(tmp_path, monkeypatch, colours):
    for index in range(20):
        save_image(tmp_path / f"in/{index:02}.jpg", colours)
    opened, written = [], []
    open_file, write_rows = images.open_unmapped, predict.write_rows
    monkeypatch.setattr(images, "open_unmapped", lambda path: opened.append(path.name) or open_file(path))
    monkeypatch.setattr(
        predict, "write_rows", lambda file, rows, names: written.append(len(rows)) or write_rows(file, rows, names)
    )
    predict_files(arguments(tmp_path))
    assert sorted(opened) == [f"{index:02}.jpg" for index in range(20)]
    assert written == [20]
    monkeypatch.setattr(predict, "TABLE_SECONDS", 0)
    predict_files(arguments(tmp_path, "overwrite=true"))
    assert len(written) > 2
    assert written[-1] == 20


@pytest.mark.usefixtures("pointwise")
def test_nothing_is_replaced_unless_asked_and_resume_goes_on(tmp_path, colours):
    save_image(tmp_path / "in/a.png", colours)
    save_image(tmp_path / "in/b.png", colours)
    predict_files(arguments(tmp_path))
    mask = tmp_path / "out/masks/a.png"
    with pytest.raises(UserError, match="exists: continue with resume=true, replace with overwrite=true"):
        predict_files(arguments(tmp_path))
    before, rows = mask.stat().st_mtime_ns, table(tmp_path)
    (tmp_path / "out/masks/b.png").unlink()
    result = predict_files(arguments(tmp_path, "resume=true"))
    assert (result.predicted, result.skipped) == (1, 1)
    assert mask.stat().st_mtime_ns == before
    assert table(tmp_path) == rows
    assert predict_files(arguments(tmp_path, "overwrite=true")).predicted == 2


@pytest.mark.usefixtures("pointwise")
def test_what_is_saved_is_what_was_asked_for(tmp_path, colours):
    save_image(tmp_path / "in/a.png", np.kron(colours[:3, :4], np.ones((8, 8, 1), np.uint8)))
    predict_files(arguments(tmp_path, "save=overlays,probabilities,uncertainty,polygons"))
    out = tmp_path / "out"
    probs = np.load(out / "probabilities/a.npz")["probabilities"]
    assert probs.shape == (3, 24, 32)
    np.testing.assert_allclose(probs.astype(np.float32).sum(axis=0), 1, atol=2e-3)
    assert Image.open(out / "overlays/a.jpg").size == (32, 24)
    likely = probs.astype(np.float64)
    entropy = -(likely * np.log(np.maximum(likely, 1e-12))).sum(axis=0) / np.log(3)
    np.testing.assert_allclose(np.asarray(Image.open(out / "uncertainty/a.png")), 255 * entropy, atol=1)
    shapes = json.loads((out / "polygons/a.json").read_text())["shapes"]
    assert {shape["label"] for shape in shapes} <= {"red", "green", "blue"}
    assert all(len(shape["points"]) > 2 for shape in shapes)


# --- large TIFFs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{"tile": (16, 16)}, {"rowsperstrip": 7}, {"tile": (16, 32), "compression": "zlib"}])
def test_a_tiff_in_windows_is_predicted_as_a_whole_one(tmp_path, monkeypatch, pointwise, layout):
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", pixels, photometric="rgb", **layout)
    monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    predict_files(arguments(tmp_path, "tile=32"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks/a.png")), pixels.argmax(axis=2))
    assert float(table(tmp_path)[0]["share red"]) == pytest.approx((pixels.argmax(axis=2) == 0).mean(), abs=1e-6)


def test_a_tiff_in_windows_moves_the_progress_with_each_row_of_tiles(tmp_path, monkeypatch, pointwise):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", np.zeros((128, 40, 3), np.uint8), photometric="rgb", rowsperstrip=8)
    monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    shares: list[float] = []
    monkeypatch.setattr(predict, "show_images", lambda total, title: nullcontext(shares.append))
    predict_files(arguments(tmp_path, "tile=32"))
    assert len(shares) > 3
    assert all(0 < share < 0.5 for share in shares)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_told_and_the_others_are_predicted(tmp_path, pointwise):
    save_image(tmp_path / "in/a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in" / os.fsdecode(b"\xe9.png")).write_bytes((tmp_path / "in/a.png").read_bytes())
    result = predict_files(arguments(tmp_path, "save=polygons", "polygons=coco"))
    assert result.predicted == 1
    assert "in/\\udce9.png has a name that is not in UTF-8: rename the file" in result.unreadable[0]
    assert [row["file"] for row in table(tmp_path)] == ["a.png"]


def test_a_tiff_of_jpeg_tiles_is_read_in_windows(tmp_path, monkeypatch):
    """Aerial images and slides are stored so: YCbCr, which the decoder makes RGB, with smaller copies behind."""
    monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    pixels = np.kron(np.random.default_rng(1).integers(0, 256, (7, 9, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for level, part in enumerate((pixels, pixels[::2, ::2])):
            writer.write(part, photometric="rgb", tile=(32, 48), compression="jpeg", subfiletype=level, metadata=None)
    with open_tiff_windows(path, Reading()) as windows:
        rows, missing = windows.read_rows(20, 90)
    assert tifffile.TiffFile(path).pages.first.photometric == YCBCR
    np.testing.assert_array_equal(rows, read_image(path, Reading())[20:90])
    assert np.abs(rows.astype(int) - pixels[20:90]).mean() < 20
    assert missing is None


def test_windows_are_read_as_the_whole_image_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    values = np.random.default_rng(2).integers(0, 4000, (40, 30, 4)).astype(np.uint16)
    values[3, 4] = 0
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", rowsperstrip=6)
    reading = Reading(channels=3, bands=(1, 2, 4), low=(0.0,), high=(3000.0,), nodata=(0.0,), gaps=True)
    with open_tiff_windows(path, reading) as windows:
        rows, missing = windows.read_rows(2, 25)
    np.testing.assert_array_equal(rows, read_image(path, reading)[2:25])
    assert [tuple(place) for place in np.argwhere(missing)] == [(1, 4)]


@pytest.mark.parametrize("windowed", [False, True])
def test_a_georeference_and_pixels_without_data_are_kept(tmp_path, monkeypatch, windowed):
    """The mask is a GeoTIFF with the tags of the image, void where the image has no data, and says so by GDAL's tag."""
    model = replace(pointwise_model(), reading=Reading(tags=True, gaps=True))
    monkeypatch.setattr(predict, "open_model", lambda *arguments: model)
    if windowed:
        monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    pixels = np.random.default_rng(1).integers(1, 256, (150, 70, 3), np.uint8)
    pixels[10:40, 5:] = 0
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5800000.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
    ]
    (tmp_path / "in").mkdir()
    options = {"photometric": "rgb", "rowsperstrip": 9, "metadata": None}
    tifffile.imwrite(tmp_path / "in/a.tif", pixels, **options, extratags=[*tags, (42113, 2, 2, "0", True)])
    predict_files(arguments(tmp_path, "tile=32"))
    with tifffile.TiffFile(tmp_path / "out/masks/a.tif") as file:
        page = file.pages.first
        assert [(code, page.tags[code].value) for code, *_ in tags] == [(code, value) for code, _, _, value, _ in tags]
        assert page.tags[42113].value == "255"
        assert page.colormap[:, 0].tolist() == [65535, 0, 0]
        mask = page.asarray()
    expected = pixels.argmax(axis=2)
    expected[10:40, 5:] = 255
    np.testing.assert_array_equal(mask, expected)
    assert float(table(tmp_path)[0]["share green"]) == pytest.approx(
        (expected == 1).sum() / (expected < 255).sum(), abs=1e-6
    )
    (tmp_path / "out/predictions.csv").rename(tmp_path / "kept.csv")
    with pytest.raises(UserError, match=r"a\.tif exists"):
        predict_files(arguments(tmp_path, "tile=32"))
    (tmp_path / "kept.csv").rename(tmp_path / "out/predictions.csv")
    assert predict_files(arguments(tmp_path, "tile=32", "resume=true")).skipped == 1


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pointwise")
def test_mistakes_are_one_line(tmp_path, colours):
    save_image(tmp_path / "in/a.png", colours)
    (tmp_path / "empty").mkdir()
    good = arguments(tmp_path)
    cases = {
        "unknown key 'overlpa'; did you mean 'overlap'?": [*good, "overlpa=0.2"],
        "expected key=value, got 'photos'": [*good, "photos"],
        "give input=: ssss predict run=DIR input=PATH output=DIR": [good[0], good[2]],
        f"input={tmp_path / 'empty'}: no images there": [*good, f"input={tmp_path / 'empty'}"],
        f"input={tmp_path / 'none'}: no such file or folder": [*good, f"input={tmp_path / 'none'}"],
        f"output={tmp_path / 'in/out'} lies inside input=": [*good, f"output={tmp_path / 'in/out'}"],
        "save must be one of overlays, probabilities, uncertainty, polygons; got 'overlay'": [*good, "save=overlay"],
        "tile takes a whole number; got 'big'": [*good, "tile=big"],
        "flip takes true or false; got 'often'": [*good, "flip=often"],
    }
    for message, words in cases.items():
        done = CliRunner().invoke(main, ["predict", *words])
        assert done.exit_code == 2, message
        assert done.stderr.startswith(f"ssss: {message}"), done.stderr


@pytest.mark.usefixtures("pointwise")
def test_a_folder_of_masks_is_named(tmp_path, warnings):
    save_image(tmp_path / "in/a.png", np.array([[0, 1], [2, 255]], np.uint8))
    predict_files(arguments(tmp_path))
    assert any("looks like a folder of masks" in line for line in warnings())


def test_a_list_and_a_pattern_name_images(tmp_path, colours):
    for name in ("a.png", "b/c.png"):
        save_image(tmp_path / name, colours)
    (tmp_path / "list.txt").write_text("b/c.png\n\na.png\n")
    assert [image.name for image in find_images(str(tmp_path / "list.txt"))] == ["b/c", "a"]
    assert [image.name for image in find_images(str(tmp_path / "**/*.png"))] == ["a", "b/c"]
    (tmp_path / "b/list.txt").write_text(f"../a.png\nc.png\n{tmp_path / 'a.png'}\n")
    assert [image.name for image in find_images(str(tmp_path / "b/list.txt"))] == ["a", "b/c"]


def test_an_overlay_mixes_colours_and_image_and_leaves_pixels_without_data(colours):
    classes = np.where(np.arange(30) < 20, 1, 255).astype(np.uint8)[None].repeat(20, axis=0)
    shown = np.asarray(draw_overlay(colours, classes, [(255, 0, 0), (0, 255, 0)])).astype(int)
    mixed = (1 - OVERLAY_OPACITY) * colours + OVERLAY_OPACITY * np.array([0, 255, 0])
    np.testing.assert_allclose(shown[:, :19], mixed[:, :19], atol=1)
    np.testing.assert_array_equal(shown[:, 19], np.broadcast_to([0, 255, 0], (20, 3)))  # the edge of the class
    np.testing.assert_array_equal(shown[:, 20:], colours[:, 20:])
