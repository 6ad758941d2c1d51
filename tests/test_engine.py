"""One step by hand in float64; who shares a pass; how answers combine and which are refused; no wait for the device."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssss_zoo.engine.registry import installed
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import Rig, TinyNet, make_method
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.teachers import EMATeacher, PeerTeacher, SelfTeacher
from ssss_zoo.toolkit.types import (
    IGNORE,
    Batch,
    CutMix,
    Labelled,
    Output,
    Progress,
    PseudoLabel,
    Unlabelled,
    View,
    Views,
)
from ssss_zoo.train.run import run

START = Progress(0, 10, 5)
SIDE = 8  # of the images in here
METHODS = sorted(installed("methods"))


# --- what the tests put in ------------------------------------------------------------------------------------------


def raw_batch(seed: int = 0, images: int = 2, classes: int = 5, channels: int = 3) -> Batch:
    """A batch as the loader makes it: some void, some padding below and to the right, hidden labels of value 77."""
    made = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, images, channels, SIDE, SIDE), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, classes, (images, SIDE, SIDE), generator=made, dtype=torch.uint8)
    mask[0, :3, 2:5] = IGNORE
    valid = torch.ones(2, images, SIDE, SIDE, dtype=torch.bool)
    valid[0, 0, 6:], valid[0, -1, :, 5:], valid[1, 0, :, 7:] = False, False, False
    hidden = torch.full((images, SIDE, SIDE), 77, dtype=torch.uint8)
    return Batch(Labelled(image[0], mask), Unlabelled(image[1], valid[0]), Unlabelled(image[2], valid[1]), hidden)


def token_batch(images: int = 2) -> Batch:
    """Images of one value each, so that a pass tells whom it saw: labelled 10, 11; weak 60, 61; partner 120, 121."""

    def plain(first: int) -> Tensor:
        values = torch.arange(first, first + images, dtype=torch.uint8)
        return values.view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).contiguous()

    valid = torch.ones(images, SIDE, SIDE, dtype=torch.bool)
    mask = torch.zeros(images, SIDE, SIDE, dtype=torch.uint8)
    return Batch(Labelled(plain(10), mask), Unlabelled(plain(60), valid), Unlabelled(plain(120), valid))


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


@pytest.fixture
def rig(tiny_shelf, tiny_run):
    """(hooks of one method, words) -> a `Rig` on 8 x 8 images: no flip, a fixed strong view, float64 networks."""

    def make(hooks: dict | None = None, *words: str, double: bool = True) -> Rig:
        if hooks is not None:
            tiny_shelf.offer("methods", "own", make_method(**hooks))
            words = ("method=own", *words)
        made = tiny_run(f"train.crop=[{SIDE},{SIDE}]", "augment.flip=0", *words)
        made.engine.strong = a_bit_brighter
        return made.double() if double else made

    return make


def views(*made: View, supervised_weight: float = 1.0) -> dict:
    return {"make_views": lambda self: Views(made, supervised_weight)}


# --- the arithmetic, pixel by pixel, in float64 ---------------------------------------------------------------------


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


def check_step(rig: Rig, batch: Batch, hand, student: TinyNet | None = None) -> dict[str, Tensor]:
    """The engine's parts, total and gradient against `hand(copy of the student) -> parts`."""
    student = student or rig.student
    reference = copy.deepcopy(student)
    expected = hand(reference)
    sum(expected.values()).backward()
    losses = rig.engine.losses(rig.engine.receive(batch), START)
    torch.stack(list(losses.values())).sum().backward()
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
    for name in ("classifier.weight", "encoder.low.0.weight"):
        assert_close(student.get_parameter(name).grad, reference.get_parameter(name).grad, atol=1e-5, rtol=0)
    return losses


def test_a_supervised_step_is_the_mean_cross_entropy_over_labelled_pixels(rig):
    made, batch = rig(None, "method=supervised"), raw_batch()

    def hand(network):
        return {"supervised": hand_supervised(network(floats(batch.labelled.image)).logits, batch.labelled.mask)}

    losses = check_step(made, replace(batch, unlabelled=None, partner=None), hand)
    assert losses["supervised"] > 0.5


def test_a_batch_without_a_labelled_pixel_gives_a_zero_that_is_connected(rig):
    made, batch = rig(None, "method=supervised"), raw_batch()
    void = replace(batch, labelled=Labelled(batch.labelled.image, torch.full_like(batch.labelled.mask, IGNORE)))
    losses = made.engine.losses(made.engine.receive(void), START)
    losses["supervised"].backward()
    assert losses["supervised"].item() == 0
    assert not made.student.classifier.weight.grad.any()


CLASSES = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5])


def soft_label(self, probs, valid):
    """Half the teacher's distribution, half of it turned by one class."""
    return PseudoLabel((probs + probs.roll(1, dims=1)) / 2, probs.max(dim=1).values, valid)


def some_weight(self, probs):
    """By how much the first class leads the second, 0 where it does not."""
    return (probs[:, 0] - probs[:, 1]).clamp(min=0)


SOFT_HOOKS = {
    "pseudo_label": soft_label,
    "pixel_weight": some_weight,
    "class_weight": lambda self, num_classes: CLASSES,
}
TWO_BOXES = box(1, 1, 6, 6, 3, 3, 8, 8)  # they overlap, and the overlap toggles back


@pytest.mark.parametrize("partner", ["next", "reverse", "stream"])
@pytest.mark.parametrize("divide_by", ["valid", "kept", "weight", "all"])
def test_a_view_with_soft_targets_weights_class_weights_and_cutmix(rig, partner, divide_by):
    images = 3  # `next` and `reverse` differ
    view = View("look", loss_weight=0.7, cutmix=CutMix(partner, box(*TWO_BOXES[0].flatten(), images=images)))
    made = rig({**SOFT_HOOKS, **views(replace(view, divide_by=divide_by), supervised_weight=0.6)}, "train.batch=3")
    batch = raw_batch(images=images)
    order = {"next": [1, 2, 0], "reverse": [2, 1, 0], "stream": [0, 1, 2]}[partner]

    def told(network, unlabelled):
        with torch.no_grad():
            probs = softmax_by_hand(network.eval()(floats(unlabelled.image)).logits)
        network.train()
        target = (probs + probs[:, [4, 0, 1, 2, 3]]) / 2
        return target, (probs[:, 0] - probs[:, 1]).clamp(min=0), unlabelled.valid

    def hand(network):
        here = told(network, batch.unlabelled)
        there = told(network, batch.partner) if partner == "stream" else here
        strong = a_bit_brighter(floats(batch.unlabelled.image))
        other = a_bit_brighter(floats(batch.partner.image)) if partner == "stream" else strong
        shown = paste_by_hand(strong, other[order], view.cutmix.boxes)
        target, weight, valid = (
            paste_by_hand(a, b[order], view.cutmix.boxes) for a, b in zip(here, there, strict=True)
        )
        assert 0 < (weight[valid] > 0).sum() < valid.sum() < valid.numel()  # the four divisors differ
        labelled = network(floats(batch.labelled.image)).logits
        loss = hand_consistency(network(shown).logits, target, weight, valid, CLASSES, divide_by)
        return {"supervised": 0.6 * hand_supervised(labelled, batch.labelled.mask), "consistency": 0.7 * loss}

    assert check_step(made, batch, hand)["consistency"] > 0


def test_class_weights_per_class_multiply_the_target_itself(rig):
    made = rig({**SOFT_HOOKS, **views(View("look"))}, "loss.class_weight=per_class")
    batch = raw_batch()

    def hand(network):
        with torch.no_grad():
            probs = softmax_by_hand(network.eval()(floats(batch.unlabelled.image)).logits)
        network.train()
        target, weight = (probs + probs[:, [4, 0, 1, 2, 3]]) / 2, (probs[:, 0] - probs[:, 1]).clamp(min=0)
        labelled = network(floats(batch.labelled.image)).logits
        output = network(a_bit_brighter(floats(batch.unlabelled.image))).logits
        loss = hand_consistency(output, target, weight, batch.unlabelled.valid, CLASSES, per_class=True)
        return {"supervised": hand_supervised(labelled, batch.labelled.mask), "consistency": loss}

    check_step(made, batch, hand)


def test_a_pixel_at_the_threshold_counts_and_one_below_does_not(rig):
    made, batch = rig(None, "method=fixmatch", "options.fixmatch.partner=next"), raw_batch()
    peek = copy.deepcopy(made.student)
    weak = peek(torch.cat([floats(batch.labelled.image), floats(batch.unlabelled.image)])).logits[2:].detach()
    confidence = weak.float().softmax(dim=1).max(dim=1).values
    threshold = confidence.flatten().sort().values[60].item()  # the confidence of one pixel, exactly
    made.methods["fixmatch"].threshold = threshold
    seen = []
    made.engine.on_pseudo_label = lambda label, weight, hidden: seen.append((label, weight))
    made.engine.losses(made.engine.receive(batch), START)
    label, weight = seen[0]
    assert torch.equal(label.confidence, confidence)
    expected = [[[float(c >= threshold) for c in row] for row in image] for image in confidence.tolist()]
    assert weight.tolist() == expected
    assert weight[confidence == threshold].min() == 1
    assert 0 < weight.sum() < weight.numel()


def test_padding_never_counts_and_a_batch_of_padding_alone_gives_zero(rig):
    made, batch = rig(views(View("look"))), raw_batch()
    nothing = torch.zeros_like(batch.unlabelled.valid)
    padded = replace(batch, unlabelled=Unlabelled(batch.unlabelled.image, nothing))
    losses = made.engine.losses(made.engine.receive(padded), START)
    losses["consistency"].backward()
    assert losses["consistency"].item() == 0
    assert not made.student.classifier.weight.grad.any()


def test_hard_labels_by_hand_where_no_hook_speaks(rig):
    made, batch = rig(views(View("look", strength="weak"))), raw_batch()

    def hand(network):
        with torch.no_grad():
            ids = network.eval()(floats(batch.unlabelled.image)).logits.argmax(dim=1)
        network.train()
        hard = torch.stack([(ids == c).double() for c in range(5)], dim=1)
        labelled = network(floats(batch.labelled.image)).logits
        output = network(floats(batch.unlabelled.image)).logits
        loss = hand_consistency(output, hard, torch.ones(ids.shape), batch.unlabelled.valid, torch.ones(5))
        return {"supervised": hand_supervised(labelled, batch.labelled.mask), "consistency": loss}

    check_step(made, batch, hand)


def test_ohem_keeps_the_hard_pixels_by_hand(rig):
    words = ("method=supervised", "loss.supervised=ohem", "loss.ohem_threshold=0.2", "loss.ohem_min_kept=40")
    made, batch = rig(None, *words), raw_batch()

    def hand(network):
        logits = network(floats(batch.labelled.image)).logits
        pixels = [(b, y, x) for b, y, x in positions(batch.labelled.mask) if batch.labelled.mask[b, y, x] != IGNORE]
        losses = [-log_softmax(logits[b, :, y, x])[int(batch.labelled.mask[b, y, x])] for b, y, x in pixels]
        true_class = [math.exp(-loss.item()) for loss in losses]
        limit = max(0.2, sorted(true_class)[39])
        kept = [loss for loss, q in zip(losses, true_class, strict=True) if q <= limit]
        assert 40 <= len(kept) < len(losses)
        return {"supervised": sum(kept) / len(kept)}

    check_step(made, batch, hand)


# --- who shares a pass ----------------------------------------------------------------------------------------------


def record(made: Rig) -> Rig:
    for student in made.engine.students:
        student.calls = []
    return made


STRONG = View("look")


def run_losses(made: Rig, batch: Batch | None = None) -> dict[str, Tensor]:
    return made.engine.losses(made.engine.receive(batch or token_batch()), START)


def test_the_self_teacher_labels_in_evaluation_mode_by_a_pass_of_its_own(rig):
    made = record(rig(views(STRONG)))
    run_losses(made)
    assert passes(made.student) == [
        ("eval", "still", "w0 w1"),
        ("train", "grad", "x0 x1"),
        ("train", "grad", "w0+ w1+"),
    ]


def test_a_joining_self_teacher_reads_its_labels_off_the_labelled_pass(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    made = record(rig({**hooks, **views(View("look", cutmix=CutMix("stream", box(0, 0, 4, 4))))}))
    run_losses(made)
    assert passes(made.student) == [
        ("eval", "still", "p0 p1"),
        ("train", "grad", "x0 x1 w0 w1"),
        ("train", "grad", "p0+ p1+"),  # the box covers the first pixel
    ]


def test_a_joining_teacher_without_views_adds_nothing_to_the_labelled_pass(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    made = record(rig({**hooks, **views()}))
    run_losses(made, replace(token_batch(), unlabelled=None, partner=None))
    assert passes(made.student) == [("train", "grad", "x0 x1")]


@pytest.mark.parametrize("train_mode", [False, True])
def test_the_averaged_teacher_labels_weak_views_and_partners_with_its_own_network(rig, train_mode):
    hooks = {"make_teacher": lambda self, students, index: EMATeacher(students[index], 0.9, train_mode=train_mode)}
    made = record(rig({**hooks, **views(View("look", cutmix=CutMix("stream", box(0, 0, 0, 0))))}))
    teacher = made.engine.teachers[0].network
    teacher.calls = []
    run_losses(made)
    mode = "train" if train_mode else "eval"
    assert passes(teacher) == [(mode, "still", "w0 w1"), (mode, "still", "p0 p1")]
    assert passes(made.student) == [("train", "grad", "x0 x1"), ("train", "grad", "w0+ w1+")]
    assert not teacher.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_peers_label_for_each_other_in_train_mode(rig):
    hooks = {
        "make_students": lambda self, make_network: [make_network(), make_network()],
        "make_teacher": lambda self, students, index: PeerTeacher(students[1 - index]),
    }
    made = record(rig({**hooks, **views(STRONG)}))
    losses = run_losses(made)
    torch.stack(list(losses.values())).sum().backward()
    first, second = made.engine.students
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    labels, learns = ("train", "still", "w0 w1"), [("train", "grad", "x0 x1"), ("train", "grad", "w0+ w1+")]
    assert passes(first) == [labels, *learns]  # teachers speak before anybody learns
    assert passes(second) == [labels, *learns]
    assert all(parameter.grad is not None for network in (first, second) for parameter in network.parameters())


def test_two_students_losses_are_the_sum_of_each_ones(rig):
    hooks = {
        "make_students": lambda self, make_network: [make_network(), make_network()],
        "make_teacher": lambda self, students, index: PeerTeacher(students[1 - index]),
    }
    made, batch = rig({**hooks, **views(STRONG)}), raw_batch()
    networks = copy.deepcopy(made.engine.students)
    expected = {"supervised": 0.0, "consistency": 0.0}
    for index in (0, 1):
        student, peer = networks[index], networks[1 - index]
        ids = peer(floats(batch.unlabelled.image)).logits.argmax(dim=1)
        hard = torch.stack([(ids == c).double() for c in range(5)], dim=1)
        labelled = student(floats(batch.labelled.image)).logits
        output = student(a_bit_brighter(floats(batch.unlabelled.image))).logits
        ones = torch.ones(ids.shape)
        expected["supervised"] += hand_supervised(labelled, batch.labelled.mask).item()
        expected["consistency"] += hand_consistency(output, hard, ones, batch.unlabelled.valid, torch.ones(5)).item()
    losses = run_losses(made, batch)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_views_of_a_group_share_a_pass_and_its_batch_statistics(rig):
    planned = views(
        View("a", forward_group="one"), View("b", "weak", forward_group="two"), View("c", "weak", forward_group="one")
    )
    made = record(rig(planned))
    before = copy.deepcopy(made.student)
    run_losses(made)
    assert passes(made.student)[1:] == [
        ("train", "grad", "x0 x1"),
        ("train", "grad", "w0+ w1+ w0 w1"),
        ("train", "grad", "w0 w1"),
    ]
    raw = token_batch()
    weak = floats(raw.unlabelled.image)
    for image in (floats(raw.labelled.image), torch.cat([a_bit_brighter(weak), weak]), weak):
        before(image)
    for name, value in before.named_buffers():
        assert_close(made.student.get_buffer(name), value, atol=1e-9, rtol=0)


def test_a_view_of_the_group_labelled_goes_through_the_labelled_pass(rig):
    made = record(rig(views(View("look", forward_group="labelled"))))
    run_losses(made)
    assert passes(made.student)[1:] == [("train", "grad", "x0 x1 w0+ w1+")]


def test_fuse_puts_all_views_into_the_labelled_pass(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    made = record(rig({**hooks, **views(View("a"), View("b", forward_group="else"))}, "train.fuse=true"))
    run_losses(made)
    assert passes(made.student) == [("train", "grad", "x0 x1 w0 w1 w0+ w1+ w0+ w1+")]


def test_a_perturbed_view_reuses_encoded_features_and_is_decoded_with_the_rest(rig):
    given = []

    def perturb(maps):
        given.append([tuple(level.shape) for level in maps])
        return [level * 0 + 7 for level in maps]

    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    view = View("shaken", "weak", forward_group="labelled", perturb=perturb, perturb_labelled=True)
    made = record(rig({**hooks, **views(view)}))
    run_losses(made)
    assert passes(made.student) == [("train", "grad", "x0 x1 w0 w1")]  # encoded once
    (decoded,) = [call.value for call in made.student.calls if call.half == "decode"]
    assert [bool((row == 7).all()) for row in decoded] == [False] * 4 + [True] * 4
    assert given == [[(2, 6, 4, 4), (2, 8, 2, 2)]] * 2  # the weak and the labelled images, both levels


def test_without_perturb_labelled_only_the_view_is_perturbed(rig):
    hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
    view = View("shaken", "weak", forward_group="labelled", perturb=lambda maps: [level * 0 + 7 for level in maps])
    made = record(rig({**hooks, **views(view)}))
    run_losses(made)
    assert passes(made.student, "decode") == [("train", "grad", "6")]


def test_gradient_reaches_the_encoder_through_a_perturbed_view(rig):
    view = View("shaken", "weak", perturb=lambda maps: [level * 2 for level in maps])
    made = rig(views(view, supervised_weight=0.0))
    losses = run_losses(made, raw_batch())
    losses["consistency"].backward()
    assert made.student.encoder.low[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["weak", "labelled", "look labelled"])
def test_a_views_name_changes_no_number_or_is_refused(rig, name):
    """`weak` and `labelled` are also what the engine calls its own outputs."""

    def planned(name):
        twin = View("look", "weak", loss_weight=0.0, perturb=lambda maps: maps, perturb_labelled=True)
        hooks = {"make_teacher": lambda self, students, index: SelfTeacher(students[index], shares_pass=True)}
        return {**hooks, **views(View(name, perturb=lambda maps: [level * 0 for level in maps]), twin)}

    plain = run_losses(rig(planned("another")), raw_batch())
    try:
        renamed = run_losses(rig(planned(name), "seed=0"), raw_batch())
    except UserError as error:
        assert name in str(error)  # noqa: PT017 - refusing is the other way to be right
        return
    assert {k: v.item() for k, v in renamed.items()} == {k: v.item() for k, v in plain.items()}


# --- the optimiser --------------------------------------------------------------------------------------------------


def gradients_at_step(made: Rig, batches: list[Batch], progress: Progress = START) -> tuple[dict, dict]:
    kept: dict[str, Tensor] = {}

    def keep(optimizer, *_):
        kept.update({name: p.grad.clone() for name, p in made.student.named_parameters() if p.grad is not None})

    made.engine.optimizer.register_step_pre_hook(keep)
    return made.engine.step(iter(batches), progress), kept


def test_accumulation_is_the_mean_of_its_batches(rig):
    batches = [raw_batch(1), raw_batch(2)]
    made = rig(None, "method=supervised", "train.accumulate=2")
    single = copy.deepcopy(made.student)
    losses, kept = gradients_at_step(made, batches)
    parts = [hand_supervised(single(floats(b.labelled.image)).logits, b.labelled.mask) for b in batches]
    mean = sum(parts) / 2
    mean.backward()
    assert losses["supervised"].item() == pytest.approx(mean.item(), rel=1e-6)
    assert losses["total"].item() == pytest.approx(mean.item(), rel=1e-6)
    for name, parameter in single.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-6, rtol=0)


def test_total_is_the_sum_of_the_parts(rig):
    hooks = {"regularize": lambda self, labelled_output: {"extra": labelled_output.logits.pow(2).mean()}}
    losses, _ = gradients_at_step(rig({**hooks, **views(STRONG)}), [raw_batch()])
    parts = [value.item() for name, value in losses.items() if name != "total"]
    assert set(losses) == {"supervised", "consistency", "extra", "total"}
    assert losses["total"].item() == pytest.approx(sum(parts), rel=1e-6)


def test_the_rate_falls_as_a_polynomial_before_each_step(rig):
    made = rig(None, "method=supervised", "optim.lr=0.005", "optim.head_multiplier=10", double=False)
    rates = []
    for step in (0, 1, 2, 120, 239):
        made.engine.step(iter([raw_batch()]), Progress(step, 240, 1))
        rates.append([group["lr"] for group in made.engine.optimizer.param_groups])
    for step, (encoder, head) in zip((0, 1, 2, 120, 239), rates, strict=True):
        assert encoder == pytest.approx(0.005 * (1 - step / 240) ** 0.9)
        assert head == pytest.approx(10 * encoder)
    assert [f"{encoder:.5f}" for encoder, _ in rates[:3]] == ["0.00500", "0.00498", "0.00496"]


def test_a_step_of_plain_sgd_moves_by_rate_times_gradient(rig):
    words = ("optim.momentum=0", "optim.weight_decay=0.01", "optim.lr=0.1", "optim.head_multiplier=3")
    made = rig(None, "method=supervised", *words)
    before = {name: p.detach().clone() for name, p in made.student.named_parameters()}
    _, kept = gradients_at_step(made, [raw_batch()], Progress(5, 10, 5))
    for name, parameter in made.student.named_parameters():
        rate = 0.1 * 0.5**0.9 * (1 if name.startswith("encoder") else 3)
        assert_close(parameter.detach(), before[name] - rate * (kept[name] + 0.01 * before[name]), atol=1e-9, rtol=0)


def test_without_decay_all_biases_and_norms_are_not_decayed(rig):
    words = (
        "optim.momentum=0",
        "optim.weight_decay=0.01",
        "optim.lr=0.1",
        "optim.head_multiplier=3",
        "optim.decay_all=false",
    )
    made = rig(None, "method=supervised", *words)
    before = {name: p.detach().clone() for name, p in made.student.named_parameters()}
    _, kept = gradients_at_step(made, [raw_batch()], Progress(5, 10, 5))
    flat = 0
    for name, parameter in made.student.named_parameters():
        rate = 0.1 * 0.5**0.9 * (1 if name.startswith("encoder") else 3)
        decay, flat = (0.01, flat) if parameter.dim() > 1 else (0, flat + 1)
        assert_close(parameter.detach(), before[name] - rate * (kept[name] + decay * before[name]), atol=1e-9, rtol=0)
    assert flat > 0


def test_two_groups_hold_every_trained_parameter_once(rig):
    frozen = nn.Linear(4, 4).requires_grad_(False)
    own, hooks = nn.Linear(8, 3), {"setup": lambda self: {"own": own, "frozen": frozen}}
    made = rig({**hooks, **views()}, double=False)
    encoder, head = (group["params"] for group in made.engine.optimizer.param_groups)
    assert {id(p) for p in encoder} == {id(p) for p in made.student.encoder.parameters()}
    others = [p for name, p in made.student.named_parameters() if not name.startswith("encoder.")]
    assert {id(p) for p in head} == {id(p) for p in [*others, *own.parameters()]}
    assert len(encoder) + len(head) == len({id(p) for p in [*encoder, *head]})


def test_the_averaged_teacher_follows_after_the_optimiser_step(rig):
    hooks = {"make_teacher": lambda self, students, index: EMATeacher(students[index], lambda progress: 0.75)}
    made = rig({**hooks, **views(STRONG)})
    teacher = made.engine.teachers[0].network
    old = {name: value.clone() for name, value in teacher.state_dict().items()}
    made.engine.step(iter([raw_batch()]), START)
    for name, value in made.student.state_dict().items():
        expected = 0.75 * old[name] + 0.25 * value if value.is_floating_point() else value
        assert_close(teacher.state_dict()[name], expected, atol=1e-9, rtol=0)


def test_after_step_comes_last_and_once_and_carries_no_gradient(rig):
    told = []

    def after_step(self, students, teachers, progress):
        told.append((students, teachers, progress.step, torch.is_grad_enabled()))

    made = rig({"after_step": after_step, **views()})
    made.engine.step(iter([raw_batch()]), Progress(3, 10, 5))
    assert told == [(made.engine.students, made.engine.teachers, 3, False)]


def test_every_draw_of_a_step_is_a_function_of_seed_and_step(tiny_run):
    made = tiny_run("method=unimatch", "seed=5")
    state = copy.deepcopy(made.student.state_dict())
    kept = copy.deepcopy(made.engine.optimizer.state_dict())
    first = made.engine.step(made.feed, START)
    made.student.load_state_dict(state)
    made.engine.optimizer.load_state_dict(kept)
    torch.rand(100)  # whatever ran in between
    again = made.engine.step(made.feed, START)
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in again.items()}


# --- hooks: wrong answers -------------------------------------------------------------------------------------------


def label_with(**parts):
    def answer(self, probs, valid):
        confidence, ids = probs.max(dim=1)
        return replace(PseudoLabel(ids, confidence, valid), **{name: make(probs) for name, make in parts.items()})

    return answer


BAD = [
    ("pixel_weight", lambda self, probs: probs[:, :1], "(2, 1, 8, 8)"),
    ("pixel_weight", lambda self, probs: 1.0, "float"),
    ("pixel_weight", lambda self, probs: probs[:, 0] * math.nan, "finite"),
    ("pixel_weight", lambda self, probs: probs[:, 0] - 2, ">= 0"),
    ("pixel_weight", lambda self, probs: probs[:, 0] > 0, "bool"),
    ("class_weight", lambda self, num_classes: torch.ones(num_classes + 1), "(6,)"),
    ("class_weight", lambda self, num_classes: torch.full((num_classes,), math.inf), "finite"),
    ("class_weight", lambda self, num_classes: [1.0] * num_classes, "list"),
    ("class_weight", lambda self, num_classes: -torch.ones(num_classes), ">= 0"),
    ("pseudo_label", lambda self, probs: probs, "PseudoLabel"),
    ("pseudo_label", label_with(target=lambda probs: probs * 2), "sum to 1"),
    ("pseudo_label", label_with(target=lambda probs: probs[:, :4]), "(2, 4, 8, 8)"),
    ("pseudo_label", label_with(target=lambda probs: torch.full((2, 8, 8), IGNORE)), "255"),
    ("pseudo_label", label_with(target=lambda probs: torch.full((2, 8, 8), -1)), ">= 0"),
    ("pseudo_label", label_with(valid=lambda probs: probs[:, 0]), "bool"),
    ("pseudo_label", label_with(confidence=lambda probs: probs), "confidence"),
    ("pseudo_label", label_with(confidence=lambda probs: probs[:, 0] * math.nan), "finite"),
    ("make_views", lambda self: [View("look")], "list"),
    ("make_views", lambda self: Views((View("a"), View("a"))), "different names"),
    ("make_views", lambda self: Views((View("a", strength="hard"),)), "hard"),
    ("make_views", lambda self: Views((View("a", divide_by="sum"),)), "sum"),
    ("make_views", lambda self: Views((View("a", cutmix=CutMix("other", box(0, 0, 1, 1))),)), "other"),
    ("make_views", lambda self: Views((View("a", cutmix=CutMix("next", box(0, 0, 1, 1, images=3))),)), "boxes"),
    ("make_views", lambda self: Views((View("a", loss_weight=math.nan),)), "share"),
    ("make_views", lambda self: Views((View("a", loss_weight=-1.0),)), "share"),
    ("make_views", lambda self: Views((), supervised_weight=math.nan), "supervised_weight"),
    ("regularize", lambda self, label: torch.zeros(()), "dict"),
    ("regularize", lambda self, label: {"extra": torch.zeros(2)}, "'extra'"),
    ("regularize", lambda self, label: {"extra": 1.0}, "'extra'"),
    ("regularize", lambda self, label: {"extra": torch.tensor(math.nan)}, "finite"),
    ("make_teacher", lambda self, index: nn.Linear(2, 2), "Teacher"),
    ("make_students", lambda self, make_network: make_network(), "list"),
    ("make_students", lambda self, make_network: [], "list"),
    ("setup", lambda self: {"memory": torch.zeros(3)}, "modules"),
    ("setup", lambda self: nn.Linear(2, 2), "modules"),
]


@pytest.mark.parametrize(("hook", "answer", "word"), BAD, ids=[f"{hook}-{word}" for hook, _, word in BAD])
def test_a_wrong_answer_stops_the_first_step_naming_plugin_and_hook(rig, hook, answer, word):
    def start():
        rig({**views(STRONG), hook: answer}).engine.step(iter([raw_batch()]), START)

    with pytest.raises(UserError) as caught:
        start()
    message = str(caught.value)
    assert "'own'" in message
    assert hook in message
    assert word in message
    assert "\n" not in message


def test_a_wrapper_that_spoils_an_answer_is_refused_too(rig):
    @hookimpl(wrapper=True)
    def pixel_weight(self):
        answers = yield
        return [answer[:, None] for answer in answers] or [torch.ones(2, 1, SIDE, SIDE)]

    with pytest.raises(UserError, match="pixel_weight"):
        rig({"pixel_weight": pixel_weight, **views(STRONG)}).engine.step(iter([raw_batch()]), START)


@pytest.mark.parametrize("name", ["supervised", "consistency", "total"])
def test_a_regularizer_cannot_replace_a_loss_of_the_engine(rig, name):
    """Refused, or added: the engine's own term must not vanish."""
    plain, _ = gradients_at_step(rig(views(STRONG)), [raw_batch()])
    hooks = {"regularize": lambda self, labelled_output: {name: labelled_output.logits.mean() * 0 + 1.0}}
    try:
        losses, _ = gradients_at_step(rig({**hooks, **views(STRONG)}), [raw_batch()])
    except UserError as error:
        assert name in str(error)  # noqa: PT017 - refusing is the other way to be right
        return
    assert losses["total"].item() == pytest.approx(plain["total"].item() + 1, rel=1e-6)


# --- hooks: order and combination -----------------------------------------------------------------------------------


@pytest.fixture
def two(tiny_shelf, rig):
    """(hooks of `left`, hooks of `right`) -> a `Rig` of method=left+right."""

    def make(left: dict, right: dict, *words: str) -> Rig:
        tiny_shelf.offer("methods", "left", make_method("Left", **left))
        tiny_shelf.offer("methods", "right", make_method("Right", **right))
        return rig(None, "method=left+right", *words)

    return make


def look(made: Rig, batch: Batch | None = None) -> list[tuple[PseudoLabel, Tensor]]:
    seen: list[tuple[PseudoLabel, Tensor]] = []
    made.engine.on_pseudo_label = lambda label, weight, hidden: seen.append((label, weight))
    made.engine.losses(made.engine.receive(batch or raw_batch()), START)
    return seen


def test_weights_of_two_methods_are_multiplied(two):
    made = two({"pixel_weight": lambda self, probs: probs[:, 0]}, {"pixel_weight": lambda self, probs: probs[:, 1] * 3})
    peek = copy.deepcopy(made.student).eval()
    probs = peek(floats(raw_batch().unlabelled.image)).logits.float().softmax(dim=1)
    assert_close(look(made)[0][1], probs[:, 0] * probs[:, 1] * 3, atol=1e-6, rtol=0)


def test_class_weights_of_two_methods_are_multiplied(two, rig):
    def answer(*factors):
        return {"class_weight": lambda self, num_classes: torch.tensor(factors), **views(STRONG)}

    both = run_losses(two(answer(1.0, 2.0, 3.0, 1.0, 0.0), answer(2.0, 1.0, 0.5, 1.0, 1.0)), raw_batch())
    one = run_losses(rig(answer(2.0, 2.0, 1.5, 1.0, 0.0)), raw_batch())
    assert both["consistency"].item() == pytest.approx(one["consistency"].item(), rel=1e-6)


def test_terms_of_two_methods_are_summed_also_under_one_name(two):
    def term(value):
        return torch.tensor(value, requires_grad=True)

    left = {"regularize": lambda self, label: {"shared": term(1.0), "left": term(2.0)}}
    right = {"regularize": lambda self, label: {"shared": term(10.0)}}
    losses = run_losses(two(left, right), raw_batch())
    assert {name: losses[name].item() for name in ("shared", "left")} == {"shared": 11.0, "left": 2.0}


def test_the_leftmost_answer_counts_and_none_declines(two):
    def always(number):
        def answer(self, probs, valid):
            return PseudoLabel(torch.full(valid.shape, number), probs.max(dim=1).values, valid)

        return {"pseudo_label": answer}

    assert look(two(always(2), always(3)))[0][0].target.unique().tolist() == [2]
    assert look(two({"pseudo_label": lambda self: None}, always(3)))[0][0].target.unique().tolist() == [3]


def test_the_leftmost_method_is_asked_first_at_every_hook(two):
    asked: list[str] = []

    def hooks(side):
        def say(answer=None):
            def hook(self):
                asked.append(side)
                return answer

            return hook

        return {name: say() for name in ("pixel_weight", "class_weight", "regularize", "pseudo_label", "after_step")}

    made = two(hooks("left"), hooks("right"))
    made.engine.step(iter([raw_batch()]), START)
    assert asked == ["left", "right"] * 5


def test_hooks_are_asked_in_the_order_that_the_spec_promises(rig):
    asked: list[str] = []

    def say(name):
        def hook(self):
            asked.append(name)

        return hook

    order = ["make_views", "pseudo_label", "pixel_weight", "class_weight", "regularize", "after_step"]
    made = rig({name: say(name) for name in order})
    asked.clear()  # the run asked for views before
    made.engine.step(iter([raw_batch()]), START)
    assert asked == order


def test_a_wrapper_refines_what_another_method_answers(two):
    @hookimpl(wrapper=True)
    def pseudo_label(self, probs):
        label = yield
        return replace(label, target=(label.target + 1) % probs.shape[1])

    @hookimpl(wrapper=True)
    def pixel_weight(self):
        answers = yield
        return [answer * 4 for answer in answers]

    made = two(
        {"pseudo_label": pseudo_label, "pixel_weight": pixel_weight},
        {"pixel_weight": lambda self, probs: torch.full_like(probs[:, 0], 0.5)},
    )
    peek = copy.deepcopy(made.student).eval()
    ids = peek(floats(raw_batch().unlabelled.image)).logits.argmax(dim=1)
    label, weight = look(made)[0]
    assert torch.equal(label.target, (ids + 1) % 5)
    assert weight.unique().tolist() == [2.0]


def test_the_hook_named_for_one_method_alone_is_answered_by_it_alone(two):
    made = two(
        {"pixel_weight": lambda self, probs: torch.full_like(probs[:, 0], 0.25)},
        {"pixel_weight": lambda self, probs: torch.full_like(probs[:, 0], 0.5)},
        "hooks.pixel_weight=right",
    )
    assert look(made)[0][1].unique().tolist() == [0.5]


def test_partners_of_a_second_batch_are_labelled_by_the_same_hooks(rig):
    asked = []

    def pseudo_label(self, probs, valid):
        asked.append(valid)
        return PseudoLabel(probs.argmax(dim=1), probs.max(dim=1).values, valid)

    batch = raw_batch()
    made = rig({"pseudo_label": pseudo_label, **views(View("look", cutmix=CutMix("stream", box(0, 0, 4, 4))))})
    run_losses(made, batch)
    assert len(asked) == 2
    assert torch.equal(asked[0], batch.unlabelled.valid)
    assert torch.equal(asked[1], batch.partner.valid)


def test_a_method_may_begin_with_labels_alone(tiny_shelf, tiny_config):
    """Views from the third pass over the images on: the streams must be open by then."""

    def make_views(self, progress):
        return Views((View("look", cutmix=CutMix("stream", box(0, 0, 4, 4))),) if progress.epoch >= 2 else ())

    tiny_shelf.offer("methods", "later", make_method(make_views=make_views))
    result = run(tiny_config("method=later", "train.steps=9"))
    lines = [json.loads(line) for line in (result.folder / "history.jsonl").read_text().splitlines()]
    assert ["consistency" in line["losses"] for line in lines if "losses" in line] == [False] * 6 + [True] * 3


# --- what no hook may see -------------------------------------------------------------------------------------------


def tensors_in(value) -> list[Tensor]:
    """Every tensor within records, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return tensors_in(list(value.values()))
    if isinstance(value, (Labelled, Unlabelled, Batch, Output, PseudoLabel)) or hasattr(value, "view"):
        return tensors_in(list(vars(value).values()))
    return []


def test_hidden_labels_reach_no_hook(rig):
    given: list[Tensor] = []

    def probs_hook(self, probs, logits, output, valid, stream, progress):
        given.extend(tensors_in([probs, logits, output, valid]))

    def weight_hook(self, probs, label, progress):
        given.extend(tensors_in([probs, label]))

    def class_hook(self, label, weight, num_classes, progress):
        given.extend(tensors_in([label, weight]))

    def refine_hook(self, view_output, labelled, teacher_output, teacher, progress):
        given.extend(tensors_in([view_output.image, view_output.label, view_output.weight, labelled, teacher_output]))

    def term_hook(
        self,
        labelled,
        labelled_output,
        unlabelled,
        partner,
        teacher,
        teacher_output,
        partner_output,
        label,
        weight,
        views,
        progress,
    ):
        assert not isinstance(labelled, Batch)
        given.extend(
            tensors_in(
                [
                    labelled,
                    labelled_output,
                    unlabelled,
                    partner,
                    teacher_output,
                    partner_output,
                    label,
                    weight,
                    list(views),
                ]
            )
        )

    hooks = {"pseudo_label": probs_hook, "pixel_weight": weight_hook, "class_weight": class_hook, "refine": refine_hook}
    made = rig({**hooks, "regularize": term_hook, **views(View("look", cutmix=CutMix("stream", box(0, 0, 3, 3))))})
    told = []
    made.engine.on_pseudo_label = lambda label, weight, hidden: told.append(hidden)
    made.engine.losses(made.engine.receive(raw_batch()), START)
    assert len(given) > 20
    assert not any((tensor == 77).all() for tensor in given if tensor.numel())
    assert told[0].unique().tolist() == [77]  # the report, and it alone, has them


def test_hidden_labels_change_no_number(tiny_run):
    found = [tiny_run("method=unimatch", f"diagnose={word}").steps(2) for word in ("false", "true")]
    assert found[0] == found[1]


def test_flips_move_image_mask_validity_and_hidden_labels_together(rig):
    made = rig(None, "method=fixmatch", "augment.flip=0.5", "train.batch=8")
    columns = torch.arange(SIDE, dtype=torch.uint8).expand(8, SIDE, SIDE)
    image = columns[:, None].expand(-1, 3, -1, -1).contiguous()
    raw = Batch(Labelled(image, columns), Unlabelled(image, columns < 6), Unlabelled(image, columns < 6), columns)
    torch.manual_seed(0)
    batch = made.engine.receive(raw)
    turned = set()
    for part, others in (
        (batch.labelled.image, [batch.labelled.mask]),
        (batch.unlabelled.image, [batch.hidden]),
        (batch.partner.image, []),
    ):
        seen = (part[:, 0] * 255).round().long()
        turned |= set((seen[:, 0, 0] == 7).tolist())
        for other in others:
            assert torch.equal(other, seen)
    assert torch.equal(batch.unlabelled.valid, (batch.unlabelled.image[:, 0] * 255).round() < 6)
    assert torch.equal(batch.partner.valid, (batch.partner.image[:, 0] * 255).round() < 6)
    assert turned == {True, False}
