"""UniMatch V2 against a step written out here after its release (methods "UniMatch V2")."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import unimatch_v2 as module
from ssss_zoo.plugins.baselines.unimatch_v2 import UniMatchV2, complementary_dropout
from torch import Tensor
from torch.testing import assert_close

from helpers.by_hand import StrongInTurn, for_any_batch
from ssss_zoo.toolkit.types import Progress, PseudoLabel, RawBatch, RawLabelled, RawUnlabelled

START = Progress(0, 10, 5)
BOXES = (
    torch.tensor([[[2, 3, 9, 12]], [[0, 0, 0, 0]], [[5, 1, 16, 7]]]),
    torch.tensor([[[0, 0, 16, 4]], [[7, 7, 12, 16]], [[0, 0, 0, 0]]]),
)


def a_batch(all_void: bool = False, seed: int = 5) -> RawBatch:
    made = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 3, 16, 16), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, 5, (3, 16, 16), generator=made, dtype=torch.uint8)
    mask[:, :2, 3:9] = 255
    valid = torch.ones(3, 16, 16, dtype=torch.bool)
    valid[0, 12:], valid[2, :, 10:] = False, False
    if all_void:
        mask[:], valid[:] = 255, False
    return RawBatch(RawLabelled(image[0], mask), RawUnlabelled(image[1], valid))


def gates(width: int) -> Tensor:
    """(3, width): image 1 is spared; the others keep the channels of their own parity, doubled."""
    odd = torch.arange(width) % 2
    return torch.stack([2.0 * odd, torch.ones(width), 2.0 * (1 - odd)]).double()


def fixed(images: int):
    def half(first: bool):
        def perturb(maps: list[Tensor]) -> list[Tensor]:
            factors = [gates(level.shape[1]) if first else 2 - gates(level.shape[1]) for level in maps]
            return [level * factor[:, :, None, None] for level, factor in zip(maps, factors, strict=True)]

        return perturb

    return half(True), half(False)


@pytest.fixture
def rig(tiny_run, monkeypatch):
    def make(*words: str):
        boxes = iter(BOXES * 20)
        monkeypatch.setattr(module, "random_boxes", lambda *size: next(boxes))
        monkeypatch.setattr(module, "complementary_dropout", fixed)
        made = tiny_run("method=unimatch_v2", "train.batch=3", "augment.flip=0", *words)
        made.engine.strong = StrongInTurn(0.8, 0.6)  # view 1, view 2
        next(boxes), next(boxes)  # so that the first step meets BOXES in order, whatever was planned before
        return made.double()

    return make


def released_step(network, teacher, batch: RawBatch, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """L_x, U_1, U_2 with loops over images and pixels."""
    x, w = (part.image.double() / 255 for part in (batch.labelled, batch.unlabelled))
    with torch.no_grad():
        confidence, label = teacher.eval()(w).logits.softmax(dim=1).max(dim=1)
    l_x = F.cross_entropy(network(x).logits, batch.labelled.mask.long(), ignore_index=255)
    views, targets = [], []
    for factor, boxes in ((0.8, BOXES[0]), (0.6, BOXES[1])):
        view, parts = w * factor, [label.clone(), confidence.clone(), batch.unlabelled.valid.clone()]
        mixed = view.clone()
        for b, (top, left, bottom, right) in enumerate(boxes[:, 0].tolist()):
            spot = (slice(top, bottom), slice(left, right))
            mixed[b][:, spot[0], spot[1]] = view[2 - b][:, spot[0], spot[1]]
            for part, source in zip(parts, (label, confidence, batch.unlabelled.valid), strict=True):
                part[b][spot] = source[2 - b][spot]
        views.append(mixed)
        targets.append(parts)
    maps = network.encode(torch.cat(views))
    first, second = ([gates(m.shape[1]) for m in maps], [2 - gates(m.shape[1]) for m in maps])
    dropped = [
        m * torch.cat(pair)[:, :, None, None] for m, pair in zip(maps, zip(first, second, strict=True), strict=True)
    ]
    z = network.decode(dropped, (16, 16)).logits.log_softmax(dim=1).split([3, 3])
    losses = []
    for log_q, (ids, sure, valid) in zip(z, targets, strict=True):
        total, count = log_q.new_zeros(()), 0
        for b in range(3):
            for i in range(16):
                for j in range(16):
                    count += int(valid[b, i, j])
                    if valid[b, i, j] and sure[b, i, j] >= threshold:
                        total = total - log_q[b, ids[b, i, j], i, j]
        losses.append(total / count)
    return l_x, *losses


def edge(teacher, batch: RawBatch, share: float) -> float:
    """A threshold that `share` of the pixels do not reach, half way between two of them."""
    with torch.no_grad():
        logits = teacher.eval()(batch.unlabelled.image.double() / 255).logits
    sure = logits.softmax(dim=1).amax(dim=1).flatten().sort()[0]
    place = int(share * len(sure))
    return float(sure[place : place + 2].mean()) if share else 0.0


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_a_step_is_the_releases(rig, share):
    made, batch = rig(), a_batch()
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.engine.teachers[0].network)
    teacher.load_state_dict(network.state_dict())
    threshold = made.methods["unimatch_v2"].threshold = edge(teacher, batch, share)
    l_x, u_1, u_2 = released_step(network, teacher, batch, threshold)
    whole = (l_x + (u_1 + u_2) / 2) / 2
    whole.backward()
    kept = {}
    made.engine.optimizer.register_step_pre_hook(
        lambda *_: kept.update({name: p.grad.clone() for name, p in made.student.named_parameters()})
    )
    losses = made.engine.step(iter([batch]), START)
    assert min(u_1.item(), u_2.item()) > 0
    assert losses["supervised"].item() == pytest.approx(l_x.item() / 2, rel=1e-6)
    assert losses["consistency"].item() == pytest.approx((u_1 + u_2).item() / 4, rel=1e-6)
    assert losses["total"].item() == pytest.approx(whole.item(), rel=1e-6)
    for name, parameter in network.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-5, rtol=0)
    for name, value in network.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-7, rtol=0)


def test_all_ignored_gives_zero_and_no_gradient(rig):
    losses = rig().engine.step(iter([a_batch(all_void=True)]), START)
    assert {name: value.item() for name, value in losses.items()} == {"supervised": 0, "consistency": 0, "total": 0}


def test_the_teacher_copies_first_and_averages_parameters_and_buffers_later(rig):
    made, batch = rig(), a_batch()
    teacher = made.engine.teachers[0].network
    made.engine.step(iter([batch]), START)
    for name, value in made.student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value), name
    old = {name: value.clone() for name, value in teacher.state_dict().items()}
    made.engine.step(iter([batch]), Progress(9, 100, 5))
    for name, value in made.student.state_dict().items():
        if value.is_floating_point():
            assert_close(teacher.state_dict()[name], 0.9 * old[name] + 0.1 * value)


@pytest.mark.parametrize("images", [1, 2, 3, 4, 5])
def test_the_two_halves_complement_each_other(images):
    torch.manual_seed(images)
    maps = [torch.ones(images, 64, 2, 3), torch.ones(images, 64, 1, 1), torch.ones(images, 7, 2, 2)]
    first, second = (half(maps) for half in complementary_dropout(images))
    for one, other in zip(first, second, strict=True):
        assert (one + other == 2).all()
        assert set(one.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert torch.equal(first[0][:, :, 0, 0], first[1][:, :, 0, 0])  # one mask for all maps of a width
    spared = (first[0] == 1).flatten(1).all(dim=1)
    assert spared.sum() == images // 2
    assert torch.equal(spared, (second[0] == 1).flatten(1).all(dim=1))
    coins = first[0][~spared]
    assert 0.3 < (coins == 2).float().mean() < 0.7


@for_any_batch
def test_without_dropout_and_averaging_it_is_a_fixmatch_of_two_views(rig, seed):
    """ema_decay=0: the teacher is the student of the last step, in evaluation mode. So is FixMatch's EMA variant at
    decay 0, whose one view counts a half here twice a quarter."""
    made, batch = rig("options.unimatch_v2.dropout=false", "options.unimatch_v2.ema_decay=0"), a_batch(seed=seed)
    network = copy.deepcopy(made.student)
    threshold = made.methods["unimatch_v2"].threshold = edge(copy.deepcopy(network), batch, 0.5)
    with torch.no_grad():
        confidence, label = (
            copy.deepcopy(network).eval()(batch.unlabelled.image.double() / 255).logits.softmax(1).max(1)
        )
    w = batch.unlabelled.image.double() / 255
    losses = made.engine.step(iter([batch]), START)
    network(batch.labelled.image.double() / 255)
    views = []
    for factor, boxes in ((0.8, BOXES[0]), (0.6, BOXES[1])):
        box = torch.zeros(3, 16, 16, dtype=torch.bool)
        for b, (top, left, bottom, right) in enumerate(boxes[:, 0].tolist()):
            box[b, top:bottom, left:right] = True
        turned = [part.flip(0).where(box, part) for part in (label, confidence, batch.unlabelled.valid)]
        views.append((torch.where(box[:, None], (w * factor).flip(0), w * factor), *turned))
    z = network(torch.cat([view[0] for view in views])).logits.split([3, 3])
    total = 0.0
    for logits, (_, ids, sure, valid) in zip(z, views, strict=True):
        per_pixel = F.cross_entropy(logits, ids, reduction="none")
        total += (per_pixel * ((sure >= threshold) & valid)).sum() / valid.sum() / 4
    assert losses["consistency"].item() == pytest.approx(total.item(), rel=1e-6)


def test_a_pixel_at_the_threshold_counts():
    confidence = torch.tensor([[[0.25, 0.5, 0.75]]])
    label = PseudoLabel(torch.zeros(1, 1, 3, dtype=torch.int64), confidence, torch.ones(1, 1, 3, dtype=torch.bool))
    assert UniMatchV2(threshold=0.5).pixel_weight(label).tolist() == [[[0, 1, 1]]]


def test_the_dropout_is_drawn_for_each_image_of_the_batch():
    first, second = (view.perturb for view in UniMatchV2().make_views((3, 8, 10)).views)
    maps = [torch.ones(3, 6, 2, 2)]
    assert_close(first(maps)[0] + second(maps)[0], torch.full((3, 6, 2, 2), 2.0))


def test_each_view_has_boxes_of_its_own_and_both_share_a_pass():
    torch.manual_seed(0)
    first, second = UniMatchV2().make_views((64, 32, 32)).views
    assert not torch.equal(first.cutmix.boxes, second.cutmix.boxes)
    assert first.forward_group == second.forward_group != "labelled"
