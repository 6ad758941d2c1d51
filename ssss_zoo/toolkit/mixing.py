"""CutMix of a view's images, and the same mix of their labels, weights and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ssss_zoo.toolkit.augment import box_mask, paste
from ssss_zoo.toolkit.types import IGNORE, CutMix, Labelled, PseudoLabel

BATCH_PARTNERS = ("next", "reverse", "rows")  # the partners are images of the batch itself
SECOND_BATCH_PARTNERS = ("stream", "twin")  # the partners are images of a second unlabelled batch


class Mixing:
    """One CutMix with its boxes, partners and gates on the device.

    box: (B, H, W) bool, True where the partner's pixels lie; None without CutMix. probs: (B, C, H, W), the teacher's
    probabilities on the weak views, which the gates read. A call mixes tensors (B, ..., H, W): `own` belongs to the
    view's images, `others` to the second unlabelled batch ("partner") and to the labelled images ("labelled"), as far
    as they take part.
    """

    def __init__(
        self, cutmix: CutMix | None, size: tuple[int, int, int], device: torch.device, probs: Tensor | None = None
    ) -> None:
        self.box: Tensor | None = None
        if cutmix is None:
            return
        images, height, width = size
        self.source = (
            "own" if cutmix.partner in BATCH_PARTNERS else "labelled" if cutmix.partner == "labelled" else "partner"
        )
        self.rows = partner_rows(cutmix, images).to(device, non_blocking=True)
        self.under = Mixing(cutmix.under, size, device, probs) if cutmix.under else None
        self.box = box_mask(cutmix.boxes, height, width, device)
        if cutmix.gate is not None:
            assert probs is not None
            self.box = self.box & cutmix.gate(probs).view(-1, 1, 1)

    def __call__(self, own: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        if self.box is None:
            return own
        source = own if self.source == "own" else others[self.source]
        if self.under:
            source = self.under(source, others)
        return paste(own, source[self.rows], self.box)

    def label(self, own: PseudoLabel, others: Mapping[str, PseudoLabel]) -> PseudoLabel:
        """The pseudo-label of the mixed images. All labels have the same kind of target."""
        parts = {
            name: self(getattr(own, name), {key: getattr(other, name) for key, other in others.items()})
            for name in ("target", "confidence", "valid")
        }
        return replace(own, **parts)


def partner_rows(cutmix: CutMix, images: int) -> Tensor:
    """For each image, the row of its partner in the partner batch: (B,) int64 on the CPU."""
    if cutmix.rows is not None:
        return cutmix.rows
    order = torch.arange(images)
    return {"next": order.roll(-1), "reverse": order.flip(0)}.get(cutmix.partner, order)


def ground_truth_label(labelled: Labelled) -> PseudoLabel:
    """The labelled images' masks as a pseudo-label of confidence 1, for views that show their pixels. A void pixel has
    class 0 and confidence 0, and is not valid."""
    valid = labelled.mask != IGNORE
    return PseudoLabel(labelled.mask.masked_fill(~valid, 0), valid.float(), valid)


def nested_cutmix(cutmix: CutMix | None) -> list[CutMix]:
    """A CutMix and all those nested under it, the outermost first."""
    return [cutmix, *nested_cutmix(cutmix.under)] if cutmix else []
