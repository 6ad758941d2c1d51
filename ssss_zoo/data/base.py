"""The contract of a data set: its lists of samples, its classes, and how it reads images and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssss_zoo.data.fingerprint import ContentDigests, content_digests, fingerprint
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig


UNUSABLE = "unusable"  # the level of a fault that makes a run refuse the data set
WARNING = "warning"  # the level of a fault that a run accepts

ProgressCallback = Callable[[str, int, int], None]  # the task, how much of it is done, how much there is (0: unknown)


def ignore_progress(task: str, done: int, total: int) -> None:
    """The callback of a caller who does not show any progress."""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with the data.

    level: UNUSABLE or WARNING. kind: a word for faults of this sort; they are counted together. name: the sample or
    the part of the data set. message: one line that says what is wrong and what to do.
    """

    level: str
    kind: str
    name: str
    message: str


class Dataset(ABC):
    """The data set of a run. Subclasses are found by the entry-point group `ssss_zoo.datasets`.

    The constructor gets the `data` section of the configuration and fills the fields below. It raises UserError, with a
    message of one line, for everything that a person can fix. `Sample.mask` of an unlabelled image is its hidden label
    where there is one; only `diagnose=true` reads it.
    """

    source: ClassVar[str] = ""  # where the data come from, one line for `ssss list`
    config_keys: ClassVar[tuple[str, ...]] = (
        "root",
        "split",
        "cache",
        "hold_out",
        "changed",
    )  # the keys of `data` that this data set uses; the run refuses the others
    channels: int = 3  # of the arrays of `read_image`; the run sets it to `model.in_channels` before it reads any image

    benchmark: ClassVar[Any] = None  # how `ssss data prepare` fetches the data (a `prepare.Benchmark`), if it can

    class_names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    labelled: Sequence[Sample]
    unlabelled: Sequence[Sample]
    val: Sequence[Sample]
    list_files: Mapping[str, Path] = MappingProxyType({})  # the split lists that are files, by part of the data set
    val_held_out: bool = False  # whether the validation images are drawn from the labelled ones: no list holds them
    class_file: Path | None = None  # the file that lists the classes, where a person wrote one
    faults: Sequence[Fault] = ()  # found by the constructor
    file_roles: Mapping[str, str] = MappingProxyType({})  # for every file below the root: how it is used, or why not
    notes: Sequence[str] = ()  # how the data were understood, one line each, shown to the person

    @abstractmethod
    def __init__(self, data: DataConfig) -> None: ...

    @abstractmethod
    def read_image(self, sample: Sample) -> np.ndarray:
        """(H, W, channels) uint8, or float32 in [0, 255] where files have more than 8 bits a channel; the same type for
        every sample. Raises UserError, naming the file, when it cannot be read."""

    @abstractmethod
    def read_mask(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read."""

    def read_valid(self, sample: Sample) -> np.ndarray | None:
        """(H, W) bool, false where the image has no data; None where it has data everywhere. Masks are void there."""
        return None

    def image_size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the array of `read_image`. Raises UserError as that does."""
        height, width = self.read_image(sample).shape[:2]
        return height, width

    def areas(self, samples: Sequence[Sample]) -> list[int]:
        """The number of pixels of each sample's image, found without decoding it; 1 each where that is impossible."""
        return [1] * len(samples)

    @property
    def obeys_exif(self) -> bool:
        """Whether images are turned upright by the orientation that their EXIF data give."""
        return True

    def check(self) -> None:  # noqa: B027 - a data set made in memory has nothing to check
        """Check every labelled and validation pair before the first step. Raises UserError for the first fault."""

    def mask_files(self, sample: Sample) -> list[Any]:
        """Everything that a sample's mask is made from: paths, for a mask that is stored in files."""
        return [] if sample.mask is None else [sample.mask]

    def content_files(self) -> dict[str, dict[str, list[Any]]]:
        """The files that a run learns from and is scored on, by kind and sample: every image, the masks of labelled and
        validation images, and the class list where a file holds it. Masks of unlabelled images are hidden and left
        out."""
        parts = {"labelled": self.labelled, "unlabelled": self.unlabelled, "val": self.val}
        files: dict[str, dict[str, list[Any]]] = {
            f"{part} images": {sample.name: [sample.image] for sample in samples} for part, samples in parts.items()
        }
        for part in ("labelled", "val"):
            files[f"{part} masks"] = {sample.name: self.mask_files(sample) for sample in parts[part]}
        if self.class_file:
            files["class lists"] = {self.class_file.name: [self.class_file]}
        return files

    @cached_property
    def contents(self) -> ContentDigests:
        """The digests of the files, as they are when this is asked for first; see `content_digests`."""
        return content_digests(self.class_names, self.content_files())

    @property
    def fingerprint(self) -> str:
        """A digest of the classes, the lists and the files: two runs with the same fingerprint were given the same data
        in the same order."""
        return fingerprint(self.contents)
