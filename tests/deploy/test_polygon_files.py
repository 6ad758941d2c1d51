"""Polygons of predicted masks, as LabelMe and COCO have them: read back they are the same masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.images import save_image
from helpers.trained_models import pointwise_model
from ssss_zoo.commands.cli import main
from ssss_zoo.data.folder.polygons import CocoEntry, CocoRegions, LabelMeRegions, read_coco
from ssss_zoo.data.folder.regions import RegionEncoding, RegionSource
from ssss_zoo.data.images import Reading
from ssss_zoo.deploy import predict
from ssss_zoo.deploy.polygon_files import outline_regions, polygon_area, simplify_polygon, write_polygons
from ssss_zoo.toolkit.types import Sample

NAMES = ("a", "b", "c")


def read_back(source: RegionSource, file: Path) -> np.ndarray:
    encoding = RegionEncoding(source, {name: index for index, name in enumerate(NAMES)}, 255, Reading())
    return encoding.read(Sample("x", Path("x.png"), file))


def speckled() -> np.ndarray:
    """(H, W) ids: a thin ring around a large region, regions within regions, single pixels, and void."""
    ids = np.zeros((40, 50), np.uint8)
    ids[2:38, 2:48] = 1
    ids[3:37, 3:47] = 2
    ids[10:20, 10:30] = 0
    ids[12:15, 12:16] = 255
    noise = np.random.default_rng(0).random(ids.shape)
    return np.where(noise < 0.03, np.uint8(1), ids)


def test_masks_are_the_same_after_polygons_of_both_formats(tmp_path):
    ids = speckled()
    file = tmp_path / "x.json"
    write_polygons(file, "labelme", ids, NAMES, "x.png")
    expected = np.where(ids == 255, 0, ids)  # an outline has no holes, and void is in a region
    np.testing.assert_array_equal(read_back(LabelMeRegions(), file), expected)
    write_polygons(file, "coco", ids, NAMES, "x.png")
    coco = read_coco(file)
    source = CocoRegions([coco], {Path("x.png"): CocoEntry(coco, coco.images["x.png"])})
    np.testing.assert_array_equal(read_back(source, file), expected)


def test_an_annotation_of_coco_by_hand(tmp_path):
    ids = np.full((6, 8), 255, np.uint8)
    ids[1:4, 2:7] = 1
    write_polygons(tmp_path / "x.json", "coco", ids, NAMES, "x.png")
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "x.png", "height": 6, "width": 8}]
    assert [(entry["id"], entry["name"]) for entry in content["categories"]] == [(1, "a"), (2, "b"), (3, "c")]
    (annotation,) = content["annotations"]
    assert (annotation["category_id"], annotation["image_id"], annotation["iscrowd"]) == (2, 1, 0)
    left, top, width, height = annotation["bbox"]
    assert (left, top, left + width, top + height) == (2, 1, 7, 4)
    assert annotation["area"] == 14.5, "15 pixels, each corner cut by an eighth"
    assert len(annotation["segmentation"][0]) % 2 == 0


def test_simplified_outlines_have_fewer_corners_and_stay_near():
    angles = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    circle = 50 + 40 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    simple = simplify_polygon(circle, 1.0)
    assert 8 < len(simple) < 40
    assert polygon_area(circle) == pytest.approx(np.pi * 1600, rel=1e-3)
    assert polygon_area(simple) == pytest.approx(np.pi * 1600, rel=0.04)
    square = np.array([(0, 0), (1, 0), (2, 0.1), (4, 0), (4, 4), (2, 4), (0, 4), (0, 2)], float)
    assert simplify_polygon(square, 0.5).tolist() == [[0, 0], [4, 0], [4, 4], [0, 4]]
    assert simplify_polygon(square, 0.0) is square
    assert len(simplify_polygon(square, 100.0)) >= 3
    assert [outline.class_id for outline in outline_regions(speckled(), 3)[:3]] == [0, 1, 2], "large ones first"


def test_predict_writes_one_coco_file_for_all_images(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda *arguments: pointwise_model())
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    for name in ("a.png", "deep/b.png"):
        save_image(tmp_path / "in" / name, pixels)
    words = ["predict", "run=any", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", "polygons=coco"]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, "polygons=coco is the format of save=polygons" in done.stderr) == (2, True)
    done = CliRunner().invoke(main, [*words, "save=polygons"])
    assert "polygons, annotations/instances_default.json, predictions.csv" in done.stdout
    coco = read_coco(tmp_path / "out/annotations/instances_default.json")
    assert set(coco.images) == {"a.png", "deep/b.png"}
    ids = [entry["id"] for of_image in coco.annotations.values() for entry in of_image]
    assert sorted(ids) == [*range(1, len(ids) + 1)]
    done = CliRunner().invoke(main, [*words, "save=polygons"])
    assert (done.exit_code, "exists: continue with resume=true" in done.stderr) == (2, True)
    (tmp_path / "out/polygons/a.json").write_text("{}")
    done = CliRunner().invoke(main, [*words, "save=polygons", "resume=true"])
    assert (done.exit_code, "cannot join" in done.stderr) == (2, True)
    assert len(list(csv.reader((tmp_path / "out/predictions.csv").open()))) == 3
