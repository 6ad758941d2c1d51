"""Masks that are drawn: LabelMe's shapes, a file for each image, and COCO's regions, one file for many."""

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

from ssss_zoo.data.classes import VOID
from ssss_zoo.data.files import READER_THREADS
from ssss_zoo.data.folder.regions import Regions
from ssss_zoo.data.folder.tree import composed
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

CORNERS = 64  # of the polygon that stands for a circle (our choice)
COCO_KEYS = ("images", "annotations", "categories")


def pycocotools(path: Path) -> Any:
    """The library that turns polygons into pixels. Raises UserError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError(f"{path} holds polygons: to read them, pip install 'ssss-zoo[polygons]'") from None
    return mask


def read_json(path: Path) -> Any:
    """Raises UserError, naming the file, when it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: no JSON ({error})") from None


class LabelMe(Regions):
    """A JSON file of shapes for each image, as LabelMe writes it: polygons, rectangles, circles, bitmaps."""

    kind = "LabelMe"
    said_of = "masks are drawn from LabelMe's shapes"

    def labels(self, samples: Sequence[Sample]) -> list[str]:
        with ThreadPoolExecutor(READER_THREADS) as pool:
            return sorted({name for names in pool.map(self.labels_of, samples) for name in names})

    def labels_of(self, sample: Sample) -> list[str]:
        return [str(shape["label"]) for shape in self.content(sample)["shapes"]]

    def content(self, sample: Sample) -> dict[str, Any]:
        """The file of a sample. Raises UserError, naming it, for what LabelMe does not write."""
        content = read_json(sample.mask)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise UserError(f"{sample.mask} is no file of LabelMe: it has no list of `shapes`")
        for shape in content["shapes"]:
            if not isinstance(shape, dict) or "label" not in shape or not isinstance(shape.get("points"), list):
                raise UserError(f"{sample.mask} holds a shape without `label` or `points`: {str(shape)[:80]}")
        if not all(isinstance(content.get(side), int) for side in ("imageHeight", "imageWidth")):
            raise UserError(f"{sample.mask} does not say the size of its image (imageHeight, imageWidth)")
        return content

    def drawn(self, sample: Sample) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
        content = self.content(sample)
        size = (content["imageHeight"], content["imageWidth"])
        return size, ((str(shape["label"]), inside(shape, size, sample.mask)) for shape in content["shapes"])


def inside(shape: Mapping[str, Any], size: tuple[int, int], file: Path) -> np.ndarray:
    """The pixels (H, W) bool that a shape of LabelMe encloses. Raises UserError, naming the file, where it has no
    inside."""
    kind, points = shape.get("shape_type", "polygon"), np.array(shape["points"], float).reshape(-1, 2)
    if kind == "mask":
        return pasted(str(shape.get("mask", "")), points, size, file)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        angles = np.arange(CORNERS) * (2 * math.pi / CORNERS)
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind != "polygon" or len(points) < 3:
        raise UserError(
            f"{file}: shape '{shape['label']}' is a {kind} of {len(points)} points, which encloses nothing; expected "
            "a polygon, rectangle, circle or mask"
        )
    return filled([points.ravel().tolist()], size, file)


def filled(polygons: Any, size: tuple[int, int], file: Path) -> np.ndarray:
    """The pixels (H, W) bool of COCO's `segmentation`: polygons, or run lengths."""
    tools = pycocotools(file)
    try:
        compressed = isinstance(polygons, dict) and isinstance(polygons["counts"], (str, bytes))
        runs = polygons if compressed else tools.frPyObjects(polygons, *size)
        whole = tools.merge(runs) if isinstance(runs, list) else runs
        pixels: np.ndarray = tools.decode(whole).astype(bool)
    except Exception as error:  # pycocotools raises bare Exception
        raise UserError(f"{file} holds a region that cannot be drawn: {' '.join(str(error).split())[:120]}") from None
    return pixels


def pasted(bitmap: str, points: np.ndarray, size: tuple[int, int], file: Path) -> np.ndarray:
    """A bitmap of LabelMe, a PNG in base64, put at its first point."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(bitmap))) as image:
            bitmap_pixels = np.array(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError):
        raise UserError(f"{file} holds a mask that is no PNG in base64") from None
    left, top = (round(value) for value in points[0])
    whole = np.zeros(size, bool)
    part = bitmap_pixels[: size[0] - top, : size[1] - left]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


# --- COCO -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A file of COCO's format. images: its entry of each image by the file's name; regions: of each image's id."""

    path: Path
    images: dict[str, dict[str, Any]]
    regions: dict[Any, list[dict[str, Any]]]
    names: dict[Any, str]


def read_coco(path: Path) -> CocoFile:
    """Raises UserError, naming the file, for what is not of COCO's format."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in COCO_KEYS):
        raise UserError(f"{path} is not of COCO's format: it has no lists {', '.join(COCO_KEYS)}")
    try:
        images = {str(entry["file_name"]): entry for entry in content["images"]}
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        regions: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for entry in content["annotations"]:
            if entry["category_id"] not in names:
                raise UserError(f"{path}: annotation {entry.get('id')} is of category {entry['category_id']}, unnamed")
            regions.setdefault(entry["image_id"], []).append(entry)
        for entry in content["images"]:
            int(entry["height"]), int(entry["width"]), entry["id"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not of COCO's format: {type(error).__name__} at {error}") from None
    for of_image in regions.values():
        of_image.sort(key=lambda entry: -float(entry.get("area", 0)))
    return CocoFile(path, images, regions, names)


class Coco(Regions):
    """One file of COCO's format for many images. of_image: the file and the entry of each image."""

    kind = "COCO"

    def __init__(self, files: Sequence[CocoFile], of_image: Mapping[Path, tuple[CocoFile, dict[str, Any]]]) -> None:
        self.annotated, self.of_image = files, of_image
        self.said_of = f"masks are drawn from COCO's regions in {', '.join(file.path.name for file in files)}"

    def labels(self, samples: Sequence[Sample]) -> list[str]:
        ids = {name: number for file in self.annotated for number, name in file.names.items()}
        return sorted(ids, key=lambda name: ids[name])

    def entry(self, sample: Sample) -> tuple[CocoFile, dict[str, Any]]:
        if sample.image not in self.of_image:
            raise UserError(f"{sample.name} is not in {sample.mask}")
        return self.of_image[sample.image]

    def drawn(self, sample: Sample) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
        file, image = self.entry(sample)
        size = (int(image["height"]), int(image["width"]))
        return size, (
            (VOID[0] if region.get("iscrowd") else file.names[region["category_id"]], filled(shape, size, file.path))
            for region in file.regions[image["id"]]
            if (shape := region.get("segmentation"))  # a box alone encloses nothing of a class
        )


def pair_coco(files: Sequence[CocoFile], images: Sequence[Path]) -> dict[Path, tuple[CocoFile, dict[str, Any]]]:
    """The entry of each image file that one of the files lists: its path ends with the entry's `file_name`.

    Raises UserError for an entry without a file, and for one that two files answer to.
    """
    by_name: dict[str, list[Path]] = {}
    for path in images:
        by_name.setdefault(composed(path.name), []).append(path)
    found: dict[Path, tuple[CocoFile, dict[str, Any]]] = {}
    for file in files:
        for name, entry in file.images.items():
            wanted = Path(composed(name.replace("\\", "/"))).parts
            named = by_name.get(wanted[-1], []) if wanted else []
            fitting = [path for path in named if Path(composed(str(path))).parts[-len(wanted) :] == wanted]
            if len(fitting) != 1:
                what = "no such image" if not fitting else f"{fitting[0]} and {fitting[1]} are called so"
                raise UserError(f"{file.path} lists the image {name}: {what}")
            if fitting[0] in found:
                raise UserError(f"{fitting[0]} is listed twice, in {found[fitting[0]][0].path} and {file.path}")
            found[fitting[0]] = (file, entry)
    return found
