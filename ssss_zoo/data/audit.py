"""`ssss data check`: everything that is wrong with a data set, file by file, and what is in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssss_zoo.data.base import UNUSABLE, WARNING, Dataset, Fault
from ssss_zoo.data.files import THREADS, FileDataset, size_problem, value_hint, value_problem
from ssss_zoo.errors import UserError
from ssss_zoo.records import IGNORE, Sample

SIDE = 16  # of the small picture whose steps of brightness, SIDE * SIDE bits, tell near-duplicates
NEAR = (
    20  # bits of the 256 that may differ in a near-duplicate: measured on CamVid, a copy as JPEG, at half the size or
)
# darker differs in at most 14, pictures of train and val in at least 70
FLAT = 16  # bits set at least: a picture without steps is like every other one


@dataclass
class Look:
    """What one sample gave. size: (H, W); counts: pixels by class id, void at 255; digest: of the pixels; bits: its
    steps of brightness as hexadecimal digits; problem: (kind, message) where it cannot be used."""

    size: tuple[int, int] | None = None
    counts: dict[int, int] = field(default_factory=dict)
    digest: str = ""
    bits: str = ""
    problem: tuple[str, str] | None = None


@dataclass
class Report:
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
) -> Report:
    """Read every file of a data set in threads, and say all that is wrong. on_file: told after each file how many there
    are; crop (height, width), batch: of the run that is planned."""
    parts = parts_of(dataset)
    remembered = Memory(dataset)
    samples = [(part, sample) for part, of_part in parts.items() for sample in of_part]
    looks: dict[str, list[Look]] = {part: [] for part in parts}
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda pair: remembered.look(pair[1], masked=pair[0] != "unlabelled"), samples)
        for (part, _), look in zip(samples, found, strict=True):
            looks[part].append(look)
            on_file(len(samples))
    remembered.save()
    faults = [
        *dataset.faults,
        *of_files(parts, looks, len(dataset.class_names)),
        *of_content(dataset, looks),
        *of_copies(parts, looks),
    ]
    faults.sort(key=lambda fault: fault.level != UNUSABLE)
    return Report(faults, figures(dataset, parts, looks, crop, batch))


def parts_of(dataset: Dataset) -> dict[str, list[Sample]]:
    """The samples of each part, every image in one part only, and with its mask where it has one to learn from."""
    known = {sample.name for sample in dataset.labelled}
    loose = [sample for sample in dataset.unlabelled if sample.name not in known]
    return {"labelled": list(dataset.labelled), "val": list(dataset.val), "unlabelled": loose}


# --- one sample -----------------------------------------------------------------------------------------------------


def look_at(dataset: Dataset, sample: Sample, masked: bool) -> Look:
    """Decode a sample, and its mask where it is `masked`."""
    look = Look()
    try:
        image = dataset.read_image(sample)
        look.size = (image.shape[0], image.shape[1])
        look.digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()
        look.bits = steps(image).hex()
        if masked:
            mask = dataset.read_mask(sample)
            counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
            look.counts = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
            look.problem = wrong_mask(dataset, mask, look.size, counts, sample)
    except UserError as error:
        look.problem = ("unreadable", str(error))
    return look


def wrong_mask(
    dataset: Dataset, mask: np.ndarray, size: tuple[int, int], counts: np.ndarray, sample: Sample
) -> tuple[str, str] | None:
    if mask.shape != size:
        return "size", size_problem(dataset, sample, (mask.shape[0], mask.shape[1]), size)
    values = value_problem(counts, len(dataset.class_names))
    return ("value", f"mask {sample.mask} {values}") if values else None


def steps(image: np.ndarray) -> bytes:
    """Where brightness rises from left to right in a small grey copy of an image (H, W, channels): SIDE * SIDE bits."""
    grey = image[..., :3].mean(axis=2).astype(np.uint8)
    small = np.asarray(Image.fromarray(grey).resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1] + 2).tobytes()


class Memory:
    """What earlier checks found, by the files' paths, sizes and times, as long as classes and encoding are the same."""

    def __init__(self, dataset: Dataset) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        told = repr((dataset.class_names, dataset.channels, getattr(dataset, "encoding", None)))
        name = hashlib.sha256(told.encode()).hexdigest()[:16]
        self.dataset, self.file = dataset, Path(home).expanduser() / "ssss-zoo" / "checked" / f"{name}.json"
        try:
            self.known: dict[str, Any] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            self.known = {}

    def look(self, sample: Sample, masked: bool) -> Look:
        key = stamp(self.dataset, sample, masked)
        if key in self.known:
            return as_look(self.known[key])
        look = look_at(self.dataset, sample, masked)
        if key:
            self.known[key] = asdict(look)
        return look

    def save(self) -> None:
        """Keep it for next time; a disk that refuses costs nothing but that."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new = self.file.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self.known))
            new.replace(self.file)
        except OSError:
            return


def stamp(dataset: Dataset, sample: Sample, masked: bool) -> str:
    """What identifies the content of a sample's files without reading them; empty for one made in memory."""
    files = [sample.image]
    if masked and isinstance(dataset, FileDataset):
        files += dataset.mask_files(sample)
    if not all(isinstance(file, Path) and file.is_file() for file in files):
        return ""
    found = [(str(file.resolve()), file.stat()) for file in files]
    return "|".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found)


def as_look(kept: dict[str, Any]) -> Look:
    size, problem = kept["size"], kept["problem"]
    counts = {int(value): count for value, count in kept["counts"].items()}
    return Look(
        tuple(size) if size else None, counts, kept["digest"], kept["bits"], tuple(problem) if problem else None
    )


# --- what is wrong --------------------------------------------------------------------------------------------------


def of_files(parts: dict[str, list[Sample]], looks: dict[str, list[Look]], classes: int) -> Iterator[Fault]:
    """Files that cannot be used, and masks that say nothing."""
    masked = [look for part in ("labelled", "val") for look in looks[part]]
    strange = any(look.problem and look.problem[0] == "value" for look in masked)
    hint = value_hint(counted(masked), classes) if strange else ""
    for part, samples in parts.items():
        for sample, look in zip(samples, looks[part], strict=True):
            if look.problem:
                kind, message = look.problem
                yield Fault(UNUSABLE, kind, sample.name, message + (hint if kind == "value" else ""))
            elif look.counts and set(look.counts) <= {IGNORE}:
                yield Fault(WARNING, "void", sample.name, f"mask {sample.mask} is void everywhere")


def of_content(dataset: Dataset, looks: dict[str, list[Look]]) -> Iterator[Fault]:
    """Parts without images, and classes that nobody shows."""
    for part in ("labelled", "val"):
        if not looks[part]:
            level = UNUSABLE if part == "labelled" else WARNING
            yield Fault(level, "empty", part, f"no {part} image")
            continue
        pixels = counted(looks[part])
        present = set(np.flatnonzero(pixels).tolist())
        if present == {0, IGNORE}:
            message = f"only 0 and {IGNORE} in all {part} masks: {IGNORE} is void; looks like 0/255 masks"
            mend = "; of dataset=folder: data.encoding=values makes a class of each"
            yield Fault(UNUSABLE, "binary", part, message + mend)
        elif present <= {IGNORE}:
            yield Fault(UNUSABLE, "void", part, f"nothing but void in all {part} masks")
        lacks = [name for index, name in enumerate(dataset.class_names) if pixels[index] == 0]
        if lacks:
            yield Fault(WARNING, "class", part, f"no {part} pixel of {', '.join(lacks)}")


def of_copies(parts: dict[str, list[Sample]], looks: dict[str, list[Look]]) -> Iterator[Fault]:
    """The same picture twice: pixel for pixel anywhere, and much the same in val and in what is trained on."""
    yield from exact_copies(parts, looks)
    yield from near_copies(parts, looks)


def exact_copies(parts: dict[str, list[Sample]], looks: dict[str, list[Look]]) -> Iterator[Fault]:
    seen: dict[str, tuple[str, str]] = {}
    for part, samples in parts.items():
        for sample, look in zip(samples, looks[part], strict=True):
            if look.digest in seen:
                other_part, other = seen[look.digest]
                kind = "leak" if "val" in (part, other_part) and part != other_part else "copy"
                where = f"{part} is pixel for pixel {other} of {other_part}"
                yield Fault(WARNING, kind, sample.name, f"{sample.name} of {where}")
            elif look.digest:
                seen[look.digest] = (part, sample.name)


def near_copies(parts: dict[str, list[Sample]], looks: dict[str, list[Look]]) -> Iterator[Fault]:
    """Of val and what is trained on: copies within a part do no harm that matters."""
    val = [(sample, look) for sample, look in zip(parts["val"], looks["val"], strict=True) if telling(look)]
    bits = np.stack([unpacked(look) for _, look in val]) if val else np.zeros((0, SIDE * SIDE), np.uint8)
    for part in ("labelled", "unlabelled"):
        for sample, look in zip(parts[part], looks[part], strict=True):
            far = (bits ^ unpacked(look)).sum(axis=1) if telling(look) else np.full(len(val), SIDE * SIDE)
            for twin, other in (val[index] for index in np.flatnonzero(far <= NEAR)):
                if other.digest != look.digest:
                    message = f"{sample.name} of {part} looks like {twin.name} of val"
                    yield Fault(WARNING, "near-copy", sample.name, message)


def telling(look: Look) -> bool:
    """Whether a picture has enough steps of brightness to be told from another."""
    return bool(look.bits) and unpacked(look).sum() >= FLAT


def unpacked(look: Look) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(look.bits), np.uint8))


# --- what is in it --------------------------------------------------------------------------------------------------


def counted(looks: Sequence[Look]) -> np.ndarray:
    """Pixels of each id over all, (256,)."""
    pixels = np.zeros(IGNORE + 1, np.int64)
    for look in looks:
        for value, count in look.counts.items():
            pixels[value] += count
    return pixels


def figures(
    dataset: Dataset, parts: dict[str, list[Sample]], looks: dict[str, list[Look]], crop: tuple[int, int], batch: int
) -> dict[str, Any]:
    """Numbers of images, shares of classes, sizes, and what crop and batch may be."""
    sizes = np.array([look.size for of_part in looks.values() for look in of_part if look.size] or [(0, 0)])
    pixels = {part: counted(looks[part])[:IGNORE] for part in ("labelled", "val")}
    small = int((sizes < crop).any(axis=1).sum())
    return {
        "images": {part: len(samples) for part, samples in parts.items()},
        "classes": {
            name: {
                part: {
                    "share": float(pixels[part][index] / max(pixels[part].sum(), 1)),
                    "images": sum(index in look.counts for look in looks[part]),
                }
                for part in ("labelled", "val")
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
