"""Masks that are put together from regions of one class each; here, those with one file for each class.

A pixel that lies in no region is `background` where the classes have one, else void. Where regions overlap the later
one lies on top: of files in the order of the classes, of LabelMe in the order drawn, of COCO the smaller one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssss_zoo.data.classes import VOID, ClassLine
from ssss_zoo.data.codes import AS_TOLD, read_codes, upright_size
from ssss_zoo.data.images import Reading
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.toolkit.types import IGNORE, Sample

BACKGROUND = ("background", "_background_", "bg")  # names of the class of what lies in no region
SHOWN = 5  # values named in a message
IGNORED = (*VOID, "__ignore__")  # names of regions that do not count; the last is LabelMe's


class Regions(ABC):
    """How the masks of a folder are put together. ids: the class id, or 255, of each name that regions have."""

    kind: str
    said_of: str  # one line on what masks are, for the person to see
    ids: Mapping[str, int]
    rest: int  # of pixels in no region
    reading: Reading = AS_TOLD  # how image files are read

    @abstractmethod
    def labels(self, samples: Sequence[Sample]) -> list[str]:
        """The names that the samples' regions have, in the order of their classes. Raises UserError for a file that
        cannot be read."""

    @abstractmethod
    def drawn(self, sample: Sample) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
        """(H, W) of the mask; name and place (H, W) bool of each region, those below first. Raises UserError, naming
        the file, also while they are drawn."""

    def files(self, sample: Sample) -> list[Path]:
        """Every file that the mask depends on."""
        return [sample.mask]

    def __repr__(self) -> str:  # what a check remembers its findings by
        return f"{self.kind} {sorted(self.ids.items())} {self.rest} {self.reading}"

    def settle(self, samples: Sequence[Sample], lines: Sequence[ClassLine], file: Path | None) -> list[ClassLine]:
        """Fill `ids` and `rest`; returns the classes. They are those of the list in `file`, or the background and the
        names found, in their order. Raises UserError for a region whose name the list lacks, and for a single class."""
        labels = self.labels(samples)
        names = [name for name in labels if name.lower() not in IGNORED]
        if not lines:
            known = [ClassLine("background"), *(ClassLine(name) for name in names if name.lower() not in BACKGROUND)]
            if len(known) < 2:
                raise UserError(f"no region of any class in {len(samples)} masks, such as {samples[0].mask}")
        else:
            known = [line for line in lines if not line.void]
        order = {line.name: index for index, line in enumerate(known)}
        lower = {name.lower(): index for name, index in order.items()}
        self.rest = next((lower[name] for name in BACKGROUND if name in lower), IGNORE)
        ids = dict.fromkeys([*(line.name for line in lines if line.void), VOID[0], *labels], IGNORE)
        for name in names:
            if name in order:
                ids[name] = order[name]
            elif name.lower() in BACKGROUND:
                ids[name] = self.rest
            elif lines and name not in {line.name for line in lines}:
                raise unknown(
                    f"class of a region ({self.kind})", name, order, f"the masks; {file and file.name} must name it"
                )
        self.ids = ids
        return known

    def size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the mask. Raises UserError, naming the file, when it cannot be read."""
        return self.drawn(sample)[0]

    def read(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8 class ids, 255 where void. Raises UserError, naming the file, when it cannot be read."""
        size, regions = self.drawn(sample)
        mask = np.full(size, self.rest, np.uint8)
        for name, inside in regions:
            if inside.shape != mask.shape:
                shapes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (inside.shape, mask.shape))
                raise UserError(f"the regions of {sample.mask} are {shapes}: they must match pixel for pixel")
            if name not in self.ids:
                raise unknown(f"class of a region ({self.kind})", name, self.ids, str(sample.mask))
            mask[inside] = self.ids[name]
        return mask

    def said(self, names: Sequence[str]) -> str:
        """What masks are, in one line."""
        rest = "void" if self.rest == IGNORE else names[self.rest]
        return f"{self.said_of}; pixels in none are {rest}"


# --- one file for each class ----------------------------------------------------------------------------------------


class ClassFiles(Regions):
    """A file for each class, whatever is not 0 in it. groups: of each image, its file of each class, by their names."""

    kind = "one file for each class"

    def __init__(self, groups: Sequence[Mapping[str, Path]], example: str) -> None:
        self.of_file = {path: group for group in groups for path in group.values()}
        self.said_of = f"masks are one file for each class, such as {example}"

    def labels(self, samples: Sequence[Sample]) -> list[str]:
        return sorted({name for group in self.of_file.values() for name in group})

    def group(self, sample: Sample) -> Mapping[str, Path]:
        if sample.mask not in self.of_file:
            raise UserError(f"{sample.mask} is none of the masks that were found, one file for each class")
        return self.of_file[sample.mask]

    def drawn(self, sample: Sample) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
        group = self.group(sample)
        names = sorted(group, key=lambda name: self.ids.get(name, IGNORE))
        size = upright_size(sample.mask, self.reading)
        return size, ((name, inside_of(group[name], self.reading)) for name in names)

    def files(self, sample: Sample) -> list[Path]:
        return [*self.group(sample).values()]


def inside_of(path: Path, reading: Reading) -> np.ndarray:
    """The pixels (H, W) bool of a file of one class. Raises UserError, naming it, where it does not hold 0 and one
    other value."""
    codes = read_codes(path, colours=False, lossy=False, reading=reading)
    values = np.unique(codes)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        few = ", ".join(map(str, values[:SHOWN].tolist())) + (", ..." if len(values) > SHOWN else "")
        raise UserError(
            f"{path} holds {len(values)} values ({few}); expected 0 and one other, since masks are one file for each "
            "class here: write each class into a file of its own, edges not smeared"
        )
    return codes > 0
