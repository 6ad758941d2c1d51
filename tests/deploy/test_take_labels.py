"""`ssss label take=`: masks of a person, checked and written as a split of their own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.folders import open_folder
from helpers.images import save_image
from helpers.label_runs import SIZE, coloured, files_below, labelled_folder, read_ids, untrained_run, write_index_masks
from ssss_zoo.commands.cli import main
from ssss_zoo.deploy.polygon_files import join_coco_files, write_polygons
from ssss_zoo.deploy.take_labels import TakeResult, take_labels
from ssss_zoo.errors import UserError

NAMES = ("red", "green", "blue")


@pytest.fixture
def run(tmp_path, tiny_plugins) -> Path:
    return untrained_run(tmp_path / "run", labelled_folder(tmp_path / "data"))


def take(run: Path, folder: Path, *more: str) -> TakeResult:
    return take_labels([f"run={run}", f"take={folder}", *more])


def blue_and_green() -> np.ndarray:
    """(H, W) ids: green, and a blue rectangle with a red hole."""
    ids = np.ones(SIZE, np.uint8)
    ids[4:14, 6:20] = 2
    ids[7:10, 9:15] = 0
    return ids


def store_masks_as(kind: str, root: Path) -> None:
    """Turn the index masks of `labelled_folder` into colours, LabelMe's files or one COCO file."""
    masks = {file.stem: read_ids(file) for file in sorted((root / "masks").glob("*.png"))}
    shutil.rmtree(root / "masks")
    if kind == "colours":
        for name in masks:
            save_image(root / f"masks/{name}.png", coloured((255, 0, 0), (0, 255, 0)))
        (root / "classes.txt").write_text("red 255 0 0\ngreen 0 255 0\nblue 0 0 255\n")
        return
    for name, ids in masks.items():
        write_polygons(root / f"masks/{name}.json", kind, ids, NAMES, f"{name}.png")
    if kind == "coco":
        join_coco_files(sorted((root / "masks").glob("*.json")), root / "annotations.json")
        shutil.rmtree(root / "masks")


# --- what is taken --------------------------------------------------------------------------------------------------


def test_index_masks_labelme_and_coco_are_read_to_the_same_split(run, tmp_path):
    ids = blue_and_green()
    save_image(tmp_path / "masks/masks/u2.png", ids)
    save_image(tmp_path / "masks/images/u2.png", coloured((0, 0, 0), (9, 9, 9)))  # no mask: `masks/` is there
    for kind in ("labelme", "coco"):
        write_polygons(tmp_path / kind / "images/u2.json", kind, ids, NAMES, "u2.png")
    before = files_below(tmp_path / "data")
    for kind in ("masks", "labelme", "coco"):
        result = take(run, tmp_path / kind)
        assert (result.taken, result.labelled, result.unlabelled) == (1, 7, 5)
        assert result.output == tmp_path / f"{kind}_split"
        assert set(files_below(result.output)) == {"labeled.txt", "unlabeled.txt", "val.txt", "masks/u2.png"}
        np.testing.assert_array_equal(read_ids(result.output / "masks/u2.png"), ids)
        assert f"data.split={result.output}" in result.command
    assert files_below(tmp_path / "data") == before


def test_the_split_keeps_validation_and_classes_whatever_other_masks_hold(tmp_path, tiny_plugins):
    """Masks of the folder hold colours, LabelMe's polygons or COCO's regions; those of the split hold class ids."""
    for kind in ("colours", "labelme", "coco"):
        root = labelled_folder(tmp_path / kind)
        store_masks_as(kind, root)
        run = untrained_run(tmp_path / f"run_{kind}", root)
        result = take(run, write_index_masks(tmp_path / f"taken_{kind}", {"u2": 2, "u4": 1}))
        before, after = open_folder(root), open_folder(root, split=str(result.output))
        after.check()
        assert [sample.name for sample in after.val] == [sample.name for sample in before.val]
        assert after.class_names == before.class_names == NAMES
        assert [sample.name for sample in after.unlabelled] == [f"unlabelled/u{number}.png" for number in (0, 1, 3, 5)]
        masks = {Path(sample.name).stem: after.read_mask(sample) for sample in after.labelled}
        assert len(masks) == 8
        assert (masks["u2"] == 2).all()
        assert (masks["u4"] == 1).all()
        for sample in before.labelled:
            np.testing.assert_array_equal(masks[Path(sample.name).stem], before.read_mask(sample))


def test_pixels_outside_of_polygons_are_background_or_void(tmp_path, tiny_plugins):
    ids = np.full(SIZE, 255, np.uint8)
    ids[:10] = 2
    for first, rest in (("red", 255), ("background", 0)):
        root = labelled_folder(tmp_path / first / "data")
        names = (first, "green", "blue")
        (root / "classes.txt").write_text("\n".join(names))
        run = untrained_run(tmp_path / first / "run", root)
        write_polygons(tmp_path / first / "taken/u2.json", "labelme", ids, names, "u2.png")
        output = take(run, tmp_path / first / "taken").output
        np.testing.assert_array_equal(read_ids(output / "masks/u2.png"), np.where(ids == 255, rest, ids))


def test_masks_that_the_data_set_hides_need_no_copies(tmp_path, tiny_plugins):
    root = labelled_folder(tmp_path / "data")
    (root / "splits/two").mkdir(parents=True)
    lines = [f"images/{number}.png masks/{number}.png\n" for number in range(8)]
    for name, part in (("two/labeled.txt", lines[:2]), ("two/unlabeled.txt", lines[2:5]), ("val.txt", lines[5:])):
        (root / "splits" / name).write_text("".join(part))
    run = untrained_run(tmp_path / "run", root, "data.split=two")
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen/label.csv").write_text("rank,image\n1,images/3.png\n")
    output = take(run, tmp_path / "chosen", "hidden=true").output
    assert set(files_below(output)) == {"labeled.txt", "unlabeled.txt"}
    assert (output / "labeled.txt").read_text() == "".join([*lines[:2], lines[3]])
    assert (output / "unlabeled.txt").read_text() == "".join([lines[2], lines[4]])
    assert [sample.name for sample in open_folder(root, split=str(output)).val] == [
        line.split()[0] for line in lines[5:]
    ]


def test_masks_that_nobody_saved_are_warned_of(run, tmp_path, warnings):
    folder = write_index_masks(tmp_path / "taken", {"u1": 1, "u2": 2})
    (folder / "label.csv").write_text("")
    os.utime(folder / "u2.png", (2e9, 2e9))
    take(run, folder)
    assert any("1 of 2 masks are as the network predicted them, such as" in line for line in warnings())


def test_an_image_is_found_by_the_end_of_its_path(tmp_path, tiny_plugins):
    root = labelled_folder(tmp_path / "data")
    for place in ("a", "b"):
        save_image(root / f"unlabelled/{place}/same.png", coloured((9, 9, 9), (0, 0, 0)))
    run = untrained_run(tmp_path / "run", root)
    write_index_masks(tmp_path / "taken/b", {"same": 2})
    assert "unlabelled/b/same.png " in (take(run, tmp_path / "taken").output / "labeled.txt").read_text()
    write_index_masks(tmp_path / "unclear", {"same": 2})
    uploaded = write_index_masks(tmp_path / "uploaded", {"0a1b2c3d-u2": 2})  # as Label Studio names it
    (uploaded / ".cache").mkdir()
    (uploaded / ".cache/notes.json").write_text("{}")
    assert "unlabelled/u2.png " in (take(run, uploaded).output / "labeled.txt").read_text()
    with pytest.raises(UserError, match=r"same.png: unlabelled/a/same.png and unlabelled/b/same.png are called so"):
        take(run, tmp_path / "unclear")


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_masks_that_cannot_be_taken_are_refused_in_one_line(run, tmp_path):
    data = open_folder(tmp_path / "data")
    labelled, val = (Path(samples[0].name).stem for samples in (data.labelled, data.val))

    def folder(name: str, ids: dict[str, int]) -> Path:
        return write_index_masks(tmp_path / name, ids)

    small = tmp_path / "small"
    save_image(small / "u2.png", np.zeros((8, 8), np.uint8))
    other = tmp_path / "other"
    write_polygons(other / "u2.json", "labelme", np.zeros(SIZE, np.uint8), ("rod", "green", "blue"), "u2.png")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "u2.json").write_text(json.dumps({"version": 1}))
    coloured_mask = tmp_path / "coloured"
    save_image(coloured_mask / "u2.png", coloured((255, 0, 0), (0, 255, 0)))
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "gone": "no such folder; give the folder of the corrected masks",
        tmp_path / "empty": "holds no masks: expected LabelMe or COCO JSON, or index masks such as",
        small: "1 fault in 1 mask of",
        other: "unknown class of a region (LabelMe) 'rod'",
        strange: "u2.json is neither LabelMe's (no `shapes`) nor COCO's",
        coloured_mask: "u2.png is coloured: colour masks are not class ids",
        folder("values", {"u2": 7, "u1": 1}): "u2.png holds 7 (560 pixels); ids are 0 to 2, void is 255",
        folder("void", {"u2": 255}): "correct or remove such masks: unlabelled/u2.png: mask",
        folder("labelled", {labelled: 1}): f"nothing was taken: images/{labelled}.png: labelled already",
        folder("val", {val: 1}): f"nothing was taken: images/{val}.png: a validation image",
        folder("unknown", {"u7": 1, "u8": 1}): "u8.png: no image of the data set is called so",
    }
    before = files_below(tmp_path)
    for place, message in cases.items():
        done = CliRunner().invoke(main, ["label", f"run={run}", f"take={place}"])
        assert done.exit_code == 2, (message, done.output)
        assert message in done.stderr.splitlines()[-1], done.stderr
        assert files_below(tmp_path) == before


def test_other_mistakes_of_taking(run, tmp_path):
    folder = write_index_masks(tmp_path / "taken", {"u2": 2})
    take(run, folder)
    write_polygons(tmp_path / "two/a/u2.json", "labelme", np.zeros(SIZE, np.uint8), NAMES, "u2.png")
    write_polygons(tmp_path / "two/b/u2.json", "labelme", np.zeros(SIZE, np.uint8), NAMES, "u2.png")
    cases = {
        "taken_split is not an empty folder: give a new one": [],
        "lies inside the data set": [f"output={tmp_path / 'data/splits/more'}"],
        "unknown key 'count'": ["count=3"],
        "unlabelled/u2.png: an image with two masks: remove one": [f"take={tmp_path / 'two'}"],
        f"cannot read {folder / 'label.csv'}, which `ssss label` writes": ["hidden=true", f"output={tmp_path / 'x'}"],
        "holds no run (no config.yaml)": [f"run={tmp_path}"],
        "give the run and the folder of the corrected masks": ["run="],
    }
    for message, more in cases.items():
        with pytest.raises(UserError) as caught:
            take(run, folder, *more)
        assert message in str(caught.value)
