"""CorrMatch (Sun et al., CVPR 2024, arXiv 2306.04300): correlations between all places of the deepest features spread
logits to like places and grow regions of sure pixels; the confidence threshold follows the training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, Labelled, Output, PseudoLabel, RunInfo, SelfTeacher, View, ViewOutput, Views, channel_dropout,
    check_choice, check_range, consistency, device_generator, hookimpl, one_hot, random_boxes,
)  # fmt: skip

SURE = "corrmatch_sure"  # the note of where a view's weight was above 0 before regions grew
AT_ONCE = 16  # regions that are brought to full size together; bounds memory, changes nothing


@dataclass(eq=False)
class CorrMatch:
    paper: ClassVar[str] = "CorrMatch (Sun et al., CVPR 2024, arXiv 2306.04300)"

    threshold: float = 0.85  # gamma before the first step; release
    momentum: float = 0.999  # of gamma; release
    regions: int = 128  # rows of the correlation that are tried as regions; release; 0 = no region is grown
    propagate: bool = True  # the terms on propagated logits, labelled and not; release
    kl_weight: float = 0.125  # of KL(weak, strong); release
    kl_in_box: bool = (
        False  # release: true, towards the own image's label even where the partner is shown [ours: a bug]
    )
    dropout: float = 0.5  # channel dropout of the perturbed view; release
    perturb_labelled: bool = True  # release: BatchNorm also sees perturbed labelled features; false is quicker
    partner: str = "stream"  # CutMix partner; release: a second batch of the same photographs, twin

    def __post_init__(self) -> None:
        for name in ("threshold", "momentum"):
            check_range(f"options.corrmatch.{name}", getattr(self, name), 0, 1)
        check_range("options.corrmatch.regions", self.regions, 0, 1e5)
        check_range("options.corrmatch.kl_weight", self.kl_weight, 0, 1e6)
        check_range("options.corrmatch.dropout", self.dropout, 0, 0.99)
        check_choice("options.corrmatch.partner", self.partner, ("stream", "twin", "next", "reverse"))

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.supervised = info.supervised
        self.head = CorrelationHead(info.map_dims[-1], info.num_classes)
        self.gamma = Threshold(self.threshold)
        return {"corrmatch_head": self.head, "corrmatch_threshold": self.gamma}

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> SelfTeacher:
        return SelfTeacher(students[index], shares_pass=True)  # release: labels from the labelled images' pass

    @hookimpl
    def make_views(self, size: tuple[int, int, int]) -> Views:
        """The strong view, the weak view under channel dropout, and the weak view itself for `regularize`."""
        views = (
            View("strong", loss_weight=0.125, cutmix=CutMix(self.partner, random_boxes(*size))),
            View(
                "perturbed",
                strength="weak",
                loss_weight=0.125,
                forward_group="labelled",
                perturb=channel_dropout(self.dropout),
                perturb_labelled=self.perturb_labelled,
            ),
            View("weak", strength="weak", loss_weight=0.0, forward_group="labelled"),
        )
        return Views(views, supervised_weight=0.25)

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor, stream: str) -> PseudoLabel:
        confidence, ids = probs.max(dim=1)
        if stream == "unlabelled":
            self.gamma.update(confidence, ids, valid, probs.shape[1], self.momentum)
        return PseudoLabel(ids, confidence, valid)

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return (label.confidence >= self.gamma.value).float()

    @hookimpl
    def refine(self, view_output: ViewOutput, teacher_output: Output) -> ViewOutput | None:
        """Grow regions of the own image, outside the box, in label and weight of a view with boxes."""
        if view_output.box is None or not self.regions:
            return None
        classes, last = view_output.output.logits.shape[1], teacher_output.maps[-1]
        make = device_generator(last.device)
        rows = torch.randint(last.shape[-2] * last.shape[-1], (self.regions,), device=last.device, generator=make)
        with torch.autocast(last.device.type, enabled=False):
            maps = self.head.correlation(last, rows).unflatten(2, last.shape[-2:])  # (B, R, h, w)
        own = view_output.label.valid & ~view_output.box
        ids, grown = grow(view_output.label.ids, view_output.weight > 0, own, maps, self.gamma.value, classes)
        target, weight = ids, torch.where(grown & (view_output.weight == 0), 1.0, view_output.weight)
        if view_output.label.target.dim() == 4:  # another method's soft target
            target = torch.where(grown.unsqueeze(1), one_hot(ids, classes), view_output.label.target)
        notes = {**view_output.notes, SURE: view_output.weight > 0}
        return replace(view_output, label=replace(view_output.label, target=target), weight=weight, notes=notes)

    @hookimpl
    def regularize(
        self, labelled: Labelled, labelled_output: Output, teacher_output: Output | None, views: tuple[ViewOutput, ...]
    ) -> dict[str, Tensor]:
        """CE of propagated logits on labels and on both views, KL between weak and strong predictions."""
        own = [view_output for view_output in views if view_output.view.images == "unlabelled"]
        strong = next((view_output for view_output in own if view_output.box is not None), None)
        plain = [view_output for view_output in own if is_plain(view_output.view)][:1]
        terms = {}
        if self.kl_weight and strong and teacher_output:
            terms["corrmatch_kl"] = self.kl_weight * self.divergence(strong, teacher_output)
        if self.propagate:
            logits, *spread = self.propagated([labelled_output, *(view_output.output for view_output in plain)])
            terms["corrmatch_labelled"] = 0.25 * self.supervised(logits, labelled.mask)
            if strong:
                spread, plain = [*spread, *self.propagated([strong.output])], [*plain, strong]
            losses = [agreement(logits, view_output) for logits, view_output in zip(spread, plain, strict=True)]
            if losses:
                terms["corrmatch_unlabelled"] = 0.125 * torch.stack(losses).sum() / 2
        return terms

    def propagated(self, outputs: list[Output]) -> tuple[Tensor, ...]:
        """Logits spread by the correlations of the deepest maps, at full size: (B, C, H, W) float32 for each output;
        one pass of the head for all."""
        maps = torch.cat([output.maps[-1] for output in outputs])
        logits = torch.cat([output.logits for output in outputs]).detach().float()
        with torch.autocast(maps.device.type, enabled=False):
            small = resize(logits, maps.shape[-2:]).flatten(2)  # (B, C, N)
            spread = small @ self.head.correlation(maps).float()  # column j: sum over i of z_i R_ij
            large = resize(spread.unflatten(2, maps.shape[-2:]), logits.shape[-2:])
        return large.split([len(output.logits) for output in outputs])

    def divergence(self, strong: ViewOutput, teacher_output: Output) -> Tensor:
        """KL(p_weak, p_strong), the weak side without gradient, over sure pixels, divided by the valid ones."""
        counted = strong.notes.get(SURE, strong.weight > 0) & strong.label.valid
        if strong.box is not None and not self.kl_in_box:
            counted = counted & ~strong.box
        log_p = teacher_output.logits.detach().float().log_softmax(dim=1)
        log_q = strong.output.logits.float().masked_fill(~counted.unsqueeze(1), 0.0).log_softmax(dim=1)
        each = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        return torch.where(counted, each, 0.0).sum() / strong.label.valid.sum().clamp(min=1)


class Threshold(nn.Module):
    """gamma, a scalar in [0, 1]."""

    value: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    @torch.no_grad()
    def update(self, confidence: Tensor, ids: Tensor, valid: Tensor, classes: int, momentum: float) -> None:
        """gamma <- momentum * gamma + (1 - momentum) * m, m the mean, over the classes found among the valid pixels of
        all processes, of each one's largest confidence; gamma stays when nothing is valid. All (B, H, W)."""
        sure = torch.where(valid, confidence, 0.0).flatten()
        best = torch.zeros(classes, device=sure.device, dtype=sure.dtype).scatter_reduce(0, ids.flatten(), sure, "amax")
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(best, dist.ReduceOp.MAX)
        found = (best > 0).sum()
        moved = momentum * self.value + (1 - momentum) * best.sum() / found.clamp(min=1)
        self.value.copy_(torch.where(found > 0, moved, self.value))


class CorrelationHead(nn.Module):
    """Projection 3x3 to 256, BatchNorm, ReLU, channel dropout 0.1, then queries and keys of C channels (release)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(width, 256, 3, padding=1, bias=False)
        self.project = nn.Sequential(convolution, nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout2d(0.1))
        self.query, self.key = nn.Conv2d(256, classes, 1), nn.Conv2d(256, classes, 1)

    def correlation(self, maps: Tensor, rows: Tensor | None = None) -> Tensor:
        """R = softmax over j of q_i . k_j / sqrt(C), all rows i or those asked for: (B, N, N) or (B, rows, N) from
        (B, D, h, w), N = h * w."""
        shared = self.project(maps.to(self.query.weight.dtype))
        query, key = self.query(shared).flatten(2), self.key(shared).flatten(2)  # (B, C, N)
        query = query if rows is None else query[:, :, rows]
        return (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)


def is_plain(view: View) -> bool:
    """Whether a view is the weak view itself."""
    return view.strength == "weak" and view.cutmix is None and view.perturb is None


def agreement(logits: Tensor, view_output: ViewOutput) -> Tensor:
    """Cross-entropy of logits (B, C, H, W) with a view's label, weighted as the view is, over its valid pixels."""
    return consistency(logits, view_output.label, view_output.weight, torch.ones_like(logits[0, :, 0, 0]), "valid")


def resize(maps: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def proposals(maps: Tensor, size: torch.Size) -> Tensor:
    """Rows of the correlation (B, R, h, w) as regions (B, R, H, W) bool: at full size, stretched to [0, 1], > 0.5."""
    large = resize(maps, size)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return large - low > 0.5 * (high - low)


def grow(ids: Tensor, sure: Tensor, own: Tensor, maps: Tensor, gamma: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Region after region, later ones seeing the labels that earlier ones laid: where its sure pixels are gamma of
    it or more, and more than gamma of them agree on a class, all of it becomes that class.

    ids, sure, own: (B, H, W), own bool: where regions may lie; maps: (B, R, h, w), see `proposals`. Returns the new
    ids, and where a region was taken (B, H, W) bool.
    """
    taken = torch.zeros_like(own)
    for part in maps.split(AT_ONCE, dim=1):
        for region in (proposals(part, own.shape[-2:]) & own.unsqueeze(1)).unbind(dim=1):
            seeds = (region & sure).flatten(1).float()
            votes = torch.zeros(len(ids), classes, device=ids.device).scatter_add_(1, ids.flatten(1), seeds)
            most, winner = votes.max(dim=1)
            size, inside = region.flatten(1).sum(dim=1), votes.sum(dim=1)
            good = (size > 0) & (inside >= gamma * size) & (most > gamma * inside)
            here = region & good.view(-1, 1, 1)
            ids, taken = torch.where(here, winner.view(-1, 1, 1), ids), taken | here
    return ids, taken
