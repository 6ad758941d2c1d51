"""What tests that work a step out by hand share: a batch without chance, boxes as masks, and the comparison itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from ssss_zoo.toolkit.types import Progress, RawBatch, RawLabelled, RawUnlabelled

START = Progress(0, 10, 5)
BOXES = torch.tensor([[[2, 3, 9, 12]], [[0, 0, 0, 0]], [[5, 1, 16, 7]]])
BOX = torch.zeros(3, 16, 16, dtype=torch.bool)
for _b, (_top, _left, _bottom, _right) in enumerate(BOXES[:, 0].tolist()):
    BOX[_b, _top:_bottom, _left:_right] = True


def for_any_batch(test: Callable[..., None]) -> Callable[..., None]:
    """A law: the test holds for any `seed` of its batch. A few examples, since each makes runs of its own."""
    own = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    return own(given(seed=st.integers(0, 2**31))(test))


def raw_batch(all_void: bool = False, seed: int = 4) -> RawBatch:
    """Three images of 16 x 16 in each stream: some void, some padding, or nothing but them."""
    made = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, 3, 3, 16, 16), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, 5, (3, 16, 16), generator=made, dtype=torch.uint8)
    mask[:, :2, 3:9] = 255
    valid = torch.ones(2, 3, 16, 16, dtype=torch.bool)
    valid[0, 0, 12:], valid[0, 2, :, 10:], valid[1, 0, :8] = False, False, False
    if all_void:
        mask[:], valid[:] = 255, False
    return RawBatch(RawLabelled(image[0], mask), RawUnlabelled(image[1], valid[0]), RawUnlabelled(image[2], valid[1]))


def images(batch: RawBatch) -> tuple[Tensor, Tensor, Tensor]:
    """x, w and the partner's w as float64 in [0, 1]."""
    assert batch.unlabelled is not None
    assert batch.partner is not None
    x, w, far = (part.image.double() / 255 for part in (batch.labelled, batch.unlabelled, batch.partner))
    return x, w, far


def darker(image: Tensor) -> Tensor:
    return image * 0.8


class StrongInTurn:
    """Stands in for the strong augmentation: each batch that it draws for is multiplied by the next factor."""

    def __init__(self, *factors: float) -> None:
        self.factors = itertools.cycle(factors)

    def draw(self, images: int) -> float:
        return next(self.factors)

    def apply(self, image: Tensor, draw: float) -> Tensor:
        return image * draw


def received(made: Any, raw: RawBatch, progress: Progress = START) -> RawBatch:
    """The batch as the engine has it on its device."""
    batch: RawBatch = made.engine.to_device(raw, made.engine.draw(raw, progress))
    return batch


def take_step(
    made: Any, batch: RawBatch, progress: Progress = START
) -> tuple[dict[str, float], list[dict[str, Tensor]]]:
    """The losses of an engine step, and the gradient of each student that its optimiser met."""
    kept: list[dict[str, Tensor]] = []

    def keep(*_: Any) -> None:
        kept.extend(
            {n: p.grad.clone() for n, p in s.named_parameters() if p.grad is not None} for s in made.engine.students
        )

    handle = made.engine.optimizer.register_step_pre_hook(keep)
    losses = made.engine.step(iter([batch]), progress)
    handle.remove()
    return {name: value.item() for name, value in losses.items()}, kept


def assert_step(
    made: Any,
    batch: RawBatch,
    parts: Mapping[str, Tensor],
    networks: list[nn.Module],
    progress: Progress = START,
    single: str = "",
) -> dict[str, float]:
    """The engine's step has the losses `parts` (with gradient, of `networks`, copies of the students from before it),
    each to 1e-6, their sum as total, and that sum's gradient to 1e-5. single: a part that is summed
    in float32 over some hundred terms, by the test too: to 1e-5."""
    total = torch.stack(list(parts.values())).sum()
    if total.requires_grad:
        total.backward()
    losses, kept = take_step(made, batch, progress)
    assert set(losses) == {*parts, "total"}
    for name, part in parts.items():
        assert losses[name] == pytest.approx(part.item(), rel=1e-5 if name == single else 1e-6, abs=1e-12), (
            f"{name}: {losses[name]} for {part.item()}"
        )
    assert losses["total"] == pytest.approx(total.item(), rel=1e-6, abs=1e-12)
    for network, gradients in zip(networks, kept, strict=True):
        for name, parameter in network.named_parameters():
            if parameter.grad is not None or name in gradients:
                wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert_close(gradients[name], wanted, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    return losses
