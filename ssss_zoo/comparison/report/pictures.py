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
from ssss_zoo.data.class_colours import WRONG_COLOUR, is_near_wrong
from ssss_zoo.engine.registry import load
from ssss_zoo.evaluation.figures import evenly_spaced
from ssss_zoo.evaluation.painting import (
    VOID_STRIPES,
    WRONG_STRIPES,
    colour_classes,
    draw_errors,
    photo,
    picture_size,
    resize_nearest,
    resize_photo,
)
from ssss_zoo.evaluation.sheets import without_legend
from ssss_zoo.text import brief
from ssss_zoo.train.pseudo_label_snapshots import PHOTO
from ssss_zoo.train.setup import open_dataset

MAX_SHEET_WIDTH = 1000  # pixels of a picture of pseudo-labels (our choice)
SHOWN_IMAGES = 4  # evenly spaced ones, and as many of the worst (our choice)
SHOWN_STEPS = 4  # pictures of a row's pseudo-labels, evenly spaced (our choice)
JPEG_QUALITY = 88  # of photographs (our choice)
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
        void=VOID_STRIPES,
        wrong=WRONG_STRIPES if is_near_wrong(dataset.colours) else (WRONG_COLOUR,),
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
    size = picture_size(*truth.shape)
    small_image, small_truth = resize_photo(image, size), resize_nearest(truth, size)
    rows = {}
    for number, (name, run) in enumerate(runs.items()):
        predicted = read_pixels(run.folder.predicted_ids(index))
        if predicted is None or predicted.shape != truth.shape:  # a centre crop: its place in the image is not kept
            continue
        ids = resize_nearest(predicted, size)
        errors = draw_errors(small_image, small_truth, ids, dataset.colours)
        rows[name] = RowPictures(
            predicted=save_pixels(colour_classes(ids, dataset.colours), folder / f"{index}-{number}.png"),
            wrong=save_pixels(errors, folder / f"{index}-{number}-wrong.jpg"),
        )
    return ImagePictures(
        rows=rows,
        image=save_pixels(small_image, folder / f"{index}.jpg"),
        truth=save_pixels(colour_classes(small_truth, dataset.colours), folder / f"{index}-truth.png"),
    )


def write_pseudo_labels(folder: Path, runs: Mapping[str, FinishedRun]) -> PseudoLabelPictures:
    """Copy the runs' pictures of their pseudo-labels, at most SHOWN_STEPS of each row that has any. The report draws
    one legend for all of them."""
    shown_image, rows = None, {}
    for number, (name, run) in enumerate(runs.items()):
        drawn = run.folder.pseudo_labels
        files = {int(file.stem): file for file in drawn.glob("*.png") if file.stem.isdecimal()}
        image = read_pixels(drawn / PHOTO) if files else None
        if image is None:
            continue
        shown_image = shown_image or save_pixels(at_most_wide(image), folder / "unlabelled.jpg")
        pictures = []
        for step in dict.fromkeys(evenly_spaced(sorted(files), SHOWN_STEPS)):
            pixels = read_pixels(files[step], legend=False)
            if pixels is not None:
                file = save_pixels(at_most_wide(pixels), folder / f"unlabelled-{number}-{step}.jpg")
                pictures.append(PseudoLabelPicture(step=step, file=file))
        rows[name] = tuple(pictures)
    return PseudoLabelPictures(image=shown_image, rows=rows, own_legends=False)


def read_pixels(file: Path, *, legend: bool = True) -> np.ndarray | None:
    """The pixels of a picture; None, and a warning, where it is damaged. legend: False leaves out that of a sheet."""
    try:
        with Image.open(file) as picture:
            return np.array(picture if legend else without_legend(picture))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises these for damaged files
        log.warning(f"{file} is not shown in the report's pictures ({brief(error)})")
        return None


def at_most_wide(pixels: np.ndarray) -> np.ndarray:
    """The pixels (H, W, 3), made smaller where they are wider than MAX_SHEET_WIDTH."""
    height, width = pixels.shape[:2]
    if width <= MAX_SHEET_WIDTH:
        return pixels
    size = (MAX_SHEET_WIDTH, max(1, round(height * MAX_SHEET_WIDTH / width)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def save_pixels(pixels: np.ndarray, file: Path) -> str:
    """Write (H, W, 3) pixels; returns the file's name. Colours of a JPEG keep their place (no chroma subsampling)."""
    Image.fromarray(pixels).save(file, quality=JPEG_QUALITY, subsampling=0)  # a PNG takes neither
    return file.name
