"""How a user's folder is laid out: which folders hold images, which hold their masks, and which part they belong to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssss_zoo.data.folder.file_tree import FileTree, normalize_name, relative_name
from ssss_zoo.data.folder.pairing import SameFolderMasks, find_masks_among_images
from ssss_zoo.data.folder.part_names import FOLDER_PARTS, FolderParts, is_unlabelled_folder
from ssss_zoo.errors import UserError, nearest

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

LAYOUTS = {  # values of `data.layout`
    "auto": "whichever fits",
    "folders": "images/ and masks/",
    "parts": "train/images, train/masks, val/...",
    "suffix": "masks in the folder of their images, as a.jpg and a_mask.png",
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "gt", "SegmentationClass")
ROBOFLOW_FILE = "_annotations.coco.json"  # Roboflow exports it among the images of each part


@dataclass(frozen=True)
class FolderPair:
    """A folder of images and the folder, or the file, of their masks. They are the same folder where an ending or a
    suffix tells masks from images. part: of all files within, unless an inner folder is a part."""

    images: Path
    masks: Path
    part: str = ""


@dataclass(frozen=True)
class FolderNames:
    """The names by which the two folders are looked for: the usual ones, or the one that the user gives."""

    images: tuple[str, ...]
    masks: tuple[str, ...]
    images_given: bool
    masks_given: bool


@dataclass(frozen=True)
class Layout:
    """The layout of a folder. name: as in `LAYOUTS`."""

    name: str
    folder_pairs: list[FolderPair]

    def describe(self, root: Path) -> str:
        if self.name == "suffix":
            return "masks in the folder of their images"
        return ", ".join(
            " with ".join(dict.fromkeys(describe_place(path, root) for path in (pair.images, pair.masks)))
            for pair in self.folder_pairs
        )


def describe_place(path: Path, root: Path) -> str:
    return f"{path.relative_to(root).as_posix()}{'/' if path.is_dir() else ''}"


# --- which layout ---------------------------------------------------------------------------------------------------


def find_layout(tree: FileTree, data: DataConfig, parts: FolderParts) -> Layout:
    """The layout that `data.layout` names, or the only one that fits. Raises UserError where none fits, or two."""
    if data.layout not in LAYOUTS:
        known = ", ".join(f"{name} ({what})" for name, what in LAYOUTS.items())
        raise UserError(f"data.layout must be one of {known}; got '{data.layout}'{nearest(data.layout, LAYOUTS)}")
    root = tree.root
    names = FolderNames(
        images=(os.path.normpath(data.images),) if data.images else IMAGE_FOLDERS,
        masks=(os.path.normpath(data.masks),) if data.masks else MASK_FOLDERS,
        images_given=bool(data.images),
        masks_given=bool(data.masks),
    )
    fitting = fitting_layouts(tree, names, parts, always_suffix=data.layout == "suffix")
    if data.layout != "auto":
        if data.layout not in fitting:
            raise UserError(f"data.layout={data.layout} does not fit {root}: {describe_missing_folders(tree, names)}")
        return fitting[data.layout]
    if len(fitting) > 1:
        raise UserError(
            f"{root} can be read in two ways, as data.layout=folders ({fitting['folders'].describe(root)}) and as "
            f"data.layout=parts ({fitting['parts'].describe(root)}): give the one that you mean"
        )
    if not fitting:
        raise UserError(f"{root} has no layout that is known: {describe_missing_folders(tree, names)}")
    return next(iter(fitting.values()))


def fitting_layouts(
    tree: FileTree, names: FolderNames, parts: FolderParts, *, always_suffix: bool
) -> dict[str, Layout]:
    """Every layout that fits, by its name. always_suffix: whether `suffix` is tried even where another one fits."""
    root = tree.root
    fitting = {}
    top = find_folder_pair(root, tree, names)
    if top:
        fitting["folders"] = Layout("folders", [top])
    found = [find_folder_pair(root / part.name, tree, names, part.part) for part in part_folders(root, parts)]
    in_parts = [pair for pair in found if pair]
    if in_parts:
        fitting["parts"] = Layout("parts", in_parts)
    if always_suffix or (not fitting and (annotations_beside(tree, root) or masks_beside(tree, root).image_of)):
        fitting["suffix"] = Layout("suffix", [FolderPair(root, root)])
    return fitting


class PartFolder(NamedTuple):
    """A folder that is a part of the data, such as train/."""

    part: str
    name: str


def part_folders(root: Path, parts: FolderParts) -> list[PartFolder]:
    """The folders in `root` that are parts, training first."""
    named = [PartFolder(parts.part_of(name), name) for name in sorted(subfolders(root))]
    return sorted((folder for folder in named if folder.part), key=lambda folder: FOLDER_PARTS.index(folder.part))


def find_folder_pair(parent: Path, tree: FileTree, names: FolderNames, part: str = "") -> FolderPair | None:
    """The folders of images and masks in `parent`; None where there are not both. Raises UserError where two folders
    could be meant."""
    if (parent / ROBOFLOW_FILE).is_file() and not names.masks_given:
        return FolderPair(parent, parent / ROBOFLOW_FILE, part)
    images = find_named_folder(parent, names.images, "images")
    masks = find_named_folder(parent, names.masks, "masks")
    if masks and not images and not names.images_given and coco_files(FolderPair(parent, masks), tree):
        return FolderPair(parent, masks, part)  # COCO's own layout: train2017/, val2017/, annotations/
    if names.masks_given and (parent / names.masks[0]).is_file():
        return FolderPair(images or parent, parent / names.masks[0], part)
    if images and not masks:
        return find_annotations(parent, images, tree, names, part)
    return FolderPair(images, masks, part) if images and masks else None


def find_named_folder(parent: Path, names: Sequence[str], key: str) -> Path | None:
    """The folder in `parent` with one of `names`, in upper or lower case. Raises UserError, naming the setting of
    `key`, for two such folders."""
    wanted = {name.lower() for name in names}
    found = [parent / name for name in sorted(subfolders(parent)) if name.lower() in wanted]
    if len(found) > 1:
        listed = " and ".join(f"{folder.name}/" for folder in found)
        raise UserError(f"{parent} holds {listed}: give data.{key}={found[0].name}, or the one that you mean")
    nested = [parent / name for name in names if len(names) == 1 and os.sep in name]
    return next((folder for folder in [*found, *nested] if folder.is_dir()), None)


def find_annotations(parent: Path, images: Path, tree: FileTree, names: FolderNames, part: str) -> FolderPair | None:
    """A folder of images with a file of annotations beside the folder, or with files of annotations within."""
    files = [] if names.masks_given else [path for path in tree.annotations_in(parent) if path.parent == parent]
    if len(files) > 1:
        listed = " and ".join(path.name for path in files)
        raise UserError(f"{parent} holds {listed}: give data.masks={files[0].name}, or the one that you mean")
    if files:
        return FolderPair(images, files[0], part)
    return FolderPair(images, images, part) if annotations_beside(tree, images) else None


def subfolders(folder: Path) -> set[str]:
    """The names of the folders in a folder."""
    return {entry.name for entry in os.scandir(folder) if entry.is_dir()} if folder.is_dir() else set()


def describe_missing_folders(tree: FileTree, names: FolderNames) -> str:
    """Which folders were expected, and which are there."""
    inside = {name.lower() for name in subfolders(tree.root)}
    wanted = [usual for usual in (names.images, names.masks) if not {name.lower() for name in usual} & inside]
    missing = " and ".join(f"no {usual[0]}/" for usual in wanted)
    folders = sorted(f"{name}/" for name in subfolders(tree.root))[:8]
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in tree.files if path.parent == tree.root)
    files = [f"{count} files of {suffix}" for suffix, count in suffixes.most_common(4)]
    return (
        f"{missing or 'no such folders'} in it (there: {', '.join([*folders, *files]) or 'nothing'}); "
        "expected images/ and masks/, and unlabelled/ if you like; or train/ and val/ with those two inside; or a.jpg "
        "beside a_mask.png; data.images and data.masks name folders that are called otherwise"
    )


# --- files of annotations, and masks among images -------------------------------------------------------------------


def annotations_beside(tree: FileTree, folder: Path) -> dict[Path, Path]:
    """By file of annotations, the image beside it of the same name: LabelMe's files in a folder of images."""
    stems = {path: normalize_name(str(path.with_suffix(""))) for path in tree.annotations_in(folder)}
    images = {normalize_name(str(path.with_suffix(""))): path for path in tree.images_in(folder)} if stems else {}
    return {path: images[stem] for path, stem in stems.items() if stem in images}


def masks_beside(tree: FileTree, folder: Path) -> SameFolderMasks:
    """The masks of a folder that lie beside their images."""
    return find_masks_among_images(
        [path for path in tree.images_in(folder) if not in_unlabelled_folder(path, tree.root)]
    )


def in_unlabelled_folder(path: Path, root: Path) -> bool:
    """Whether a file below `root` is in a folder of images without masks."""
    return any(is_unlabelled_folder(name) for name in relative_name(path.parent, root).split("/"))


def coco_files(pair: FolderPair, tree: FileTree) -> list[Path]:
    """The files in COCO's format that stand for the masks of a folder pair: the file that was given, or all JSON files
    of the folder of masks, unless they are named like images, as LabelMe's are."""
    if pair.masks.is_file():
        return [pair.masks]
    if pair.masks == pair.images or tree.images_in(pair.masks):
        return []
    stems = {normalize_name(path.stem) for path in tree.images_in(pair.images)}
    files = tree.annotations_in(pair.masks)
    return [] if any(normalize_name(path.stem) in stems for path in files) else files
