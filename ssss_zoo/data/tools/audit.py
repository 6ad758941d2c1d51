"""`ssss data check`: everything that is wrong with a data set, file by file, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssss_zoo.data.base import UNUSABLE, WARNING, Dataset, Fault
from ssss_zoo.data.files import READER_THREADS, suggest_value_fix
from ssss_zoo.data.tools.audit_cache import AuditCache, SampleStats
from ssss_zoo.data.tools.near_duplicates import find_near_duplicates
from ssss_zoo.toolkit.types import IGNORE, Sample

BLANK_CONTRAST = (
    4  # steps of grey, of 255, between the darkest and the brightest cell of a picture that shows nothing (our choice)
)


@dataclass
class AuditReport:
    """faults, the worst first; figures: what is in the data set, as `--json` prints it."""

    faults: list[Fault]
    figures: dict[str, Any]

    @property
    def code(self) -> int:
        """The exit code: 0 clean, 1 with warnings, 2 unusable."""
        return max((2 if fault.level == UNUSABLE else 1 for fault in self.faults), default=0)

    def as_dict(self) -> dict[str, Any]:
        return {"exit": self.code, "faults": [asdict(fault) for fault in self.faults], **self.figures}


def audit(
    dataset: Dataset, crop: tuple[int, int], batch: int, on_file: Callable[[int], None] = lambda count: None
) -> AuditReport:
    """Read every file of a data set in threads, and say all that is wrong. on_file: told after each file how many there
    are; crop (height, width), batch: of the run that is planned."""
    parts = samples_by_part(dataset)
    remembered = AuditCache(dataset)
    samples = [(part, sample) for part, of_part in parts.items() for sample in of_part]
    looks: dict[str, list[SampleStats]] = {part: [] for part in parts}
    with ThreadPoolExecutor(READER_THREADS) as pool:
        found = pool.map(lambda pair: remembered.look(pair[1], masked=pair[0] != "unlabelled"), samples)
        for (part, _), look in zip(samples, found, strict=True):
            looks[part].append(look)
            on_file(len(samples))
    remembered.save()
    faults = [
        *dataset.faults,
        *find_file_faults(parts, looks, len(dataset.class_names)),
        *find_class_faults(dataset, looks),
        *find_picture_faults(parts, looks),
    ]
    faults.sort(key=lambda fault: fault.level != UNUSABLE)
    return AuditReport(faults, summarize(dataset, parts, looks, crop, batch))


def samples_by_part(dataset: Dataset) -> dict[str, list[Sample]]:
    """The samples of each part, every image in one part only, and with its mask where it has one to learn from."""
    known = {sample.name for sample in dataset.labelled}
    loose = [sample for sample in dataset.unlabelled if sample.name not in known]
    return {"labelled": list(dataset.labelled), "val": list(dataset.val), "unlabelled": loose}


# --- what is wrong --------------------------------------------------------------------------------------------------


def find_file_faults(
    parts: dict[str, list[Sample]], looks: dict[str, list[SampleStats]], classes: int
) -> Iterator[Fault]:
    """Files that cannot be used, and masks that say nothing."""
    masked = [look for part in ("labelled", "val") for look in looks[part]]
    strange = any(look.problem and look.problem[0] == "value" for look in masked)
    hint = suggest_value_fix(count_values(masked), classes) if strange else ""
    for part, samples in parts.items():
        for sample, look in zip(samples, looks[part], strict=True):
            if look.problem:
                kind, message = look.problem
                yield Fault(UNUSABLE, kind, sample.name, message + (hint if kind == "value" else ""))
            elif look.counts and set(look.counts) <= {IGNORE}:
                yield Fault(WARNING, "void", sample.name, f"mask {sample.mask} is void everywhere")


def find_class_faults(dataset: Dataset, looks: dict[str, list[SampleStats]]) -> Iterator[Fault]:
    """Parts without images, and classes that nobody shows; of masks that cannot be used nothing is concluded."""
    for part in ("labelled", "val"):
        if not looks[part]:
            level = UNUSABLE if part == "labelled" else WARNING
            yield Fault(level, "empty", part, f"no {part} image")
            continue
        good = [look for look in looks[part] if look.counts and not look.problem]
        pixels = count_values(good)
        present = set(np.flatnonzero(pixels).tolist())
        which = f"all {part} masks" if len(good) == len(looks[part]) else f"the {len(good)} usable {part} masks"
        if present == {0, IGNORE}:
            message = f"only 0 and {IGNORE} in {which}: {IGNORE} is void; looks like 0/255 masks"
            mend = "; of dataset=folder: data.encoding=values makes a class of each"
            yield Fault(UNUSABLE, "binary", part, message + mend)
        elif present == {IGNORE}:
            yield Fault(UNUSABLE, "void", part, f"nothing but void in {which}")
        lacks = [name for index, name in enumerate(dataset.class_names) if pixels[index] == 0]
        if lacks and len(good) == len(looks[part]):
            yield Fault(WARNING, "class", part, f"no {part} pixel of {', '.join(lacks)}")


def find_picture_faults(parts: dict[str, list[Sample]], looks: dict[str, list[SampleStats]]) -> Iterator[Fault]:
    """Pictures that show nothing, and the same picture twice: pixel for pixel anywhere, and much the same in val and in
    what is trained on."""
    seen = {
        part: [pair for pair in zip(samples, looks[part], strict=True) if pair[1].digest]
        for part, samples in parts.items()
    }
    for part, pairs in seen.items():
        for sample, look in pairs:
            if is_blank(look):
                yield Fault(WARNING, "blank", sample.name, f"{sample.name} of {part} {describe_blank(look)}")
    telling = {part: [pair for pair in pairs if not is_blank(pair[1])] for part, pairs in seen.items()}
    yield from find_exact_copies(telling)
    yield from find_near_copies(telling)


def is_blank(look: SampleStats) -> bool:
    return look.levels[1] - look.levels[0] < BLANK_CONTRAST


def describe_blank(look: SampleStats) -> str:
    low, high = look.levels
    where = f"brightness {low:g}" if low == high else f"brightness {low:g} to {high:g}"
    what = "black" if high < BLANK_CONTRAST else "nearly the same everywhere"
    return f"is {what} ({where} of 255): there is nothing in it to learn from"


CheckedParts = dict[str, list[tuple[Sample, SampleStats]]]  # by part


def find_exact_copies(seen: CheckedParts) -> Iterator[Fault]:
    first: dict[str, tuple[str, str]] = {}
    for part, pairs in seen.items():
        for sample, look in pairs:
            if look.digest in first:
                other_part, other = first[look.digest]
                kind = "leak" if "val" in (part, other_part) and part != other_part else "copy"
                where = f"{part} is pixel for pixel {other} of {other_part}"
                yield Fault(WARNING, kind, sample.name, f"{sample.name} of {where}")
            else:
                first[look.digest] = (part, sample.name)


def find_near_copies(seen: CheckedParts) -> Iterator[Fault]:
    """Of val and what is trained on, the likeliest first: copies within a part do no harm that matters."""
    others = [(part, *pair) for part in ("labelled", "unlabelled") for pair in seen[part]]
    pairs = find_near_duplicates([look.picture for _, look in seen["val"]], [look.picture for _, _, look in others])
    for pair in pairs:
        (twin, other), (part, sample, look) = seen["val"][pair.first], others[pair.second]
        if other.digest != look.digest:
            alike = f"{sample.name} of {part} looks like {twin.name} of val"
            yield Fault(WARNING, "near-copy", sample.name, f"{alike} (likeness {pair.likeness:.2f} of 1)")


# --- what is in it --------------------------------------------------------------------------------------------------


def count_values(looks: Sequence[SampleStats]) -> np.ndarray:
    """Pixels of each id over all, (256,)."""
    pixels = np.zeros(IGNORE + 1, np.int64)
    for look in looks:
        for value, count in look.counts.items():
            pixels[value] += count
    return pixels


def summarize(
    dataset: Dataset,
    parts: dict[str, list[Sample]],
    looks: dict[str, list[SampleStats]],
    crop: tuple[int, int],
    batch: int,
) -> dict[str, Any]:
    """Numbers of images, shares of classes, sizes, and what crop and batch may be."""
    sizes = np.array([look.size for of_part in looks.values() for look in of_part if look.size] or [(0, 0)])
    good = {part: [look for look in looks[part] if not look.problem] for part in ("labelled", "val")}
    pixels = {part: count_values(good[part])[:IGNORE] for part in good}
    small = int((sizes < crop).any(axis=1).sum())
    return {
        "images": {part: len(samples) for part, samples in parts.items()},
        "usable_masks": {part: len(found) for part, found in good.items()},
        "classes": {
            name: {
                part: {
                    "share": float(pixels[part][index] / max(pixels[part].sum(), 1)),
                    "images": sum(index in look.counts for look in good[part]),
                }
                for part in good
            }
            for index, name in enumerate(dataset.class_names)
        },
        "height": [int(value) for value in np.percentile(sizes[:, 0], (0, 50, 100))],
        "width": [int(value) for value in np.percentile(sizes[:, 1], (0, 50, 100))],
        "crop": {"planned": list(crop), "padded_images": small, "largest_unpadded": sizes.min(axis=0).tolist()},
        "batch": {"planned": batch, "largest_without_repeats": len(parts["labelled"])},
        "fingerprint": dataset.fingerprint,
        "files": dict(dataset.account),
    }
