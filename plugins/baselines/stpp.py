"""ST++ (Yang et al., CVPR 2022, arXiv 2106.05095): train on the labelled images. Rank the unlabelled images by the
stability of their predictions. Label the stable half and train again on both. Label the rest and train once more."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssss_zoo.evaluation.metrics import iou_per_class, mean_iou
from ssss_zoo.toolkit import (
    IGNORE, Labelled, Progress, Range, RawLabelled, RunInfo, Sample, Stage, StageResult, UserError, Views, box_mask,
    cached_json, hookimpl, random_boxes, relabel,
)  # fmt: skip

log = logging.getLogger("ssss_zoo")


@dataclass(eq=False)
class STPlusPlus:
    paper: ClassVar[str] = "ST++ (Yang et al., CVPR 2022, arXiv 2106.05095)"

    # Share of the unlabelled images that the second stage learns from; release; 1 = plain ST.
    reliable: Annotated[float, Range(0.01, 1)] = 0.5
    # shared: the stages split train.steps [ours: compares fairly] | each: all of it each; release.
    budget: Literal["shared", "each"] = "shared"
    # Which weights label: last [ours: uses no validation label] | best on val; release.
    select: Literal["last", "best"] = "last"
    # Scales of labelling; release.
    scales: Annotated[list[float], Range(0.1, 4)] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.5, 2.0])
    flip: bool = True  # labelling also looks at the mirrored image; release
    # Scale of the predictions that the ranking compares; release: the image's own size.
    rank_scale: Annotated[float, Range(0.1, 4)] = 1.0
    cutout: Annotated[float, Range(0, 1)] = 0.5  # chance that a pseudo-labelled crop loses a box to noise; release

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        """Copies of the network at a third and two thirds of the first stage; with `select=best` the best one too."""
        self.strong = info.strong
        copies = 3 if self.select == "best" else 2
        self.snapshots = Snapshots(copy.deepcopy(info.students[0]).requires_grad_(False).eval() for _ in range(copies))
        return {"stpp_snapshots": self.snapshots}

    @hookimpl
    def plan_stages(self, info: RunInfo) -> Generator[Stage, StageResult, None]:
        """Three trainings; with `reliable=1` (ST) two."""
        if not info.unlabelled:
            raise UserError("method=stpp labels unlabelled images, and there are none; choose a smaller data.split")
        if not self.scales:
            raise UserError("options.stpp.scales must hold at least one number, got none")
        number = 2 if self.reliable == 1 else 3
        steps = None if self.budget == "each" else max(info.steps // number, 1)
        folder = info.folder / "stages"

        first = yield Stage("labelled", steps=steps, stages=number)
        ranked = self.rank(info, first.students[0], folder / "ranking" / "order.json")
        cut = max(int(len(ranked) * self.reliable), 1)
        stable = relabel(info, self.labeller(first), ranked[:cut], folder / "pseudo1", self.scales, self.flip)

        reliable = oversampled(info.labelled, stable)
        second = yield Stage("reliable", labelled=reliable, steps=steps, stages=number)
        if ranked[cut:]:
            rest = relabel(info, self.labeller(second), ranked[cut:], folder / "pseudo2", self.scales, self.flip)
            whole = oversampled(info.labelled, stable + rest)
            yield Stage("all", labelled=whole, steps=steps, stages=number)

    @hookimpl
    def make_views(self) -> Views:
        return Views(augment_labelled=self.augment_pseudo_labelled)

    def augment_pseudo_labelled(self, raw: RawLabelled) -> Callable[[Labelled], Labelled] | None:
        """Pseudo-labelled crops get the strong photometric view, then by chance a box of noise without label."""
        if raw.pseudo is None or not raw.pseudo.any():
            return None
        picked = raw.pseudo.nonzero()[:, 0]
        strong = self.strong.draw(len(picked))
        images, height, width = raw.mask.shape
        boxes = random_boxes(images, height, width, chance=self.cutout, redraw=True) * raw.pseudo.view(-1, 1, 1)

        def change(labelled: Labelled) -> Labelled:
            rows = picked.to(labelled.image.device, non_blocking=True)
            image = labelled.image.index_copy(0, rows, self.strong.apply(labelled.image[rows], strong))
            box = box_mask(boxes, height, width, image.device)
            image = torch.where(box.unsqueeze(1), torch.rand_like(image), image)
            return replace(labelled, image=image, mask=labelled.mask.masked_fill(box, IGNORE))

        return change

    @hookimpl
    def after_step(self, students: list[nn.Module], progress: Progress) -> None:
        for index, due in enumerate((progress.steps // 3, 2 * progress.steps // 3)):
            if progress.step + 1 == max(due, 1):
                self.snapshots[index].load_state_dict(students[0].state_dict())

    @hookimpl
    def after_eval(self, metrics: dict[str, Any], students: list[nn.Module], progress: Progress) -> None:
        """With `select=best`, keep the best network on val of this stage."""
        if self.select != "best":
            return
        best, step = self.snapshots.best.tolist()
        if progress.step <= step or metrics["miou"] > best:  # an earlier step than before: a new stage
            self.snapshots[2].load_state_dict(students[0].state_dict())
            best = metrics["miou"]
        self.snapshots.best.copy_(torch.tensor([best, progress.step]))

    def labeller(self, result: StageResult) -> nn.Module:
        return self.snapshots[2] if self.select == "best" else result.students[0]

    def rank(self, info: RunInfo, last: nn.Module, file: Path) -> list[Sample]:
        """The unlabelled images, the most stable first; their order is kept in `file`."""

        def order() -> list[int]:
            log.info(f"ranking {len(info.unlabelled)} unlabelled images by the stability of their predictions")
            scores = [self.stability(info, sample, last) for sample in info.unlabelled]
            return sorted(range(len(scores)), key=lambda index: -scores[index])

        return [info.unlabelled[index] for index in cached_json(file, order)]

    def stability(self, info: RunInfo, sample: Sample, last: nn.Module) -> float:
        """Mean over the two snapshots of the mIoU of their prediction with the last one's (section 3.3)."""
        networks = (last, self.snapshots[0], self.snapshots[1])
        final, *early = (info.predict(sample, network, scales=[self.rank_scale]).ids for network in networks)
        return sum(prediction_miou(ids, final, info.num_classes) for ids in early) / 2


class Snapshots(nn.ModuleList):
    """Networks that a stage leaves behind. best: (2,) float64, mIoU and step of the best one on val, -1 before any."""

    best: Tensor

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__(networks)
        self.register_buffer("best", torch.tensor([-1.0, -1.0], dtype=torch.float64))


def oversampled(labelled: Sequence[Sample], pseudo_labelled: Sequence[Sample]) -> list[Sample]:
    """One list: the labelled images as often as it takes to be as many as the others, then those (release)."""
    return [*labelled] * math.ceil(len(pseudo_labelled) / len(labelled)) + [*pseudo_labelled]


def prediction_miou(ids: Tensor, reference: Tensor, num_classes: int) -> float:
    """mIoU of two predictions, over the classes found in either. ids, reference: int64 class ids of one shape."""
    pairs = torch.bincount((reference * num_classes + ids).flatten(), minlength=num_classes**2)
    return mean_iou(iou_per_class(pairs.view(num_classes, num_classes)))
