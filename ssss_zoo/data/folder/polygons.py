"""Masks that are drawn as polygons: LabelMe's shapes, one file per image, and COCO's regions, one file for many."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.data.checks import READER_THREADS
from ssss_zoo.data.classes import VOID_NAMES
from ssss_zoo.data.folder.file_tree import normalize_name
from ssss_zoo.data.folder.regions import DrawnRegions, Region, RegionSource
from ssss_zoo.data.images import Reading
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

CIRCLE_CORNERS = 64  # of the polygon that stands for a circle (our choice)
COCO_KEYS = ("images", "annotations", "categories")


def import_pycocotools(path: Path) -> Any:
    """The library that turns polygons into pixels. Raises UserError, naming the file, where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError(f"{path} holds polygons: to read them, pip install 'ssss-zoo[polygons]'") from None
    return mask


def read_annotation_file(path: Path) -> Any:
    """The content of a JSON file. Raises UserError, naming the file, when it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: no JSON ({error})") from None


# --- LabelMe --------------------------------------------------------------------------------------------------------


class LabelMeRegions(RegionSource):
    """A JSON file of shapes per image, as LabelMe writes it: polygons, rectangles, circles, bitmaps."""

    kind = "LabelMe"
    description = "masks are drawn from LabelMe's shapes"

    def region_names(self, samples: Sequence[Sample]) -> list[str]:
        def names_in(sample: Sample) -> list[str]:
            return [str(shape["label"]) for shape in read_labelme(sample.mask)["shapes"]]

        with ThreadPoolExecutor(READER_THREADS) as pool:
            return sorted({name for names in pool.map(names_in, samples) for name in names})

    def draw(self, sample: Sample, ids: Mapping[str, int], reading: Reading) -> DrawnRegions:
        content = read_labelme(sample.mask)
        size = (content["imageHeight"], content["imageWidth"])
        shapes = content["shapes"]
        return DrawnRegions(
            size, (Region(str(shape["label"]), draw_shape(shape, size, sample.mask)) for shape in shapes)
        )


def read_labelme(path: Path) -> dict[str, Any]:
    """The content of a LabelMe file. Raises UserError, naming it, where LabelMe did not write it."""
    content = read_annotation_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(f"{path} is no file of LabelMe: it has no list of `shapes`")
    for shape in content["shapes"]:
        if not isinstance(shape, dict) or "label" not in shape or not isinstance(shape.get("points"), list):
            raise UserError(f"{path} holds a shape without `label` or `points`: {str(shape)[:80]}")
    if not all(isinstance(content.get(side), int) for side in ("imageHeight", "imageWidth")):
        raise UserError(f"{path} does not say the size of its image (imageHeight, imageWidth)")
    return content


def draw_shape(shape: Mapping[str, Any], size: tuple[int, int], file: Path) -> np.ndarray:
    """The pixels (H, W) bool that a LabelMe shape encloses. Raises UserError, naming the file, where it encloses
    none."""
    kind = shape.get("shape_type", "polygon")
    points = np.array(shape["points"], float).reshape(-1, 2)
    if kind == "mask":
        return draw_bitmap(str(shape.get("mask", "")), points, size, file)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        angles = np.arange(CIRCLE_CORNERS) * (2 * math.pi / CIRCLE_CORNERS)
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind != "polygon" or len(points) < 3:
        raise UserError(
            f"{file}: shape '{shape['label']}' is a {kind} of {len(points)} points, which encloses nothing; expected "
            "a polygon, rectangle, circle or mask"
        )
    return draw_segmentation([points.ravel().tolist()], size, file)


def draw_segmentation(segmentation: Any, size: tuple[int, int], file: Path) -> np.ndarray:
    """The pixels (H, W) bool of COCO's `segmentation`, which is polygons or run lengths."""
    coco_masks = import_pycocotools(file)
    try:
        compressed = isinstance(segmentation, dict) and isinstance(segmentation["counts"], (str, bytes))
        runs = segmentation if compressed else coco_masks.frPyObjects(segmentation, *size)
        merged = coco_masks.merge(runs) if isinstance(runs, list) else runs
        pixels: np.ndarray = coco_masks.decode(merged).astype(bool)
    except Exception as error:  # pycocotools raises bare Exception
        raise UserError(f"{file} holds a region that cannot be drawn: {' '.join(str(error).split())[:120]}") from None
    return pixels


def draw_bitmap(bitmap: str, points: np.ndarray, size: tuple[int, int], file: Path) -> np.ndarray:
    """The pixels (H, W) bool of a LabelMe bitmap: a PNG in base64 whose upper left corner is the first point."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(bitmap))) as image:
            bitmap_pixels = np.array(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError):
        raise UserError(f"{file} holds a mask that is no PNG in base64") from None
    left, top = (round(value) for value in points[0])
    whole = np.zeros(size, bool)
    visible = bitmap_pixels[: size[0] - top, : size[1] - left]
    whole[top : top + visible.shape[0], left : left + visible.shape[1]] = visible
    return whole


# --- COCO -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A file in COCO's format. images: entry by file name; annotations: entries by image id, the largest first;
    class_names: by category id."""

    path: Path
    images: dict[str, dict[str, Any]]
    annotations: dict[Any, list[dict[str, Any]]]
    class_names: dict[Any, str]


@dataclass(frozen=True, eq=False)
class CocoEntry:
    """The entry of an image, and the file that has it."""

    file: CocoFile
    image: dict[str, Any]


def read_coco(path: Path) -> CocoFile:
    """Raises UserError, naming the file, where it is not in COCO's format."""
    content = read_annotation_file(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in COCO_KEYS):
        raise UserError(f"{path} is not of COCO's format: it has no lists {', '.join(COCO_KEYS)}")
    try:
        images = {str(entry["file_name"]): entry for entry in content["images"]}
        class_names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        annotations: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for entry in content["annotations"]:
            if entry["category_id"] not in class_names:
                raise UserError(f"{path}: annotation {entry.get('id')} is of category {entry['category_id']}, unnamed")
            annotations.setdefault(entry["image_id"], []).append(entry)
        for entry in content["images"]:
            int(entry["height"]), int(entry["width"]), entry["id"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not of COCO's format: {type(error).__name__} at {error}") from None
    for of_image in annotations.values():
        of_image.sort(key=lambda entry: -float(entry.get("area", 0)))
    return CocoFile(path, images, annotations, class_names)


class CocoRegions(RegionSource):
    """Files in COCO's format, each for many images. entries: the entry of each image file."""

    kind = "COCO"

    def __init__(self, coco_files: Sequence[CocoFile], entries: Mapping[Path, CocoEntry]) -> None:
        self.coco_files = coco_files
        self.entries = entries
        names = ", ".join(file.path.name for file in coco_files)
        self.description = f"masks are drawn from COCO's regions in {names}"

    def region_names(self, samples: Sequence[Sample]) -> list[str]:
        ids = {name: number for file in self.coco_files for number, name in file.class_names.items()}
        return sorted(ids, key=lambda name: ids[name])

    def draw(self, sample: Sample, ids: Mapping[str, int], reading: Reading) -> DrawnRegions:
        if sample.image not in self.entries:
            raise UserError(f"{sample.name} is not in {sample.mask}")
        entry = self.entries[sample.image]
        size = (int(entry.image["height"]), int(entry.image["width"]))
        return DrawnRegions(size, draw_annotations(entry, size))


def draw_annotations(entry: CocoEntry, size: tuple[int, int]) -> Iterator[Region]:
    """The regions of an image; a crowd is void. A box alone encloses no pixels of a class and is left out."""
    for annotation in entry.file.annotations[entry.image["id"]]:
        segmentation = annotation.get("segmentation")
        if segmentation:
            name = VOID_NAMES[0] if annotation.get("iscrowd") else entry.file.class_names[annotation["category_id"]]
            yield Region(name, draw_segmentation(segmentation, size, entry.file.path))


def match_coco_images(coco_files: Sequence[CocoFile], images: Sequence[Path]) -> dict[Path, CocoEntry]:
    """The entry of each image file that a COCO file lists: the image's path ends with the entry's `file_name`.

    Raises UserError for an entry without an image file, for one that fits two image files, and for an image that is
    listed twice.
    """
    by_name: dict[str, list[Path]] = {}
    for path in images:
        by_name.setdefault(normalize_name(path.name), []).append(path)
    found: dict[Path, CocoEntry] = {}
    for file in coco_files:
        for name, entry in file.images.items():
            wanted = Path(normalize_name(name.replace("\\", "/"))).parts
            candidates = by_name.get(wanted[-1], []) if wanted else []
            fitting = [path for path in candidates if Path(normalize_name(str(path))).parts[-len(wanted) :] == wanted]
            if len(fitting) != 1:
                what = "no such image" if not fitting else f"{fitting[0]} and {fitting[1]} are called so"
                raise UserError(f"{file.path} lists the image {name}: {what}")
            if fitting[0] in found:
                raise UserError(f"{fitting[0]} is listed twice, in {found[fitting[0]].file.path} and {file.path}")
            found[fitting[0]] = CocoEntry(file, entry)
    return found
