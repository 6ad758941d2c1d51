"""FARCLUSS's contrast with prototypes against plain float64 loops (property 13)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch import nn
from torch.testing import assert_close

from helpers.farcluss import AFTER_RAMP, RAMP_START, FixedTeacher, info, ready, scene
from ssss_zoo.toolkit import contrast
from ssss_zoo.toolkit.types import Labelled, Output, Progress, View


def rows(features):
    return contrast.l2_normalize(features.detach()).double().movedim(1, -1).flatten(0, 2).tolist()


def middle(pixels):
    """Every second pixel of an 8 x 8 map from the second on: what lies under the centres of a 4 x 4 grid."""
    return pixels[..., 1::2, 1::2]


def plain_members(label, weight, floor, classes, argmax=False):
    counted = middle(label.valid & (label.confidence >= floor)) * middle(weight).double()
    target = middle(label.target).double().movedim(1, -1)
    if argmax:
        target = F.one_hot(target.max(dim=-1).indices, classes).double()
    return (target * counted.unsqueeze(-1)).flatten(0, 2).tolist()


def plain_centroids(cells, members, classes):
    """The weighted mean direction of each class, or None."""
    answer = []
    for c in range(classes):
        mass = sum(member[c] for member in members)
        mean = [sum(m[c] * cell[d] for m, cell in zip(members, cells, strict=True)) for d in range(len(cells[0]))]
        length = math.sqrt(sum(v * v for v in mean))
        answer.append([v / length for v in mean] if mass > 0 else None)
    return answer


def mask_members(mask, classes):
    return [[float(c == i) for c in range(classes)] for i in middle(mask).flatten().tolist()]


def plain_info_nce(cells, ids, prototypes, temperature):
    losses: dict[int, list[float]] = {}
    for cell, own in zip(cells, ids, strict=True):
        if own < len(prototypes) and prototypes[own]:
            score = [
                sum(a * b for a, b in zip(cell, mu, strict=True)) / temperature if mu else None for mu in prototypes
            ]
            total = math.log(sum(math.exp(s) for s in score if s is not None))
            losses.setdefault(own, []).append(total - score[own])
    return sum(sum(v) / len(v) for v in losses.values()) / len(losses)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("source", ["teacher", "student"])
@pytest.mark.parametrize("joined", ["soft", "argmax"])
def test_13_contrastive_term_equals_plain_loops(seed, source, joined):
    given_, classes = scene(seed), 3
    options = {"contrast_confidence": 0.6, "contrast_centroids": source, "contrast_members": joined}
    method = ready(classes, **options)
    loss = method.regularize(**given_)["farcluss_contrast"]
    seen, student = given_["views"][0], given_["labelled_output"]
    if source == "teacher":
        cells = rows(given_["teacher"].output.features) + rows(given_["teacher_output"].features)
        unlabelled = plain_members(given_["label"], given_["weight"], 0.6, classes, joined == "argmax")
    else:
        cells = rows(student.features) + rows(seen.output.features)
        unlabelled = plain_members(seen.label, seen.weight, 0.6, classes, joined == "argmax")
    prototypes = plain_centroids(cells, mask_members(given_["labelled"].mask, classes) + unlabelled, classes)
    assert_close(method.prototype_contrast.prototypes.vectors.tolist(), prototypes, rtol=1e-4, atol=1e-5)
    sure = middle(seen.label.valid & (seen.label.confidence >= 0.6))
    ids = middle(given_["labelled"].mask).flatten().tolist()
    ids += torch.where(sure, middle(seen.label.ids), 255).flatten().tolist()
    expected = plain_info_nce(rows(student.features) + rows(seen.output.features), ids, prototypes, 0.1)
    assert_close(loss.item(), 0.1 * expected, rtol=1e-4, atol=1e-5)
    assert given_["teacher"].calls == (source == "teacher")


def test_13_prototypes_move_by_momentum_over_steps():
    method, first, second = ready(contrast_momentum=0.9), scene(1), scene(2)
    method.regularize(**first)
    before = method.prototype_contrast.prototypes.vectors.clone()
    method.regularize(**second)
    fresh = ready()
    fresh.regularize(**second)
    cells = torch.cat([second["teacher"].output.features, second["teacher_output"].features])
    members = mask_members(second["labelled"].mask, 3) + plain_members(second["label"], second["weight"], 0.7, 3)
    member = torch.tensor(members).double()
    mean = (member.T @ torch.tensor(rows(cells)).double()) / member.sum(dim=0).unsqueeze(1)
    assert_close(fresh.prototype_contrast.prototypes.vectors.double(), F.normalize(mean, dim=1), rtol=1e-4, atol=1e-5)
    assert_close(
        method.prototype_contrast.prototypes.vectors.double(),
        F.normalize(0.9 * before + 0.1 * mean, dim=1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_13_an_absent_class_keeps_its_prototype_to_the_bit():
    method = ready()
    method.regularize(**scene(1))
    before = method.prototype_contrast.prototypes.vectors.clone()
    later = scene(2)
    later["labelled"].mask[later["labelled"].mask == 2] = 255
    target = later["label"].target.clone()
    target[:, 2] = 0
    later["label"] = replace(later["label"], target=target)
    method.regularize(**later)
    assert torch.equal(method.prototype_contrast.prototypes.vectors[2], before[2])
    assert not torch.equal(method.prototype_contrast.prototypes.vectors[:2], before[:2])


@pytest.mark.parametrize("form", ["proto_infonce", "center_margin"])
def test_11_and_13_nothing_to_contrast_is_a_zero_with_a_graph(form):
    method, given_ = ready(contrast=form), scene(1)
    given_["labelled"].mask.fill_(255)
    given_["label"].valid.fill_(False)
    given_["views"][0].label.valid.fill_(False)
    loss = method.regularize(**given_)["farcluss_contrast"]
    loss.backward()
    assert loss.item() == 0
    assert not given_["views"][0].output.features.grad.any()
    assert not method.prototype_contrast.prototypes.initialized.any()


def test_13_values_of_ignored_pixels_reach_neither_loss_nor_prototypes():
    plain, noisy = ready(), ready()
    given_, other = scene(4), scene(4)
    for part in (other["label"], other["views"][0].label):
        part.target[~part.valid.unsqueeze(1).expand_as(part.target)] = 0.9
        part.confidence[~part.valid] = 1.0
    other["weight"][~other["label"].valid] = 77.0
    assert_close(plain.regularize(**given_), noisy.regularize(**other))
    assert torch.equal(plain.prototype_contrast.prototypes.vectors, noisy.prototype_contrast.prototypes.vectors)


def test_13_one_class_alone_gives_zero_and_scaling_features_changes_nothing():
    method, given_ = ready(), scene(5)
    given_["labelled"].mask.clamp_(max=0)
    given_ |= {"teacher_output": None, "label": None, "weight": None, "views": ()}
    assert method.regularize(**given_)["farcluss_contrast"].item() == 0
    assert method.prototype_contrast.prototypes.initialized.tolist() == [True, False, False]
    losses = []
    for factor in (1.0, 7.0):
        scaled = scene(6)
        scaled["labelled_output"] = Output(torch.zeros(0), factor * scaled["labelled_output"].features)
        losses.append(ready().regularize(**scaled)["farcluss_contrast"])
    assert_close(*losses)


def test_13_center_margin_on_labelled_cells_by_hand():
    method = ready(classes=2, feature_dim=2, contrast="center_margin", contrast_weight=1.0, contrast_momentum=0.0)
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).T.view(1, 2, 1, 2).clone().requires_grad_()
    side = Output(torch.zeros(1, 2, 1, 2), features)
    image = torch.zeros(1, 3, 1, 2)
    labelled = Labelled(image, torch.tensor([[[0, 1]]]))
    given_ = {
        "labelled": labelled,
        "labelled_output": side,
        "teacher": FixedTeacher(side.detach()),
        "progress": AFTER_RAMP,
    }
    loss = method.regularize(**given_, teacher_output=None, label=None, weight=None, views=())["farcluss_contrast"]
    assert_close(loss.item(), 0.6)  # both anchors lie on their prototypes; the two centroids share 0.6


def test_13_centroids_pass_the_slow_head_and_anchors_the_trained_one():
    minus = nn.Conv2d(4, 4, 1, bias=False)
    minus.weight.data = -torch.eye(4).view(4, 4, 1, 1)
    plain, slow, both = ready(), ready(), ready()
    slow.prototype_contrast.slow_head = minus
    both.prototype_contrast.slow_head = minus
    both.prototype_contrast.head = minus
    losses = [each.regularize(**scene(1))["farcluss_contrast"] for each in (plain, slow, both)]
    assert_close(slow.prototype_contrast.prototypes.vectors, -plain.prototype_contrast.prototypes.vectors)
    assert_close(losses[2], losses[0])
    assert abs(losses[1] - losses[0]) > 0.01


def test_perturbed_views_give_no_anchors_and_hard_labels_work():
    given_, hard = scene(1), scene(1)
    seen = given_["views"][0]
    given_["views"] = (seen, replace(seen, view=View("perturbed", perturb=lambda maps: maps)))
    assert_close(ready().regularize(**given_), ready().regularize(**scene(1)))
    hard["label"] = replace(hard["label"], target=hard["label"].ids)
    assert_close(ready().regularize(**hard), ready(contrast_members="argmax").regularize(**scene(1)))


def test_contrast_waits_for_the_end_of_the_ramp_and_can_be_off():
    assert ready().regularize(**(scene(1) | {"progress": Progress(49, 1000, 10)})) is None
    assert ready().regularize(**(scene(1) | {"progress": Progress(50, 1000, 10)})) is not None
    assert ready(ramp_epochs=0.0).regularize(**(scene(1) | {"progress": RAMP_START})) is not None
    assert Farcluss(contrast="off").setup(info=info()) is None
    assert Farcluss(contrast="off").regularize(**scene(1)) is None


def test_10_contrast_is_linear_in_its_weight():
    losses = [ready(contrast_weight=w).regularize(**scene(1))["farcluss_contrast"] for w in (0.0, 0.1, 0.3)]
    assert_close(losses[2], 3 * losses[1])
    assert losses[0].item() == 0


def test_9_gradient_reaches_the_student_and_the_head_and_nothing_else():
    torch.manual_seed(0)
    method, given_ = Farcluss(contrast_dim=4), scene(1)
    modules = method.setup(info=info())
    given_["teacher_output"].features.requires_grad_()
    method.regularize(**given_)["farcluss_contrast"].backward()
    assert given_["labelled_output"].features.grad.any()
    assert given_["views"][0].output.features.grad.any()
    assert given_["teacher_output"].features.grad is None
    assert all(p.grad is not None for p in modules["farcluss_head"].parameters())
    assert all(p.grad is None and not p.requires_grad for p in modules["farcluss_slow_head"].parameters())
    assert not modules["farcluss_prototypes"].vectors.requires_grad
    assert not modules["farcluss_slow_head"].average.training


def test_two_calls_before_one_backward():
    method, first, second = ready(), scene(1), scene(2)
    loss = sum(method.regularize(**each)["farcluss_contrast"] for each in (first, second))
    loss.backward()
    assert first["labelled_output"].features.grad.any()


def test_contrast_is_float32_whatever_autocast():
    answers = []
    for mixed_precision in (False, True):
        torch.manual_seed(0)
        method = Farcluss(contrast_dim=4, contrast_anchors=500)
        method.setup(info=info())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed_precision):
            answers.append(
                [method.regularize(**scene(1))["farcluss_contrast"], method.prototype_contrast.prototypes.vectors]
            )
    assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-6)


def test_half_precision_features_are_taken():
    def halved(output):
        return Output(output.logits, output.features.detach().bfloat16())

    half, method = scene(1), Farcluss(contrast_dim=4)
    method.setup(info=info())
    half |= {key: halved(half[key]) for key in ("labelled_output", "teacher_output")}
    half["teacher"] = FixedTeacher(halved(half["teacher"].output))
    half["views"] = tuple(replace(view, output=halved(view.output)) for view in half["views"])
    loss = method.regularize(**half)["farcluss_contrast"]
    assert loss.dtype == method.prototype_contrast.prototypes.vectors.dtype == torch.float32
    assert loss.isfinite()
