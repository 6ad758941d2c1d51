"""The regions of predicted masks as polygons, in the JSON of LabelMe and of COCO."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from ssss_zoo.atomic_write import write_text
from ssss_zoo.errors import UserError

PolygonFormat = Literal["labelme", "coco"]
COCO_FORMAT: Final = "coco"
COCO_FILE = "annotations/instances_default.json"  # for all images; CVAT writes and reads it under this name
CORNERS_MIN = 3  # of a polygon


@dataclass(frozen=True, eq=False)
class RegionOutline:
    """The outer outline of a region. class_id: of its pixels. points: (N, 2) x and y in pixels, counted from the upper
    left corner of the upper left pixel. area: of the polygon, with the holes of the region, in pixels."""

    class_id: int
    points: np.ndarray
    area: float


def outline_regions(classes: np.ndarray, number: int, tolerance: float = 0.0) -> list[RegionOutline]:
    """The outlines of all regions of (H, W) class ids below `number`, large ones first, so that a region in the hole of
    another one is drawn over it. tolerance: how far, in pixels, a simplified outline may lie from the exact one."""
    from contourpy import FillType, contour_generator

    outlines: list[RegionOutline] = []
    for class_id in np.unique(classes[classes < number]):
        padded = np.pad((classes == class_id).astype(np.float32), 1)
        filled: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
        for points, ends in zip(*filled, strict=True):
            exact = points[: ends[1] - 1] - 0.5  # padding moved pixel centres by 1; polygons count from pixel corners
            outline = simplify_polygon(exact, tolerance).round(2)
            outlines.append(RegionOutline(int(class_id), outline, polygon_area(outline)))
    return sorted(outlines, key=lambda outline: -outline.area)


def polygon_area(points: np.ndarray) -> float:
    """The area of a polygon (N, 2), by the shoelace formula."""
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def simplify_polygon(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The polygon (N, 2) with fewer corners, by the algorithm of Douglas and Peucker (1973): a corner is left out where
    the new outline lies within `tolerance` of it. A polygon that would collapse keeps all corners."""
    if tolerance <= 0 or len(points) <= CORNERS_MIN:
        return points
    closed = np.concatenate([points, points[:1]])
    farthest = int(np.linalg.norm(points - points[0], axis=1).argmax())  # a closed line is cut into two open ones
    kept = np.zeros(len(closed), bool)
    kept[[0, farthest, len(points)]] = True
    stretches = [(0, farthest), (farthest, len(points))]
    while stretches:
        first, last = stretches.pop()
        if last - first < 2:
            continue
        distances = distances_to_line(closed[first + 1 : last], closed[first], closed[last])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            corner = first + 1 + worst
            kept[corner] = True
            stretches += [(first, corner), (corner, last)]
    simple = points[kept[:-1]]
    return simple if len(simple) >= CORNERS_MIN else points


def distances_to_line(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N,) the distances of points (N, 2) from the line segment between two points."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    distances: np.ndarray = np.linalg.norm(points - (start + share[:, None] * along), axis=1)
    return distances


# --- LabelMe --------------------------------------------------------------------------------------------------------


def labelme_document(
    outlines: Iterable[RegionOutline], names: Sequence[str], image: str, size: tuple[int, int]
) -> dict[str, Any]:
    """The content of a LabelMe file. image: its path from the file. size: (H, W)."""
    shapes = [
        {"label": names[outline.class_id], "points": outline.points.tolist(), "group_id": None,
         "shape_type": "polygon", "flags": {}}
        for outline in outlines
    ]  # fmt: skip
    sizes = {"imageHeight": size[0], "imageWidth": size[1]}
    return {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None} | sizes


# --- COCO -----------------------------------------------------------------------------------------------------------


def coco_document(
    outlines: Iterable[RegionOutline], names: Sequence[str], image: str, size: tuple[int, int]
) -> dict[str, Any]:
    """The content of a COCO file on one image, see `join_coco`. image: its `file_name`. size: (H, W)."""
    annotations = []
    for number, outline in enumerate(outlines, start=1):
        low, high = outline.points.min(axis=0), outline.points.max(axis=0)
        annotations.append(
            {"id": number, "image_id": 1, "category_id": outline.class_id + 1,
             "segmentation": [outline.points.ravel().tolist()], "area": round(outline.area, 2),
             "bbox": [*low.tolist(), *(high - low).round(2).tolist()], "iscrowd": 0}
        )  # fmt: skip
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, start=1)]
    images = [{"id": 1, "file_name": image, "height": size[0], "width": size[1]}]
    return {"images": images, "annotations": annotations, "categories": categories}


def join_coco(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One COCO document for the images of several ones that have the same categories; ids are counted anew."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: Sequence[Any] = []
    for document in documents:
        id_of_image = {image["id"]: len(images) + number for number, image in enumerate(document["images"], start=1)}
        images += [image | {"id": id_of_image[image["id"]]} for image in document["images"]]
        for annotation in document["annotations"]:
            ids = {"id": len(annotations) + 1, "image_id": id_of_image[annotation["image_id"]]}
            annotations.append(annotation | ids)
        categories = document["categories"]
    return {"images": images, "annotations": annotations, "categories": categories}


# --- files ----------------------------------------------------------------------------------------------------------


def write_polygons(
    file: Path, kind: PolygonFormat, classes: np.ndarray, names: Sequence[str], image: str, tolerance: float = 0.0
) -> None:
    """Write the regions of (H, W) class ids as polygons. image: its name in the file. Raises UserError."""
    outlines = outline_regions(classes, len(names), tolerance)
    document = coco_document if kind == COCO_FORMAT else labelme_document
    size = (classes.shape[0], classes.shape[1])
    write_polygon_json(file, document(outlines, names, image, size))


def write_polygon_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1) + "\n")


def join_coco_files(files: Iterable[Path], target: Path) -> None:
    """Write one COCO file for the images of several ones. Raises UserError for a file that is no COCO file of ours."""

    def read(file: Path) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(file.read_text("utf-8"))
            if not content.keys() >= {"images", "annotations", "categories"}:
                raise ValueError("it is not in COCO's format")
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot join {file} with the other polygons: {error}; remove it, or give overwrite=true"
            ) from None
        return content

    write_polygon_json(target, join_coco(map(read, files)))
