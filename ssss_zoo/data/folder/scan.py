"""The scan of a user's folder: which file is an image, which its mask, and which part of the data both belong to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssss_zoo.data.base import UNUSABLE, Fault
from ssss_zoo.data.folder.file_tree import (
    CONVERT_REMEDY,
    FileStatus,
    FileTree,
    normalize_name,
    relative_name,
    walk_tree,
)
from ssss_zoo.data.folder.layout import (
    FolderPair,
    annotations_beside,
    coco_files,
    find_layout,
    in_unlabelled_folder,
    masks_beside,
    part_folders,
    subfolders,
)
from ssss_zoo.data.folder.pairing import (
    MASK_ENDINGS,
    MAX_MASK_VALUES,
    ImageMaskPairs,
    PairKey,
    count_distinct_values,
    index_by_key,
    match_usual_endings,
    pair_masks,
    path_stem,
    sample_files,
    strip_key,
    strip_mask_ending,
)
from ssss_zoo.data.folder.part_names import (
    FOLDER_PARTS,
    PART_OF_WORD,
    TEST,
    TRAIN,
    VAL,
    FolderParts,
    is_unlabelled_folder,
    words_in_name,
)
from ssss_zoo.data.folder.polygons import CocoRegions, LabelMeRegions, match_coco_images, read_coco, read_labelme
from ssss_zoo.data.folder.regions import ClassFileRegions, RegionSource
from ssss_zoo.data.images import IMAGE_SUFFIXES
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

REASON_OF_FAULT = {  # why a file is left out, by the kind of its fault
    "no image": "mask without an image",
    "same name": "file with the name of another",
    "two masks": "second mask of an image",
    "mask not read": "mask that cannot be read",
    "mask beside": "mask among the images",
}


@dataclass(frozen=True, eq=False)
class ScanResult:
    """Every image of a folder by its use.

    layout: its name; description: of the layout, for the user; trees: all files, those of the root first; folder_pairs:
    where images and masks lie; pairs: images with masks, to train on; val: images with masks of the val part;
    unmasked: images without masks; ignored: images of a test part; regions: how masks are put together, where they
    are; faults: what is wrong with files; refused: files that are left out because of a fault.
    """

    layout: str
    description: str
    trees: list[FileTree]
    folder_pairs: list[FolderPair]
    pairs: list[Sample]
    val: list[Sample]
    unmasked: list[Sample]
    ignored: list[Sample]
    regions: RegionSource | None
    faults: list[Fault]
    refused: dict[Path, FileStatus]

    @property
    def root(self) -> Path:
        return self.trees[0].root

    @property
    def tree(self) -> FileTree:
        return self.trees[0]


class RefusedFile(NamedTuple):
    """A file that is left out: a run does not start until the user has seen to it."""

    path: Path
    fault: Fault


class PartSample(NamedTuple):
    """A sample and the part that it belongs to: train (or empty), val or test."""

    sample: Sample
    part: str


@dataclass(frozen=True, eq=False)
class PairScan:
    """The images of one folder pair. class_files: for each image, the file of each class, where masks are one file per
    class; the other fields are as in `ScanResult`."""

    samples: list[PartSample]
    refused: list[RefusedFile] = field(default_factory=list)
    description: str = ""
    regions: RegionSource | None = None
    class_files: list[Mapping[str, Path]] = field(default_factory=list)


def scan_folder(root: Path, data: DataConfig) -> ScanResult:
    """Find the images and masks below `root`.

    Some files are left out, with a fault each: masks without an image, a second file of one name, images of the val
    part without a mask, and files that look like the mask of an image without one. Raises UserError when no layout
    fits, or two.
    """
    tree = walk_tree(root)
    parts = FolderParts(data.parts)
    layout = find_layout(tree, data, parts)
    with_coco = [pair for pair in layout.folder_pairs if coco_files(pair, tree)]
    scans = [scan_coco_pairs(with_coco, tree, parts)] if with_coco else []
    scans += [scan_folder_pair(pair, tree, parts) for pair in layout.folder_pairs if pair not in with_coco]

    samples = [found for scan in scans for found in scan.samples]
    pairs = [sample for sample, part in samples if part not in (VAL, TEST) and sample.mask]
    val = [sample for sample, part in samples if part == VAL and sample.mask]
    ignored = [sample for sample, part in samples if part == TEST]
    bare = [sample for sample, part in samples if part not in (VAL, TEST) and not sample.mask]
    bare_val = [sample for sample, part in samples if part == VAL and not sample.mask]
    unmasked = scan_unmasked_folders(tree, data.unlabelled, parts, known=[*pairs, *val, *bare, *ignored])
    check_part_mentions(layout.folder_pairs, tree, parts)

    refused = [found for scan in scans for found in scan.refused]
    bare_faults = [no_mask_fault(sample, layout.folder_pairs[-1].masks) for sample in bare_val]
    return ScanResult(
        layout=layout.name,
        description=", ".join([layout.describe(root), *(scan.description for scan in scans if scan.description)]),
        trees=[tree, *unmasked.trees],
        folder_pairs=layout.folder_pairs,
        pairs=pairs,
        val=val,
        unmasked=[*bare, *unmasked.samples],
        ignored=ignored,
        regions=regions_of_scans(scans, root),
        faults=[*(file.fault for file in refused), *bare_faults, *(file.fault for file in unmasked.refused)],
        refused={path: refused_status(fault) for path, fault in [*refused, *unmasked.refused]},
    )


def no_mask_fault(sample: Sample, masks: Path) -> Fault:
    message = f"{sample.image} has no mask: an image to validate on needs one (in {masks})"
    return Fault(UNUSABLE, "no mask", sample.name, message)


def refused_status(fault: Fault) -> FileStatus:
    return FileStatus(
        reason=REASON_OF_FAULT.get(fault.kind, "file that is refused"), remedy="see the fault of this file"
    )


def refuse_files(messages: Mapping[Path, str], kind: str, root: Path) -> list[RefusedFile]:
    """Files that are left out. messages: what is wrong with each; kind: of the faults."""
    return [
        RefusedFile(path, Fault(UNUSABLE, kind, relative_name(path, root), message))
        for path, message in messages.items()
    ]


def regions_of_scans(scans: Sequence[PairScan], root: Path) -> RegionSource | None:
    """How masks are put together; None where they are not."""
    class_files = [files for scan in scans for files in scan.class_files]
    if class_files:
        return ClassFileRegions(class_files, relative_name(next(iter(class_files[0].values())), root))
    return next((scan.regions for scan in reversed(scans) if scan.regions), None)


def check_part_mentions(folder_pairs: Sequence[FolderPair], tree: FileTree, parts: FolderParts) -> None:
    """Raise UserError where a folder of images mentions val or test in its name, and is neither."""
    for pair in folder_pairs:
        folders = {relative_name(path, pair.images).rpartition("/")[0] for path in tree.images_in(pair.images)}
        parts.check_mentions(pair.images, sorted(folders - {""}))


# --- images and masks -----------------------------------------------------------------------------------------------


def scan_folder_pair(pair: FolderPair, tree: FileTree, parts: FolderParts) -> PairScan:
    """The images of a folder pair, each with its mask where it has one. Raises UserError where no mask has an image."""
    root = tree.root
    pairs = pair_same_folder(pair, tree, parts) if pair.images == pair.masks else pair_folders(pair, tree, parts)
    unmatched = describe_unmatched_masks(pairs, pair, tree, parts)
    if unmatched and not pairs.masks:
        raise UserError(f"{next(iter(unmatched.values()))} (none of {len(pairs.unmatched)} masks is)")
    bare = {key: path for key, path in pairs.images.items() if key not in pairs.masks}
    among_images = find_misplaced_masks(list(pairs.images.values()), set(bare.values()))
    return PairScan(
        samples=[
            PartSample(Sample(relative_name(path, root), path, pairs.masks.get(key)), key.part)
            for key, path in pairs.images.items()
            if path not in among_images
        ],
        refused=[
            *(RefusedFile(path, fault) for path, fault in pairs.faults.items()),
            *refuse_files(unmatched, "no image", root),
            *refuse_files(find_unreadable_masks(bare, pair, tree, parts), "mask not read", root),
            *refuse_files(among_images, "mask beside", root),
        ],
        description=pairs.description,
        regions=LabelMeRegions() if any(is_json(path) for path in pairs.masks.values()) else None,
        class_files=list(pairs.class_files.values()),
    )


def pair_key(path: Path, folder: Path, pair: FolderPair, parts: FolderParts) -> PairKey:
    """The key of a file in one of the two folders. The part of training images is empty."""
    part, rest = parts.split_path(relative_name(path, folder), pair.part)
    return PairKey("" if part == TRAIN else part, rest)


def pair_folders(pair: FolderPair, tree: FileTree, parts: FolderParts) -> ImageMaskPairs:
    """Pair the images of one folder with the masks of another. Raises UserError where either holds none."""
    image_paths = tree.images_in(pair.images)
    mask_paths = tree.images_in(pair.masks) or tree.annotations_in(pair.masks)
    for folder, paths in ((pair.images, image_paths), (pair.masks, mask_paths)):
        if not paths:
            looked_for = " ".join(IMAGE_SUFFIXES)
            raise UserError(f"no image in {folder} (looked for {looked_for}; {describe_other_files(tree, folder)})")
    images = index_by_key(image_paths, lambda path: pair_key(path, pair.images, pair, parts), tree.root)
    masks = index_by_key(mask_paths, lambda path: pair_key(path, pair.masks, pair, parts), tree.root)
    pairs = pair_masks(images.files, masks.files, tree.root)
    mask_faults = masks.faults
    if pairs.unmatched:  # a folder may be named like a part and mean a class, such as VOC's train
        whole = {
            PairKey("", normalize_name(path.relative_to(pair.masks).with_suffix("").as_posix())): path
            for path in mask_paths
        }
        again = pair_masks(images.files, whole, tree.root) if whole.keys() != masks.files.keys() else pairs
        if not again.unmatched:
            pairs = again
            mask_faults = {}
    return replace(pairs, faults={**images.faults, **mask_faults, **pairs.faults})


def pair_same_folder(pair: FolderPair, tree: FileTree, parts: FolderParts) -> ImageMaskPairs:
    """Pair images with masks, or with files of annotations, of the same folder."""
    files = [path for path in tree.images_in(pair.images) if not in_unlabelled_folder(path, tree.root)]
    found = masks_beside(tree, pair.images)
    image_of = found.image_of or annotations_beside(tree, pair.images)
    image_paths = [path for path in files if path not in image_of and path not in found.unmatched]
    images = index_by_key(image_paths, lambda path: pair_key(path, pair.images, pair, parts), tree.root)
    faults = dict(images.faults)
    keys = {path: key for key, path in images.files.items()}
    masks: dict[PairKey, Path] = {}
    for path, image in image_of.items():
        key = keys.get(image)
        if key in masks:
            message = f"{masks[key]} and {path} are both masks of {image}: remove or rename one"
            faults[path] = Fault(UNUSABLE, "two masks", relative_name(path, tree.root), message)
        elif key:
            masks[key] = path
    unmatched = {pair_key(path, pair.images, pair, parts): path for path in found.unmatched}
    return ImageMaskPairs(images.files, masks, description=found.description, unmatched=unmatched, faults=faults)


def scan_coco_pairs(folder_pairs: Sequence[FolderPair], tree: FileTree, parts: FolderParts) -> PairScan:
    """The images of folder pairs whose masks are files in COCO's format, listed in these files or not.

    The name of a file, such as instances_val2017.json, decides the part of its images; else the folder does.
    """
    part_of_file = {
        path: folder_pair.part or part_in_file_name(path)
        for folder_pair in folder_pairs
        for path in coco_files(folder_pair, tree)
    }
    files = [read_coco(path) for path in part_of_file]
    pair_of = {path: folder_pair for folder_pair in folder_pairs for path in tree.images_in(folder_pair.images)}
    images = sorted(path for path in pair_of if not in_unlabelled_folder(path, tree.root))
    entries = match_coco_images(files, images)
    samples = []
    for path in images:
        entry = entries.get(path)
        mask = entry.file.path if entry else None
        folder_part = parts.split_path(relative_name(path, pair_of[path].images), pair_of[path].part).part
        part = (part_of_file[mask] if mask else "") or folder_part
        samples.append(PartSample(Sample(relative_name(path, tree.root), path, mask), part))
    return PairScan(samples, regions=CocoRegions(files, entries))


def part_in_file_name(path: Path) -> str:
    """The part that the name of a file mentions; empty where it mentions none."""
    name_words = words_in_name(path.stem)
    return next((PART_OF_WORD[word] for word in name_words if PART_OF_WORD.get(word) in FOLDER_PARTS), "")


# --- files that look like masks and cannot be used ------------------------------------------------------------------


def describe_unmatched_masks(
    pairs: ImageMaskPairs, pair: FolderPair, tree: FileTree, parts: FolderParts
) -> dict[Path, str]:
    """The message for each mask without an image."""
    if not pairs.unmatched:
        return {}
    unread = {pair_key(path, pair.images, pair, parts): path for path in tree.unreadable_in(pair.images)}
    unread = {key: path for key, path in unread.items() if not is_json(path)}
    bare = {key.stem.casefold(): path for key, path in pairs.images.items() if key not in pairs.masks}
    messages = {}
    for key, path in pairs.unmatched.items():
        keys = (key, strip_key(key))
        other = next((unread[way] for way in keys if way in unread), None)
        similar = next((bare[way.stem.casefold()] for way in keys if way.stem.casefold() in bare), None)
        if other:
            kind = describe_file_kind(other, tree)
            messages[path] = f"mask {path} has no image that can be read: {other} is {kind}; {CONVERT_REMEDY}"
        elif similar:
            messages[path] = (
                f"mask {path} has no image, but {similar} differs in capitals or part only: use one name for both"
            )
        else:
            messages[path] = (
                f"mask {path} has no image: no {pair.images.joinpath(*filter(None, key))}.*; a mask has its image's "
                f"name, alone, with an ending such as {MASK_ENDINGS[0]} or with an ending that all masks share"
            )
    return messages


def find_unreadable_masks(
    bare: Mapping[PairKey, Path], pair: FolderPair, tree: FileTree, parts: FolderParts
) -> dict[Path, str]:
    """The message for each file that is named like the mask of an image without one, and is no readable mask. Such
    files are looked for in the folder of masks and beside the images. bare: the images without masks."""
    two_folders = pair.masks != pair.images
    found = find_unreadable_masks_beside(tree, pair.images, set(bare.values()), annotations=two_folders)
    for path in tree.unreadable_in(pair.masks) if two_folders else []:
        key = pair_key(path, pair.masks, pair, parts)
        keys = (key, strip_key(key), PairKey(key.part, key.stem.partition(".")[0]))
        image = next((bare[way] for way in keys if way in bare), None)
        if image:
            found[path] = unreadable_mask_message(image, path, tree)
    return found


def find_unreadable_masks_beside(
    tree: FileTree, folder: Path, bare: set[Path], *, annotations: bool
) -> dict[Path, str]:
    """Files in a folder of images that are named like the mask of one of the images `bare`, and are no readable masks.
    annotations: whether files of annotations count."""
    image_of_stem = {path_stem(image): image for image in bare}
    stems = {path: strip_mask_ending(path_stem(path)) for path in tree.unreadable_in(folder)}
    found = {
        path: unreadable_mask_message(image_of_stem[stem], path, tree)
        for path, stem in stems.items()
        if stem in image_of_stem and stem != path_stem(path)
    }
    if annotations:
        drawn = [path for path, image in annotations_beside(tree, folder).items() if image in bare]
        if drawn and is_labelme(drawn[0]):
            found |= {path: f"{path} holds shapes of LabelMe, and masks are read from other files" for path in drawn}
    return found


def unreadable_mask_message(image: Path, path: Path, tree: FileTree) -> str:
    kind = describe_file_kind(path, tree)
    return f"{image} has no mask that can be read: {path} is {kind}; save it as PNG, or remove it"


def describe_file_kind(path: Path, tree: FileTree) -> str:
    """What a file is that is no readable image: `a .npy file`, `a broken link`."""
    return f"a {tree.excluded[path].reason if path in tree.excluded else f'{path.suffix} file'}"


def describe_other_files(tree: FileTree, folder: Path) -> str:
    """What a folder without readable images holds."""
    kinds = Counter(describe_file_kind(path, tree) for path in tree.unreadable_in(folder)).most_common(4)
    return f"there: {', '.join(f'{count} times {kind}' for kind, count in kinds) or 'nothing'}"


def find_misplaced_masks(images: Sequence[Path], bare: set[Path]) -> dict[Path, str]:
    """The message for each image without a mask that is named like the mask of another image, if all of them have few
    values, as masks do. bare: the images without masks."""
    image_of = {path: image for path, image in match_usual_endings(images).items() if path in bare}
    if not all(count_distinct_values(path) <= MAX_MASK_VALUES for path in sample_files(list(image_of))):
        return {}
    return {
        path: f"{path} is named like the mask of {image} but lies among the images: move it to the masks, or remove it"
        for path, image in image_of.items()
    }


def is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def is_labelme(path: Path) -> bool:
    try:
        read_labelme(path)
    except UserError:
        return False
    return True


# --- images without masks -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UnmaskedScan:
    """The images of folders without masks. trees: of folders outside the root."""

    trees: list[FileTree]
    samples: list[Sample]
    refused: list[RefusedFile]


def scan_unmasked_folders(
    tree: FileTree, further: Sequence[str], parts: FolderParts, *, known: Iterable[Sample]
) -> UnmaskedScan:
    """The images of the folders of images without masks: the usual ones in the root and in its train part, and those of
    `data.unlabelled`, which is `further`. Images that are `known` already are left out. Raises UserError for a folder
    that does not exist."""
    root = tree.root
    taken = {sample.image for sample in known}
    homes = [root, *(root / folder.name for folder in part_folders(root, parts) if folder.part == TRAIN)]
    usual = [home / name for home in homes for name in sorted(subfolders(home)) if is_unlabelled_folder(name)]
    trees: list[FileTree] = []
    samples: list[Sample] = []
    refused: list[RefusedFile] = []
    for folder in [*usual, *(expanded(name) for name in further)]:
        if not folder.is_dir():
            raise UserError(f"no folder {folder} (data.unlabelled, from the working directory)")
        within = path_below(folder, root)
        folder_tree = tree if within else walk_tree(folder)
        trees += [] if within else [folder_tree]
        images = [path for path in folder_tree.images_in(within or folder) if path not in taken]
        misplaced = find_misplaced_masks(images, set(images))
        unread = find_unreadable_masks_beside(folder_tree, within or folder, set(images), annotations=True)
        refused += refuse_files(misplaced, "mask beside", root)
        refused += refuse_files(unread, "mask not read", root)
        samples += [Sample(relative_name(path, root), path) for path in images if path not in misplaced]
        taken |= set(images)
    return UnmaskedScan(trees, samples, refused)


def path_below(folder: Path, root: Path) -> Path | None:
    """The path from `root` of a folder that lies below it, however either is written; else None."""
    for real in (os.path.abspath, os.path.realpath):
        if Path(real(folder)).is_relative_to(real(root)):
            return root / os.path.relpath(real(folder), real(root))
    return None
