"""The validation images that a report shows: which ones, and each under every method, as small pictures in the
comparison's folder, so that the report can be made again without the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssss_zoo.checkpoint import write_json
from ssss_zoo.compare.results import Run, mious
from ssss_zoo.compare.study import Study
from ssss_zoo.data.base import Dataset
from ssss_zoo.job import open_dataset
from ssss_zoo.pictures import coloured
from ssss_zoo.plugins import load
from ssss_zoo.records import IGNORE

FOLDER, INDEX = "pictures", "pictures.json"
WIDE = 240  # pixels (our choice)
WORST = 4  # images (our choice)
WRONG, VOID = (213, 94, 0), (150, 150, 150)


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
                "files": one_image(study.folder / FOLDER, dataset, index, firsts),
            }
        )
    written = {"colours": [list(colour) for colour in dataset.colours], "images": entries}
    write_json(study.folder / FOLDER / INDEX, written)


def per_image(runs: Mapping[str, Run]) -> dict[str, np.ndarray]:
    """(N,) mIoU of each validation image by itself, classes that it does not show left out."""
    found = {}
    for name, run in runs.items():
        images = run.scores.counts.shape[0]
        found[name] = mious(run.scores.counts[None], np.eye(images), "exclude")[:, 0]
    return found


def one_image(folder: Path, dataset: Dataset, index: int, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Write an image, its truth, and each row's prediction and errors; returns their file names."""
    folder.mkdir(exist_ok=True)
    sample = dataset.val[index]
    photo, truth = dataset.read_image(sample), dataset.read_mask(sample)
    three = photo[..., : 3 if photo.shape[2] >= 3 else 1]
    photo = np.broadcast_to(three, (*three.shape[:2], 3)).astype(np.uint8)
    files: dict[str, Any] = {"rows": {}}
    files["image"] = saved(photo, folder / f"{index}.jpg")
    files["truth"] = saved(coloured(truth, dataset), folder / f"{index}-truth.png")
    for number, (name, run) in enumerate(runs.items()):
        predicted = np.array(Image.open(run.folder / "shown" / f"{index}.png"))
        if predicted.shape != truth.shape:  # a centre crop: its place in the image is not kept
            continue
        files["rows"][name] = {
            "predicted": saved(coloured(predicted, dataset), folder / f"{index}-{number}.png"),
            "wrong": saved(errors(photo, truth, predicted), folder / f"{index}-{number}-wrong.png"),
        }
    return files


def errors(photo: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The dimmed image with wrong pixels in WRONG and void ones in VOID."""
    shown = (photo * 0.35).astype(np.uint8)
    shown[(predicted != truth) & (truth != IGNORE)] = WRONG
    shown[truth == IGNORE] = VOID
    return shown


def saved(pixels: np.ndarray, file: Path) -> str:
    height, width = pixels.shape[:2]
    size = (WIDE, max(1, round(height * WIDE / width)))
    how = Image.Resampling.BOX if file.suffix == ".jpg" else Image.Resampling.NEAREST
    Image.fromarray(pixels).resize(size, how).save(file)
    return file.name
