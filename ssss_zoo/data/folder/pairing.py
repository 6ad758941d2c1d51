"""Which mask is which image's: by name, by an ending that masks share, by suffix; checked against what files hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ssss_zoo.data.base import UNUSABLE, Fault
from ssss_zoo.data.folder.tree import composed, label
from ssss_zoo.data.images import open_with_pillow
from ssss_zoo.errors import UserError

ENDINGS = (  # of a mask's stem, in any case; every other one is an ending, too, where all masks share it
    *("_mask", "-mask", ".mask", " mask", "_masks", "_label", "-label", "_labels", "_gt", "-gt", "_seg", "-seg"),
    *("_segmentation", "_annotation", "_labelids", "_trainids", "_labeltrainids", "_groundtruth", "_ground_truth"),
)
FAMILIES = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}  # suffixes of one format
SAMPLED = 16  # files looked at to check a guess (our choice)
FEW = 64  # different values or colours of a mask at most; photographs have more (our choice)

Key = tuple[str, str]  # part and path without suffix
Groups = dict[Key, dict[str, Path]]
Thing = TypeVar("Thing")
Naming = Callable[[Key, set[Key]], tuple[Key, str]]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of one place by their key, and the mask of each that has one. groups: the files of each class of each
    image, where masks are one file for each class; said: how masks are called, where not like their images; lost: masks
    without an image; faults: what is wrong with a file that is left out."""

    images: Mapping[Key, Path]
    masks: Mapping[Key, Path]
    groups: Groups = field(default_factory=dict)
    said: str = ""
    lost: Mapping[Key, Path] = field(default_factory=dict)
    faults: Mapping[Path, Fault] = field(default_factory=dict)


def keyed(
    paths: Iterable[Path], key_of: Callable[[Path], Key], root: Path
) -> tuple[dict[Key, Path], dict[Path, Fault]]:
    """Files by their key; of two files of one key the later one is a fault."""
    found: dict[Key, Path] = {}
    faults = {}
    for path in paths:
        key = key_of(path)
        if key in found:
            message = f"{found[key]} and {path} have the same name without suffix: remove or rename one"
            faults[path] = Fault(UNUSABLE, "same name", label(path, root), message)
        found.setdefault(key, path)
    return found, faults


def strip(key: Key) -> Key:
    """A mask's key without the ending of its name, in any case."""
    lower = key[1].lower()
    if not lower.endswith(ENDINGS):
        return key
    ending = next(ending for ending in ENDINGS if lower.endswith(ending))
    return key[0], key[1][: len(key[1]) - len(ending)]


# --- in two folders -------------------------------------------------------------------------------------------------


def pair_masks(images: Mapping[Key, Path], masks: Mapping[Key, Path], root: Path) -> Pairs:
    """The masks of images in another folder: called like them, with one of the usual endings, with one that they all
    share; or a file for each class. Raises UserError for several masks an image that are no files of one class each."""
    own = {key: key if key in images else strip(key) for key in masks}
    if any(key in images for key in own.values()):
        return named_alike(images, masks, own, root)
    shared, said = shared_name(images, masks)
    if shared:
        lost = {key: path for key, path in masks.items() if path not in shared.values()}
        return Pairs(images, shared, said=said, lost=lost)
    groups = by_class(images, masks)
    first = {key: next(iter(group.values())) for key, group in groups.items()}
    shorter = {} if groups else without_tail(images)
    if shorter:  # images have an ending, too, such as a_sat.jpg beside a_mask.png
        pairs = pair_masks({short: images[key] for short, key in shorter.items()}, masks, root)
        found = {shorter[short]: path for short, path in pairs.masks.items()}
        files = [(images[key].name, path.name) for key, path in found.items()]
        said = f"images and masks have an ending each, as {' and '.join(files[0])}" if files else ""
        return replace(pairs, images=images, masks=found, said=said)
    return Pairs(images, first, groups, lost={} if groups else masks)


def without_tail(keys: Iterable[Key]) -> dict[Key, Key]:
    """Keys by what is left of them without the ending that all have; nothing where they have none in common, or are
    too few to tell."""
    parted = {key: re.fullmatch(r"(.*[^/])([_-][^_/-]+)", key[1]) for key in keys}
    tails = {match[2] if match else "" for match in parted.values()}
    if len(parted) < 2 or len(tails) != 1 or "" in tails:
        return {}
    return {(key[0], match[1]): key for key, match in parted.items() if match}


def named_alike(images: Mapping[Key, Path], masks: Mapping[Key, Path], own: Mapping[Key, Key], root: Path) -> Pairs:
    """Pairs by the key of its image that each mask's key has; unless all masks are files of one class each."""
    lost = {key: path for key, path in masks.items() if own[key] not in images}
    groups = by_class(images, masks) if lost else {}
    if groups:
        return Pairs(images, {key: next(iter(group.values())) for key, group in groups.items()}, groups)
    found: dict[Key, Path] = {}
    faults = {}
    for key in sorted(masks.keys() - lost.keys(), key=lambda key: (key != own[key], key)):
        if own[key] in found:
            message = f"{found[own[key]]} and {masks[key]} are both masks of {images[own[key]]}: remove or rename one"
            faults[masks[key]] = Fault(UNUSABLE, "two masks", label(masks[key], root), message)
        found.setdefault(own[key], masks[key])
    return Pairs(images, found, lost=lost, faults=faults)


def shared_name(images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> tuple[dict[Key, Path], str]:
    """The mask of each image, where masks are called like their images but for one piece that they share, one mask an
    image; and how they are called. Nothing where they are not."""
    known = set(images)
    for told in NAMINGS:
        named = {key: told(key, known) for key in masks}
        fitting = {key: found for key, found in named.items() if found[1] and found[0] in known}
        pieces = {piece.casefold() for _, piece in fitting.values()}
        pairs = {image: masks[key] for key, (image, _) in fitting.items()}
        if len(pieces) == 1 and len(pairs) == len(fitting) and 2 * len(pairs) >= len(masks):
            example = next(iter(fitting))
            said = f"masks are called like their images, with '{fitting[example][1]}' as in {masks[example].name}"
            return pairs, said
    return {}, ""


def by_class(images: Iterable[Key], masks: Mapping[Key, Path]) -> Groups:
    """The files of each class by image, where every mask is called `<class>/<image>`, `<image>/<class>`,
    `<image>_<class>` or `<class>_<image>`, the same way all of them, and images have several; else nothing.

    Raises UserError where files so called hold more than two values: they are no files of one class each.
    """
    known = set(images)
    for told in NAMINGS:
        groups: Groups = {}
        for key, path in masks.items():
            image, name = told(key, known)
            if not name or image not in known or name in groups.get(image, {}):
                break
            groups.setdefault(image, {})[name] = path
        else:
            if any(len(group) > 1 for group in groups.values()):
                check_two_valued(groups)
                return groups
    return {}


def check_two_valued(groups: Groups) -> None:
    """Raise UserError where a file, of a sample, holds more than the two values of one class."""
    paths = [path for group in groups.values() for path in group.values()]
    for path in sampled(paths):
        count = different(path)
        if count > 2:
            names = next(", ".join(group) for group in groups.values() if path in group.values())
            raise UserError(
                f"images have several masks each ({names}), but {path} holds {'many' if count > FEW else count} "
                "values, so they are not one file for each class: leave the mask to learn from there, and move the "
                "others elsewhere"
            )


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
        if key[1][end] in "_-. " and image in known:
            return image, key[1][end + 1 :]
    return key, ""


def class_before(key: Key, known: set[Key]) -> tuple[Key, str]:
    """The longest image name that the file's ends with, from a `_` or `-` on."""
    home, slash, name = key[1].rpartition("/")
    for start in range(1, len(name)):
        image = (key[0], f"{home}{slash}{name[start:]}")
        if name[start - 1] in "_-. " and image in known:
            return image, name[: start - 1]
    return key, ""


NAMINGS: tuple[Naming, ...] = (class_above, class_below, class_behind, class_before)


# --- in one folder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Beside:
    """Masks that lie beside their images. of: the image of each; said: how they are told apart; orphans: what is called
    like a mask, and has no image."""

    of: Mapping[Path, Path] = field(default_factory=dict)
    said: str = ""
    orphans: Sequence[Path] = ()


def partners(files: Sequence[Path]) -> Beside:
    """The masks among files, told by one of the usual endings, else by another suffix, or an ending that they share,
    where they hold what masks do; none where nothing tells them.

    Raises UserError where files of two suffixes are images and masks, and nothing tells which are which.
    """
    usual = with_endings(files)
    if usual:
        orphans = [path for path in files if path not in usual and strip(("", path.stem))[1] != path.stem]
        return Beside(usual, "told by their ending", orphans)
    pairs = two_suffixes(files)
    if pairs:
        masks = side_of_masks(pairs)
        if masks is None:
            raise UserError(
                f"{pairs[0][0]} and {pairs[0][1]} may be an image and its mask, and nothing in them tells which is "
                f"which: put the masks into masks/, and the images into images/ ({len(pairs)} pairs are like it)"
            )
        of = {pair[masks]: pair[1 - masks] for pair in pairs}
        families = {family(path) for path in of}
        orphans = [path for path in files if family(path) in families and path not in of]
        return Beside(of, f"told by their suffix {pairs[0][masks].suffix}", orphans)
    shared, said = shared_ending(files)
    told = bool(shared) and side_of_masks([(image, mask) for mask, image in shared.items()]) == 1
    return Beside(shared, said) if told else Beside()


def family(path: Path) -> str:
    return FAMILIES.get(path.suffix.lower(), path.suffix.lower())


def with_endings(files: Sequence[Path]) -> dict[Path, Path]:
    """The files that are called like another one, with one of the usual endings, and that other one."""
    stems = {path: stem_of(path) for path in files}
    known = {stem: path for path, stem in reversed(stems.items())}
    bare = {path: strip(("", stem))[1] for path, stem in stems.items()}
    found = {path: known[stem] for path, stem in bare.items() if stem in known and stem != stems[path]}
    others = {("", stem): path for path, stem in stems.items() if bare[path] == stem}
    shorter = {short[1]: others[key] for short, key in without_tail(others).items()} if not found else {}
    return found or {path: shorter[stem] for path, stem in bare.items() if stem in shorter and stem != stems[path]}


def stem_of(path: Path) -> str:
    return composed(path.with_suffix("").as_posix())


def two_suffixes(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Files of one name and two suffixes, the same two everywhere, in the order of these; none where not."""
    stems: dict[str, dict[str, Path]] = {}
    for path in files:
        stems.setdefault(stem_of(path), {})[family(path)] = path
    twins = [group for group in stems.values() if len(group) > 1]
    kinds = {tuple(sorted(group)) for group in twins}
    if len(kinds) != 1 or len(next(iter(kinds))) != 2:
        return []
    first, second = next(iter(kinds))
    return [(group[first], group[second]) for group in twins]


def shared_ending(files: Sequence[Path]) -> tuple[dict[Path, Path], str]:
    """The files that are called like another one with an ending that they all share, and that other one."""
    keys = {("", stem_of(path)): path for path in files}
    longer = {key: path for key, path in keys.items() if class_behind(key, set(keys))[1]}
    shared, said = shared_name({key: path for key, path in keys.items() if key not in longer}, longer)
    return {mask: keys[key] for key, mask in shared.items()} if len(shared) > 1 else {}, said


def side_of_masks(pairs: Sequence[tuple[Path, Path]]) -> int | None:
    """Which of two files is the mask in a sample of pairs: it is no JPEG and has few values, and the other one is a
    JPEG, has many values, or colours where the mask has none. None where that is so of neither."""
    sides = [[pair[side] for pair in sampled(pairs)] for side in (0, 1)]
    jpeg = [all(family(path) == ".jpg" for path in side) for side in sides]
    few = [all(different(path) <= FEW for path in side) for side in sides]
    single = [all(one_channel(path) for path in side) for side in sides]
    for masks in (0, 1):
        if (
            not jpeg[masks]
            and few[masks]
            and (jpeg[1 - masks] or not few[1 - masks] or single[masks] > single[1 - masks])
        ):
            return masks
    return None


# --- what files hold ------------------------------------------------------------------------------------------------


def sampled(things: Sequence[Thing]) -> Sequence[Thing]:
    """At most `SAMPLED` of them, from all over."""
    return things[:: -(-len(things) // SAMPLED) or 1]


def different(path: Path) -> int:
    """How many different values or colours a file holds, at most FEW + 1; 0 for one that cannot be read, or a JPEG in
    which values are smeared: reading says so."""
    try:
        with open_with_pillow(path) as image:
            if image.format == "JPEG":
                return 0
            if image.mode in ("F", "I", "I;16", "I;16B", "I;16L"):
                return min(len(np.unique(np.array(image))), FEW + 1)
            counted = image.getcolors(FEW)
            return FEW + 1 if counted is None else len(counted)
    except UserError:
        return 0


def one_channel(path: Path) -> bool:
    """Whether a file holds one value a pixel; one that cannot be read does not."""
    try:
        with open_with_pillow(path) as image:
            return len(image.getbands()) == 1
    except UserError:
        return False
