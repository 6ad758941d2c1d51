"""The pictures of a comparison as a report holds them: data URLs, and the legend of their colours."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.records import REMAKE
from ssss_zoo.comparison.report.picture_index import PictureIndex, PseudoLabelPictures, ShownImage
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
OLD_VOID_GREY = (150, 150, 150)  # of void in the pictures of an earlier version
OLD_WRONG_COLOUR = (213, 94, 0)  # of wrong pixels there


@dataclass(frozen=True)
class LegendItem:
    """A name of the legend, and the CSS background of its swatch."""

    name: str
    background: str


@dataclass(frozen=True)
class EmbeddedPrediction:
    """The pictures of a row on an image, as data URLs. miou: of this image alone, in percent."""

    name: str
    miou: str
    predicted: str
    wrong: str


@dataclass(frozen=True)
class EmbeddedImage:
    """A validation image and its pictures, as data URLs. rows: None of a row that has no prediction of it."""

    name: str
    worst: bool
    image: str
    truth: str
    rows: list[EmbeddedPrediction | None]


@dataclass(frozen=True)
class EmbeddedPseudoLabels:
    """The pictures of a row's pseudo-labels, as data URLs with the step before each."""

    name: str
    steps: list[tuple[int, str]]


# --- legend ---------------------------------------------------------------------------------------------------------


def legend_items(classes: Sequence[str], index: PictureIndex) -> list[LegendItem]:
    """The legend of the pictures: each class, void, and last the wrong pixels, which pseudo-labels do not show."""
    named = [LegendItem(name, as_css(colour)) for name, colour in zip(classes, index.colours, strict=False)]
    void = index.void or (OLD_VOID_GREY, OLD_VOID_GREY)
    if index.wrong is None:
        squares = f"repeating-conic-gradient({as_css(void[0])} 0 25%, {as_css(void[1])} 0 50%) 0 0 / 0.45em 0.45em"
        return [*named, LegendItem("void", squares), LegendItem("wrong", as_css(OLD_WRONG_COLOUR))]
    wrong = as_css(index.wrong[0]) if len(index.wrong) == 1 else css_stripes(index.wrong, 45)
    return [*named, LegendItem("void, not counted", css_stripes(void, 135)), LegendItem("wrong", wrong)]


def css_stripes(colours: Sequence[Sequence[int]], angle: int) -> str:
    first, second = (as_css(colour) for colour in colours)
    return f"repeating-linear-gradient({angle}deg, {first} 0 3px, {second} 3px 6px)"


def as_css(colour: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"


# --- pictures -------------------------------------------------------------------------------------------------------


def row_names(index: PictureIndex) -> list[str]:
    """The rows that have a prediction of one of the images, each once, in their order."""
    return list(dict.fromkeys(name for image in index.images for name in image.files.rows))


def embed_image(image: ShownImage, rows: Sequence[str], folder: ComparisonFolder) -> EmbeddedImage:
    """A validation image with the pictures of `rows`."""
    found = {
        name: EmbeddedPrediction(
            name=name,
            miou=f"{100 * image.miou[name]:.1f}" if name in image.miou else "-",
            predicted=data_url(folder, pictures.predicted),
            wrong=data_url(folder, pictures.wrong),
        )
        for name, pictures in image.files.rows.items()
    }
    return EmbeddedImage(
        name=image.name,
        worst=image.worst,
        image=data_url(folder, image.files.image),
        truth=data_url(folder, image.files.truth),
        rows=[found.get(name) for name in rows],
    )


def embed_pseudo_labels(pictures: PseudoLabelPictures, folder: ComparisonFolder) -> list[EmbeddedPseudoLabels]:
    """The pictures of each row's pseudo-labels; empty where no method makes any."""
    return [
        EmbeddedPseudoLabels(name, [(picture.step, data_url(folder, picture.file)) for picture in of_row])
        for name, of_row in pictures.rows.items()
        if of_row
    ]


def data_url(folder: ComparisonFolder, name: str) -> str:
    """A picture of the comparison as a data URL. Raises UserError where it is missing, is no picture, or lies outside
    the folder of pictures."""
    file = folder.pictures / name
    media_type = MEDIA_TYPES.get(file.suffix)
    if media_type is None or Path(name).name != name or not file.is_file():
        raise UserError(f"{folder.picture_index} names '{brief(name)}', which is not a picture in its folder; {REMAKE}")
    return f"data:{media_type};base64,{base64.b64encode(file.read_bytes()).decode()}"
