"""A data set whose samples are files, and the mask of one file as an array."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.checks import READER_THREADS, check_pairs, same_aspect
from ssss_zoo.data.images import Reading, image_size, read_image, read_valid
from ssss_zoo.data.mask_values import DEFAULT_READING, VOID_VALUE, read_mask_values, suggest_ignore
from ssss_zoo.data.split_lists import SplitLists
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample


def read_mask(path: Path, ignored: Sequence[float] = (), reading: Reading = DEFAULT_READING) -> np.ndarray:
    """(H, W) uint8 as stored: palette indices, grey levels and other whole numbers are class ids, in one channel or in
    three equal ones. 255 is void, and so are the `ignored` values. Of `reading`, `exif` and `max_pixels` count.

    Raises UserError, naming the file, for a file that cannot hold ids (colours, JPEG) and for values below 0 or above
    255.
    """
    values = read_mask_values(path, ignored, reading, colours=False, lossy=False)
    if values.dtype == np.uint8 and not ignored:
        return values
    ids = np.where(np.isin(values, [VOID_VALUE, *ignored]), IGNORE, values)
    beyond = ids[(ids < 0) | (ids > IGNORE)]
    if beyond.size:
        worst = int(beyond.max() if beyond.max() > IGNORE else beyond.min())
        raise UserError(
            f"mask {path} holds value {worst}, {beyond.size:,} pixels have such; ids are 0 to "
            f"254{suggest_ignore([worst])}, and data.encoding=values makes a class of each value"
        )
    return ids.astype(np.uint8)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) resized to `size`, (H, W), by nearest neighbour; unchanged where the aspects differ."""
    if mask.shape == size or not same_aspect((mask.shape[0], mask.shape[1]), size):
        return mask
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


class FileDataset(Dataset):
    """A data set whose samples are files: `Sample.image` is a Path, `Sample.mask` a Path or None."""

    base_reading: Reading = Reading()  # all of `reading` but the channels; `with_statistics` completes it

    @property
    def reading(self) -> Reading:
        """How image files become arrays; the run sets `channels`."""
        return replace(self.base_reading, channels=self.channels)

    @property
    def obeys_exif(self) -> bool:
        return self.reading.exif

    def read_image(self, sample: Sample) -> np.ndarray:
        return read_image(sample.image, self.reading)

    def read_mask(self, sample: Sample) -> np.ndarray:
        if sample.mask is None:
            raise UserError(f"{sample.name} has no mask")
        return read_mask(sample.mask)

    def read_valid(self, sample: Sample) -> np.ndarray | None:
        return read_valid(sample.image, self.reading)

    def void_missing_data(self, mask: np.ndarray, sample: Sample) -> np.ndarray:
        """A mask (H, W), void where its image has no data: nothing can be learnt or measured there."""
        valid = self.read_valid(sample)
        if valid is None or valid.shape != mask.shape:
            return mask
        return np.where(valid, mask, np.uint8(IGNORE))

    def use_lists(self, lists: SplitLists) -> None:
        """Train and validate on the samples of these lists."""
        self.labelled = lists.labelled
        self.unlabelled = lists.unlabelled
        self.val = lists.val
        self.list_files = lists.files
        self.notes = [*self.notes, *lists.notes]

    def image_size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the array of `read_image`, from the file's header. Raises UserError as that does, damage apart."""
        return image_size(sample.image, self.reading)

    def areas(self, samples: Sequence[Sample]) -> list[int]:
        with ThreadPoolExecutor(READER_THREADS) as pool:
            return list(pool.map(self.area, samples))

    def area(self, sample: Sample) -> int:
        """The number of pixels of a sample's image; 1 where it cannot be read, which is an error elsewhere."""
        try:
            height, width = self.image_size(sample)
        except UserError:
            return 1
        return height * width

    def check(self) -> None:
        notes = check_pairs(self)
        self.notes = [*self.notes, *(note for note in notes if note not in self.notes)]
