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
from ssss_zoo.evaluation.figures import evenly_spaced
from ssss_zoo.evaluation.painting import (
    colour_classes,
    draw_overlay,
    photo,
    picture_size,
    resize_nearest,
    resize_photo,
)
from ssss_zoo.evaluation.sheets import Panel, PanelRow, class_legend, draw_class_bars, draw_sheet, stack_vertically
from ssss_zoo.models.encoders import statistic
from ssss_zoo.models.smp import MEAN
from ssss_zoo.toolkit.augment import Strong
from ssss_zoo.toolkit.types import IGNORE


def draw_preview(dataset: Dataset, config: Config, count: int, file: Path) -> None:
    """Write the contact sheet: `count` labelled images with their masks, one crop of each as the methods get it, and
    its strong view; below, the legend and the share of each class in these masks. Raises UserError as reading does."""
    samples = evenly_spaced(dataset.labelled, count)
    crop, scale = square(config.train.crop), (config.augment.scale[0], config.augment.scale[1])
    rules = crop_rules(config.augment, statistic("mean", config.model, MEAN), config.augment.pad_label)
    crops = CropDataset(dataset, samples, crop, scale, config.seed, "preview", masks=True, rules=rules)
    order = [crops.index(position) for position in range(len(samples))]
    seed_draws(config.seed, 0, 0)
    rows = []
    pixels = np.zeros(IGNORE + 1, np.int64)
    for position, index in enumerate(order):
        image, mask = photo(dataset.read_image(samples[index])), dataset.read_mask(samples[index])
        item = crops[position]
        weak = item["image"]
        strong = (Strong(config.augment)(weak[None].float() / 255)[0] * 255).round().to(torch.uint8)
        panels = [*mask_panels(image, mask, dataset), *crop_panels(weak, item["mask"], strong, dataset)]
        rows.append(PanelRow(samples[index].name, panels))
        pixels += np.bincount(mask.ravel(), minlength=IGNORE + 1)
    sheet = draw_sheet(rows, class_legend(dataset, set(np.flatnonzero(pixels).tolist())))
    stack_vertically([sheet, draw_class_shares(pixels, dataset, sheet.width)]).save(file)


def mask_panels(image: np.ndarray, mask: np.ndarray, dataset: Dataset) -> list[Panel]:
    """The image and its mask over it. image: (H, W, 3) uint8; mask: (H, W) class ids."""
    size = picture_size(*image.shape[:2])
    image, mask = resize_photo(image, size), resize_nearest(mask, size)
    return [
        Panel("image", Image.fromarray(image)),
        Panel("mask over it", draw_overlay(image, mask, dataset.colours)),
    ]


def crop_panels(weak: torch.Tensor, mask: torch.Tensor, strong: torch.Tensor, dataset: Dataset) -> list[Panel]:
    """The views of a crop and its mask. weak, strong: (channels, H, W) in [0, 255]; mask: (H, W) class ids."""
    size = picture_size(*mask.shape)
    views = [resize_photo(photo(view.permute(1, 2, 0).numpy()), size) for view in (weak, strong)]
    classes = colour_classes(resize_nearest(mask.numpy(), size), dataset.colours)
    titles = ("crop, weak view", "its mask", "strong view")
    return [
        Panel(title, Image.fromarray(pixels))
        for title, pixels in zip(titles, (views[0], classes, views[1]), strict=True)
    ]


def draw_class_shares(pixels: np.ndarray, dataset: Dataset, width: int) -> Image.Image:
    """The share of each class. pixels: (256,) by id."""
    shares = pixels[: len(dataset.class_names)] / max(pixels[:IGNORE].sum(), 1)
    title = "share of the pixels in these masks"
    return draw_class_bars(title, shares, dataset, lambda share: f"{100 * share:.2f} %", width)
