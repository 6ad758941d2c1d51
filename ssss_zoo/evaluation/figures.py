"""Pictures for people: predictions beside their ground truth, class colours, and bars of a value for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.classes import Colour
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.toolkit.types import IGNORE, Sample

PANEL_GAP = 6  # pixels between panels
TEXT_HEIGHT = 16  # pixels of a line of text
MAX_PANEL_WIDTH = 480  # pixels
MIN_PANEL_SIDE = 320  # pixels: small images are enlarged to about this size
MIN_SHEET_WIDTH = 480  # pixels
LEGEND_ENTRY_WIDTH = 150  # pixels
BAR_HEIGHT = 14  # pixels
MAX_BAR_LENGTH = 360  # pixels
SWATCH_SIDE = 12  # pixels of a colour in the legend
VOID_SQUARE = 4  # pixels: side of a square of the pattern that void is drawn with
PANEL_HEADINGS = ("ground truth", "prediction", "wrong (red), void (checked)")  # after the image, which has its name
WRONG_COLOUR = (230, 40, 40)  # RGB of wrong pixels
RIGHT_BRIGHTNESS = 0.35  # of the pixels that are not wrong
VOID_NAME = "void, not counted"  # in the legend
Panel = tuple[str, Image.Image]  # a heading and the picture below it
Spaced = TypeVar("Spaced")


def evenly_spaced(items: Sequence[Spaced], count: int) -> list[Spaced]:
    """`count` of the items, evenly_spaced spaced, or all of them where there are no more."""
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in picks]


# --- predictions ----------------------------------------------------------------------------------------------------


def write_predictions(file: Path, network: nn.Module, evaluator: Evaluator, samples: Sequence[Sample]) -> None:
    """Write a picture with a row for each sample: image, ground truth, prediction, errors; below it a legend."""
    dataset = evaluator.dataset
    rows = []
    for image, mask in evaluator.pairs(samples, network):
        predicted = evaluator.logits(network, image).max(dim=1).indices[0].cpu().numpy().astype(np.uint8)
        pixels = photo(image[0].permute(1, 2, 0).cpu().numpy() * 255)
        rows.append(prediction_panels(pixels, mask[0].cpu().numpy(), predicted, dataset))
    if rows:
        headings = [(sample.name, *PANEL_HEADINGS) for sample in samples]
        sheet([list(zip(*row, strict=True)) for row in zip(headings, rows, strict=True)], dataset).save(file)


def prediction_panels(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, dataset: Dataset
) -> list[Image.Image]:
    """The four pictures of a row, at most MAX_PANEL_WIDTH wide, small ones enlarged.

    image: (H, W, 3) uint8; truth, predicted: (H, W) class ids.
    """
    height, width = image.shape[:2]
    enlarged = max(1, MIN_PANEL_SIDE // max(height, width))
    scale = enlarged if width <= MAX_PANEL_WIDTH else MAX_PANEL_WIDTH / width
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))
    truth, predicted = resize_ids(truth, size), resize_ids(predicted, size)
    errors = (image * RIGHT_BRIGHTNESS).astype(np.uint8)
    errors[predicted != truth] = WRONG_COLOUR
    errors = draw_void(errors, truth == IGNORE, dataset)
    pictures = (image, colour_classes(truth, dataset), colour_classes(predicted, dataset), errors)
    return [Image.fromarray(picture) for picture in pictures]


def resize_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) class ids at another size (width, height): each new pixel has the nearest one's id."""
    return np.asarray(Image.fromarray(ids.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))


# --- colours --------------------------------------------------------------------------------------------------------


def photo(image: np.ndarray) -> np.ndarray:
    """(H, W, channels) in [0, 255] as (H, W, 3) uint8: the first three channels, or the first one as grey."""
    channels = image[..., : 3 if image.shape[2] >= 3 else 1].astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(channels, (*channels.shape[:2], 3)))


def colour_classes(ids: np.ndarray, dataset: Dataset) -> np.ndarray:
    """(H, W) class ids as (H, W, 3) colours, void as in `draw_void`. For a picture of another size, resize the ids
    first (`resize_ids`)."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(dataset.colours)] = dataset.colours
    return draw_void(table[ids], ids == IGNORE, dataset)


def draw_void(picture: np.ndarray, void: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The picture (H, W, 3) with squares of two colours that no class has where `void` (H, W) is true."""
    row, column = np.indices(void.shape)
    colours = np.array(void_colours(tuple(dataset.colours)), np.uint8)
    squares = colours[(row // VOID_SQUARE + column // VOID_SQUARE) % 2]
    return np.where(void[..., None], squares, picture)


@cache
def void_colours(colours: tuple[Colour, ...]) -> tuple[Colour, Colour]:
    """The two colours of void: of a grid of colours the one farthest from every class and from WRONG_COLOUR, and the
    one farthest from these and from the first."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    taken = [*colours, WRONG_COLOUR]
    chosen: list[Colour] = []
    for _ in range(2):
        distance = np.abs(grid[:, None] - np.array([*taken, *chosen])[None]).sum(axis=2).min(axis=1)
        red, green, blue = (int(part) for part in grid[distance.argmax()])
        chosen.append((red, green, blue))
    return chosen[0], chosen[1]


# --- sheets ---------------------------------------------------------------------------------------------------------


def sheet(rows: Sequence[Sequence[Panel]], dataset: Dataset) -> Image.Image:
    """All rows, each picture below its heading, and a legend of the classes."""
    width = max(sum(picture.width + PANEL_GAP for _, picture in row) for row in rows) + PANEL_GAP
    width = max(width, MIN_SHEET_WIDTH)
    heights = [max(picture.height for _, picture in row) for row in rows]
    legend = draw_legend(width, dataset)
    height = TEXT_HEIGHT + sum(tallest + TEXT_HEIGHT + PANEL_GAP for tallest in heights) + legend.height
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for row, tallest in zip(rows, heights, strict=True):
        left = PANEL_GAP
        for heading, picture in row:
            draw.text((left, top + 2), cut_start(heading, picture.width, draw), fill="black")
            canvas.paste(picture, (left, top + TEXT_HEIGHT))
            frame = (left - 1, top + TEXT_HEIGHT - 1, left + picture.width, top + TEXT_HEIGHT + picture.height)
            draw.rectangle(frame, outline="lightgrey")  # shows where a white picture ends
            left += picture.width + PANEL_GAP
        top += tallest + TEXT_HEIGHT + PANEL_GAP
    canvas.paste(legend, (0, top))
    return canvas


def draw_legend(width: int, dataset: Dataset) -> Image.Image:
    """The colour and the name of each class, and of void."""
    per_line = max(1, width // LEGEND_ENTRY_WIDTH)
    names = (*dataset.class_names, VOID_NAME)
    canvas = Image.new("RGB", (width, -(-len(names) // per_line) * TEXT_HEIGHT + PANEL_GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, name in enumerate(names):
        left = PANEL_GAP + (index % per_line) * LEGEND_ENTRY_WIDTH
        top = (index // per_line) * TEXT_HEIGHT
        class_id = index if index < len(dataset.class_names) else IGNORE
        ids = np.full((SWATCH_SIDE, SWATCH_SIDE), class_id, np.uint8)
        canvas.paste(Image.fromarray(colour_classes(ids, dataset)), (left, top + 2))
        draw.rectangle((left, top + 2, left + SWATCH_SIDE - 1, top + SWATCH_SIDE + 1), outline="black")
        draw.text((left + SWATCH_SIDE + 4, top + 1), name[:20], fill="black")
    return canvas


def cut_start(text: str, width: int, draw: ImageDraw.ImageDraw) -> str:
    """As much of the text's end as fits: the end of a path tells most."""
    while len(text) > 2 and draw.textlength(text) > width:
        text = "…" + text[2:]
    return text


def stack_vertically(pictures: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def class_bars(title: str, values: Sequence[float], dataset: Dataset, label: Callable[[float], str]) -> Image.Image:
    """A bar for each class, the longest for the largest value. label: the text beside the bar of a value."""
    canvas = Image.new("RGB", (MAX_BAR_LENGTH + 260, len(values) * (BAR_HEIGHT + 4) + TEXT_HEIGHT + PANEL_GAP), "white")
    draw = ImageDraw.Draw(canvas)
    largest = max(*values, 1e-9)
    draw.text((PANEL_GAP, 2), title, fill="black")
    for index, (name, value) in enumerate(zip(dataset.class_names, values, strict=True)):
        top = TEXT_HEIGHT + index * (BAR_HEIGHT + 4)
        length = round(MAX_BAR_LENGTH * value / largest)
        draw.rectangle((150, top, 150 + length, top + BAR_HEIGHT), fill=dataset.colours[index], outline="black")
        draw.text((PANEL_GAP, top + 1), name[:22], fill="black")
        draw.text((156 + length, top + 1), label(value), fill="black")
    return canvas
