"""Masks of one file for each class, of LabelMe's shapes and of COCO's: pixel by pixel on small ones."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from helpers.errors import refusal
from helpers.folders import open_folder
from ssss_zoo.commands.cli import command_line
from ssss_zoo.data.tools.audit import audit

HIGH, WIDE = 6, 8


def photos(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (HIGH, WIDE, 3), np.uint8)).save(root / name)


def binary(path, rows, columns, on=255):
    pixels = np.zeros((HIGH, WIDE), np.uint8)
    pixels[rows, columns] = on
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def all_of(dataset):
    return {sample.name: dataset.read_mask(sample) for sample in (*dataset.labelled, *dataset.val)}


# --- one file for each class ----------------------------------------------------------------------------------------

NAMES = {
    "a folder for each class": "{label}/{stem}.png",
    "a folder for each image": "{stem}/{label}.png",
    "an ending for each class": "{stem}_{label}.png",
}


@pytest.fixture(params=NAMES.values(), ids=NAMES.keys())
def per_class(request, tmp_path):
    """Two images; a car on the road in the first, road alone in the second; a third without masks."""
    photos(tmp_path, "images/a_1.jpg", "images/a_2.jpg", "images/a_3.jpg")
    for stem, label, rows, columns, on in (
        *(("a_1", "road", slice(3, 6), slice(0, 8), 255), ("a_1", "car", slice(2, 5), slice(2, 4), 1)),
        ("a_2", "road", slice(0, 1), slice(0, 8), 255),
    ):
        binary(tmp_path / "masks" / request.param.format(stem=stem, label=label), rows, columns, on)
    return tmp_path


def test_files_of_each_class_make_one_mask(per_class):
    dataset = open_folder(per_class)
    assert dataset.class_names == ("background", "car", "road")
    expected = np.zeros((HIGH, WIDE), int)
    expected[2:5, 2:4] = 1
    expected[3:6] = 2  # road comes after car, and covers it
    np.testing.assert_array_equal(all_of(dataset)["images/a_1.jpg"], expected)
    assert [sample.name for sample in dataset.unlabelled] == ["images/a_3.jpg"]
    assert "one file for each class" in dataset.notes[1]
    assert "pixels in none are background" in dataset.notes[1]


def test_a_class_list_orders_classes_and_decides_the_rest(per_class):
    (per_class / "classes.txt").write_text("road 128 64 128\ncar 0 0 200\n")
    dataset = open_folder(per_class)
    assert dataset.class_names == ("road", "car")
    expected = np.full((HIGH, WIDE), 255)
    expected[3:6] = 0
    expected[2:5, 2:4] = 1  # now the car is the later one
    np.testing.assert_array_equal(all_of(dataset)["images/a_1.jpg"], expected)
    (per_class / "classes.txt").write_text("road\ntruck\n")
    refusal(lambda: open_folder(per_class), "'car'", "classes.txt must name it")
    (per_class / "classes.txt").write_text("road\nbackground\nvoid\ncar")
    assert all_of(open_folder(per_class))["images/a_1.jpg"][0].tolist() == [1] * WIDE


@pytest.mark.parametrize("words", [{"encoding": "values"}, {"ignore": ["7"]}, {"snap": True}])
def test_settings_of_mask_values_are_refused_for_regions(per_class, words):
    refusal(lambda: open_folder(per_class, **words), f"data.{next(iter(words))}", "one file for each class")


def test_a_check_remembers_every_file_of_a_mask(per_class, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    before = audit(open_folder(per_class), (4, 4), 1).summary.classes
    car = next(path for path in (per_class / "masks").rglob("*.png") if "car" in str(path.relative_to(per_class)))
    binary(car, slice(0, 3), slice(0, 8))
    after = audit(open_folder(per_class), (4, 4), 1).summary.classes
    assert before != after


def test_files_of_two_sizes_are_refused(per_class):
    car = next(path for path in (per_class / "masks").rglob("*.png") if "car" in str(path.relative_to(per_class)))
    Image.new("L", (3, 3)).save(car)
    dataset = open_folder(per_class)
    refusal(lambda: all_of(dataset), "3x3", "must match pixel for pixel")


# --- LabelMe --------------------------------------------------------------------------------------------------------


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def labelme(path, *shapes, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "imageHeight": HIGH, "imageWidth": WIDE, "shapes": list(shapes), **more}
    path.write_text(json.dumps(content))


SQUARE = [[2, 1], [6, 1], [6, 4], [2, 4]]  # x, y


@pytest.mark.parametrize("home", ["images", "labels", ""])
def test_shapes_lie_beside_images_or_in_a_folder(tmp_path, home):
    photos(tmp_path, *(f"{'images' if home else ''}/{stem}.jpg".lstrip("/") for stem in "abc"))
    for stem in "ab":
        labelme(tmp_path / home / f"{stem}.json", shape("car", SQUARE))
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("background", "car")
    expected = np.zeros((HIGH, WIDE), int)
    expected[1:4, 2:6] = 1
    for mask in all_of(dataset).values():
        np.testing.assert_array_equal(mask, expected)
    assert (len(dataset.labelled), len(dataset.val), len(dataset.unlabelled)) == (1, 1, 1)
    assert "LabelMe" in dataset.notes[1]


def test_each_kind_of_shape(tmp_path):
    photos(tmp_path, *(f"{stem}.png" for stem in "abcde"))
    bitmap = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 255]], np.uint8)).save(bitmap, "PNG")
    labelme(tmp_path / "a.json", shape("x", [[1, 1], [3, 4]], "rectangle"))
    labelme(tmp_path / "b.json", shape("x", [[4, 3], [4, 1]], "circle"))
    labelme(
        tmp_path / "c.json",
        shape("x", [[5, 2], [7, 4]], "mask", mask=base64.b64encode(bitmap.getvalue()).decode()),
    )
    labelme(tmp_path / "d.json", shape("x", SQUARE), shape("__ignore__", [[2, 1], [4, 1], [4, 4], [2, 4]]))
    labelme(tmp_path / "e.json", shape("x", SQUARE), shape("_background_", [[2, 1], [4, 1], [4, 4], [2, 4]]))
    masks = all_of(open_folder(tmp_path))
    assert np.argwhere(masks["a.png"]).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2], [3, 1], [3, 2]]
    assert 8 <= (masks["b.png"] == 1).sum() <= 16  # pi r^2 = 12.6
    assert np.argwhere(masks["c.png"]).tolist() == [[2, 6], [3, 5], [3, 6]]
    assert masks["d.png"][2].tolist() == [0, 0, 255, 255, 1, 1, 0, 0]
    assert masks["e.png"][2].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["b.json", "no JSON"]),
        ("[]", ["b.json", "no list of `shapes`"]),
        ('{"shapes": []}', ["b.json", "imageHeight"]),
        ('{"shapes": [{"label": "x"}], "imageHeight": 6, "imageWidth": 8}', ["b.json", "points"]),
    ],
)
def test_a_file_that_labelme_did_not_write_is_named(tmp_path, content, words):
    photos(tmp_path, "a.png", "b.png", "c.png")
    for stem in "ac":
        labelme(tmp_path / f"{stem}.json", shape("x", SQUARE))
    (tmp_path / "b.json").write_text(content)
    refusal(lambda: open_folder(tmp_path), *words)


def test_a_line_encloses_nothing(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    for stem in "ab":
        labelme(tmp_path / f"{stem}.json", shape("x", [[1, 1], [4, 4]], "line"))
    dataset = open_folder(tmp_path)
    refusal(lambda: all_of(dataset), "'x' is a line", "encloses nothing")


# --- COCO -----------------------------------------------------------------------------------------------------------


def coco(path, names, *annotations):
    """A file that lists `names`; annotations: image's place in it, category, segmentation, more."""
    images = [{"id": 10 + at, "file_name": name, "height": HIGH, "width": WIDE} for at, name in enumerate(names)]
    entries = [
        {
            "id": at,
            "image_id": 10 + image,
            "category_id": category,
            "segmentation": part,
            "area": area,
            "iscrowd": crowd,
        }
        for at, (image, category, part, area, crowd) in enumerate(annotations)
    ]
    categories = [{"id": 7, "name": "road"}, {"id": 3, "name": "car"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))


FLAT = [x for point in SQUARE for x in point]
SMALL = [2, 1, 4, 1, 4, 4, 2, 4]


def test_coco_files_of_two_parts(tmp_path):
    photos(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg", "images/train/loose.jpg")
    everything = {"counts": [0, HIGH * WIDE], "size": [HIGH, WIDE]}
    coco(
        tmp_path / "annotations/instances_train2017.json",
        ["a.jpg", "b.jpg"],
        *((0, 3, [SMALL], 6, 0), (0, 7, [FLAT], 12, 0)),  # the smaller one lies on top
        (1, 7, everything, 48, 1),
    )
    coco(tmp_path / "annotations/instances_val2017.json", ["c.jpg"], (0, 7, everything, 48, 0))
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("background", "car", "road")  # by category id
    masks = all_of(dataset)
    assert masks["images/train/a.jpg"][2].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert (masks["images/train/b.jpg"] == 255).all()  # a crowd
    assert (masks["images/val/c.jpg"] == 2).all()
    assert [sample.name for sample in dataset.val] == ["images/val/c.jpg"]
    assert [sample.name for sample in dataset.unlabelled] == ["images/train/loose.jpg"]


def test_run_lengths_may_be_compressed(tmp_path):
    from pycocotools import mask as tools

    photos(tmp_path, "images/a.jpg", "images/b.jpg")
    inside = np.zeros((HIGH, WIDE), np.uint8)
    inside[1:4, 2:6] = 1
    runs = tools.encode(np.asfortranarray(inside))
    packed = {"size": [HIGH, WIDE], "counts": runs["counts"].decode()}
    coco(tmp_path / "annotations.json", ["a.jpg", "b.jpg"], *((at, 3, packed, 12, 0) for at in (0, 1)))
    for mask in all_of(open_folder(tmp_path)).values():
        np.testing.assert_array_equal(mask, inside)


def test_roboflow_export(tmp_path):
    for part in ("train", "valid", "test"):
        photos(tmp_path, f"{part}/{part}.jpg", f"{part}/{part}2.jpg")
        coco(tmp_path / part / "_annotations.coco.json", [f"{part}.jpg", f"{part}2.jpg"], (0, 7, [FLAT], 12, 0))
    dataset = open_folder(tmp_path)
    assert [sample.name for sample in dataset.labelled] == ["train/train.jpg", "train/train2.jpg"]
    assert [sample.name for sample in dataset.val] == ["valid/valid.jpg", "valid/valid2.jpg"]
    assert dataset.notes[-1] == "2 images of the test part are not used"


def test_one_coco_file_that_is_named(tmp_path):
    photos(tmp_path, *(f"images/{stem}.jpg" for stem in "abcde"))
    coco(tmp_path / "export.json", [f"{stem}.jpg" for stem in "abcde"], (0, 7, [FLAT], 12, 0))
    for settings in ({}, {"masks": "export.json"}):
        dataset = open_folder(tmp_path, **settings)
        assert (len(dataset.labelled), len(dataset.val)) == (4, 1)
        assert all_of(dataset)["images/a.jpg"].sum() == 2 * 12
    (tmp_path / "other.json").write_text("{}")
    refusal(lambda: open_folder(tmp_path), "export.json and other.json", "data.masks=export.json")


def test_a_named_file_does_without_a_folder_of_images(tmp_path):
    photos(tmp_path, *(f"photos/{stem}.jpg" for stem in "ab"))
    coco(tmp_path / "notes/export.json", ["a.jpg", "b.jpg"], (0, 7, [FLAT], 12, 0))
    assert len(open_folder(tmp_path, masks="notes/export.json").labelled) == 1


def test_a_wrong_coco_file_is_named(tmp_path):
    photos(tmp_path, "images/a.jpg", "images/b.jpg")
    file = tmp_path / "annotations.json"
    coco(file, ["a.jpg", "lost.jpg"])
    refusal(lambda: open_folder(tmp_path), "lists the image lost.jpg", "no such image")
    coco(file, ["a.jpg"], (0, 99, [FLAT], 12, 0))
    refusal(lambda: open_folder(tmp_path), "category 99")
    file.write_text("{}")
    refusal(lambda: open_folder(tmp_path), "not of COCO's format", "images, annotations, categories")
    coco(file, ["a.jpg", "b.jpg"], (0, 7, [[1, 2]], 12, 0), (1, 7, [FLAT], 12, 0))
    dataset = open_folder(tmp_path)
    refusal(lambda: all_of(dataset), "annotations.json", "cannot be drawn")


# --- the whole way --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_polygons_from_folder_to_split_and_run(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    for stem in range(8):
        photos(root, f"images/{stem}.png")
        labelme(root / f"images/{stem}.json", shape("car", SQUARE))
    assert command_line(["data", "split", "dataset=folder", f"data.root={root}", "sizes=2"]) == 0
    assert (root / "splits/2/labeled.txt").read_text().split()[1].endswith(".json")
    words = ["train.steps=1", "train.crop=32", "train.batch=2", "model.weights=none", "tracking.uri=off"]
    words += ["method=fixmatch", "dataset=folder", f"data.root={root}", "data.split=2", "train.threads=1"]
    assert command_line(["run", *words, f"output={out}"]) == 0
    assert json.loads((out / "metrics.json").read_text())["status"] == "finished"


def test_coco_as_coco_itself_lies(tmp_path):
    photos(tmp_path, "train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg", "unlabeled/d.jpg")
    coco(tmp_path / "annotations/instances_train2017.json", ["a.jpg", "b.jpg"], (0, 7, [FLAT], 12, 0))
    coco(tmp_path / "annotations/instances_val2017.json", ["c.jpg"], (0, 7, [FLAT], 12, 0))
    dataset = open_folder(tmp_path)
    assert [len(part) for part in (dataset.labelled, dataset.val, dataset.unlabelled)] == [2, 1, 1]
    assert all_of(dataset)["val2017/c.jpg"].sum() == 2 * 12
