"""U2PL against a step written out here after its release, and the paper's rule for negatives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ssss_zoo.plugins.baselines import u2pl as module
from ssss_zoo.plugins.baselines.u2pl import U2PL, ContrastCells
from torch.testing import assert_close

from helpers.by_hand import BOX, BOXES, assert_step, images, raw_batch, take_step
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit import contrast
from ssss_zoo.toolkit.contrast import Anchors
from ssss_zoo.toolkit.types import Labelled, Output, Progress, PseudoLabel, View, ViewOutput

LATER = Progress(30, 100, 5)  # the sixth epoch; drop = 20 * 0.7 = 14 percent


def first_members(members: torch.Tensor, per_class: int) -> Anchors:
    """Stands in for the draw: the first members of each class."""
    order = (~members).to(torch.int8).sort(dim=1, stable=True).indices[:, :per_class]
    return Anchors(order, members.gather(1, order))


@pytest.fixture
def rig(tiny_run, monkeypatch):
    """words -> a `TinyRun` whose draws take what comes first: one anchor, one negative of each class."""

    def make(*words: str):
        monkeypatch.setattr(module, "half_boxes", lambda *size: BOXES)
        monkeypatch.setattr(module, "draw_members", first_members)
        given = [
            "options.u2pl.anchors=1",
            "options.u2pl.negatives=1",
            "options.u2pl.anchor_floor=0.2",
            "options.u2pl.dim=6",
        ]
        given += [
            "options.u2pl.low_rank=2",
            "options.u2pl.high_rank=4",
            "options.u2pl.memory=40",
            "options.u2pl.pushed=30",
        ]
        made = tiny_run("method=u2pl", "train.batch=3", "augment.flip=0", *given, *words).double()
        torch.manual_seed(1)
        for value in made.engine.teachers[0].network.parameters():
            value.add_(0.1 * torch.randn_like(value))
        return made

    return make


def by_hand(made, batch, release_bugs: bool):
    method, network = made.methods["u2pl"], copy.deepcopy(made.student)
    teacher = copy.deepcopy(made.engine.teachers[0].network)
    head, slow_head = copy.deepcopy(method.head), copy.deepcopy(method.slow_head.average)
    x, w, _ = images(batch)
    with torch.no_grad():
        label = teacher.eval()(w).logits.argmax(dim=1)
        mixed = torch.where(BOX[:, None], w.roll(-1, 0), w)
        told = teacher.train()(torch.cat([x, mixed]))
    ids = torch.where(BOX, label.roll(-1, 0), label)
    valid = torch.where(BOX, batch.unlabelled.valid.roll(-1, 0), batch.unlabelled.valid)
    output = network(torch.cat([x, mixed]))
    mask = batch.labelled.mask.long()
    p = told.logits.float().softmax(dim=1)
    entropy = -(p[3:] * p[3:].log()).sum(dim=1)
    known = entropy[valid].numpy().astype(float)
    kept = valid & (entropy < np.percentile(known, 86))
    per_pixel = F.cross_entropy(output.logits[3:], ids, reduction="none")
    l_u = 3 * 256 / int(kept.sum()) ** 2 * per_pixel[kept].sum()

    low, high = valid & (entropy <= np.percentile(known, 14)), valid & (entropy >= np.percentile(known, 86))
    sure = torch.cat([mask != 255, low])[:, 1::2, 1::2].flatten().tolist()  # the pixel under each cell's centre
    unsure = torch.cat([mask != 255, high])[:, 1::2, 1::2].flatten().tolist()
    labels = torch.cat([mask, ids])[:, 1::2, 1::2].flatten().tolist()
    cells = p[:, :, 1::2, 1::2].permute(0, 2, 3, 1).reshape(-1, 5)
    own = F.normalize(head(output.features.float()), dim=1).permute(0, 2, 3, 1).reshape(-1, 6)
    with torch.no_grad():
        raw = slow_head.train()(told.features.float()).permute(0, 2, 3, 1).reshape(-1, 6)
        slow = F.normalize(raw, dim=1)
    ranks = [sorted(range(5), key=lambda c, row=row: -float(row[c])) for row in cells]
    many, half, memory, mine = len(labels), len(labels) // 2, {}, {}
    for c in range(5):
        mine[c] = [n for n in range(many) if labels[n] == c and sure[n]]
        if release_bugs:
            far = [n for n in range(half, many) if labels[n] == c and unsure[n] and 2 <= ranks[n].index(c) < 4]
        else:
            far = [n for n in range(half) if unsure[n] and labels[n] != c and ranks[n].index(c) < 2]
            far += [n for n in range(half, many) if unsure[n] and 2 <= ranks[n].index(c) < 4]
        memory[c] = far[:30]
    present, total = [c for c in range(5) if mine[c]], 0.0
    for place in range(len(present)):
        c, other = (place, present[place]) if release_bugs else (present[place], present[place])
        anchors = [n for n in mine[c] if cells[n, c] > 0.2]
        if not anchors or not memory[other]:
            continue
        positive = F.normalize(raw[mine[c]].mean(dim=0), dim=0)  # of raw vectors, as released; it was of unit ones
        keys = torch.stack([positive, slow[memory[other][0]]])
        total = total - (keys @ own[anchors[0]] / 0.5).log_softmax(dim=0)[0] / len(present)
    l_x = F.cross_entropy(output.logits[:3], mask, ignore_index=255)
    return network, {"supervised": l_x, "consistency": l_u, "u2pl_contrast": 0.1 * total}, memory, slow


@pytest.mark.parametrize("release_bugs", [False, True])
def test_a_step_is_the_papers_and_with_the_switch_the_releases(rig, monkeypatch, release_bugs):
    made, batch = rig(f"options.u2pl.release_bugs={release_bugs}"), raw_batch()
    monkeypatch.setattr(torch, "rand", lambda *size, **given: torch.zeros(size))  # the first of the memory
    network, parts, memory, slow = by_hand(made, batch, release_bugs)
    assert release_bugs or parts["u2pl_contrast"] > 0
    if not torch.is_tensor(parts["u2pl_contrast"]):
        parts["u2pl_contrast"] = torch.zeros(())
    bank = made.methods["u2pl"].bank
    assert_step(made, batch, parts, [network], LATER, single="u2pl_contrast")
    for c in range(5):
        assert int(bank.filled[c]) == len(memory[c])
        assert_close(bank.vectors[c, : len(memory[c])], slow[memory[c]], atol=5e-6, rtol=0)


def test_where_another_method_has_the_last_word_the_contrast_looks_for_itself(rig, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **given: torch.zeros(size))
    own, other = (take_step(rig(*words), raw_batch(), LATER)[0] for words in ((), ("hooks.refine=none",)))
    assert own["u2pl_contrast"] == other["u2pl_contrast"] > 0
    assert own["consistency"] != other["consistency"]


class Told:
    """A teacher without a network that answers one thing to any two images."""

    network = None

    def __init__(self, output: Output) -> None:
        self.output = output

    def __call__(self, image: torch.Tensor) -> Output:
        assert len(image) == 2  # the labelled image and the view
        return self.output


def test_a_pixel_at_the_percentile_is_dropped_and_padding_has_no_rank():
    """Eleven pixels that count, the most uncertain first: at 80 percent the limit is the value of the third."""
    share = torch.tensor([0.50, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 0.51, 0.52]).view(1, 1, 13)
    image, valid = torch.zeros(1, 3, 1, 13), torch.arange(13).view(1, 1, 13) < 11
    output = Output(torch.stack([share, 1 - share], dim=1).log(), torch.zeros(1, 2, 1, 13))
    label = PseudoLabel(torch.zeros(1, 1, 13, dtype=torch.int64), share, valid)
    seen = ViewOutput(View("mixed", "weak"), image, output, label, torch.ones(1, 1, 13), None, lambda own, others: own)
    told = Told(Output(output.logits.repeat(2, 1, 1, 1), output.features.repeat(2, 1, 1, 1)))
    labelled = Labelled(image, torch.zeros(1, 1, 13, dtype=torch.int64))
    weight = U2PL(drop=20).refine(seen, labelled, told, Progress(0, 10, 5)).weight[label.valid]
    assert weight.tolist() == [0, 0, 0] + [1] * 8
    cells = U2PL(drop=20).contrast_cells(labelled, seen, told.output, Progress(0, 10, 5))
    assert (
        cells.reliable[13:].tolist() == [False] * 8 + [True] * 3 + [False] * 2
    )  # the value at 20 percent is the third's
    assert cells.unreliable[13:].tolist() == [True] * 3 + [False] * 10


def test_an_anchor_is_above_the_floor():
    method = U2PL(anchors=1, negatives=1, anchor_floor=0.5, dim=2, memory=4)
    method.bank = contrast.ClassBank(2, 4, 2)
    method.bank.push(torch.ones(2, 1, 2), torch.ones(2, 1, dtype=torch.bool))
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    cells = ContrastCells(torch.tensor([0, 1]), yes, no, torch.full((2, 2), 0.5))
    assert method.contrast_loss(torch.ones(2, 2), torch.ones(2, 2), cells) == 0


def test_the_head_has_three_layers(rig):
    head = rig("options.u2pl.dim=6").methods["u2pl"].head
    assert [tuple(part.weight.shape) for part in head if isinstance(part, torch.nn.Conv2d)] == [
        (8, 8, 3, 3), (8, 8, 3, 3), (6, 8, 1, 1)
    ]  # fmt: skip


def test_the_teachers_statistics_come_of_its_own_passes_over_the_mixed_images(rig):
    made, batch = rig(), raw_batch()
    teacher, fast = (copy.deepcopy(n) for n in (made.engine.teachers[0].network, made.student))
    x, w, _ = images(batch)
    with torch.no_grad():
        teacher.train()(torch.cat([x, torch.where(BOX[:, None], w.roll(-1, 0), w)]))
    take_step(made, batch, LATER)
    assert not torch.equal(fast.body[1].running_mean, teacher.body[1].running_mean)
    for name, value in made.engine.teachers[0].network.named_buffers():
        assert_close(value, teacher.get_buffer(name), atol=1e-7, rtol=0)


def test_teacher_and_slow_head_follow_the_student_by_the_same_decay(rig):
    made = rig()
    method, engine = made.methods["u2pl"], made.engine
    slow, fast = copy.deepcopy(method.slow_head.average), method.head
    teacher, student = copy.deepcopy(engine.teachers[0].network), made.student
    expected = {}
    for step in (10, 11):  # the first of the averaging, five steps after warm-up: 1 - 1/6, then 1 - 1/7
        take_step(made, raw_batch(seed=step), Progress(step, 100, 5))
        decay = 1 - 1 / (step - 5 + 1)
        for old, new in ((slow, fast), (teacher, student)):
            for (name, a), b in zip(old.named_parameters(), new.parameters(), strict=True):
                expected[id(old), name] = a.data.mul_(decay).add_(b.data, alpha=1 - decay)
    for old, new in ((slow, method.slow_head.average), (teacher, engine.teachers[0].network)):
        for name, value in new.named_parameters():
            assert_close(value.data, expected[id(old), name], atol=1e-6, rtol=0)


def test_the_loss_of_a_class_is_the_mean_over_its_draws(monkeypatch):
    """Chance given as numbers: two anchors, three negatives, places floor(u * how many there are)."""
    torch.manual_seed(0)
    method = U2PL(anchors=2, negatives=3, dim=4, memory=5, temperature=0.5)
    method.bank = contrast.ClassBank(2, 5, 4)
    valid = torch.tensor([[True] * 4 + [False], [True] * 2 + [False] * 3])
    method.bank.push(F.normalize(torch.randn(2, 5, 4), dim=2), valid)
    own, positive = F.normalize(torch.randn(7, 4), dim=1), F.normalize(torch.randn(2, 4), dim=1)
    anchors = Anchors(torch.tensor([[1, 4, 6], [2, 0, 0]]), torch.tensor([[True] * 3, [True, False, False]]))
    chance = [torch.tensor([[0.4, 0.99], [0.9, 0.1]]), torch.tensor([[0, 0.3, 0.6, 0.8, 0.99, 0.2]] * 2)]
    given = iter(chance)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: next(given))
    losses = method.class_losses(own, anchors, positive, torch.tensor([0, 1]))
    for c, (picked, chosen) in enumerate([([4, 6], [0, 1, 2, 3, 3, 0]), ([2, 2], [0, 0, 1, 1, 1, 0])]):
        total = 0.0
        for a, cell in enumerate(picked):
            negatives = [method.bank.vectors[c, place] for place in chosen[3 * a : 3 * a + 3]]
            scores = torch.stack([own[cell] @ key for key in (positive[c], *negatives)]).double() / 0.5
            total -= scores.log_softmax(dim=0)[0].item()
        assert losses[c].item() == pytest.approx(total / 2, rel=1e-5)


@pytest.mark.parametrize(("release_bugs", "memory"), [(False, [0, 1, 2, 3, 4]), (True, [1, 3, 0, 2, 4])])
def test_the_releases_nth_class_takes_the_memory_of_the_nth_present_one(monkeypatch, release_bugs, memory):
    """Classes 1 and 3 are there. The release counts them as 0 and 1, and takes the memories of 1 and 3."""
    method = U2PL(release_bugs=release_bugs, anchors=1, negatives=1, anchor_floor=0, dim=2, memory=4)
    method.bank = contrast.ClassBank(5, 4, 2)
    method.bank.push(torch.ones(5, 1, 2), torch.ones(5, 1, dtype=torch.bool))
    asked = []
    monkeypatch.setattr(method, "class_losses", lambda o, a, p, m: asked.append(m.tolist()) or torch.arange(5.0) + 1)
    ids = torch.tensor([1, 1, 3, 3, 1, 1, 3, 3])
    reliable, unreliable = torch.ones(8, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)
    cells = ContrastCells(ids, reliable, unreliable, torch.full((5, 8), 0.2))
    total = method.contrast_loss(torch.ones(8, 2), torch.ones(8, 2), cells)
    assert asked == [memory]
    assert total.item() == (2 / 2 if release_bugs else (2 + 4) / 2)  # class 0 of the release has no anchor of its own


@pytest.mark.parametrize(("classes", "costs"), [((2,), False), ((2, 3), True)])
def test_one_class_alone_is_not_contrasted(rig, classes, costs):
    made, batch = rig("options.u2pl.anchor_floor=0"), raw_batch()
    bank = made.methods["u2pl"].bank
    bank.push(F.normalize(torch.randn(5, 9, 6), dim=2), torch.ones(5, 9, dtype=torch.bool))
    batch.unlabelled.valid[:] = False
    for place, own in enumerate(classes):
        batch.labelled.mask[place:] = own
    losses, _ = take_step(made, batch, LATER)
    assert (losses["u2pl_contrast"] > 0) == costs


def test_nothing_valid_gives_zero_and_leaves_the_memory(rig):
    made = rig()
    losses, (gradients,) = take_step(made, raw_batch(all_void=True), LATER)
    assert losses == {"supervised": 0, "consistency": 0, "u2pl_contrast": 0, "total": 0}
    assert all(not value.any() for value in gradients.values())
    assert not made.methods["u2pl"].bank.filled.any()


def test_the_first_epoch_is_labels_alone(rig, tiny_run):
    losses, _ = take_step(rig(), raw_batch())
    assert losses["consistency"] == 0
    assert set(losses) == {"supervised", "consistency", "total"}
    assert losses["total"] == losses["supervised"] > 0


def test_the_teacher_copies_through_its_first_epochs_and_averages_after_them():
    method = U2PL()
    decays = [method.decay(Progress(step, 100, 5)) for step in (0, 4, 9, 10, 14, 99)]
    assert decays == [0, 0, 0, pytest.approx(1 - 1 / 6), pytest.approx(0.9), pytest.approx(1 - 1 / 95)]


def test_at_the_end_all_but_the_most_uncertain_pixel_teach(rig):
    made, seen = rig(), []
    pair = made.engine.pair
    made.engine.pair = lambda *given: seen.append(pair(*given)) or seen[-1]
    made.engine.losses(raw_batch(), Progress(100, 100, 5))
    (view,) = seen
    assert int((view.label.valid & (view.weight == 0)).sum()) == 1


def test_an_option_out_of_range_is_refused_by_name(tiny_run):
    for option in ("drop=101", "ema_decay=2", "temperature=0", "memory=0", "anchor_floor=-1"):
        with pytest.raises(UserError, match=f"options.u2pl.{option.partition('=')[0]}"):
            tiny_run("method=u2pl", f"options.u2pl.{option}")
