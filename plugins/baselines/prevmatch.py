"""PrevMatch (Shin et al., WACV 2026, arXiv 2405.20610): a random ensemble of earlier students also makes
pseudo-labels. An addition: run it as `unimatch+prevmatch` or on another method with views."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    Labelled, Progress, PseudoLabel, Range, RunInfo, Unlabelled, ViewOutput, Views, confident, ground_truth_label,
    hard_label, hookimpl, predict, view_loss,
)  # fmt: skip


@dataclass(eq=False)
class PrevMatch:
    paper: ClassVar[str] = "PrevMatch (Shin et al., WACV 2026, arXiv 2405.20610), an addition to UniMatch"

    # When a model is kept: epochs [ours: learns nothing from val] | best on val; release.
    store: Literal["epochs", "best"] = "epochs"
    interval: Annotated[float, Range(1e-3, 1e6)] = 2.0  # store=epochs: epochs between two of them [ours]
    models: Annotated[int, Range(1, 100)] = 8  # kept at most; release: 8 VOC and Cityscapes, 5 COCO and ADE20K
    drawn: Annotated[int, Range(1, 100)] = 3  # of them in an ensemble, at most; release
    threshold: Annotated[float, Range(0, 1)] = 0.9  # of the ensemble's confidence; release
    # A pixel's weight: 1 from the threshold on; release, VOC | image: its image's mean confidence; release, Cityscapes.
    previous_weight: Literal["threshold", "image"] = "threshold"
    # previous_weight=image; release: its formula comes to the images a GPU, 4 [ours: a bug].
    image_factor: Annotated[float, Range(0, 1e6)] = 1.0

    def __post_init__(self) -> None:
        self.past = PastModels()  # empty until `setup`: views are planned before it too

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.past = PastModels(copy.deepcopy(info.students[0]) for _ in range(self.models))
        return {"prevmatch_past": self.past}

    @hookimpl(wrapper=True)
    def make_views(self, progress: Progress) -> Generator[None, Views, Views]:
        """(L_x + L_std) / 2 of the method underneath becomes (L_x + L_std + lambda L_prev) / (2 + lambda)."""
        plan = yield
        factor = 2 / (2 + self.strength(progress))
        views = tuple(replace(view, loss_weight=view.loss_weight * factor) for view in plan.views)
        return replace(plan, views=views, supervised_weight=plan.supervised_weight * factor)

    def strength(self, progress: Progress) -> float:
        """lambda: 0 to 1 until half of the run, then back to 0; 0 while nothing is kept."""
        return 1 - abs(1 - 2 * progress.done) if self.past.count else 0.0

    @hookimpl
    def regularize(
        self,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        partner: Unlabelled | None,
        views: tuple[ViewOutput, ...],
        progress: Progress,
    ) -> dict[str, Tensor] | None:
        """lambda times the views' own losses against the ensemble's labels; `make_views` has scaled their weights."""
        strength = self.strength(progress)
        view_outputs = [view_output for view_output in views if view_output.view.images == "unlabelled"]
        if not strength or unlabelled is None or not view_outputs:
            return None
        ensemble = self.past.draw(self.drawn)
        others = {"labelled": ground_truth_label(labelled)}
        if partner is not None:
            others["partner"] = self.past.label(ensemble, partner)
        label = self.past.label(ensemble, unlabelled)
        losses = [
            view_output.view.loss_weight * self.loss(view_output, view_output.mix.label(label, others))
            for view_output in view_outputs
        ]
        return {"prevmatch": strength * torch.stack(losses).sum()}

    def loss(self, view_output: ViewOutput, label: PseudoLabel) -> Tensor:
        """A view's loss against the ensemble's label, which is mixed as the view is."""
        if self.previous_weight == "threshold":
            weight = confident(label, self.threshold)
        else:
            weight = self.image_factor * image_mean(label.confidence, label.valid)
        return view_loss(view_output, label=label, weight=weight)

    @hookimpl
    def after_step(self, students: list[nn.Module], progress: Progress) -> None:
        interval = max(round(self.interval * progress.epoch_steps), 1)
        if self.store == "epochs" and (progress.step + 1) % interval == 0:
            self.past.keep(students[0])

    @hookimpl
    def after_eval(self, metrics: dict[str, Any], students: list[nn.Module]) -> None:
        """store=best, as the release: this trains by validation labels."""
        if self.store == "best" and metrics["student"]["miou"] > self.past.best.item():
            self.past.best.fill_(metrics["student"]["miou"])
            self.past.keep(students[0])


def image_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Each image's mean over its valid pixels, at every pixel; all (B, H, W)."""
    total = (values * valid).sum((1, 2), keepdim=True)
    count = valid.sum((1, 2), keepdim=True)
    return (total / count.clamp(min=1)).expand_as(values)


class PastModels(nn.Module):
    """Frozen copies of a network, the oldest replaced first. kept: how many were ever kept; best: the student's best
    mIoU so far, in [0, 1]; total: the value of `kept` on the host, so that no step reads it off the device."""

    kept: Tensor
    best: Tensor

    def __init__(self, copies: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.copies = nn.ModuleList(network.requires_grad_(False).eval() for network in copies)
        self.register_buffer("kept", torch.tensor(0))
        self.register_buffer("best", torch.tensor(-1.0, dtype=torch.float64))
        self.total = 0
        self.register_load_state_dict_post_hook(read_total)

    def train(self, mode: bool = True) -> PastModels:
        """Copies stay in evaluation mode."""
        return super().train(False)

    @property
    def count(self) -> int:
        """How many copies there are."""
        return min(self.total, len(self.copies))

    def keep(self, network: nn.Module) -> None:
        self.copies[self.total % len(self.copies)].load_state_dict(network.state_dict())
        self.total += 1
        self.kept.fill_(self.total)

    def draw(self, most: int) -> list[tuple[int, float]]:
        """1, 2, ... or `most` different copies, as likely each, or all there are; with weights from a flat Dirichlet
        distribution. A function of the step's seed alone, so that nothing depends on when it is drawn."""
        chance = torch.Generator().manual_seed(torch.initial_seed() + 1)  # + 1: not the numbers of flips and boxes
        number = min(int(torch.randint(1, most + 1, (), generator=chance)), self.count)
        shares = -torch.rand(number, generator=chance).clamp(min=1e-12).log()
        copies = torch.randperm(self.count, generator=chance)[:number]
        return list(zip(copies.tolist(), (shares / shares.sum()).tolist(), strict=True))

    def label(self, ensemble: list[tuple[int, float]], images: Unlabelled) -> PseudoLabel:
        """The hard label of weak views that the weighted sum of the drawn copies' logits gives."""
        logits = [
            share * predict(self.copies[index], images.image, train_mode=False).logits.float()
            for index, share in ensemble
        ]
        return hard_label(torch.stack(logits).sum(dim=0).softmax(dim=1), images.valid)


def read_total(past: PastModels, _: object) -> None:
    """Called when a saved state has been loaded."""
    past.total = int(past.kept)
