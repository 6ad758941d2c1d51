"""The pixel counts of each validation image of a finished run: hits and sizes of each class, hits near contours, a
histogram of confidence, and the prediction on some images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.atomic_write import replacing_file
from ssss_zoo.comparison.folders import ComparedRunFolder
from ssss_zoo.comparison.scored_run import ScoredRun
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.calibration import CONFIDENCE_BINS, count_confidence, expected_calibration_error
from ssss_zoo.evaluation.figures import evenly_spaced
from ssss_zoo.evaluation.metrics import confusion_matrix
from ssss_zoo.toolkit.types import IGNORE

BORDER_SHARE = 0.02  # of the diagonal: how far from a contour is border (Cheng et al., CVPR 2021, section 4)
MAX_PREDICTIONS = 500  # validation images whose prediction is kept, evenly spaced (our choice)


@dataclass(frozen=True)
class PerImageCounts:
    """counts: (N, 3, C), of each validation image and class the pixels that are right, true, and predicted; border:
    (N, 2, C), of the pixels near a contour those in both borders, and in either; bins: (CONFIDENCE_BINS, 3), pixels,
    summed confidence and right pixels by confidence; shown: (K,) places in val of the images whose prediction is kept;
    confusion: (C, C) pixels of all images, true classes in rows, None where an earlier version counted.
    """

    counts: np.ndarray
    border: np.ndarray
    bins: np.ndarray
    shown: np.ndarray
    confusion: np.ndarray | None = None

    @property
    def true_pixels(self) -> list[int]:
        """Pixels of each class in the truth, over all images."""
        pixels: list[int] = self.counts[:, 1].sum(axis=0).tolist()
        return pixels

    @property
    def calibration_error(self) -> float:
        """See `calibration.expected_calibration_error`."""
        return expected_calibration_error(torch.from_numpy(self.bins))


def write_per_image_counts(run: ScoredRun, folder: ComparedRunFolder) -> None:
    """Count with the network of a run in `folder`; the predictions are written first."""
    dataset, network, evaluator = run.dataset, run.network, run.evaluator
    classes = len(dataset.class_names)
    kept = {sample.name for sample in evenly_spaced(dataset.val, MAX_PREDICTIONS)}
    counts, border, shown = [], [], []
    bins = torch.zeros(CONFIDENCE_BINS, 3, dtype=torch.float64, device=evaluator.device)
    confusion = confusion_matrix(classes, evaluator.device)
    for index, (image, mask) in enumerate(evaluator.pairs(dataset.val, network)):
        confidence, predicted = evaluator.probabilities(network, image)[0].max(dim=0)
        truth = mask[0]
        counts.append(count_hits(truth, predicted, classes))
        border.append(count_border_hits(truth, predicted, classes))
        bins += count_confidence(confidence, predicted, truth)
        confusion.update(predicted, truth)
        if dataset.val[index].name in kept:
            save_prediction(predicted, folder.predicted_ids(index))
            shown.append(index)
    matrix = confusion.compute().reshape(classes, classes)  # torchmetrics makes a single class a single number
    found = PerImageCounts(
        as_array(counts), as_array(border), bins.cpu().numpy(), np.array(shown), matrix.cpu().numpy()
    )
    save_counts(found, folder.counts)


def save_counts(counts: PerImageCounts, file: Path) -> None:
    """Write the arrays to `file`, whole or not at all."""
    with replacing_file(file) as new, new.open("wb") as sink:
        arrays = {field.name: getattr(counts, field.name) for field in fields(counts)}
        np.savez_compressed(sink, **{name: array for name, array in arrays.items() if array is not None})


def read_per_image_counts(
    folder: ComparedRunFolder, images: int | None = None, classes: int | None = None
) -> PerImageCounts:
    """The counts of a run, whose predictions are all there. images, classes: how many the run has. Raises UserError for
    a file that is not whole, or of another run."""
    file = folder.counts
    try:
        with np.load(file, allow_pickle=False) as kept:
            confusion = kept["confusion"] if "confusion" in kept.files else None
            found = PerImageCounts(kept["counts"], kept["border"], kept["bins"], kept["shown"], confusion)
    except FileNotFoundError:
        raise UserError(f"{file} is missing") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{file} is damaged: {type(error).__name__}") from None
    count, _, of = shape = found.counts.shape if found.counts.ndim == 3 else (0, 0, 0)
    matrix = np.zeros((of, of), int) if found.confusion is None else found.confusion
    arrays = (found.counts, found.border, found.bins, found.shown, matrix)
    numeric = all(array.dtype.kind in "iuf" for array in arrays)
    shapes = (shape, found.border.shape, found.bins.shape, found.shown.ndim, matrix.shape)
    expected = ((count, 3, of), (count, 2, of), (CONFIDENCE_BINS, 3), 1, (of, of))
    if not numeric or shapes != expected or not count or not of:
        raise UserError(f"{file} is damaged: it holds arrays of other shapes or types")
    if (images or count, classes or of) != (count, of):
        raise UserError(f"{file} belongs to another run, with {count} images and {of} classes")
    missing = [index for index in found.shown.tolist() if not folder.predicted_ids(index).is_file()]
    if missing:
        raise UserError(f"{folder.predicted_ids(missing[0])} is missing")
    return found


def as_array(tensors: list[Tensor]) -> np.ndarray:
    array: np.ndarray = torch.stack(tensors).cpu().numpy()
    return array


def save_prediction(ids: Tensor, file: Path) -> None:
    from PIL import Image

    file.parent.mkdir(exist_ok=True)
    Image.fromarray(ids.to("cpu", torch.uint8).numpy()).save(file)


# --- counting -------------------------------------------------------------------------------------------------------


def count_hits(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(3, C) int64: right, true and predicted pixels of each class; void is left out. truth, predicted: (H, W)."""
    known = truth != IGNORE
    truth, predicted = truth[known], predicted[known]
    count = lambda ids: torch.bincount(ids, minlength=classes)[:classes]  # noqa: E731
    return torch.stack([count(truth[truth == predicted]), count(truth), count(predicted)])


def count_border_hits(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(2, C) int64: of each class the pixels in both borders, and in either; void is left out."""
    width = max(1, round(BORDER_SHARE * float(np.hypot(*truth.shape))))
    known = truth != IGNORE
    one, other = (
        border_of(ids.where(known, torch.full_like(ids, classes)), classes, width) for ids in (truth, predicted)
    )
    return torch.stack([(one & other).flatten(1).sum(dim=1), (one | other).flatten(1).sum(dim=1)])


def border_of(ids: Tensor, classes: int, width: int) -> Tensor:
    """(C, H, W) bool: the pixels of each class within `width` of one of another class, or of the image's edge."""
    inside = F.one_hot(ids, classes + 1)[..., :classes].permute(2, 0, 1).float()
    outside = F.pad(1 - inside, (width, width, width, width), value=1.0)[None]
    near = F.max_pool2d(F.max_pool2d(outside, (2 * width + 1, 1), 1), (1, 2 * width + 1), 1)[0]
    return (inside > 0) & (near > 0)
