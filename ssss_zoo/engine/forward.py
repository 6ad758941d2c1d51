"""A student's forward passes: views of one group share a pass, and so BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssss_zoo.toolkit.mixing import Mixing
from ssss_zoo.toolkit.types import Batch, Output, Perturbation, View, Views

if TYPE_CHECKING:
    from ssss_zoo.models.contract import Network


@dataclass(frozen=True, eq=False)
class MixedView:
    """A view's images (B, channels, H, W) as the student sees them, after CutMix, and the `Mixing` that mixed them.

    source: `labelled`, `weak`, or the view's own name. Images of one source are the same and are encoded once.
    """

    view: View
    image: Tensor
    source: str
    mixing: Mixing


@dataclass(frozen=True, eq=False)
class ForwardItem:
    """One entry of a forward pass. name: the name of its output; source: as in `MixedView`; perturb: changes its
    features on their way to the decoder."""

    name: str
    source: str
    image: Tensor
    perturb: Perturbation | None = None


def forward(
    student: Network, plan: Views, batch: Batch, shown: Sequence[MixedView], fuse: bool, labelling_groups: Sequence[str]
) -> dict[str, Output]:
    """The student's outputs by name: `labelled`, `weak`, and `view <name>` of each view.

    fuse: all views go into the pass of the labelled images; labelling_groups: the passes from which a teacher reads its
    labels, so the weak views go into them as well.
    """
    passes = {"labelled": [ForwardItem("labelled", "labelled", batch.labelled.image)]}
    if plan.views and batch.unlabelled:
        for group in labelling_groups:
            passes.setdefault(group, []).append(ForwardItem("weak", "weak", batch.unlabelled.image))
    for one in shown:
        view = one.view
        items = passes.setdefault("labelled" if fuse else view.forward_group, [])
        items.append(ForwardItem(f"view {view.name}", one.source, one.image, view.perturb))
        if view.perturb and view.perturb_labelled:
            items.append(ForwardItem(f"labelled for {view.name}", "labelled", batch.labelled.image, view.perturb))
    if plan.labelled_last:
        passes["labelled"] = passes.pop("labelled")
    return {name: output for items in passes.values() for name, output in run_pass(student, items).items()}


def run_pass(student: Network, items: Sequence[ForwardItem]) -> dict[str, Output]:
    """One forward pass over all items. Images that several items share are encoded once, and decoded once for all items
    that do not perturb their features; the decoder runs once over everything."""
    # Each source is encoded once. It is decoded once, and once more for every perturbation.
    images = {item.source: item.image for item in items}
    decoded = {decode_key(item): item for item in items}
    encoded = student.encode(torch.cat(list(images.values())) if len(images) > 1 else items[0].image)
    sizes = [len(image) for image in images.values()]

    # Features that are decoded more than once, or perturbed, are split by source and joined anew.
    if len(decoded) > len(images) or any(item.perturb for item in items):
        maps_of = dict(zip(images, zip(*(level.split(sizes) for level in encoded), strict=True), strict=True))
        parts = [
            item.perturb(list(maps_of[item.source])) if item.perturb else list(maps_of[item.source])
            for item in decoded.values()
        ]
        encoded = [torch.cat(level) for level in zip(*parts, strict=True)]
        sizes = [len(item.image) for item in decoded.values()]

    # The outputs are split again and returned by name.
    output = student.decode(encoded, (items[0].image.shape[-2], items[0].image.shape[-1]))
    levels = zip(*(level.split(sizes) for level in encoded), strict=True)
    split = zip(decoded, output.logits.split(sizes), output.features.split(sizes), levels, strict=True)
    outputs = {key: Output(logits, features, maps) for key, logits, features, maps in split}
    return {item.name: outputs[decode_key(item)] for item in items}


def decode_key(item: ForwardItem) -> tuple[str, str]:
    """Items of one key are decoded once: those of one source without a perturbation, and each perturbed item alone."""
    return item.source, item.name if item.perturb else ""
