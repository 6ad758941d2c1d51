"""Which file of a folder is an image, which its mask, and which part of the data both belong to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssss_zoo.data.base import UNUSABLE, Fault
from ssss_zoo.data.folder.pairing import (
    ENDINGS,
    FEW,
    Beside,
    Key,
    Pairs,
    different,
    keyed,
    pair_masks,
    partners,
    sampled,
    stem_of,
    strip,
    with_endings,
)
from ssss_zoo.data.folder.parts import PARTS, TEST, TRAIN, VAL, WORDS, Parts, is_loose, words_of
from ssss_zoo.data.folder.polygons import Coco, LabelMe, pair_coco, read_coco
from ssss_zoo.data.folder.regions import ClassFiles, Regions
from ssss_zoo.data.folder.tree import CONVERT, Fate, Tree, composed, label, walk
from ssss_zoo.data.images import IMAGE_SUFFIXES
from ssss_zoo.errors import UserError, expanded, nearest
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

LAYOUTS = {  # what `data.layout` may be
    "auto": "whichever fits",
    "folders": "images/ and masks/",
    "parts": "train/images, train/masks, val/...",
    "suffix": "masks beside their images, a.jpg and a_mask.png",
}
IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "label", "annotations", "gt", "SegmentationClass")
ROBOFLOW = "_annotations.coco.json"  # what exports of that service call it, among the images of each part


@dataclass(frozen=True)
class Corner:
    """A folder of images and the folder of their masks, the same one where only an ending or suffix tells them apart.
    part: what all of it belongs to, unless a folder within says so."""

    images: Path
    masks: Path
    part: str = ""


@dataclass(eq=False)
class Found:
    """Every image of a folder by what it is good for. layout, said: how it lies there, and that in words; trees: every
    file that was looked at; corners: where images and masks lie; pairs: with masks, to train on; val: those of the val
    part; loose: without masks; left: of a test part, which nothing reads; regions: how masks are put together, where
    they are no images of codes; faults: files that are left out, and why; refused: which files these are."""

    layout: str
    said: str
    trees: list[Tree]
    corners: list[Corner]
    pairs: list[Sample] = field(default_factory=list)
    val: list[Sample] = field(default_factory=list)
    loose: list[Sample] = field(default_factory=list)
    left: list[Sample] = field(default_factory=list)
    regions: Regions | None = None
    faults: list[Fault] = field(default_factory=list)
    refused: dict[Path, Fate] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.trees[0].root

    @property
    def tree(self) -> Tree:
        return self.trees[0]

    def refuse(self, path: Path, kind: str, message: str) -> None:
        """Leave a file out: a run refuses the folder until the person has seen to it."""
        self.faults.append(Fault(UNUSABLE, kind, label(path, self.root), message))
        self.refused[path] = Fate(why=REFUSED.get(kind, "file that is refused"), mend="see the faults")


REFUSED = {  # by the kind of their fault
    "no image": "mask without an image",
    "same name": "file of a name that another has",
    "two masks": "second mask of an image",
    "mask not read": "mask that cannot be read",
    "mask beside": "mask among the images",
}


def scan(root: Path, data: DataConfig) -> Found:
    """Look through `root`. Masks without an image, a second file of one name, images of the val part without a mask,
    and what looks like the mask of an image without one are left out, and are faults. Raises UserError when it has no
    layout that is known, or two."""
    if data.layout not in LAYOUTS:
        known = ", ".join(f"{name} ({what})" for name, what in LAYOUTS.items())
        raise UserError(f"data.layout must be one of {known}; got '{data.layout}'{nearest(data.layout, LAYOUTS)}")
    tree, parts = walk(root), Parts(data.parts)
    layout, corners = chosen(tree, data, parts)
    found = Found(layout, said(root, layout, corners), [tree], corners)
    listing = [corner for corner in corners if coco_files(corner, tree)]
    if listing:
        pair_listed(listing, found, parts)
    groups: list[Mapping[str, Path]] = []
    for corner in corners:
        if corner not in listing:
            groups += pair_up(corner, found, parts)
    if groups:
        found.regions = ClassFiles(groups, label(next(iter(groups[0].values())), root))
    bare = [sample for sample in found.val if sample.mask is None]
    for sample in bare:
        message = f"{sample.image} has no mask: an image to validate on needs one (in {corners[-1].masks})"
        found.faults.append(Fault(UNUSABLE, "no mask", sample.name, message))
    found.val = [sample for sample in found.val if sample.mask is not None]
    add_loose(found, data.unlabelled, parts)
    check_parts(found, parts)
    return found


def check_parts(found: Found, parts: Parts) -> None:
    """Raise UserError where a folder of images speaks of a part, and is taken for none."""
    for corner in found.corners:
        names = {label(path, corner.images).rpartition("/")[0] for path in found.tree.images(corner.images)}
        parts.check(corner.images, sorted(names - {""}))


# --- which layout ---------------------------------------------------------------------------------------------------


def chosen(tree: Tree, data: DataConfig, parts: Parts) -> tuple[str, list[Corner]]:
    """The layout that `data.layout` names or the only one that fits, and its corners."""
    root = tree.root
    images = (os.path.normpath(data.images),) if data.images else IMAGES
    masks = (os.path.normpath(data.masks),) if data.masks else MASKS
    fitting: dict[str, list[Corner]] = {}
    top = corner_of(root, tree, images, masks)
    if top:
        fitting["folders"] = [top]
    above = [corner_of(root / name, tree, images, masks, part) for part, name in part_folders(root, parts)]
    if any(above):
        fitting["parts"] = [corner for corner in above if corner]
    if data.layout == "suffix" or (not fitting and (annotations_of(tree, root) or beside(tree, root).of)):
        fitting["suffix"] = [Corner(root, root)]
    if data.layout != "auto":
        if data.layout not in fitting:
            raise UserError(f"data.layout={data.layout} does not fit {root}: {missing(tree, images, masks)}")
        return data.layout, fitting[data.layout]
    if len(fitting) > 1:
        raise UserError(
            f"{root} can be read in two ways, as data.layout=folders ({said(root, 'folders', fitting['folders'])}) and "
            f"as data.layout=parts ({said(root, 'parts', fitting['parts'])}): give the one that you mean"
        )
    if not fitting:
        raise UserError(f"{root} has no layout that is known: {missing(tree, images, masks)}")
    return next(iter(fitting.items()))


def part_folders(root: Path, parts: Parts) -> list[tuple[str, str]]:
    """Part and name of the folders in `root` that are parts, training first."""
    named = [(parts.of(name), name) for name in sorted(subfolders(root))]
    return sorted(((part, name) for part, name in named if part), key=lambda pair: PARTS.index(pair[0]))


def corner_of(place: Path, tree: Tree, images: Sequence[str], masks: Sequence[str], part: str = "") -> Corner | None:
    """The corner whose folders lie in `place`, where both do. Raises UserError for two that could be meant."""
    if (place / ROBOFLOW).is_file() and len(masks) > 1:
        return Corner(place, place / ROBOFLOW, part)
    inside = sorted(subfolders(place))
    wanted = [{name.lower() for name in names} for names in (images, masks)]
    found = [[place / name for name in inside if name.lower() in names] for names in wanted]
    deep = [[place / name for name in names if len(names) == 1 and os.sep in name] for names in (images, masks)]
    found = [near or [folder for folder in far if folder.is_dir()] for near, far in zip(found, deep, strict=True)]
    for folders, key in zip(found, ("images", "masks"), strict=True):
        if len(folders) > 1:
            names = " and ".join(f"{folder.name}/" for folder in folders)
            raise UserError(f"{place} holds {names}: give data.{key}={folders[0].name}, or the one that you mean")
    if found[1] and not found[0] and len(images) > 1 and coco_files(Corner(place, found[1][0]), tree):
        return Corner(place, found[1][0], part)  # as COCO itself lies: train2017/, val2017/, annotations/
    if len(masks) == 1 and (place / masks[0]).is_file():  # a file of annotations, by its name
        return Corner(found[0][0] if found[0] else place, place / masks[0], part)
    if found[0] and not found[1]:  # annotations beside the folder of images, or among them
        files = [path for path in tree.json(place) if path.parent == place] if len(masks) > 1 else []
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise UserError(f"{place} holds {names}: give data.masks={files[0].name}, or the one that you mean")
        among = Corner(found[0][0], found[0][0], part) if annotations_of(tree, found[0][0]) else None
        return Corner(found[0][0], files[0], part) if files else among
    return Corner(found[0][0], found[1][0], part) if all(found) else None


def annotations_of(tree: Tree, folder: Path) -> dict[Path, Path]:
    """The JSON files of a folder that are called like an image beside them, and that image."""
    named = {path: composed(str(path.with_suffix(""))) for path in tree.json(folder)}
    stems = {composed(str(path.with_suffix(""))): path for path in tree.images(folder)} if named else {}
    return {path: stems[stem] for path, stem in named.items() if stem in stems}


def beside(tree: Tree, folder: Path) -> Beside:
    """The masks of a folder that lie beside their images."""
    return partners([path for path in tree.images(folder) if not among_loose(path, tree.root)])


def subfolders(place: Path) -> set[str]:
    return {entry.name for entry in os.scandir(place) if entry.is_dir()} if place.is_dir() else set()


def missing(tree: Tree, images: Sequence[str], masks: Sequence[str]) -> str:
    """What was looked for in a folder, and what is there."""
    inside = {name.lower() for name in subfolders(tree.root)}
    lacks = [f"no {names[0]}/" for names in (images, masks) if not {name.lower() for name in names} & inside]
    folders = sorted(f"{name}/" for name in subfolders(tree.root))[:8]
    kinds = Counter(path.suffix.lower() or "no suffix" for path in tree.files if path.parent == tree.root)
    files = [f"{count} files of {kind}" for kind, count in kinds.most_common(4)]
    return (
        f"{' and '.join(lacks) or 'no such folders'} in it (there: {', '.join([*folders, *files]) or 'nothing'}); "
        "expected images/ and masks/, and unlabelled/ if you like; or train/ and val/ with those two inside; or a.jpg "
        "beside a_mask.png; data.images and data.masks name folders that are called otherwise"
    )


def said(root: Path, layout: str, corners: Sequence[Corner]) -> str:
    """A layout in words."""
    if layout == "suffix":
        return "masks beside their images"
    return ", ".join(
        " with ".join(dict.fromkeys(place_of(path, root) for path in (c.images, c.masks))) for c in corners
    )


def place_of(path: Path, root: Path) -> str:
    return f"{path.relative_to(root)}{'/' if path.is_dir() else ''}"


# --- images and masks -----------------------------------------------------------------------------------------------


def pair_up(corner: Corner, found: Found, parts: Parts) -> list[Mapping[str, Path]]:
    """Add the images of a corner to what was found, each with its mask where there is one. Returns the files of each
    class of each image, where masks are one file for each class."""
    pairs = paired(corner, found.tree, parts)
    found.said += f", {pairs.said}" if pairs.said else ""
    for path, fault in pairs.faults.items():
        found.refuse(path, fault.kind, fault.message)
    for path, message in lost_masks(pairs, corner, found.tree, parts).items():
        if not pairs.masks:
            raise UserError(f"{message} (none of {len(pairs.lost)} masks is)")
        found.refuse(path, "no image", message)
    if any(is_json(path) for path in pairs.masks.values()):
        found.regions = LabelMe()
    bare = {key: path for key, path in pairs.images.items() if key not in pairs.masks}
    for path, message in unread_masks(bare, corner, found.tree, parts).items():
        found.refuse(path, "mask not read", message)
    wrong = masks_among(list(pairs.images.values()), set(bare.values()))
    for key, path in pairs.images.items():
        if path in wrong:
            found.refuse(path, "mask beside", wrong[path])
        else:
            add(found, Sample(label(path, found.root), path, pairs.masks.get(key)), key[0])
    return list(pairs.groups.values())


def add(found: Found, sample: Sample, part: str) -> None:
    if part == TEST:
        found.left.append(sample)
    else:
        (found.val if part == VAL else found.pairs if sample.mask else found.loose).append(sample)


def key_of(path: Path, folder: Path, corner: Corner, parts: Parts) -> Key:
    """Part and path without suffix of a file in one of a corner's folders; training is the part of what has none."""
    part, stem = parts.split(label(path, folder), corner.part)
    return "" if part == TRAIN else part, stem


def paired(corner: Corner, tree: Tree, parts: Parts) -> Pairs:
    """Images and masks of a corner by their key. Raises UserError when there are none."""
    if corner.images == corner.masks:
        return paired_beside(corner, tree, parts)
    files, masks = tree.images(corner.images), tree.images(corner.masks) or tree.json(corner.masks)
    for folder, paths in ((corner.images, files), (corner.masks, masks)):
        if not paths:
            raise UserError(f"no image in {folder} (looked for {' '.join(IMAGE_SUFFIXES)}; {there(tree, folder)})")
    images, same = keyed(files, lambda path: key_of(path, corner.images, corner, parts), tree.root)
    of_mask, more = keyed(masks, lambda path: key_of(path, corner.masks, corner, parts), tree.root)
    pairs = pair_masks(images, of_mask, tree.root)
    if pairs.lost:  # perhaps a folder is called like a part and is a class, such as VOC's train
        as_named = {("", composed(str(path.relative_to(corner.masks).with_suffix("")))): path for path in masks}
        again = pair_masks(images, as_named, tree.root) if as_named.keys() != of_mask.keys() else pairs
        pairs, more = (pairs, more) if again.lost else (again, {})
    return replace(pairs, faults={**same, **more, **pairs.faults})


def paired_beside(corner: Corner, tree: Tree, parts: Parts) -> Pairs:
    """Images and masks that lie in one folder, masks as images or as files of annotations, by their key."""
    files = [path for path in tree.images(corner.images) if not among_loose(path, tree.root)]
    among = partners(files)
    of = among.of or annotations_of(tree, corner.images)
    kept = [path for path in files if path not in of and path not in among.orphans]
    images, faults = keyed(kept, lambda path: key_of(path, corner.images, corner, parts), tree.root)
    keys = {path: key for key, path in images.items()}
    masks: dict[Key, Path] = {}
    for path, image in of.items():
        key = keys.get(image)
        if key in masks:
            message = f"{masks[key]} and {path} are both masks of {image}: remove or rename one"
            faults[path] = Fault(UNUSABLE, "two masks", label(path, tree.root), message)
        elif key:
            masks[key] = path
    lost = {key_of(path, corner.images, corner, parts): path for path in among.orphans}
    return Pairs(images, masks, said=among.said, lost=lost, faults=faults)


def there(tree: Tree, folder: Path) -> str:
    """What files there are in a folder without images."""
    kinds = Counter(unreadable(path, tree) for path in tree.unread(folder)).most_common(4)
    return f"there: {', '.join(f'{count} times {kind}' for kind, count in kinds) or 'nothing'}"


# --- what is no mask, or no image, and looks like one ---------------------------------------------------------------


def lost_masks(pairs: Pairs, corner: Corner, tree: Tree, parts: Parts) -> dict[Path, str]:
    """What is said of each mask without an image."""
    if not pairs.lost:
        return {}
    unread = {key_of(path, corner.images, corner, parts): path for path in tree.unread(corner.images)}
    bare = {key[1].casefold(): path for key, path in pairs.images.items() if key not in pairs.masks}
    found = {}
    for key, path in pairs.lost.items():
        other = next((unread[way] for way in (key, strip(key)) if way in unread and not is_json(unread[way])), None)
        alike = next((bare[way[1].casefold()] for way in (key, strip(key)) if way[1].casefold() in bare), None)
        wanted = corner.images.joinpath(*filter(None, key))
        if other:
            found[path] = f"mask {path} has no image that can be read: {other} is {unreadable(other, tree)}; {CONVERT}"
        elif alike:
            found[path] = f"mask {path} has no image, but {alike} differs in capitals or part only: make them alike"
        else:
            found[path] = (
                f"mask {path} has no image: no {wanted}.*; a mask is called like its image, perhaps with an ending "
                f"such as {ENDINGS[0]}, or with one that all masks have"
            )
    return found


def unread_masks(bare: Mapping[Key, Path], corner: Corner, tree: Tree, parts: Parts) -> dict[Path, str]:
    """Files in the folder of masks, or beside the images, that are called like the mask of an image without one, and
    are no masks that can be read."""
    found = unread_beside(tree, corner.images, set(bare.values()), drawn=corner.masks != corner.images)
    for path in tree.unread(corner.masks) if corner.masks != corner.images else []:
        key = key_of(path, corner.masks, corner, parts)
        ways = (key, strip(key), (key[0], key[1].partition(".")[0]))
        image = next((bare[way] for way in ways if way in bare), None)
        if image:
            found[path] = no_mask(image, path, tree)
    return found


def unread_beside(tree: Tree, folder: Path, bare: set[Path], drawn: bool) -> dict[Path, str]:
    """Files in a folder of images that are called like the mask of one of `bare`, and are no masks that can be read.
    drawn: whether files of annotations are such."""
    stems = {stem_of(image): image for image in bare}
    named = {path: strip(("", stem_of(path)))[1] for path in tree.unread(folder)}
    found = {
        path: no_mask(stems[stem], path, tree)
        for path, stem in named.items()
        if stem in stems and stem != stem_of(path)
    }
    beside = [path for path, image in annotations_of(tree, folder).items() if image in bare] if drawn else []
    if beside and is_labelme(beside[0]):
        found |= {path: f"{path} holds shapes of LabelMe, and masks are read from other files" for path in beside}
    return found


def no_mask(image: Path, path: Path, tree: Tree) -> str:
    return f"{image} has no mask that can be read: {path} is {unreadable(path, tree)}; save it as PNG, or remove it"


def unreadable(path: Path, tree: Tree) -> str:
    """What a file is, other than an image that can be read."""
    return f"a {tree.apart[path].why if path in tree.apart else f'{path.suffix} file'}"


def masks_among(images: Sequence[Path], bare: set[Path]) -> dict[Path, str]:
    """Images without a mask that are called like the mask of another image, and hold what masks do."""
    called = {path: image for path, image in with_endings(images).items() if path in bare}
    if not all(different(path) <= FEW for path in sampled(list(called))):
        return {}
    return {
        path: f"{path} is called like the mask of {image}, and lies among images: move it to the masks, or remove it"
        for path, image in called.items()
    }


def is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def is_labelme(path: Path) -> bool:
    try:
        LabelMe().content(Sample(path.name, path, path))
    except UserError:
        return False
    return True


# --- files of COCO's format -----------------------------------------------------------------------------------------


def pair_listed(corners: Sequence[Corner], found: Found, parts: Parts) -> None:
    """Add the images that files of COCO's format list, those of a file for validation to the val part, and the images
    of the same folders that none lists. A file that speaks of no part leaves it to the folders of its images."""
    tree = found.tree
    files = [(read_coco(path), corner.part or part_in(path)) for corner in corners for path in coco_files(corner, tree)]
    said_of = {file.path: part for file, part in files}
    folder = {path: corner for corner in corners for path in tree.images(corner.images)}
    images = sorted(path for path in folder if not among_loose(path, tree.root))
    entries = pair_coco([file for file, _ in files], images)
    found.regions = Coco([file for file, _ in files], entries)
    for path in images:
        listed = entries.get(path)
        own = parts.split(label(path, folder[path].images), folder[path].part)[0]
        mask, part = (listed[0].path, said_of[listed[0].path] or own) if listed else (None, own)
        add(found, Sample(label(path, tree.root), path, mask), part)


def part_in(path: Path) -> str:
    """The part that the name of a file speaks of, such as instances_val2017.json."""
    return next((WORDS[word] for word in words_of(path.stem) if WORDS.get(word) in PARTS), "")


def coco_files(corner: Corner, tree: Tree) -> list[Path]:
    """The files of COCO's format that stand for a corner's masks: the one that was given, or all of a folder of JSON
    whose files are not called like images, as LabelMe's are."""
    if corner.masks.is_file():
        return [corner.masks]
    if corner.masks == corner.images or tree.images(corner.masks):
        return []
    stems = {composed(path.stem) for path in tree.images(corner.images)}
    listed = tree.json(corner.masks)
    return [] if any(composed(path.stem) in stems for path in listed) else listed


# --- images without masks -------------------------------------------------------------------------------------------


def add_loose(found: Found, further: Sequence[str], parts: Parts) -> None:
    """Add the images of the folders of images without masks: the usual ones in the root and its train part, and those
    of `data.unlabelled`. Raises UserError for one that is not there."""
    taken = {sample.image for sample in (*found.pairs, *found.val, *found.loose, *found.left)}
    root = found.root
    homes = [root, *(root / name for part, name in part_folders(root, parts) if part == TRAIN)]
    usual = [home / name for home in homes for name in sorted(subfolders(home)) if is_loose(name)]
    for folder in [*usual, *(expanded(name) for name in further)]:
        if not folder.is_dir():
            raise UserError(f"no folder {folder} (data.unlabelled, from the working directory)")
        within = below_root(folder, root)
        tree = found.tree if within else walk(folder)
        found.trees += [] if within else [tree]
        folder = within or folder
        images = [path for path in tree.images(folder) if path not in taken]
        wrong = masks_among(images, set(images))
        for path, message in wrong.items():
            found.refuse(path, "mask beside", message)
        for path, message in unread_beside(tree, folder, set(images), drawn=True).items():
            found.refuse(path, "mask not read", message)
        found.loose += [Sample(label(path, root), path) for path in images if path not in wrong]
        taken |= set(images)


def below_root(folder: Path, root: Path) -> Path | None:
    """A folder by its path from the root, where it lies below it, however it was written."""
    for real in (os.path.abspath, os.path.realpath):
        if Path(real(folder)).is_relative_to(real(root)):
            return root / os.path.relpath(real(folder), real(root))
    return None


def among_loose(path: Path, root: Path) -> bool:
    return any(is_loose(name) for name in label(path.parent, root).split("/"))
