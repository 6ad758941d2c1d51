"""pictures.json: which pictures a report shows, and the colours that they are drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.records import REMAKE
from ssss_zoo.record_files import FORMAT, check_dataclass, dataclass_tree, read_record

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class RowPictures:
    """File names of a row's prediction on an image, and of the image with its wrong pixels marked."""

    predicted: str
    wrong: str


@dataclass(frozen=True, kw_only=True)
class ImagePictures:
    """File names of an image, of its ground truth, and of each row's pictures."""

    rows: dict[str, RowPictures]
    image: str
    truth: str


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """A validation image. index: its place in val; worst: whether it is one of the worst; miou: of each row, of this
    image alone, in [0, 1]."""

    index: int
    name: str
    worst: bool
    miou: dict[str, float]
    files: ImagePictures


@dataclass(frozen=True, kw_only=True)
class PseudoLabelPicture:
    """A row's pseudo-label at a step."""

    step: int
    file: str


@dataclass(frozen=True, kw_only=True)
class PseudoLabelPictures:
    """The pseudo-labels of one unlabelled image, by row. image: its file name, None where no row has pseudo-labels;
    own_legends: whether each picture has a legend of its own, as those of an earlier version."""

    image: str | None
    rows: dict[str, tuple[PseudoLabelPicture, ...]]
    own_legends: bool = True


@dataclass(frozen=True, kw_only=True)
class PictureIndex:
    """colours: RGB of each class; void: the two colours of its stripes; wrong: the colour of wrong pixels, or the two
    of their stripes. An index of an earlier version has no `wrong`: void was drawn in squares of its two colours, or in
    one grey where there is no `void` either."""

    format: int = 0
    colours: tuple[RGB, ...]
    void: tuple[RGB, RGB] | None = None
    wrong: tuple[RGB, ...] | None = None
    images: tuple[ShownImage, ...]
    pseudo_labels: Annotated[PseudoLabelPictures, Field(alias="diary")]


def read_picture_index(folder: ComparisonFolder) -> PictureIndex | None:
    """The index of a comparison, None where it has no pictures yet. Raises UserError for a damaged index."""
    file = folder.picture_index
    if not file.exists():
        return None
    return check_dataclass(read_record(file, dict[str, Any], REMAKE), PictureIndex, file, REMAKE)


def write_picture_index(folder: ComparisonFolder, index: PictureIndex) -> None:
    write_json(folder.picture_index, dataclass_tree(index) | {"format": FORMAT})
