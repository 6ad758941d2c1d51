"""Masks that are put together from regions of one class each; here, those with one file for each class.

A pixel in no region is `background` where the classes have one, else void. Where regions overlap the later one counts:
files in the order of the classes, LabelMe's shapes in the order drawn, COCO's regions the smaller one last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssss_zoo.data.checks import VALUES_SHOWN
from ssss_zoo.data.classes import VOID_NAMES, ClassLine
from ssss_zoo.data.images import Reading
from ssss_zoo.data.mask_values import read_mask_values, upright_size
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.toolkit.types import IGNORE, Sample

BACKGROUND_NAMES = ("background", "_background_", "bg")  # of the class of pixels in no region
IGNORED_NAMES = (*VOID_NAMES, "__ignore__")  # of regions that do not count; the last is LabelMe's


class Region(NamedTuple):
    """A region of a mask. name: of its class; pixels: (H, W) bool."""

    name: str
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class DrawnRegions:
    """The regions of one mask, those below first. size: (H, W) of the mask; regions: drawn one at a time."""

    size: tuple[int, int]
    regions: Iterator[Region]


class RegionSource(ABC):
    """Where the regions of a folder's masks come from. kind: of the files, for messages; description: one line on the
    masks, for the user."""

    kind: str
    description: str

    @abstractmethod
    def region_names(self, samples: Sequence[Sample]) -> list[str]:
        """The names of the samples' regions, in the order of their classes. Raises UserError for a file that cannot be
        read."""

    @abstractmethod
    def draw(self, sample: Sample, ids: Mapping[str, int], reading: Reading) -> DrawnRegions:
        """The regions of a mask. ids: class id of each name; reading: how image files are read. Raises UserError,
        naming the file, also while the regions are drawn."""

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return [sample.mask]


@dataclass(frozen=True, eq=False)
class RegionEncoding:
    """How regions become a mask of class ids. ids: the class id, or 255, of each name of a region; rest_id: the class
    id of pixels in no region; reading: how image files are read."""

    source: RegionSource
    ids: Mapping[str, int]
    rest_id: int
    reading: Reading

    @property
    def kind(self) -> str:
        return self.source.kind

    def __repr__(self) -> str:  # the cache of `ssss data check` is keyed by it: no address of an object may be in it
        return f"{self.kind} {sorted(self.ids.items())} {self.rest_id} {self.reading}"

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return self.source.files(sample)

    def size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the mask. Raises UserError, naming the file, when it cannot be read."""
        return self.source.draw(sample, self.ids, self.reading).size

    def read(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read."""
        drawn = self.source.draw(sample, self.ids, self.reading)
        mask = np.full(drawn.size, self.rest_id, np.uint8)
        for name, pixels in drawn.regions:
            if pixels.shape != mask.shape:
                shapes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (pixels.shape, mask.shape))
                raise UserError(f"the regions of {sample.mask} are {shapes}: they must match pixel for pixel")
            if name not in self.ids:
                raise unknown(f"class of a region ({self.kind})", name, self.ids, str(sample.mask))
            mask[pixels] = self.ids[name]
        return mask

    def describe(self, names: Sequence[str]) -> str:
        """What masks are, in one line. names: of the classes, by id."""
        rest = "void" if self.rest_id == IGNORE else names[self.rest_id]
        return f"{self.source.description}; pixels in none are {rest}"


@dataclass(frozen=True, eq=False)
class RegionClasses:
    """The classes of masks that are put together from regions. lines: in the order of the ids."""

    lines: list[ClassLine]
    encoding: RegionEncoding


def detect_region_classes(
    source: RegionSource, samples: Sequence[Sample], lines: Sequence[ClassLine], file: Path | None, reading: Reading
) -> RegionClasses:
    """The classes of the list in `file`, if there is one, else the background and the names of regions, in their order.

    lines: of the list, empty without one. Raises UserError for a region whose name the list lacks, and where no region
    has a class.
    """
    found = source.region_names(samples)
    names = [name for name in found if name.lower() not in IGNORED_NAMES]
    if lines:
        classes = [line for line in lines if not line.void]
    else:
        others = [ClassLine(name) for name in names if name.lower() not in BACKGROUND_NAMES]
        classes = [ClassLine("background"), *others]
        if not others:
            raise UserError(f"no region of any class in {len(samples)} masks, such as {samples[0].mask}")
    order = {line.name: index for index, line in enumerate(classes)}
    lower = {name.lower(): index for name, index in order.items()}
    rest_id = next((lower[name] for name in BACKGROUND_NAMES if name in lower), IGNORE)
    void_names = [line.name for line in lines if line.void]
    ids = dict.fromkeys([*void_names, VOID_NAMES[0], *found], IGNORE)
    for name in names:
        if name in order:
            ids[name] = order[name]
        elif name.lower() in BACKGROUND_NAMES:
            ids[name] = rest_id
        elif lines and name not in void_names:
            where = f"the masks; {file and file.name} must name it"
            raise unknown(f"class of a region ({source.kind})", name, order, where)
    return RegionClasses(classes, RegionEncoding(source, ids, rest_id, reading))


# --- one file for each class ----------------------------------------------------------------------------------------


class ClassFileRegions(RegionSource):
    """One file for each class; a pixel that is not 0 belongs to the class.

    groups: for each image, the file of each class; example: a file, for the description.
    """

    kind = "one file for each class"

    def __init__(self, groups: Sequence[Mapping[str, Path]], example: str) -> None:
        self.group_of_file = {path: group for group in groups for path in group.values()}
        self.description = f"masks are one file for each class, such as {example}"

    def region_names(self, samples: Sequence[Sample]) -> list[str]:
        return sorted({name for group in self.group_of_file.values() for name in group})

    def class_files(self, sample: Sample) -> Mapping[str, Path]:
        if sample.mask not in self.group_of_file:
            raise UserError(f"{sample.mask} is none of the masks that were found, one file for each class")
        return self.group_of_file[sample.mask]

    def draw(self, sample: Sample, ids: Mapping[str, int], reading: Reading) -> DrawnRegions:
        group = self.class_files(sample)
        names = sorted(group, key=lambda name: ids.get(name, IGNORE))
        regions = (Region(name, read_class_file(group[name], reading)) for name in names)
        return DrawnRegions(upright_size(sample.mask, reading), regions)

    def files(self, sample: Sample) -> list[Path]:
        return [*self.class_files(sample).values()]


def read_class_file(path: Path, reading: Reading) -> np.ndarray:
    """The pixels (H, W) bool of a class. Raises UserError, naming the file, where it does not hold 0 and one other
    value."""
    pixels = read_mask_values(path, reading=reading, colours=False, lossy=False)
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        few = ", ".join(map(str, values[:VALUES_SHOWN].tolist())) + (", ..." if len(values) > VALUES_SHOWN else "")
        raise UserError(
            f"{path} holds {len(values)} values ({few}); expected 0 and one other, since masks are one file for each "
            "class here: write each class into a file of its own, without interpolated edges"
        )
    return pixels > 0
