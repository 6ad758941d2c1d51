"""Class probabilities of images of any size: whole, in overlapping tiles, mirrored and rescaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.deploy.predict_settings import PredictSettings
from ssss_zoo.deploy.tiff_windows import TiffWindows
from ssss_zoo.deploy.tiles import (
    Band,
    ReadRows,
    blend_tiles,
    choose_tile_side,
    memory_at_start,
    pixels_that_fit,
)
from ssss_zoo.deploy.trained import TrainedModel, image_batch, likeliest_classes, mark_void
from ssss_zoo.evaluation.evaluator import Predictor
from ssss_zoo.toolkit.tensors import resize

WHOLE_PIXELS_MAX = 4_000_000  # pixels of an image that is predicted in one piece (our choice)


def predict_pixels(model: TrainedModel, settings: PredictSettings, images: Sequence[np.ndarray]) -> Tensor:
    """Probabilities (B, C, H, W) of images (H, W, channels) of one size, in tiles where they are large."""
    height, width = images[0].shape[:2]
    memory = memory_at_start(model.device)
    if settings.tile is None and height * width <= min(WHOLE_PIXELS_MAX, pixels_that_fit(memory)):
        return augmented_probabilities(model, image_batch(images, model.device), settings)
    side = settings.tile or choose_tile_side(width, len(model.class_names), memory)
    probs = torch.empty(len(images), len(model.class_names), height, width)
    for image, of_image in zip(images, probs, strict=True):
        for band in predict_bands(model, settings, partial(rows_of_array, image), (height, width), side):
            of_image[:, band.top : band.top + band.probs.shape[1]] = band.probs
    return probs


def rows_of_array(pixels: np.ndarray, top: int, bottom: int) -> tuple[np.ndarray, None]:
    return pixels[top:bottom], None


def predict_bands(
    model: TrainedModel,
    settings: PredictSettings,
    read: ReadRows,
    size: tuple[int, int],
    side: int,
) -> Iterator[Band]:
    """Bands of a large image, see `blend_tiles`. A tile is predicted in one piece."""
    whole = Predictor(replace(model.predictor.settings, mode="whole"), model.predictor.window)
    in_one_piece = replace(model, predictor=whole)
    return blend_tiles(
        read,
        size,
        side,
        settings.overlap,
        len(model.class_names),
        lambda tile: augmented_probabilities(in_one_piece, image_batch([tile], model.device), settings)[0],
    )


@torch.inference_mode()
def augmented_probabilities(model: TrainedModel, images: Tensor, settings: PredictSettings) -> Tensor:
    """Probabilities (B, C, H, W) of images on the device: the mean over all scales, mirrored and not where flip is
    set."""
    height, width = images.shape[-2:]
    if not settings.flip and settings.scales == [1.0]:
        return model.probabilities(images)
    images = images.float()
    found = []
    for scale in settings.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = images if scale == 1 else resize(images, size)
        views = [model.probabilities(scaled)]
        if settings.flip:
            views.append(model.probabilities(scaled.flip(-1)).flip(-1))
        found += [resize(view, (height, width)) for view in views]
    return torch.stack(found).mean(dim=0)


def classify_windows(
    model: TrainedModel, settings: PredictSettings, windows: TiffWindows
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Class ids and confidence, (rows, W) each, of a TIFF from top to bottom."""
    side = settings.tile or choose_tile_side(windows.size[1], len(model.class_names), memory_at_start(model.device))
    for band in predict_bands(model, settings, windows.read_rows, windows.size, side):
        classes, confidence = likeliest_classes(band.probs)
        yield mark_void(classes.numpy(), None if band.missing is None else ~band.missing), confidence.numpy()
