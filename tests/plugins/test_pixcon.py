"""PixCon's term against loops, its memory, and its laws."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import pixcon as module
from ssss_zoo.plugins.baselines.pixcon import bank_nce

from helpers.by_hand import raw_batch, take_step
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.contrast import ClassBank


@pytest.fixture
def rig(tiny_run):
    def make(*words: str):
        given = (
            "options.pixcon.dim=6",
            "options.pixcon.per_class=200",
            "options.pixcon.memory=300",
            "options.pixcon.anchors=2000",
        )
        return tiny_run("method=supervised+pixcon", "train.batch=3", "augment.flip=0", *given, *words).double()

    return make


@pytest.mark.parametrize("admit", ["correct", "all"])
def test_two_steps_are_worked_out_by_hand(rig, admit):
    """Step one fills the memory and costs nothing; step two is InfoNCE against it, gradient and all."""
    made, first, second = rig(f"options.pixcon.admit={admit}"), raw_batch(), raw_batch(seed=9)
    head, student = copy.deepcopy(made.methods["pixcon"].head), copy.deepcopy(made.student)
    losses, _ = take_step(made, first)
    assert losses["pixcon"] == 0

    def admitted(network, head, batch):
        output = network(batch.labelled.image.double() / 255)
        truth = batch.labelled.mask.long()[
            :, ::2, ::2
        ]  # nearest: of each cell's four pixels the upper left, as released
        small = F.interpolate(output.logits.float(), truth.shape[-2:], mode="bilinear", align_corners=True)
        guess = small.argmax(
            dim=1
        )  # corners aligned, as released; they were not, and truth lay under the cell's centre
        ok = truth != 255 if admit == "all" else (guess == truth)
        vectors = F.normalize(head(output.features.float()), dim=1).permute(0, 2, 3, 1)
        return output, vectors[ok], truth[ok].tolist()

    _, memory, classes = admitted(student, head, first)
    memory = memory.detach()
    student, head = copy.deepcopy(made.student), copy.deepcopy(made.methods["pixcon"].head)
    output, anchors, wanted = admitted(student, head, second)
    total, count = 0.0, 0
    for anchor, c in zip(anchors, wanted, strict=True):
        if c not in classes:
            continue
        exps = (memory @ anchor / 0.1).exp()
        own = torch.tensor([m == c for m in classes])
        total, count = total - (exps[own].sum() / exps.sum()).log(), count + 1
    assert count > 10
    loss = 0.1 * total / count
    supervised = F.cross_entropy(output.logits, second.labelled.mask.long(), ignore_index=255)
    (loss + supervised).backward()
    losses, (gradients,) = take_step(made, second)
    assert losses["pixcon"] == pytest.approx(loss.item(), rel=1e-5)  # float32 sums over some hundred anchors
    assert losses["supervised"] == pytest.approx(supervised.item(), rel=1e-6)
    for name, parameter in student.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5, rtol=0), name


def test_all_void_costs_nothing_and_leaves_the_memory(rig):
    made = rig()
    losses, _ = take_step(made, raw_batch(all_void=True))
    assert losses == {"supervised": 0, "pixcon": 0, "total": 0}
    assert not made.methods["pixcon"].bank.filled.any()


def bank_of(vectors: torch.Tensor) -> ClassBank:
    bank = ClassBank(vectors.shape[0], vectors.shape[1], vectors.shape[2])
    bank.push(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))
    return bank


def test_the_loss_is_bounded_and_does_not_see_a_common_rotation():
    torch.manual_seed(0)
    memory, anchors = F.normalize(torch.randn(3, 20, 8), dim=2), F.normalize(torch.randn(15, 8), dim=1)
    own, counted = torch.arange(15) % 3, torch.ones(15, dtype=torch.bool)
    loss = bank_nce(anchors, own, counted, bank_of(memory), 0.1)
    assert 0 < loss < math.log(1 + 2 * math.exp(2 / 0.1))
    turn = torch.linalg.qr(torch.randn(8, 8))[0]
    turned = bank_nce(anchors @ turn, own, counted, bank_of(memory @ turn), 0.1)
    assert turned == pytest.approx(loss.item(), rel=1e-4)


def test_the_worst_anchor_reaches_the_bound_and_one_class_alone_costs_nothing():
    memory = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).unsqueeze(1)  # one vector a class
    anchor, own, counted = torch.tensor([[-1.0, 0.0]]), torch.tensor([0]), torch.tensor([True])
    assert bank_nce(anchor, own, counted, bank_of(memory), 0.1).item() == pytest.approx(math.log(1 + math.exp(20)))
    assert bank_nce(anchor, own, counted, bank_of(memory[:1]), 0.1).item() == 0


def test_anchors_that_do_not_count_or_whose_class_the_memory_lacks_cost_nothing():
    torch.manual_seed(0)
    bank, made = ClassBank(3, 4, 2), F.normalize(torch.randn(3, 4, 2), dim=2)
    bank.push(made, torch.tensor([[True] * 4, [True] * 4, [False] * 4]))
    anchors = F.normalize(torch.randn(3, 2), dim=1).requires_grad_()
    alone = bank_nce(anchors[:1], torch.tensor([0]), torch.tensor([True]), bank, 0.1)
    own, counted = torch.tensor([0, 2, 1]), torch.tensor([True, True, False])
    assert bank_nce(anchors, own, counted, bank, 0.1).item() == pytest.approx(alone.item(), rel=1e-6)
    nothing = bank_nce(anchors, own, torch.tensor([False, True, False]), bank, 0.1)
    nothing.backward()
    assert nothing.item() == 0
    assert not anchors.grad.any()


def test_no_more_anchors_than_allowed_count_but_all_admitted_join_the_memory(rig, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "bank_nce", lambda *given: seen.append(given) or bank_nce(*given))
    made = rig("options.pixcon.anchors=7", "options.pixcon.per_class=20", "options.pixcon.admit=all")
    take_step(made, raw_batch())
    anchors, own, counted, bank, _ = seen[0]
    assert anchors.shape == (7, 6)
    assert counted.all()
    assert bank.filled.tolist() == [20] * 5
    for vector, c in zip(anchors, own.tolist(), strict=True):
        assert (bank.vectors[c] == vector.detach()).all(dim=1).any()  # an anchor is a cell of its own class


def test_an_option_out_of_range_is_refused_by_name(tiny_run):
    for option in ("weight=-1", "temperature=0", "memory=0", "admit=some"):
        with pytest.raises(UserError, match=f"options.pixcon.{option.partition('=')[0]}"):
            tiny_run("method=unimatch+pixcon", f"options.pixcon.{option}")
