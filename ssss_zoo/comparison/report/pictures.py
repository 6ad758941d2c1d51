"""The pictures of a report, small, in the comparison's folder: validation images under every method, and pseudo-labels.
With them the report can be made again without the data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.comparison.plan import StudyPlan
from ssss_zoo.comparison.report.picture_index import (
    ERROR_COLOUR,
    ImagePictures,
    PictureIndex,
    PseudoLabelPicture,
    PseudoLabelPictures,
    RowPictures,
    ShownImage,
    write_picture_index,
)
from ssss_zoo.comparison.report.statistics import FinishedRun, FinishedRuns, all_pixels, mious
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.registry import load
from ssss_zoo.evaluation.figures import colour_classes, draw_void, evenly_spaced, photo, void_colours
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import IGNORE
from ssss_zoo.train.pseudo_label_snapshots import PHOTO
from ssss_zoo.train.setup import open_dataset

PICTURE_WIDTH = 240  # pixels (our choice)
SHOWN_IMAGES = 4  # evenly_spaced spaced ones, and as many of the worst (our choice)
SHOWN_STEPS = 4  # pictures of a row's pseudo-labels, evenly_spaced spaced (our choice)
DIMMED = 0.35  # brightness of the image below its wrong pixels (our choice)
log = logging.getLogger("ssss_zoo")


def write_pictures(plan: StudyPlan, finished: FinishedRuns) -> None:
    """Write pictures of validation images whose predictions every row kept, among them the worst, and the index."""
    first_runs = {name: runs[0] for name, runs in finished.items() if runs}
    if not first_runs:
        return
    config = plan.first_config()
    dataset, _ = open_dataset(load("datasets", config.dataset), config)
    kept = sorted(set.intersection(*(set(run.counts.shown.tolist()) for run in first_runs.values())))
    scores = {name: per_image_miou(run) for name, run in first_runs.items()}
    mean = np.mean(list(scores.values()), axis=0)
    worst = sorted(kept, key=lambda index: float(mean[index]))[:SHOWN_IMAGES]
    folder = plan.folder.pictures
    folder.mkdir(exist_ok=True)
    images = tuple(
        ShownImage(
            index=index,
            name=dataset.val[index].name,
            worst=index in worst,
            miou={name: float(values[index]) for name, values in scores.items()},
            files=write_image(folder, dataset, index, first_runs),
        )
        for index in dict.fromkeys([*evenly_spaced(kept, SHOWN_IMAGES), *worst])
    )
    drawn = PictureIndex(
        colours=tuple(dataset.colours),
        void=void_colours(tuple(dataset.colours)),
        images=images,
        pseudo_labels=write_pseudo_labels(folder, first_runs),
    )
    write_picture_index(plan.folder, drawn)


def per_image_miou(run: FinishedRun) -> np.ndarray:
    """(N,) mIoU of each validation image alone, over the classes that it shows."""
    images = run.counts.counts.shape[0]
    scores: np.ndarray = mious(all_pixels(run.counts)[None], np.eye(images), "exclude")[:, 0]
    return scores


def write_image(folder: Path, dataset: Dataset, index: int, runs: Mapping[str, FinishedRun]) -> ImagePictures:
    """Write a validation image, its ground truth, and each row's prediction and errors."""
    sample = dataset.val[index]
    image, truth = photo(dataset.read_image(sample)), dataset.read_mask(sample)
    rows = {}
    for number, (name, run) in enumerate(runs.items()):
        predicted = read_pixels(run.folder.predicted_ids(index))
        if predicted is None or predicted.shape != truth.shape:  # a centre crop: its place in the image is not kept
            continue
        errors = mark_errors(image, truth, predicted, dataset)
        rows[name] = RowPictures(
            predicted=save_small(colour_classes(predicted, dataset), folder / f"{index}-{number}.png"),
            wrong=save_small(errors, folder / f"{index}-{number}-wrong.png"),
        )
    return ImagePictures(
        rows=rows,
        image=save_small(image, folder / f"{index}.jpg"),
        truth=save_small(colour_classes(truth, dataset), folder / f"{index}-truth.png"),
    )


def write_pseudo_labels(folder: Path, runs: Mapping[str, FinishedRun]) -> PseudoLabelPictures:
    """Copy the runs' pictures of their pseudo-labels, at most SHOWN_STEPS of each row that has any."""
    shown_image, rows = None, {}
    for number, (name, run) in enumerate(runs.items()):
        drawn = run.folder.pseudo_labels
        files = {int(file.stem): file for file in drawn.glob("*.png") if file.stem.isdecimal()}
        image = read_pixels(drawn / PHOTO) if files else None
        if image is None:
            continue
        shown_image = shown_image or save_small(image, folder / "unlabelled.jpg")
        pictures = []
        for step in dict.fromkeys(evenly_spaced(sorted(files), SHOWN_STEPS)):
            pixels = read_pixels(files[step])
            if pixels is not None:
                file = save_small(pixels, folder / f"unlabelled-{number}-{step}.png", panels=2)
                pictures.append(PseudoLabelPicture(step=step, file=file))
        rows[name] = tuple(pictures)
    return PseudoLabelPictures(image=shown_image, rows=rows)


def read_pixels(file: Path) -> np.ndarray | None:
    """The pixels of a picture; None, and a warning, where it is damaged."""
    try:
        with Image.open(file) as picture:
            return np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises these for damaged files
        log.warning(f"{file} is not shown in the report's pictures ({brief(error)})")
        return None


def mark_errors(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The dimmed image with wrong pixels in ERROR_COLOUR and void in squares."""
    marked = (image * DIMMED).astype(np.uint8)
    marked[(predicted != truth) & (truth != IGNORE)] = ERROR_COLOUR
    return draw_void(marked, truth == IGNORE, dataset)


def save_small(pixels: np.ndarray, file: Path, panels: int = 1) -> str:
    """Write the pixels so that each of the `panels` side by side is PICTURE_WIDTH wide; returns the file's name."""
    (height, width), new_width = pixels.shape[:2], panels * PICTURE_WIDTH
    size = (new_width, max(1, round(height * new_width / width)))
    resampling = Image.Resampling.BOX if file.suffix == ".jpg" else Image.Resampling.NEAREST
    Image.fromarray(pixels).resize(size, resampling).save(file)
    return file.name
