"""FARCLUSS (Tarubinga et al., 2026, arXiv 2506.11142): fuzzy labels, entropy weights, class rebalancing, contrast.

The paper's abstract, the project page and the repository's README are public, its equations are not. So every number
carries a mark: [known] stated in public, [inferred] from public wording or numbers, [ours] chosen here. No [ours] value
is the paper's. README.md of this folder holds the formulas and the reasons. `variants.py` holds the alternatives, which
options select.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.plugins.farcluss.variants import Variants, class_target, halved_views, inverse_mean_weight
from ssss_zoo.toolkit import (
    CutMix, EMATeacher, Labelled, Output, Progress, PrototypeContrast, PseudoLabel, Range, RunInfo, Teacher, View,
    ViewOutput, Views, confident_pixels, downsample_label, downsample_nearest, hard_label, hookimpl, one_hot,
    process_sum, random_boxes,
)  # fmt: skip

SMALLEST_SHARE = 1e-30  # float32: keeps 1 / share finite


@dataclass(eq=False)
class Farcluss(Variants):
    paper: ClassVar[str] = "FARCLUSS (Tarubinga et al., 2026, arXiv 2506.11142)"

    # Classes kept of the teacher's distribution [known], at most C; 1: hard labels [ours: FPL keeps 3, ESL's fixed 5 is
    # worse than adaptive].
    top_k: Annotated[int, Range(1, 1e6)] = 3
    # Exponent of one minus the teacher's normalised entropy [known]; 0: off [ours: AugSeg uses 1 - H / log C].
    uncertainty_gamma: Annotated[float, Range(0, 100)] = 1.0
    # Exponent of the inverse frequency of a class in the batch [known: frequencies]; 0: all ones [ours: tempered].
    rebalance_alpha: Annotated[float, Range(0, 100)] = 0.5
    rebalance_max_ratio: Annotated[float, Range(1, 1e6)] = 5.0  # R: raw weights within [1/R, R] [ours]
    # Contrast with class centroids as prototypes [known]; its form, place and numbers [ours]: weight after
    # ContrastiveSeg, ESL, PixCon; temperature after PixCon, ContrastiveSeg (0.5 in ReCo, U2PL, ESL); width after all.
    contrast_weight: Annotated[float, Range(0, 1e9)] = 0.1
    contrast_temperature: Annotated[float, Range(1e-3, 1e6)] = 0.1
    contrast_dim: Annotated[int, Range(1, 1e6)] = 256  # width of the projection
    contrast_momentum: Annotated[float, Range(0, 1)] = 0.99  # of the prototypes; 0: the batch's [ours: ESL, ProtoSeg]
    contrast_anchors: Annotated[int, Range(1, 1e6)] = 256  # at most, of each class [ours: ReCo, U2PL]
    contrast_confidence: Annotated[float, Range(0, 1)] = 0.7  # least, of an unlabelled cell; 0: every cell [ours: ReCo]
    # lambda_u [ours: CW-BASS, AugSeg], its linear ramp, after which the contrast starts; 0: no ramp [ours: CW-BASS].
    unsupervised_weight: Annotated[float, Range(0, 1e9)] = 1.0
    ramp_epochs: Annotated[float, Range(0, 1e9)] = 5.0
    # Of the mean teacher [known]; value [ours: AugSeg on VOC, CW-BASS; Cityscapes: 0.996].
    ema_decay: Annotated[float, Range(0, 1)] = 0.999

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module] | None:
        if self.contrast == "off":
            return None
        self.prototype_contrast = PrototypeContrast(info, self.contrast_dim, self.ema_decay)
        return {f"farcluss_{name}": module for name, module in self.prototype_contrast.named_children()}

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int], progress: Progress) -> Views:
        """One strong view in the labelled images' pass, with a weight of lambda_u * r(t)."""
        ramp = min(1.0, progress.epoch / self.ramp_epochs) if self.ramp_epochs else 1.0
        cutmix = CutMix("next", random_boxes(*size)) if self.cutmix else None
        weight = self.unsupervised_weight * ramp
        strong = View("strong", loss_weight=weight, forward_group="labelled", cutmix=cutmix, divide_by=self.reduce)
        return Views(halved_views(strong, self.feature_perturbation) if self.feature_perturbation else (strong,))

    @hookimpl
    def pseudo_label(self, probs: Tensor, logits: Tensor, valid: Tensor) -> PseudoLabel:
        """The teacher's top-K distribution, renormalised [known; renormalised: ours]: y = softmax over its K largest
        logits, 0 elsewhere. Target (B, C, H, W), or class ids (B, H, W) when one class is kept."""
        kept = min(self.top_k, probs.shape[1])
        if kept == 1:
            return hard_label(probs, valid)
        scores, classes = logits.float().topk(kept, dim=1)  # (B, K, H, W), largest first
        shares = self.sharpened_scores(scores, probs.gather(1, classes)).softmax(dim=1)
        return PseudoLabel(torch.zeros_like(probs).scatter_(1, classes, shares), probs.amax(dim=1), valid)

    @hookimpl
    def pixel_weight(self, probs: Tensor) -> Tensor:
        """u = (1 - h)^gamma (B, H, W) in [0, 1], with h the normalised entropy of the teacher's whole distribution
        [inferred: the author's entropy maps]."""
        entropy = normalised_entropy(probs)
        weight = (1 - entropy).pow(self.uncertainty_gamma)
        if self.uncertainty_form == "exp":
            weight = (-self.uncertainty_gamma * entropy).exp()
        if self.mass_power:
            weight = weight * self.kept_mass(probs, self.top_k).pow(self.mass_power)
        return weight

    @hookimpl
    def class_weight(self, label: PseudoLabel, num_classes: int) -> Tensor | None:
        """omega (C,) from the class mass n_c of this batch [known: frequencies of the batch]; 1 for an absent class.

        With F_c = n_c / sum n over the N present classes and r_c = clip((1 / (N F_c))^alpha, 1/R, R),
        omega_c = r_c / sum F_k r_k: the loss keeps its size [ours].
        """
        if self.rebalance == "off":
            return None
        target = class_target(label, num_classes, self.rebalance_counts)
        mass = process_sum(torch.where(label.valid.unsqueeze(1), target, 0.0).sum(dim=(0, 2, 3)))
        present = mass > self.rebalance_min_mass
        mass = torch.where(present, mass, 0.0)
        share = mass / mass.sum().clamp(min=SMALLEST_SHARE)
        inverse = 1 / (present.sum().clamp(min=1) * share.clamp(min=SMALLEST_SHARE))
        if self.rebalance == "inverse_mean":
            return inverse_mean_weight(inverse, present)
        ratio = inverse.pow(self.rebalance_alpha).clamp(1 / self.rebalance_max_ratio, self.rebalance_max_ratio)
        return torch.where(present, ratio / (share * ratio).sum().clamp(min=SMALLEST_SHARE), 1.0)

    @hookimpl
    def regularize(
        self,
        labelled: Labelled,
        labelled_output: Output,
        teacher: Teacher,
        teacher_output: Output | None,
        label: PseudoLabel | None,
        weight: Tensor | None,
        views: tuple[ViewOutput, ...],
        progress: Progress,
    ) -> dict[str, Tensor] | None:
        """The batch's class centroids move the prototypes [known], to which the student's labelled and strong cells
        are drawn [ours: form]. Silent until the ramp has ended."""
        if self.contrast == "off" or progress.epoch < self.ramp_epochs:
            return None
        contrast = self.prototype_contrast
        cells = contrast.anchor_cells(labelled, labelled_output, views, self.contrast_confidence)
        if self.contrast_centroids == "teacher":
            features = contrast.teacher_features(teacher(labelled.image), teacher_output)
            targets = [(label, weight)] if label and weight is not None else []
        else:
            features = cells.features
            targets = [(view.label, view.weight) for view in views if view.view.perturb is None]
        grid = labelled_output.features.shape[-2:]
        membership = [one_hot(downsample_nearest(labelled.mask, *grid), contrast.num_classes)]
        membership += [self.membership(*target, grid) for target in targets]
        contrast.move_prototypes(features, membership, self.contrast_momentum)
        if self.contrast == "center_margin":
            loss = self.center_margin_loss(contrast, cells, self.contrast_anchors)
        else:
            temperature, class_mean = self.contrast_temperature, self.contrast_class_mean
            loss = contrast.info_nce(cells, self.contrast_anchors, temperature, class_mean=class_mean)
        return {"farcluss_contrast": self.contrast_weight * loss}

    def membership(self, label: PseudoLabel, weight: Tensor, grid: torch.Size) -> Tensor:
        """How much each unlabelled cell counts for each class, (B, C, h, w): its target times its pixel weight, where
        its pseudo-label is valid and confident."""
        cells = downsample_label(label, *grid)
        target = class_target(cells, self.prototype_contrast.num_classes, self.contrast_members)
        confident = confident_pixels(cells, self.contrast_confidence)
        return target * torch.where(confident, downsample_nearest(weight, *grid), 0.0).unsqueeze(1)

    @hookimpl
    def after_step(self, progress: Progress) -> None:
        if self.contrast != "off":
            self.prototype_contrast.update(progress)


def normalised_entropy(probs: Tensor) -> Tensor:
    """H(p) / log C (B, H, W) in [0, 1], 0 for a single class. probs: (B, C, H, W) float32, no log of zero taken."""
    classes = probs.shape[1]
    if classes == 1:
        return torch.zeros_like(probs[:, 0])
    return (torch.special.entr(probs.float()).sum(dim=1) / math.log(classes)).clamp(0, 1)
