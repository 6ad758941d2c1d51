"""UniMatch's views without chance: boxes, channel dropout and strong augmentation that a test repeats by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, cycle
from typing import Any

import pytest
import torch
from ssss_zoo.plugins.baselines import unimatch
from torch import Tensor

from helpers.by_hand import BOXES, StrongInTurn

SECOND_BOXES = torch.tensor([[[0, 0, 16, 4]], [[7, 7, 12, 16]], [[0, 0, 0, 0]]])  # of the second strong view


def box_masks(boxes: Tensor) -> Tensor:
    """(3, 16, 16) bool: the pixels inside each image's box."""
    box = torch.zeros(3, 16, 16, dtype=torch.bool)
    for b, (top, left, bottom, right) in enumerate(boxes[:, 0].tolist()):
        box[b, top:bottom, left:right] = True
    return box


def dropped(maps: list[Tensor], *, keep_odd: bool) -> list[Tensor]:
    """Every second channel gone and the others doubled."""
    return [level * (torch.arange(level.shape[1]) % 2 == int(keep_odd)).view(1, -1, 1, 1) * 2 for level in maps]


def alternating_dropout(probability: float) -> Callable[[list[Tensor]], list[Tensor]]:
    """The weak images are perturbed first and keep even channels, then the labelled ones, which keep odd channels."""
    calls = count()
    return lambda maps: dropped(maps, keep_odd=next(calls) % 2 == 1)


def fixed_unimatch_run(
    tiny_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    *overrides: str,
    dropout: Callable[[float], Any] = alternating_dropout,
) -> Any:
    """A `TinyRun` in float64, three images a batch, nothing drawn. overrides: `method=...`, UniMatch or one on it."""
    boxes = cycle((BOXES, SECOND_BOXES))
    monkeypatch.setattr(unimatch, "random_boxes", lambda *size: next(boxes))
    monkeypatch.setattr(unimatch, "channel_dropout", dropout)
    made = tiny_run("train.batch=3", "augment.flip=0", *overrides)
    made.engine.strong = StrongInTurn(0.8, 0.7, 0.6, 0.5)  # view 1 of the batch, of the partner, view 2 of both
    for part in made.run.modules.values():
        part.double()
    return made.double()
