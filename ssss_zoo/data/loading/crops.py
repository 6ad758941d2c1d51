"""Endless streams of random crops. What a position holds is a pure function of (seed, tag, position), so a run that
goes on at position k sees what it would have seen, whatever the number of workers: there is no state to save."""

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
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.data.loading.workers import load_batches
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

ORDER_DRAW, GEOMETRY_DRAW = 0, 1  # what a generator is for: no draw of one kind repeats the other's
INTERPOLATION = Image.Resampling.BILINEAR  # Pillow's filter widens when shrinking, that is, it antialiases


@dataclass(frozen=True)
class CropGeometry:
    """A crop of a rescaled image, in pixels. source: (H, W) of the original; size: of the rescaled image; corner: top
    and left of the crop in it; shown: (rows, columns) of the crop that it fills, the rest is padding."""

    source: tuple[int, int]
    size: tuple[int, int]
    corner: tuple[int, int]
    shown: tuple[int, int]


def draw_geometry(
    source: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    base: int | None = None,
    law: str = "uniform",
) -> CropGeometry:
    """Scale and place of a crop of an image (H, W), by UniMatch's rule (release; ours draws in another order).

    The long side becomes a whole number drawn uniformly from [floor(lo * L), floor(hi * L)], L the image's own long
    side or `base` (ST++, AugSeg); the other side follows, rounded half up; the offset is uniform over every place where
    the crop fits, 0 along a side that is too short. law: `halves` draws from [lo, 1] and from [1, hi] equally often
    (U2PL's release), which makes images smaller more often than `uniform` does.
    """
    long = max(source)
    if law == "halves":
        scale = (scale[0], 1.0) if rng.random() < 0.5 else (1.0, scale[1])
    whole = base or long
    drawn = max(int(rng.integers(int(scale[0] * whole), int(scale[1] * whole), endpoint=True)), 1)
    height, width = (max((2 * side * drawn + long) // (2 * long), 1) for side in source)
    top = int(rng.integers(0, max(height - crop[0], 0), endpoint=True))
    left = int(rng.integers(0, max(width - crop[1], 0), endpoint=True))
    shown = (min(height, crop[0]), min(width, crop[1]))
    return CropGeometry(source, (height, width), (top, left), shown)


def crop_image(image: np.ndarray, geometry: CropGeometry) -> np.ndarray:
    """The filled part of the crop, (rows, columns, channels), of `image` (H, W, channels) uint8 or float32, and of its
    type: what resizing the whole image and cutting the crop from it gives, computed for the crop alone."""
    spans = [source_span(geometry, axis) for axis in (0, 1)]
    (top, bottom, first, last), (left, right, begin, end) = spans
    part = np.ascontiguousarray(image[top:bottom, left:right])
    box, size = (begin, first, end, last), geometry.shown[::-1]
    whole = part.shape[2] == 3 and part.dtype == np.uint8  # an image that Pillow has a mode for
    planes = [part] if whole else [part[:, :, channel] for channel in range(part.shape[2])]
    resized = [np.asarray(Image.fromarray(plane).resize(size, INTERPOLATION, box)) for plane in planes]
    return resized[0] if whole else np.stack(resized, axis=2)


def source_span(geometry: CropGeometry, axis: int) -> tuple[int, int, float, float]:
    """Along one axis: start and stop of the source pixels that the crop needs, the filter's reach included, and where
    the crop begins and ends, counted from that start."""
    source, size, corner, shown = (getattr(geometry, name)[axis] for name in ("source", "size", "corner", "shown"))
    ratio = source / size
    begin, end = corner * source / size, (corner + shown) * source / size
    reach = int(max(ratio, 1.0)) + 2
    start, stop = max(int(begin) - reach, 0), min(int(end) + reach + 1, source)
    return start, stop, begin - start, min(end - start, stop - start)


def crop_mask(mask: np.ndarray, geometry: CropGeometry) -> np.ndarray:
    """The filled part of the crop, (rows, columns) uint8, of `mask` (H, W): nearest pixel, in whole numbers (Pillow's
    own adds up rounding errors and may slip by a pixel)."""
    rows, columns = (nearest_pixels(geometry, axis) for axis in (0, 1))
    return np.ascontiguousarray(mask[rows][:, columns])


def nearest_pixels(geometry: CropGeometry, axis: int) -> np.ndarray:
    """Along one axis: the source pixel under the centre of each pixel of the crop."""
    places = geometry.corner[axis] + np.arange(geometry.shown[axis])
    return (2 * places + 1) * geometry.source[axis] // (2 * geometry.size[axis])


@dataclass(frozen=True)
class Padding:
    """What a crop shows where its image ends. colour: of each channel in [0, 1], empty means black; centred: whether it
    is put around the image (the odd pixel right and below) or right and below alone; label: what it is in the mask."""

    colour: tuple[float, ...] = ()
    centred: bool = False
    label: int = IGNORE

    def spot(self, crop: tuple[int, int], shown: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of the crop that the image fills."""
        first = [(side - part) // 2 if self.centred else 0 for side, part in zip(crop, shown, strict=True)]
        return slice(first[0], first[0] + shown[0]), slice(first[1], first[1] + shown[1])

    def canvas(self, channels: int, crop: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """(channels, h, w) of nothing but padding, in [0, 255]; whole numbers where `dtype` has no others."""
        colour = 255 * torch.tensor(self.colour or (0.0,) * channels)
        colour = colour if dtype.is_floating_point else colour.round()
        return colour.to(dtype).view(-1, 1, 1).repeat(1, *crop)


def crop_rules(augment: AugmentConfig, colour: Sequence[float], label: int = IGNORE) -> dict[str, Any]:
    """What `augment` says of crops, as arguments of `Crops`. colour: the network's mean in [0, 1], for
    `augment.pad_fill=mean`; label: of padding in the masks."""
    around = Padding(tuple(colour) if augment.pad_fill == "mean" else (), augment.pad_place == "centre", label)
    return {"base": augment.base, "law": augment.scale_law, "padding": around}


class CropDataset(TorchDataset[dict[str, Any]]):
    """The crops of a list of samples, by position 0, 1, 2, ... without end.

    Every epoch of len(samples) positions shows each sample once, in an order of its own. crop: (h, w); scale: the
    smallest and the largest share of the long side; tag: the stream's name, streams of different tags are
    independent; masks: whether masks are read and given; base, law: see `draw_geometry`; order: the tag of a stream
    whose samples come in the same order (their crops differ).
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: Sequence[Sample],
        crop: tuple[int, int],
        scale: tuple[float, float],
        seed: int,
        tag: str,
        masks: bool,
        base: int | None = None,
        order: str | None = None,
        law: str = "uniform",
        padding: Padding | None = None,
    ) -> None:
        if not samples:
            raise UserError(f"the {tag} stream has no image")
        self.dataset, self.samples, self.masks, self.padding = dataset, samples, masks, padding or Padding()
        self.crop, self.scale, self.base, self.law = crop, scale, base, law
        self.keys = {ORDER_DRAW: stream_key(seed, order or tag), GEOMETRY_DRAW: stream_key(seed, tag)}
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # of the epoch asked for last

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """image (channels, h, w) uint8, float32 of deep files; valid (h, w) bool, False on padding and, where no mask
        says so, on pixels without data; index: which sample; with masks also mask (h, w) uint8, 255 on void (all of it
        where a sample has none) and the label of `padding` where the image ends, and pseudo: whether a stage made it.
        Raises UserError as the data set."""
        index = self.index(position)
        sample = self.samples[index]
        image = self.dataset.read_image(sample)
        source = (image.shape[0], image.shape[1])
        rng = self.generator(GEOMETRY_DRAW, position)
        geometry = draw_geometry(source, self.crop, self.scale, rng, self.base, self.law)
        rows, columns = self.padding.spot(self.crop, geometry.shown)
        filled = torch.from_numpy(crop_image(image, geometry).transpose(2, 0, 1).copy())
        pixels = self.padding.canvas(image.shape[2], self.crop, filled.dtype)
        pixels[:, rows, columns] = filled
        valid = torch.zeros(self.crop, dtype=torch.bool)
        valid[rows, columns] = True
        seen = self.dataset.read_valid(sample) if not self.masks or sample.pseudo else None  # masks are void there
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
        """(h, w) uint8. Raises UserError when the mask is not of the image's size."""
        if sample.mask is None and sample.pseudo is None:
            return torch.full(self.crop, IGNORE, dtype=torch.uint8)
        mask = np.asarray(Image.open(sample.pseudo)) if sample.pseudo else self.dataset.read_mask(sample)
        if mask.shape != geometry.source:
            sizes = f"{mask.shape[1]}x{mask.shape[0]}, the image {geometry.source[1]}x{geometry.source[0]}"
            raise UserError(f"{sample.name}: the mask is {sizes}; they must match pixel for pixel")
        padded = torch.full(self.crop, self.padding.label, dtype=torch.uint8)
        padded[self.padding.spot(self.crop, geometry.shown)] = torch.from_numpy(crop_mask(mask, geometry))
        return padded

    def index(self, position: int) -> int:
        """Which sample a position shows."""
        epoch, place = divmod(position, len(self.samples))
        if self.order[0] != epoch:
            self.order = (epoch, self.generator(ORDER_DRAW, epoch).permutation(len(self.samples)))
        return int(self.order[1][place])

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
    crops: CropDataset, batch: int, start: int, workers: int, pin: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of `crops` from position `start` on (step * batch, for a run that goes on), without end.

    image (B, channels, h, w) uint8 (float32 of deep files), valid (B, h, w) bool, index (B,) int64, and with masks mask
    (B, h, w) uint8. workers: loader processes, 0 for none; pin: page-locked memory, for a GPU. Draws nothing from
    torch's global generators. Raises UserError when a file cannot be read, also from a worker. Loading starts at once.
    """
    return load_batches(
        crops,
        workers,
        batch_size=batch,
        sampler=Positions(start),
        pin_memory=pin,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers and isinstance(crops.dataset, InMemoryDataset) else None,
    )
