"""A mask as an array, a data set of files, and a look at all of them before the first step."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.base import UNUSABLE, Dataset
from ssss_zoo.data.images import SIDEWAYS, Reading, image_size, read_header, read_image, read_valid
from ssss_zoo.data.mask_values import DEFAULT_READING, VOID_VALUE, read_mask_values, suggest_ignore
from ssss_zoo.data.split_lists import SplitLists
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

READER_THREADS, CHUNK = 8, 64  # of the check; it stops after the first chunk with something wrong
VALUES_SHOWN = 5  # values named in a message


# --- one mask -------------------------------------------------------------------------------------------------------


def read_mask(path: Path, ignored: Sequence[float] = (), reading: Reading = DEFAULT_READING) -> np.ndarray:
    """(H, W) uint8 as stored: palette indices, greys and other whole numbers (one channel, or three that are equal) are
    class ids; 255 is void, and so is what is `ignored`. reading: `exif` and `max_pixels` of it count.

    Raises UserError, naming the file, for what cannot hold ids: colours, JPEG, values below 0 or above 255.
    """
    values = read_mask_values(path, ignored, reading, colours=False, lossy=False)
    if values.dtype == np.uint8 and not ignored:
        return values
    ids = np.where(np.isin(values, [VOID_VALUE, *ignored]), IGNORE, values)
    beyond = ids[(ids < 0) | (ids > IGNORE)]
    if beyond.size:
        worst = int(beyond.max() if beyond.max() > IGNORE else beyond.min())
        raise UserError(
            f"mask {path} holds value {worst}, {beyond.size:,} pixels have such; ids are 0 to 254"
            f"{suggest_ignore([worst])}, and data.encoding=values makes a class of each value"
        )
    return ids.astype(np.uint8)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) resized to (H, W) of `size`, nearest neighbour, where the aspect is the same; else as it is."""
    if mask.shape == size or not same_aspect((mask.shape[0], mask.shape[1]), size):
        return mask
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


# --- a data set of files --------------------------------------------------------------------------------------------


class FileDataset(Dataset):
    """A data set whose samples are files: `Sample.image` a Path, `Sample.mask` a Path or None."""

    settled: Reading = Reading()  # what the configuration and the files say of reading images, see `statistics.settle`

    @property
    def reading(self) -> Reading:
        """How image files become arrays; the run sets `channels`."""
        return replace(self.settled, channels=self.channels)

    def read_image(self, sample: Sample) -> np.ndarray:
        return read_image(sample.image, self.reading)

    def read_mask(self, sample: Sample) -> np.ndarray:
        if sample.mask is None:
            raise UserError(f"{sample.name} has no mask")
        return read_mask(sample.mask)

    def read_valid(self, sample: Sample) -> np.ndarray | None:
        return read_valid(sample.image, self.reading)

    def voided(self, mask: np.ndarray, sample: Sample) -> np.ndarray:
        """A mask (H, W), void where its image has no data: nothing can be learnt there, nor measured."""
        valid = self.read_valid(sample)
        if valid is None or valid.shape != mask.shape:
            return mask
        return np.where(valid, mask, np.uint8(IGNORE))

    def take(self, lists: SplitLists) -> None:
        """Train and validate on these."""
        self.labelled, self.unlabelled, self.val, self.list_files = (
            lists.labelled, lists.unlabelled, lists.val, lists.files,
        )  # fmt: skip
        self.notes = [*self.notes, *lists.notes]

    def areas(self, samples: Sequence[Sample]) -> list[int]:
        with ThreadPoolExecutor(READER_THREADS) as pool:
            return list(pool.map(self.area, samples))

    def area(self, sample: Sample) -> int:
        try:
            height, width = image_size(sample.image, self.reading)
        except UserError:
            return 1  # whoever reads it says what is wrong with it
        return height * width

    def check(self) -> None:
        check_pairs(self)


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """What a look at one sample gave: pixels of each value (256,), zeros without a mask; what is wrong, if anything.
    kind: problems of one kind are counted together."""

    counts: np.ndarray
    kind: str = ""
    problem: str = ""


NO_PIXELS = np.zeros(IGNORE + 1, np.int64)


def check_pairs(dataset: FileDataset) -> None:
    """Look at every labelled and validation pair (sizes, mask values), and at the header of every unlabelled image.

    Raises UserError, in one line, at the first problem (those of opening come before), with the number of files like
    it; stops soon after. Adds to `dataset.notes` the warnings of opening, the classes that no labelled pixel shows, and
    validation images that are trained on. `ssss data check` looks closer.
    """
    unusable = [fault for fault in dataset.faults if fault.level == UNUSABLE]
    if unusable:
        first = unusable[0]
        alike = sum(fault.kind == first.kind for fault in unusable)
        raise UserError(f"{first.message}{f' ({alike} are like it)' if alike > 1 else ''}")
    labelled = total_counts(check_samples(dataset, dataset.labelled, check_image_and_mask))
    check_mask_content(labelled, dataset, dataset.labelled, "labelled")
    if dataset.val:
        check_mask_content(
            total_counts(check_samples(dataset, dataset.val, check_image_and_mask)), dataset, dataset.val, "validation"
        )
    known = {sample.image for sample in dataset.labelled}
    check_samples(dataset, [sample for sample in dataset.unlabelled if sample.image not in known], check_image)
    missing = [name for name, pixels in zip(dataset.class_names, labelled, strict=False) if pixels == 0]
    notes = [f"no labelled pixel of {', '.join(missing)}"] if missing else []
    notes += [fault.message for fault in dataset.faults]
    notes += describe_leaks(dataset.val, [*dataset.labelled, *dataset.unlabelled])
    dataset.notes = [*dataset.notes, *(note for note in notes if note not in dataset.notes)]


def describe_leaks(val: Sequence[Sample], others: Sequence[Sample]) -> list[str]:
    """A note on validation images whose file is also trained on: the same one, or the same bytes in another. Bytes are
    read where sizes are equal."""
    sizes = Counter(sample.image.stat().st_size for sample in val)
    twins = [sample for sample in others if sample.image.stat().st_size in sizes]
    if not twins:
        return []
    known = {digest(sample.image): sample for sample in twins}
    both = [(sample, known[key]) for sample in val for key in [digest(sample.image)] if key in known]
    if not both:
        return []
    first, twin = both[0]
    told = f"{len(both)} validation images are trained on, too: {first.name}, as {twin.name}"
    return [f"{told}; the score flatters (`ssss data check` names them all)"]


def digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


Look = Callable[[FileDataset, Sample], SampleCheck]


def check_samples(dataset: FileDataset, samples: Sequence[Sample], look: Look) -> list[SampleCheck]:
    """`look` at every sample, in threads; UserError after the first chunk that holds a problem."""
    findings: list[SampleCheck] = []
    with ThreadPoolExecutor(READER_THREADS) as pool:
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            findings += pool.map(lambda sample: look(dataset, sample), chunk)
            if any(finding.problem for finding in findings[start:]):
                raise UserError(first_fault(findings, len(dataset.class_names)))
    return findings


def check_image(dataset: FileDataset, sample: Sample) -> SampleCheck:
    try:
        image_size(sample.image, dataset.reading)
    except UserError as error:
        return SampleCheck(NO_PIXELS, "unreadable", str(error))
    return SampleCheck(NO_PIXELS)


def check_image_and_mask(dataset: FileDataset, sample: Sample) -> SampleCheck:
    """What is wrong with a pair, its mask's values counted."""
    try:
        size = image_size(sample.image, dataset.reading)
        mask = dataset.read_mask(sample)
    except UserError as error:
        return SampleCheck(NO_PIXELS, "unreadable", str(error))
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    if mask.shape != size:
        return SampleCheck(
            counts, "size", describe_size_mismatch(dataset, sample, (mask.shape[0], mask.shape[1]), size)
        )
    values = describe_wrong_values(counts, len(dataset.class_names))
    return SampleCheck(counts, "value", f"mask {sample.mask} {values}") if values else SampleCheck(counts)


def describe_size_mismatch(dataset: Dataset, sample: Sample, mask: tuple[int, int], image: tuple[int, int]) -> str:
    """What is wrong with a mask and an image of these sizes (H, W), which differ, and what to do."""
    sizes = f"mask {sample.mask} is {mask[1]}x{mask[0]}, its image {image[1]}x{image[0]}"
    told = f"{sizes}: they must match pixel for pixel"
    tags = {"image": exif_tag(sample.image), "mask": exif_tag(sample.mask)}
    turned = [f"the {what} has EXIF's tag {tag}, a quarter turn" for what, tag in tags.items() if tag in SIDEWAYS]
    if mask == image[::-1] and turned:
        obeyed = not isinstance(dataset, FileDataset) or dataset.reading.exif
        what = "false, which obeys no tag" if obeyed else "true, which obeys it"
        return f"{told}; {turned[0]}: of dataset=folder give data.exif={what}"
    if same_aspect(mask, image):
        return f"{told}; of dataset=folder data.resize_masks=true resizes masks of the same aspect (nearest neighbour)"
    return f"{told}; even their aspects differ: make the mask again from this very image"


def exif_tag(path: Path) -> int:
    """Which way a file says that it is to be turned; 1, which is upright, where it is no image that can be read."""
    try:
        return read_header(path, sys.maxsize).orientation
    except UserError:
        return 1


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size (H, W) is the other times a number, to a pixel of rounding of the smaller one."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def describe_wrong_values(counts: np.ndarray, classes: int) -> str:
    """What is wrong with a mask of these values (256,) where ids go up to `classes` - 1; empty when nothing is."""
    wrong = np.flatnonzero(counts[classes:IGNORE]) + classes
    if not wrong.size:
        return ""
    values = ", ".join(f"{value} ({counts[value]:,} pixels)" for value in wrong[:VALUES_SHOWN])
    more = f" and {wrong.size - VALUES_SHOWN} more values" if wrong.size > VALUES_SHOWN else ""
    return f"holds {values}{more}; ids are 0 to {classes - 1}, void is {IGNORE}"


def total_counts(findings: Sequence[SampleCheck]) -> np.ndarray:
    """Pixels of each value over all, (256,)."""
    return np.sum([NO_PIXELS, *(finding.counts for finding in findings)], axis=0)


def first_fault(findings: Sequence[SampleCheck], classes: int) -> str:
    """The first problem in one line: hint, and how many of the files seen so far are like it."""
    first = next(finding for finding in findings if finding.problem)
    alike = Counter(finding.kind for finding in findings)[first.kind]
    hint = suggest_value_fix(total_counts(findings), classes) if first.kind == "value" else ""
    return f"{first.problem}{hint} ({alike} of {len(findings)} files looked at are like it)"


def suggest_value_fix(counts: np.ndarray, classes: int) -> str:
    """What masks with these values (256,) probably are, given that `classes` were declared."""
    present = np.flatnonzero(counts[:IGNORE])
    if present[0] > 0 and present[-1] == classes:
        return "; the ids seem to start at 1: subtract 1, or of dataset=folder write 'VALUE: name' in classes.txt"
    if present[-1] >= 2 * classes:
        return "; these look like grey levels: write class ids, or of dataset=folder 'VALUE: name' in classes.txt"
    return "; correct the masks or name the missing classes"


def check_mask_content(counts: np.ndarray, dataset: Dataset, samples: Sequence[Sample], part: str) -> None:
    """Raise UserError when the masks of a part, (256,) pixels by value in all, leave nothing to learn or measure."""
    if not samples:
        raise UserError(f"no {part} image: at least one is needed")
    present = set(np.flatnonzero(counts).tolist())
    where = f"{len(samples)} {part} masks, such as {samples[0].mask}"
    if present == {0, IGNORE} and masks_hold_ids(dataset):
        raise UserError(
            f"only 0 and {IGNORE} in all {where}: looks like 0/255 masks, but {IGNORE} is void: "
            f"write 1 for the object and keep {IGNORE} for pixels to ignore (of dataset=folder: data.encoding=values)"
        )
    if present <= {IGNORE}:
        raise UserError(f"nothing but void ({IGNORE}) in all {where}: there is nothing to learn from")


def masks_hold_ids(dataset: Dataset) -> bool:
    """Whether a mask's own values are its ids, so that 255 in a file is void by itself."""
    return getattr(getattr(dataset, "encoding", None), "kind", "ids") == "ids"
