"""FARCLUSS (Tarubinga et al., 2026, arXiv 2506.11142): fuzzy labels, entropy weights, class rebalancing, contrast.

Of the paper its abstract, the project page and the repository's README could be read, not the equations. So every
number carries a mark: [known] stated in public, [inferred] from public wording or numbers, [ours] chosen here. No
[ours] value is the paper's; README.md of this folder holds the formulas, the reasons and the switches.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    NO_CLASS, CutMix, EMATeacher, Labelled, Output, Progress, Prototypes, PseudoLabel, RunInfo, Teacher, View,
    ViewOutput, Views, center_margin, channel_dropout, check_choice, check_range, downsample_nearest, draw_anchors,
    ema_update_, ema_warmup, flatten_pixels, hookimpl, info_nce, one_hot, process_sum, project, projection_head,
    random_boxes, top_p_mask,
)  # fmt: skip

SMALLEST = 1e-30  # float32: keeps 1 / share finite
CHOICES = {
    "label_mode": ("fixed_k", "cumulative"),
    "uncertainty_form": ("power", "exp"),
    "reduce": ("valid", "weight"),
    "rebalance": ("mass", "inverse_mean", "off"),
    "rebalance_counts": ("soft", "argmax"),
    "contrast": ("proto_infonce", "center_margin", "off"),
    "contrast_members": ("soft", "argmax"),
    "contrast_centroids": ("teacher", "student"),
}
RANGES = {  # lowest and highest value: the options that lie within them
    (1, 1e6): "top_k rebalance_max_ratio contrast_dim contrast_anchors",
    (1e-3, 1e6): "temperature contrast_temperature",
    (1e-3, 1): "label_mass",
    (0, 1): "contrast_momentum contrast_confidence ema_decay feature_perturbation",
    (0, 100): "mass_power uncertainty_gamma rebalance_alpha",
    (0, 1e9): "rebalance_min_mass contrast_weight unsupervised_weight ramp_epochs",
    (-1, 1): "center_margin",
}


@dataclass(eq=False)
class Farcluss:
    paper: ClassVar[str] = "FARCLUSS (Tarubinga et al., 2026, arXiv 2506.11142)"

    # Fuzzy pseudo-labels: the teacher's top-K distribution [known]; the rest of this group [ours].
    top_k: int = 3  # classes kept, at most C; 1 = hard labels [ours: FPL keeps 3, ESL's fixed 5 is worse than adaptive]
    label_mode: str = "fixed_k"  # fixed_k [inferred: "top-K" in every source] | cumulative (ESL, FPL)
    label_mass: float = 0.95  # cumulative: fewest classes with this mass, at most top_k [ours: ESL's best]
    temperature: float = 1.0  # of the label only; below 1 sharpens [ours: nothing public mentions it]
    mass_power: float = 0.0  # rho: weight m^rho with m the mass kept [ours: 0 renormalises, as ESL eq. 5]
    # Uncertainty weighting by the teacher's normalised entropy [known]; H / log C as in the author's later code.
    uncertainty_form: str = "power"  # power: (1 - h)^gamma | exp: e^(-gamma h) [ours: the simplest reading]
    uncertainty_gamma: float = 1.0  # 0 = off [ours: AugSeg uses 1 - H / log C]
    reduce: str = "valid"  # divide by valid pixels [ours: CW-BASS, UniMatch] | weight (sum of weights, AEL)
    # Class rebalancing from pseudo-label frequencies of the batch [known]; the function of them [ours].
    rebalance: str = "mass"  # mass: sum F w = 1 | inverse_mean (the author's later CW-BASS-v2) | off [ours]
    rebalance_alpha: float = 0.5  # exponent of the inverse frequency, mass only; 0 = all ones [ours: tempered]
    rebalance_max_ratio: float = 5.0  # R: raw weights within [1/R, R], mass only [ours: 50 pixels must not lead]
    rebalance_counts: str = "soft"  # soft: mass of the targets | argmax: pixels, as in CW-BASS-v2 [ours]
    rebalance_min_mass: float = 0.0  # a class with no more mass than this gets weight 1 [ours]
    # Contrast with class centroids as prototypes [known]; its form, place and numbers [ours].
    contrast: str = "proto_infonce"  # proto_infonce | center_margin | off [ours: pulls and pushes in one formula]
    contrast_weight: float = 0.1  # of the term in the loss [ours: ContrastiveSeg, ESL, PixCon agree]
    contrast_temperature: float = 0.1  # proto_infonce [ours: PixCon, ContrastiveSeg; 0.5 in ReCo, U2PL, ESL]
    contrast_dim: int = 256  # width of the projection [ours: PixCon, ContrastiveSeg, ReCo, U2PL]
    contrast_momentum: float = 0.99  # of the prototypes; 0 = centroids of the batch [ours: ESL, ProtoSeg]
    contrast_anchors: int = 256  # at most, of each class [ours: ReCo, U2PL]
    contrast_confidence: float = 0.7  # least top-1 confidence of an unlabelled cell; 0 = every cell [ours: ReCo]
    contrast_class_mean: bool = True  # mean of each class, then over classes [ours: ReCo, U2PL; keeps rare ones]
    contrast_members: str = "soft"  # an unlabelled cell joins all classes of its target | argmax: the likeliest [ours]
    contrast_centroids: str = "teacher"  # teacher, weak views [ours: U2PL, ESL] | student (saves a teacher pass)
    center_margin: float = 0.0  # cosine that two classes may share, center_margin only [ours]
    # Total, ramp and teacher.
    unsupervised_weight: float = 1.0  # lambda_u [ours: CW-BASS, AugSeg]
    ramp_epochs: float = 5.0  # linear ramp of lambda_u; contrast starts at its end; 0 = none [ours: CW-BASS]
    ema_decay: float = 0.999  # mean teacher [known], value [ours: AugSeg on VOC, CW-BASS; Cityscapes: 0.996]
    cutmix: bool = True  # UniMatch's boxes, partner = next image [ours: unknown whether the paper uses CutMix]
    feature_perturbation: float = 0.0  # channel dropout of a second view; 0 = no such view [ours: README, X7]

    def __post_init__(self) -> None:
        """Raises UserError, naming the option, for a value outside its choices or its range."""
        for name, choices in CHOICES.items():
            check_choice(f"options.farcluss.{name}", getattr(self, name), choices)
        for (low, high), names in RANGES.items():
            for name in names.split():
                check_range(f"options.farcluss.{name}", getattr(self, name), low, high)

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module] | None:
        if self.contrast == "off":
            return None
        self.head = projection_head(info.feature_dim, self.contrast_dim)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False).eval()
        self.prototypes = Prototypes(info.num_classes, self.contrast_dim)
        return {
            "farcluss_head": self.head,
            "farcluss_slow_head": self.slow_head,
            "farcluss_prototypes": self.prototypes,
        }

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int], progress: Progress) -> Views:
        """One strong view in the labelled images' pass; with `feature_perturbation` the weak view under channel
        dropout takes half of its share [ours: UniMatch's halves]."""
        share = self.unsupervised_weight * ramp(progress, self.ramp_epochs)
        mix = CutMix("next", random_boxes(*size)) if self.cutmix else None
        strong = View("strong", loss_weight=share, forward_group="labelled", cutmix=mix, divide_by=self.reduce)
        if not self.feature_perturbation:
            return Views((strong,))
        dropout = channel_dropout(self.feature_perturbation)
        weak = View("perturbed", "weak", share / 2, "perturbed", perturb=dropout, divide_by=self.reduce)
        return Views((replace(strong, loss_weight=share / 2), weak))

    @hookimpl
    def pseudo_label(self, probs: Tensor, logits: Tensor, valid: Tensor) -> PseudoLabel:
        """Softmax over the kept logits: the renormalised top-K of the teacher [known; renormalised: ours].

        Target (B, C, H, W) float32 with the kept classes above 0; class ids (B, H, W) when one class is kept.
        """
        confidence, ids = probs.max(dim=1)
        kept = min(self.top_k, probs.shape[1])
        if kept == 1:
            return PseudoLabel(ids, confidence, valid)
        scores, classes = logits.float().topk(kept, dim=1)  # (B, K, H, W), largest first
        if self.label_mode == "cumulative":
            scores = scores.masked_fill(~top_p_mask(probs.gather(1, classes), self.label_mass), -math.inf)
        shares = (scores / self.temperature).softmax(dim=1)
        return PseudoLabel(torch.zeros_like(probs).scatter_(1, classes, shares), confidence, valid)

    @hookimpl
    def pixel_weight(self, probs: Tensor) -> Tensor:
        """u * m^rho (B, H, W) in [0, 1]: u = (1 - h)^gamma or e^(-gamma h), h the normalised entropy of the whole
        distribution [inferred: the author's entropy maps]; m the probability mass that the label keeps."""
        gamma, entropy = self.uncertainty_gamma, normalised_entropy(probs)
        weight = (-gamma * entropy).exp() if self.uncertainty_form == "exp" else (1 - entropy).pow(gamma)
        return weight * self.kept_mass(probs).pow(self.mass_power) if self.mass_power else weight

    def kept_mass(self, probs: Tensor) -> Tensor:
        """m = sum of the kept classes' probabilities, (B, H, W) in [0, 1]. probs: (B, C, H, W)."""
        largest = probs.topk(min(self.top_k, probs.shape[1]), dim=1).values
        if self.label_mode == "cumulative":
            largest = largest * top_p_mask(largest, self.label_mass)
        return largest.sum(dim=1).clamp(max=1)

    @hookimpl
    def class_weight(self, label: PseudoLabel, num_classes: int) -> Tensor | None:
        """(C,) from the class mass n_c of this batch [known: batch frequencies]; 1 for an absent class.

        mass [ours]: with F_c = n_c / sum n over the N present classes, r_c = clip((1 / (N F_c))^alpha, 1/R, R) and
        omega_c = r_c / sum F_k r_k: the loss keeps its size. inverse_mean: 1/n_c over its mean (CW-BASS-v2's code).
        """
        if self.rebalance == "off":
            return None
        mass = process_sum(class_mass(label, num_classes, soft=self.rebalance_counts == "soft"))
        present = mass > self.rebalance_min_mass
        number = present.sum().clamp(min=1)
        share = torch.where(present, mass, 0.0) / torch.where(present, mass, 0.0).sum().clamp(min=SMALLEST)
        inverse = 1 / (number * share.clamp(min=SMALLEST))
        if self.rebalance == "inverse_mean":
            inverse = torch.where(present, inverse, 0.0)
            return torch.where(present, inverse * number / inverse.sum().clamp(min=SMALLEST), 1.0)
        ratio = inverse.pow(self.rebalance_alpha).clamp(1 / self.rebalance_max_ratio, self.rebalance_max_ratio)
        return torch.where(present, ratio / (share * ratio).sum().clamp(min=SMALLEST), 1.0)

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
        """Prototypes take in this batch's class centroids [known], then anchors are drawn to them [ours: form].

        Anchors: labelled and strong cells of the student. Silent until the ramp has ended. float32, whatever autocast.
        """
        if self.contrast == "off" or progress.epoch < self.ramp_epochs:
            return None
        shown = [view for view in views if view.view.perturb is None]
        grid = labelled_output.features.shape[-2:]
        mask = downsample_nearest(labelled.mask, *grid)
        ids = torch.cat([mask, *(self.sure_ids(view.label, grid) for view in shown)]).flatten()
        features = project(self.head, [labelled_output.features, *(view.output.features for view in shown)])
        if self.contrast_centroids == "student":
            means, sources = features, [(view.label, view.weight) for view in shown]
        else:
            told = [teacher(labelled.image), *([teacher_output] if teacher_output else [])]
            means = project(self.slow_head.eval(), [output.features for output in told])
            sources = [(label, weight)] if label and weight is not None else []
        with torch.autocast(mask.device.type, enabled=False):
            self.absorb(means, mask, sources)
            return {"farcluss_contrast": self.contrast_weight * self.contrast_loss(features, ids)}

    def absorb(self, means: Tensor, mask: Tensor, sources: list[tuple[PseudoLabel, Tensor]]) -> None:
        """Update the prototypes: a labelled cell joins its class, an unlabelled one those of its target, times its
        pixel weight where it is valid and sure. means: (N, D); mask: (B, h, w), the cells of `means` first in line."""
        classes, grid = len(self.prototypes.initialized), mask.shape[-2:]
        members = [one_hot(mask, classes)]  # (B, C, h, w) each
        for label, weight in sources:
            cells = on_grid(label, grid)
            hard = self.contrast_members == "argmax" or cells.target.dim() == 3
            target = one_hot(cells.ids, classes) if hard else cells.target
            counts = torch.where(self.sure(cells), downsample_nearest(weight, *grid), 0.0)
            members.append(target * counts.unsqueeze(1))
        self.prototypes.update(means, flatten_pixels(torch.cat(members)), self.contrast_momentum)

    def sure(self, label: PseudoLabel) -> Tensor:
        """What may speak for its class: valid, and at least as confident as the floor; bool of the label's size."""
        return label.valid & (label.confidence >= self.contrast_confidence)

    def sure_ids(self, label: PseudoLabel, grid: torch.Size) -> Tensor:
        """The likeliest class of each cell that is sure, NO_CLASS elsewhere; (B, h, w) int64."""
        cells = on_grid(label, grid)
        return torch.where(self.sure(cells), cells.ids, NO_CLASS)

    def contrast_loss(self, features: Tensor, ids: Tensor) -> Tensor:
        """The term between anchors drawn by class and a copy of the prototypes. features: (N, D); ids: (N,)."""
        vectors, initialized = self.prototypes.vectors.clone(), self.prototypes.initialized.clone()
        anchors = draw_anchors(ids, len(initialized), self.contrast_anchors)
        given, mean = (features, anchors, vectors, initialized), self.contrast_class_mean
        if self.contrast == "center_margin":
            return center_margin(*given, self.center_margin, mean)
        return info_nce(*given, self.contrast_temperature, mean)

    @hookimpl
    def after_step(self, progress: Progress) -> None:
        """The projection head's running average follows as the teacher follows the student."""
        if self.contrast != "off":
            ema_update_(self.slow_head, self.head, ema_warmup(progress.step, self.ema_decay))


def ramp(progress: Progress, epochs: float) -> float:
    """r = min(1, epoch / epochs), 1 when epochs is 0 (the author's CW-BASS code)."""
    return min(1.0, progress.epoch / epochs) if epochs else 1.0


def normalised_entropy(probs: Tensor) -> Tensor:
    """H(p) / log C (B, H, W) in [0, 1], 0 for a single class. probs: (B, C, H, W) float32, no log of zero taken."""
    classes = probs.shape[1]
    if classes == 1:
        return torch.zeros_like(probs[:, 0])
    return (torch.special.entr(probs.float()).sum(dim=1) / math.log(classes)).clamp(0, 1)


def class_mass(label: PseudoLabel, num_classes: int, soft: bool) -> Tensor:
    """What each class has of the valid pixels, (C,) float32: target mass, or pixels of which it is the likeliest."""
    if soft and label.target.dim() == 4:
        return torch.where(label.valid.unsqueeze(1), label.target, 0.0).sum(dim=(0, 2, 3))
    return one_hot(torch.where(label.valid, label.ids, NO_CLASS), num_classes).sum(dim=(0, 2, 3))


def on_grid(label: PseudoLabel, grid: torch.Size) -> PseudoLabel:
    """The label under the centre of each feature cell; grid: (h, w)."""
    return PseudoLabel(*(downsample_nearest(part, *grid) for part in (label.target, label.confidence, label.valid)))
