"""Which file of a folder is an image, which its mask, and which part of the data both belong to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ssss_zoo.data.base import UNUSABLE, Fault
from ssss_zoo.data.images import SUFFIXES
from ssss_zoo.data.polygons import Coco, LabelMe, pair_coco, read_coco
from ssss_zoo.data.regions import ClassFiles, Regions, by_class
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.records import Sample

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig

LAYOUTS = ("auto", "folders", "parts", "suffix")
IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "label", "annotations", "gt", "SegmentationClass")
ROBOFLOW = "_annotations.coco.json"  # what exports of that service call it, among the images of each part
LOOSE = ("unlabelled", "unlabeled")
PARTS = {
    "train": "",
    "training": "",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg")  # of a mask's stem, where it has one


@dataclass(eq=False)
class Found:
    """Every image of a folder by what it is good for. layout, said: how it lies there, and that in words; pairs: with
    masks, to train on; val: those of the val part; loose: without masks; left: of a test part, which nothing reads;
    regions: how masks are put together, where they are no images of codes; faults: files that are left out, and why."""

    layout: str
    said: str
    pairs: list[Sample] = field(default_factory=list)
    val: list[Sample] = field(default_factory=list)
    loose: list[Sample] = field(default_factory=list)
    left: int = 0
    regions: Regions | None = None
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class Corner:
    """A folder of images and the folder of their masks, the same one where only an ending tells them apart. part: what
    all of it belongs to, unless a folder within says so."""

    images: Path
    masks: Path
    part: str = ""


def scan(root: Path, data: DataConfig) -> Found:
    """Look through `root`. Masks without an image, a second file of one name, and images of the val part without a
    mask are left out, and are faults. Raises UserError when it has no layout that is known, or two."""
    check_choice("data.layout", data.layout, LAYOUTS)
    layout, corners = chosen(root, data)
    found = Found(layout, said(root, layout, corners))
    listing = [corner for corner in corners if coco_files(corner)]
    if listing:
        pair_listed(root, listing, found)
    groups: list[Mapping[str, Path]] = []
    for corner in corners:
        if corner not in listing:
            groups += pair_up(root, corner, found)
    if groups:
        found.regions = ClassFiles(groups, name_of(next(iter(groups[0].values())), root))
    bare = [sample for sample in found.val if sample.mask is None]
    for sample in bare:
        message = f"{sample.image} has no mask: an image to validate on needs one (in {corners[-1].masks})"
        found.faults.append(Fault(UNUSABLE, "no mask", sample.name, message))
    found.val = [sample for sample in found.val if sample.mask is not None]
    taken = {sample.image for sample in (*found.pairs, *found.val, *found.loose)}
    for folder in loose_folders(root, data.unlabelled):
        found.loose += [Sample(name_of(path, root), path) for path in image_files(folder) if path not in taken]
    return found


# --- which layout ---------------------------------------------------------------------------------------------------


def chosen(root: Path, data: DataConfig) -> tuple[str, list[Corner]]:
    """The layout that `data.layout` names or the only one that fits, and its corners."""
    images, masks = ((name,) if name else usual for name, usual in ((data.images, IMAGES), (data.masks, MASKS)))
    fitting: dict[str, list[Corner]] = {}
    top = corner_of(root, images, masks)
    parts = [corner for name in PARTS for corner in [corner_of(root / name, images, masks, PARTS[name])] if corner]
    if top:
        fitting["folders"] = [top]
    if parts:
        fitting["parts"] = parts
    if data.layout == "suffix" or (not fitting and (any(endings_of(image_files(root))) or annotated(root))):
        fitting["suffix"] = [Corner(root, root)]
    if data.layout != "auto":
        if data.layout not in fitting:
            raise UserError(f"data.layout={data.layout} does not fit {root}: {missing(root, images, masks)}")
        return data.layout, fitting[data.layout]
    if len(fitting) > 1:
        raise UserError(
            f"{root} can be read in two ways, as data.layout=folders ({said(root, 'folders', fitting['folders'])}) and "
            f"as data.layout=parts ({said(root, 'parts', parts)}): give the one that you mean"
        )
    if not fitting:
        raise UserError(f"{root} has no layout that is known: {missing(root, images, masks)}")
    return next(iter(fitting.items()))


def corner_of(place: Path, images: Sequence[str], masks: Sequence[str], part: str = "") -> Corner | None:
    """The corner whose folders lie in `place`, where both do. Raises UserError for two that could be meant."""
    if (place / ROBOFLOW).is_file() and len(masks) > 1:
        return Corner(place, place / ROBOFLOW, part)
    inside = sorted(subfolders(place))
    wanted = [{name.lower() for name in names} for names in (images, masks)]
    found = [[place / name for name in inside if name.lower() in names] for names in wanted]
    for folders, key in zip(found, ("images", "masks"), strict=True):
        if len(folders) > 1:
            names = " and ".join(f"{folder.name}/" for folder in folders)
            raise UserError(f"{place} holds {names}: give data.{key}={folders[0].name}, or the one that you mean")
    if found[1] and not found[0] and len(images) > 1 and coco_files(Corner(place, found[1][0])):
        return Corner(place, found[1][0], part)  # as COCO itself lies: train2017/, val2017/, annotations/
    if len(masks) == 1 and (place / masks[0]).is_file():  # a file of annotations, by its name
        return Corner(found[0][0] if found[0] else place, place / masks[0], part)
    if found[0] and not found[1]:  # annotations beside the folder of images, or among them
        beside = json_files(place, deep=False) if len(masks) > 1 else []
        if len(beside) > 1:
            names = " and ".join(path.name for path in beside)
            raise UserError(f"{place} holds {names}: give data.masks={beside[0].name}, or the one that you mean")
        return Corner(found[0][0], beside[0], part) if beside else among(found[0][0], part)
    return Corner(found[0][0], found[1][0], part) if all(found) else None


def among(folder: Path, part: str) -> Corner | None:
    """The corner of a folder whose images lie beside a file of annotations each."""
    return Corner(folder, folder, part) if annotated(folder) else None


def annotated(folder: Path) -> bool:
    """Whether an image of a folder lies beside a file of annotations of its name."""
    return bool(annotations_of(folder, image_files(folder)))


def annotations_of(folder: Path, images: Iterable[Path]) -> set[Path]:
    """The JSON files of a folder that are called like an image beside them."""
    stems = {path.with_suffix("") for path in images}
    return {path for path in json_files(folder) if path.with_suffix("") in stems}


def subfolders(place: Path) -> set[str]:
    return {entry.name for entry in os.scandir(place) if entry.is_dir()} if place.is_dir() else set()


def missing(root: Path, images: Sequence[str], masks: Sequence[str]) -> str:
    """What was looked for in `root`, and what is there."""
    inside = {name.lower() for name in subfolders(root)}
    lacks = [f"no {names[0]}/" for names in (images, masks) if not {name.lower() for name in names} & inside]
    there = ", ".join(sorted(f"{name}/" for name in subfolders(root))[:8]) or "no folder"
    return (
        f"{' and '.join(lacks) or 'no such folders'} in it (there: {there}); expected images/ and masks/, and "
        "unlabelled/ if you like; or train/ and val/ with those two inside; or a.jpg beside a_mask.png; data.images "
        "and data.masks name folders that are called otherwise"
    )


def said(root: Path, layout: str, corners: Sequence[Corner]) -> str:
    """A layout in words."""
    if layout == "suffix":
        return "masks beside their images, told by their ending"
    return ", ".join(
        " with ".join(dict.fromkeys(place_of(path, root) for path in (c.images, c.masks))) for c in corners
    )


def place_of(path: Path, root: Path) -> str:
    return f"{path.relative_to(root)}{'/' if path.is_dir() else ''}"


# --- images and masks -----------------------------------------------------------------------------------------------


def pair_up(root: Path, corner: Corner, found: Found) -> list[Mapping[str, Path]]:
    """Add the images of a corner to what was found, each with its mask where there is one. Returns the files of each
    class of each image, where masks are one file for each class."""
    images, masks = by_stem(root, corner, found.faults)
    lost = [key for key in masks if key not in images]
    groups = by_class(images, masks) if lost else None
    if groups:
        masks = {key: next(iter(group.values())) for key, group in groups.items()}
    for key in lost if not groups else []:
        message = (
            f"mask {masks[key]} has no image: no {corner.images.joinpath(*filter(None, key))}.*; a mask is called like "
            f"its image, perhaps with an ending such as {ENDINGS[0]}"
        )
        if len(lost) == len(masks):
            raise UserError(f"{message} (none of {len(masks)} masks is)")
        found.faults.append(Fault(UNUSABLE, "no image", name_of(masks[key], root), message))
    if any(path.suffix == ".json" for path in masks.values()):
        found.regions = LabelMe()
    for key, path in images.items():
        add(found, Sample(name_of(path, root), path, masks.get(key)), key[0])
    return list(groups.values()) if groups else []


def add(found: Found, sample: Sample, part: str) -> None:
    if part == "test":
        found.left += 1
    else:
        (found.val if part == "val" else found.pairs if sample.mask else found.loose).append(sample)


def pair_listed(root: Path, corners: Sequence[Corner], found: Found) -> None:
    """Add the images that files of COCO's format list, those of a file for validation to the val part, and the images
    of the same folders that none lists."""
    files = [(read_coco(path), corner.part or part_in(path)) for corner in corners for path in coco_files(corner)]
    parts = {file.path: part for file, part in files}
    images = sorted({path for corner in corners for path in image_files(corner.images) if not is_loose(path, root)})
    entries = pair_coco([file for file, _ in files], images)
    found.regions = Coco([file for file, _ in files], entries)
    for path in images:
        listed = entries.get(path)
        mask, part = (listed[0].path, parts[listed[0].path]) if listed else (None, "")
        add(found, Sample(name_of(path, root), path, mask), part)


def part_in(path: Path) -> str:
    """The part that the name of a file speaks of, such as instances_val2017.json."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    return next((PARTS[word] for word in words if word in PARTS), "")


def coco_files(corner: Corner) -> list[Path]:
    """The files of COCO's format that stand for a corner's masks: the one that was given, or all of a folder of JSON
    whose files are not called like images, as LabelMe's are."""
    if corner.masks.is_file():
        return [corner.masks]
    if corner.masks == corner.images or image_files(corner.masks):
        return []
    found = json_files(corner.masks)
    if not found:
        return []
    stems = {path.stem for path in image_files(corner.images)}
    return [] if any(path.stem in stems for path in found) else found


def json_files(folder: Path, deep: bool = True) -> list[Path]:
    """Files of annotations in a folder, at any depth or right in it, sorted; hidden ones are left out."""
    found = folder.rglob("*.json") if deep else folder.glob("*.json")
    return sorted(path for path in found if not path.name.startswith(".") and path.is_file())


Key = tuple[str, str]  # part and path without suffix


def by_stem(root: Path, corner: Corner, faults: list[Fault]) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Images and masks of a corner by their key; the ending of a mask's name does not count where that finds its image.

    Of two files of one name the later one is a fault. Raises UserError when there are none.
    """
    if corner.images == corner.masks:
        files = [path for path in image_files(corner.images) if not is_loose(path, root)]
        endings = set(endings_of(files)) or annotations_of(corner.images, files)
        images = keyed([path for path in files if path not in endings], corner.images, corner.part, faults)
        return images, {strip(key): path for key, path in keyed(endings, corner.images, corner.part, faults).items()}
    images = keyed(image_files(corner.images), corner.images, corner.part, faults)
    masks = keyed(image_files(corner.masks) or json_files(corner.masks), corner.masks, corner.part, faults)
    for folder, keys in ((corner.images, images), (corner.masks, masks)):
        if not keys:
            raise UserError(f"no image in {folder} (looked for {' '.join(SUFFIXES)})")
    bare: dict[Key, Path] = {}
    for key, path in masks.items():
        own = key if key in images or strip(key) not in images else strip(key)
        if own in bare:
            message = f"{bare[own]} and {path} are both masks of {images[own]}: remove or rename one"
            faults.append(Fault(UNUSABLE, "two masks", name_of(path, root), message))
        bare.setdefault(own, path)
    return images, bare


def keyed(paths: Iterable[Path], folder: Path, part: str, faults: list[Fault]) -> dict[Key, Path]:
    """Files by part and path without suffix. A leading folder such as train/ or val/ is the part, unless the whole
    folder belongs to one. Of two files of one key the later one is a fault."""
    found: dict[Key, Path] = {}
    for path in sorted(paths):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        first, _, rest = stem.partition("/")
        key = (PARTS[first], rest) if rest and first in PARTS else (part, stem)
        if key in found:
            message = f"{found[key]} and {path} have the same name without suffix: remove or rename one"
            faults.append(Fault(UNUSABLE, "same name", path.name, message))
        found.setdefault(key, path)
    return found


def strip(key: Key) -> Key:
    """A mask's key without the ending of its name."""
    ending = next((ending for ending in ENDINGS if key[1].endswith(ending)), "")
    return key[0], key[1].removesuffix(ending)


def endings_of(files: list[Path]) -> Iterator[Path]:
    """The files that are called like another one, with an ending."""
    stems = {path.with_suffix("") for path in files}
    for path in files:
        bare = strip(("", path.stem))[1]
        if bare != path.stem and path.with_name(bare) in stems:
            yield path


def loose_folders(root: Path, further: Sequence[str]) -> list[Path]:
    """Folders of images without masks: the usual ones in `root` and its train part, and those of `data.unlabelled`.

    Raises UserError for one that is not there.
    """
    usual = [root / part / name for part in ("", "train", "training") for name in LOOSE]
    given = [Path(name).expanduser() for name in further]
    for folder in given:
        if not folder.is_dir():
            raise UserError(f"no folder {folder} (data.unlabelled, from the working directory)")
    return [folder for folder in usual if folder.is_dir()] + given


def is_loose(path: Path, root: Path) -> bool:
    return any(name in LOOSE for name in path.relative_to(root).parts)


def name_of(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth, links followed, sorted; hidden ones are left out. None when there is no such folder."""
    paths = (Path(home, name) for home, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
