"""Alternatives to FARCLUSS's defaults where its public sources leave a detail open. Options select them.

`Farcluss` inherits the options and calls a function of this file when one is selected. README.md holds the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from ssss_zoo.toolkit import (
    AnchorCells, PrototypeContrast, PseudoLabel, Range, View, center_margin, channel_dropout, distribution,
    draw_anchors, one_hot, top_p_mask,
)  # fmt: skip


@dataclass(eq=False)
class Variants:
    """Switches whose defaults leave the method as `farcluss.py` writes it. Marks as there."""

    # Fuzzy pseudo-labels. fixed_k [inferred: "top-K" in every source] | cumulative (ESL, FPL): the fewest classes that
    # hold `label_mass`, at most top_k [ours: ESL's best].
    label_mode: Literal["fixed_k", "cumulative"] = "fixed_k"
    label_mass: Annotated[float, Range(1e-3, 1)] = 0.95
    # Of the label only; below 1 sharpens [ours: nothing public mentions it].
    temperature: Annotated[float, Range(1e-3, 1e6)] = 1.0
    # rho: weight m^rho with m the mass kept [ours: 0 renormalises, as ESL eq. 5].
    mass_power: Annotated[float, Range(0, 100)] = 0.0

    # Uncertainty weights. power: (1 - h)^gamma | exp: e^(-gamma h) [ours: the simplest reading].
    uncertainty_form: Literal["power", "exp"] = "power"
    # Divide by the valid pixels [ours: CW-BASS, UniMatch] | by the sum of the weights (AEL).
    reduce: Literal["valid", "weight"] = "valid"

    # Class rebalancing. mass: sum F w = 1 | inverse_mean (the author's later CW-BASS-v2) | off [ours].
    rebalance: Literal["mass", "inverse_mean", "off"] = "mass"
    # soft: mass of the targets | argmax: pixels, as in CW-BASS-v2 [ours].
    rebalance_counts: Literal["soft", "argmax"] = "soft"
    # A class with no more mass than this gets weight 1 [ours].
    rebalance_min_mass: Annotated[float, Range(0, 1e9)] = 0.0

    # Contrast. proto_infonce | center_margin | off [ours: the first pulls and pushes in one formula].
    contrast: Literal["proto_infonce", "center_margin", "off"] = "proto_infonce"
    # center_margin only: cosine that two classes may share [ours].
    center_margin: Annotated[float, Range(-1, 1)] = 0.0
    # Mean of each class, then over classes [ours: ReCo, U2PL; keeps rare ones] | over all anchors.
    contrast_class_mean: bool = True
    # An unlabelled cell joins all classes of its target | the likeliest alone [ours].
    contrast_members: Literal["soft", "argmax"] = "soft"
    # Whose features the prototypes average: the teacher's of weak views [ours: U2PL, ESL] | the student's, which saves
    # a pass of the teacher.
    contrast_centroids: Literal["teacher", "student"] = "teacher"

    # Views. UniMatch's boxes, partner = next image [ours: unknown whether the paper uses CutMix].
    cutmix: bool = True
    # Channel dropout of a second view; 0: no such view [ours: README, X7].
    feature_perturbation: Annotated[float, Range(0, 1)] = 0.0

    def sharpened_scores(self, scores: Tensor, probs: Tensor) -> Tensor:
        """The kept logits (B, K, H, W), largest first, over the temperature; with label_mode=cumulative those beyond
        the mass become -inf. probs: (B, K, H, W), the probabilities of the same classes."""
        if self.label_mode == "cumulative":
            scores = scores.masked_fill(~top_p_mask(probs, self.label_mass), -math.inf)
        return scores / self.temperature

    def kept_mass(self, probs: Tensor, top_k: int) -> Tensor:
        """m, the probability mass that the label keeps: (B, H, W) in [0, 1]. probs: (B, C, H, W)."""
        largest = probs.topk(min(top_k, probs.shape[1]), dim=1).values
        if self.label_mode == "cumulative":
            largest = largest * top_p_mask(largest, self.label_mass)
        return largest.sum(dim=1).clamp(max=1)

    def center_margin_loss(self, contrast: PrototypeContrast, cells: AnchorCells, per_class: int) -> Tensor:
        """The distance of anchors to their own prototype, and how far class means overlap beyond the margin; a
        scalar."""
        with torch.autocast(cells.features.device.type, enabled=False):
            vectors = contrast.prototypes.vectors.clone()
            initialized = contrast.prototypes.initialized.clone()
            anchors = draw_anchors(cells.ids, len(initialized), per_class)
            margin, class_mean = self.center_margin, self.contrast_class_mean
            return center_margin(cells.features, anchors, vectors, initialized, margin, class_mean=class_mean)


def class_target(label: PseudoLabel, num_classes: int, mode: str) -> Tensor:
    """(B, C, H, W): the label's distribution (soft), or one-hot of its likeliest class (argmax)."""
    return one_hot(label.ids, num_classes) if mode == "argmax" else distribution(label, num_classes)


def inverse_mean_weight(inverse: Tensor, present: Tensor) -> Tensor:
    """(C,): 1 / n_c over its mean over the present classes (CW-BASS-v2's code); 1 for an absent class. inverse: (C,),
    1 / n_c up to a factor, above 0."""
    inverse = torch.where(present, inverse, 0.0)
    number = present.sum().clamp(min=1)
    return torch.where(present, inverse * number / inverse.sum().clamp(min=1e-30), 1.0)


def halved_views(strong: View, dropout: float) -> tuple[View, View]:
    """The strong view and the weak one under channel dropout, each with half of the weight [ours: as UniMatch]."""
    half = strong.loss_weight / 2
    perturb = channel_dropout(dropout)
    weak = View("perturbed", "weak", half, "perturbed", perturb=perturb, divide_by=strong.divide_by)
    return replace(strong, loss_weight=half), weak
