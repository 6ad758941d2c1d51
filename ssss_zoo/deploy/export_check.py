"""Compares an exported model with the network that it was made from, on real images of several sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks.shapes import Shapes
from ssss_zoo.deploy.trained import TrainedModel
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import predict_image
from ssss_zoo.text import brief
from ssss_zoo.train.reevaluate import run_config
from ssss_zoo.train.setup import open_dataset

ExportedModel = Callable[[Tensor], Tensor]  # images (B, channels, H, W) in the exported range -> logits or class ids
LARGEST_CHECKED_SIDE = 512  # pixels; larger images are cropped, so that a check takes seconds (our choice)
CHECKED_SHARES = ((1.0, 1.0), (0.77, 0.61), (0.5, 0.83))  # of height and width: even and odd sizes (our choice)
BATCH_SIZES = (1, 2)
REASON_LENGTH_MAX = 200  # characters of why the data cannot be read (our choice)
LATENCY_RUNS = 50
LATENCY_SECONDS = 20.0  # after which fewer runs must do


@dataclass(frozen=True)
class ExportCheck:
    """How an exported model differs from its network.

    max_difference: largest absolute difference of logits. class_mismatch: share of pixels of another class. latency_ms:
    median milliseconds of one image of the size `latency_size`, over `latency_runs` runs; network_latency_ms: of the
    network in torch.
    """

    images: str
    sizes: list[str]
    batches: list[int]
    max_difference: float
    class_mismatch: float
    latency_ms: float
    network_latency_ms: float
    latency_size: str
    latency_runs: int


def check_export(
    exported: ExportedModel, logits_of: ExportedModel, model: TrainedModel, images: Sequence[np.ndarray], source: str,
    value_range: float,
) -> ExportCheck:  # fmt: skip
    """Run all on the same images at three sizes and two batch sizes. logits_of: the exported model, or its twin that
    gives logits where it gives class ids. images: (H, W, channels) in [0, 255], two or more. source: where they come
    from, for people. value_range: what the exported model calls white."""
    batches = [batch for size in checked_sizes(images) for batch in image_batches(images, size)]
    scaled = [batch * (value_range / 255) for batch in batches]
    logits = [network_logits(model, batch) for batch in batches]
    differences = [float((ours - logits_of(batch)).abs().max()) for ours, batch in zip(logits, scaled, strict=True)]
    ids = [(ids_of_scores(ours), ids_of_scores(exported(batch))) for ours, batch in zip(logits, scaled, strict=True)]
    mismatched = sum(int((ours != theirs).sum()) for ours, theirs in ids)
    pixels = sum(ours.numel() for ours, _ in ids)
    first = batches[0]
    latency, runs = median_milliseconds(lambda: exported(scaled[0]))
    return ExportCheck(
        images=source,
        sizes=[f"{height}x{width}" for height, width in checked_sizes(images)],
        batches=list(BATCH_SIZES),
        max_difference=float(np.max(differences)),  # NaN where any difference is
        class_mismatch=mismatched / pixels,
        latency_ms=latency,
        network_latency_ms=median_milliseconds(lambda: network_logits(model, first))[0],
        latency_size="x".join(map(str, first.shape[-2:])),
        latency_runs=runs,
    )


def ids_of_scores(scores: Tensor) -> Tensor:
    """Class ids (B, H, W) of logits (B, C, H, W), or ids as they are."""
    return scores.argmax(dim=1) if scores.dim() == 4 else scores


@torch.inference_mode()
def network_logits(model: TrainedModel, batch: Tensor) -> Tensor:
    """Logits of images in [0, 255] as `ssss evaluate` computes them of whole images, on the CPU."""
    images = batch.to(model.device) / 255
    return predict_image(model.network, images, model.predictor.settings.fit).cpu()


def checked_sizes(images: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Three sizes (height, width) that fit into all images."""
    height, width = (min(LARGEST_CHECKED_SIDE, *(image.shape[axis] for image in images)) for axis in (0, 1))
    return [(max(1, int(height * high)), max(1, int(width * wide))) for high, wide in CHECKED_SHARES]


def image_batches(images: Sequence[np.ndarray], size: tuple[int, int]) -> list[Tensor]:
    """A batch (B, channels, *size) float32 of each batch size, of the images' upper left corners."""
    crops = [image[: size[0], : size[1]].astype(np.float32) for image in images]
    return [torch.from_numpy(np.stack(crops[:count]).transpose(0, 3, 1, 2).copy()) for count in BATCH_SIZES]


def median_milliseconds(call: Callable[[], object]) -> tuple[float, int]:
    """The median time of a call after one that does not count, and the number of calls that were timed."""
    call()
    times: list[float] = []
    while len(times) < LATENCY_RUNS and (len(times) < 3 or sum(times) < LATENCY_SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), len(times)


# --- the images -----------------------------------------------------------------------------------------------------


def find_check_images(model: TrainedModel, run: Path, images: str | None) -> tuple[list[np.ndarray], str]:
    """Two images (H, W, channels) in [0, 255], and where they come from: the files that `images` names, else
    validation images of the run's data, else scenes of `shapes`, with the reason. Raises UserError where
    `images` names none that can be read."""
    if images is not None:
        return images_of_path(model, Path(images).expanduser()), images
    try:
        config = run_config(run, [])
        dataset, config = open_dataset(load("datasets", config.dataset), config)
        found = [dataset.read_image(sample) for sample in dataset.val[:2]]
        if found:
            return pair_of(found), f"validation images of {config.dataset}"
        reason = "the run has no validation images"
    except (UserError, OSError) as error:
        reason = f"the run's data cannot be read: {brief(error, REASON_LENGTH_MAX)}"
    shapes = Shapes(DataConfig())
    drawn = [shapes.read_image(sample) for sample in shapes.val[:2]]
    channels = model.reading.channels
    spread = [np.resize(image.transpose(2, 0, 1), (channels, *image.shape[:2])).transpose(1, 2, 0) for image in drawn]
    return spread, f"scenes of shapes (images=PATH names others), because {reason}"


def images_of_path(model: TrainedModel, path: Path) -> list[np.ndarray]:
    """The first two images at a path, a file or a folder. Raises UserError where there is none."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not files or not path.exists():
        raise UserError(f"images={path}: no image is there; give an image or a folder of images")
    return pair_of([model.read(file)[0] for file in files[:2]])


def pair_of(images: list[np.ndarray]) -> list[np.ndarray]:
    """Two images: where there is one alone, it and its mirror image."""
    return images if len(images) > 1 else [images[0], images[0][:, ::-1]]
