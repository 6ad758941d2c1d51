"""Endless streams of random crops.

The crop at a position of a stream depends on the seed, the stream's tag and the position alone. So a run that continues
at position k gets the crops that an uninterrupted run would get, with any number of workers, and no state is saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from ssss_zoo.config.schema import AugmentConfig
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.workers import load_batches
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

ORDER_DRAW, GEOMETRY_DRAW = 0, 1  # purposes of random generators: no two purposes share their draws
INTERPOLATION = Image.Resampling.BILINEAR  # Pillow widens the filter when it shrinks, which antialiases


@dataclass(frozen=True)
class CropGeometry:
    """A crop of a rescaled image, in pixels.

    source: (H, W) of the original image. size: (H, W) of the rescaled image. offset: (top, left) of the crop in the
    rescaled image. filled: (rows, columns) of the crop that the image fills; the rest is padding.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    offset: tuple[int, int]
    filled: tuple[int, int]


def draw_geometry(
    source: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    base: int | None = None,
    law: str = "uniform",
) -> CropGeometry:
    """Draw scale and offset of a crop of an image (H, W), by the rule of UniMatch's release (with another order of
    draws).

    The long side becomes a whole number drawn uniformly from [floor(lo * L), floor(hi * L)]. L is the image's own long
    side, or `base` (ST++, AugSeg). The other side follows, rounded half up. The offset is uniform over all positions
    where the crop fits, and 0 along a side that is too short. law: `uniform`, or `halves`, which draws from [lo, 1] and
    from [1, hi] equally often (U2PL's release) and so shrinks images more often.
    """
    long = max(source)
    if law == "halves":
        scale = (scale[0], 1.0) if rng.random() < 0.5 else (1.0, scale[1])
    whole = base or long
    drawn = max(int(rng.integers(int(scale[0] * whole), int(scale[1] * whole), endpoint=True)), 1)
    height, width = (max((2 * side * drawn + long) // (2 * long), 1) for side in source)
    top = int(rng.integers(0, max(height - crop[0], 0), endpoint=True))
    left = int(rng.integers(0, max(width - crop[1], 0), endpoint=True))
    filled = (min(height, crop[0]), min(width, crop[1]))
    return CropGeometry(source, (height, width), (top, left), filled)


def crop_image(image: np.ndarray, geometry: CropGeometry) -> np.ndarray:
    """The filled part of the crop, (rows, columns, channels), of `image` (H, W, channels) uint8 or float32, in the same
    type. Equal to resizing the whole image and cutting the crop out, but only the crop's own pixels are computed."""
    spans = [source_span(geometry, axis) for axis in (0, 1)]
    (top, bottom, first, last), (left, right, begin, end) = spans
    part = np.ascontiguousarray(image[top:bottom, left:right])
    box, size = (begin, first, end, last), geometry.filled[::-1]
    whole = part.shape[2] == 3 and part.dtype == np.uint8  # Pillow has a mode for it
    planes = [part] if whole else [part[:, :, channel] for channel in range(part.shape[2])]
    resized = [np.asarray(Image.fromarray(plane).resize(size, INTERPOLATION, box)) for plane in planes]
    return resized[0] if whole else np.stack(resized, axis=2)


def source_span(geometry: CropGeometry, axis: int) -> tuple[int, int, float, float]:
    """Along one axis: start and stop of the source pixels that the crop needs, with the filter's reach, and where the
    crop begins and ends, counted from that start."""
    source, size = geometry.source[axis], geometry.size[axis]
    offset, filled = geometry.offset[axis], geometry.filled[axis]
    ratio = source / size
    begin, end = offset * source / size, (offset + filled) * source / size
    reach = int(max(ratio, 1.0)) + 2
    start, stop = max(int(begin) - reach, 0), min(int(end) + reach + 1, source)
    return start, stop, begin - start, min(end - start, stop - start)


def crop_mask(mask: np.ndarray, geometry: CropGeometry) -> np.ndarray:
    """The filled part of the crop, (rows, columns) uint8, of `mask` (H, W), by nearest neighbour. It is computed in
    whole numbers: Pillow's adds up rounding errors and may be a pixel off."""
    rows, columns = (nearest_pixels(geometry, axis) for axis in (0, 1))
    return np.ascontiguousarray(mask[rows][:, columns])


def nearest_pixels(geometry: CropGeometry, axis: int) -> np.ndarray:
    """Along one axis: the index of the source pixel under the centre of each pixel of the crop."""
    indices = geometry.offset[axis] + np.arange(geometry.filled[axis])
    return (2 * indices + 1) * geometry.source[axis] // (2 * geometry.size[axis])


@dataclass(frozen=True)
class Padding:
    """The padding of a crop where its image ends.

    colour: of each channel in [0, 1], empty for black. centred: whether the padding surrounds the image (the odd pixel
    at the right and below), or lies at the right and below alone. label: its value in the mask.
    """

    colour: tuple[float, ...] = ()
    centred: bool = False
    label: int = IGNORE

    def filled_region(self, crop: tuple[int, int], filled: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of the crop that the image fills."""
        top, left = ((side - part) // 2 if self.centred else 0 for side, part in zip(crop, filled, strict=True))
        return slice(top, top + filled[0]), slice(left, left + filled[1])

    def canvas(self, channels: int, crop: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """(channels, h, w) of padding alone, in [0, 255], rounded where `dtype` holds whole numbers."""
        colour = 255 * torch.tensor(self.colour or (0.0,) * channels)
        colour = colour if dtype.is_floating_point else colour.round()
        return colour.to(dtype).view(-1, 1, 1).repeat(1, *crop)


@dataclass(frozen=True)
class CropRules:
    """How crops are drawn and padded. base, law: see `draw_geometry`."""

    base: int | None = None
    law: str = "uniform"
    padding: Padding = Padding()


def crop_rules(augment: AugmentConfig, colour: Sequence[float], label: int = IGNORE) -> CropRules:
    """The rules of the configuration. colour: the network's mean in [0, 1], for `augment.pad_fill=mean`. label: the
    value of padding in masks."""
    padding = Padding(tuple(colour) if augment.pad_fill == "mean" else (), augment.pad_place == "centre", label)
    return CropRules(augment.base, augment.scale_law, padding)


class CropDataset(TorchDataset[dict[str, Any]]):
    """The crops of a list of samples, by position 0, 1, 2, ... without end.

    Every epoch of len(samples) positions holds each sample once, in an order of its own.

    crop: (h, w). scale: the smallest and the largest factor of the long side. tag: the stream's name; streams with
    different tags are independent. masks: whether items have masks. order: the tag of a stream whose samples come in
    the same order; their crops differ.
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: Sequence[Sample],
        crop: tuple[int, int],
        scale: tuple[float, float],
        seed: int,
        tag: str,
        *,
        masks: bool,
        order: str | None = None,
        rules: CropRules = CropRules(),
    ) -> None:
        if not samples:
            raise UserError(f"the {tag} stream has no image")
        self.dataset = dataset
        self.samples = samples
        self.crop = crop
        self.scale = scale
        self.masks = masks
        self.rules = rules
        self.padding = rules.padding
        self.keys = {ORDER_DRAW: stream_key(seed, order or tag), GEOMETRY_DRAW: stream_key(seed, tag)}
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # the last epoch asked for, and its order

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The crop at a position.

        image: (channels, h, w) uint8, or float32 where files have more than 8 bits a channel. valid: (h, w) bool, false
        on padding and, for samples without a mask of their own, on pixels without data. index: of the sample.
        With `masks` also mask: (h, w) uint8, 255 where void or where the sample has no mask, the padding's label on
        padding; and pseudo: whether a stage of the run made that mask. Raises UserError as the data set does.
        """
        index = self.index(position)
        sample = self.samples[index]
        image = self.dataset.read_image(sample)
        source = (image.shape[0], image.shape[1])
        rng = self.generator(GEOMETRY_DRAW, position)
        geometry = draw_geometry(source, self.crop, self.scale, rng, self.rules.base, self.rules.law)
        rows, columns = self.padding.filled_region(self.crop, geometry.filled)
        filled = torch.from_numpy(crop_image(image, geometry).transpose(2, 0, 1).copy())
        pixels = self.padding.canvas(image.shape[2], self.crop, filled.dtype)
        pixels[:, rows, columns] = filled
        valid = torch.zeros(self.crop, dtype=torch.bool)
        valid[rows, columns] = True
        # A mask that was read is void where there are no data already.
        seen = self.dataset.read_valid(sample) if not self.masks or sample.pseudo else None
        empty = torch.zeros(self.crop, dtype=torch.bool)
        if seen is not None:
            empty[rows, columns] = torch.from_numpy(~crop_mask(seen, geometry))
            valid &= ~empty
        item = {"image": pixels, "valid": valid, "index": index}
        if not self.masks:
            return item
        mask = self.mask(sample, geometry)
        mask = mask if seen is None else mask.masked_fill(empty, IGNORE)
        return item | {"mask": mask, "pseudo": sample.pseudo is not None}

    def mask(self, sample: Sample, geometry: CropGeometry) -> torch.Tensor:
        """The crop of a sample's mask, (h, w) uint8. Raises UserError when mask and image differ in size."""
        if sample.mask is None and sample.pseudo is None:
            return torch.full(self.crop, IGNORE, dtype=torch.uint8)
        mask = np.asarray(Image.open(sample.pseudo)) if sample.pseudo else self.dataset.read_mask(sample)
        if mask.shape != geometry.source:
            sizes = f"{mask.shape[1]}x{mask.shape[0]}, the image {geometry.source[1]}x{geometry.source[0]}"
            raise UserError(f"{sample.name}: the mask is {sizes}; they must match pixel for pixel")
        padded = torch.full(self.crop, self.padding.label, dtype=torch.uint8)
        padded[self.padding.filled_region(self.crop, geometry.filled)] = torch.from_numpy(crop_mask(mask, geometry))
        return padded

    def index(self, position: int) -> int:
        """The index of the sample at a position."""
        epoch, rank = divmod(position, len(self.samples))
        if self.order[0] != epoch:
            self.order = (epoch, self.generator(ORDER_DRAW, epoch).permutation(len(self.samples)))
        return int(self.order[1][rank])

    def sample(self, position: int) -> Sample:
        return self.samples[self.index(position)]

    def generator(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((*self.keys[purpose], purpose, number))


def stream_key(seed: int, tag: str) -> tuple[int, int]:
    return (seed, int.from_bytes(hashlib.sha256(tag.encode()).digest()[:4], "big"))


class Positions(Sampler[int]):
    """start, start + 1, start + 2, ... without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return count(self.start)


def make_stream(
    crops: CropDataset, batch: int, start: int, workers: int, *, pin: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of crops from position `start` on, without end. A run that continues at a step starts at step * batch.

    The items of `CropDataset` are stacked along a new first dimension. workers: loader processes, 0 for none. pin:
    whether batches lie in page-locked memory, for a GPU. Loading starts at once and draws nothing from torch's global
    generators. Raises UserError when a file cannot be read, in a worker too.
    """
    return load_batches(
        crops,
        workers,
        batch_size=batch,
        sampler=Positions(start),
        pin_memory=pin,
        persistent_workers=workers > 0,
    )
