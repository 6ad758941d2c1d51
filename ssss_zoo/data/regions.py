"""Masks that are put together from regions of one class each: one file for each class, polygons of LabelMe, COCO.

A pixel that lies in no region is `background` where the classes have one, else void. Where regions overlap the later
one lies on top: of files in the order of the classes, of LabelMe in the order drawn, of COCO the smaller one.
"""

from __future__ import annotations

import base64
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.data.classes import VOID, ClassLine
from ssss_zoo.data.files import THREADS
from ssss_zoo.data.images import opened
from ssss_zoo.data.masks import read_codes
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.records import IGNORE, Sample

BACKGROUND = ("background", "_background_", "bg")  # names of the class of what lies in no region
IGNORED = (*VOID, "__ignore__")  # names of regions that do not count; the last is LabelMe's
CORNERS = 64  # of the polygon that stands for a circle (our choice)
COCO_KEYS = ("images", "annotations", "categories")


class Regions(ABC):
    """How the masks of a folder are put together. ids: the class id, or 255, of each name that regions have."""

    kind: str
    said_of: str  # one line on what masks are, for the person to see
    ids: Mapping[str, int]
    rest: int  # of pixels in no region

    @abstractmethod
    def labels(self, samples: Sequence[Sample]) -> list[str]:
        """The names that the samples' regions have, in the order of their classes. Raises UserError for a file that
        cannot be read."""

    @abstractmethod
    def drawn(self, sample: Sample) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
        """(H, W) of the mask; name and place (H, W) bool of each region, those below first. Raises UserError, naming
        the file, also while they are drawn."""

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return [sample.mask]

    def __repr__(self) -> str:  # what a check remembers its findings by
        return f"{self.kind} {sorted(self.ids.items())} {self.rest}"

    def settle(self, samples: Sequence[Sample], lines: Sequence[ClassLine], file: Path | None) -> list[ClassLine]:
        """Fill `ids` and `rest`; returns the classes. They are those of the list in `file`, or the background and the
        names found, in their order. Raises UserError for a region whose name the list lacks, and for a single class."""
        labels = self.labels(samples)
        names = [name for name in labels if name.lower() not in IGNORED]
        if not lines:
            known = [ClassLine("background"), *(ClassLine(name) for name in names if name.lower() not in BACKGROUND)]
            if len(known) < 2:
                raise UserError(f"no region of any class in {len(samples)} masks, such as {samples[0].mask}")
        else:
            known = [line for line in lines if not line.void]
        order = {line.name: index for index, line in enumerate(known)}
        lower = {name.lower(): index for name, index in order.items()}
        self.rest = next((lower[name] for name in BACKGROUND if name in lower), IGNORE)
        ids = dict.fromkeys([*(line.name for line in lines if line.void), VOID[0], *labels], IGNORE)
        for name in names:
            if name in order:
                ids[name] = order[name]
            elif name.lower() in BACKGROUND:
                ids[name] = self.rest
            elif lines and name not in {line.name for line in lines}:
                raise unknown(f"class of a region ({self.kind})", name, order, f"the masks; {file} must name it")
        self.ids = ids
        return known

    def read(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read."""
        size, regions = self.drawn(sample)
        mask = np.full(size, self.rest, np.uint8)
        for name, inside in regions:
            if inside.shape != mask.shape:
                shapes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (inside.shape, mask.shape))
                raise UserError(f"the regions of {sample.mask} are {shapes}: they must match pixel for pixel")
            if name not in self.ids:
                raise unknown(f"class of a region ({self.kind})", name, self.ids, str(sample.mask))
            mask[inside] = self.ids[name]
        return mask

    def said(self, names: Sequence[str]) -> str:
        """What masks are, in one line."""
        rest = "void" if self.rest == IGNORE else names[self.rest]
        return f"{self.said_of}; pixels in none are {rest}"


# --- one file for each class ----------------------------------------------------------------------------------------


class ClassFiles(Regions):
    """A file for each class, whatever is not 0 in it. groups: of each image, its file of each class, by their names."""

    kind = "one file for each class"

    def __init__(self, groups: Sequence[Mapping[str, Path]], example: str) -> None:
        self.of_file = {path: group for group in groups for path in group.values()}
        self.said_of = f"masks are one file for each class, such as {example}"

    def labels(self, samples: Sequence[Sample]) -> list[str]:
        return sorted({name for group in self.of_file.values() for name in group})

    def group(self, sample: Sample) -> Mapping[str, Path]:
        if sample.mask not in self.of_file:
            raise UserError(f"{sample.mask} is none of the masks that were found, one file for each class")
        return self.of_file[sample.mask]

    def drawn(self, sample: Sample) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
        group = self.group(sample)
        with opened(sample.mask) as image:
            size = (image.size[1], image.size[0])
        names = sorted(group, key=lambda name: self.ids.get(name, IGNORE))
        return size, ((name, read_codes(group[name], colours=False, lossy=False) > 0) for name in names)

    def files(self, sample: Sample) -> list[Path]:
        return [*self.group(sample).values()]


Key = tuple[str, str]  # part and path without suffix, as `layout` has them


def by_class(images: Iterable[Key], masks: Mapping[Key, Path]) -> dict[Key, dict[str, Path]] | None:
    """The files of each class by image, where every mask is called `<class>/<image>`, `<image>/<class>` or
    `<image>_<class>`, the same way all of them; else None."""
    known = set(images)
    for told in (class_above, class_below, class_behind):
        groups: dict[Key, dict[str, Path]] = {}
        for key, path in masks.items():
            image, name = told(key, known)
            if not name or image not in known or name in groups.get(image, {}):
                break
            groups.setdefault(image, {})[name] = path
        else:
            return groups
    return None


def class_above(key: Key, known: set[Key]) -> tuple[Key, str]:
    name, _, image = key[1].partition("/")
    return (key[0], image), name


def class_below(key: Key, known: set[Key]) -> tuple[Key, str]:
    image, _, name = key[1].rpartition("/")
    return (key[0], image), name


def class_behind(key: Key, known: set[Key]) -> tuple[Key, str]:
    """The longest image name that the file's begins with, up to a `_` or `-`."""
    for end in range(len(key[1]) - 1, 0, -1):
        image = (key[0], key[1][:end])
        if key[1][end] in "_-" and image in known:
            return image, key[1][end + 1 :]
    return key, ""


# --- polygons -------------------------------------------------------------------------------------------------------


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
        with ThreadPoolExecutor(THREADS) as pool:
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
        runs = tools.frPyObjects(polygons, *size) if isinstance(polygons, list) or "counts" in polygons else None
        if isinstance(polygons, dict) and isinstance(polygons["counts"], (str, bytes)):
            runs = polygons  # compressed already
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
        by_name.setdefault(path.name, []).append(path)
    found: dict[Path, tuple[CocoFile, dict[str, Any]]] = {}
    for file in files:
        for name, entry in file.images.items():
            wanted = Path(name).parts
            fitting = [path for path in by_name.get(wanted[-1], []) if path.parts[-len(wanted) :] == wanted]
            if len(fitting) != 1:
                what = "no such image" if not fitting else f"{fitting[0]} and {fitting[1]} are called so"
                raise UserError(f"{file.path} lists the image {name}: {what}")
            if fitting[0] in found:
                raise UserError(f"{fitting[0]} is listed twice, in {found[fitting[0]][0].path} and {file.path}")
            found[fitting[0]] = (file, entry)
    return found
