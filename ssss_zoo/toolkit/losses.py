"""Losses on labelled images and on views: computed a pixel in float32, summed, divided by a stated count."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.toolkit.contrast import one_hot
from ssss_zoo.toolkit.processes import process_count, process_mean
from ssss_zoo.toolkit.types import IGNORE, PixelLoss, PseudoLabel, ViewOutput

if TYPE_CHECKING:
    from ssss_zoo.config.schema import LossConfig


def cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not IGNORE; 0, connected to the graph, when there is none.

    logits: (B, C, H, W); mask: (B, H, W) int64 class ids or IGNORE.
    """
    total = F.cross_entropy(logits.float(), mask, ignore_index=IGNORE, reduction="sum")
    return total / process_mean((mask != IGNORE).sum(), least=1)


def ohem(logits: Tensor, mask: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Cross-entropy over hard pixels only (Shrivastava et al., 2016, as the field runs it on Cityscapes).

    A pixel is kept when the probability q of its true class is at most max(threshold, the `min_kept`-th smallest q);
    with fewer than `min_kept` labelled pixels all are kept. Each of W processes chooses among its own pixels, with
    `min_kept` / W (our choice: a release gives each GPU its own number). The choice carries no gradient. Mean over the
    kept ones. logits: (B, C, H, W); mask: (B, H, W) int64 class ids or IGNORE. No host synchronisation.
    """
    loss = F.cross_entropy(logits.float(), mask, ignore_index=IGNORE, reduction="none").flatten()
    labelled = (mask != IGNORE).flatten()
    true_class = torch.where(labelled, torch.exp(-loss.detach()), torch.inf)
    rank = min(-(-min_kept // process_count()), true_class.numel())
    limit = true_class.kthvalue(rank).values.clamp(min=threshold)  # inf when fewer than min_kept are labelled
    kept = labelled & (true_class <= limit)
    return (loss * kept).sum() / process_mean(kept.sum(), least=1)


def supervised_loss(settings: LossConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The run's loss on labelled pixels: a scalar from logits (B, C, H, W) and mask (B, H, W)."""
    if settings.supervised == "ohem":
        return partial(ohem, threshold=settings.ohem_threshold, min_kept=settings.ohem_min_kept)
    return cross_entropy


def squared_error(logits: Tensor, label: PseudoLabel) -> Tensor:
    """(B, H, W) float32: sum over classes of (p_c - y_c)^2, p the softmax of the logits, y the label's distribution
    (CutMix-Seg; Mean Teacher takes the mean over classes, 1/C of it)."""
    return (logits.float().softmax(dim=1) - distribution(label, logits.shape[1])).square().sum(dim=1)


def distribution(label: PseudoLabel, num_classes: int) -> Tensor:
    """The label's target as a distribution, (B, C, H, W) float32; one-hot where it holds ids."""
    if label.target.dim() == 4:
        return label.target
    return one_hot(label.target, num_classes)


def pixel_loss(logits: Tensor, label: PseudoLabel, class_weight: Tensor, per_class: bool) -> Tensor:
    """Cross-entropy of each pixel with its pseudo-label, times its class weight; (B, H, W) float32.

    Ids: omega_c * CE. Distributions y: (sum_c omega_c y_c) * (-sum_c y_c log q_c), which keeps the optimum at y; with
    `per_class` -sum_c omega_c y_c log q_c, which moves it to omega * y normalised. Both agree for one-hot y.
    logits: (B, C, H, W); class_weight: (C,).
    """
    if label.target.dim() == 3:
        return F.cross_entropy(logits.float(), label.target, reduction="none") * class_weight[label.target]
    log_q = logits.float().log_softmax(dim=1)
    if per_class:
        return -(label.target * class_weight.view(1, -1, 1, 1) * log_q).sum(dim=1)
    return -expected_class_weight(label, class_weight) * (label.target * log_q).sum(dim=1)


def divisor(divide_by: str, valid: Tensor, weight: Tensor) -> Tensor:
    """What each process divides its summed consistency loss by; see `View.divide_by`. valid, weight: (B, H, W)."""
    if divide_by == "valid":
        return process_mean(valid.sum(), least=1)
    if divide_by == "kept":
        return process_mean((valid & (weight > 0)).sum(), least=1)
    if divide_by == "weight":
        return process_mean((weight * valid).sum(), least=1e-6)
    if divide_by == "all":  # every process has as many pixels
        return torch.full((), float(valid.numel()), device=valid.device)
    if divide_by == "kept_share":
        kept = process_mean((valid & (weight > 0)).sum(), least=1)
        return kept.square() / valid.numel()
    raise ValueError(f"View.divide_by must be valid, kept, weight, all or kept_share; got {divide_by!r}")


def consistency(
    logits: Tensor,
    label: PseudoLabel,
    weight: Tensor,
    class_weight: Tensor | None = None,
    divide_by: str = "valid",
    per_class: bool = False,
    own_loss: PixelLoss | None = None,
) -> Tensor:
    """Consistency of the student with the pseudo-label: sum over valid pixels of weight * pixel loss / divisor.

    logits: (B, C, H, W) of the student; weight: (B, H, W); class_weight: (C,), None for ones; own_loss: in place of
    cross-entropy. 0, connected to the graph, when nothing is valid. The logits of unused pixels are replaced before the
    loss, not multiplied by 0 after it: an infinity there reaches neither the loss nor its gradient.
    """
    if class_weight is None:
        class_weight = torch.ones(logits.shape[1], device=logits.device)
    used = label.valid & (weight > 0)
    logits, weight = logits.masked_fill(~used.unsqueeze(1), 0.0), weight.masked_fill(~used, 0.0)
    if own_loss is None:
        loss = pixel_loss(logits, label, class_weight, per_class)
    else:
        loss = own_loss(logits, label) * expected_class_weight(label, class_weight)
    return (loss * weight).sum() / divisor(divide_by, label.valid, weight)


def view_loss(
    view_output: ViewOutput,
    label: PseudoLabel | None = None,
    weight: Tensor | None = None,
    logits: Tensor | None = None,
    class_weight: Tensor | None = None,
    per_class: bool = False,
) -> Tensor:
    """The consistency loss of a view, with the pixel loss and the divisor of the view, before its `loss_weight`.

    label, weight, logits: in place of the view's own label, pixel weights (B, H, W) and student's logits (B, C, H, W).
    class_weight, per_class: as in `consistency`.
    """
    return consistency(
        view_output.output.logits if logits is None else logits,
        view_output.label if label is None else label,
        view_output.weight if weight is None else weight,
        class_weight,
        view_output.view.divide_by,
        per_class,
        view_output.view.loss,
    )


def expected_class_weight(label: PseudoLabel, class_weight: Tensor) -> Tensor:
    """The class weight of each pixel, (B, H, W): its class's, or the expectation under its distribution."""
    if label.target.dim() == 3:
        return class_weight[label.target]
    return (label.target * class_weight.view(1, -1, 1, 1)).sum(dim=1)


def top_p_mask(largest: Tensor, mass: float) -> Tensor:
    """(B, K, H, W) bool: which of the probabilities `largest`, sorted in descending order, are needed to reach `mass`;
    always the first."""
    needed = largest.cumsum(dim=1) - largest < mass
    needed[:, 0] = True
    return needed


def percentile(values: Tensor, valid: Tensor, percent: float) -> Tensor:
    """The `percent`-th percentile, 0 to 100, of the valid values, between neighbours by linear interpolation (NumPy's
    rule); a scalar on the device, not finite when nothing is valid. No host synchronisation, no limit of size.

    values: float, valid: bool, of one shape. Each of several processes takes the percentile of its own images (as
    U2PL's release does).
    """
    ordered = values.masked_fill(~valid, torch.inf).flatten().sort().values
    rank = (valid.sum() - 1).clamp(min=0).double() * (percent / 100)
    low, high = (ordered.gather(0, neighbour.long().view(1)) for neighbour in (rank.floor(), rank.ceil()))
    return torch.lerp(low, high, (rank - rank.floor()).to(low.dtype)).squeeze(0)
