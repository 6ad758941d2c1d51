"""One unlabelled image and its pseudo-label at each evaluation, as pictures: what a method believed, and when."""

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
from ssss_zoo.evaluation.figures import colour_classes, photo
from ssss_zoo.toolkit.types import Progress, Sample, Unlabelled

PHOTO = "image.jpg"
WIDEST = 1024  # pixels of the longer side that is shown to the teacher (our choice)
log = logging.getLogger("ssss_zoo")


class Diary:
    """Asks the first student's teacher and the hooks about one whole image, outside the steps: no state changes by it.
    A picture shows the pseudo-label in the classes' colours and, right of it, the pixel weights, black 0, white 1."""

    def __init__(self, dataset: Dataset, sample: Sample, engine: Engine, modules: Mapping[str, nn.Module]) -> None:
        self.dataset, self.sample, self.engine, self.modules = dataset, sample, engine, modules

    def write(self, folder: Path, step: int, progress: Progress) -> None:
        """Write the image, if it is not there, and the pseudo-label as <step>.png."""
        try:
            folder.mkdir(exist_ok=True)
            if not (folder / PHOTO).is_file():
                Image.fromarray(photo(self.dataset.read_image(self.sample))).save(folder / PHOTO)
            self.picture(progress).save(folder / f"{step}.png")
        except OSError as error:
            log.warning(f"{folder}: the pseudo-label could not be drawn ({error.strerror}); the run itself is whole")

    def picture(self, progress: Progress) -> Image.Image:
        target, (height, width) = self.ask(progress)
        seen = (0, slice(height), slice(width))
        label = colour_classes(target.label.ids[seen].cpu().numpy(), self.dataset)
        weight = (target.weight[seen].clamp(0, 1) * 255).to(torch.uint8).cpu().numpy()
        return Image.fromarray(np.concatenate([label, photo(weight[..., None])], axis=1))

    def ask(self, progress: Progress) -> tuple[PseudoTarget, tuple[int, int]]:
        """The teacher's word on the image, and the size without the padding. The image goes in with its mirror image:
        one alone has no statistics for BatchNorm in train mode."""
        image = torch.from_numpy(np.array(self.dataset.read_image(self.sample))).permute(2, 0, 1)[None]
        image = fitted(floats(image, self.engine.device, self.engine.config.train.channels_last))
        height, width = image.shape[-2:]
        multiple = self.engine.students[0].multiple
        missing = (0, -width % multiple, 0, -height % multiple)
        image = F.pad(image, missing, mode="replicate")
        valid = F.pad(torch.ones(1, height, width, dtype=torch.bool, device=image.device), missing)
        both = Unlabelled(torch.cat([image, image.flip(-1)]), torch.cat([valid, valid.flip(-1)]))
        with undisturbed([*self.engine.networks().values(), *self.modules.values()]):
            return self.engine.label_images(both, progress), (height, width)


def fitted(image: Tensor) -> Tensor:
    """(1, channels, H, W), made smaller where its longer side is beyond WIDEST."""
    scale = WIDEST / max(image.shape[-2:])
    return image if scale >= 1 else F.interpolate(image, scale_factor=scale, mode="area")


@contextmanager
def undisturbed(modules: list[nn.Module]) -> Iterator[None]:
    """What happens inside leaves no trace in the modules' parameters and buffers."""
    values = [value for module in modules for value in module.state_dict(keep_vars=True).values()]
    kept = [value.detach().clone() for value in values]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in zip(values, kept, strict=True):
                value.copy_(before)
