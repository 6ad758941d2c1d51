"""ST++ (Yang et al., CVPR 2022, arXiv 2106.05095): train on labels; rank the unlabelled images by how stable their
predictions were; label the stable half and train anew on both; label the rest with that and train once more."""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ssss_zoo.evaluation.evaluator import whole
from ssss_zoo.evaluation.metrics import iou_per_class, mean_iou
from ssss_zoo.toolkit import (
    IGNORE, Labelled, Progress, RunInfo, Sample, Stage, StageResult, UserError, Views, box_mask, check_choice,
    check_range, hookimpl, random_boxes,
)  # fmt: skip

log = logging.getLogger("ssss_zoo")


@dataclass(eq=False)
class STPlusPlus:
    paper: ClassVar[str] = "ST++ (Yang et al., CVPR 2022, arXiv 2106.05095)"

    reliable: float = 0.5  # share of the unlabelled images that the second stage learns from; release; 1 = plain ST
    budget: str = (
        "shared"  # shared: the stages split train.steps [ours: compares fairly] | each: all of it each; release
    )
    select: str = "last"  # which weights label: last [ours: uses no validation label] | best on val; release
    scales: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.5, 2.0])  # of labelling; release
    flip: bool = True  # labelling also looks at the mirrored image; release
    rank_scale: float = 1.0  # of the predictions that are compared; release: the image's own size
    cutout: float = 0.5  # chance that a pseudo-labelled crop loses a box to noise; release

    def __post_init__(self) -> None:
        check_range("options.stpp.reliable", self.reliable, 0.01, 1)
        check_choice("options.stpp.budget", self.budget, ("shared", "each"))
        check_choice("options.stpp.select", self.select, ("last", "best"))
        check_range("options.stpp.rank_scale", self.rank_scale, 0.1, 4)
        check_range("options.stpp.cutout", self.cutout, 0, 1)
        for scale in self.scales or [0.0]:
            check_range("options.stpp.scales", scale, 0.1, 4)

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        """Snapshots at a third and two thirds of the first stage; the best network where it is asked for."""
        self.strong = info.strong
        copies = 3 if self.select == "best" else 2
        self.kept = Snapshots(copy.deepcopy(info.students[0]).requires_grad_(False).eval() for _ in range(copies))
        return {"stpp_snapshots": self.kept}

    @hookimpl
    def plan_stages(self, info: RunInfo) -> Generator[Stage, StageResult, None]:
        """Three trainings; with `reliable=1` (ST) two."""
        if not info.unlabelled:
            raise UserError("method=stpp labels unlabelled images, and there are none; choose a smaller data.split")
        number = 2 if self.reliable == 1 else 3
        steps = None if self.budget == "each" else max(info.steps // number, 1)
        first = yield Stage("labelled", steps=steps)
        work, network = info.folder / "stages", self.labeller(first)
        order = once(work / "ranking", lambda place: self.rank(info, first.students[0], place))
        ranked = [info.unlabelled[index] for index in json.loads((order / "order.json").read_text())]
        cut = max(int(len(ranked) * self.reliable), 1)
        made = self.relabel(info, network, ranked[:cut], work / "pseudo1")
        second = yield Stage("reliable", labelled=joined(info.labelled, made), steps=steps)
        if ranked[cut:]:
            made += self.relabel(info, self.labeller(second), ranked[cut:], work / "pseudo2")
            yield Stage("all", labelled=joined(info.labelled, made), steps=steps)

    @hookimpl
    def make_views(self) -> Views:
        return Views(augment_labelled=self.disturb)

    def disturb(self, labelled: Labelled) -> Labelled:
        """Pseudo-labelled crops get the strong photometric view, then by chance a box of noise without label."""
        if labelled.pseudo is None or not labelled.pseudo.any():  # on the CPU: nothing waits
            return labelled
        rows = labelled.pseudo.nonzero()[:, 0].to(labelled.image.device, non_blocking=True)
        image = labelled.image.index_copy(0, rows, self.strong(labelled.image[rows]))
        images, height, width = labelled.mask.shape
        boxes = random_boxes(images, height, width, chance=self.cutout, redraw=True)
        boxes = boxes * labelled.pseudo.view(-1, 1, 1)
        box = box_mask(boxes, height, width, image.device)
        image = torch.where(box.unsqueeze(1), torch.rand_like(image), image)
        return replace(labelled, image=image, mask=labelled.mask.masked_fill(box, IGNORE))

    @hookimpl
    def after_step(self, students: list[nn.Module], progress: Progress) -> None:
        steps = progress.steps
        for index, due in enumerate((steps // 3, 2 * steps // 3)):
            if progress.step + 1 == max(due, 1):
                self.kept[index].load_state_dict(students[0].state_dict())

    @hookimpl
    def after_eval(self, metrics: dict[str, Any], students: list[nn.Module], progress: Progress) -> None:
        """Keep the best network on val of this stage, where `select=best` asks for what the release does."""
        if self.select != "best":
            return
        best, step = self.kept.best.tolist()
        if progress.step <= step or metrics["miou"] > best:  # an earlier step than before: a new stage
            self.kept[2].load_state_dict(students[0].state_dict())
            best = metrics["miou"]
        self.kept.best.copy_(torch.tensor([best, progress.step]))

    def labeller(self, result: StageResult) -> nn.Module:
        return self.kept[2] if self.select == "best" else result.students[0]

    def rank(self, info: RunInfo, last: nn.Module, place: Path) -> None:
        """Order of the unlabelled images, most stable first: mean over the two snapshots of the mIoU of their
        prediction with the last one's, over the classes found in either (section 3.3)."""
        log.info(f"ranking {len(info.unlabelled)} unlabelled images by the stability of their predictions")
        scores = []
        for sample in info.unlabelled:
            image = read(info, sample, last)
            final, *early = (ids(net, image, self.rank_scale) for net in (last, self.kept[0], self.kept[1]))
            scores.append(sum(agreement(one, final, info.num_classes) for one in early) / 2)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        (place / "order.json").write_text(json.dumps(order))

    def relabel(self, info: RunInfo, network: nn.Module, samples: Sequence[Sample], place: Path) -> list[Sample]:
        """The samples with masks that `network` made at all scales, as 8-bit images in `place`."""

        flips = (False, True) if self.flip else (False,)

        def write(folder: Path) -> None:
            log.info(f"labelling {len(samples)} unlabelled images")
            for number, sample in enumerate(samples):
                image = read(info, sample, network)
                probs = torch.stack([look(network, image, scale, flip) for scale in self.scales for flip in flips])
                labels = probs.sum(dim=0).max(dim=1).indices[0].to("cpu", torch.uint8)
                Image.fromarray(labels.numpy()).save(folder / f"{number}.png")

        once(place, write)
        return [replace(sample, pseudo=place / f"{number}.png") for number, sample in enumerate(samples)]


class Snapshots(nn.ModuleList):
    """Networks that a stage leaves behind. best: (2,) float64, mIoU and step of the best one on val, -1 before any."""

    best: Tensor

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__(networks)
        self.register_buffer("best", torch.tensor([-1.0, -1.0], dtype=torch.float64))


def once(place: Path, make: Callable[[Path], None]) -> Path:
    """Fill the folder `place` by `make`, whole or not at all; what a run before a stop has filled stays as it is."""
    if not place.exists():
        new = place.with_name(place.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        make(new)
        new.rename(place)
    return place


def joined(labelled: Sequence[Sample], made: Sequence[Sample]) -> list[Sample]:
    """One list: the labelled images as often as it takes to be as many as the others, then those (release)."""
    return [*labelled] * math.ceil(len(made) / len(labelled)) + [*made]


def read(info: RunInfo, sample: Sample, network: nn.Module) -> Tensor:
    """A sample's image as (1, channels, H, W) in [0, 1] where the network is."""
    pixels = torch.from_numpy(info.read(sample).copy()).movedim(-1, 0).unsqueeze(0)
    return pixels.to(next(network.parameters()).device).float() / 255


@torch.inference_mode()
def look(network: nn.Module, image: Tensor, scale: float, flip: bool) -> Tensor:
    """Probabilities (1, C, H, W) at the image's size, from a look at `scale` times its size, mirrored or not."""
    mode, size = network.training, image.shape[-2:]
    sides = (max(int(size[0] * scale), 1), max(int(size[1] * scale), 1))
    image = F.interpolate(image, sides, mode="bilinear", align_corners=True)
    try:
        probs = whole(network.eval(), image.flip(-1) if flip else image).softmax(dim=1)
    finally:
        network.train(mode)
    return F.interpolate(probs.flip(-1) if flip else probs, size, mode="bilinear", align_corners=True)


def ids(network: nn.Module, image: Tensor, scale: float) -> Tensor:
    return look(network, image, scale, flip=False).max(dim=1).indices.flatten()


def agreement(one: Tensor, other: Tensor, num_classes: int) -> float:
    """mIoU of two label maps, over the classes found in either. one, other: (N,) class ids."""
    pairs = torch.bincount(other * num_classes + one, minlength=num_classes**2)
    return mean_iou(iou_per_class(pairs.view(num_classes, num_classes)))
