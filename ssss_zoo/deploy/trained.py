"""A run's network with all that it needs to predict new images; the data set need not be there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.data.images import (
    MODE_OF_CHANNELS,
    Reading,
    find_missing_data,
    read_eight_bits,
    read_stored_values,
    scale_stored_values,
)
from ssss_zoo.deploy.image_sources import check_like_training
from ssss_zoo.errors import UserError, check_choice, expanded
from ssss_zoo.evaluation.evaluator import Predictor
from ssss_zoo.hub import is_hub_name
from ssss_zoo.record_files import CheckpointRecord, MaskValuesRecord, read_metrics
from ssss_zoo.toolkit.types import IGNORE
from ssss_zoo.train import checkpoint
from ssss_zoo.train.device import choose_device
from ssss_zoo.train.reevaluate import classes_of, find_checkpoint, load_network, run_config
from ssss_zoo.train.run_folder import RunFolder, find_run

log = logging.getLogger("ssss_zoo")
WEIGHT_NAMES = ("last", "best")  # the checkpoints of a run
SOURCE_IN_MEMORY = Path("<array>")  # stands for an image that is no file, in messages
ImageInput = str | Path | np.ndarray | Image.Image


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one image.

    classes: (H, W) uint8 class ids, 255 where the image has no data. probabilities: (C, H, W) float32, their sum over C
    is 1. class_names, colours: of each class, in the order of the ids.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]

    @property
    def confidence(self) -> np.ndarray:
        """(H, W) float32: the probability of the likeliest class."""
        highest: np.ndarray = self.probabilities.max(axis=0)
        return highest

    def to_image(self) -> Image.Image:
        """The classes as a palette image: its pixels are the ids, shown in the colours of the classes."""
        return palette_image(self.classes, self.colours)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network of a run, ready to predict.

    network: takes images (B, channels, H, W) in [0, 1] and normalises them itself, in evaluation mode. reading: how
    image files become arrays. predictor: predicts as the run was evaluated. source: the run, checkpoint and network in
    one line, for people. mask_values: what the training masks held, where it is known.
    """

    network: nn.Module
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    reading: Reading
    predictor: Predictor
    device: torch.device
    source: str
    mask_values: MaskValuesRecord | None = None

    def predict(self, image: ImageInput) -> Prediction:
        """Predict one image.

        image: the path of a file; a Pillow image; or an array (H, W) or (H, W, channels), uint8 or, of a run on deeper
        images, with the values that their files hold. Raises UserError for an image that does not fit the run.
        """
        pixels, valid = self.read(image)
        probs = self.probabilities(image_batch([pixels], self.device))[0]
        classes = ids_of_classes(probs, valid)
        return Prediction(classes, probs.cpu().numpy(), self.class_names, self.colours)

    def read(self, image: ImageInput) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels (H, W, channels) in [0, 255] as the network was trained on; and (H, W) bool, false where the image has
        no data, None where it has data everywhere. Raises as `predict`."""
        if isinstance(image, str | Path):
            path = expanded(image)
            values, missing = read_stored_values(path, self.reading, check_like_training)
        else:
            array = pillow_array(image, self.reading) if isinstance(image, Image.Image) else image
            values, missing = find_missing_data(channels_of_array(array, self.reading), self.reading.nodata, None)
        pixels = scale_stored_values(values, missing, self.reading)
        return pixels, None if missing is None or not self.reading.gaps else ~missing

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C, H, W) on the device, of images (B, channels, H, W) in [0, 255]."""
        return self.predictor.probabilities(self.network, images.to(self.device).float() / 255)


# --- loading --------------------------------------------------------------------------------------------------------


def load_model(
    run: str | Path, weights: str | None = None, network: str | None = None, device: str = "auto"
) -> TrainedModel:
    """The trained model in a run's folder; `model.predict("photo.jpg")` predicts an image.

    run: the folder, or `hf://NAME` or `hf://NAME@revision` for a run on the hub. weights: `best` or `last`; by default
    the best checkpoint, the last where there is no best one. network: `student` or `teacher`; by default the one that
    the run's figures are of. device: as `train.device`. Raises UserError where there is no run, or no checkpoint.
    """
    folder = find_run(run)
    config = run_config(folder, [f"train.device={device}", "train.precision=32"])
    if weights is None:
        weights = "last" if checkpoint.find_folder(folder / "best") is None else "best"
    check_choice("weights", weights, WEIGHT_NAMES)
    place = find_checkpoint(folder, weights)
    state = checkpoint.load_typed(place, CheckpointRecord)
    if not is_hub_name(run) and not run_finished(folder):  # `ssss push` uploads finished runs alone
        log.warning(
            f"the run in {folder} has not finished; its {weights} checkpoint so far is of step {state['global_step']}"
        )
    network = network or state["reported"]
    check_choice("network", network, checkpoint.network_names(place))
    class_names = tuple(classes_of(folder, state))
    reading = reading_of(state, config)
    if "off" not in config.data.nodata:
        reading = replace(reading, tags=True, gaps=True)  # an image may name a value without data, as none did before
    chosen = choose_device(config)
    return TrainedModel(
        network=load_network(config, len(class_names), place, network).to(chosen),
        class_names=class_names,
        colours=colours_of(state, len(class_names)),
        reading=reading,
        predictor=Predictor(config.evaluate, square(config.train.crop)),
        device=chosen,
        source=f"{weights} {network} of {run if is_hub_name(run) else folder}, step {state['global_step']}",
        mask_values=state.get("mask_values"),
    )


def run_finished(folder: Path) -> bool:
    """Whether metrics.json of a run says that it has finished; true where a damaged file does not tell."""
    try:
        return read_metrics(RunFolder(folder).metrics, "")["status"] == "finished"
    except UserError:
        return RunFolder(folder).metrics.exists()


def colours_of(state: CheckpointRecord, classes: int) -> tuple[Colour, ...]:
    """The colours of the classes; generated ones for a checkpoint of an earlier version, which holds none."""
    stored = state.get("colours", [])
    if len(stored) != classes:
        return class_colours(classes)
    return tuple((red, green, blue) for red, green, blue in stored)


def reading_of(state: CheckpointRecord, config: Config) -> Reading:
    """How image files become arrays. For a checkpoint that does not say it, the settings of the run do."""
    if "reading" in state:
        return reading_from_record(state["reading"])
    data = config.data
    nodata = tuple(float(value) for value in data.nodata if value != "off")
    reading = Reading(bands=tuple(data.channels), low=tuple(data.low), high=tuple(data.high), mixed=bool(data.low))
    reading = replace(reading, nodata=nodata, gaps=bool(nodata), exif=data.exif, max_pixels=data.max_pixels)
    return replace(reading, channels=config.model.in_channels)


def reading_from_record(record: Mapping[str, Any]) -> Reading:
    """How image files become arrays, from its fields as JSON has them; fields of a later version are left out."""
    known = {field.name for field in fields(Reading)}
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key in known
    }
    return Reading(**stored)


# --- arrays ---------------------------------------------------------------------------------------------------------


def pillow_array(image: Image.Image, reading: Reading) -> np.ndarray:
    """A Pillow image as an array (H, W) or (H, W, channels), upright; with 8 bits a channel it gets the channels
    of the run."""
    upright = (ImageOps.exif_transpose(image) or image) if reading.exif else image
    mode = MODE_OF_CHANNELS.get(reading.channels)
    if reading.bands or mode is None or upright.mode.startswith(("I", "F")):
        return np.asarray(upright)
    return read_eight_bits(upright, mode, SOURCE_IN_MEMORY)


def channels_of_array(array: np.ndarray, reading: Reading) -> np.ndarray:
    """An array as (H, W, channels) with the channels that the network takes; grey becomes RGB. Raises UserError for
    another shape or type than the run's images have."""
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim == 3 and reading.bands and max(reading.bands) <= pixels.shape[2]:
        pixels = pixels[..., [band - 1 for band in reading.bands]]
    if pixels.ndim == 3 and pixels.shape[2] == 1 and reading.channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != reading.channels or 0 in pixels.shape:
        raise UserError(f"the image has the shape {array.shape}; expected (height, width, {reading.channels})")
    if pixels.dtype != np.uint8 and not reading.low:
        raise UserError(f"the image is of type {pixels.dtype}; expected uint8, 0 to 255, as in the run")
    return pixels


def image_batch(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Images (H, W, channels) of one size and type as (B, channels, H, W) on a device."""
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).contiguous()


def ids_of_classes(probs: Tensor, valid: np.ndarray | None) -> np.ndarray:
    """(H, W) uint8: the likeliest class of probabilities (C, H, W), 255 where `valid` (H, W) is false."""
    return mark_void(likeliest_classes(probs)[0].cpu().numpy(), valid)


def likeliest_classes(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Of probabilities (..., C, H, W), on their device: the likeliest classes, (..., H, W) uint8, and the probability
    of these, (..., H, W)."""
    highest = probs.max(dim=-3)  # argmax takes several times as long on a CPU
    return highest.indices.to(torch.uint8), highest.values


def mark_void(classes: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """(H, W) uint8 class ids, 255 where `valid` (H, W) is false."""
    return classes if valid is None else np.where(valid, classes, np.uint8(IGNORE))


def palette_image(classes: np.ndarray, colours: Sequence[Colour]) -> Image.Image:
    """(H, W) uint8 class ids as a palette image, see `palette_bytes`."""
    image = Image.fromarray(classes, "P")
    image.putpalette(palette_bytes(colours))
    return image


def palette_bytes(colours: Sequence[Colour]) -> bytes:
    """The 256 colours of a palette image, RGB after RGB; ids without a class are white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table.tobytes()
