"""The classes that are detected in masks: with a class list and without, and the faults that are found."""

import numpy as np
import pytest
from PIL import Image

from helpers.errors import refusal
from helpers.masks import (
    BLUE,
    COLOUR_LIST,
    COLOURS,
    PINK,
    RED,
    detect,
    draw_squares,
    read_ids,
    resize_drawn,
    save_indexed,
    save_mask,
    save_masks,
)
from ssss_zoo.data.benchmarks.voc import voc_colour
from ssss_zoo.data.mask_values import read_mask_values
from ssss_zoo.errors import UserError

# --- without a class list ---------------------------------------------------------------------------------------------


def test_0_and_255_become_two_classes_when_values_are_asked_for(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[0, 255], [255, 0]])]
    refusal(lambda: detect(tmp_path, masks), "0/255", "data.encoding=values")
    found = detect(tmp_path, masks, encoding="values")
    assert found.names == ("class_0", "class_1")
    assert read_ids(found, masks[0]) == [[0, 1], [1, 0]]
    assert found.encoding.describe(found.names) == "masks hold values: 0 is class_0, 255 is class_1"


def test_a_value_may_be_left_out(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[0, 128, 255]])]
    found = detect(tmp_path, masks, encoding="values", ignore=["128"])
    assert read_ids(found, masks[0]) == [[0, 255, 1]]
    assert found.encoding.describe(found.names).endswith("; void: 128")
    ids = detect(tmp_path, [save_mask(tmp_path / "b.png", [[0, 1, 2, 3, 255]])], ignore=["3"])
    assert ids.names == ("class_0", "class_1", "class_2")
    assert read_ids(ids, tmp_path / "b.png") == [[0, 1, 2, 255, 255]]


def test_every_colour_found_is_a_class_when_colours_are_asked_for(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[RED, BLUE]]), save_mask(tmp_path / "b.png", [[BLUE, PINK]])]
    refusal(lambda: detect(tmp_path, masks), str(masks[0]), "coloured", "classes.txt", "data.encoding=colours")
    found = detect(tmp_path, masks, encoding="colours")
    assert found.colours == (BLUE, RED, PINK)  # in the order of their values
    assert read_ids(found, masks[0]) == [[1, 0]]
    assert read_ids(found, masks[1]) == [[0, 2]]
    without_pink = detect(tmp_path, masks, encoding="colours", ignore=["#ff00ff"])
    assert read_ids(without_pink, masks[1]) == [[0, 255]]


def test_a_photograph_is_no_mask(tmp_path):
    masks = [save_mask(tmp_path / "a.png", np.arange(300).reshape(10, 10, 3) % 251)]
    refusal(lambda: detect(tmp_path, masks, encoding="colours"), "100 colours", "2 to 64", "smeared")


# --- with a class list ------------------------------------------------------------------------------------------------


def test_colours_of_the_list_are_the_values_of_coloured_masks(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[RED, BLUE], [PINK, RED]])]
    found = detect(tmp_path, masks, lines=["sky 0 0 255", "void 255 0 255", "road 255 0 0"])
    assert found.names == ("sky", "road")
    assert found.colours == (BLUE, RED)
    assert read_ids(found, masks[0]) == [[1, 0], [255, 1]]
    assert found.encoding.describe(found.names) == (
        "masks hold colours: #0000ff is sky, #ff0000 is road; void: #ff00ff"
    )


def test_palette_and_alpha_count_as_the_colours_they_show(tmp_path):
    lines = ["sky 0 0 255", "road 255 0 0"]
    indexed = Image.fromarray(np.array([[7, 9]], np.uint8), "P")
    indexed.putpalette([*[0] * 21, *RED, *[0] * 3, *BLUE])
    indexed.save(tmp_path / "p.png")
    clear = save_mask(tmp_path / "a.png", [[(*BLUE, 0), (*RED, 255)]])
    found = detect(tmp_path, [clear], lines=lines)
    assert read_ids(found, clear) == [[0, 1]]
    assert read_ids(found, tmp_path / "p.png") == [[1, 0]]


def test_values_of_the_list_are_the_values_of_grey_masks(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[10, 20], [30, 10]])]
    found = detect(tmp_path, masks, lines=["20: road", "10: sky 1 2 3", "30: void"])
    assert found.names == ("road", "sky")
    assert found.colours[1] == (1, 2, 3)
    assert read_ids(found, masks[0]) == [[1, 0], [255, 1]]


def test_a_void_line_without_a_value_is_void_at_its_place(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[0, 1, 2]])]
    found = detect(tmp_path, masks, lines=["sky", "Void", "road"])
    assert found.names == ("sky", "road")
    assert read_ids(found, masks[0]) == [[0, 255, 1]]


@pytest.mark.parametrize("settings", [{}, {"encoding": "ids"}])
def test_void_and_values_of_a_list_hold_whatever_occurs_and_255_stays_void(tmp_path, settings):
    masks = [save_mask(tmp_path / "a.png", [[0, 1, 255]])]  # no pixel of road
    found = detect(tmp_path, masks, **settings, lines=["sky", "void", "road"])
    assert read_ids(found, masks[0]) == [[0, 255, 255]]
    found = detect(tmp_path, masks, **settings, lines=["1: sky", "0: road", "7: car"])
    assert read_ids(found, masks[0]) == [[1, 0, 255]]
    found = detect(tmp_path, masks, **settings, lines=["0: sky", "1: road", "255: car"])
    assert read_ids(found, masks[0]) == [[0, 1, 2]]


def test_names_alone_take_the_values_found_when_they_are_as_many(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[0, 255]])]
    found = detect(tmp_path, masks, encoding="values", lines=["ground", "crack"])
    assert found.encoding.describe(found.names) == "masks hold values: 0 is ground, 255 is crack"
    lines = ["ground", "crack", "leaf"]
    words = ["3 classes", "2 values (0 50.00%, 255 50.00%)", "'VALUE: name'"]
    refusal(lambda: detect(tmp_path, masks, encoding="values", lines=lines), *words)


def test_grey_in_three_channels_is_grey(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[(1, 1, 1), (0, 0, 0)]])]
    found = detect(tmp_path, masks)
    assert found.encoding.kind == "ids"
    assert read_ids(found, masks[0]) == [[1, 0]]


def test_an_undeclared_value_is_refused_with_its_count_or_taken_for_the_nearest(tmp_path):
    lines = ["sky 0 0 255", "road 255 0 0"]
    masks = [save_mask(tmp_path / "a.png", [[BLUE, (250, 5, 3)], [(0, 9, 240), (250, 5, 3)]])]
    found = detect(tmp_path, masks, lines=lines)
    words = [
        "a.png",
        "3 pixels of 2 colours",
        "#fa0503 (2 pixels)",
        "data.ignore=['#0009f0','#fa0503']",
        "data.snap=true",
    ]
    refusal(lambda: read_ids(found, masks[0]), *words)
    snapped = detect(tmp_path, masks, snap=True, lines=lines)
    assert read_ids(snapped, masks[0]) == [[0, 1], [0, 1]]


def test_a_jpeg_needs_the_nearest_values(tmp_path):
    blocks = np.zeros((32, 32, 3), np.uint8)
    blocks[:16], blocks[16:] = BLUE, RED
    path = save_mask(tmp_path / "a.jpg", blocks, quality=80)
    lines = ["sky 0 0 255", "road 255 0 0"]
    refusal(lambda: read_ids(detect(tmp_path, [path], lines=lines), path), "JPEG", "data.snap=true")
    snapped = detect(tmp_path, [path], snap=True, lines=lines)
    assert read_ids(snapped, path) == [[0] * 32] * 16 + [[1] * 32] * 16


def test_the_nearest_grey_value_is_taken(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[3, 250, 120]])]
    found = detect(tmp_path, masks, snap=True, lines=["0: a", "255: b", "128: c"])
    assert read_ids(found, masks[0]) == [[0, 1, 2]]


# --- settings and lists that cannot be used ---------------------------------------------------------------------------


def test_wrong_settings_are_one_line(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[0, 1]])]
    refusal(lambda: detect(tmp_path, masks, encoding="colour"), "data.encoding", "did you mean 'colours'")
    refusal(lambda: detect(tmp_path, masks, ignore=["red"]), "data.ignore", "'red'", "a whole number such as 7 or -1")
    refusal(lambda: detect(tmp_path, masks, encoding="colours", ignore=["ff00ff"]), "'ff00ff'", "'#ff00ff'")
    refusal(lambda: detect(tmp_path, masks, snap=True), "data.snap=true", "classes.txt")


def test_a_list_that_cannot_tell_colours_apart_is_named(tmp_path):
    masks = [save_mask(tmp_path / "a.png", [[RED, BLUE]])]
    refusal(lambda: detect(tmp_path, masks, lines=["a 255 0 0", "b"]), "classes.txt", "no colour for class 'b'")
    refusal(lambda: detect(tmp_path, masks, lines=["a 255 0 0", "b 255 0 0"]), "one colour to two classes")


def test_colours_and_values_of_16_bits_where_values_are_expected(tmp_path):
    refusal(
        lambda: read_mask_values(save_mask(tmp_path / "a.png", [[RED, BLUE]]), colours=False, lossy=False),
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


# --- faults -----------------------------------------------------------------------------------------------------------


def kinds_of_faults(found):
    return {(fault.level, fault.kind) for fault in found.faults}


def fault_messages(root, masks, kind):
    """The messages of the faults, or of the error, where values become classes."""
    try:
        return " ".join(fault.message for fault in detect(root, masks, encoding=kind).faults)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX])
def test_smeared_edges_are_no_classes(tmp_path, how):
    """The ids 0 to 5 resized with interpolation hold no other value, and are wrong along every edge."""
    wrong = []
    for count, step in [(2, 255), (3, 1), (6, 1), (6, 4), (3, 100)]:
        root = tmp_path / f"{count} {step}"
        root.mkdir()
        masks = save_masks(root, [resize_drawn(mask * np.uint8(step), how) for mask in draw_squares(count)])
        for kind in ("auto", "values"):
            messages = fault_messages(root, masks, kind)
            if not ("smeared" in messages or (step == 255 and "128" in messages)):
                wrong.append((count, step, kind, messages))
        listed = detect(root, masks, snap=True, lines=[f"{index * step}: c{index}" for index in range(count)])
        if kinds_of_faults(listed) != ({("warning", "smeared")} if count > 2 else set()):
            wrong.append((count, step, "with a list", listed.faults))
    assert wrong == []


def test_masks_that_are_right_have_no_faults(tmp_path):
    wrong = []
    for count in (2, 3, 6):
        drawn = draw_squares(count)
        for pixels in (drawn, [resize_drawn(mask, Image.Resampling.NEAREST) for mask in drawn]):
            grey = detect(tmp_path, save_masks(tmp_path, pixels))
            coloured = detect(tmp_path, save_masks(tmp_path, [COLOURS[mask] for mask in pixels]), encoding="colours")
            wrong += [(count, found.encoding.kind, found.faults) for found in (grey, coloured) if found.faults]
    assert wrong == []


def test_a_line_around_each_object_may_be_a_class(tmp_path):
    objects = draw_squares(2)
    rims = [(np.pad(one, 1)[2:, 1:-1] & np.pad(one, 1)[:-2, 1:-1] & np.pad(one, 1)[1:-1, 2:]) for one in objects]
    masks = save_masks(tmp_path, [one + rim for one, rim in zip(objects, rims, strict=True)])  # 0, 1 on a rim, 2 within
    assert kinds_of_faults(detect(tmp_path, masks)) == {("warning", "line")}
    assert kinds_of_faults(detect(tmp_path, masks, lines=["ground", "rim", "cell"])) == set()


@pytest.mark.parametrize("void", [False, True])
def test_more_ids_than_classes_can_be_found_are_refused(tmp_path, void):
    mask = np.arange(70, dtype=np.uint8).repeat(40).reshape(-1, 40)
    mask[:, :4] = 255 if void else mask[:, :4]
    refusal(lambda: detect(tmp_path, save_masks(tmp_path, [mask])), "70 ids", "2 to 64", "classes.txt")
    names = [f"c{index}" for index in range(70)]
    assert detect(tmp_path, [tmp_path / "0.png"], lines=names).names == tuple(names)


@pytest.mark.parametrize(
    ("kind", "palette", "stray", "lines"),
    [
        ("values", (0, 128, 255), (7, 25, 44), "'0: class_0', '128: class_1', '255: class_2'"),
        ("ids", (0, 1, 2), (3, 3, 4), "'0: class_0', '1: class_1', '2: class_2'"),
        ("colours", (0, 1, 2), (3, 4, 5), "'class_0 0 0 0', 'class_1 0 0 255', 'class_2 255 0 0'"),
    ],
)
def test_strays_are_named_with_their_masks_and_the_remedy(tmp_path, kind, palette, stray, lines):
    drawn = [np.array([*palette], np.uint8)[mask] for mask in draw_squares(3)]
    drawn[5][1, 3:9:2] = stray
    masks = save_masks(tmp_path, [COLOURS[mask] if kind == "colours" else mask for mask in drawn])
    found = detect(tmp_path, masks, encoding=kind)
    assert kinds_of_faults(found) == {("unusable", "stray")}
    assert all(word in found.faults[0].message for word in (str(masks[5]), lines, "data.snap=true"))
    listed = [line.strip("'") for line in lines.split(", ")]
    sure = detect(tmp_path, masks, encoding=kind, snap=True, lines=listed)
    assert kinds_of_faults(sure) == set()
    assert np.max(read_ids(sure, masks[5])) == 2


def test_an_object_of_255_is_not_left_out_for_the_sake_of_a_few_ids(tmp_path):
    drawn = draw_squares(2) * np.uint8(255)
    drawn[:, 2, 2:8:2] = (1, 2, 3)
    found = detect(tmp_path, save_masks(tmp_path, drawn))
    assert kinds_of_faults(found) == {("unusable", "binary")}
    assert "'0: class_0', '255: class_1'" in found.faults[0].message


def test_the_error_for_grey_levels_counts_the_masks_with_255(tmp_path):
    refusal(
        lambda: detect(tmp_path, [save_mask(tmp_path / "a.png", [[0, 128, 255]])]), "0, 128", "255", "in 1 of 1 masks"
    )


# --- palettes ---------------------------------------------------------------------------------------------------------


IDS = np.array([[0, 1, 2], [2, 1, 0]])


@pytest.mark.parametrize("orders", [[(1, 2, 0)], [(0, 1, 2), (0, 2, 1)]])
def test_palettes_in_another_order_are_read_by_their_colours(tmp_path, orders):
    """orders: for each mask, the index that stands for each class."""
    for suffix in ("png", "gif", "tif"):
        masks = [
            save_indexed(tmp_path / f"{at}.{suffix}", np.array(order)[IDS], COLOURS[np.argsort(order)])
            for at, order in enumerate(orders)
        ]
        found = detect(tmp_path, masks, lines=COLOUR_LIST)
        assert found.encoding.kind == "colours", suffix
        assert "data.encoding=ids" in found.notes[0]
        assert [read_ids(found, mask) for mask in masks] == [IDS.tolist()] * len(masks), suffix
        by_index = detect(tmp_path, masks, encoding="ids", lines=COLOUR_LIST)
        assert read_ids(by_index, masks[0]) == np.array(orders[0])[IDS].tolist(), suffix


def test_palettes_that_differ_are_refused_where_no_list_says_more(tmp_path):
    masks = [
        save_indexed(tmp_path / f"{at}.png", IDS, COLOURS[[0, *order]]) for at, order in enumerate([(1, 2), (2, 1)])
    ]
    words = ["0.png", "1.png", "index 1", "#ff0000", "#0000ff", "data.encoding=colours", "data.encoding=ids"]
    refusal(lambda: detect(tmp_path, masks), *words)
    refusal(lambda: detect(tmp_path, masks, lines=["a", "b", "c"]), *words)
    (tmp_path / "classes.txt").unlink()
    assert detect(tmp_path, masks, encoding="colours").colours == ((0, 0, 0), BLUE, RED)


def test_a_palette_that_contradicts_the_list_in_part_is_refused(tmp_path):
    mask = save_indexed(tmp_path / "a.png", [[0, 1, 2, 3]], COLOURS[[0, 2, 1, 3]])
    refusal(
        lambda: detect(tmp_path, [mask], lines=[*COLOUR_LIST, "leaf 9 9 9"]), "a.png", "#0000ff", "data.encoding=ids"
    )


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
    masks = [save_indexed(tmp_path / "a.png", IDS, colours), save_mask(tmp_path / "b.png", IDS)]
    for lines in (None, COLOUR_LIST):
        found = detect(tmp_path, masks, lines=lines)
        assert found.encoding.kind == "ids"
        assert all(read_ids(found, mask) == IDS.tolist() for mask in masks)
