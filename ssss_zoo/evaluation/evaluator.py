"""Validation of networks on images of any size, whole or in sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import EvaluateConfig, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.workers import load_batches
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.calibration import CONFIDENCE_BINS, count_confidence, expected_calibration_error
from ssss_zoo.evaluation.metrics import confusion_matrix, score_summary
from ssss_zoo.toolkit.tensors import pad_to_multiple, resize
from ssss_zoo.toolkit.types import Sample

OnImage = Callable[[int, int], None]  # is told how many images are done, and how many there are


class ValidationImages(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
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


class Predictor:
    """Predicts images of any size, whole or in sliding windows. settings: `evaluate` of the configuration; crop: the
    training crop, which is the window where the settings name none."""

    def __init__(self, settings: EvaluateConfig, crop: tuple[int, int]) -> None:
        self.settings = settings
        self.window = square(settings.window) if settings.window else crop

    @torch.inference_mode()
    def logits(self, network: nn.Module, image: Tensor) -> Tensor:
        """Logits (B, C, H, W) in evaluation mode; in sliding mode means over windows, of logits or of probabilities."""
        was_training = network.training
        network.eval()
        try:
            if self.settings.mode == "sliding":
                return self.slide_windows(network, image)
            return predict_image(network, image, self.settings.fit)
        finally:
            network.train(was_training)

    @property
    def means_probabilities(self) -> bool:
        """Whether `logits` gives means of probabilities, and no logits."""
        return self.settings.mode == "sliding" and self.settings.sums == "softmax"

    def probabilities(self, network: nn.Module, image: Tensor) -> Tensor:
        """Class probabilities (B, C, H, W), in evaluation mode."""
        logits = self.logits(network, image)
        return logits if self.means_probabilities else logits.softmax(dim=1)

    def slide_windows(self, network: nn.Module, image: Tensor) -> Tensor:
        """The mean over all windows that see a pixel, of probabilities, or of logits (CPS, U2PL). An image smaller than
        the window is one window."""
        height, width = image.shape[-2:]
        high, wide = min(self.window[0], height), min(self.window[1], width)
        steps = square(self.settings.stride) if self.settings.stride else (None, None)
        total = None
        windows = torch.zeros(1, 1, height, width, device=image.device)  # that see each pixel
        for top in window_starts(height, high, self.settings.overlap, steps[0], self.settings.edge):
            for left in window_starts(width, wide, self.settings.overlap, steps[1], self.settings.edge):
                window = (slice(None), slice(None), slice(top, top + high), slice(left, left + wide))
                scores = predict_image(network, image[window], self.settings.fit)
                scores = scores.softmax(dim=1) if self.settings.sums == "softmax" else scores
                total = image.new_zeros(*scores.shape[:2], height, width) if total is None else total
                total[window] += scores
                windows[window] += 1
        assert total is not None
        return total / windows


class Evaluator(Predictor):
    """Scores networks on a list of samples. See `Predictor` for `settings` and `crop`."""

    def __init__(
        self, dataset: Dataset, settings: EvaluateConfig, crop: tuple[int, int], device: torch.device, workers: int = 0
    ) -> None:
        super().__init__(settings, crop)
        self.dataset, self.device, self.workers = dataset, device, workers

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        samples: Sequence[Sample],
        on_image: OnImage | None = None,
        *,
        calibration: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """The scores of each network by name, see `metrics.score_summary`; with `calibration` also its
        `calibration_error`, which takes a twentieth longer with 11 classes and a third longer with 150 on a CPU.

        Raises UserError where predictions are not finite, because they would count as some class.
        """
        finite = {name: torch.ones((), dtype=torch.bool, device=self.device) for name in networks}
        matrices = {name: confusion_matrix(len(self.dataset.class_names), self.device) for name in networks}
        bins = {name: torch.zeros(CONFIDENCE_BINS, 3, dtype=torch.float64, device=self.device) for name in networks}
        first = next(iter(networks.values()))
        for done, (image, mask) in enumerate(self.pairs(samples, first), start=1):
            for name, network in networks.items():
                logits = self.logits(network, image)
                likeliest = logits.max(dim=1)  # NaN where any class has it
                if calibration:
                    confidence = self.confidence(logits, likeliest.values)
                    bins[name] += count_confidence(confidence, likeliest.indices, mask)
                matrices[name].update(likeliest.indices, mask)
                finite[name] &= likeliest.values.isfinite().all()
            if on_image:
                on_image(done, len(samples))
        check_finite_predictions(finite)
        names, absent = self.dataset.class_names, self.settings.absent
        scores = {name: score_summary(matrix.compute().cpu(), names, absent) for name, matrix in matrices.items()}
        if not calibration:
            return scores
        return {
            name: {**of_network, "calibration_error": expected_calibration_error(bins[name])}
            for name, of_network in scores.items()
        }

    def confidence(self, logits: Tensor, highest: Tensor) -> Tensor:
        """(B, H, W) in [0, 1]: the probability of the likeliest class. highest: the maximum of `logits` over C."""
        return highest if self.means_probabilities else (highest - logits.logsumexp(dim=1)).exp()

    def pairs(self, samples: Sequence[Sample], network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """One image (1, channels, H, W) in [0, 1] and its mask (1, H, W) int64 at a time, on the device; in centre mode
        both cropped or padded to the window."""
        images = ValidationImages(self.dataset, samples)
        for image, mask in load_batches(images, self.workers, batch_size=1):
            pair = image.to(self.device).float() / 255, mask.to(self.device).long()
            yield self.centre_crop(*pair, network) if self.settings.mode == "centre" else pair

    def centre_crop(self, image: Tensor, mask: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        """The centre of an image and its mask, as large as the window. Larger sides are cropped, smaller ones padded on
        both ends: the image with the network's mean colour, the mask with `pad_label`. U2PL's release counts the
        padding as background, so pixels outside the image are scored there."""
        canvas = image.new_zeros(1, image.shape[1], *self.window) + getattr(network, "mean", 0.0)
        labels = mask.new_full((1, *self.window), self.settings.pad_label)
        (rows, into_rows), (columns, into_columns) = map(centre_slices, mask.shape[1:], self.window)
        canvas[..., into_rows, into_columns] = image[..., rows, columns]
        labels[..., into_rows, into_columns] = mask[..., rows, columns]
        return canvas, labels


def check_finite_predictions(finite: Mapping[str, Tensor]) -> None:
    """Raise UserError where a network predicted numbers that are not finite. finite: a bool tensor () of each."""
    broken = [name for name, all_finite in finite.items() if not all_finite]
    if broken:
        raise UserError(
            f"the predictions of the {broken[0]} are not finite: its training diverged; train with a lower "
            "optim.lr, or take an earlier checkpoint"
        )


def centre_slices(side: int, window: int) -> tuple[slice, slice]:
    """Along an axis: the centre of a side that lies in the window, and where in the window it lies."""
    length = min(side, window)
    in_side = (side - length) // 2
    in_window = (window - length) // 2
    return slice(in_side, in_side + length), slice(in_window, in_window + length)


def window_starts(size: int, window: int, overlap: float, stride: int | None = None, edge: str = "shift") -> list[int]:
    """Where windows start along an axis: every `stride` pixels, else every window * (1 - overlap). edge: `shift` moves
    the last window so that it ends at the border (UniMatch V2, CPS, U2PL), `cut` cuts it there (UniMatch V1)."""
    step = stride or max(1, int(window * (1 - overlap)))
    return [*range(0, size, step)] if edge == "cut" else [*range(0, size - window, step), size - window]


def predict_image(network: nn.Module, image: Tensor, fit: str = "pad") -> Tensor:
    """Logits of an image of any size. fit: how the image gets a size that the network takes, `pad` right and bottom
    (edges repeated), or `resize` (UniMatch V2's rule)."""
    height, width = image.shape[-2:]
    multiple = int(getattr(network, "multiple", 1))
    if fit == "resize":
        nearest = (nearest_multiple(height, multiple), nearest_multiple(width, multiple))
        return resize(network(resize(image, nearest)).logits.float(), (height, width))
    logits: Tensor = network(pad_to_multiple(image, multiple)).logits
    return logits[..., :height, :width].float()


def nearest_multiple(side: int, multiple: int) -> int:
    """multiple * floor(side / multiple + 1/2), halves rounded up, but at least one multiple (UniMatch V2's rule)."""
    return multiple * max(1, (2 * side + multiple) // (2 * multiple))
