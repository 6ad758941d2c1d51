"""Small batches, images that tell themselves apart, and the losses of an engine step in plain float64 arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.testing.tiny import TinyNet, TinyRun
from ssss_zoo.toolkit.types import IGNORE, Progress, RawBatch, RawLabelled, RawUnlabelled, View, Views

START = Progress(0, 10, 5)
SIDE = 8  # of the images in here
STRONG = View("look")


def raw_batch(seed: int = 0, images: int = 2, classes: int = 5, channels: int = 3) -> RawBatch:
    """A batch as the loader makes it: some void, some padding below and to the right, hidden labels of value 77."""
    made = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, images, channels, SIDE, SIDE), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, classes, (images, SIDE, SIDE), generator=made, dtype=torch.uint8)
    mask[0, :3, 2:5] = IGNORE
    valid = torch.ones(2, images, SIDE, SIDE, dtype=torch.bool)
    valid[0, 0, 6:], valid[0, -1, :, 5:], valid[1, 0, :, 7:] = False, False, False
    hidden = torch.full((images, SIDE, SIDE), 77, dtype=torch.uint8)
    return RawBatch(
        RawLabelled(image[0], mask), RawUnlabelled(image[1], valid[0]), RawUnlabelled(image[2], valid[1]), hidden
    )


def token_batch(images: int = 2) -> RawBatch:
    """Images of one value each, so that a pass tells whom it saw: labelled 10, 11; weak 60, 61; partner 120, 121."""

    def plain(first: int) -> Tensor:
        values = torch.arange(first, first + images, dtype=torch.uint8)
        return values.view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).contiguous()

    valid = torch.ones(images, SIDE, SIDE, dtype=torch.bool)
    mask = torch.zeros(images, SIDE, SIDE, dtype=torch.uint8)
    return RawBatch(RawLabelled(plain(10), mask), RawUnlabelled(plain(60), valid), RawUnlabelled(plain(120), valid))


def a_bit_brighter(image: Tensor) -> Tensor:
    """Stands in for the strong augmentation; a token gets a fraction by it."""
    return image + 0.5 / 255


def who(image: Tensor) -> list[str]:
    """The images of a pass by name: x labelled, w weak, p partner, + strong; image 0 and up."""
    names = []
    for value in (image[:, 0, 0, 0] * 255).tolist():
        stream, first = next((s, f) for s, f in (("p", 120), ("w", 60), ("x", 10)) if value > f - 0.1)
        names.append(f"{stream}{int(value + 0.1 - first)}{'+' if value % 1 > 0.3 and value % 1 < 0.7 else ''}")
    return names


def passes(network: TinyNet, half: str = "encode") -> list[tuple[str, str, str]]:
    """(train or eval, grad or still, images) of each pass so far."""
    return [
        (
            "train" if call.training else "eval",
            "grad" if call.grad else "still",
            " ".join(who(call.value)) if half == "encode" else str(len(call.value)),
        )
        for call in network.calls or []
        if call.half == half
    ]


def box(*sides: int, images: int = 2) -> Tensor:
    """The same rectangles (top, left, bottom, right each) in every image."""
    return torch.tensor(sides, dtype=torch.int64).view(1, -1, 4).expand(images, -1, -1).clone()


def views(*made: View, supervised_weight: float = 1.0) -> dict:
    return {"make_views": lambda self: Views(made, supervised_weight)}


def record(made: TinyRun) -> TinyRun:
    for student in made.engine.students:
        student.calls = []
    return made


def run_losses(made: TinyRun, batch: RawBatch | None = None) -> dict[str, Tensor]:
    return made.engine.losses(batch or token_batch(), START)


def gradients_at_step(made: TinyRun, batches: list[RawBatch], progress: Progress = START) -> tuple[dict, dict]:
    kept: dict[str, Tensor] = {}

    def keep(optimizer, *_):
        kept.update({name: p.grad.clone() for name, p in made.student.named_parameters() if p.grad is not None})

    made.engine.optimizer.register_step_pre_hook(keep)
    return made.engine.step(iter(batches), progress), kept


def log_softmax(scores: Tensor) -> Tensor:
    """(C,) float64, from the definition."""
    shifted = scores - scores.max().detach()
    return shifted - shifted.exp().sum().log()


def hand_supervised(logits: Tensor, mask: Tensor) -> Tensor:
    total, count = logits.sum() * 0, 0
    for b, y, x in positions(mask):
        if mask[b, y, x] != IGNORE:
            total = total - log_softmax(logits[b, :, y, x])[int(mask[b, y, x])]
            count += 1
    return total / max(count, 1)


def hand_consistency(logits, target, weight, valid, classes, divide_by="valid", per_class=False) -> Tensor:
    """target: (B, C, H, W) soft; weight (B, H, W); valid (B, H, W); classes (C,) weights."""
    total, sums = logits.sum() * 0, {"valid": 0.0, "kept": 0.0, "weight": 0.0, "all": float(valid.numel())}
    for b, y, x in positions(valid):
        if not valid[b, y, x]:
            continue
        w, t = float(weight[b, y, x]), target[b, :, y, x].double()
        sums["valid"] += 1
        sums["kept"] += w > 0
        sums["weight"] += w
        if w == 0:
            continue
        log_q = log_softmax(logits[b, :, y, x])
        if per_class:
            loss = -sum(float(classes[c] * t[c]) * log_q[c] for c in range(len(t)))
        else:
            expected = sum(float(classes[c] * t[c]) for c in range(len(t)))
            loss = -expected * sum(float(t[c]) * log_q[c] for c in range(len(t)))
        total = total + w * loss
    return total / max(sums[divide_by], 1e-6 if divide_by == "weight" else 1.0)


def positions(mask: Tensor):
    return ((b, y, x) for b in range(mask.shape[0]) for y in range(mask.shape[1]) for x in range(mask.shape[2]))


def softmax_by_hand(logits: Tensor) -> Tensor:
    return torch.stack([logits[:, c].exp() for c in range(logits.shape[1])], 1) / logits.exp().sum(1, keepdim=True)


def paste_by_hand(value: Tensor, other: Tensor, boxes: Tensor) -> Tensor:
    """other inside an odd number of boxes, value elsewhere; (B, ..., H, W)."""
    out = value.clone()
    for b in range(value.shape[0]):
        for y in range(value.shape[-2]):
            for x in range(value.shape[-1]):
                inside = sum(
                    int(top <= y < bottom and left <= x < right) for top, left, bottom, right in boxes[b].tolist()
                )
                if inside % 2:
                    out[b, ..., y, x] = other[b, ..., y, x]
    return out


def floats(image: Tensor) -> Tensor:
    return image.float() / 255


def check_step(rig: TinyRun, batch: RawBatch, hand, student: TinyNet | None = None) -> dict[str, Tensor]:
    """The engine's parts, total and gradient against `hand(copy of the student) -> parts`."""
    student = student or rig.student
    reference = copy.deepcopy(student)
    expected = hand(reference)
    sum(expected.values()).backward()
    losses = rig.engine.losses(batch, START)
    torch.stack(list(losses.values())).sum().backward()
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
    for name in ("classifier.weight", "encoder.low.0.weight"):
        assert_close(student.get_parameter(name).grad, reference.get_parameter(name).grad, atol=1e-5, rtol=0)
    return losses
