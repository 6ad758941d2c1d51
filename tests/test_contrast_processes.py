"""Contrast in two processes with half of the cells each: the numbers of one process with all of them."""

from __future__ import annotations

import pytest
import torch
from ssss_zoo.plugins.baselines.u2pl import U2PL, ContrastCells
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch import Tensor
from torch.testing import assert_close

from helpers.processes import in_two_processes
from ssss_zoo.toolkit import ClassBank, Prototypes, PseudoLabel, anchor_mean, class_means, draw_anchors, info_nce

CLASSES = 3
CELLS = 12
WIDTH = 4
IDS = torch.tensor([0, 0, 0, 1, 1, 255, 0, 0, 1, 1, 1, 255])  # class 2 is nowhere
ALONE = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])  # each class in one of the two processes alone


def features() -> Tensor:
    cells = torch.randn(CELLS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(cells, dim=1)


def gradients(part: slice, ids: Tensor) -> dict[str, Tensor]:
    """Of the losses over all cells as anchors, by the features of some of them."""
    vectors = features()[:CLASSES]
    found = {}
    for class_mean in (True, False):
        cells = features()[part].requires_grad_()
        anchors = draw_anchors(ids[part], CLASSES, CELLS)
        known = torch.ones(CLASSES, dtype=torch.bool)
        info_nce(cells, anchors, vectors, known, 0.5, class_mean=class_mean).backward()
        found[f"class_mean={class_mean}"] = cells.grad
    return found


def state(part: slice) -> dict[str, Tensor]:
    """What is kept of some of the cells: prototypes, means, a bank, class weights."""
    torch.manual_seed(0)
    cells = features().float()[part]
    membership = torch.nn.functional.one_hot(IDS.clamp(max=CLASSES), CLASSES + 1)[part, :CLASSES]
    prototypes = Prototypes(CLASSES, WIDTH)
    for momentum in (0.5, 0.5):
        prototypes.update(cells, membership, momentum)
    means = class_means(cells, membership)
    label = PseudoLabel(ALONE[part].view(1, 1, -1), torch.ones(1, 1, len(cells)), (IDS[part] < 255).view(1, 1, -1))
    return {
        "prototypes": prototypes.vectors,
        "means": means.vectors,
        "present": means.present.float(),
        "class weights": Farcluss().class_weight(label=label, num_classes=CLASSES),
    }


def bank_of(rank: int) -> ClassBank:
    """A bank of two classes after this process's push; each has other vectors and other numbers of them."""
    bank = ClassBank(2, 3, 1)
    vectors = torch.arange(4.0).view(2, 2, 1) + 10 * (rank + 1)
    valid = torch.tensor([[True, rank == 1], [rank == 0, False]])
    bank.push(vectors, valid)
    return bank


def u2pl_loss(part: slice) -> dict[str, Tensor]:
    """Of cells of which each class's are alike, so that draws do not matter: the gradient, and the memory."""
    method = U2PL(anchors=5, negatives=2, anchor_floor=0, low_rank=0, high_rank=3, dim=WIDTH, memory=8, pushed=2)
    method.bank = ClassBank(CLASSES, 8, WIDTH)
    vectors = torch.eye(CLASSES, WIDTH)
    method.bank.push(vectors.roll(1, 0).unsqueeze(1), torch.ones(CLASSES, 1, dtype=torch.bool))
    cells = vectors[ALONE[part]].requires_grad_()
    reliable = torch.ones(len(cells), dtype=torch.bool)
    probs = torch.full((CLASSES, len(cells)), 1 / CLASSES)
    groups = ContrastCells(ALONE[part], reliable, ~reliable, probs)
    loss = method.contrast_loss(cells, 3 * cells.detach() + 0.5, groups)
    loss.backward()
    sums = torch.zeros(CLASSES, WIDTH).index_add(0, ALONE[part], cells.grad)  # of a class, whichever cells were drawn
    return {"loss": loss.detach(), "gradient": sums, "filled": method.bank.filled}


def work(rank: int) -> dict:
    part = slice(CELLS // 2 * rank, CELLS // 2 * (rank + 1))
    found = {
        "ids": gradients(part, IDS),
        "alone": gradients(part, ALONE),
        "state": state(part),
        "u2pl": u2pl_loss(part),
    }
    none = anchor_mean(torch.ones(CLASSES, 2), torch.zeros(CLASSES, 2, dtype=torch.bool), class_mean=True)
    return found | {"none": none, "bank": bank_of(rank).state_dict()}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return in_two_processes(work, tmp_path_factory.mktemp("processes"))


def test_the_mean_gradient_is_that_of_all_anchors(both):
    """Also where a class is seen by one process alone."""
    for name, ids in (("ids", IDS), ("alone", ALONE)):
        for loss, gradient in gradients(slice(None), ids).items():
            halves = torch.cat([one[name][loss] for one in both]) / 2
            assert_close(halves, gradient, atol=1e-12, rtol=1e-9, msg=f"{name}, {loss}")


def test_prototypes_means_and_class_weights_are_those_of_all_cells(both):
    whole = state(slice(None))
    for name, value in whole.items():
        assert torch.equal(both[0]["state"][name], both[1]["state"][name]), name
        assert_close(both[0]["state"][name], value, msg=name)


def test_a_bank_takes_in_the_vectors_of_one_process_after_the_other(both):
    for one in both:
        assert one["bank"]["vectors"].flatten().tolist() == [10, 20, 21, 12, 0, 0]
        assert one["bank"]["filled"].tolist() == [3, 1]
        assert one["bank"]["pointer"].tolist() == [0, 1]


def test_u2pl_has_positives_of_all_processes_and_a_class_counts_once(both):
    """Each class is seen by one process alone, and still weighs a third of the mean."""
    whole = u2pl_loss(slice(None))
    assert_close(sum(one["u2pl"]["loss"] for one in both) / 2, whole["loss"])
    assert_close(sum(one["u2pl"]["gradient"] for one in both) / 2, whole["gradient"])
    assert whole["loss"] > 0


def test_without_an_anchor_anywhere_the_mean_is_zero(both):
    assert [one["none"].item() for one in both] == [0, 0]
