"""A mask as an array, a data set of files, and a look at all of them before the first step."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssss_zoo.data.base import UNUSABLE, Dataset
from ssss_zoo.data.decoding import DEEP, decoded
from ssss_zoo.data.images import Reading, image_size, opened, read_image, read_valid
from ssss_zoo.data.lists import Lists
from ssss_zoo.errors import UserError
from ssss_zoo.records import IGNORE, Sample

COLOURED = ("RGB", "RGBA")  # modes of masks in colour, or in grey three times over; transparency says nothing
THREADS, CHUNK = 8, 64  # of the check; it stops after the first chunk with something wrong
SHOWN = 5  # values named in a message


# --- one mask -------------------------------------------------------------------------------------------------------


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 as stored: palette indices and greys (one channel, or three that are equal) are class ids, 255 is
    void.

    Raises UserError, naming the file, for what cannot hold ids: colours, JPEG, values above 255.
    """
    with opened(path) as image:
        mode, lossy = image.mode, image.format == "JPEG"
        array = decoded(image, path)[..., 0] if mode == "L" else np.array(image)
    if lossy:
        raise UserError(
            f"mask {path} is a JPEG, which smears class ids (it holds {len(np.unique(array))} values); save masks as "
            "PNG, or of dataset=folder name the classes and give data.snap=true"
        )
    grey = grey_codes(array) if mode in COLOURED else None
    if grey is not None:
        return grey
    if mode == "F" or mode not in (*DEEP, "1", "L", "P"):
        raise UserError(
            f"mask {path} is not one channel of ids (mode {mode}): colour masks are not class ids; "
            "write the id of its class into each pixel of an 8-bit single-channel PNG"
        )
    low, high = (array.min(), array.max()) if mode in DEEP else (0, 0)
    if low < 0 or high > IGNORE:
        raise UserError(f"mask {path} ({DEEP[mode]}) holds value {high if high > IGNORE else low}; ids are 0 to 254")
    return array.astype(np.uint8)


def grey_codes(colours: np.ndarray) -> np.ndarray | None:
    """(H, W, 3 or 4) to (H, W) where red, green and blue are equal everywhere, else None."""
    red, green, blue = (colours[..., channel] for channel in range(3))
    return red if np.array_equal(red, green) and np.array_equal(red, blue) else None


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

    def take(self, lists: Lists) -> None:
        """Train and validate on these."""
        self.labelled, self.unlabelled, self.val, self.list_files = (
            lists.labelled, lists.unlabelled, lists.val, lists.files,
        )  # fmt: skip
        self.notes = [*self.notes, *lists.notes]

    def check(self) -> None:
        check_pairs(self)


@dataclass(frozen=True, eq=False)
class Finding:
    """What a look at one sample gave: pixels of each value (256,), zeros without a mask; what is wrong, if anything.
    kind: problems of one kind are counted together."""

    counts: np.ndarray
    kind: str = ""
    problem: str = ""


NOTHING = np.zeros(IGNORE + 1, np.int64)


def check_pairs(dataset: FileDataset) -> None:
    """Look at every labelled and validation pair (sizes, mask values), and at the header of every unlabelled image.

    Raises UserError, in one line, at the first problem (those of opening come before), with the number of files like
    it; stops soon after. Adds to `dataset.notes` the classes that no labelled pixel shows, and validation images that
    are trained on. `ssss data check` looks closer.
    """
    unusable = [fault for fault in dataset.faults if fault.level == UNUSABLE]
    if unusable:
        first = unusable[0]
        alike = sum(fault.kind == first.kind for fault in unusable)
        raise UserError(f"{first.message}{f' ({alike} are like it)' if alike > 1 else ''}")
    labelled = total(inspect(dataset, dataset.labelled, look_at_pair))
    check_content(labelled, dataset.labelled, "labelled")
    if dataset.val:
        check_content(total(inspect(dataset, dataset.val, look_at_pair)), dataset.val, "validation")
    known = {sample.image for sample in dataset.labelled}
    inspect(dataset, [sample for sample in dataset.unlabelled if sample.image not in known], look_at_image)
    missing = [name for name, pixels in zip(dataset.class_names, labelled, strict=False) if pixels == 0]
    notes = [f"no labelled pixel of {', '.join(missing)}"] if missing else []
    notes += [fault.message for fault in dataset.faults]
    notes += leaks(dataset.val, [*dataset.labelled, *dataset.unlabelled])
    dataset.notes = [*dataset.notes, *(note for note in notes if note not in dataset.notes)]


def leaks(val: Sequence[Sample], others: Sequence[Sample]) -> list[str]:
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


Look = Callable[[FileDataset, Sample], Finding]


def inspect(dataset: FileDataset, samples: Sequence[Sample], look: Look) -> list[Finding]:
    """`look` at every sample, in threads; UserError after the first chunk that holds a problem."""
    findings: list[Finding] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            findings += pool.map(lambda sample: look(dataset, sample), chunk)
            if any(finding.problem for finding in findings[start:]):
                raise UserError(complaint(findings, len(dataset.class_names)))
    return findings


def look_at_image(dataset: FileDataset, sample: Sample) -> Finding:
    try:
        image_size(sample.image, dataset.reading)
    except UserError as error:
        return Finding(NOTHING, "unreadable", str(error))
    return Finding(NOTHING)


def look_at_pair(dataset: FileDataset, sample: Sample) -> Finding:
    """What is wrong with a pair, its mask's values counted."""
    try:
        size = image_size(sample.image, dataset.reading)
        mask = dataset.read_mask(sample)
    except UserError as error:
        return Finding(NOTHING, "unreadable", str(error))
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    if mask.shape != size:
        sizes = f"mask {sample.mask} is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}"
        return Finding(counts, "size", f"{sizes}: they must match pixel for pixel")
    values = value_problem(counts, len(dataset.class_names))
    return Finding(counts, "value", f"mask {sample.mask} {values}") if values else Finding(counts)


def value_problem(counts: np.ndarray, classes: int) -> str:
    """What is wrong with a mask of these values (256,) where ids go up to `classes` - 1; empty when nothing is."""
    wrong = np.flatnonzero(counts[classes:IGNORE]) + classes
    if not wrong.size:
        return ""
    values = ", ".join(f"{value} ({counts[value]:,} pixels)" for value in wrong[:SHOWN])
    more = f" and {wrong.size - SHOWN} more values" if wrong.size > SHOWN else ""
    return f"holds {values}{more}; ids are 0 to {classes - 1}, void is {IGNORE}"


def total(findings: Sequence[Finding]) -> np.ndarray:
    """Pixels of each value over all, (256,)."""
    return np.sum([NOTHING, *(finding.counts for finding in findings)], axis=0)


def complaint(findings: Sequence[Finding], classes: int) -> str:
    """The first problem in one line: hint, and how many of the files seen so far are like it."""
    first = next(finding for finding in findings if finding.problem)
    alike = Counter(finding.kind for finding in findings)[first.kind]
    hint = value_hint(total(findings), classes) if first.kind == "value" else ""
    return f"{first.problem}{hint} ({alike} of {len(findings)} files looked at are like it)"


def value_hint(counts: np.ndarray, classes: int) -> str:
    """What masks with these values (256,) probably are, given that `classes` were declared."""
    present = np.flatnonzero(counts[:IGNORE])
    if present[0] > 0 and present[-1] == classes:
        return "; the ids seem to start at 1: subtract 1 from them"
    if present[-1] >= 2 * classes:
        return "; these look like colours or grey levels: write class ids"
    return "; correct the masks or name the missing classes"


def check_content(counts: np.ndarray, samples: Sequence[Sample], part: str) -> None:
    """Raise UserError when the masks of a part, (256,) pixels by value in all, leave nothing to learn or measure."""
    if not samples:
        raise UserError(f"no {part} image: at least one is needed")
    present = set(np.flatnonzero(counts).tolist())
    where = f"{len(samples)} {part} masks, such as {samples[0].mask}"
    if present == {0, IGNORE}:
        raise UserError(
            f"only 0 and {IGNORE} in all {where}: looks like 0/255 masks, but {IGNORE} is void: "
            f"write 1 for the object and keep {IGNORE} for pixels to ignore (of dataset=folder: data.encoding=values)"
        )
    if present <= {IGNORE}:
        raise UserError(f"nothing but void ({IGNORE}) in all {where}: there is nothing to learn from")
