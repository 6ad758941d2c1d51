"""CorrMatch (Sun et al., CVPR 2024, arXiv 2306.04300): correlations between all positions of the deepest features
propagate logits to similar positions and grow regions of confident pixels. The confidence threshold adapts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    CutMix, Labelled, Output, PseudoLabel, Range, RunInfo, SelfTeacher, View, ViewOutput, Views, channel_dropout,
    confident, consistency, hard_label, hookimpl, one_hot, process_max, process_mean, random_boxes,
    resize,
)  # fmt: skip

CONFIDENT_NOTE = "corrmatch_confident"  # the note of where a view's weight was above 0 before regions grew
REGIONS_AT_ONCE = 16  # regions that are brought to full size together; bounds memory, changes nothing


@dataclass(eq=False)
class CorrMatch:
    paper: ClassVar[str] = "CorrMatch (Sun et al., CVPR 2024, arXiv 2306.04300)"

    threshold: Annotated[float, Range(0, 1)] = 0.85  # gamma before the first step; release
    momentum: Annotated[float, Range(0, 1)] = 0.999  # of gamma; release
    # Rows of the correlation that are tried as regions; release; 0 = no region is grown.
    regions: Annotated[int, Range(0, 1e5)] = 128
    propagate: bool = True  # the terms on propagated logits, labelled and not; release
    kl_weight: Annotated[float, Range(0, 1e6)] = 0.125  # of KL(weak, strong); release
    # Release: true, towards the own image's label even where the partner is shown [ours: a bug].
    kl_in_box: bool = False
    dropout: Annotated[float, Range(0, 0.99)] = 0.5  # channel dropout of the perturbed view; release
    perturb_labelled: bool = True  # release: BatchNorm also sees perturbed labelled features; false is quicker
    # Whose pixels CutMix pastes; release: a second batch of the same photographs, twin.
    partner: Literal["stream", "twin", "next", "reverse"] = "stream"

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
        strong = View("strong", loss_weight=0.125, cutmix=CutMix(self.partner, random_boxes(*size)))
        weak = View("weak", strength="weak", loss_weight=0.0, forward_group="labelled")
        perturbed = replace(
            weak,
            name="perturbed",
            loss_weight=0.125,
            perturb=channel_dropout(self.dropout),
            perturb_labelled=self.perturb_labelled,
        )
        return Views((strong, perturbed, weak), supervised_weight=0.25)

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor, stream: str) -> PseudoLabel:
        label = hard_label(probs, valid)
        if stream == "unlabelled":
            self.gamma.update(label, probs.shape[1], self.momentum)
        return label

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return confident(label, self.gamma.value)

    @hookimpl
    def refine(self, view_output: ViewOutput, teacher_output: Output) -> ViewOutput | None:
        """Grow regions of the own image, outside the box, in label and weight of a view with boxes."""
        if view_output.box is None or not self.regions:
            return None
        label, weight = view_output.label, view_output.weight
        num_classes = view_output.output.logits.shape[1]
        maps = teacher_output.maps[-1]
        rows = draw_cells(maps, self.regions)
        with torch.autocast(maps.device.type, enabled=False):
            correlations = self.head.correlation(maps, rows).unflatten(2, maps.shape[-2:])  # (B, R, h, w)
        allowed = label.valid & ~view_output.box
        ids, grown = grow_regions(label.ids, weight > 0, allowed, correlations, self.gamma.value, num_classes)
        target = ids
        if label.target.dim() == 4:  # another method's soft target
            target = torch.where(grown.unsqueeze(1), one_hot(ids, num_classes), label.target)
        return replace(
            view_output,
            label=replace(label, target=target),
            weight=torch.where(grown & (weight == 0), 1.0, weight),
            notes={**view_output.notes, CONFIDENT_NOTE: weight > 0},
        )

    @hookimpl
    def regularize(
        self, labelled: Labelled, labelled_output: Output, teacher_output: Output | None, views: tuple[ViewOutput, ...]
    ) -> dict[str, Tensor]:
        """CE of propagated logits on labels and on both views, KL between weak and strong predictions."""
        unlabelled = [view_output for view_output in views if view_output.view.images == "unlabelled"]
        strong = [view_output for view_output in unlabelled if view_output.box is not None][:1]
        weak = [view_output for view_output in unlabelled if is_weak(view_output.view)][:1]
        terms = {}
        if self.kl_weight and strong and teacher_output:
            terms["corrmatch_kl"] = self.kl_weight * self.divergence(strong[0], teacher_output)
        if self.propagate:
            # The head's BatchNorm sees labelled and weak images together, as the network's does.
            logits, *weak_logits = self.propagated([labelled_output, *(view_output.output for view_output in weak)])
            terms["corrmatch_labelled"] = 0.25 * self.supervised(logits, labelled.mask)
            strong_logits = [self.propagated([view_output.output])[0] for view_output in strong]
            losses = [
                consistency(logits, view_output.label, view_output.weight)
                for logits, view_output in zip([*weak_logits, *strong_logits], [*weak, *strong], strict=True)
            ]
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
        """KL(p_weak, p_strong), the weak side without gradient, over confident pixels, divided by the valid ones."""
        counted = strong.notes.get(CONFIDENT_NOTE, strong.weight > 0) & strong.label.valid
        if strong.box is not None and not self.kl_in_box:
            counted = counted & ~strong.box
        log_p = teacher_output.logits.detach().float().log_softmax(dim=1)
        log_q = strong.output.logits.float().masked_fill(~counted.unsqueeze(1), 0.0).log_softmax(dim=1)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        return torch.where(counted, divergence, 0.0).sum() / process_mean(strong.label.valid.sum(), least=1)


class Threshold(nn.Module):
    """gamma, a scalar in [0, 1]."""

    value: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    @torch.no_grad()
    def update(self, label: PseudoLabel, num_classes: int, momentum: float) -> None:
        """gamma <- momentum * gamma + (1 - momentum) * m, m the mean, over the classes found among the valid pixels of
        all processes, of each one's largest confidence; gamma stays when nothing is valid."""
        confidence = torch.where(label.valid, label.confidence, 0.0).flatten()
        largest = torch.zeros(num_classes, device=confidence.device, dtype=confidence.dtype)
        largest = process_max(largest.scatter_reduce(0, label.ids.flatten(), confidence, "amax"))
        found = (largest > 0).sum()
        moved = momentum * self.value + (1 - momentum) * largest.sum() / found.clamp(min=1)
        self.value.copy_(torch.where(found > 0, moved, self.value))


class CorrelationHead(nn.Module):
    """Projection 3x3 to 256, BatchNorm, ReLU, channel dropout 0.1, then queries and keys of C channels (release)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(width, 256, 3, padding=1, bias=False)
        self.project = nn.Sequential(convolution, nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout2d(0.1))
        self.query = nn.Conv2d(256, num_classes, 1)
        self.key = nn.Conv2d(256, num_classes, 1)

    def correlation(self, maps: Tensor, rows: Tensor | None = None) -> Tensor:
        """R = softmax over j of q_i . k_j / sqrt(C), all rows i or those asked for: (B, N, N) or (B, rows, N) from
        (B, D, h, w), N = h * w."""
        shared = self.project(maps.to(self.query.weight.dtype))
        query, key = self.query(shared).flatten(2), self.key(shared).flatten(2)  # (B, C, N)
        query = query if rows is None else query[:, :, rows]
        return (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)


def is_weak(view: View) -> bool:
    """Whether a view is the weak view itself."""
    return view.strength == "weak" and view.cutmix is None and view.perturb is None


def proposals(maps: Tensor, size: torch.Size) -> Tensor:
    """Rows of the correlation (B, R, h, w) as regions (B, R, H, W) bool: at full size, stretched to [0, 1], > 0.5."""
    large = resize(maps, size)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return large - low > 0.5 * (high - low)


def draw_cells(maps: Tensor, number: int) -> Tensor:
    """(number,) int64 cells of maps (B, D, h, w), drawn on their device with replacement, for all images alike."""
    return torch.randint(maps.shape[-2:].numel(), (number,), device=maps.device)


def grow_regions(
    ids: Tensor, is_confident: Tensor, allowed: Tensor, maps: Tensor, gamma: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Region after region, each on the labels that earlier ones left: where at least gamma of its pixels are confident,
    and more than gamma of those agree on a class, the whole region becomes that class.

    ids: (B, H, W) int64. is_confident: (B, H, W) bool. allowed: (B, H, W) bool, where regions may lie. maps: (B, R, h,
    w), see `proposals`. Returns the new ids, and where a region was taken, (B, H, W) bool.
    """
    taken = torch.zeros_like(allowed)
    for part in maps.split(REGIONS_AT_ONCE, dim=1):
        for region in (proposals(part, allowed.shape[-2:]) & allowed.unsqueeze(1)).unbind(dim=1):
            voters = (region & is_confident).flatten(1).float()
            votes = torch.zeros(len(ids), num_classes, device=ids.device).scatter_add_(1, ids.flatten(1), voters)
            most, winner = votes.max(dim=1)
            size, confident_size = region.flatten(1).sum(dim=1), votes.sum(dim=1)
            accepted = (size > 0) & (confident_size >= gamma * size) & (most > gamma * confident_size)
            region = region & accepted.view(-1, 1, 1)
            ids = torch.where(region, winner.view(-1, 1, 1), ids)
            taken = taken | region
    return ids, taken
