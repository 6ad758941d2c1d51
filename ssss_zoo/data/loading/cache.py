"""A data set whose images and masks are kept decoded in memory: `data.cache=ram`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.checks import READER_THREADS
from ssss_zoo.data.images import Reading
from ssss_zoo.data.sampling import evenly
from ssss_zoo.errors import UserError
from ssss_zoo.memory import free_memory
from ssss_zoo.text import format_bytes
from ssss_zoo.toolkit.types import Sample

SAMPLES_MEASURED = 32  # samples that are read before it is decided whether all will fit
MEMORY_SHARE = 0.8  # of the free memory that the cache may take (our choice)

CacheKey = tuple[str, bool]  # a sample's name, and whether its mask is meant


class InMemoryDataset(Dataset):
    """The data set `source`, with every sample of `images` and the masks of `masked` read once, by the constructor.

    Loader processes share the arrays on Linux, and get a copy each on other systems. Raises UserError
    where the arrays would take more than most of the free memory, and as reading does.
    """

    def __init__(self, source: Dataset, images: Iterable[Sample], masked: Iterable[Sample]) -> None:
        vars(self).update(vars(source))
        self.source_dataset = source
        wanted: dict[CacheKey, Sample] = {(sample.name, False): sample for sample in images}
        wanted |= {(sample.name, True): sample for sample in masked if sample.mask is not None}
        self.arrays: dict[CacheKey, np.ndarray] = {}
        self.valid: dict[str, np.ndarray | None] = {}
        self.fill(list(wanted.items()))

    def fill(self, wanted: Sequence[tuple[CacheKey, Sample]]) -> None:
        """Read the wanted arrays in threads, a few of them first to estimate the size of all."""
        with ThreadPoolExecutor(READER_THREADS) as pool:
            first = evenly(wanted, SAMPLES_MEASURED)
            list(pool.map(self.read_item, first))
            check_memory(self.bytes * len(wanted) // max(len(first), 1))
            list(pool.map(self.read_item, [item for item in wanted if item[0] not in self.arrays]))

    def read_item(self, item: tuple[CacheKey, Sample]) -> None:
        """Read one image, with its valid pixels, or one mask."""
        (name, is_mask), sample = item
        source = self.source_dataset
        self.arrays[name, is_mask] = source.read_mask(sample) if is_mask else source.read_image(sample)
        if not is_mask:
            self.valid[name] = source.read_valid(sample)

    @property
    def bytes(self) -> int:
        """The size of all arrays."""
        return sum(array.nbytes for array in (*self.arrays.values(), *self.valid.values()) if array is not None)

    def read_image(self, sample: Sample) -> np.ndarray:
        kept = self.arrays.get((sample.name, False))
        return self.source_dataset.read_image(sample) if kept is None else kept

    def read_mask(self, sample: Sample) -> np.ndarray:
        kept = self.arrays.get((sample.name, True))
        return self.source_dataset.read_mask(sample) if kept is None else kept

    def read_valid(self, sample: Sample) -> np.ndarray | None:
        return self.valid[sample.name] if sample.name in self.valid else self.source_dataset.read_valid(sample)

    def mask_files(self, sample: Sample) -> list[Any]:
        return self.source_dataset.mask_files(sample)

    @property
    def reading(self) -> Reading | None:
        """How image files become arrays; None where the source reads no files."""
        return getattr(self.source_dataset, "reading", None)

    @property
    def obeys_exif(self) -> bool:
        return self.source_dataset.obeys_exif

    def check(self) -> None:
        self.source_dataset.check()


def check_memory(needed: int) -> None:
    """Raise UserError where `needed` bytes are more than most of the free memory, if the system tells how much is
    free."""
    free = free_memory()
    if free is not None and needed > MEMORY_SHARE * free:
        raise UserError(
            f"data.cache=ram would take about {format_bytes(needed)} and {format_bytes(free)} are free: remove the "
            "key, or use fewer or smaller images"
        )
