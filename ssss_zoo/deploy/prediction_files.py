"""The files that `ssss predict` writes for an image, and predictions.csv for all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssss_zoo.atomic_write import replacing_file, write_text
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.deploy.trained import palette_image
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.evaluation.painting import draw_overlay
from ssss_zoo.toolkit.types import IGNORE

MASKS, POLYGONS = "masks", "polygons"  # folders of the output
PNG_SUFFIX, GEOTIFF_SUFFIX = ".png", ".tif"  # of a mask; a GeoTIFF where the image has a georeference
SAVE_SUFFIXES = {"overlays": ".jpg", "probabilities": ".npz", "uncertainty": ".png", POLYGONS: ".json"}  # by folder
PROBABILITY_FOLDERS = {"probabilities", "uncertainty"}  # whose files are made of probabilities
CSV_NAME = "predictions.csv"


@dataclass(frozen=True)
class PredictionRow:
    """A line of predictions.csv. file: the name of the image. shares: of the pixels with data, by class."""

    file: str
    width: int
    height: int
    shares: tuple[float, ...]
    confidence: float


def summarize_classes(file: str, size: tuple[int, int], counts: np.ndarray, confidence_sum: float) -> PredictionRow:
    """The row of an image. size: (H, W). counts: pixels by class; confidence_sum: over these pixels."""
    pixels = max(int(counts.sum()), 1)
    shares = tuple(float(share) for share in counts / pixels)
    return PredictionRow(file, size[1], size[0], shares, confidence_sum / pixels)


def count_classes(classes: np.ndarray, number: int) -> np.ndarray:
    """The number of pixels of each class in (H, W) ids; those without data are left out."""
    counts: np.ndarray = torch.bincount(torch.from_numpy(classes).flatten(), minlength=IGNORE + 1)[:number].numpy()
    return counts


# --- one image ------------------------------------------------------------------------------------------------------


def output_path(output: Path, folder: str, name: str) -> Path:
    """The file of an image in one of the folders of the output."""
    return output / folder / f"{name}{SAVE_SUFFIXES.get(folder, '.png')}"


def mask_path(output: Path, name: str, suffix: str) -> Path:
    return output / MASKS / f"{name}{suffix}"


def mask_paths(output: Path, name: str) -> list[Path]:
    """The files that the mask of an image may have."""
    return [mask_path(output, name, suffix) for suffix in (PNG_SUFFIX, GEOTIFF_SUFFIX)]


def save_picture(file: Path, picture: Image.Image) -> None:
    """Write a picture whole or not at all, in the format of the file's suffix. Raises UserError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file, flush=False) as new:
            picture.save(new, format="JPEG" if file.suffix == ".jpg" else "PNG")
    except OSError as error:
        raise cannot_write(file, error) from error


def save_mask(file: Path, classes: np.ndarray, colours: Sequence[Colour]) -> None:
    """Write (H, W) uint8 class ids as a PNG with a palette. Raises UserError."""
    save_picture(file, palette_image(classes, colours))


def save_extra(
    file: Path, folder: str, pixels: np.ndarray, classes: np.ndarray, probs: Tensor | None, colours: Sequence[Colour]
) -> None:
    """Write one of the further outputs of an image. folder: `overlays`, `probabilities` or `uncertainty`. pixels:
    (H, W, channels) in [0, 255]; classes: (H, W); probs: (C, H, W), on any device, which overlays do not need. Raises
    UserError."""
    if folder == "overlays":
        save_picture(file, draw_overlay(pixels, classes, colours))
        return
    assert probs is not None
    if folder == "uncertainty":
        save_picture(file, Image.fromarray((255 * uncertainty(probs.cpu().numpy())).round().astype(np.uint8)))
    else:
        save_probabilities(file, probs.cpu().numpy())


def uncertainty(probs: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1]: the entropy of probabilities (C, H, W), divided by its highest value, log C."""
    entropy = -(probs * np.log(np.maximum(probs, 1e-12))).sum(axis=0)
    return np.clip(entropy / np.log(max(len(probs), 2)), 0, 1)


def save_probabilities(file: Path, probs: np.ndarray) -> None:
    """Write (C, H, W) probabilities as float16 under the key `probabilities`. Raises UserError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file, flush=False) as new, new.open("wb") as handle:
            np.savez_compressed(handle, probabilities=probs.astype(np.float16))
    except OSError as error:
        raise cannot_write(file, error) from error


# --- predictions.csv ------------------------------------------------------------------------------------------------


def write_rows(file: Path, rows: Iterable[PredictionRow], names: Sequence[str]) -> None:
    """Write predictions.csv, sorted by file. Raises UserError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "width", "height", *(f"share {name}" for name in names), "mean confidence"])
    for row in sorted(rows, key=lambda row: row.file):
        shares = [f"{share:.6f}" for share in row.shares]
        writer.writerow([row.file, row.width, row.height, *shares, f"{row.confidence:.6f}"])
    write_text(file, text.getvalue())


def read_rows(file: Path, classes: int) -> dict[str, PredictionRow]:
    """The rows of predictions.csv by file; empty without one. Raises UserError for a file of another form."""
    if not file.exists():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            rows = [
                PredictionRow(name, int(width), int(height), tuple(map(float, rest[:-1])), float(rest[-1]))
                for name, width, height, *rest in list(csv.reader(handle))[1:]
            ]
    except (OSError, ValueError, IndexError):
        raise UserError(f"{file} is damaged, or not ours: remove it, or give overwrite=true") from None
    if any(len(row.shares) != classes for row in rows):
        raise UserError(f"{file} is of a run with other classes: choose another output, or give overwrite=true")
    return {row.file: row for row in rows}
