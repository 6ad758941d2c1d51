"""`ssss data preview`: one picture of what a run will see of a data set, to look at before the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.crops import CropDataset, crop_rules
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.evaluation.figures import (
    MAX_PANEL_WIDTH,
    class_bars,
    colour_classes,
    evenly_spaced,
    photo,
    resize_ids,
    sheet,
    stack_vertically,
)
from ssss_zoo.models.encoders import statistic
from ssss_zoo.models.smp import MEAN
from ssss_zoo.toolkit.augment import Strong
from ssss_zoo.toolkit.types import IGNORE

PANEL_TITLES = ("mask over it", "mask", "weak view", "its mask", "strong view")
MASK_OPACITY = 0.55  # of the mask over the image


def draw_preview(dataset: Dataset, config: Config, count: int, file: Path) -> None:
    """Write the contact sheet: `count` labelled images with their masks, one crop of each as the methods get it, and
    its strong view; below, the legend and the share of each class in these masks. Raises UserError as reading does."""
    samples = evenly_spaced(dataset.labelled, count)
    crop, scale = square(config.train.crop), (config.augment.scale[0], config.augment.scale[1])
    rules = crop_rules(config.augment, statistic("mean", config.model, MEAN), config.augment.pad_label)
    crops = CropDataset(dataset, samples, crop, scale, config.seed, "preview", masks=True, rules=rules)
    order = [crops.index(position) for position in range(len(samples))]
    seed_draws(config.seed, 0, 0)
    rows, pixels = [], np.zeros(IGNORE + 1, np.int64)
    for position, index in enumerate(order):
        image, mask = dataset.read_image(samples[index]), dataset.read_mask(samples[index])
        item = crops[position]
        weak = item["image"]
        strong = (Strong(config.augment)(weak[None].float() / 255)[0] * 255).round().to(torch.uint8)
        whole, part = fitted(photo(image)), fitted(photo(chw(weak)))
        large, small = masked(mask, whole, dataset), masked(item["mask"].numpy(), part, dataset)
        shown = [whole, Image.blend(whole, large, MASK_OPACITY), large, part, small, fitted(photo(chw(strong)))]
        rows.append(list(zip((samples[index].name, *PANEL_TITLES), shown, strict=True)))
        pixels += np.bincount(mask.ravel(), minlength=IGNORE + 1)
    stack_vertically([sheet(rows, dataset), histogram(pixels, dataset)]).save(file)


def chw(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def masked(mask: np.ndarray, picture: Image.Image, dataset: Dataset) -> Image.Image:
    """A mask (H, W) in the colours of its classes, as large as the picture of its image."""
    return Image.fromarray(colour_classes(resize_ids(mask, picture.size), dataset))


def fitted(picture: np.ndarray) -> Image.Image:
    """The picture, at most half of MAX_PANEL_WIDTH wide. A small one is enlarged, to at most that width and height."""
    height, width = picture.shape[:2]
    widest = MAX_PANEL_WIDTH / 2
    scale = widest / width if width >= widest else max(1.0, widest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(picture).resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def histogram(pixels: np.ndarray, dataset: Dataset) -> Image.Image:
    """The share of each class. pixels: (256,) by id."""
    shares = pixels[: len(dataset.class_names)] / max(pixels[:IGNORE].sum(), 1)
    return class_bars("share of the pixels in the masks above", shares, dataset, lambda share: f"{100 * share:.2f} %")
