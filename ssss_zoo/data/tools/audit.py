"""`ssss data check`: every fault of a data set, file by file, and a summary of its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ssss_zoo.data.base import UNUSABLE, WARNING, Dataset, Fault, ProgressCallback, ignore_progress
from ssss_zoo.data.checks import READER_THREADS, suggest_value_fix, total_counts, useless_masks
from ssss_zoo.data.tools.audit_cache import AuditCache
from ssss_zoo.data.tools.near_duplicates import find_near_duplicates
from ssss_zoo.data.tools.sample_audit import BLANK_CONTRAST, ImageSummary, SampleAudit
from ssss_zoo.toolkit.types import IGNORE, Sample

MASKED_PARTS = ("labelled", "val")  # the parts of a data set whose masks are read

AuditedParts = Mapping[str, Sequence[tuple[Sample, SampleAudit]]]  # by part
PartImages = Mapping[str, Sequence[tuple[Sample, ImageSummary]]]  # by part: the images that are readable and not blank


@dataclass(frozen=True)
class ClassShare:
    """A class in the masks of one part. share: of their pixels, void left out; images: how many show it."""

    share: float
    images: int


@dataclass(frozen=True)
class CropFit:
    """planned: (H, W) of the run's crops. padded_images: those smaller than that. largest_unpadded: (H, W) of the
    largest crop that fits into every image."""

    planned: list[int]
    padded_images: int
    largest_unpadded: list[int]


@dataclass(frozen=True)
class BatchFit:
    """planned: images in the run's batch. largest_without_repeats: the number of labelled images."""

    planned: int
    largest_without_repeats: int


@dataclass(frozen=True)
class DatasetSummary:
    """The content of a data set, as `--json` prints it.

    images, usable_masks: numbers by part. classes: by name and part. height, width: smallest, median and largest.
    files: how each file below the root is used.
    """

    images: dict[str, int]
    usable_masks: dict[str, int]
    classes: dict[str, dict[str, ClassShare]]
    height: list[int]
    width: list[int]
    crop: CropFit
    batch: BatchFit
    fingerprint: str
    files: dict[str, str]


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit. faults: those that stop a run first."""

    faults: list[Fault]
    summary: DatasetSummary

    @property
    def code(self) -> int:
        """The exit code: 0 without faults, 1 with warnings, 2 where the data cannot be used."""
        return max((2 if fault.level == UNUSABLE else 1 for fault in self.faults), default=0)

    def as_dict(self) -> dict[str, Any]:
        return {"exit": self.code, "faults": [asdict(fault) for fault in self.faults], **asdict(self.summary)}


def audit(
    dataset: Dataset, crop: tuple[int, int], batch: int, progress: ProgressCallback = ignore_progress
) -> AuditReport:
    """Read every file of a data set, in threads, and report every fault. crop (H, W), batch: of the planned run."""
    audited = audit_parts(dataset, progress)
    faults = [
        *dataset.faults,
        *find_file_faults(audited, len(dataset.class_names)),
        *find_mask_faults(dataset, audited),
        *find_image_faults(audited),
    ]
    faults.sort(key=lambda fault: fault.level != UNUSABLE)
    return AuditReport(faults, summarize(dataset, audited, crop, batch))


def audit_parts(dataset: Dataset, progress: ProgressCallback) -> AuditedParts:
    """Every sample of the data set with its audit, by part."""
    cache = AuditCache(dataset)
    parts = samples_by_part(dataset)
    samples = [(part, sample) for part, of_part in parts.items() for sample in of_part]
    audited: dict[str, list[tuple[Sample, SampleAudit]]] = {part: [] for part in parts}
    with ThreadPoolExecutor(READER_THREADS) as pool:
        audits = pool.map(lambda pair: cache.audit(pair[1], masked=pair[0] in MASKED_PARTS), samples)
        for done, ((part, sample), found) in enumerate(zip(samples, audits, strict=True), start=1):
            audited[part].append((sample, found))
            progress("reading", done, len(samples))
    cache.save()
    return audited


def samples_by_part(dataset: Dataset) -> dict[str, list[Sample]]:
    """The samples of each part. A labelled image that also serves as an unlabelled one is in `labelled` alone."""
    labelled = {sample.name for sample in dataset.labelled}
    unlabelled = [sample for sample in dataset.unlabelled if sample.name not in labelled]
    return {"labelled": list(dataset.labelled), "val": list(dataset.val), "unlabelled": unlabelled}


# --- faults ---------------------------------------------------------------------------------------------------------


def find_file_faults(audited: AuditedParts, classes: int) -> Iterator[Fault]:
    """Files that cannot be used, and masks that are void everywhere."""
    masks = [found.check for part in MASKED_PARTS for _, found in audited[part]]
    strange = any(check.fault and check.fault.kind == "value" for check in masks)
    hint = suggest_value_fix(total_counts(masks), classes) if strange else ""
    for pairs in audited.values():
        for sample, found in pairs:
            fault = found.check.fault
            if fault:
                yield replace(fault, message=fault.message + hint) if fault.kind == "value" else fault
            elif found.check.counts[IGNORE] and not found.check.ids:
                yield Fault(WARNING, "void", sample.name, f"mask {sample.mask} is void everywhere")


def find_mask_faults(dataset: Dataset, audited: AuditedParts) -> Iterator[Fault]:
    """Parts without images, masks that are no use, classes without a pixel. Masks with a fault are left out."""
    for part in MASKED_PARTS:
        if not audited[part]:
            yield Fault(UNUSABLE if part == "labelled" else WARNING, "empty", part, f"no {part} image")
            continue
        usable = [found.check for _, found in audited[part] if not found.check.fault]
        counts, complete = total_counts(usable), len(usable) == len(audited[part])
        masks = f"all {part} masks" if complete else f"the {len(usable)} usable {part} masks"
        useless = useless_masks(dataset, counts, part, masks)
        if useless:
            yield useless
        absent = [name for index, name in enumerate(dataset.class_names) if counts[index] == 0]
        if absent and complete:
            yield Fault(WARNING, "class", part, f"no {part} pixel of {', '.join(absent)}")


def find_image_faults(audited: AuditedParts) -> Iterator[Fault]:
    """Blank images, copies of any image, and images to train on that look like a validation image."""
    telling: dict[str, list[tuple[Sample, ImageSummary]]] = {part: [] for part in audited}
    for part, pairs in audited.items():
        for sample, found in pairs:
            if found.image and found.image.is_blank:
                yield Fault(WARNING, "blank", sample.name, f"{sample.name} of {part} {describe_blank(found.image)}")
            elif found.image:
                telling[part].append((sample, found.image))
    yield from find_exact_copies(telling)
    yield from find_near_copies(telling)


def describe_blank(image: ImageSummary) -> str:
    low, high = image.levels
    brightness = f"brightness {low:g}" if low == high else f"brightness {low:g} to {high:g}"
    look = "black" if high < BLANK_CONTRAST else "nearly the same everywhere"
    return f"is {look} ({brightness} of 255): there is nothing in it to learn from"


def find_exact_copies(images: PartImages) -> Iterator[Fault]:
    """Images with the same pixels as an earlier one; a leak, where one of the two validates and the other does not."""
    first: dict[str, tuple[str, str]] = {}
    for part, pairs in images.items():
        for sample, image in pairs:
            if image.digest not in first:
                first[image.digest] = (part, sample.name)
                continue
            other_part, other = first[image.digest]
            kind = "leak" if "val" in (part, other_part) and part != other_part else "copy"
            message = f"{sample.name} of {part} is pixel for pixel {other} of {other_part}"
            yield Fault(WARNING, kind, sample.name, message)


def find_near_copies(images: PartImages) -> Iterator[Fault]:
    """Images to train on that look like a validation image, the likeliest first. Near-duplicates within a part do no
    harm."""
    val = images["val"]
    others = [(part, *pair) for part in ("labelled", "unlabelled") for pair in images[part]]
    pairs = find_near_duplicates([one.small_copy for _, one in val], [one.small_copy for _, _, one in others])
    for pair in pairs:
        (twin, validated), (part, sample, image) = val[pair.first], others[pair.second]
        if validated.digest != image.digest:
            alike = f"{sample.name} of {part} looks like {twin.name} of val"
            yield Fault(WARNING, "near-copy", sample.name, f"{alike} (likeness {pair.likeness:.2f} of 1)")


# --- the summary ----------------------------------------------------------------------------------------------------


def summarize(dataset: Dataset, audited: AuditedParts, crop: tuple[int, int], batch: int) -> DatasetSummary:
    """Numbers of images, shares of classes, sizes, and how crop and batch fit them."""
    every = [found.image.size for pairs in audited.values() for _, found in pairs if found.image]
    sizes = np.array(every or [(0, 0)])
    usable = {part: [found.check for _, found in audited[part] if not found.check.fault] for part in MASKED_PARTS}
    pixels = {part: total_counts(checks)[:IGNORE] for part, checks in usable.items()}

    def class_share(part: str, index: int) -> ClassShare:
        share = float(pixels[part][index] / max(pixels[part].sum(), 1))
        return ClassShare(share, sum(index in check.ids for check in usable[part]))

    return DatasetSummary(
        images={part: len(pairs) for part, pairs in audited.items()},
        usable_masks={part: len(checks) for part, checks in usable.items()},
        classes={
            name: {part: class_share(part, index) for part in MASKED_PARTS}
            for index, name in enumerate(dataset.class_names)
        },
        height=[int(value) for value in np.percentile(sizes[:, 0], (0, 50, 100))],
        width=[int(value) for value in np.percentile(sizes[:, 1], (0, 50, 100))],
        crop=CropFit(list(crop), int((sizes < crop).any(axis=1).sum()), sizes.min(axis=0).tolist()),
        batch=BatchFit(batch, len(audited["labelled"])),
        fingerprint=dataset.fingerprint,
        files=dict(dataset.file_roles),
    )
