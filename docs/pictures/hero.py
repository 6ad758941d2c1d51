"""Draws the picture on top of README: one validation scene of `shapes`, its ground truth, and what two runs predict.

    ssss run method=supervised && ssss run
    cd runs/shapes
    python ../../docs/pictures/hero.py supervised/1_32/seed0 farcluss/1_32/seed0 ../../docs/pictures/hero.png

The scene is not chosen by eye: of all validation scenes, it is the one where the second run's gain over the first is
the median.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo import load
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks.shapes import Shapes
from ssss_zoo.evaluation.painting import colour_classes, photo, picture_size, resize_nearest, resize_photo
from ssss_zoo.evaluation.sheets import Panel, PanelRow, class_legend, draw_sheet
from ssss_zoo.toolkit import IGNORE


def share_right(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The share of the pixels that are not void whose class is right."""
    counted = truth != IGNORE
    return float((predicted == truth)[counted].mean())


def draw_hero(first_run: Path, second_run: Path) -> Image.Image:
    dataset = Shapes(DataConfig())
    images = [dataset.read_image(sample) for sample in dataset.val]
    truths = [dataset.read_mask(sample) for sample in dataset.val]
    first, second = (load(run) for run in (first_run, second_run))
    before = [first.predict(image).classes for image in images]
    after = [second.predict(image).classes for image in images]
    gains = [
        share_right(new, truth) - share_right(old, truth) for old, new, truth in zip(before, after, truths, strict=True)
    ]
    scene = int(np.argsort(gains)[len(gains) // 2])
    truth = truths[scene]
    size = picture_size(*truth.shape)

    def draw_classes(ids: np.ndarray) -> Image.Image:
        return Image.fromarray(colour_classes(resize_nearest(ids, size), dataset.colours))

    panels = [
        Panel("image", Image.fromarray(resize_photo(photo(images[scene]), size))),
        Panel(f"labels alone: {share_right(before[scene], truth):.0%} right", draw_classes(before[scene])),
        Panel(f"FARCLUSS: {share_right(after[scene], truth):.0%} right", draw_classes(after[scene])),
        Panel("ground truth", draw_classes(truth)),
    ]
    shown = set(np.unique([before[scene], after[scene], truth])) - {IGNORE}
    return draw_sheet([PanelRow("", panels)], class_legend(dataset, shown))


if __name__ == "__main__":
    draw_hero(Path(sys.argv[1]), Path(sys.argv[2])).save(sys.argv[3])
