"""What a check sees of one sample, and its memory of the samples whose files did not change."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.files import describe_size_mismatch, describe_wrong_values
from ssss_zoo.data.tools.near_duplicates import packed_copy, small_copy, unpacked_copy
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

DECODERS = ("ssss-zoo", "pillow", "imagecodecs", "tifffile", "numpy", "pycocotools")  # whose version may matter
NOT_ABOUT_READING = (
    "labelled",
    "unlabelled",
    "val",
    "list_files",
    "faults",
    "notes",
    "account",
    "contents",
)  # of a data set, not of reading
CACHES_KEPT = 16  # memories that are kept, the last used ones (our choice)


@dataclass
class SampleStats:
    """What one sample gave. size: (H, W); counts: pixels by class id, void at 255; digest: of the pixels; small: the
    small grey copy that copies are told by, in base 64; levels: its darkest and its brightest cell, 0 to 255; problem:
    (kind, message) where it cannot be used."""

    size: tuple[int, int] | None = None
    counts: dict[int, int] = field(default_factory=dict)
    digest: str = ""
    small: str = ""
    levels: tuple[float, float] = (0.0, 255.0)
    problem: tuple[str, str] | None = None

    @property
    def picture(self) -> np.ndarray:
        """The small grey copy."""
        return unpacked_copy(base64.b64decode(self.small))


def measure_sample(dataset: Dataset, sample: Sample, masked: bool) -> SampleStats:
    """Decode a sample, and its mask where it is `masked`."""
    look = SampleStats()
    try:
        image = dataset.read_image(sample)
        look.size = (image.shape[0], image.shape[1])
        look.digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest()
        small = small_copy(image)
        look.small = base64.b64encode(packed_copy(small)).decode()
        look.levels = (round(float(small.min()), 1), round(float(small.max()), 1))
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
        return "size", describe_size_mismatch(dataset, sample, (mask.shape[0], mask.shape[1]), size)
    values = describe_wrong_values(counts, len(dataset.class_names))
    return ("value", f"mask {sample.mask} {values}") if values else None


# --- the memory -----------------------------------------------------------------------------------------------------


class AuditCache:
    """What earlier checks found of files that are still the same, by path, size, times and number on the disk, as long
    as whatever else decides how they are read is the same, see `way_of_reading`. What could not be read or used is
    looked at again each time. Without a home, or a disk to write on, nothing is remembered."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, home = dataset, cache_folder()
        name = hashlib.sha256(reading_signature(dataset).encode()).hexdigest()[:16]
        self.file = home / "checked" / f"{name}.json" if home else None
        self.known: dict[str, Any] = {}
        if self.file:
            try:
                found = json.loads(self.file.read_text("utf-8"))
                self.known = found if isinstance(found, dict) else {}
            except (OSError, ValueError):
                pass

    def look(self, sample: Sample, masked: bool) -> SampleStats:
        """What there is to see of a sample, remembered or new."""
        key = file_signature(self.dataset, sample, masked) if self.file else ""
        kept = stats_from_json(self.known.get(key))
        if kept:
            return kept
        look = measure_sample(self.dataset, sample, masked)
        if key and not look.problem:
            self.known[key] = asdict(look)
        return look

    def save(self) -> None:
        """Keep it for next time; a disk that refuses costs nothing but that."""
        if not self.file:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new = self.file.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self.known), "utf-8")
            new.replace(self.file)
            for old in sorted(self.file.parent.glob("*.json"), key=lambda file: -file.stat().st_mtime)[CACHES_KEPT:]:
                old.unlink()
        except OSError:
            return


def cache_folder() -> Path | None:
    """Where this system keeps what can be made again; None for a person without a home."""
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("ssss-zoo", appauthor=False)
    except RuntimeError:  # newer versions; of older ones the folder is called `~`
        return None
    return folder if folder.is_absolute() else None


def reading_signature(dataset: Dataset) -> str:
    """Everything but the files that a look depends on: the data set's own fields (channels, bands, range, classes,
    encoding, ...), the code that reads, and the versions of the decoders."""
    fields = {name: repr(value) for name, value in sorted(vars(dataset).items()) if name not in NOT_ABOUT_READING}
    kind = type(dataset)
    modules = {str(getattr(sys.modules.get(kind.__module__), "__file__", None) or ""), *reading_code()}
    code = hashlib.blake2b(b"".join(Path(file).read_bytes() for file in sorted(modules) if Path(file).is_file()))
    return repr(
        (kind.__module__, kind.__qualname__, fields, code.hexdigest(), [package_version(name) for name in DECODERS])
    )


def reading_code() -> list[str]:
    """The files of this folder: a clone of the repository changes without a new version."""
    return [str(file) for file in Path(__file__).parent.glob("*.py")]


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def file_signature(dataset: Dataset, sample: Sample, masked: bool) -> str:
    """What identifies the content of a sample's files without reading them; empty for one made in memory."""
    files = [sample.image, *(dataset.mask_files(sample) if masked else [])]
    if not all(isinstance(file, Path) and file.is_file() for file in files):
        return ""
    found = [(str(file.resolve()), file.stat()) for file in files]
    return "|".join(f"{path}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}:{s.st_ino}" for path, s in found)


def stats_from_json(kept: Any) -> SampleStats | None:
    """A look from what was kept of it; None for what is none."""
    try:
        counts = {int(value): int(count) for value, count in kept["counts"].items()}
        low, high = kept["levels"]
        height, width = kept["size"]
        return SampleStats((height, width), counts, kept["digest"], kept["small"], (low, high))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
