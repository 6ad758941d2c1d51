"""Masks of every file type and encoding as class ids, and a folder of them as a whole."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from helpers.errors import refusal
from helpers.folders import open_folder
from helpers.masks import (
    COLOUR_LIST,
    COLOURS,
    RED,
    detect,
    draw_squares,
    read_ids,
    resize_drawn,
    save_indexed,
    save_mask,
    save_tiff,
)
from ssss_zoo.data.folder.mask_encoding import MaskEncoding
from ssss_zoo.data.images import ORIENTATION_TURNS
from ssss_zoo.data.tools.audit import audit
from ssss_zoo.toolkit.types import Sample

# --- masks of GIS and NumPy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "int32", "int64", "uint16", "uint64"])
def test_any_value_may_be_ignored(tmp_path, dtype):
    value = 2048 if dtype == "float16" else {"f": -9999, "i": -1, "u": 65535}[np.dtype(dtype).kind]
    path = save_tiff(tmp_path / "a.tif", np.array([[0, 1], [2, value]]).astype(dtype))
    refusal(lambda: detect(tmp_path, [path]), "a.tif", str(value), f"data.ignore=[{value}]")
    for kind in ("ids", "values"):
        found = detect(tmp_path, [path], encoding=kind, ignore=[str(value)])
        assert found.names == ("class_0", "class_1", "class_2"), kind
        assert read_ids(found, path) == [[0, 1], [2, 255]], kind
        assert str(value) in found.encoding.describe(found.names), kind


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (-3.4028234663852886e38, "-3.4028234663852886e+38")])
def test_nan_and_the_lowest_float_are_void_where_they_are_ignored(tmp_path, value, text):
    path = save_tiff(tmp_path / "a.tif", np.array([[0, 1], [2, value]], np.float32))
    for kind in ("ids", "values"):
        refusal(lambda kind=kind: detect(tmp_path, [path], encoding=kind), "a.tif", "1 of 4 pixels", "data.ignore=[")
        assert read_ids(detect(tmp_path, [path], encoding=kind, ignore=[text]), path) == [[0, 1], [2, 255]], kind


@pytest.mark.parametrize(("nodata", "read"), [("-1", 255), ("65535", None), ("nan", None)])
def test_the_nodata_value_of_a_file_is_void_where_it_is_no_id(tmp_path, nodata, read):
    path = save_tiff(tmp_path / "a.tif", np.array([[0, 1, -1]], np.int16), extratags=[(42113, "s", 0, nodata, True)])
    if read is None:
        refusal(lambda: detect(tmp_path, [path]), "-1")
    else:
        assert read_ids(detect(tmp_path, [path]), path) == [[0, 1, read]]


def test_a_smaller_copy_within_a_tiff_is_no_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.array([[0, 1], [1, 0]], np.uint8))
        file.write(np.array([[0]], np.uint8), subfiletype=1)
    assert np.shape(read_ids(detect(tmp_path, [tmp_path / "a.tif"]), tmp_path / "a.tif")) == (2, 2)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("kind", ["ids", "colours"])
def test_a_masks_own_exif_tag_is_obeyed_or_not(tmp_path, suffix, kind):
    mask = np.zeros((4, 6), np.uint8)
    mask[0, :2], mask[3, 5] = 1, 2
    path = tmp_path / f"a.{suffix}"
    lines = COLOUR_LIST if kind == "colours" else ["a", "b", "c"]
    for tag in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(COLOURS[mask] if kind == "colours" else mask).save(path, exif=exif, lossless=True)
        upright = ORIENTATION_TURNS[tag](mask) if tag > 1 else mask
        for obeyed, expected in ((True, upright), (False, mask)):
            found = detect(tmp_path, [path], encoding=kind, exif=obeyed, lines=lines)
            assert read_ids(found, path) == expected.tolist(), (tag, obeyed)
            assert found.encoding.size(Sample("", None, path)) == expected.shape, (tag, obeyed)


# --- any encoding -----------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_mask_written_by_a_class_list_is_read_by_it(tmp_path_factory, data):
    """Any distinct values, any ids: a mask drawn in the values reads as the ids."""
    kind = data.draw(st.sampled_from(["values", "colours"]))
    highest = 255 if kind == "values" else 0xFFFFFF
    values = data.draw(st.lists(st.integers(0, highest), min_size=2, max_size=9, unique=True))
    ids = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), min_size=6, max_size=6))).reshape(2, 3)
    drawn = np.array(values)[ids]
    pixels = drawn if kind == "values" else np.stack([drawn >> 16, drawn >> 8 & 255, drawn & 255], axis=2)
    path = save_mask(tmp_path_factory.mktemp("law") / "a.png", pixels)
    encoding = MaskEncoding(kind, {value: index for index, value in enumerate(values)})
    assert encoding.read(Sample("", None, path)).tolist() == ids.tolist()


def test_a_jpeg_is_refused_with_the_count_of_what_it_smeared(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 7:] = RED
    path = save_mask(tmp_path / "a.jpg", pixels, quality=80)
    found = detect(tmp_path, [path], encoding="colours", lines=["none 0 0 0", "red 255 0 0"])
    off = ((np.array(Image.open(path)) != 0).any(axis=2) & (np.array(Image.open(path)) != RED).any(axis=2)).sum()
    assert off > 0
    refusal(lambda: read_ids(found, path), "a.jpg", "JPEG", f"{off} of 256 pixels", "data.snap")


def write_ids(path, ids, way):
    """Writes ids (H, W) in one of the ways that people have. Returns the file, and the settings and the lines of
    classes.txt that it is read with."""
    names = [f"c{index}" for index in range(6)]
    coloured = [f"c{index} {' '.join(map(str, colour))}" for index, colour in enumerate(COLOURS)]
    values = np.array([9, 200, 0, 77, 255, 128], np.uint8)
    if way in ("L", "1", "LA", "RGB", "RGBA"):
        Image.fromarray(ids).convert(way).save(path.with_suffix(".png"))
    elif way == "palette":
        save_indexed(path.with_suffix(".png"), ids, COLOURS)
    elif way == "quantized":
        Image.fromarray(COLOURS[ids]).quantize(8).save(path.with_suffix(".png"))
        return path.with_suffix(".png"), {}, coloured
    elif way == "colours":
        save_mask(path.with_suffix(".png"), COLOURS[ids])
        return path.with_suffix(".png"), {"encoding": "colours"}, coloured
    elif way == "GIF":  # Pillow keeps the greys that occur, as a palette
        Image.fromarray(np.where(ids == 5, 0, ids + 1)).save(path.with_suffix(".gif"))
        return path.with_suffix(".gif"), {}, [f"{(index + 1) % 6}: {name}" for index, name in enumerate(names)]
    elif way == "4 bits":
        path.with_suffix(".png").write_bytes(four_bits(ids))
    elif way == "values":
        save_mask(path.with_suffix(".png"), values[ids])
        return path.with_suffix(".png"), {}, [f"{value}: {name}" for value, name in zip(values, names, strict=True)]
    elif way in ("RGB of 16 bits", "LA of 16 bits"):
        shape = 3 if way.startswith("RGB") else 2
        path.with_suffix(".png").write_bytes(imagecodecs.png_encode(np.stack([ids.astype(np.uint16)] * shape, axis=2)))
    else:
        return save_tiff(path.with_suffix(".tif"), ids.astype(way)), {}, names
    return path.with_suffix(".png"), {}, names


def four_bits(ids):
    """A grey PNG of 4 bits a pixel, which Pillow reads and does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = ids.shape
    even = np.pad(ids, ((0, 0), (0, width % 2)))
    rows = b"".join(b"\0" + (row[::2] << 4 | row[1::2]).tobytes() for row in even)
    head = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


WAYS = [
    "GIF",
    "4 bits",
    "L",
    "LA",
    "RGB",
    "RGBA",
    "palette",
    "quantized",
    "colours",
    "values",
    "RGB of 16 bits",
    "LA of 16 bits",
]
TYPES = ["uint8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float16", "float32", "float64"]


@settings(deadline=None, max_examples=5)
@given(ids=arrays(np.uint8, (3, 4), elements=st.integers(0, 5)))
@pytest.mark.parametrize("way", [*WAYS, *TYPES])
def test_ids_written_in_any_way_are_read_as_they_are(tmp_path_factory, way, ids):
    path, settings, lines = write_ids(tmp_path_factory.mktemp("law") / "a", ids, way)
    found = detect(path.parent, [path], lines=lines, **settings)
    assert read_ids(found, path) == ids.tolist()


# --- a folder as a whole ----------------------------------------------------------------------------------------------


def open_written(root, masks, image_size, tags=(None, None), lines=("a", "b", "c"), **settings):
    """Writes `masks`, with images of the size (H, W) `image_size`, and opens the folder. tags: EXIF's, of images and of
    masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(exist_ok=True)
    (root / "classes.txt").write_text("\n".join(lines))
    for index, mask in enumerate(masks):
        photo = np.random.default_rng(index).integers(0, 255, (*image_size, 3), np.uint8)
        for name, pixels, tag in (("images", photo, tags[0]), ("masks", mask, tags[1])):
            exif = Image.Exif()
            exif.update({0x0112: tag} if tag else {})
            save_mask(root / name / f"{index}.png", pixels, exif=exif)
    return open_folder(root, **settings)


@pytest.mark.parametrize("size", [(192, 256), (48, 64), (96, 128), (240, 320), (97, 128), (71, 95)])
def test_masks_of_another_size_and_the_same_aspect_are_resized_where_asked(tmp_path, size):
    drawn = draw_squares(3)
    found = open_written(tmp_path, drawn, size)
    if size != (96, 128):
        refusal(found.check, f"is 128x96, its image {size[1]}x{size[0]}", "data.resize_masks=true")
    fitting = open_written(tmp_path, drawn, size, resize_masks=True)
    fitting.check()
    count = 0 if size == (96, 128) else 8
    assert any(note.startswith(f"{count} of 8 masks are resized") for note in fitting.notes)
    sample = next(sample for sample in (*fitting.labelled, *fitting.val) if sample.image.stem == "0")
    rows, columns = (
        ((np.arange(wanted) + 0.5) * held / wanted + 1e-9).astype(int)  # the pixel under the centre of each
        for wanted, held in zip(size, (96, 128), strict=True)
    )
    off = fitting.read_mask(sample) != drawn[0][rows[:, None], columns]
    assert off.mean() < 0.01  # a centre may lie between two pixels
    assert [fault.kind for fault in audit(fitting, (64, 64), 2).faults if fault.level == "unusable"] == []


@pytest.mark.parametrize("size", [(96, 100), (128, 96), (192, 250)])
def test_masks_of_another_aspect_are_never_resized(tmp_path, size):
    found = open_written(tmp_path, draw_squares(3), size, resize_masks=True)
    refusal(found.check, f"its image {size[1]}x{size[0]}", "aspect ratios differ")
    assert {fault.kind for fault in audit(found, (64, 64), 2).faults if fault.level == "unusable"} == {"size"}


@pytest.mark.parametrize(("tags", "turned"), [((6, None), "image"), ((None, 8), "mask")])
def test_a_size_turned_by_exif_is_named_with_the_tag(tmp_path, tags, turned):
    found = open_written(tmp_path, draw_squares(3), (96, 128), tags)
    refusal(found.check, f"the {turned} has EXIF's tag", str(tags[0] or tags[1]), "data.exif=false")
    assert any("data.exif=false" in fault.message for fault in audit(found, (64, 64), 2).faults)
    open_written(tmp_path, draw_squares(3), (96, 128), tags, exif=False).check()
    both = open_written(tmp_path, draw_squares(3), (96, 128), (6, 6))
    both.check()
    assert both.read_mask(both.labelled[0]).shape == (128, 96)


@pytest.mark.parametrize("suspect", [True, False])
def test_a_run_stops_at_what_is_unusable_and_goes_on_with_warnings(tmp_path, suspect):
    smeared = [resize_drawn(mask, Image.Resampling.BILINEAR) for mask in draw_squares(3)]
    found = open_written(tmp_path, smeared, (77, 102))
    if suspect:
        (tmp_path / "classes.txt").unlink()
        found = open_folder(tmp_path)
        refusal(found.check, "smeared")
    else:
        found.check()
        assert any("smeared" in note for note in found.notes)
    assert audit(found, (64, 64), 2).code == (2 if suspect else 1)


def test_only_void_and_the_first_class_is_no_0_255_mask_where_values_are_declared(tmp_path):
    masks = np.full((6, 32, 32), 9, np.uint8)
    masks[:, :8] = 200
    open_written(tmp_path, masks, (32, 32), lines=["9: a", "77: b", "200: void"]).check()
    refusal(
        open_written(tmp_path, (masks == 200) * np.uint8(255), (32, 32), lines=["a", "b"]).check,
        "0/255",
        "data.encoding=values",
    )
