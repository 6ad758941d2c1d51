"""`predictions.png`: validation images beside their truth, the prediction and where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.classes import Colour
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.toolkit.types import IGNORE, Sample

GAP, LINE, WIDEST = 6, 16, 480  # pixels: between panels, of a text line, of a panel
BAR, BARS = 14, 360  # pixels: height and greatest length of a bar
HEADS = ("ground truth", "prediction", "wrong (red), void (checked)")  # beside the image, which has its name
WRONG, DARK = (230, 40, 40), 0.35  # colour of what is predicted wrongly; share of its light that the rest keeps
SWATCH = 12  # pixels: side of a colour in the legend
CHECK = 4  # pixels: side of a square of the pattern that void is drawn with
VOID = "void, not counted"  # in the legend
Panel = tuple[str, Image.Image]  # a head and what is below it


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples at even distances."""
    picks = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[i] for i in picks]


def predictions(file: Path, network: nn.Module, evaluator: Evaluator, samples: Sequence[Sample]) -> None:
    """Write the picture: a row a sample, a legend of the classes below."""
    dataset = evaluator.dataset
    rows = []
    for image, mask in evaluator.pairs(samples, network):
        predicted = evaluator.logits(network, image).max(dim=1).indices[0].cpu().numpy().astype(np.uint8)
        shown = photo(image[0].permute(1, 2, 0).cpu().numpy() * 255)
        rows.append(panels(shown, mask[0].cpu().numpy(), predicted, dataset))
    if rows:
        heads = [(sample.name, *HEADS) for sample in samples]
        sheet([list(zip(*row, strict=True)) for row in zip(heads, rows, strict=True)], dataset).save(file)


def panels(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, dataset: Dataset) -> list[Image.Image]:
    """The four pictures of a row, at most WIDEST pixels wide, small ones enlarged.

    image: (H, W, 3) uint8; truth, predicted: (H, W) ids.
    """
    height, width = image.shape[:2]
    scale = max(1, 320 // max(height, width)) if width <= WIDEST else WIDEST / width
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))
    truth, predicted = resized(truth, size), resized(predicted, size)
    wrong = (image * DARK).astype(np.uint8)
    wrong[predicted != truth] = WRONG
    wrong = checked(wrong, truth == IGNORE, dataset)
    return [Image.fromarray(p) for p in (image, coloured(truth, dataset), coloured(predicted, dataset), wrong)]


def photo(image: np.ndarray) -> np.ndarray:
    """(H, W, channels) in [0, 255] as (H, W, 3) uint8: the first three channels, or the first one as grey."""
    shown = image[..., : 3 if image.shape[2] >= 3 else 1].astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def coloured(ids: np.ndarray, dataset: Dataset) -> np.ndarray:
    """(H, W) class ids as (H, W, 3) colours; void is checked, see `checked`. For a picture of another size the ids are
    to be resized first, by `resized`."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(dataset.colours)] = dataset.colours
    return checked(table[ids], ids == IGNORE, dataset)


def checked(picture: np.ndarray, void: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The picture (H, W, 3) with squares of two colours that no class has where `void` (H, W) is true."""
    down, along = np.indices(void.shape)
    squares = np.array(void_colours(tuple(dataset.colours)), np.uint8)[(down // CHECK + along // CHECK) % 2]
    return np.where(void[..., None], squares, picture)


@cache
def void_colours(colours: tuple[Colour, ...]) -> tuple[Colour, Colour]:
    """The two colours of void: of a grid of colours the one that is farthest from every class and from `WRONG`, and the
    one that is farthest from these and from the first."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    taken = [*colours, WRONG]
    found: list[Colour] = []
    for _ in range(2):
        far = np.abs(grid[:, None] - np.array([*taken, *found])[None]).sum(axis=2).min(axis=1)
        red, green, blue = (int(part) for part in grid[far.argmax()])
        found.append((red, green, blue))
    return found[0], found[1]


def resized(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) class ids at another size (width, height): of each new pixel the nearest one's."""
    return np.asarray(Image.fromarray(ids.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))


def sheet(rows: Sequence[Sequence[Panel]], dataset: Dataset) -> Image.Image:
    """All rows, each picture below its head, and the legend."""
    width = max(sum(picture.width + GAP for _, picture in row) for row in rows) + GAP
    width = max(width, 480)
    per_line = max(1, width // 150)
    legend = -(-(len(dataset.class_names) + 1) // per_line) * LINE + GAP
    heights = [max(picture.height for _, picture in row) for row in rows]
    height = LINE + sum(tall + LINE + GAP for tall in heights) + legend
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for row, tall in zip(rows, heights, strict=True):
        left = GAP
        for head, picture in row:
            draw.text((left, top + 2), cut(head, picture.width, draw), fill="black")
            canvas.paste(picture, (left, top + LINE))
            frame = (left - 1, top + LINE - 1, left + picture.width, top + LINE + picture.height)
            draw.rectangle(frame, outline="lightgrey")  # where white ends
            left += picture.width + GAP
        top += tall + LINE + GAP
    for index, name in enumerate((*dataset.class_names, VOID)):
        left, line = GAP + (index % per_line) * 150, top + (index // per_line) * LINE
        ids = np.full((SWATCH, SWATCH), index if index < len(dataset.class_names) else IGNORE, np.uint8)
        canvas.paste(Image.fromarray(coloured(ids, dataset)), (left, line + 2))
        draw.rectangle((left, line + 2, left + SWATCH - 1, line + SWATCH + 1), outline="black")
        draw.text((left + SWATCH + 4, line + 1), name[:20], fill="black")
    return canvas


def cut(text: str, width: int, draw: ImageDraw.ImageDraw) -> str:
    """As much of the text's end as fits: of a path the end says most."""
    while len(text) > 2 and draw.textlength(text) > width:
        text = "…" + text[2:]
    return text


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One below the other."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def bars(title: str, values: Sequence[float], dataset: Dataset, told: Callable[[float], str]) -> Image.Image:
    """A bar for each class, the longest for the largest value. told: what is written beside one."""
    canvas = Image.new("RGB", (BARS + 260, len(values) * (BAR + 4) + LINE + GAP), "white")
    draw, most = ImageDraw.Draw(canvas), max(*values, 1e-9)
    draw.text((GAP, 2), title, fill="black")
    for index, (name, value) in enumerate(zip(dataset.class_names, values, strict=True)):
        top, length = LINE + index * (BAR + 4), round(BARS * value / most)
        draw.rectangle((150, top, 150 + length, top + BAR), fill=dataset.colours[index], outline="black")
        draw.text((GAP, top + 1), name[:22], fill="black")
        draw.text((156 + length, top + 1), told(value), fill="black")
    return canvas
