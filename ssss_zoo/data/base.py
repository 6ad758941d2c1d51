"""The contract of a data set: lists of samples, how to read them, what the classes are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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


UNUSABLE, WARNING = "unusable", "warning"  # whether a run refuses


@dataclass(frozen=True)
class Fault:
    """Something wrong. level: `unusable` where a run would refuse, else `warning`; kind: what is counted together."""

    level: str
    kind: str
    name: str
    message: str


class Dataset(ABC):
    """A data set of the run. Subclasses are found by the entry-point group `ssss_zoo.datasets`.

    The constructor gets the `data` section of the configuration, fills the fields below and raises UserError, in one
    line, for whatever a person can fix. `Sample.mask` of an unlabelled image is its hidden label where one exists:
    only `diagnose=true` ever reads it.
    """

    source: ClassVar[str] = ""  # one line for `ssss list`: where it comes from
    reads: ClassVar[tuple[str, ...]] = (
        "root",
        "split",
        "cache",
        "hold_out",
        "changed",
    )  # keys of `data` that it has a use for; others are refused
    channels: int = 3  # what read_image gives; the run sets it to `model.in_channels` before anything is read

    benchmark: ClassVar[Any] = None  # how `ssss data prepare` brings it (a `prepare.Benchmark`), where it can

    class_names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    labelled: Sequence[Sample]
    unlabelled: Sequence[Sample]
    val: Sequence[Sample]
    list_files: Mapping[str, Path] = MappingProxyType({})  # the split lists that are files: labelled, unlabelled, val
    class_file: Path | None = None  # the list of the classes, where a file of the person's holds it
    faults: Sequence[Fault] = ()  # found while opening: files that are left out
    account: Mapping[str, str] = MappingProxyType({})  # what every file below the root was read as, or why it was not
    notes: Sequence[str] = ()  # what was understood, one line each, for the person to see

    @abstractmethod
    def __init__(self, data: DataConfig) -> None: ...

    @abstractmethod
    def read_image(self, sample: Sample) -> np.ndarray:
        """(H, W, channels) uint8, or float32 in [0, 255] where files are deeper, one type for every sample. Raises
        UserError, naming the file, when it cannot be read."""

    @abstractmethod
    def read_mask(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read."""

    def read_valid(self, sample: Sample) -> np.ndarray | None:
        """(H, W) bool, false where an image has no data; None where it has some everywhere. Masks are void there."""
        return None

    def areas(self, samples: Sequence[Sample]) -> list[int]:
        """Pixels of each sample's image, found without decoding; 1 each where that cannot be said."""
        return [1] * len(samples)

    def check(self) -> None:  # noqa: B027 - a data set made in memory has nothing to check
        """Look at every labelled and validation pair before the first step; raise UserError at what is wrong."""

    def mask_files(self, sample: Sample) -> list[Any]:
        """Everything that a sample's mask is made from: paths, where it is files."""
        return [] if sample.mask is None else [sample.mask]

    @cached_property
    def contents(self) -> ContentDigests:
        """What the files hold when this is first asked for, file by file; see `contents`."""
        return content_digests(self)

    @property
    def fingerprint(self) -> str:
        """Digest of classes, lists and what the files hold: two runs with the same one were given the same data in the
        same order."""
        return fingerprint(self.contents)
