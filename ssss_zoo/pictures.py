"""`predictions.png`: validation images beside their truth, the prediction and where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from ssss_zoo.data.base import Dataset
from ssss_zoo.evaluation import Evaluator
from ssss_zoo.records import IGNORE, Sample

GAP, LINE, WIDEST = 6, 16, 480  # pixels: between panels, of a text line, of a panel
BAR, BARS = 14, 360  # pixels: height and greatest length of a bar
HEADS = ("ground truth", "prediction", "wrong (red), void (grey)")  # beside the image, which has its name
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
    wrong = (image * 0.35).astype(np.uint8)
    wrong[(predicted != truth) & (truth != IGNORE)] = (230, 40, 40)
    wrong[truth == IGNORE] = (128, 128, 128)
    pictures = [Image.fromarray(p) for p in (image, coloured(truth, dataset), coloured(predicted, dataset), wrong)]
    scale = max(1, 320 // image.shape[1]) if image.shape[1] <= WIDEST else WIDEST / image.shape[1]
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]


def photo(image: np.ndarray) -> np.ndarray:
    """(H, W, channels) in [0, 255] as (H, W, 3) uint8: the first three channels, or the first one as grey."""
    shown = image[..., : 3 if image.shape[2] >= 3 else 1].astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def coloured(ids: np.ndarray, dataset: Dataset) -> np.ndarray:
    """(H, W) class ids as (H, W, 3) colours; void is grey."""
    table = np.full((256, 3), 128, np.uint8)
    table[: len(dataset.colours)] = dataset.colours
    return table[ids]


def sheet(rows: Sequence[Sequence[Panel]], dataset: Dataset) -> Image.Image:
    """All rows, each picture below its head, and the legend."""
    width = max(sum(picture.width + GAP for _, picture in row) for row in rows) + GAP
    width = max(width, 480)
    per_line = max(1, width // 150)
    legend = -(-len(dataset.class_names) // per_line) * LINE + GAP
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
    for index, name in enumerate(dataset.class_names):
        left, line = GAP + (index % per_line) * 150, top + (index // per_line) * LINE
        draw.rectangle((left, line + 2, left + 10, line + 12), fill=dataset.colours[index], outline="black")
        draw.text((left + 15, line + 1), name[:20], fill="black")
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
