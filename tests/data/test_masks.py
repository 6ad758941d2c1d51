"""Masks as people have them: what each code means, by arithmetic; what is said where nothing says what one means."""

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
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.classes import read_class_list, voc_colour
from ssss_zoo.data.folder.class_detection import detect_classes
from ssss_zoo.data.folder.dataset import Folder
from ssss_zoo.data.folder.mask_encoding import MaskEncoding
from ssss_zoo.data.images import ORIENTATION_TURNS
from ssss_zoo.data.mask_values import read_mask_values
from ssss_zoo.data.tools.audit import audit
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

RED, BLUE, PINK = (255, 0, 0), (0, 0, 255), (255, 0, 255)


def save(path, array, **options):
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)
    return path


def classes(root, masks, *words, lines=None):
    """What is understood of `masks` in `root`, with the settings of `words` and the lines of a classes.txt."""
    if lines:
        (root / "classes.txt").write_text("\n".join(lines))
    return detect_classes(DataConfig(**dict(words)), root, [Sample("", None, mask) for mask in masks])


# --- without a class list -------------------------------------------------------------------------------------------


def test_0_and_255_become_two_classes_when_values_are_asked_for(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 255], [255, 0]])]
    refusal(lambda: classes(tmp_path, masks), "0/255", "data.encoding=values")
    found = classes(tmp_path, masks, ("encoding", "values"))
    assert found.names == ("class_0", "class_1")
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 1], [1, 0]]
    assert found.encoding.describe(found.names) == "masks hold values: 0 is class_0, 255 is class_1"


def test_a_value_may_be_left_out(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 128, 255]])]
    found = classes(tmp_path, masks, ("encoding", "values"), ("ignore", ["128"]))
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 255, 1]]
    assert found.encoding.describe(found.names).endswith("; void: 128")
    ids = classes(tmp_path, [save(tmp_path / "b.png", [[0, 1, 2, 3, 255]])], ("ignore", ["3"]))
    assert ids.names == ("class_0", "class_1", "class_2")
    assert ids.encoding.read(Sample("", None, tmp_path / "b.png")).tolist() == [[0, 1, 2, 255, 255]]


def test_every_colour_found_is_a_class_when_colours_are_asked_for(tmp_path):
    masks = [save(tmp_path / "a.png", [[RED, BLUE]]), save(tmp_path / "b.png", [[BLUE, PINK]])]
    refusal(lambda: classes(tmp_path, masks), str(masks[0]), "coloured", "classes.txt", "data.encoding=colours")
    found = classes(tmp_path, masks, ("encoding", "colours"))
    assert found.colours == (BLUE, RED, PINK)  # in the order of their codes
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[1, 0]]
    assert found.encoding.read(Sample("", None, masks[1])).tolist() == [[0, 2]]
    left = classes(tmp_path, masks, ("encoding", "colours"), ("ignore", ["#ff00ff"]))
    assert left.encoding.read(Sample("", None, masks[1])).tolist() == [[0, 255]]


def test_a_photograph_is_no_mask(tmp_path):
    masks = [save(tmp_path / "a.png", np.arange(300).reshape(10, 10, 3) % 251)]
    refusal(lambda: classes(tmp_path, masks, ("encoding", "colours")), "100 colours", "2 to 64", "smeared")


# --- with a class list ----------------------------------------------------------------------------------------------


def test_colours_of_the_list_are_the_codes_of_coloured_masks(tmp_path):
    masks = [save(tmp_path / "a.png", [[RED, BLUE], [PINK, RED]])]
    found = classes(tmp_path, masks, lines=["sky 0 0 255", "void 255 0 255", "road 255 0 0"])
    assert found.names == ("sky", "road")
    assert found.colours == (BLUE, RED)
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[1, 0], [255, 1]]
    assert found.encoding.describe(found.names) == (
        "masks hold colours: #0000ff is sky, #ff0000 is road; void: #ff00ff"
    )


def test_palette_and_alpha_count_as_the_colours_they_show(tmp_path):
    lines = ["sky 0 0 255", "road 255 0 0"]
    indexed = Image.fromarray(np.array([[7, 9]], np.uint8), "P")
    indexed.putpalette([*[0] * 21, *RED, *[0] * 3, *BLUE])
    indexed.save(tmp_path / "p.png")
    clear = save(tmp_path / "a.png", [[(*BLUE, 0), (*RED, 255)]])
    found = classes(tmp_path, [clear], lines=lines)
    assert found.encoding.read(Sample("", None, clear)).tolist() == [[0, 1]]
    assert found.encoding.read(Sample("", None, tmp_path / "p.png")).tolist() == [[1, 0]]


def test_values_of_the_list_are_the_codes_of_grey_masks(tmp_path):
    masks = [save(tmp_path / "a.png", [[10, 20], [30, 10]])]
    found = classes(tmp_path, masks, lines=["20: road", "10: sky 1 2 3", "30: void"])
    assert found.names == ("road", "sky")
    assert found.colours[1] == (1, 2, 3)
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[1, 0], [255, 1]]


def test_a_void_line_without_a_value_is_void_at_its_place(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 1, 2]])]
    found = classes(tmp_path, masks, lines=["sky", "Void", "road"])
    assert found.names == ("sky", "road")
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 255, 1]]


@pytest.mark.parametrize("words", [(), (("encoding", "ids"),)])
def test_void_and_values_of_a_list_hold_whatever_occurs_and_255_stays_void(tmp_path, words):
    masks = [save(tmp_path / "a.png", [[0, 1, 255]])]  # no pixel of road
    found = classes(tmp_path, masks, *words, lines=["sky", "void", "road"])
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 255, 255]]
    found = classes(tmp_path, masks, *words, lines=["1: sky", "0: road", "7: car"])
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[1, 0, 255]]
    found = classes(tmp_path, masks, *words, lines=["0: sky", "1: road", "255: car"])
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 1, 2]]


def test_names_alone_take_the_values_found_when_they_are_as_many(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 255]])]
    found = classes(tmp_path, masks, ("encoding", "values"), lines=["ground", "crack"])
    assert found.encoding.describe(found.names) == "masks hold values: 0 is ground, 255 is crack"
    lines = ["ground", "crack", "leaf"]
    words = ["3 classes", "2 values (0 50.00%, 255 50.00%)", "'VALUE: name'"]
    refusal(lambda: classes(tmp_path, masks, ("encoding", "values"), lines=lines), *words)


def test_grey_in_three_channels_is_grey(tmp_path):
    masks = [save(tmp_path / "a.png", [[(1, 1, 1), (0, 0, 0)]])]
    found = classes(tmp_path, masks)
    assert found.encoding.kind == "ids"
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[1, 0]]


def test_an_undeclared_code_is_refused_with_its_count_or_snapped(tmp_path):
    lines = ["sky 0 0 255", "road 255 0 0"]
    masks = [save(tmp_path / "a.png", [[BLUE, (250, 5, 3)], [(0, 9, 240), (250, 5, 3)]])]
    found = classes(tmp_path, masks, lines=lines)
    words = [
        "a.png",
        "3 pixels of 2 colours",
        "#fa0503 (2 pixels)",
        "data.ignore=['#0009f0','#fa0503']",
        "data.snap=true",
    ]
    refusal(lambda: found.encoding.read(Sample("", None, masks[0])), *words)
    snapped = classes(tmp_path, masks, ("snap", True), lines=lines)
    assert snapped.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 1], [0, 1]]


def test_a_jpeg_needs_snapping(tmp_path):
    blocks = np.zeros((32, 32, 3), np.uint8)
    blocks[:16], blocks[16:] = BLUE, RED
    path = save(tmp_path / "a.jpg", blocks, quality=80)
    lines = ["sky 0 0 255", "road 255 0 0"]
    refusal(
        lambda: classes(tmp_path, [path], lines=lines).encoding.read(Sample("", None, path)), "JPEG", "data.snap=true"
    )
    read = classes(tmp_path, [path], ("snap", True), lines=lines).encoding.read(Sample("", None, path))
    assert read.tolist() == [[0] * 32] * 16 + [[1] * 32] * 16


def test_grey_values_snap_by_their_distance(tmp_path):
    masks = [save(tmp_path / "a.png", [[3, 250, 120]])]
    found = classes(tmp_path, masks, ("snap", True), lines=["0: a", "255: b", "128: c"])
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 1, 2]]


# --- what cannot be -------------------------------------------------------------------------------------------------


def test_wrong_settings_are_one_line(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 1]])]
    refusal(lambda: classes(tmp_path, masks, ("encoding", "colour")), "data.encoding", "did you mean 'colours'")
    refusal(
        lambda: classes(tmp_path, masks, ("ignore", ["red"])), "data.ignore", "'red'", "a whole number such as 7 or -1"
    )
    words = [("encoding", "colours"), ("ignore", ["ff00ff"])]
    refusal(lambda: classes(tmp_path, masks, *words), "'ff00ff'", "'#ff00ff'")
    refusal(lambda: classes(tmp_path, masks, ("snap", True)), "data.snap=true", "classes.txt")


def test_a_list_that_cannot_tell_colours_apart_is_named(tmp_path):
    masks = [save(tmp_path / "a.png", [[RED, BLUE]])]
    refusal(lambda: classes(tmp_path, masks, lines=["a 255 0 0", "b"]), "classes.txt", "no colour for class 'b'")
    refusal(lambda: classes(tmp_path, masks, lines=["a 255 0 0", "b 255 0 0"]), "one colour to two classes")


def test_colours_and_deep_values_where_values_are_expected(tmp_path):
    refusal(
        lambda: read_mask_values(save(tmp_path / "a.png", [[RED, BLUE]]), colours=False, lossy=False),
        "a.png",
        "coloured",
    )
    deep = Image.fromarray(np.array([[0, 40000]], np.uint16))
    deep.save(tmp_path / "d.png")
    assert read_mask_values(tmp_path / "d.png", colours=False, lossy=False).tolist() == [[0, 40000]]
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / "f.tif")
    refusal(
        lambda: read_mask_values(tmp_path / "f.tif", colours=False, lossy=False),
        "f.tif",
        "0.5",
        "expected whole numbers",
    )


# --- what files hold against what is made of it ---------------------------------------------------------------------

COLOURS = np.array([(0, 0, 0), RED, BLUE, PINK, (0, 255, 0), (255, 255, 0)], np.uint8)


def squares(count, seed=0, masks=8):
    """Masks (96, 128) of ids below `count`, squares on a ground of 0."""
    draws = np.random.default_rng(seed)
    drawn = np.zeros((masks, 96, 128), np.uint8)
    for mask in drawn:
        for index in [*range(1, count)] * 2:
            top, left, side = draws.integers(0, 70), draws.integers(0, 100), draws.integers(14, 26)
            mask[top : top + side, left : left + side] = index
    return drawn


def resized(pixels, how):
    return np.array(Image.fromarray(pixels).resize((102, 77), how))


def saved(root, pixels):
    return [save(root / f"{index}.png", one) for index, one in enumerate(pixels)]


def faults(found):
    return {(fault.level, fault.kind) for fault in found.faults}


def doubt(root, masks, kind):
    """What is said against taking what is found in masks for classes."""
    try:
        return " ".join(fault.message for fault in classes(root, masks, ("encoding", kind)).faults)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX])
@pytest.mark.parametrize(("count", "step"), [(2, 255), (3, 1), (6, 1), (6, 4), (3, 100)])
def test_smeared_edges_are_no_classes(tmp_path, how, count, step):
    """The ids 0 to 5 resized with interpolation hold no other value, and are wrong along every edge."""
    masks = saved(tmp_path, [resized(mask * np.uint8(step), how) for mask in squares(count)])
    for kind in ("auto", "values"):
        said = doubt(tmp_path, masks, kind)
        assert "smeared" in said or (step == 255 and "128" in said), said
    lines = [f"{index * step}: c{index}" for index in range(count)]
    sure = classes(tmp_path, masks, ("snap", True), lines=lines)
    assert faults(sure) == ({("warning", "smeared")} if count > 2 else set())


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("shown", [False, True])
def test_masks_that_are_right_are_not_doubted(tmp_path, count, shown):
    drawn = squares(count)
    for pixels in (drawn, [resized(mask, Image.Resampling.NEAREST) for mask in drawn]):
        masks = saved(tmp_path, [COLOURS[mask] if shown else mask for mask in pixels])
        kind = ("encoding", "colours") if shown else ("encoding", "auto")
        assert faults(classes(tmp_path, masks, kind)) == set()


def test_a_line_around_each_object_may_be_a_class(tmp_path):
    objects = squares(2)
    rims = [(np.pad(one, 1)[2:, 1:-1] & np.pad(one, 1)[:-2, 1:-1] & np.pad(one, 1)[1:-1, 2:]) for one in objects]
    masks = saved(tmp_path, [one + rim for one, rim in zip(objects, rims, strict=True)])  # 0, 1 on a rim, 2 within
    assert faults(classes(tmp_path, masks)) == {("warning", "line")}
    assert faults(classes(tmp_path, masks, lines=["ground", "rim", "cell"])) == set()


@pytest.mark.parametrize("void", [False, True])
def test_more_ids_than_classes_can_be_found_are_refused(tmp_path, void):
    mask = np.arange(70, dtype=np.uint8).repeat(40).reshape(-1, 40)
    mask[:, :4] = 255 if void else mask[:, :4]
    refusal(lambda: classes(tmp_path, saved(tmp_path, [mask])), "70 ids", "2 to 64", "classes.txt")
    names = [f"c{index}" for index in range(70)]
    assert classes(tmp_path, [tmp_path / "0.png"], lines=names).names == tuple(names)


@pytest.mark.parametrize(
    ("kind", "palette", "stray", "lines"),
    [
        ("values", (0, 128, 255), (7, 25, 44), "'0: class_0', '128: class_1', '255: class_2'"),
        ("ids", (0, 1, 2), (3, 3, 4), "'0: class_0', '1: class_1', '2: class_2'"),
        ("colours", (0, 1, 2), (3, 4, 5), "'class_0 0 0 0', 'class_1 0 0 255', 'class_2 255 0 0'"),
    ],
)
def test_strays_are_named_with_their_masks_and_the_way_out(tmp_path, kind, palette, stray, lines):
    drawn = [np.array([*palette], np.uint8)[mask] for mask in squares(3)]
    drawn[5][1, 3:9:2] = stray
    masks = saved(tmp_path, [COLOURS[mask] if kind == "colours" else mask for mask in drawn])
    found = classes(tmp_path, masks, ("encoding", kind))
    assert faults(found) == {("unusable", "stray")}
    assert all(word in found.faults[0].message for word in (str(masks[5]), lines, "data.snap=true"))
    listed = [line.strip("'") for line in lines.split(", ")]
    sure = classes(tmp_path, masks, ("encoding", kind), ("snap", True), lines=listed)
    assert faults(sure) == set()
    assert sure.encoding.read(Sample("", None, masks[5])).max() == 2


def test_an_object_of_255_is_not_left_out_for_the_sake_of_a_few_ids(tmp_path):
    drawn = squares(2) * np.uint8(255)
    drawn[:, 2, 2:8:2] = (1, 2, 3)
    found = classes(tmp_path, saved(tmp_path, drawn))
    assert faults(found) == {("unusable", "binary")}
    assert "'0: class_0', '255: class_1'" in found.faults[0].message


def test_grey_levels_are_told_with_255(tmp_path):
    refusal(lambda: classes(tmp_path, [save(tmp_path / "a.png", [[0, 128, 255]])]), "0, 128", "255", "in 1 of 1 masks")


# --- palettes -------------------------------------------------------------------------------------------------------


def indexed(path, indices, colours):
    image = Image.fromarray(np.asarray(indices, np.uint8), "P")
    image.putpalette([int(level) for colour in colours for level in colour])
    image.save(path)
    return path


LISTED = ["background 0 0 0", "rust 255 0 0", "crack 0 0 255"]
IDS = np.array([[0, 1, 2], [2, 1, 0]])


@pytest.mark.parametrize("orders", [[(1, 2, 0)], [(0, 1, 2), (0, 2, 1)]])
@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
def test_palettes_in_another_order_are_read_by_their_colours(tmp_path, orders, suffix):
    """orders: of each mask, the index that stands for each class."""
    masks = [
        indexed(tmp_path / f"{at}.{suffix}", np.array(order)[IDS], COLOURS[np.argsort(order)])
        for at, order in enumerate(orders)
    ]
    found = classes(tmp_path, masks, lines=LISTED)
    assert found.encoding.kind == "colours"
    assert "data.encoding=ids" in found.notes[0]
    assert all(found.encoding.read(Sample("", None, mask)).tolist() == IDS.tolist() for mask in masks)
    told = classes(tmp_path, masks, ("encoding", "ids"), lines=LISTED)
    assert told.encoding.read(Sample("", None, masks[0])).tolist() == np.array(orders[0])[IDS].tolist()


def test_palettes_that_differ_are_refused_where_no_list_says_more(tmp_path):
    masks = [indexed(tmp_path / f"{at}.png", IDS, COLOURS[[0, *order]]) for at, order in enumerate([(1, 2), (2, 1)])]
    words = ["0.png", "1.png", "index 1", "#ff0000", "#0000ff", "data.encoding=colours", "data.encoding=ids"]
    refusal(lambda: classes(tmp_path, masks), *words)
    refusal(lambda: classes(tmp_path, masks, lines=["a", "b", "c"]), *words)
    (tmp_path / "classes.txt").unlink()
    assert classes(tmp_path, masks, ("encoding", "colours")).colours == ((0, 0, 0), BLUE, RED)


def test_a_palette_that_contradicts_the_list_in_part_is_refused(tmp_path):
    mask = indexed(tmp_path / "a.png", [[0, 1, 2, 3]], COLOURS[[0, 2, 1, 3]])
    refusal(lambda: classes(tmp_path, [mask], lines=[*LISTED, "leaf 9 9 9"]), "a.png", "#0000ff", "data.encoding=ids")


@pytest.mark.parametrize(
    "colours",
    [
        [(level, level, level) for level in range(256)],
        [voc_colour(index) for index in range(256)],
        COLOURS[:3],
        [(0, 0, 0)] * 256,
        [(255, 0, 0)] * 256,
    ],
)
def test_palettes_that_agree_or_say_nothing_are_ids(tmp_path, colours):
    masks = [indexed(tmp_path / "a.png", IDS, colours), save(tmp_path / "b.png", IDS)]
    for lines in (None, LISTED):
        found = classes(tmp_path, masks, lines=lines)
        assert found.encoding.kind == "ids"
        assert all(found.encoding.read(Sample("", None, mask)).tolist() == IDS.tolist() for mask in masks)


# --- masks of GIS and NumPy -----------------------------------------------------------------------------------------


def tiff(path, pixels, **tags):
    tifffile.imwrite(path, np.asarray(pixels), **tags)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "int32", "int64", "uint16", "uint64"])
@pytest.mark.parametrize("kind", ["ids", "values"])
def test_what_is_ignored_may_be_any_value(tmp_path, dtype, kind):
    out = {"f": -9999, "i": -1, "u": 65535}[np.dtype(dtype).kind]
    out = 2048 if dtype == "float16" else out
    path = tiff(tmp_path / "a.tif", np.array([[0, 1], [2, out]]).astype(dtype))
    refusal(lambda: classes(tmp_path, [path]), "a.tif", str(out), f"data.ignore=[{out}]")
    found = classes(tmp_path, [path], ("encoding", kind), ("ignore", [str(out)]))
    assert found.names == ("class_0", "class_1", "class_2")
    assert found.encoding.read(Sample("", None, path)).tolist() == [[0, 1], [2, 255]]
    assert str(out) in found.encoding.describe(found.names)


@pytest.mark.parametrize("kind", ["ids", "values"])
@pytest.mark.parametrize(("out", "word"), [(np.nan, "nan"), (-3.4028234663852886e38, "-3.4028234663852886e+38")])
def test_nan_is_void_where_it_is_told(tmp_path, kind, out, word):
    path = tiff(tmp_path / "a.tif", np.array([[0, 1], [2, out]], np.float32))
    refusal(lambda: classes(tmp_path, [path], ("encoding", kind)), "a.tif", "1 of 4 pixels", "data.ignore=[")
    found = classes(tmp_path, [path], ("encoding", kind), ("ignore", [word]))
    assert found.encoding.read(Sample("", None, path)).tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize(("nodata", "read"), [("-1", 255), ("65535", None), ("nan", None)])
def test_what_the_file_says_is_none_is_void(tmp_path, nodata, read):
    path = tiff(tmp_path / "a.tif", np.array([[0, 1, -1]], np.int16), extratags=[(42113, "s", 0, nodata, True)])
    if read is None:
        refusal(lambda: classes(tmp_path, [path]), "-1")
    else:
        assert classes(tmp_path, [path]).encoding.read(Sample("", None, path)).tolist() == [[0, 1, read]]


def test_a_smaller_copy_within_a_tiff_is_no_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.array([[0, 1], [1, 0]], np.uint8))
        file.write(np.array([[0]], np.uint8), subfiletype=1)
    assert classes(tmp_path, [tmp_path / "a.tif"]).encoding.read(Sample("", None, tmp_path / "a.tif")).shape == (2, 2)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["ids", "colours"])
def test_a_masks_own_exif_tag_is_obeyed_or_not(tmp_path, suffix, tag, kind):
    mask = np.zeros((4, 6), np.uint8)
    mask[0, :2], mask[3, 5] = 1, 2
    exif = Image.Exif()
    exif[0x0112] = tag
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS[mask] if kind == "colours" else mask).save(path, exif=exif, lossless=True)
    lines = LISTED if kind == "colours" else ["a", "b", "c"]
    obeyed = classes(tmp_path, [path], ("encoding", kind), lines=lines).encoding
    upright = ORIENTATION_TURNS[tag](mask) if tag > 1 else mask
    assert obeyed.read(Sample("", None, path)).tolist() == upright.tolist()
    assert obeyed.size(Sample("", None, path)) == upright.shape
    stored = classes(tmp_path, [path], ("encoding", kind), ("exif", False), lines=lines).encoding
    assert stored.read(Sample("", None, path)).tolist() == mask.tolist()
    assert stored.size(Sample("", None, path)) == mask.shape


# --- class lists ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "- {name: sky, value: 3, colour: [1, 2, 3]}\n- {name: road, value: 9}\n",
        "classes:\n- {name: sky, value: 3, color: [1, 2, 3]}\n- {value: 9, name: road}\n",
    ],
)
def test_a_yaml_list(tmp_path, text):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    lines = read_class_list(path)
    assert [(line.name, line.value, line.colour) for line in lines] == [("sky", 3, (1, 2, 3)), ("road", 9, None)]
    path.write_text("3: sky\n9: road\n")
    assert [(line.name, line.value) for line in read_class_list(path)] == [("sky", 3), ("road", 9)]
    path.write_text("[sky, road]")
    assert [(line.name, line.value) for line in read_class_list(path)] == [("sky", None), ("road", None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- sky\n- {nam: road}", ["entry 2", "'nam'", "expected a name"]),
        ("- sky\n- {name: road, value: x}", ["entry 2", "whole number"]),
        ("- sky\n- {name: road, colour: [1, 2]}", ["entry 2", "[R, G, B]"]),
        ("just words", ["no list of classes"]),
        ("a: [", ["cannot read"]),
    ],
)
def test_a_wrong_yaml_list_is_named(tmp_path, text, words):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    refusal(lambda: read_class_list(path), str(path), *words)


def test_a_value_given_twice_is_named(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("1: sky\n1: road")
    refusal(lambda: read_class_list(path), "line 2", "'road'", "value 1", "line 1")


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("# ids of the masks\nsky\nroad  # grey\n#\n", ["sky", "road"], [None, None]),
        ("-1: void\n0: C# code\n1: #2", ["void", "C# code", "#2"], [-1, 0, 1]),
        ("1 euro\ncent\n", ["1 euro", "cent"], [None, None]),
        ("name\nvalue\n", ["name", "value"], [None, None]),
    ],
)
def test_lines_of_a_text_list(tmp_path, text, names, values):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    lines = read_class_list(path)
    assert [line.name for line in lines] == names
    assert [line.value for line in lines] == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#comment\nsky\nroad", ["line 1", "a comment or a class", "'# '"]),
        ("name,r,g,b\nsky,1,2,3\nroad,3,4,5", ["line 1", "looks like a heading"]),
        ("id name\n0: sky\n1: road", ["line 1", "looks like a heading"]),
        ("0 sky\n255 road", ["line 1", "'VALUE: name'"]),
        ("0,sky\n1,road", ["line 1", "'VALUE: name'"]),
        ("99999999999: sky\n1: road", ["line 1", "32 bits"]),
    ],
)
def test_a_line_that_may_mean_two_things_is_asked_about(tmp_path, text, words):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    refusal(lambda: read_class_list(path), str(path), *words)


@pytest.mark.parametrize("word", ["off", "no", "Yes", "0x10", "1_8", "12:30", "1e3", "null", "~", "007"])
def test_what_yaml_takes_for_something_else_stays_a_name(tmp_path, word):
    path = tmp_path / "classes.yaml"
    for text in (f"[sky, {word}]", f"- sky\n- {{name: {word}}}", f"0: sky\n1: {word}"):
        path.write_text(text)
        assert [line.name for line in read_class_list(path)] == ["sky", word]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3: sky\n3: road", ["'3' twice"]),
        ("- {name: a, name: b}\n- c", ["'name' twice"]),
        ("[" * 90 + "]" * 90, ["nested too deeply"]),
        ("&a [*a, *a]", ["nested too deeply"]),
    ],
)
def test_yaml_that_says_two_things_or_never_ends_is_named(tmp_path, text, words):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    refusal(lambda: read_class_list(path), str(path), *words)


# --- law ------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_what_is_written_by_a_list_is_read_by_it(tmp_path_factory, data):
    """Any distinct codes, any ids: a mask drawn in the codes reads as the ids."""
    kind = data.draw(st.sampled_from(["values", "colours"]))
    codes = data.draw(
        st.lists(st.integers(0, 255 if kind == "values" else 0xFFFFFF), min_size=2, max_size=9, unique=True)
    )
    ids = np.array(data.draw(st.lists(st.integers(0, len(codes) - 1), min_size=6, max_size=6))).reshape(2, 3)
    drawn = np.array(codes)[ids]
    pixels = drawn if kind == "values" else np.stack([drawn >> 16, drawn >> 8 & 255, drawn & 255], axis=2)
    path = save(tmp_path_factory.mktemp("law") / "a.png", pixels)
    encoding = MaskEncoding(kind, {code: index for index, code in enumerate(codes)})
    assert encoding.read(Sample("", None, path)).tolist() == ids.tolist()


def test_a_jpeg_is_refused_with_the_count_of_what_it_smeared(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 7:] = RED
    path = save(tmp_path / "a.jpg", pixels, quality=80)
    found = classes(tmp_path, [path], ("encoding", "colours"), lines=["none 0 0 0", "red 255 0 0"])
    off = ((np.array(Image.open(path)) != 0).any(axis=2) & (np.array(Image.open(path)) != RED).any(axis=2)).sum()
    assert off > 0
    refusal(lambda: found.encoding.read(Sample("", None, path)), "a.jpg", "JPEG", f"{off} of 256 pixels", "data.snap")


def written(path, ids, way):
    """Ids (H, W) written to files in one of the ways that people have; the settings and the lines to read them by."""
    names = [f"c{index}" for index in range(6)]
    coloured = [f"c{index} {' '.join(map(str, colour))}" for index, colour in enumerate(COLOURS)]
    values = np.array([9, 200, 0, 77, 255, 128], np.uint8)
    if way in ("L", "1", "LA", "RGB", "RGBA"):
        Image.fromarray(ids).convert(way).save(path.with_suffix(".png"))
    elif way == "palette":
        indexed(path.with_suffix(".png"), ids, COLOURS)
    elif way == "quantized":
        Image.fromarray(COLOURS[ids]).quantize(8).save(path.with_suffix(".png"))
        return path.with_suffix(".png"), [], coloured
    elif way == "colours":
        save(path.with_suffix(".png"), COLOURS[ids])
        return path.with_suffix(".png"), [("encoding", "colours")], coloured
    elif way == "GIF":  # Pillow keeps the greys that occur, as a palette
        Image.fromarray(np.where(ids == 5, 0, ids + 1)).save(path.with_suffix(".gif"))
        return path.with_suffix(".gif"), [], [f"{(index + 1) % 6}: {name}" for index, name in enumerate(names)]
    elif way == "4 bits":
        path.with_suffix(".png").write_bytes(four_bits(ids))
    elif way == "values":
        save(path.with_suffix(".png"), values[ids])
        return path.with_suffix(".png"), [], [f"{value}: {name}" for value, name in zip(values, names, strict=True)]
    elif way in ("RGB of 16 bits", "LA of 16 bits"):
        shape = 3 if way.startswith("RGB") else 2
        path.with_suffix(".png").write_bytes(imagecodecs.png_encode(np.stack([ids.astype(np.uint16)] * shape, axis=2)))
    else:
        return tiff(path.with_suffix(".tif"), ids.astype(way)), [], names
    return path.with_suffix(".png"), [], names


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
    path, words, lines = written(tmp_path_factory.mktemp("law") / "a", ids, way)
    found = classes(path.parent, [path], *words, lines=lines)
    assert found.encoding.read(Sample("", None, path)).tolist() == ids.tolist()


# --- a folder as a whole --------------------------------------------------------------------------------------------


def folder(root, masks, images, tags=(None, None), lines=("a", "b", "c"), **words):
    """A data set of `masks` and images of the size (H, W) `images`. tags: EXIF's, of images and of masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(exist_ok=True)
    (root / "classes.txt").write_text("\n".join(lines))
    for index, mask in enumerate(masks):
        photo = np.random.default_rng(index).integers(0, 255, (*images, 3), np.uint8)
        for name, pixels, tag in (("images", photo, tags[0]), ("masks", mask, tags[1])):
            exif = Image.Exif()
            exif.update({0x0112: tag} if tag else {})
            save(root / name / f"{index}.png", pixels, exif=exif)
    return Folder(DataConfig(root=str(root), **words))


@pytest.mark.parametrize("size", [(192, 256), (48, 64), (96, 128), (240, 320), (97, 128), (71, 95)])
def test_masks_of_another_size_and_the_same_aspect_are_resized_where_asked(tmp_path, size):
    drawn = squares(3)
    found = folder(tmp_path, drawn, size)
    if size != (96, 128):
        refusal(found.check, f"is 128x96, its image {size[1]}x{size[0]}", "data.resize_masks=true")
    fitting = folder(tmp_path, drawn, size, resize_masks=True)
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
    found = folder(tmp_path, squares(3), size, resize_masks=True)
    refusal(found.check, f"its image {size[1]}x{size[0]}", "aspects differ")
    assert {fault.kind for fault in audit(found, (64, 64), 2).faults if fault.level == "unusable"} == {"size"}


@pytest.mark.parametrize(("tags", "turned"), [((6, None), "image"), ((None, 8), "mask")])
def test_a_size_turned_by_exif_is_told_with_the_tag(tmp_path, tags, turned):
    found = folder(tmp_path, squares(3), (96, 128), tags)
    refusal(found.check, f"the {turned} has EXIF's tag", str(tags[0] or tags[1]), "data.exif=false")
    assert any("data.exif=false" in fault.message for fault in audit(found, (64, 64), 2).faults)
    folder(tmp_path, squares(3), (96, 128), tags, exif=False).check()
    both = folder(tmp_path, squares(3), (96, 128), (6, 6))
    both.check()
    assert both.read_mask(both.labelled[0]).shape == (128, 96)


@pytest.mark.parametrize("suspect", [True, False])
def test_a_run_stops_at_what_is_unusable_and_goes_on_with_warnings(tmp_path, suspect):
    smeared = [resized(mask, Image.Resampling.BILINEAR) for mask in squares(3)]
    found = folder(tmp_path, smeared, (77, 102))
    if suspect:
        (tmp_path / "classes.txt").unlink()
        found = Folder(DataConfig(root=str(tmp_path)))
        refusal(found.check, "smeared")
    else:
        found.check()
        assert any("smeared" in note for note in found.notes)
    assert audit(found, (64, 64), 2).code == (2 if suspect else 1)


def test_only_void_and_the_first_class_is_no_0_255_mask_where_values_are_declared(tmp_path):
    masks = np.full((6, 32, 32), 9, np.uint8)
    masks[:, :8] = 200
    folder(tmp_path, masks, (32, 32), lines=["9: a", "77: b", "200: void"]).check()
    refusal(
        folder(tmp_path, (masks == 200) * np.uint8(255), (32, 32), lines=["a", "b"]).check,
        "0/255",
        "data.encoding=values",
    )
