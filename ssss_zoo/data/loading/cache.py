"""A data set whose images and masks sit decoded in memory: `data.cache=ram`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks.download import format_bytes
from ssss_zoo.data.checks import READER_THREADS
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

SAMPLES_MEASURED = 32  # samples read before it is said whether all will fit
MEMORY_SHARE = 0.8  # of the memory that is free may be taken (our choice)

CacheKey = tuple[str, bool]  # name of the sample, whether it is its mask


class InMemoryDataset(Dataset):
    """A data set as `of`, every sample of `images` and the masks of `masked` read once, here and now. Loader processes
    that are forked share what is read; others (no such system is Linux) get a copy each.

    Raises UserError where it would take more than most of the memory that is free, and as reading does.
    """

    def __init__(self, of: Dataset, images: Iterable[Sample], masked: Iterable[Sample]) -> None:
        vars(self).update(vars(of))
        self.of = of
        wanted: dict[CacheKey, Sample] = {(sample.name, False): sample for sample in images}
        wanted |= {(sample.name, True): sample for sample in masked if sample.mask is not None}
        self.kept: dict[CacheKey, np.ndarray] = {}
        self.valid: dict[str, np.ndarray | None] = {}
        self.fill(list(wanted.items()))

    def fill(self, wanted: Sequence[tuple[CacheKey, Sample]]) -> None:
        def read(item: tuple[CacheKey, Sample]) -> None:
            (name, is_mask), sample = item
            self.kept[name, is_mask] = self.of.read_mask(sample) if is_mask else self.of.read_image(sample)
            if not is_mask:
                self.valid[name] = self.of.read_valid(sample)

        with ThreadPoolExecutor(READER_THREADS) as pool:
            begin = wanted[:: -(-len(wanted) // SAMPLES_MEASURED) or 1]  # images and masks, evenly spread
            list(pool.map(read, begin))
            check_memory(self.bytes * len(wanted) // max(len(begin), 1))
            list(pool.map(read, [item for item in wanted if item[0] not in self.kept]))

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in (*self.kept.values(), *self.valid.values()) if array is not None)

    def read_image(self, sample: Sample) -> np.ndarray:
        return self.known(sample, False, self.of.read_image)

    def read_mask(self, sample: Sample) -> np.ndarray:
        return self.known(sample, True, self.of.read_mask)

    def mask_files(self, sample: Sample) -> list[Any]:
        return self.of.mask_files(sample)

    def read_valid(self, sample: Sample) -> np.ndarray | None:
        return self.valid[sample.name] if sample.name in self.valid else self.of.read_valid(sample)

    def known(self, sample: Sample, is_mask: bool, read: Callable[[Sample], np.ndarray]) -> np.ndarray:
        """What is kept of a sample; what a stage brought later is read as ever."""
        found = self.kept.get((sample.name, is_mask))
        return read(sample) if found is None else found

    def check(self) -> None:
        self.of.check()


def check_memory(needed: int) -> None:
    """Raise UserError where `needed` bytes are more than most of the free ones, as far as the system tells."""
    free = free_memory()
    if free is not None and needed > MEMORY_SHARE * free:
        raise UserError(
            f"data.cache=ram would take about {format_bytes(needed)} and {format_bytes(free)} are free: leave it out, "
            "or take fewer or smaller images"
        )


def free_memory() -> int | None:
    """Bytes that can still be taken, what only buffers files included; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
