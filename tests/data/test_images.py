"""Image files of every depth and number of channels, and what the images say of themselves."""

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.errors import refusal
from helpers.folders import open_as_run
from helpers.images import save_png16
from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.resolve import resolve
from ssss_zoo.data.decoders import decode_eight_bits
from ssss_zoo.data.images import Reading, image_size, read_header, read_image, stretch_range
from ssss_zoo.data.loading.crops import CropDataset, crop_image, draw_geometry
from ssss_zoo.data.tools.audit import audit

BANDS = np.arange(3 * 4 * 6, dtype=np.uint16).reshape(3, 4, 6) * 900  # (H, W, bands), 0 to 63900
WIDE = Reading(6, (), (0,), (63900,))


def tiff(path, pixels, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, **more)
    return path


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "more"),
    [
        ((0, 1, 2), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((0, 1, 2), {"photometric": "minisblack", "planarconfig": "contig", "compression": "lzw"}),
        ((0, 1, 2), {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16), "compression": "zlib"}),
    ],
    ids=["samples", "planes", "lzw", "tiles"],
)
def test_bands_of_a_tiff(tmp_path, order, more):
    path = tiff(tmp_path / "a.tif", BANDS.transpose(order), **more)
    pixels = read_image(path, WIDE)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, BANDS / 63900 * 255, rtol=1e-6)
    assert image_size(path, WIDE) == (3, 4)


def test_pages_of_a_tiff_are_bands(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for band in range(6):
            writer.write(BANDS[..., band], contiguous=True, photometric="minisblack")
    np.testing.assert_allclose(read_image(path, WIDE), BANDS / 63900 * 255, rtol=1e-6)


def test_chosen_bands_count_from_one(tmp_path):
    path = tiff(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    np.testing.assert_allclose(
        read_image(path, Reading(2, (6, 1), (0,), (63900,))), BANDS[..., [5, 0]] / 63900 * 255, rtol=1e-6
    )
    refusal(lambda: read_image(path, Reading(1, (7,), (0,), (1,))), "data.channels=[7]", "6 channels")
    refusal(lambda: read_image(path, Reading(3, (), (0,), (1,))), "6 channels", "model.in_channels=6", "data.channels")


def test_bands_of_an_8_bit_image(tmp_path):
    rgb = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", Reading(1, (3,)))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, rgb[..., 2:])


def test_many_8_bit_bands_stay_as_they_are(tmp_path):
    eight = (BANDS // 900).astype(np.uint8)
    path = tiff(tmp_path / "a.tif", eight, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(path, Reading(6)), eight)
    assert not read_header(path).depth


def test_16_bits_of_a_coloured_png_are_all_kept(tmp_path):
    rgb = np.array([[[0, 1, 2], [257, 300, 65535]]], np.uint16)  # 1 and 2 differ from 0 in the lower byte alone
    path = save_png16(tmp_path / "a.png", rgb)
    assert read_header(path).depth == "16-bit"
    np.testing.assert_allclose(read_image(path, Reading(3, (), (0,), (65535,))), rgb / 65535 * 255, rtol=1e-6)
    assert image_size(path, Reading(3, (), (0,), (65535,))) == (1, 2)


def test_16_bits_of_a_grey_png_and_of_a_coloured_tiff(tmp_path):
    grey = np.array([[0, 1000, 2000]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    expected = np.repeat(grey[..., None], 3, axis=2) / 2000 * 255
    np.testing.assert_allclose(read_image(tmp_path / "a.png", Reading(3, (), (0,), (2000,))), expected, rtol=1e-6)
    rgb = tiff(tmp_path / "b.tif", np.repeat(grey[..., None], 3, axis=2), photometric="rgb")
    np.testing.assert_allclose(read_image(rgb, Reading(3, (), (0,), (2000,))), expected, rtol=1e-6)


def test_deep_image_is_turned_upright(tmp_path):
    grey = np.array([[1, 2, 3]], np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    reading = Reading(1, (), (0,), (255,))
    assert read_image(tmp_path / "a.png", reading)[..., 0].tolist() == [[1], [2], [3]]
    assert image_size(tmp_path / "a.png", reading) == (3, 1)


def test_what_is_no_number_is_dark(tmp_path):
    path = tiff(tmp_path / "a.tif", np.array([[np.nan, -1, 0.5, 9]], np.float32))
    assert read_image(path, Reading(1, (), (0,), (1,)))[0, :, 0].tolist() == [0, 0, 127.5, 255]


def test_broken_tiff_is_named(tmp_path):
    path = tiff(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    path.write_bytes(path.read_bytes()[:60])
    refusal(lambda: read_image(path, WIDE), "a.tif", "cannot read")
    volume = tiff(tmp_path / "b.tif", np.zeros((2, 3, 4, 5), np.uint16), photometric="minisblack")
    refusal(lambda: read_image(volume, WIDE), "b.tif", "2x3x4x5")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20), st.integers(0, 60000), st.integers(1, 5000))
def test_stretching_keeps_the_order_and_stays_in_range(values, low, width):
    pixels = np.array(values, np.uint16).reshape(1, -1, 1)
    out = stretch_range(pixels, Reading(1, (), (low,), (low + width,))).ravel()
    assert out.min() >= 0
    assert out.max() <= 255
    assert (np.diff(out[np.argsort(values, kind="stable")]) >= 0).all()


# --- a data set of them ---------------------------------------------------------------------------------------------


@pytest.fixture
def bands(tmp_path):
    """Ten images of four 12-bit bands: dark ground, and a square that only the last band shows."""
    rng = np.random.default_rng(0)
    for index in range(10):
        pixels, mask = rng.integers(100, 400, (40, 48, 4)), np.zeros((40, 48), np.uint8)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 16, left : left + 16] = 1
        pixels[mask == 1, 3] += 3000
        tiff(
            tmp_path / f"images/{index}.tif", pixels.astype(np.uint16), photometric="minisblack", planarconfig="contig"
        )
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{index}.png")
    (tmp_path / "classes.txt").write_text("ground\nsquare\n")
    return tmp_path


def test_range_and_statistics_come_from_the_training_images(bands):
    config, dataset = open_as_run(f"data.root={bands}", "model.in_channels=4")
    low, high = np.array(config.data.low), np.array(config.data.high)
    assert ((low >= 100) & (low < 110)).all()
    assert ((high[:3] > 390) & (high[:3] < 400)).all()
    assert 3000 < high[3] < 3400
    pixels = np.stack([dataset.read_image(sample) for sample in dataset.labelled]) / 255
    np.testing.assert_allclose(config.model.mean, pixels.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(config.model.std, pixels.std(axis=(0, 1, 2)), atol=1e-5)
    assert any("images deeper than 8 bits" in note for note in dataset.notes)


def test_given_range_and_statistics_stay(bands):
    words = ["data.low=0", "data.high=4095", "model.mean=[0.1,0.1,0.1,0.1]", "model.std=[1,1,1,1]"]
    config, dataset = open_as_run(f"data.root={bands}", "data.channels=1,2,3,4", *words)
    assert (config.data.low, config.data.high, config.model.mean) == ([0], [4095], [0.1] * 4)
    assert dataset.read_image(dataset.labelled[0]).max() <= 255 * 3400 / 4095


def test_channels_are_counted_for_the_network(bands):
    config, dataset = open_as_run(f"data.root={bands}", "data.channels=[4,1]")
    assert config.model.in_channels == 2
    assert dataset.read_image(dataset.val[0]).shape == (40, 48, 2)
    refusal(lambda: resolve(["dataset=folder", "data.channels=[1,2]", "model.in_channels=3"]), "data.channels=[1, 2]")
    refusal(lambda: resolve(["dataset=folder", "data.low=[1,2]", "data.high=[3,4]"]), "data.low", "model.in_channels")
    refusal(lambda: resolve(["dataset=folder", "data.low=5", "data.high=5"]), "data.low=[5.0]")
    refusal(lambda: resolve(["dataset=folder", "data.low=5"]), "data.low=[5.0]")


def test_image_of_another_depth_is_found_by_the_check(bands):
    tiff(bands / "images/3.tif", np.zeros((40, 48, 4), np.uint8), photometric="minisblack", planarconfig="contig")
    _, dataset = open_as_run(f"data.root={bands}", "model.in_channels=4")
    faults = [fault for fault in audit(dataset, (32, 32), 4).faults if fault.level == "unusable"]
    assert [fault.name for fault in faults] == ["images/3.tif"]
    assert "8-bit image" in faults[0].message


def test_crops_of_deep_images_keep_their_precision(bands):
    _, dataset = open_as_run(f"data.root={bands}", "model.in_channels=4")
    item = CropDataset(dataset, dataset.labelled, (24, 24), (1.0, 1.0), 0, "labelled", masks=True)[0]
    assert item["image"].dtype.is_floating_point
    assert len(item["image"].unique()) > 256


def test_deep_crop_equals_the_8_bit_one_but_for_rounding():
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    geometry = draw_geometry((30, 40), (16, 16), (0.6, 1.4), np.random.default_rng(2))
    difference = crop_image(image.astype(np.float32), geometry) - crop_image(image, geometry)
    assert abs(difference).max() <= 1.0


@pytest.mark.long
def test_run_on_bands_writes_its_statistics_and_repeats(bands, tmp_path):
    out = tmp_path / "out"
    words = [f"data.root={bands}", "data.channels=1,2,3,4", "train.steps=2", "train.crop=32", "train.batch=2"]
    words += ["model.weights=none", "tracking.uri=off", "train.threads=1"]
    assert command_line(["run", "method=fixmatch", "dataset=folder", *words, f"output={out}"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())["data"]
    assert len(metrics["low"]) == len(metrics["high"]) == len(metrics["mean"]) == len(metrics["std"]) == 4
    assert metrics["high"][3] > 3000
    again = resolve([], out / "config.yaml")
    assert again.data.low == metrics["low"]
    assert command_line(["evaluate", f"run={out}"]) == 0


# --- the quick decoder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"quality": 60}),
        ("jpg", {"quality": 95, "subsampling": 0}),
        ("jpg", {"progressive": True}),
        ("png", {}),
        ("png", {"compress_level": 0}),
    ],
)
def test_quick_decoding_gives_pillows_pixels(tmp_path, mode, suffix, options):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).resize((53, 37)).convert(mode).save(path, **options)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode_eight_bits(image, path).squeeze(), np.array(image))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_what_is_not_quick_is_pillows(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).convert("L").convert(mode).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode_eight_bits(image, path).squeeze(), np.array(image))


def test_transparent_colour_of_a_png_stays_a_colour(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)).save(path, transparency=(0, 1, 2))
    assert read_image(path, Reading(3)).shape == (3, 4, 3)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_jpeg_that_lacks_its_end_is_refused(tmp_path, share):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0\0")  # some cameras fill up
    read_image(path, Reading(3))
    path.write_bytes(whole[: int(len(whole) * share)])
    refusal(lambda: read_image(path, Reading(3)), "a.jpg", "cannot read")
