"""The arithmetic of both sides: labelled loss, consistency loss. Per pixel in float32, sums with a stated divisor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.records import IGNORE, PseudoLabel


def cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not IGNORE; 0, connected to the graph, when there is none.

    logits: (B, C, H, W); mask: (B, H, W) int64 class ids or IGNORE.
    """
    total = F.cross_entropy(logits.float(), mask, ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)


def ohem(logits: Tensor, mask: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Cross-entropy over hard pixels only (Shrivastava et al., 2016, as the field runs it on Cityscapes).

    A pixel is kept when the probability q of its true class is at most max(threshold, the `min_kept`-th smallest q);
    with fewer than `min_kept` labelled pixels all are kept. The choice carries no gradient. Mean over the kept ones.
    logits: (B, C, H, W); mask: (B, H, W) int64 class ids or IGNORE. No host synchronisation.
    """
    loss = F.cross_entropy(logits.float(), mask, ignore_index=IGNORE, reduction="none").flatten()
    labelled = (mask != IGNORE).flatten()
    true_class = torch.where(labelled, torch.exp(-loss.detach()), torch.inf)
    rank = min(min_kept, true_class.numel())
    limit = true_class.kthvalue(rank).values.clamp(min=threshold)  # inf when fewer than min_kept are labelled
    kept = labelled & (true_class <= limit)
    return (loss * kept).sum() / kept.sum().clamp(min=1)


def pixel_loss(logits: Tensor, label: PseudoLabel, class_weight: Tensor, per_class: bool) -> Tensor:
    """Cross-entropy of each pixel with its pseudo-label, times its class weight; (B, H, W) float32.

    Ids: omega_c * CE. Distributions y: (sum_c omega_c y_c) * (-sum_c y_c log q_c), which keeps the optimum at y; with
    `per_class` -sum_c omega_c y_c log q_c, which moves it to omega * y normalised. Both agree for one-hot y.
    logits: (B, C, H, W); class_weight: (C,).
    """
    if label.target.dim() == 3:
        return F.cross_entropy(logits.float(), label.target, reduction="none") * class_weight[label.target]
    log_q = logits.float().log_softmax(dim=1)
    weighted = label.target * class_weight.view(1, -1, 1, 1)
    if per_class:
        return -(weighted * log_q).sum(dim=1)
    return -weighted.sum(dim=1) * (label.target * log_q).sum(dim=1)


def divisor(normaliser: str, valid: Tensor, weight: Tensor) -> Tensor:
    """What a summed consistency loss is divided by; see `View.normaliser`. valid, weight: (B, H, W)."""
    if normaliser == "valid":
        return valid.sum().clamp(min=1)
    if normaliser == "kept":
        return (valid & (weight > 0)).sum().clamp(min=1)
    if normaliser == "weight":
        return (weight * valid).sum().clamp(min=1e-6)
    if normaliser == "all":
        return torch.full((), float(valid.numel()), device=valid.device)
    raise ValueError(f"View.normaliser must be valid, kept, weight or all; got {normaliser!r}")


def consistency(
    logits: Tensor, label: PseudoLabel, weight: Tensor, class_weight: Tensor, normaliser: str, per_class: bool = False
) -> Tensor:
    """Consistency of the student with the pseudo-label: sum over valid pixels of weight * pixel loss / divisor.

    logits: (B, C, H, W) of the student; weight: (B, H, W); class_weight: (C,). 0, connected to the graph, when nothing
    is valid. What the network says at unused pixels is replaced before the loss, not multiplied by 0 after it: an
    infinity there reaches neither the loss nor its gradient.
    """
    used = label.valid & (weight > 0)
    logits, weight = logits.masked_fill(~used.unsqueeze(1), 0.0), weight.masked_fill(~used, 0.0)
    loss = pixel_loss(logits, label, class_weight, per_class) * weight
    return loss.sum() / divisor(normaliser, label.valid, weight)
