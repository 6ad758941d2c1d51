"""Pictures of one unlabelled image's pseudo-label, one at each evaluation: how a method's labels change in a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.device_batch import floats
from ssss_zoo.engine.step import Engine, PseudoTarget
from ssss_zoo.evaluation.painting import (
    colour_classes,
    colour_values,
    photo,
    picture_size,
    resize_nearest,
    resize_photo,
)
from ssss_zoo.evaluation.sheets import Panel, PanelRow, class_legend, draw_sheet, save_sheet
from ssss_zoo.toolkit.types import Progress, Sample, Unlabelled

PHOTO = "image.jpg"
WIDEST = 1024  # pixels of the longer side that is shown to the teacher (our choice)
log = logging.getLogger("ssss_zoo")


class PseudoLabelSnapshots:
    """Draws the pseudo-label of one whole unlabelled image, outside the steps: no state changes by it.

    A picture shows the image, the label in the colours of the classes, the weights of its pixels, and a legend.
    """

    def __init__(self, dataset: Dataset, sample: Sample, engine: Engine, modules: Mapping[str, nn.Module]) -> None:
        self.dataset = dataset
        self.sample = sample
        self.engine = engine
        self.modules = modules

    def write(self, folder: Path, step: int, progress: Progress) -> None:
        """Write the pseudo-label as <step>.png, and the image where it is not there yet."""
        try:
            folder.mkdir(exist_ok=True)
            if not (folder / PHOTO).is_file():
                Image.fromarray(photo(self.dataset.read_image(self.sample))).save(folder / PHOTO)
            save_sheet(self.draw(step, progress), folder / f"{step}.png")
        except OSError as error:
            log.warning(f"{folder}: the pseudo-label could not be drawn ({error.strerror}); the run itself is complete")

    def draw(self, step: int, progress: Progress) -> Image.Image:
        """The picture of the label that the first student's teacher and the hooks give now, after `step` steps."""
        target, (height, width) = self.label(progress)
        inside = (0, slice(height), slice(width))
        size = picture_size(height, width)
        image = resize_photo(photo(self.dataset.read_image(self.sample)), size)
        ids = resize_nearest(target.label.ids[inside].to("cpu", torch.uint8).numpy(), size)
        weight = resize_nearest(target.weight[inside].float().cpu().numpy(), size)
        label = colour_classes(ids, self.dataset.colours)
        panels = [
            Panel("unlabelled image", Image.fromarray(image)),
            Panel("pseudo-label", Image.fromarray(label)),
            Panel("weight of its pixels", Image.fromarray(colour_values(weight, 1.0)), 1.0),
        ]
        legend = class_legend(self.dataset, set(np.unique(ids).tolist()))
        return draw_sheet([PanelRow(f"step {step}: {self.sample.name}", panels)], legend)

    def label(self, progress: Progress) -> tuple[PseudoTarget, tuple[int, int]]:
        """The pseudo-label of the image, and height and width without the padding. The image goes in with its mirror
        image: one alone has no statistics for BatchNorm in train mode."""
        image = torch.from_numpy(np.array(self.dataset.read_image(self.sample))).permute(2, 0, 1)[None]
        image = shrink_to_widest(floats(image, self.engine.device, self.engine.config.train.channels_last))
        height, width = image.shape[-2:]
        multiple = self.engine.students[0].multiple
        missing = (0, -width % multiple, 0, -height % multiple)
        image = F.pad(image, missing, mode="replicate")
        valid = F.pad(torch.ones(1, height, width, dtype=torch.bool, device=image.device), missing)
        both = Unlabelled(torch.cat([image, image.flip(-1)]), torch.cat([valid, valid.flip(-1)]))
        with restoring([*self.engine.networks().values(), *self.modules.values()]):
            return self.engine.label_images(both, progress), (height, width)


def shrink_to_widest(image: Tensor) -> Tensor:
    """(1, channels, H, W), made smaller where its longer side is beyond WIDEST."""
    scale = WIDEST / max(image.shape[-2:])
    return image if scale >= 1 else F.interpolate(image, scale_factor=scale, mode="area")


@contextmanager
def restoring(modules: list[nn.Module]) -> Iterator[None]:
    """Put the modules' parameters and buffers back at the end of the block."""
    values = [value for module in modules for value in module.state_dict(keep_vars=True).values()]
    kept = [value.detach().clone() for value in values]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in zip(values, kept, strict=True):
                value.copy_(before)
