"""A cache on the disk, so that `ssss data check` reads only the files that changed since it ran last."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.checks import NO_PIXELS, SampleCheck
from ssss_zoo.data.tools.sample_audit import ImageSummary, SampleAudit, audit_sample
from ssss_zoo.toolkit.types import Sample

DECODERS = ("ssss-zoo", "pillow", "imagecodecs", "tifffile", "numpy", "pycocotools")  # whose version may matter
NOT_ABOUT_READING = (  # fields of a data set that do not change how a file is read
    *("labelled", "unlabelled", "val", "list_files"),
    *("faults", "notes", "file_roles", "contents"),
)
CACHES_KEPT = 16  # files, those used last (our choice)


class AuditCache:
    """The audits of samples whose files did not change since.

    A file is the same while its path, size, times and inode are. A data set has a cache file of its own for each way of
    reading, see `reading_signature`. Samples with a fault are read again each time. Without a home folder, or without a
    disk that can be written, nothing is kept.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.file = cache_file(dataset)
        self.known = read_cache(self.file)

    def audit(self, sample: Sample, *, masked: bool) -> SampleAudit:
        """The audit of a sample, from the cache or by reading its files."""
        key = file_signature(self.dataset, sample, masked=masked) if self.file else ""
        kept = audit_from_json(self.known.get(key))
        if kept:
            return kept
        found = audit_sample(self.dataset, sample, masked=masked)
        if key and found.image and not found.check.fault:
            self.known[key] = audit_to_json(found.image, found.check)
        return found

    def save(self) -> None:
        """Write the cache, and remove the oldest ones. A disk that refuses is no error."""
        if not self.file:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new = self.file.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self.known), "utf-8")
            new.replace(self.file)
            by_age = sorted(self.file.parent.glob("*.json"), key=lambda file: -file.stat().st_mtime)
            for old in by_age[CACHES_KEPT:]:
                old.unlink()
        except OSError:
            return


# --- the file -------------------------------------------------------------------------------------------------------


def cache_file(dataset: Dataset) -> Path | None:
    """The cache file of a data set, in the folder that this system has for such files; None without a home folder."""
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("ssss-zoo", appauthor=False)
    except RuntimeError:  # newer versions of platformdirs; older ones return a folder called `~`
        return None
    name = hashlib.sha256(reading_signature(dataset).encode()).hexdigest()[:16]
    return folder / "checked" / f"{name}.json" if folder.is_absolute() else None


def read_cache(file: Path | None) -> dict[str, Any]:
    """The content of a cache file; empty where there is none, or a damaged one."""
    try:
        content = json.loads(file.read_text("utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def audit_to_json(image: ImageSummary, check: SampleCheck) -> dict[str, Any]:
    """An audit without a fault, as the cache file holds it."""
    return asdict(image) | {"counts": {int(value): int(check.counts[value]) for value in np.flatnonzero(check.counts)}}


def audit_from_json(kept: Any) -> SampleAudit | None:
    """The audit that the cache file holds; None for content of another shape."""
    try:
        height, width = kept["size"]
        low, high = kept["levels"]
        counts = NO_PIXELS.copy()
        for value, count in kept["counts"].items():
            counts[int(value)] = int(count)
        image = ImageSummary((height, width), kept["digest"], kept["packed"], (low, high))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return SampleAudit(image, SampleCheck(counts))


# --- keys -----------------------------------------------------------------------------------------------------------


def reading_signature(dataset: Dataset) -> str:
    """Everything but the files on which an audit depends: the fields of the data set (channels, range, classes,
    encoding, ...), the code that reads, and the versions of the decoders."""
    fields = {name: repr(value) for name, value in sorted(vars(dataset).items()) if name not in NOT_ABOUT_READING}
    kind = type(dataset)
    modules = {str(getattr(sys.modules.get(kind.__module__), "__file__", None) or ""), *reading_code()}
    code = hashlib.blake2b(b"".join(Path(file).read_bytes() for file in sorted(modules) if Path(file).is_file()))
    versions = [package_version(name) for name in DECODERS]
    return repr((kind.__module__, kind.__qualname__, fields, code.hexdigest(), versions))


def reading_code() -> list[str]:
    """The files of `ssss_zoo/data`: a clone of the repository changes without a new version."""
    return [str(file) for file in Path(__file__).parents[1].rglob("*.py")]


@cache
def package_version(name: str) -> str:
    """The version of an installed package; empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def file_signature(dataset: Dataset, sample: Sample, *, masked: bool) -> str:
    """Path, size, times and inode of a sample's files; empty for a sample that is made in memory."""
    files = [sample.image, *(dataset.mask_files(sample) if masked else [])]
    if not all(isinstance(file, Path) and file.is_file() for file in files):
        return ""
    found = [(str(file.resolve()), file.stat()) for file in files]
    return "|".join(f"{path}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}:{s.st_ino}" for path, s in found)
