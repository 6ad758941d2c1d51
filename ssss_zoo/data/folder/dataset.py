"""Your own images, in the layouts and with the masks that people have, without a line of code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.base import WARNING, Fault
from ssss_zoo.data.checks import same_aspect
from ssss_zoo.data.classes import CLASS_LIST_NAMES
from ssss_zoo.data.files import FileDataset, read_mask, resize_mask
from ssss_zoo.data.folder.class_detection import detect_classes
from ssss_zoo.data.folder.file_tree import (
    WARNED_REMEDIES,
    FileStatus,
    pluralize,
    relative_name,
    status_of_files,
    summarize_files,
)
from ssss_zoo.data.folder.folder_lists import FolderLists, find_folder_lists
from ssss_zoo.data.folder.part_names import TEST
from ssss_zoo.data.folder.scan import ScanResult, scan_folder
from ssss_zoo.data.folder.selection import select_samples
from ssss_zoo.data.images import Reading, image_size
from ssss_zoo.data.mask_values import upright_size
from ssss_zoo.data.split_lists import LIST_SUFFIXES, SplitLists, find_root, first_existing
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig
    from ssss_zoo.data.folder.mask_encoding import MaskEncoding
    from ssss_zoo.data.folder.regions import RegionEncoding


class Folder(FileDataset):
    """A folder of the user: `images/` and `masks/`, paired by name without suffix. Images without a mask, and all of
    `unlabelled/`, are unlabelled.

    `layout` has the other layouts (`train/` and `val/` inside or above, masks beside their images); `class_detection`
    says what masks may hold (ids, other values, colours, regions) and what `classes.txt` may say. Without a val part a
    fixed fifth of the labelled images validates. `splits/` may hold lists as in `split_lists`.

    data.split: `all`; a share `1/4` or a number of the pairs (the same ones whenever asked, the smaller within the
    larger; the rest is unlabelled); a split of `splits/`; or the path of a labelled list (also .csv) or of a folder
    with the lists of a split. `notes` says how the folder was read. Raises UserError for what cannot be used.
    """

    source: ClassVar[str] = "your own images in data.root: images/, masks/, unlabelled/, classes.txt"
    config_keys: ClassVar[tuple[str, ...]] = (
        *("root", "split", "cache", "hold_out", "changed", "layout", "images", "masks", "parts", "unlabelled"),
        *("encoding", "ignore", "snap", "resize_masks", "channels", "low", "high", "nodata", "exif", "max_pixels"),
    )

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "folder", "images/, masks/ and unlabelled/")
        scanned = scan_folder(root, data)
        folder_lists = find_folder_lists(scanned, data.split)
        selection = select_samples(scanned, folder_lists.parts, data.split)
        self.base_reading = Reading(bands=tuple(data.channels), exif=data.exif, max_pixels=data.max_pixels)
        self.use_lists(selection.lists)
        samples = {sample.image: sample for sample in (*self.labelled, *self.unlabelled, *self.val)}.values()
        self.index_masks = folder_lists.index_masks
        self.val_held_out = selection.val_held_out
        masked = [sample for sample in samples if sample.mask and not self.has_index_mask(sample)]
        self.resize_masks = data.resize_masks
        classes = detect_classes(data, root, masked, scanned.regions)
        self.class_file = first_existing(root, CLASS_LIST_NAMES)
        self.class_names, self.colours, self.encoding = classes.names, classes.colours, classes.encoding
        statuses = account_for_files(scanned, folder_lists, selection.lists, self.mask_files)
        self.file_roles = {relative_name(path, root): str(status) for path, status in statuses.items()}
        self.faults = [*scanned.faults, *warn_of_left_out(statuses, folder_lists, root), *classes.faults]
        self.notes = [
            f"{len(self.labelled)} labelled, {len(self.val)} {selection.val_origin}, {len(self.unlabelled)} "
            f"unlabelled, {len(self.class_names)} classes from {classes.origin}",
            f"layout {scanned.layout}: {scanned.description}; {self.encoding.describe(self.class_names)}",
            *self.notes,
            *classes.notes,
            *(f"{relative_name(path, root)} is not used: {why}" for path, why in folder_lists.unused.items()),
            summarize_files(statuses, root),
        ]
        if data.resize_masks:
            count = sum(is_resized(self.encoding, sample, self.base_reading) for sample in masked)
            self.notes.append(f"{count} of {len(masked)} masks are resized to their images' size (nearest neighbour)")
        if selection.lists.unlabelled is selection.lists.labelled:
            self.notes.append("no unlabelled image found: the labelled ones are used as unlabelled, too")
        if scanned.ignored:
            self.notes.append(f"{len(scanned.ignored)} images of the test part are not used")

    def read_mask(self, sample: Sample) -> np.ndarray:
        if sample.mask is None:
            raise UserError(f"{sample.name} has no mask")
        mask = read_mask(sample.mask) if self.has_index_mask(sample) else self.encoding.read(sample)
        if self.resize_masks:
            mask = resize_mask(mask, image_size(sample.image, self.reading))
        return self.void_missing_data(mask, sample)

    def mask_files(self, sample: Sample) -> list[Path]:
        return [sample.mask] if self.has_index_mask(sample) else self.encoding.files(sample)

    def has_index_mask(self, sample: Sample) -> bool:
        """Whether a mask belongs to a split that has masks of its own, and so holds class ids."""
        return self.index_masks is not None and sample.mask is not None and sample.mask.is_relative_to(self.index_masks)


def is_resized(encoding: MaskEncoding | RegionEncoding, sample: Sample, reading: Reading) -> bool:
    """Whether a mask has another size than its image, and the same aspect; false for a file that cannot be read."""
    try:
        mask = encoding.size(sample)
        image = upright_size(sample.image, reading)
    except UserError:
        return False
    return mask != image and same_aspect(mask, image)


# --- the use of every file ------------------------------------------------------------------------------------------


def account_for_files(
    scanned: ScanResult,
    folder_lists: FolderLists,
    lists: SplitLists,
    mask_files: Callable[[Sample], Sequence[Path]],
) -> dict[Path, FileStatus]:
    """The use of every file below the root. mask_files: the files of a sample's mask."""
    root = scanned.root
    listed_test = folder_lists.parts[TEST].samples if TEST in folder_lists.parts else []
    unlisted = FileStatus(reason="image that no list names")
    unlisted_mask = FileStatus(reason="mask of an image that no list names")
    test = FileStatus(reason="image of the test part")
    test_mask = FileStatus(reason="mask of the test part")
    groups = (
        (FileStatus("validation image"), FileStatus("mask"), lists.val),
        (FileStatus("labelled image"), FileStatus("mask"), lists.labelled),
        (FileStatus("unlabelled image"), FileStatus("mask"), lists.unlabelled),
        (test, test_mask, [*scanned.ignored, *listed_test]),
        (unlisted, unlisted_mask, [*scanned.pairs, *scanned.val, *scanned.unmasked]),
    )
    used: dict[Path, FileStatus] = {}
    for image_status, mask_status, samples in groups:
        for sample in samples:
            used.setdefault(sample.image, image_status)
            for path in mask_files(sample) if sample.mask else []:
                is_annotation = mask_status.read_as and path.suffix.lower() == ".json"
                used.setdefault(path, FileStatus("file of annotations") if is_annotation else mask_status)
    split_files = [path for path in scanned.tree.files_in(root / "splits") if path.suffix.lower() in LIST_SUFFIXES]
    unused_lists = dict.fromkeys([*split_files, *folder_lists.unused], FileStatus(reason="unused list"))
    used_lists = {part.path: FileStatus("list") for part in folder_lists.parts.values()}
    class_file = first_existing(root, CLASS_LIST_NAMES)
    class_lists = {class_file: FileStatus("class list")} if class_file else {}
    return status_of_files(scanned.trees, {**used, **unused_lists, **used_lists, **class_lists, **scanned.refused})


def warn_of_left_out(statuses: Mapping[Path, FileStatus], folder_lists: FolderLists, root: Path) -> list[Fault]:
    """A warning for each kind of file that may be meant to be read, and for each list that is not used."""
    kinds: dict[FileStatus, list[Path]] = {}
    for path, status in statuses.items():
        if status.remedy in WARNED_REMEDIES:
            kinds.setdefault(status, []).append(path)
    faults = []
    for status, paths in kinds.items():
        example = relative_name(paths[0], root)
        message = f"{pluralize(len(paths), status.reason)} left out, such as {example}: {status.remedy}"
        faults.append(Fault(WARNING, "left out", example, message))
    for path, why in folder_lists.unused.items():
        name = relative_name(path, root)
        faults.append(Fault(WARNING, "list", name, f"{name} is not used: {why}"))
    return faults
