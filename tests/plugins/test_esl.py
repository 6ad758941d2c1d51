"""ESL: its soft labels against loops, a whole step by hand, and its laws."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ssss_zoo.plugins.baselines import esl as module
from ssss_zoo.plugins.baselines.esl import ESL
from torch.testing import assert_close

from helpers.by_hand import BOX, BOXES, assert_step, darker, images, raw_batch, take_step
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import FixedAugmentation, Progress

LATE = Progress(30, 100, 5)


@pytest.fixture
def rig(tiny_run, monkeypatch):
    def make(*words: str):
        monkeypatch.setattr(module, "random_boxes", lambda *size: BOXES)
        made = tiny_run("method=esl", "train.batch=3", "augment.flip=0", *words)
        made.engine.strong = FixedAugmentation(darker)
        return made.double()

    return make


def soft_label(p: torch.Tensor, mass: float) -> torch.Tensor:
    """Class after class, likeliest first, until the mass is reached; (C,) float64."""
    y, total = torch.zeros_like(p), 0.0
    for c in sorted(range(len(p)), key=lambda c: -float(p[c])):
        if total >= mass and total > 0:
            break
        y[c], total = p[c], total + float(p[c])
    return y / y.sum()


@pytest.mark.parametrize("all_void", [False, True])
@pytest.mark.parametrize("mass", [0.0, 0.5, 0.95])
def test_a_step_before_the_contrast_is_the_papers(rig, mass, all_void):
    made, batch = rig(f"options.esl.mass={mass}"), raw_batch(all_void)
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.student)
    x, w, _ = images(batch)
    with torch.no_grad():
        p = teacher.eval()(w).logits.float().softmax(dim=1)
    y = torch.stack(
        [torch.stack([soft_label(p[b, :, i, j], mass) for i in range(16) for j in range(16)]) for b in range(3)]
    )
    y = y.transpose(1, 2).unflatten(2, (16, 16)).double()
    s, valid = darker(w), batch.unlabelled.valid
    s, y, valid = (torch.where(BOX[:, None], part.roll(-1, 0), part) for part in (s, y, valid[:, None]))
    z_x, z_s = network(torch.cat([x, s])).logits.split([3, 3])
    per_pixel = -(y * z_s.log_softmax(dim=1)).sum(dim=1)
    l_u = (per_pixel * valid[:, 0]).sum() / valid.sum().clamp(min=1)
    mask = batch.labelled.mask.long()
    l_x = z_x.sum() * 0 if all_void else F.cross_entropy(z_x, mask, ignore_index=255)
    assert_step(made, batch, {"supervised": l_x, "consistency": 0.2 * l_u}, [network])


def test_the_contrast_is_infonce_over_centres_of_sure_cells(rig, monkeypatch):
    """A late step with centres known: the term by loops over all anchors, with the centres moved first."""
    words = ("options.esl.contrast_confidence=0.25", "options.esl.contrast_dim=6", "options.esl.contrast_anchors=999")
    words += ("options.esl.weight=0",)
    made, batch = rig(*words), raw_batch()
    method = made.methods["esl"]
    centres = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    method.contrast.prototypes.vectors.copy_(centres)
    method.contrast.prototypes.initialized.fill_(True)
    network, teacher = copy.deepcopy(made.student), copy.deepcopy(made.student).eval()
    head, slow_head = copy.deepcopy(method.contrast.head), copy.deepcopy(method.contrast.slow_head)
    x, w, _ = images(batch)
    s = torch.where(BOX[:, None], darker(w).roll(-1, 0), darker(w))
    output = network(torch.cat([x, s]))
    with torch.no_grad():
        teacher_x, teacher_w = teacher(x), teacher(w)
        means = F.normalize(slow_head(torch.cat([teacher_x.features, teacher_w.features]).float()), dim=1)
    sure, ids = teacher_w.logits.float().softmax(dim=1).max(dim=1)
    mask = batch.labelled.mask.long()
    own = torch.where((sure >= 0.25) & batch.unlabelled.valid, ids, 255)
    view = torch.where(BOX, own.roll(-1, 0), own)
    cells = [torch.cat(pair)[:, 1::2, 1::2].flatten().tolist() for pair in ((mask, own), (mask, view))]
    rows = means.permute(0, 2, 3, 1).reshape(-1, 6)
    moved = centres.clone()
    for c in range(5):
        mine = [n for n, label in enumerate(cells[0]) if label == c]
        if mine:
            moved[c] = F.normalize(0.99 * centres[c] + 0.01 * rows[mine].mean(dim=0), dim=0)
    features = F.normalize(head(output.features.float()), dim=1).permute(0, 2, 3, 1).reshape(-1, 6)
    per_class = []
    for c in range(5):
        anchors = [n for n, label in enumerate(cells[1]) if label == c]
        if anchors:
            per_class.append(torch.stack([-(moved @ features[n] / 0.5).log_softmax(dim=0)[c] for n in anchors]).mean())
    expected = 0.1 * torch.stack(per_class).mean()
    l_x = F.cross_entropy(output.logits[:3], mask, ignore_index=255)
    parts = {"supervised": l_x, "consistency": torch.zeros(()), "esl_contrast": expected}
    assert_step(made, batch, parts, [network], LATE, single="esl_contrast")
    assert_close(method.contrast.prototypes.vectors, moved, atol=1e-6, rtol=0)


def test_the_contrast_waits_for_its_epoch_and_centres_appear_with_it(rig):
    made = rig("options.esl.contrast_epochs=6")
    losses, _ = take_step(made, raw_batch(), Progress(29, 100, 5))
    assert "esl_contrast" not in losses
    assert not made.methods["esl"].contrast.prototypes.initialized.any()
    losses, _ = take_step(made, raw_batch(), LATE)
    assert losses["esl_contrast"] > 0
    assert made.methods["esl"].contrast.prototypes.initialized.all()


@pytest.mark.parametrize(("weight", "there"), [(0, False), (1, True)])
def test_a_contrast_without_weight_is_not_made(rig, weight, there):
    losses, _ = take_step(rig(f"options.esl.contrast_weight={weight}"), raw_batch(), LATE)
    assert ("esl_contrast" in losses) == there


def test_nothing_to_contrast_is_zero_and_leaves_the_centres(rig):
    made = rig()
    losses, (gradients,) = take_step(made, raw_batch(all_void=True), LATE)
    assert losses == {"supervised": 0, "consistency": 0, "esl_contrast": 0, "total": 0}
    assert all(not value.any() for value in gradients.values())
    assert not made.methods["esl"].contrast.prototypes.vectors.any()


def test_the_slow_head_averages_its_head_statistics_included(rig):
    made = rig()
    contrast = made.methods["esl"].contrast
    average = contrast.slow_head.average
    slow = {name: value.clone() for name, value in average.state_dict().items()}
    for step in (1, 2):
        take_step(made, raw_batch(seed=step), Progress(step, 100, 1))
        decay = min(1 - 1 / (step + 1), 0.99)
        for name, value in contrast.head.state_dict().items():
            slow[name] = decay * slow[name] + (1 - decay) * value if value.is_floating_point() else value.clone()
    for name, value in average.state_dict().items():
        assert_close(value, slow[name], atol=1e-6, rtol=0, msg=name)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_labels_are_distributions_over_the_fewest_classes_with_the_mass(seed, mass):
    torch.manual_seed(seed)
    probs = (4 * torch.randn(2, 6, 3, 4)).softmax(dim=1)
    label = ESL(mass=mass).pseudo_label(probs, torch.ones(2, 3, 4, dtype=torch.bool))
    assert_close(label.target.sum(dim=1), torch.ones(2, 3, 4))
    kept = (probs * (label.target > 0)).sum(dim=1)
    fewer = kept - torch.where(label.target > 0, probs, 2.0).amin(dim=1)
    assert ((kept >= mass - 1e-5) | (label.target > 0).all(dim=1)).all()
    assert (fewer < mass + 1e-5).all() or mass == 0
    assert torch.equal(label.target.argmax(dim=1), probs.argmax(dim=1))


def test_no_mass_is_a_hard_label_and_all_of_it_the_whole_distribution():
    probs = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    assert ESL(mass=0).pseudo_label(probs, valid).target.flatten().tolist() == [1, 0, 0]
    assert_close(ESL(mass=1).pseudo_label(probs, valid).target, probs)


def test_an_option_out_of_range_is_refused_by_name(tiny_run):
    for option in ("mass=2", "weight=-1", "contrast_temperature=0", "contrast_anchors=0"):
        with pytest.raises(UserError, match=f"options.esl.{option.partition('=')[0]}"):
            tiny_run("method=esl", f"options.esl.{option}")
