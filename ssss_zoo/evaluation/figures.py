"""`predictions.png`: validation images with ground truth, prediction, and where it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import nn

from ssss_zoo.data.base import Dataset
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.painting import (
    colour_classes,
    draw_errors,
    photo,
    picture_size,
    resize_nearest,
    resize_photo,
)
from ssss_zoo.evaluation.sheets import Panel, PanelRow, class_legend, draw_sheet
from ssss_zoo.toolkit.types import Sample

Spaced = TypeVar("Spaced")


def evenly_spaced(items: Sequence[Spaced], count: int) -> list[Spaced]:
    """`count` of the items, evenly spaced, or all of them where there are no more."""
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in picks]


def write_predictions(file: Path, network: nn.Module, evaluator: Evaluator, samples: Sequence[Sample]) -> None:
    """Write a sheet with a row for each sample: image, ground truth, prediction, errors; below it a legend."""
    dataset = evaluator.dataset
    rows = []
    shown: set[int] = set()
    for sample, (image, mask) in zip(samples, evaluator.pairs(samples, network), strict=True):
        predicted = evaluator.logits(network, image).max(dim=1).indices[0].cpu().numpy().astype(np.uint8)
        truth = mask[0].cpu().numpy()
        pixels = photo(image[0].permute(1, 2, 0).cpu().numpy() * 255)
        rows.append(PanelRow(sample.name, prediction_panels(pixels, truth, predicted, dataset)))
        shown |= set(np.unique(truth).tolist()) | set(np.unique(predicted).tolist())
    if rows:
        draw_sheet(rows, class_legend(dataset, shown, errors=True)).save(file)


def prediction_panels(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, dataset: Dataset) -> list[Panel]:
    """The four panels of a row. image: (H, W, 3) uint8; truth, predicted: (H, W) class ids."""
    size = picture_size(*image.shape[:2])
    image = resize_photo(image, size)
    truth = resize_nearest(truth, size)
    predicted = resize_nearest(predicted, size)
    pictures = {
        "image": image,
        "ground truth": colour_classes(truth, dataset.colours),
        "prediction": colour_classes(predicted, dataset.colours),
        "where it is wrong": draw_errors(image, truth, predicted, dataset.colours),
    }
    return [Panel(title, Image.fromarray(picture)) for title, picture in pictures.items()]
