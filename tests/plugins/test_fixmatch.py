"""FixMatch as UniMatch's two releases run it, against steps written out here.

The first release pairs each image with another crop of itself, which its author calls unintended (`partner=twin`); the
default is an independent draw. The arithmetic of a step is the same.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import fixmatch as module
from ssss_zoo.plugins.baselines.fixmatch import FixMatch
from torch import Tensor
from torch.testing import assert_close

from helpers.by_hand import assert_step, raw_batch, take_step
from ssss_zoo.config.resolve import resolve
from ssss_zoo.toolkit.types import FixedAugmentation, Progress, PseudoLabel, RawBatch, RawLabelled, RawUnlabelled

START = Progress(0, 10, 5)
BOXES = torch.tensor([[[2, 3, 9, 12]], [[0, 0, 0, 0]], [[5, 1, 16, 7]]])


def darker(image: Tensor) -> Tensor:
    return image * 0.8


def a_batch(images: int = 3, side: int = 16) -> RawBatch:
    made = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, images, 3, side, side), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, 5, (images, side, side), generator=made, dtype=torch.uint8)
    mask[:, :2, 3:9] = 255
    valid = torch.ones(2, images, side, side, dtype=torch.bool)
    valid[0, 0, 12:], valid[0, 2, :, 10:], valid[1, 0, :8] = False, False, False
    return RawBatch(RawLabelled(image[0], mask), RawUnlabelled(image[1], valid[0]), RawUnlabelled(image[2], valid[1]))


@pytest.fixture
def rig(tiny_run, monkeypatch):
    """words -> a `TinyRun` of three float64 images a batch, without chance."""

    def make(*words: str):
        monkeypatch.setattr(module, "random_boxes", lambda *size: BOXES)
        made = tiny_run("method=fixmatch", "train.batch=3", "augment.flip=0", *words)
        made.engine.strong = FixedAugmentation(darker)
        return made.double()

    return make


def released_step(network, batch: RawBatch, threshold: float) -> tuple[Tensor, Tensor]:
    """(L_x, L_u) of methods "FixMatch-1"; leaves the network's BatchNorm statistics as the release would."""
    x, w, far = (image.float().double() / 255 for image in (batch.labelled.image, *weak_images(batch)))
    network.eval()
    with torch.no_grad():
        confidence_far, label_far = network(far).logits.softmax(dim=1).max(dim=1)
    network.train()
    box = torch.zeros(3, 16, 16, dtype=torch.bool)
    for b, (top, left, bottom, right) in enumerate(BOXES[:, 0].tolist()):
        box[b, top:bottom, left:right] = True
    s = darker(w)
    s = torch.where(box[:, None], darker(far), s)
    z_x, z_w = network(torch.cat([x, w])).logits.split([3, 3])
    z_s = network(s).logits
    confidence, label = z_w.detach().softmax(dim=1).max(dim=1)
    label, confidence = torch.where(box, label_far, label), torch.where(box, confidence_far, confidence)
    ignored = torch.where(box, ~batch.partner.valid, ~batch.unlabelled.valid)
    per_pixel = F.cross_entropy(z_s, label, reduction="none")
    l_u = (per_pixel * ((confidence >= threshold) & ~ignored)).sum() / (~ignored).sum()
    return F.cross_entropy(z_x, batch.labelled.mask.long(), ignore_index=255), l_u


def weak_images(batch: RawBatch) -> tuple[Tensor, Tensor]:
    assert batch.unlabelled is not None
    assert batch.partner is not None
    return batch.unlabelled.image, batch.partner.image


@pytest.mark.parametrize("threshold", [0.0, 0.28, 0.32])
def test_a_step_is_the_releases(rig, threshold):
    made, batch = rig(f"options.fixmatch.threshold={threshold}"), a_batch()
    network = copy.deepcopy(made.student)
    l_x, l_u = released_step(network, batch, threshold)
    ((l_x + l_u) / 2).backward()
    kept = {}

    def keep(*_):
        kept.update({name: p.grad.clone() for name, p in made.student.named_parameters()})

    made.engine.optimizer.register_step_pre_hook(keep)
    losses = made.engine.step(iter([batch]), START)
    assert l_u.item() > 0
    assert losses["supervised"].item() == pytest.approx(l_x.item() / 2, rel=1e-6)
    assert losses["consistency"].item() == pytest.approx(l_u.item() / 2, rel=1e-6)
    assert losses["total"].item() == pytest.approx((l_x + l_u).item() / 2, rel=1e-6)
    for name, parameter in network.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-5, rtol=0)
    for name, value in network.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-7, rtol=0)


def test_threshold_zero_uses_every_valid_pixel(rig):
    made, batch, seen = rig("options.fixmatch.threshold=0"), a_batch(), []
    made.engine.on_pseudo_label = lambda label, weight, hidden: seen.append((label, weight))
    made.engine.losses(batch, START)
    label, weight = seen[0]
    assert weight.min() == 1
    assert torch.equal(label.valid, batch.unlabelled.valid)


def test_a_threshold_that_nothing_reaches_leaves_half_the_labelled_loss(rig):
    made, batch = rig("options.fixmatch.threshold=1"), a_batch()
    l_x, _ = released_step(copy.deepcopy(made.student), batch, 1)
    losses = made.engine.step(iter([batch]), START)
    assert losses["consistency"].item() == 0
    assert losses["total"].item() == pytest.approx(l_x.item() / 2, rel=1e-6)


def test_confidence_at_the_threshold_counts():
    edge = torch.tensor(0.95)
    below = torch.nextafter(edge, torch.tensor(0.0))
    confidence = torch.stack([edge, below, torch.tensor(0.96)]).view(1, 1, 3)
    label = PseudoLabel(torch.zeros(1, 1, 3, dtype=torch.int64), confidence, torch.ones(1, 1, 3, dtype=torch.bool))
    assert FixMatch(threshold=0.95).pixel_weight(label).tolist() == [[[1.0, 0.0, 1.0]]]


@pytest.mark.parametrize("partner", ["stream", "twin", "next", "reverse"])
def test_the_partner_stream_is_read_only_when_asked_for(rig, partner):
    made = rig(f"options.fixmatch.partner={partner}")
    assert ("partner" in made.feed.streams) == (partner in ("stream", "twin"))


def test_the_partner_is_an_independent_draw(rig):
    names = rig().feed.names(0)
    assert len(names["unlabelled"]) == len(names["partner"]) == 3
    assert names["unlabelled"] != names["partner"]


def test_a_twin_shows_the_same_photographs_cropped_anew(rig):
    made = rig("options.fixmatch.partner=twin")
    names, batch = made.feed.names(0), next(made.feed)
    assert names["unlabelled"] == names["partner"]
    assert not torch.equal(batch.unlabelled.image, batch.partner.image)


# --- the second release ---------------------------------------------------------------------------------------------

V2 = ("options.fixmatch.ema_decay=0.996", "options.fixmatch.partner=reverse", "options.fixmatch.shared_pass=true")


def apart(made) -> None:
    """A teacher that has gone its own way for a while."""
    torch.manual_seed(1)
    for value in made.engine.teachers[0].network.parameters():
        value.add_(0.1 * torch.randn_like(value))


def second_release(network, teacher, batch: RawBatch, threshold: float) -> tuple[Tensor, Tensor]:
    """(L_x, L_u) of methods "FixMatch-2": the teacher on w, partners by reversal, one pass of the student over x and s;
    loops over images and pixels."""
    x, w = (part.image.double() / 255 for part in (batch.labelled, batch.unlabelled))
    with torch.no_grad():
        confidence, label = teacher.eval()(w).logits.softmax(dim=1).max(dim=1)
    valid, s = batch.unlabelled.valid, darker(w)
    mixed, ids, sure, counted = s.clone(), label.clone(), confidence.clone(), valid.clone()
    for b, (top, left, bottom, right) in enumerate(BOXES[:, 0].tolist()):
        rows, columns = slice(top, bottom), slice(left, right)
        mixed[b][:, rows, columns] = s[2 - b][:, rows, columns]
        for part, source in ((ids, label), (sure, confidence), (counted, valid)):
            part[b][rows, columns] = source[2 - b][rows, columns]
    z_x, z_s = network(torch.cat([x, mixed])).logits.split([3, 3])
    log_q, total = z_s.log_softmax(dim=1), z_s.sum() * 0
    for b, i, j in counted.nonzero().tolist():
        if sure[b, i, j] >= threshold:
            total = total - log_q[b, ids[b, i, j], i, j]
    mask = batch.labelled.mask.long()
    l_x = F.cross_entropy(z_x, mask, ignore_index=255) if (mask != 255).any() else z_x.sum() * 0
    return l_x, total / max(int(counted.sum()), 1)


@pytest.mark.parametrize("all_void", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_a_step_is_the_second_releases(rig, threshold, all_void):
    made, batch = rig(f"options.fixmatch.threshold={threshold}", *V2), raw_batch(all_void)
    apart(made)
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.engine.teachers[0].network)
    l_x, l_u = second_release(network, teacher, batch, threshold)
    assert all_void or l_u > 0
    assert_step(made, batch, {"supervised": l_x / 2, "consistency": l_u / 2}, [network])
    for name, value in network.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-7, rtol=0)


def test_the_second_releases_teacher_copies_first_and_averages_then(rig):
    """min(1 - 1/(t + 1), 0.996): 0 at the first step, a half at the second, 0.996 late; buffers too."""
    made = rig(*V2)
    teacher = made.engine.teachers[0].network
    for step, decay in ((0, 0.0), (1, 0.5), (400, 0.996)):
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        take_step(made, raw_batch(seed=step), Progress(step, 1000, 5))
        for name, value in made.student.state_dict().items():
            wanted = decay * before[name] + (1 - decay) * value if value.is_floating_point() else value
            assert_close(teacher.state_dict()[name], wanted, atol=1e-12, rtol=0)
    assert made.stage.result_name() == "teacher"


def test_the_second_release_makes_one_pass_of_the_student(rig):
    made = rig(*V2)
    made.student.calls, made.engine.teachers[0].network.calls = [], []
    made.engine.losses(raw_batch(), START)
    sizes = [[(len(c.value), c.training, c.grad) for c in network.calls if c.half == "encode"]
             for network in (made.student, made.engine.teachers[0].network)]  # fmt: skip
    assert sizes == [[(6, True, True)], [(3, False, False)]]


def test_the_recipe_of_the_second_release_asks_for_all_of_it(tiny_plugins):
    config = resolve(["method=fixmatch_v2", "dataset=voc"])
    options = {"threshold": "0.95", "ema_decay": "0.996", "partner": "reverse", "shared_pass": "true"}
    assert config.plugins.names == ["fixmatch"]
    assert config.options == {"fixmatch": options}
