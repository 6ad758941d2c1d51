"""The validation images that a report shows: which ones, and each under every method, as small pictures in the
comparison's folder, so that the report can be made again without the data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.kept import INDEX, PICTURES, WRONG
from ssss_zoo.comparison.report.per_image_scores import shown_file
from ssss_zoo.comparison.report.statistics import Run, all_pixels, mious
from ssss_zoo.comparison.study import Study
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.registry import load
from ssss_zoo.evaluation.figures import checked, coloured, void_colours
from ssss_zoo.evaluation.figures import photo as as_photo
from ssss_zoo.record_files import FORMAT
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import IGNORE
from ssss_zoo.train.pseudo_label_snapshots import PHOTO
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import open_dataset

WIDE = 240  # pixels (our choice)
WORST = 4  # images (our choice)
STAGES = 4  # pictures of a row's pseudo-labels, at even distances (our choice)
log = logging.getLogger("ssss_zoo")


def write_pictures(study: Study, runs: Mapping[str, Sequence[Run]]) -> None:
    """Write pictures of the images that every run kept, and of the worst of them; INDEX says which they are."""
    firsts = {name: of_row[0] for name, of_row in runs.items() if of_row}
    if not firsts:
        return
    config = study.cells()[0].config()
    dataset = open_dataset(load("datasets", config.dataset), config)
    kept = sorted(set.intersection(*(set(run.scores.shown.tolist()) for run in firsts.values())))
    each = per_image(firsts)
    mean = np.mean(list(each.values()), axis=0)
    worst = sorted(kept, key=lambda index: float(mean[index]))[:WORST]
    regular = [kept[at] for at in np.linspace(0, len(kept) - 1, min(WORST, len(kept))).round().astype(int)]
    entries = []
    for index in dict.fromkeys([*regular, *worst]):
        entries.append(
            {
                "index": index,
                "name": dataset.val[index].name,
                "worst": index in worst,
                "miou": {name: float(values[index]) for name, values in each.items()},
                "files": one_image(study.folder / PICTURES, dataset, index, firsts),
            }
        )
    written = {
        "format": FORMAT,
        "colours": [list(colour) for colour in dataset.colours],
        "void": [list(colour) for colour in void_colours(tuple(dataset.colours))],
        "images": entries,
        "diary": diary(study.folder / PICTURES, firsts),
    }
    write_json(study.folder / PICTURES / INDEX, written)


def per_image(runs: Mapping[str, Run]) -> dict[str, np.ndarray]:
    """(N,) mIoU of each validation image by itself, classes that it does not show left out."""
    found = {}
    for name, run in runs.items():
        images = run.scores.counts.shape[0]
        found[name] = mious(all_pixels(run.scores)[None], np.eye(images), "exclude")[:, 0]
    return found


def one_image(folder: Path, dataset: Dataset, index: int, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Write an image, its truth, and each row's prediction and errors; returns their file names."""
    folder.mkdir(exist_ok=True)
    sample = dataset.val[index]
    photo, truth = as_photo(dataset.read_image(sample)), dataset.read_mask(sample)
    files: dict[str, Any] = {"rows": {}}
    files["image"] = saved(photo, folder / f"{index}.jpg")
    files["truth"] = saved(coloured(truth, dataset), folder / f"{index}-truth.png")
    for number, (name, run) in enumerate(runs.items()):
        predicted = read_picture(shown_file(run.folder, index))
        if predicted is None or predicted.shape != truth.shape:  # a centre crop: its place in the image is not kept
            continue
        files["rows"][name] = {
            "predicted": saved(coloured(predicted, dataset), folder / f"{index}-{number}.png"),
            "wrong": saved(errors(photo, truth, predicted, dataset), folder / f"{index}-{number}-wrong.png"),
        }
    return files


def diary(folder: Path, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Copies of what the runs drew of their pseudo-labels, small: the image, and by row the steps and their pictures,
    at most STAGES of them; nothing of rows without pseudo-labels."""
    files: dict[str, Any] = {"image": None, "rows": {}}
    for number, (name, run) in enumerate(runs.items()):
        drawn = {
            int(file.stem): file
            for file in (RunFolder(run.folder).pseudo_labels).glob("*.png")
            if file.stem.isdecimal()
        }
        steps = [sorted(drawn)[round(at)] for at in np.linspace(0, len(drawn) - 1, min(STAGES, len(drawn)))]
        seen = {step: read_picture(drawn[step]) for step in dict.fromkeys(steps)}
        image = read_picture(RunFolder(run.folder).pseudo_labels / PHOTO) if drawn else None
        if image is None:
            continue
        files["image"] = files["image"] or saved(image, folder / "unlabelled.jpg")
        files["rows"][name] = [
            {"step": step, "file": saved(pixels, folder / f"unlabelled-{number}-{step}.png", 2)}
            for step, pixels in seen.items()
            if pixels is not None
        ]
    return files


def read_picture(file: Path) -> np.ndarray | None:
    """Its pixels; None, and a warning, where it is damaged."""
    try:
        with Image.open(file) as picture:
            return np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's own are of these
        log.warning(f"{file} is left out of the report's pictures ({brief(error)})")
        return None


def errors(photo: np.ndarray, truth: np.ndarray, predicted: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The dimmed image with wrong pixels in WRONG and void ones checked."""
    shown = (photo * 0.35).astype(np.uint8)
    shown[(predicted != truth) & (truth != IGNORE)] = WRONG
    return checked(shown, truth == IGNORE, dataset)


def saved(pixels: np.ndarray, file: Path, panels: int = 1) -> str:
    """Write the pixels so that each of the `panels` side by side is WIDE; returns the file's name."""
    (height, width), wide = pixels.shape[:2], panels * WIDE
    size = (wide, max(1, round(height * wide / width)))
    how = Image.Resampling.BOX if file.suffix == ".jpg" else Image.Resampling.NEAREST
    Image.fromarray(pixels).resize(size, how).save(file)
    return file.name
