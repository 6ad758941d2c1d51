"""Validation: whole images at native size or sliding windows, any size, student and teacher side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.config.schema import EvaluateConfig, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.workers import load_batches
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.metrics import confusion_matrix, summary
from ssss_zoo.toolkit.types import Sample

Tick = Callable[[int, int], None]


class Images(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Validation pairs at native size: image (channels, H, W) in [0, 255], mask (H, W) uint8."""

    def __init__(self, dataset: Dataset, samples: Sequence[Sample]) -> None:
        self.dataset, self.samples = dataset, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.dataset.read_image(self.samples[index])
        mask = self.dataset.read_mask(self.samples[index])
        if image.shape[:2] != mask.shape:
            raise UserError(
                f"{self.samples[index].name}: image is {image.shape[:2]}, mask {mask.shape} (height, width)"
            )
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(mask.copy())


class Evaluator:
    """Scores networks on a list of samples. settings: `evaluate` of the configuration; crop: the training crop, the
    default window of the sliding mode."""

    def __init__(
        self, dataset: Dataset, settings: EvaluateConfig, crop: tuple[int, int], device: torch.device, workers: int = 0
    ) -> None:
        self.dataset, self.settings, self.device, self.workers = dataset, settings, device, workers
        self.window = square(settings.window) if settings.window else crop

    def __call__(
        self, networks: Mapping[str, nn.Module], samples: Sequence[Sample], tick: Tick | None = None
    ) -> dict[str, dict[str, Any]]:
        """Figures of each network by name, see `metrics.summary`. One host synchronisation in all. Raises UserError
        where predictions are not finite: they would count as some class."""
        finite = {name: torch.ones((), dtype=torch.bool, device=self.device) for name in networks}
        matrices = {name: confusion_matrix(len(self.dataset.class_names), self.device) for name in networks}
        first = next(iter(networks.values()))
        for done, (image, mask) in enumerate(self.pairs(samples, first), start=1):
            for name, network in networks.items():
                likeliest = self.logits(network, image).max(dim=1)  # NaN where any class has it
                matrices[name].update(likeliest.indices, mask)
                finite[name] &= likeliest.values.isfinite().all()
            if tick:
                tick(done, len(samples))
        broken = [name for name, all_finite in finite.items() if not all_finite]
        if broken:
            raise UserError(
                f"what the {broken[0]} predicts is not finite: its training blew up; train with a lower optim.lr, or "
                "take an earlier checkpoint"
            )
        names, absent = self.dataset.class_names, self.settings.absent
        return {name: summary(matrix.compute().cpu(), names, absent) for name, matrix in matrices.items()}

    def pairs(self, samples: Sequence[Sample], network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """One image (1, channels, H, W) in [0, 1] and its mask (1, H, W) int64 at a time, on the device; in centre mode
        both framed for `network`."""
        images = Images(self.dataset, samples)
        for image, mask in load_batches(images, self.workers, batch_size=1):
            pair = image.to(self.device).float() / 255, mask.to(self.device).long()
            yield self.framed(*pair, network) if self.settings.mode == "centre" else pair

    def framed(self, image: Tensor, mask: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        """The middle of an image and its mask, of the window's size: larger sides are cut, smaller ones padded on both
        ends, the image with the network's mean colour, the mask with `pad_label`. U2PL's release counts its padding as
        background, so that every image scores pixels that are none of it."""
        canvas = image.new_zeros(1, image.shape[1], *self.window) + getattr(network, "mean", 0.0)
        labels = mask.new_full((1, *self.window), self.settings.pad_label)
        (rows, into_rows), (columns, into_columns) = map(overlap_of, mask.shape[1:], self.window)
        canvas[..., into_rows, into_columns] = image[..., rows, columns]
        labels[..., into_rows, into_columns] = mask[..., rows, columns]
        return canvas, labels

    @torch.inference_mode()
    def logits(self, network: nn.Module, image: Tensor) -> Tensor:
        """Logits (1, C, H, W) in evaluation mode (sums over windows in sliding mode: only their order counts)."""
        was_training = network.training
        network.eval()
        try:
            sliding = self.settings.mode == "sliding"
            scores = self.sliding(network, image) if sliding else whole(network, image, self.settings.fit)
        finally:
            network.train(was_training)
        return scores

    def sliding(self, network: nn.Module, image: Tensor) -> Tensor:
        """Softmax, or logits (CPS, U2PL), summed over windows, divided by how many windows saw a pixel. An image
        smaller than the window is one window."""
        height, width = image.shape[-2:]
        high, wide = min(self.window[0], height), min(self.window[1], width)
        steps = square(self.settings.stride) if self.settings.stride else (None, None)
        total, seen = None, torch.zeros(1, 1, height, width, device=image.device)
        for top in starts(height, high, self.settings.overlap, steps[0], self.settings.edge):
            for left in starts(width, wide, self.settings.overlap, steps[1], self.settings.edge):
                spot = (slice(None), slice(None), slice(top, top + high), slice(left, left + wide))
                scores = whole(network, image[spot], self.settings.fit)
                scores = scores.softmax(dim=1) if self.settings.sums == "softmax" else scores
                total = image.new_zeros(1, scores.shape[1], height, width) if total is None else total
                total[spot] += scores
                seen[spot] += 1
        assert total is not None
        return total / seen


def overlap_of(side: int, window: int) -> tuple[slice, slice]:
    """Along an axis: the middle of a side that is seen in a window, and where in the window it lies."""
    seen = min(side, window)
    first, place = (side - seen) // 2, (window - seen) // 2
    return slice(first, first + seen), slice(place, place + seen)


def starts(size: int, window: int, overlap: float, stride: int | None = None, edge: str = "shift") -> list[int]:
    """Where windows begin along an axis: every `stride` pixels, else every window * (1 - overlap). edge: the last one
    is shifted to end at the border (UniMatch V2, CPS, U2PL), or, beginning anywhere, cut there (UniMatch V1)."""
    step = stride or max(1, int(window * (1 - overlap)))
    return [*range(0, size, step)] if edge == "cut" else [*range(0, size - window, step), size - window]


def whole(network: nn.Module, image: Tensor, fit: str = "pad") -> Tensor:
    """Logits of an image of any size, brought to what the network needs and back. fit: `pad` right and bottom (edges
    repeated), or `resize` both sides (UniMatch V2's rule)."""
    height, width = image.shape[-2:]
    multiple = int(getattr(network, "multiple", 1))
    if fit == "resize":
        nearest = (nearest_multiple(height, multiple), nearest_multiple(width, multiple))
        return resize(network(resize(image, nearest)).logits.float(), (height, width))
    padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    logits: Tensor = network(padded).logits
    return logits[..., :height, :width].float()


def nearest_multiple(side: int, multiple: int) -> int:
    """multiple * floor(side / multiple + 1/2), halves going up; UniMatch V2's rule, but never nothing."""
    return multiple * max(1, (2 * side + multiple) // (2 * multiple))


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Corner-aligned bilinear resizing of (B, D, h, w) to `size`."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
