"""Masks as people have them: what each code means, by arithmetic; what is said where nothing says what one means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_folder import refusal

from ssss_zoo.config import DataConfig
from ssss_zoo.data.classes import read_class_list
from ssss_zoo.data.codes import read_codes
from ssss_zoo.data.masks import Encoding, understand
from ssss_zoo.records import Sample

RED, BLUE, PINK = (255, 0, 0), (0, 0, 255), (255, 0, 255)


def save(path, array, **options):
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)
    return path


def classes(root, masks, *words, lines=None):
    """What is understood of `masks` in `root`, with the settings of `words` and the lines of a classes.txt."""
    if lines:
        (root / "classes.txt").write_text("\n".join(lines))
    return understand(DataConfig(**dict(words)), root, [Sample("", None, mask) for mask in masks])


# --- without a class list -------------------------------------------------------------------------------------------


def test_0_and_255_become_two_classes_when_values_are_asked_for(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 255], [255, 0]])]
    refusal(lambda: classes(tmp_path, masks), "0/255", "data.encoding=values")
    found = classes(tmp_path, masks, ("encoding", "values"))
    assert found.names == ("class_0", "class_1")
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 1], [1, 0]]
    assert found.encoding.said(found.names) == "masks hold values: 0 is class_0, 255 is class_1"


def test_a_value_may_be_left_out(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 128, 255]])]
    found = classes(tmp_path, masks, ("encoding", "values"), ("ignore", ["128"]))
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[0, 255, 1]]
    assert found.encoding.said(found.names).endswith("; void: 128")
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
    assert found.encoding.said(found.names) == ("masks hold colours: #0000ff is sky, #ff0000 is road; void: #ff00ff")


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
    assert found.encoding.said(found.names) == "masks hold values: 0 is ground, 255 is crack"
    lines = ["ground", "crack", "leaf"]
    refusal(lambda: classes(tmp_path, masks, ("encoding", "values"), lines=lines), "3 classes", "2 values (0, 255)")


def test_grey_in_three_channels_is_grey(tmp_path):
    masks = [save(tmp_path / "a.png", [[(1, 1, 1), (0, 0, 0)]])]
    found = classes(tmp_path, masks)
    assert found.encoding.kind == "ids"
    assert found.encoding.read(Sample("", None, masks[0])).tolist() == [[1, 0]]


def test_an_undeclared_code_is_refused_with_its_count_or_snapped(tmp_path):
    lines = ["sky 0 0 255", "road 255 0 0"]
    masks = [save(tmp_path / "a.png", [[BLUE, (250, 5, 3)], [(0, 9, 240), (250, 5, 3)]])]
    found = classes(tmp_path, masks, lines=lines)
    words = ["a.png", "3 pixels of 2 colours", "#fa0503 (2 pixels)", "data.ignore=['#fa0503']", "data.snap=true"]
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
    refusal(lambda: classes(tmp_path, masks, ("ignore", ["red"])), "data.ignore", "'red'", "a value from 0 to 65535")
    words = [("encoding", "colours"), ("ignore", ["ff00ff"])]
    refusal(lambda: classes(tmp_path, masks, *words), "'ff00ff'", "'#ff00ff'")
    refusal(lambda: classes(tmp_path, masks, ("snap", True)), "data.snap=true", "classes.txt")


def test_a_list_that_cannot_tell_colours_apart_is_named(tmp_path):
    masks = [save(tmp_path / "a.png", [[RED, BLUE]])]
    refusal(lambda: classes(tmp_path, masks, lines=["a 255 0 0", "b"]), "classes.txt", "no colour for class 'b'")
    refusal(lambda: classes(tmp_path, masks, lines=["a 255 0 0", "b 255 0 0"]), "one colour to two classes")


def test_colours_and_deep_values_where_values_are_expected(tmp_path):
    refusal(lambda: read_codes(save(tmp_path / "a.png", [[RED, BLUE]]), False, False), "a.png", "coloured")
    deep = Image.fromarray(np.array([[0, 40000]], np.uint16))
    deep.save(tmp_path / "d.png")
    assert read_codes(tmp_path / "d.png", False, False).tolist() == [[0, 40000]]
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / "f.tif")
    refusal(lambda: read_codes(tmp_path / "f.tif", False, False), "f.tif", "no whole numbers")


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
    encoding = Encoding(kind, {code: index for index, code in enumerate(codes)})
    assert encoding.read(Sample("", None, path)).tolist() == ids.tolist()


def test_a_jpeg_is_refused_with_the_count_of_what_it_smeared(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 7:] = RED
    path = save(tmp_path / "a.jpg", pixels, quality=80)
    found = classes(tmp_path, [path], ("encoding", "colours"), lines=["none 0 0 0", "red 255 0 0"])
    off = ((np.array(Image.open(path)) != 0).any(axis=2) & (np.array(Image.open(path)) != RED).any(axis=2)).sum()
    assert off > 0
    refusal(lambda: found.encoding.read(Sample("", None, path)), "a.jpg", "JPEG", f"{off} of 256 pixels", "data.snap")
