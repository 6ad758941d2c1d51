"""Everything that `ssss data check` finds in the image and the mask of one sample."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import numpy as np

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.checks import NO_PIXELS, SampleCheck, check_mask, unreadable
from ssss_zoo.data.tools.near_duplicates import packed_copy, small_copy, unpacked_copy
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

BLANK_CONTRAST = 4  # grey levels, of 255, between the darkest and the brightest cell of a blank image (our choice)


@dataclass(frozen=True)
class ImageSummary:
    """An image in few bytes.

    size: (H, W). digest: of the pixels. packed: its small grey copy in base 64, by which near-duplicates are found.
    levels: the darkest and the brightest cell of that copy, 0 to 255.
    """

    size: tuple[int, int]
    digest: str
    packed: str
    levels: tuple[float, float]

    @property
    def small_copy(self) -> np.ndarray:
        """The small grey copy, (COPY_SIDE, COPY_SIDE) float32."""
        return unpacked_copy(base64.b64decode(self.packed))

    @property
    def is_blank(self) -> bool:
        """Whether the image has the same brightness nearly everywhere."""
        return self.levels[1] - self.levels[0] < BLANK_CONTRAST


@dataclass(frozen=True, eq=False)
class SampleAudit:
    """A sample after reading its files. image: None where it cannot be read. check: the mask's ids, and the fault."""

    image: ImageSummary | None
    check: SampleCheck


def audit_sample(dataset: Dataset, sample: Sample, *, masked: bool) -> SampleAudit:
    """Decode the image of a sample, and its mask where `masked` is true."""
    try:
        image = summarize_image(dataset.read_image(sample))
    except UserError as error:
        return SampleAudit(None, SampleCheck(NO_PIXELS, unreadable(sample, error)))
    return SampleAudit(image, check_mask(dataset, sample, image.size) if masked else SampleCheck(NO_PIXELS))


def summarize_image(image: np.ndarray) -> ImageSummary:
    """The summary of an image (H, W, channels) in [0, 255]."""
    small = small_copy(image)
    return ImageSummary(
        size=(image.shape[0], image.shape[1]),
        digest=hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest(),
        packed=base64.b64encode(packed_copy(small)).decode(),
        levels=(round(float(small.min()), 1), round(float(small.max()), 1)),
    )
