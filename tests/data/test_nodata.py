"""Pixels without data, ranges, depths that differ, and the notes on the images of a folder."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.errors import refusal
from helpers.folders import open_as_run
from ssss_zoo.config.resolve import resolve
from ssss_zoo.data.images import Reading, read_image, read_stored_values, read_valid
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.data.loading.crops import CropDataset
from ssss_zoo.data.loading.statistics import find_nodata_values
from ssss_zoo.data.tools.audit import audit
from ssss_zoo.toolkit.types import IGNORE

MARGIN = 6  # rows without data


def folder(root, write, suffix="tif", unlabelled=3):
    """Six pairs and some unlabelled images of 24x32, written by `write(path, grey (H, W) 0 to 255, number)`."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "unlabelled"):
        (root / name).mkdir(parents=True)
    for number in range(6 + unlabelled):
        grey, mask = rng.uniform(20, 100, (24, 32)), np.zeros((24, 32), np.uint8)
        mask[10:20, 5:25], grey[10:20, 5:25] = 1, grey[10:20, 5:25] + 100
        part = "images" if number < 6 else "unlabelled"
        write(root / part / f"{number}.{suffix}", grey, number)
        if number < 6:
            Image.fromarray(mask).save(root / f"masks/{number}.png")
    return root


def margin(value, kind, tag=None):
    def write(path, grey, number):
        pixels = (grey * {"float32": 1 / 255, "uint8": 1}.get(kind, 10)).astype(kind)
        pixels[:MARGIN] = value
        tags = [(42113, 2, 0, str(tag), True)] if tag is not None else []
        tifffile.imwrite(path, pixels, photometric="minisblack", extratags=tags, metadata=None)

    return write


def dataset_of(root, *words):
    return open_as_run(f"data.root={root}", "model.in_channels=1", *words)


@pytest.mark.parametrize(
    ("value", "kind", "tag", "words"),
    [
        (-9999, "float32", None, ()),
        (-3.4028234663852886e38, "float32", None, ()),
        (1e20, "float32", None, ()),
        (np.nan, "float32", None, ()),
        (np.inf, "float32", None, ()),
        (65535, "uint16", None, ()),
        (-32768, "int16", None, ()),
        (-1, "float32", -1, ()),  # too near to be found: the tag says it
        (0, "uint16", "0", ()),
        (0, "uint8", "0 ", ()),
        (0, "uint16", None, ("data.nodata=0",)),
        (255, "uint8", None, ("data.nodata=255",)),
    ],
)
def test_pixels_without_data_are_void_dark_and_in_no_statistics(tmp_path, value, kind, tag, words):
    config, dataset = dataset_of(folder(tmp_path, margin(value, kind, tag)), *words)
    scale = {"float32": 1 / 255, "uint8": 1}.get(kind, 10)
    if kind != "uint8":
        assert 18 * scale <= config.data.low[0] < 25 * scale
        assert 190 * scale < config.data.high[0] <= 201 * scale
        assert 0.2 < config.model.mean[0] < 0.6
    image, mask = dataset.read_image(dataset.labelled[0]), dataset.read_mask(dataset.labelled[0])
    assert (image[:MARGIN] == 0).all()
    assert (mask[:MARGIN] == IGNORE).all()
    assert (mask[MARGIN:] != IGNORE).all()
    plain, rest = audit(dataset, (16, 16), 2), dataset.read_image(dataset.labelled[0])[MARGIN:]
    assert rest.std() > 20
    assert plain.summary.classes["class_1"]["labelled"].share == pytest.approx(200 / (18 * 32))
    assert not [fault for fault in plain.faults if fault.kind in ("leak", "copy", "range")]
    for source in (dataset, InMemoryDataset(dataset, dataset.unlabelled, [])):
        item = CropDataset(source, dataset.unlabelled, (24, 32), (1.0, 1.0), 0, "unlabelled", masks=False)[0]
        assert item["valid"].sum() == 18 * 32
        assert not item["valid"][:MARGIN].any()
    assert any("no data" in note for note in dataset.notes)


def test_off_takes_every_value_as_data_and_is_warned_of(tmp_path):
    root = folder(tmp_path, margin(-9999, "float32", -9999))
    _, dataset = dataset_of(root, "data.nodata=off")
    assert (dataset.read_mask(dataset.labelled[0]) != IGNORE).all()
    report = audit(dataset, (16, 16), 2)
    assert [fault.kind for fault in report.faults if fault.level == "warning"].count("range") == 1
    assert report.code == 1
    dataset.check()  # a run goes on, and says it
    assert any("hardly used" in note for note in dataset.notes)


def test_a_range_that_is_given_and_hardly_used_is_warned_of(tmp_path):
    _, dataset = dataset_of(folder(tmp_path, margin(0.2, "float32")), "data.low=0", "data.high=65535")
    assert "range" in [fault.kind for fault in dataset.faults]


def test_a_written_configuration_reads_the_same_again(tmp_path):
    root = folder(tmp_path / "a", margin(-9999, "float32"))
    config, dataset = dataset_of(root)
    assert config.data.nodata == ["-9999.0"]
    words = [f"data.{key}={getattr(config.data, key)}" for key in ("nodata", "low", "high")]
    again = dataset_of(root, *words)[1]
    assert (again.reading.low, again.reading.nodata) == (dataset.reading.low, dataset.reading.nodata)
    for sample in dataset.labelled:
        np.testing.assert_array_equal(again.read_image(sample), dataset.read_image(sample))
        np.testing.assert_array_equal(again.read_mask(sample), dataset.read_mask(sample))


@pytest.mark.parametrize("words", ["data.nodata=[off,1]", "data.nodata=[x]", "data.nodata=none"])
def test_nodata_is_numbers_or_off(words):
    refusal(lambda: resolve(["dataset=folder", words]), "data.nodata")


def test_a_band_alone_without_data_is_dark_and_counts(tmp_path):
    pixels = np.full((4, 5, 3), 500, np.uint16)
    pixels[0, :, 1], pixels[1] = 9999, 9999
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    reading = Reading(3, (), (0,), (1000,), nodata=(9999,), gaps=True)
    image, valid = read_image(tmp_path / "a.tif", reading), read_valid(tmp_path / "a.tif", reading)
    assert valid.sum(axis=1).tolist() == [5, 0, 5, 5]
    assert image[0, 0].tolist() == [127.5, 0, 127.5]
    assert image[1].max() == 0
    assert np.isnan(read_stored_values(tmp_path / "a.tif", reading)[0]).sum() == 5 + 15


def test_a_mask_page_of_a_tiff_says_where_there_is_no_picture(tmp_path):
    def write(path, grey, number):
        with tifffile.TiffWriter(path) as writer:
            writer.write(grey.astype(np.uint8), photometric="minisblack", metadata=None)
            inside = np.arange(24)[:, None].repeat(32, 1) >= MARGIN
            writer.write(inside, photometric="mask", subfiletype=4, metadata=None)

    _, dataset = dataset_of(folder(tmp_path, write))
    assert (dataset.read_mask(dataset.labelled[0])[:MARGIN] == IGNORE).all()
    assert any("says where there is a picture" in note for note in dataset.notes)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([-9999.0, 65535.0, 1e20, -3.4028234663852886e38]),
    st.floats(0, 500),
    st.floats(1, 4000),
    st.floats(0.002, 0.7),
)
def test_what_lies_far_off_is_found_and_nothing_else(value, low, width, share):
    rng = np.random.default_rng(0)
    values = rng.uniform(low, low + width, (4000, 1))
    assert find_nodata_values(values) == []
    values[: int(share * len(values))] = value
    assert [found for found, _ in find_nodata_values(values)] == [value]


@pytest.mark.parametrize(
    "values",
    [
        np.repeat([0.0, 1000.0], 500),  # a drawing of two levels
        np.concatenate([np.zeros(500), np.linspace(1000, 1500, 500)]),  # a dark ground
        np.concatenate([np.full(500, 4095.0), np.linspace(0, 3000, 500)]),  # saturated
        np.concatenate([np.full(500, 65535.0), np.linspace(0, 50000, 500)]),
        np.concatenate([[-9999.0], np.linspace(0, 1, 5000)]),  # one pixel
        np.full(100, 7.0),
        np.full(100, np.nan),
        np.empty(0),
    ],
)
def test_what_is_not_far_off(values):
    assert find_nodata_values(values[:, None]) == []


# --- depths ---------------------------------------------------------------------------------------------------------


def depths(deep, kind=np.uint16):
    """Images of which those of the numbers `deep` have 16 bits, and the same brightness."""

    def write(path, grey, number):
        Image.fromarray((grey * 257).astype(kind) if number in deep else grey.astype(np.uint8)).save(path)

    return write


@pytest.mark.parametrize("deep", [{1}, set(range(1, 9))], ids=["one deep", "one not"])
def test_depths_that_differ_are_refused_with_a_remedy_that_works(tmp_path, deep):
    root = folder(tmp_path, depths(deep), "png")
    refused = refusal(dataset_of(root)[1].check, "data.low", "data.high", "not changed")
    assert ("1.png is a 16-bit" in refused) == (deep == {1})
    _, dataset = dataset_of(root, "data.low=0", "data.high=65535")
    dataset.check()
    images = {sample.name: dataset.read_image(sample) for sample in (*dataset.labelled, *dataset.val)}
    assert {image.dtype.name for image in images.values()} == {"float32"}
    levels = [image[10:20, 5:25].mean() for image in images.values()]
    assert max(levels) - min(levels) < 10
    assert any("have 8 bits a channel and are not scaled" in note for note in dataset.notes)


def test_floating_point_beside_8_bits_does_not_stretch_them(tmp_path):
    def write(path, grey, number):
        pixels = grey.astype(np.uint8) if number == 2 else (grey / 255).astype(np.float32)
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None)

    root = folder(tmp_path, write)
    _, dataset = dataset_of(root, "data.low=0", "data.high=1")
    levels = [dataset.read_image(sample)[10:20, 5:25].mean() for sample in (*dataset.labelled, *dataset.val)]
    assert max(levels) - min(levels) < 10


def test_a_range_that_no_image_can_have_is_refused(tmp_path):
    root = folder(tmp_path, depths(set()), "png")
    refusal(lambda: dataset_of(root, "data.low=0", "data.high=4095"), "data.high=[4095.0]", "8 bits", "remove")
    _, dataset = dataset_of(root, "data.low=20", "data.high=200")
    assert dataset.read_image(dataset.labelled[0]).max() > 250


# --- notes ----------------------------------------------------------------------------------------------------------


def turned(tags):
    def write(path, grey, number):
        exif = Image.Exif()
        if number in tags:
            exif[0x0112] = tags[number]
        Image.fromarray(grey.astype(np.uint8)).save(path, exif=exif)

    return write


def test_turns_by_a_tag_are_noted(tmp_path):
    root = folder(tmp_path, turned({0: 3, 1: 3, 2: 2, 3: 1}), "jpg")
    notes = dataset_of(root)[1].notes
    assert any(note.startswith("2 images are turned by 180 degrees by their EXIF tag: look at") for note in notes)
    assert any(note.startswith("1 image is mirrored left to right by its EXIF tag") for note in notes)
    notes = dataset_of(root, "data.exif=false")[1].notes
    assert any(note.startswith("3 images would be turned by an EXIF tag, and data.exif=false") for note in notes)


def test_plain_images_have_no_notes(tmp_path):
    words = ("tag", "alpha", "transparen", "pages", "further", "CMYK", "no data", "bits")
    notes = dataset_of(folder(tmp_path, turned({}), "jpg"))[1].notes
    assert not [note for note in notes if any(word in note for word in words)]


@pytest.mark.parametrize(("clear", "noted"), [(True, True), (False, False)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparency_that_is_left_out_is_noted(tmp_path, kind, clear, noted):
    def write(path, grey, number):
        image = Image.fromarray(grey.astype(np.uint8))
        if kind == "P":
            image.convert("P").save(path, **({"transparency": int(grey[0, 0])} if clear else {}))
            return
        alpha = Image.fromarray(np.where(grey > 50, 255, 0 if clear else 255).astype(np.uint8))
        image = image.convert(kind)
        image.putalpha(alpha)
        image.save(path)

    notes = open_as_run(f"data.root={folder(tmp_path, write, 'png')}")[1].notes
    assert any("9 images have transparent pixels, and transparency is left out" in note for note in notes) == noted


def test_further_pictures_and_cmyk_are_noted(tmp_path):
    def write(path, grey, number):
        image = Image.fromarray(grey.astype(np.uint8))
        if number == 0:
            image.convert("CMYK").save(path)
        elif number == 1:
            image.convert("RGB").save(path, format="MPO", save_all=True, append_images=[image.convert("RGB")])
        else:
            image.save(path)

    notes = " ".join(open_as_run(f"data.root={folder(tmp_path, write, 'jpg')}")[1].notes)
    assert "1 image holds CMYK" in notes
    assert "1 image holds further pictures" in notes
