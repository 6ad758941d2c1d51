"""Everything about a step that chance decides on the CPU, drawn before the device work begins.

The device work itself draws from the device's own generator (dropout, anchors), so it could be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssss_zoo.toolkit.augment import gated
from ssss_zoo.toolkit.types import Augmentation, Labelled, RawBatch, View, Views


@dataclass(frozen=True, eq=False)
class ViewDraw:
    """How a view's images, and those of the second unlabelled batch, are changed. augmentation: None leaves them as
    they are; images, partner: what it drew for them."""

    augmentation: Augmentation | None
    images: Any
    partner: Any

    def change(self, image: Tensor, partner: bool = False) -> Tensor:
        """The view's images (B, channels, H, W), made of the weak ones."""
        if self.augmentation is None:
            return image
        return self.augmentation.apply(image, self.partner if partner else self.images)


@dataclass(frozen=True, eq=False)
class StepDraws:
    """plan: the views, whose boxes `make_views` has drawn. flips: by stream, (B,) bool, the images that are mirrored.
    change_labelled: changes the labelled batch on the device, see `Views.augment_labelled`. views: by name, how the
    pixels of each view change."""

    plan: Views
    flips: Mapping[str, Tensor]
    change_labelled: Callable[[Labelled], Labelled] | None
    views: Mapping[str, ViewDraw]


def draw_flips(raw: RawBatch, chance: float) -> dict[str, Tensor]:
    """Which images are mirrored, (B,) bool on the CPU, by stream."""
    streams = {"labelled": raw.labelled, "unlabelled": raw.unlabelled, "partner": raw.partner}
    return {name: gated(len(stream.image), chance) for name, stream in streams.items() if stream}


def draw_view(view: View, images: int, strong: Augmentation, with_partner: bool) -> ViewDraw:
    """What chance decides about the pixels of a view. images: of a batch; strong: the run's photometric augmentation;
    with_partner: the view is mixed with the second unlabelled batch, whose images get a draw of their own."""
    augmentation = strong if view.strength == "strong" else None if isinstance(view.strength, str) else view.strength
    if augmentation is None:
        return ViewDraw(None, None, None)
    drawn = augmentation.draw(images)
    return ViewDraw(augmentation, drawn, augmentation.draw(images) if with_partner else None)
