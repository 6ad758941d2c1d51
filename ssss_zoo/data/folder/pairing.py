"""Which mask belongs to which image: by name, by an ending that masks share, by suffix; checked against the pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ssss_zoo.data.base import UNUSABLE, Fault
from ssss_zoo.data.folder.file_tree import normalize_name, relative_name
from ssss_zoo.data.images import open_with_pillow
from ssss_zoo.errors import UserError

MASK_ENDINGS = (  # of a mask's stem, in upper or lower case; another one counts where all masks share it
    *("_mask", "-mask", ".mask", " mask", "_masks", "_label", "-label", "_labels", "_gt", "-gt", "_seg", "-seg"),
    *("_segmentation", "_annotation", "_labelids", "_trainids", "_labeltrainids", "_groundtruth", "_ground_truth"),
)
SUFFIX_OF_FORMAT = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}  # one suffix for each format
FILES_SAMPLED = 16  # files that are opened to check a guess (our choice)
MAX_MASK_VALUES = 64  # different values or colours of a mask; photographs have more (our choice)

Sampled = TypeVar("Sampled")


class PairKey(NamedTuple):
    """What an image and its mask have in common: their part of the data, and their path without suffix."""

    part: str
    stem: str


class NameMatch(NamedTuple):
    """A mask's name taken apart: the key of its image, and the piece that the name has besides; no piece where the name
    does not fit."""

    image: PairKey
    piece: str


NamingRule = Callable[[PairKey, set[PairKey]], NameMatch]  # (key of a mask, keys of all images)
ClassFiles = dict[PairKey, dict[str, Path]]  # by image, the file of each class


@dataclass(frozen=True, eq=False)
class ImageMaskPairs:
    """Images of one folder by their key, and the mask of each image that has one. class_files: the files of each image,
    where masks are one file per class; description: how masks are named, where they are not named like their images;
    unmatched: masks without an image; faults: files that are left out, and what is wrong with them."""

    images: Mapping[PairKey, Path]
    masks: Mapping[PairKey, Path]
    class_files: ClassFiles = field(default_factory=dict)
    description: str = ""
    unmatched: Mapping[PairKey, Path] = field(default_factory=dict)
    faults: Mapping[Path, Fault] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class KeyedFiles:
    """Files by their key. faults: files whose key another file has already."""

    files: dict[PairKey, Path]
    faults: dict[Path, Fault]


def index_by_key(paths: Iterable[Path], key_of: Callable[[Path], PairKey], root: Path) -> KeyedFiles:
    """The files by their key; the first file of a key counts, the others are faults."""
    files: dict[PairKey, Path] = {}
    faults = {}
    for path in paths:
        key = key_of(path)
        if key in files:
            message = f"{files[key]} and {path} have the same name without suffix: remove or rename one"
            faults[path] = Fault(UNUSABLE, "same name", relative_name(path, root), message)
        files.setdefault(key, path)
    return KeyedFiles(files, faults)


def strip_mask_ending(stem: str) -> str:
    """The stem of a mask's name without its usual ending, in upper or lower case."""
    lower = stem.lower()
    if not lower.endswith(MASK_ENDINGS):
        return stem
    ending = next(ending for ending in MASK_ENDINGS if lower.endswith(ending))
    return stem[: len(stem) - len(ending)]


def strip_key(key: PairKey) -> PairKey:
    return PairKey(key.part, strip_mask_ending(key.stem))


# --- in two folders -------------------------------------------------------------------------------------------------


def pair_masks(images: Mapping[PairKey, Path], masks: Mapping[PairKey, Path], root: Path) -> ImageMaskPairs:
    """Pair images with the masks of another folder. Masks are named like their images, with a usual ending, or with
    one that all masks share; or there is one file per class.

    Raises UserError for several masks of an image that are no files of one class each.
    """
    image_of = {key: key if key in images else strip_key(key) for key in masks}
    if any(key in images for key in image_of.values()):
        return pair_by_name(images, masks, image_of, root)
    shared = pair_by_shared_piece(images, masks)
    if shared.masks:
        return shared
    class_files = group_class_files(images, masks)
    if class_files:
        return ImageMaskPairs(images, first_class_files(class_files), class_files)
    shorter = strip_shared_ending(images)
    if not shorter:
        return ImageMaskPairs(images, {}, unmatched=masks)
    # images have an ending as well, such as a_sat.jpg with a_mask.png
    pairs = pair_masks({short: images[key] for short, key in shorter.items()}, masks, root)
    found = {shorter[short]: path for short, path in pairs.masks.items()}
    names = [f"{images[key].name} and {path.name}" for key, path in found.items()]
    description = f"images and masks have an ending each, as {names[0]}" if names else ""
    return replace(pairs, images=images, masks=found, description=description)


def first_class_files(class_files: ClassFiles) -> dict[PairKey, Path]:
    """One file of each image stands for its mask."""
    return {key: next(iter(files.values())) for key, files in class_files.items()}


def strip_shared_ending(keys: Iterable[PairKey]) -> dict[PairKey, PairKey]:
    """Each key by the key that is left without the ending that all of them share; empty where they share none, and for
    a single key."""
    matches = {key: re.fullmatch(r"(.*[^/])([_-][^_/-]+)", key.stem) for key in keys}
    endings = {match[2] if match else "" for match in matches.values()}
    if len(matches) < 2 or len(endings) != 1 or "" in endings:
        return {}
    return {PairKey(key.part, match[1]): key for key, match in matches.items() if match}


def pair_by_name(
    images: Mapping[PairKey, Path],
    masks: Mapping[PairKey, Path],
    image_of: Mapping[PairKey, PairKey],
    root: Path,
) -> ImageMaskPairs:
    """Pair each mask with the image whose key is in `image_of`; unless all masks are files of one class each. A second
    mask of an image is a fault."""
    unmatched = {key: path for key, path in masks.items() if image_of[key] not in images}
    class_files = group_class_files(images, masks) if unmatched else {}
    if class_files:
        return ImageMaskPairs(images, first_class_files(class_files), class_files)
    found: dict[PairKey, Path] = {}
    faults = {}
    for key in sorted(masks.keys() - unmatched.keys(), key=lambda key: (key != image_of[key], key)):
        image = image_of[key]
        if image in found:
            message = f"{found[image]} and {masks[key]} are both masks of {images[image]}: remove or rename one"
            faults[masks[key]] = Fault(UNUSABLE, "two masks", relative_name(masks[key], root), message)
        found.setdefault(image, masks[key])
    return ImageMaskPairs(images, found, unmatched=unmatched, faults=faults)


def pair_by_shared_piece(images: Mapping[PairKey, Path], masks: Mapping[PairKey, Path]) -> ImageMaskPairs:
    """Pair masks that are named like their images except for one piece that all masks share, one mask per image. At
    least half of the masks must fit; else there are no pairs."""
    known = set(images)
    for rule in NAMING_RULES:
        named = {key: rule(key, known) for key in masks}
        fitting = {key: match for key, match in named.items() if match.piece and match.image in known}
        pieces = {match.piece.casefold() for match in fitting.values()}
        pairs = {match.image: masks[key] for key, match in fitting.items()}
        if len(pieces) == 1 and len(pairs) == len(fitting) and 2 * len(pairs) >= len(masks):
            example = next(iter(fitting))
            piece, name = fitting[example].piece, masks[example].name
            unmatched = {key: path for key, path in masks.items() if path not in pairs.values()}
            description = f"masks are called like their images, with '{piece}' as in {name}"
            return ImageMaskPairs(images, pairs, description=description, unmatched=unmatched)
    return ImageMaskPairs(images, {})


def group_class_files(images: Iterable[PairKey], masks: Mapping[PairKey, Path]) -> ClassFiles:
    """The files of each class by image, where all masks follow the same naming rule (`<class>/<image>`,
    `<image>/<class>`, `<image>_<class>` or `<class>_<image>`) and an image has several; else empty.

    Raises UserError where a file named so holds more than two values: it is no file of one class.
    """
    known = set(images)
    for rule in NAMING_RULES:
        groups: ClassFiles = {}
        for key, path in masks.items():
            image, name = rule(key, known)
            if not name or image not in known or name in groups.get(image, {}):
                break
            groups.setdefault(image, {})[name] = path
        else:
            if any(len(group) > 1 for group in groups.values()):
                check_class_files(groups)
                return groups
    return {}


def check_class_files(groups: ClassFiles) -> None:
    """Raise UserError where one of a sample of the files holds more than the two values of one class."""
    paths = [path for group in groups.values() for path in group.values()]
    for path in sample_files(paths):
        count = count_distinct_values(path)
        if count > 2:
            names = next(", ".join(group) for group in groups.values() if path in group.values())
            raise UserError(
                f"images have several masks each ({names}), but {path} holds "
                f"{'many' if count > MAX_MASK_VALUES else count} values, so they are not one file for each class: "
                "leave the mask to learn from there, and move the others elsewhere"
            )


def match_outer_folder(key: PairKey, known: set[PairKey]) -> NameMatch:
    """`<piece>/<image>`."""
    piece, _, image = key.stem.partition("/")
    return NameMatch(PairKey(key.part, image), piece)


def match_inner_name(key: PairKey, known: set[PairKey]) -> NameMatch:
    """`<image>/<piece>`."""
    image, _, piece = key.stem.rpartition("/")
    return NameMatch(PairKey(key.part, image), piece)


def match_ending(key: PairKey, known: set[PairKey]) -> NameMatch:
    """`<image>_<piece>`, also with `-`, `.` or a space: the longest image name that the mask's name begins with."""
    for end in range(len(key.stem) - 1, 0, -1):
        image = PairKey(key.part, key.stem[:end])
        if key.stem[end] in "_-. " and image in known:
            return NameMatch(image, key.stem[end + 1 :])
    return NameMatch(key, "")


def match_beginning(key: PairKey, known: set[PairKey]) -> NameMatch:
    """`<piece>_<image>`, also with `-`, `.` or a space: the longest image name that the mask's name ends with."""
    home, slash, name = key.stem.rpartition("/")
    for start in range(1, len(name)):
        image = PairKey(key.part, f"{home}{slash}{name[start:]}")
        if name[start - 1] in "_-. " and image in known:
            return NameMatch(image, name[: start - 1])
    return NameMatch(key, "")


NAMING_RULES: tuple[NamingRule, ...] = (match_outer_folder, match_inner_name, match_ending, match_beginning)


# --- in one folder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SameFolderMasks:
    """Masks in the folder of their images. image_of: the image of each mask; description: how masks are recognised;
    unmatched: files that are named like masks and have no image."""

    image_of: Mapping[Path, Path] = field(default_factory=dict)
    description: str = ""
    unmatched: Sequence[Path] = ()


def find_masks_among_images(files: Sequence[Path]) -> SameFolderMasks:
    """The masks among the files of one folder. They have a usual ending; else another suffix, or an ending that all of
    them share, and the pixels of masks; else there are none.

    Raises UserError where files of two suffixes are images and masks, and their pixels do not show which are which.
    """
    usual = match_usual_endings(files)
    if usual:
        unmatched = [path for path in files if path not in usual and strip_mask_ending(path.stem) != path.stem]
        return SameFolderMasks(usual, "recognised by their ending", unmatched)
    pairs = pair_two_suffixes(files)
    if pairs:
        side = mask_side(pairs)
        if side is None:
            raise UserError(
                f"{pairs[0][0]} and {pairs[0][1]} may be an image and its mask, but their pixels do not show which is "
                f"which: put the masks into masks/, and the images into images/ ({len(pairs)} such pairs)"
            )
        image_of = {pair[side]: pair[1 - side] for pair in pairs}
        formats = {format_suffix(path) for path in image_of}
        unmatched = [path for path in files if format_suffix(path) in formats and path not in image_of]
        return SameFolderMasks(image_of, f"recognised by their suffix {pairs[0][side].suffix}", unmatched)
    shared = match_shared_ending(files)
    if shared.image_of and mask_side([(image, mask) for mask, image in shared.image_of.items()]) == 1:
        return shared
    return SameFolderMasks()


def format_suffix(path: Path) -> str:
    return SUFFIX_OF_FORMAT.get(path.suffix.lower(), path.suffix.lower())


def match_usual_endings(files: Sequence[Path]) -> dict[Path, Path]:
    """By mask, its image: files that are named like another file with a usual ending of masks."""
    stems = {path: path_stem(path) for path in files}
    path_of = {stem: path for path, stem in reversed(stems.items())}
    stripped = {path: strip_mask_ending(stem) for path, stem in stems.items()}
    with_ending = {path: stem for path, stem in stripped.items() if stem != stems[path]}
    found = {path: path_of[stem] for path, stem in with_ending.items() if stem in path_of}
    if found:
        return found
    others = {PairKey("", stem): path for path, stem in stems.items() if path not in with_ending}
    shorter = {short.stem: others[key] for short, key in strip_shared_ending(others).items()}
    return {path: shorter[stem] for path, stem in with_ending.items() if stem in shorter}


def path_stem(path: Path) -> str:
    return normalize_name(path.with_suffix("").as_posix())


def pair_two_suffixes(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Files of one name and two suffixes, in the order of the suffixes; empty where the two suffixes are not the same
    everywhere."""
    stems: dict[str, dict[str, Path]] = {}
    for path in files:
        stems.setdefault(path_stem(path), {})[format_suffix(path)] = path
    twins = [group for group in stems.values() if len(group) > 1]
    kinds = {tuple(sorted(group)) for group in twins}
    if len(kinds) != 1 or len(next(iter(kinds))) != 2:
        return []
    first, second = next(iter(kinds))
    return [(group[first], group[second]) for group in twins]


def match_shared_ending(files: Sequence[Path]) -> SameFolderMasks:
    """Files that are named like another file with an ending that all of them share; none where there is one pair
    alone."""
    keys = {PairKey("", path_stem(path)): path for path in files}
    longer = {key: path for key, path in keys.items() if match_ending(key, set(keys)).piece}
    pairs = pair_by_shared_piece({key: path for key, path in keys.items() if key not in longer}, longer)
    image_of = {mask: keys[key] for key, mask in pairs.masks.items()} if len(pairs.masks) > 1 else {}
    return SameFolderMasks(image_of, pairs.description)


def mask_side(pairs: Sequence[tuple[Path, Path]]) -> int | None:
    """Whether the first (0) or the second file (1) of each pair is the mask, by a sample; None where that is not clear.

    The mask is no JPEG and has few values; the image is a JPEG, has many values, or has colours where the mask has
    none.
    """
    sides = [[pair[side] for pair in sample_files(pairs)] for side in (0, 1)]
    jpeg = [all(format_suffix(path) == ".jpg" for path in side) for side in sides]
    few = [all(count_distinct_values(path) <= MAX_MASK_VALUES for path in side) for side in sides]
    single = [all(has_one_channel(path) for path in side) for side in sides]
    for mask, image in ((0, 1), (1, 0)):
        if not jpeg[mask] and few[mask] and (jpeg[image] or not few[image] or single[mask] > single[image]):
            return mask
    return None


# --- the pixels of files --------------------------------------------------------------------------------------------


def sample_files(items: Sequence[Sampled]) -> Sequence[Sampled]:
    """At most `FILES_SAMPLED` of the items, evenly spaced."""
    return items[:: -(-len(items) // FILES_SAMPLED) or 1]


def count_distinct_values(path: Path) -> int:
    """How many different values or colours a file holds, at most MAX_MASK_VALUES + 1. A file that cannot be read counts
    as 0, and so does a JPEG, whose values are not those that were saved: reading reports both."""
    try:
        with open_with_pillow(path) as image:
            if image.format == "JPEG":
                return 0
            if image.mode in ("F", "I", "I;16", "I;16B", "I;16L"):
                return min(len(np.unique(np.array(image))), MAX_MASK_VALUES + 1)
            counted = image.getcolors(MAX_MASK_VALUES)
            return MAX_MASK_VALUES + 1 if counted is None else len(counted)
    except UserError:
        return 0


def has_one_channel(path: Path) -> bool:
    """Whether a file can be read and holds one value per pixel."""
    try:
        with open_with_pillow(path) as image:
            return len(image.getbands()) == 1
    except UserError:
        return False
