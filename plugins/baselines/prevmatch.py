"""PrevMatch (Shin et al., WACV 2026, arXiv 2405.20610): a random ensemble of earlier students labels as well. An
addition: run it as `unimatch+prevmatch` or on another method with views."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    Labelled, Progress, PseudoLabel, RunInfo, Unlabelled, ViewOutput, Views, check_choice, check_range, consistency,
    ground_truth_label, hookimpl, predict,
)  # fmt: skip


@dataclass(eq=False)
class PrevMatch:
    paper: ClassVar[str] = "PrevMatch (Shin et al., WACV 2026, arXiv 2405.20610), an addition to UniMatch"

    store: str = "epochs"  # when a model is kept: epochs [ours: learns nothing from val] | best on val; release
    interval: float = 2.0  # store=epochs: epochs between two of them [ours]
    models: int = 8  # kept at most; release: 8 VOC and Cityscapes, 5 COCO and ADE20K
    drawn: int = 3  # of them in an ensemble, at most; release
    threshold: float = 0.9  # of the ensemble's confidence; release
    previous_weight: str = "threshold"  # release, VOC | image: the image's mean confidence; release, Cityscapes
    image_factor: float = 1.0  # previous_weight=image; release: its formula comes to the images a GPU, 4 [ours: a bug]

    def __post_init__(self) -> None:
        check_choice("options.prevmatch.store", self.store, ("epochs", "best"))
        check_range("options.prevmatch.interval", self.interval, 1e-3, 1e6)
        check_range("options.prevmatch.models", self.models, 1, 100)
        check_range("options.prevmatch.drawn", self.drawn, 1, 100)
        check_range("options.prevmatch.threshold", self.threshold, 0, 1)
        check_choice("options.prevmatch.previous_weight", self.previous_weight, ("threshold", "image"))
        check_range("options.prevmatch.image_factor", self.image_factor, 0, 1e6)
        self.past: PastModels | None = None  # until `setup`: views are asked for before it too

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.past = PastModels(info.students[0], self.models)
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
        return 1 - abs(1 - 2 * progress.done) if self.past and self.past.count else 0.0

    @hookimpl
    def regularize(
        self,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        partner: Unlabelled | None,
        views: tuple[ViewOutput, ...],
        progress: Progress,
    ) -> dict[str, Tensor] | None:
        """lambda times the views' own losses against the ensemble's labels; the views' shares are scaled already."""
        strength, own = (
            self.strength(progress),
            [view_output for view_output in views if view_output.view.images == "unlabelled"],
        )
        if not strength or self.past is None or unlabelled is None or not own:
            return None
        picked = self.past.draw(self.drawn)
        others = {"labelled": ground_truth_label(labelled)}
        if partner is not None:
            others["partner"] = self.past.label(picked, partner)
        label = self.past.label(picked, unlabelled)
        return {
            "prevmatch": strength * torch.stack([self.term(view_output, label, others) for view_output in own]).sum()
        }

    def term(self, view_output: ViewOutput, own: PseudoLabel, others: dict[str, PseudoLabel]) -> Tensor:
        """One view's loss against the ensemble's labels, mixed as the view is."""
        label = view_output.mix.label(own, others)
        weight = (label.confidence >= self.threshold).float()
        if self.previous_weight == "image":
            weight = self.image_factor * image_mean(label.confidence, label.valid)
        ones = torch.ones(view_output.output.logits.shape[1], device=weight.device)
        loss = consistency(
            view_output.output.logits, label, weight, ones, view_output.view.divide_by, own_loss=view_output.view.loss
        )
        return view_output.view.loss_weight * loss

    @hookimpl
    def after_step(self, students: list[nn.Module], progress: Progress) -> None:
        every = max(round(self.interval * progress.epoch_steps), 1)
        if self.past and self.store == "epochs" and (progress.step + 1) % every == 0:
            self.past.keep(students[0])

    @hookimpl
    def after_eval(self, metrics: dict[str, Any], students: list[nn.Module]) -> None:
        """store=best, as the release: this trains by validation labels."""
        if self.past and self.store == "best" and metrics["student"]["miou"] > self.past.best.item():
            self.past.best.fill_(metrics["student"]["miou"])
            self.past.keep(students[0])


def image_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Each image's mean over its valid pixels, at every pixel; all (B, H, W)."""
    total, number = (part.sum((1, 2), keepdim=True) for part in (values * valid, valid))
    return (total / number.clamp(min=1)).expand_as(values)


class PastModels(nn.Module):
    """Frozen copies of a network, the oldest replaced first. kept: how many were ever kept; best: the student's best
    mIoU so far, in [0, 1]; total: what `kept` says, on the host, so that no step reads it off the device."""

    kept: Tensor
    best: Tensor

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(network).requires_grad_(False).eval() for _ in range(size))
        self.register_buffer("kept", torch.tensor(0))
        self.register_buffer("best", torch.tensor(-1.0, dtype=torch.float64))
        self.total = 0
        self.register_load_state_dict_post_hook(count_again)

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
        distribution."""
        number = min(int(torch.randint(1, most + 1, ())), self.count)
        shares = -torch.rand(number).clamp(min=1e-12).log()
        return list(zip(torch.randperm(self.count)[:number].tolist(), (shares / shares.sum()).tolist(), strict=True))

    def label(self, picked: list[tuple[int, float]], images: Unlabelled) -> PseudoLabel:
        """What the weighted sum of the picked copies' logits makes of weak views."""
        said = [
            share * predict(self.copies[index], images.image, train_mode=False).logits.float()
            for index, share in picked
        ]
        confidence, ids = torch.stack(said).sum(dim=0).softmax(dim=1).max(dim=1)
        return PseudoLabel(ids, confidence, images.valid)


def count_again(past: PastModels, _: object) -> None:
    past.total = int(past.kept)
