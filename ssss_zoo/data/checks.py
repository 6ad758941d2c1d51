"""The faults of a sample: one record and one set of rules for the check before a run and for `ssss data check`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssss_zoo.data.base import UNUSABLE, Dataset, Fault
from ssss_zoo.data.fingerprint import file_digest
from ssss_zoo.data.images import SIDEWAYS, read_header
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

READER_THREADS = 8
CHUNK = 64  # samples; the check before a run stops after the first chunk with a fault
VALUES_SHOWN = 5  # values named in a message
NO_PIXELS = np.zeros(IGNORE + 1, np.int64)
NO_PIXELS.setflags(write=False)


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """The result of checking one sample.

    counts: (256,) pixels of each class id, void at 255; zeros without a mask. fault: why a run cannot use the sample,
    None where it can.
    """

    counts: np.ndarray
    fault: Fault | None = None

    @property
    def ids(self) -> set[int]:
        """The class ids in the mask, void left out."""
        return set(np.flatnonzero(self.counts[:IGNORE]).tolist())


# --- one sample -----------------------------------------------------------------------------------------------------


def unreadable(sample: Sample, error: UserError) -> Fault:
    """The fault of a sample whose image or mask cannot be read."""
    return Fault(UNUSABLE, "unreadable", sample.name, str(error))


def check_mask(dataset: Dataset, sample: Sample, image_size: tuple[int, int]) -> SampleCheck:
    """Read the mask of a sample, count its values and compare its size with the image's, (H, W)."""
    try:
        mask = dataset.read_mask(sample)
    except UserError as error:
        return SampleCheck(NO_PIXELS, unreadable(sample, error))
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    if mask.shape != image_size:
        message = describe_size_mismatch(dataset, sample, (mask.shape[0], mask.shape[1]), image_size)
        return SampleCheck(counts, Fault(UNUSABLE, "size", sample.name, message))
    values = describe_wrong_values(counts, len(dataset.class_names))
    if values:
        return SampleCheck(counts, Fault(UNUSABLE, "value", sample.name, f"mask {sample.mask} {values}"))
    return SampleCheck(counts)


def describe_size_mismatch(dataset: Dataset, sample: Sample, mask: tuple[int, int], image: tuple[int, int]) -> str:
    """The sizes (H, W) of a mask and its image, which differ, and what to do about it."""
    sizes = f"mask {sample.mask} is {mask[1]}x{mask[0]}, its image {image[1]}x{image[0]}"
    message = f"{sizes}: they must match pixel for pixel"
    tags = {"image": exif_tag(sample.image), "mask": exif_tag(sample.mask)}
    turned = [f"the {file} has EXIF's tag {tag}, a quarter turn" for file, tag in tags.items() if tag in SIDEWAYS]
    if mask == image[::-1] and turned:
        setting = "false, which ignores the tags" if dataset.obeys_exif else "true, which applies them"
        return f"{message}; {turned[0]}: of dataset=folder give data.exif={setting}"
    if same_aspect(mask, image):
        return (
            f"{message}; of dataset=folder data.resize_masks=true resizes masks of the same aspect (nearest neighbour)"
        )
    return f"{message}; even their aspect ratios differ: make the mask again from this image"


def exif_tag(path: Path) -> int:
    """The EXIF orientation of a file; 1, which is upright, where the file is no readable image."""
    try:
        return read_header(path, sys.maxsize).orientation
    except UserError:
        return 1


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size (H, W) is a multiple of the other, up to a pixel of rounding in the smaller one."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def describe_wrong_values(counts: np.ndarray, classes: int) -> str:
    """Which values of a mask, (256,) pixels by value, are neither one of the `classes` ids nor void; empty for none."""
    wrong = np.flatnonzero(counts[classes:IGNORE]) + classes
    if not wrong.size:
        return ""
    values = ", ".join(f"{value} ({counts[value]:,} pixels)" for value in wrong[:VALUES_SHOWN])
    more = f" and {wrong.size - VALUES_SHOWN} more values" if wrong.size > VALUES_SHOWN else ""
    return f"holds {values}{more}; ids are 0 to {classes - 1}, void is {IGNORE}"


# --- many samples ---------------------------------------------------------------------------------------------------


def total_counts(checks: Iterable[SampleCheck]) -> np.ndarray:
    """(256,) pixels of each class id in all masks together."""
    return np.sum([NO_PIXELS, *(check.counts for check in checks)], axis=0)


def suggest_value_fix(counts: np.ndarray, classes: int) -> str:
    """A guess what masks with these values, (256,) pixels by value, are and how to fix them: the end of a message."""
    present = np.flatnonzero(counts[:IGNORE])
    if present[0] > 0 and present[-1] == classes:
        return "; the ids seem to start at 1: subtract 1, or of dataset=folder write 'VALUE: name' in classes.txt"
    if present[-1] >= 2 * classes:
        return "; these look like grey levels: write class ids, or of dataset=folder 'VALUE: name' in classes.txt"
    return "; correct the masks or name the missing classes"


def useless_masks(dataset: Dataset, counts: np.ndarray, part: str, masks: str) -> Fault | None:
    """The fault of a part of the data set whose masks leave nothing to learn or to measure; None where there is none.

    counts: (256,) pixels by class id in all of its masks. masks: what a message calls them.
    """
    present = set(np.flatnonzero(counts).tolist())
    if present == {0, IGNORE} and masks_hold_ids(dataset):
        message = (
            f"only 0 and {IGNORE} in {masks}: looks like 0/255 masks, but {IGNORE} is void: "
            f"write 1 for the object and keep {IGNORE} for pixels to ignore (of dataset=folder: data.encoding=values)"
        )
        return Fault(UNUSABLE, "binary", part, message)
    if present == {IGNORE}:
        return Fault(UNUSABLE, "void", part, f"nothing but void ({IGNORE}) in {masks}: there is nothing to learn from")
    return None


def masks_hold_ids(dataset: Dataset) -> bool:
    """Whether the values in the mask files are the class ids, so that a stored 255 is void."""
    return getattr(getattr(dataset, "encoding", None), "kind", "ids") == "ids"


# --- the check before a run -----------------------------------------------------------------------------------------


def check_pairs(dataset: Dataset) -> list[str]:
    """Check every labelled and validation pair (sizes, mask values), and the header of every unlabelled image.

    Returns notes: the warnings of opening, the classes without a labelled pixel, and validation images that are trained
    on. Raises UserError, in one line, for the first fault, with the number of files like it; faults of opening come
    first. It stops soon after a fault; `ssss data check` finds all of them.
    """
    unusable = [fault for fault in dataset.faults if fault.level == UNUSABLE]
    if unusable:
        first = unusable[0]
        alike = sum(fault.kind == first.kind for fault in unusable)
        raise UserError(f"{first.message}{f' ({alike} files have this fault)' if alike > 1 else ''}")
    labelled = check_part(dataset, dataset.labelled, "labelled")
    if dataset.val:
        check_part(dataset, dataset.val, "validation")
    known = {sample.image for sample in dataset.labelled}
    check_samples(dataset, [sample for sample in dataset.unlabelled if sample.image not in known], check_image)
    missing = [name for name, pixels in zip(dataset.class_names, labelled, strict=False) if pixels == 0]
    return [
        *([f"no labelled pixel of {', '.join(missing)}"] if missing else []),
        *(fault.message for fault in dataset.faults),
        *describe_leaks(dataset.val, [*dataset.labelled, *dataset.unlabelled]),
    ]


def check_part(dataset: Dataset, samples: Sequence[Sample], part: str) -> np.ndarray:
    """Check the image and the mask of every sample; returns (256,) pixels by class id. Raises UserError for a fault."""
    if not samples:
        raise UserError(f"no {part} image: at least one is needed")
    counts = total_counts(check_samples(dataset, samples, check_image_and_mask))
    fault = useless_masks(dataset, counts, part, f"all {len(samples)} {part} masks, such as {samples[0].mask}")
    if fault:
        raise UserError(fault.message)
    return counts


CheckFunction = Callable[[Dataset, Sample], SampleCheck]


def check_samples(dataset: Dataset, samples: Sequence[Sample], check: CheckFunction) -> list[SampleCheck]:
    """`check` every sample, in threads. Raises UserError after the first chunk with a fault."""
    checks: list[SampleCheck] = []
    with ThreadPoolExecutor(READER_THREADS) as pool:
        for start in range(0, len(samples), CHUNK):
            checks += pool.map(lambda sample: check(dataset, sample), samples[start : start + CHUNK])
            faults = [one.fault for one in checks[start:] if one.fault]
            if faults:
                raise UserError(describe_first_fault(faults, checks, len(dataset.class_names)))
    return checks


def check_image(dataset: Dataset, sample: Sample) -> SampleCheck:
    """Check the header of an image."""
    try:
        dataset.image_size(sample)
    except UserError as error:
        return SampleCheck(NO_PIXELS, unreadable(sample, error))
    return SampleCheck(NO_PIXELS)


def check_image_and_mask(dataset: Dataset, sample: Sample) -> SampleCheck:
    """Check the header of an image, and its mask."""
    try:
        size = dataset.image_size(sample)
    except UserError as error:
        return SampleCheck(NO_PIXELS, unreadable(sample, error))
    return check_mask(dataset, sample, size)


def describe_first_fault(faults: Sequence[Fault], checks: Sequence[SampleCheck], classes: int) -> str:
    """The first fault in one line, with a suggestion, and how many of the files checked so far are like it."""
    first = faults[0]
    kinds = Counter(fault.kind for fault in faults)
    hint = suggest_value_fix(total_counts(checks), classes) if first.kind == "value" else ""
    return f"{first.message}{hint} ({kinds[first.kind]} of {len(checks)} checked files have this fault)"


def describe_leaks(val: Sequence[Sample], others: Sequence[Sample]) -> list[str]:
    """A note on validation images that are also trained on: the same file, or one with the same bytes. Only files of
    equal size are read."""
    sizes = {sample.image.stat().st_size for sample in val}
    trained_on = {
        file_digest(str(sample.image), whole=True): sample for sample in others if sample.image.stat().st_size in sizes
    }
    if not trained_on:
        return []
    digests = [file_digest(str(sample.image), whole=True) for sample in val]
    leaked = [(sample, trained_on[key]) for sample, key in zip(val, digests, strict=True) if key in trained_on]
    if not leaked:
        return []
    first, twin = leaked[0]
    note = f"{len(leaked)} validation images are also used for training: {first.name}, as {twin.name}"
    return [f"{note}; the validation score will be too high (`ssss data check` lists them all)"]
