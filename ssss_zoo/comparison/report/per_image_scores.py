"""What a comparison wants to know of a finished run, image by image: hits and sizes of each class, their borders, how
far confidence can be trusted, and the prediction on some images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.config.schema import Config, square
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.figures import spread
from ssss_zoo.record_files import State, read_metrics
from ssss_zoo.toolkit.types import IGNORE
from ssss_zoo.train import checkpoint
from ssss_zoo.train.device import choose_device
from ssss_zoo.train.reevaluate import load_network
from ssss_zoo.train.setup import open_dataset

SCORES = "scores.npz"
ANEW = "the same `ssss compare` command makes it anew"
BINS = 15  # of confidence (Guo et al., ICML 2017, section 5)
BORDER = 0.02  # of the diagonal: how far from a contour counts as border (Cheng et al., CVPR 2021, section 4)
SHOWN = 500  # validation images at most whose prediction is kept, evenly spread (our choice)


@dataclass(frozen=True)
class Scores:
    """counts: (N, 3, C), of each validation image and class the pixels that are right, true, and predicted; border:
    (N, 2, C), right and in either, of pixels near a contour; bins: (BINS, 3), pixels, summed confidence and right ones
    by confidence; shown: (K,) places of the images in val, in the files shown/<place>.png."""

    counts: np.ndarray
    border: np.ndarray
    bins: np.ndarray
    shown: np.ndarray

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in [0, 1]: the mean distance of confidence and accuracy, bin by bin."""
        pixels, confidence, right = self.bins.T
        return float(np.abs(confidence - right).sum() / max(pixels.sum(), 1))


def score(config: Config, folder: Path) -> None:
    """Look at the last weights of the run in `folder`, of the network that it reports; writes shown/, then SCORES.
    Raises UserError where weights or validation images are not the run's any more."""
    place = checkpoint.find_folder(folder / "last")
    if place is None:
        raise UserError(f"{folder} holds no checkpoint to score")
    dataset = open_dataset(load("datasets", config.dataset), config)
    images = read_metrics(folder / "metrics.json", ANEW)["data"]["val"]
    if len(dataset.val) != images:
        raise UserError(
            f"{folder} was trained with {images} validation images, and there are {len(dataset.val)} now: put "
            "back what was there, or choose another output="
        )
    device = choose_device(config)
    network = load_network(config, dataset, place, checkpoint.load_typed(place, State)["reported"]).to(device)
    evaluator = Evaluator(dataset, config.evaluate, square(config.train.crop), device, config.train.workers or 0)
    classes = len(dataset.class_names)
    chosen = {sample.name for sample in spread(dataset.val, SHOWN)}
    counts, border, shown = [], [], []
    bins = torch.zeros(BINS, 3, dtype=torch.float64, device=device)
    for index, (image, mask) in enumerate(evaluator.pairs(dataset.val, network)):
        scores = evaluator.logits(network, image)[0]
        averaged = config.evaluate.mode == "sliding" and config.evaluate.sums == "softmax"
        confidence, predicted = (scores if averaged else scores.softmax(dim=0)).max(dim=0)
        truth = mask[0]
        counts.append(hits(truth, predicted, classes))
        border.append(border_hits(truth, predicted, classes))
        bins += calibration(confidence, predicted, truth)
        if dataset.val[index].name in chosen:
            save(predicted, shown_file(folder, index))
            shown.append(index)
    file = folder / SCORES
    new = file.with_name(f".{SCORES}")
    with new.open("wb") as sink:
        np.savez_compressed(sink, counts=stacked(counts), border=stacked(border), bins=bins.cpu().numpy(), shown=shown)
    new.replace(file)


def read_scores(folder: Path, images: int | None = None, classes: int | None = None) -> Scores:
    """Those of a run that is scored, with the files of what is shown. images, classes: how many the run knows. Raises
    UserError for a file that is not whole, or is of another run."""
    file = folder / SCORES
    try:
        with np.load(file, allow_pickle=False) as kept:
            scores = Scores(kept["counts"], kept["border"], kept["bins"], kept["shown"])
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{file} is not there, or damaged: {type(error).__name__}") from None
    count, _, of = shape = scores.counts.shape if scores.counts.ndim == 3 else (0, 0, 0)
    shapes = (shape, scores.border.shape, scores.bins.shape, scores.shown.ndim)
    whole = all(array.dtype.kind in "iuf" for array in (scores.counts, scores.border, scores.bins, scores.shown))
    if not whole or shapes != ((count, 3, of), (count, 2, of), (BINS, 3), 1) or not count or not of:
        raise UserError(f"{file} is damaged: it holds arrays of other shapes or types")
    if (images or count, classes or of) != (count, of):
        raise UserError(f"{file} is of another run: of {count} images and {of} classes")
    lost = [index for index in scores.shown.tolist() if not shown_file(folder, index).is_file()]
    if lost:
        raise UserError(f"{shown_file(folder, lost[0])} is not there")
    return scores


def shown_file(folder: Path, index: int) -> Path:
    """The prediction on a validation image: class ids as grey values."""
    return folder / "shown" / f"{index}.png"


def stacked(tensors: list[Tensor]) -> np.ndarray:
    result: np.ndarray = torch.stack(tensors).cpu().numpy()
    return result


def hits(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(3, C) int64: right, true and predicted pixels of each class; void is left out. truth, predicted: (H, W)."""
    known = truth != IGNORE
    truth, predicted = truth[known], predicted[known]
    count = lambda ids: torch.bincount(ids, minlength=classes)[:classes]  # noqa: E731
    return torch.stack([count(truth[truth == predicted]), count(truth), count(predicted)])


def border_hits(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(2, C) int64: pixels in both borders, and in either, of each class; void is left out."""
    reach = max(1, round(BORDER * float(np.hypot(*truth.shape))))
    known = truth != IGNORE
    one, other = (rim(ids.where(known, torch.full_like(ids, classes)), classes, reach) for ids in (truth, predicted))
    return torch.stack([(one & other).flatten(1).sum(dim=1), (one | other).flatten(1).sum(dim=1)])


def rim(ids: Tensor, classes: int, reach: int) -> Tensor:
    """(C, H, W) bool: pixels of each class that lie within `reach` of one that is not of it, or of the image's edge."""
    inside = F.one_hot(ids, classes + 1)[..., :classes].permute(2, 0, 1).float()
    away = F.pad(1 - inside, (reach, reach, reach, reach), value=1.0)[None]
    near = F.max_pool2d(F.max_pool2d(away, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)[0]
    return (inside > 0) & (near > 0)


def calibration(confidence: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
    """(BINS, 3) float64: pixels, summed confidence and right ones by confidence; void is left out."""
    known = truth != IGNORE
    confidence, right = confidence[known].double(), (predicted == truth)[known].double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    columns = (torch.ones_like(confidence), confidence, right)
    return torch.stack([torch.bincount(place, column, BINS) for column in columns], dim=1)


def save(ids: Tensor, file: Path) -> None:
    from PIL import Image

    file.parent.mkdir(exist_ok=True)
    Image.fromarray(ids.to("cpu", torch.uint8).numpy()).save(file)
