"""Each loss against plain loops in double precision, its gradient against its formula, and its laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.config.schema import LossConfig
from ssss_zoo.toolkit.losses import (
    consistency,
    cross_entropy,
    divisor,
    ohem,
    percentile,
    pixel_loss,
    squared_error,
    supervised_loss,
    top_p_mask,
    view_loss,
)
from ssss_zoo.toolkit.mixing import Mixing
from ssss_zoo.toolkit.types import IGNORE, Output, PseudoLabel, View, ViewOutput

NORMALISERS = ("valid", "kept", "weight", "all", "kept_share")
SEEDS = st.integers(0, 2**31)


def log_probs(scores: list[float]) -> list[float]:
    top = max(scores)
    return [s - top - math.log(math.fsum(math.exp(t - top) for t in scores)) for s in scores]


def pixels(logits: Tensor) -> list[list[float]]:
    """Log-probabilities of each pixel in (b, h, w) order, by plain arithmetic."""
    return [log_probs(scores) for scores in logits.double().permute(0, 2, 3, 1).flatten(0, 2).tolist()]


def make(seed: int, shape: tuple[int, int, int, int] = (2, 4, 3, 5), soft: bool = False, void: float = 0.2):
    """Random logits with gradient, pseudo-label, pixel weight with zeros, class weight."""
    rng = torch.Generator().manual_seed(seed)
    images, classes, height, width = shape
    logits = (3 * torch.randn(shape, generator=rng)).requires_grad_()
    probs = torch.randn(shape, generator=rng).mul(2).softmax(dim=1)
    confidence, ids = probs.max(dim=1)
    valid = torch.rand(images, height, width, generator=rng) >= void
    weight = torch.rand(images, height, width, generator=rng) * (torch.rand(valid.shape, generator=rng) > 0.3)
    label = PseudoLabel(probs if soft else ids, confidence, valid)
    return logits, label, weight, torch.rand(classes, generator=rng) * 2


def consistency_by_hand(logits, label, weight, omega, divide_by, per_class=False) -> float:
    """The loss as a plain loop over pixels."""
    total = 0.0
    valid, weights = label.valid.flatten().tolist(), weight.double().flatten().tolist()
    ids = label.ids.flatten().tolist()
    soft = label.target.dim() == 4
    targets = label.target.double().permute(0, 2, 3, 1).flatten(0, 2).tolist() if soft else None
    for i, q in enumerate(pixels(logits.detach())):
        if not valid[i]:
            continue
        y = targets[i] if targets else [float(c == ids[i]) for c in range(len(q))]
        if per_class:
            loss = -math.fsum(w * p * s for w, p, s in zip(omega.tolist(), y, q, strict=True))
        else:
            mean_omega = math.fsum(w * p for w, p in zip(omega.tolist(), y, strict=True))
            loss = -mean_omega * math.fsum(p * s for p, s in zip(y, q, strict=True))
        total += weights[i] * loss
    counts = {
        "valid": max(sum(valid), 1),
        "kept": max(sum(v and w > 0 for v, w in zip(valid, weights, strict=True)), 1),
        "weight": max(math.fsum(w for v, w in zip(valid, weights, strict=True) if v), 1e-6),
        "all": len(valid),
    }
    counts["kept_share"] = counts["kept"] ** 2 / len(valid)
    return total / counts[divide_by]


# --- the labelled loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_is_the_mean_over_pixels_that_are_not_void(seed):
    logits, label, _, _ = make(seed)
    mask = torch.where(label.valid, label.target, IGNORE)
    values = [-q[c] for q, c in zip(pixels(logits.detach()), mask.flatten().tolist(), strict=True) if c != IGNORE]
    assert cross_entropy(logits, mask).item() == pytest.approx(math.fsum(values) / len(values), rel=1e-5)


def test_cross_entropy_of_even_logits_is_log_of_the_classes():
    mask = torch.tensor([[[0, 1], [2, IGNORE]]])
    assert cross_entropy(torch.zeros(1, 7, 2, 2), mask).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("loss", [cross_entropy, lambda logits, mask: ohem(logits, mask, 0.7, 4)])
def test_void_alone_gives_exactly_zero_with_a_gradient_of_zero(loss):
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    value = loss(logits, torch.full((2, 2, 2), IGNORE))
    value.backward()
    assert value.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=0)


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.full((1, 2, 300, 300), 0.5, dtype=torch.float16)
    assert cross_entropy(logits, torch.zeros(1, 300, 300).long()).item() == pytest.approx(math.log(2), rel=1e-4)


def ohem_by_hand(logits: Tensor, mask: Tensor, threshold: float, min_kept: int) -> float:
    pairs = zip(pixels(logits.detach()), mask.flatten().tolist(), strict=True)
    true_class = sorted(math.exp(q[c]) for q, c in pairs if c != IGNORE)
    if not true_class:
        return 0.0
    limit = math.inf if len(true_class) < min_kept else max(threshold, true_class[min_kept - 1])
    kept = [-math.log(p) for p in true_class if p <= limit * (1 + 1e-6)]
    return math.fsum(kept) / max(len(kept), 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 5), (0.05, 1), (0.05, 12), (1.0, 3), (0.0, 30), (0.3, 999)])
def test_ohem_keeps_what_is_hard_and_at_least_so_many(seed, threshold, min_kept):
    logits, label, _, _ = make(seed)
    mask = torch.where(label.valid, label.target, IGNORE)
    assert ohem(logits, mask, threshold, min_kept).item() == pytest.approx(
        ohem_by_hand(logits, mask, threshold, min_kept), rel=1e-4
    )


def chances(*true_class: float) -> tuple[Tensor, Tensor]:
    """Logits (1, 2, 1, N) that give class 0 these probabilities, and a mask of class 0."""
    p = torch.tensor(true_class, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()]).float().view(1, 2, 1, -1), torch.zeros(1, 1, len(p)).long()


def test_ohem_by_numbers():
    logits, mask = chances(0.9, 0.6, 0.3, 0.1)
    hard = -(math.log(0.6) + math.log(0.3) + math.log(0.1)) / 3
    assert ohem(logits, mask, 0.7, 1).item() == pytest.approx(hard, rel=1e-5)  # the threshold decides
    assert ohem(logits, mask, 0.2, 2).item() == pytest.approx(-(math.log(0.3) + math.log(0.1)) / 2, rel=1e-5)
    mean = -math.fsum(map(math.log, (0.9, 0.6, 0.3, 0.1))) / 4
    assert ohem(logits, mask, 0.2, 4).item() == pytest.approx(mean, rel=1e-5)
    assert ohem(logits, mask, 0.2, 5).item() == pytest.approx(mean, rel=1e-5)  # fewer than min_kept: all


def test_ohem_counts_min_kept_among_labelled_pixels_alone():
    logits, mask = chances(0.9, 0.6, 0.3, 0.1)
    mask[..., 3] = IGNORE
    assert ohem(logits, mask, 0.2, 1).item() == pytest.approx(-math.log(0.3), rel=1e-5)
    mean = -(math.log(0.9) + math.log(0.6) + math.log(0.3)) / 3
    assert ohem(logits, mask, 0.2, 4).item() == pytest.approx(mean, rel=1e-5)


def test_ohem_keeps_every_pixel_that_ties_with_the_last_one():
    logits, mask = chances(0.9, 0.5, 0.5, 0.5)
    loss = ohem(logits.requires_grad_(), mask, 0.1, 1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert (logits.grad[0, 0, 0] != 0).tolist() == [False, True, True, True]


def test_ohem_that_keeps_all_is_cross_entropy():
    logits, label, _, _ = make(5)
    mask = torch.where(label.valid, label.target, IGNORE)
    assert_close(ohem(logits, mask, 1.0, 1), cross_entropy(logits, mask))


def test_the_choice_of_ohem_carries_no_gradient():
    logits, label, _, _ = make(6)
    mask = label.target
    ohem(logits, mask, 0.3, 2).backward()
    probs = logits.detach().softmax(dim=1)
    true_class = probs.gather(1, mask[:, None])
    kept = true_class <= max(0.3, true_class.flatten().kthvalue(2).values.item())
    onehot = torch.zeros_like(probs).scatter(1, mask[:, None], 1.0)
    assert_close(logits.grad, (probs - onehot) * kept / kept.sum())


# --- the consistency loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("divide_by", NORMALISERS)
@pytest.mark.parametrize("per_class", [False, True])
def test_consistency_by_hand(seed, soft, divide_by, per_class):
    logits, label, weight, omega = make(seed, soft=soft)
    value = consistency(logits, label, weight, omega, divide_by, per_class)
    wanted = consistency_by_hand(logits, label, weight, omega, divide_by, per_class)
    assert value.item() == pytest.approx(wanted, rel=1e-5)


def test_divisors_by_numbers():
    valid = torch.tensor([[[True, True, True, False]]])
    weight = torch.tensor([[[0.5, 0.0, 0.25, 1.0]]])
    counts = {name: divisor(name, valid, weight).item() for name in NORMALISERS}
    assert counts == {"valid": 3, "kept": 2, "weight": 0.75, "all": 4, "kept_share": 1.0}
    none = torch.zeros_like(valid)
    counts = {name: divisor(name, none, weight).item() for name in NORMALISERS}
    assert counts == {"valid": 1, "kept": 1, "weight": pytest.approx(1e-6), "all": 4, "kept_share": 0.25}


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(ValueError, match="valid, kept, weight, all or kept_share; got 'mean'"):
        divisor("mean", torch.ones(1, 1, 1).bool(), torch.ones(1, 1, 1))


def one_hot(ids: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(ids, classes).permute(0, 3, 1, 2).float()


def test_ids_one_hot_targets_and_both_class_weightings_agree():
    logits, label, _, omega = make(7)
    soft = replace(label, target=one_hot(label.target, 4))
    wanted = pixel_loss(logits, label, omega, per_class=False)
    for given_label in (label, soft):
        for per_class in (False, True):
            assert_close(pixel_loss(logits, given_label, omega, per_class), wanted)


def test_the_gradient_of_a_soft_target_is_the_weighted_difference_of_distributions():
    logits, label, weight, omega = make(8, soft=True)
    consistency(logits, label, weight, omega, "valid").backward()
    q, y = logits.detach().softmax(dim=1), label.target
    scale = (y * omega.view(1, -1, 1, 1)).sum(dim=1) * weight * label.valid / label.valid.sum()
    assert_close(logits.grad, scale.unsqueeze(1) * (q - y))


def test_the_gradient_per_class_pulls_towards_the_weighted_target():
    logits, label, weight, omega = make(9, soft=True)
    consistency(logits, label, weight, omega, "all", per_class=True).backward()
    q, weighted = logits.detach().softmax(dim=1), label.target * omega.view(1, -1, 1, 1)
    scale = (weight * label.valid / label.valid.numel()).unsqueeze(1)
    assert_close(logits.grad, scale * (q * weighted.sum(dim=1, keepdim=True) - weighted))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("divide_by", NORMALISERS)
@pytest.mark.parametrize("nothing", ["valid", "weight"])
def test_with_nothing_to_learn_from_the_loss_is_exactly_zero_with_a_finite_gradient(soft, divide_by, nothing):
    logits, label, weight, omega = make(10, soft=soft)
    if nothing == "valid":
        label = replace(label, valid=torch.zeros_like(label.valid))
    else:
        weight = torch.zeros_like(weight)
    value = consistency(logits, label, weight, omega, divide_by)
    value.backward()
    assert value.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=0)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_what_an_unused_pixel_holds_changes_neither_loss_nor_gradient(soft, broken):
    logits, label, weight, omega = make(11, soft=soft)
    used = label.valid & (weight > 0)
    values = torch.where(used.unsqueeze(1), logits.detach(), broken).requires_grad_()
    value, wanted = (consistency(scores, label, weight, omega, "valid") for scores in (values, logits))
    assert_close(value, wanted)
    value.backward()
    wanted.backward()
    assert_close(values.grad, logits.grad)


def test_a_weight_at_an_invalid_pixel_does_not_matter_whatever_it_is():
    logits, label, weight, omega = make(12)
    for broken in (math.inf, math.nan):
        spoilt = torch.where(label.valid, weight, broken)
        for divide_by in ("valid", "kept", "all"):
            value = consistency(logits, label, spoilt, omega, divide_by)
            assert_close(value, consistency(logits, label, weight, omega, divide_by))


def test_broken_logits_of_void_pixels_leave_the_labelled_loss_alone():
    logits, label, _, _ = make(13)
    mask = torch.where(label.valid, label.target, IGNORE)
    values = torch.where(label.valid.unsqueeze(1), logits, math.inf)
    assert_close(cross_entropy(values, mask), cross_entropy(logits, mask))
    assert_close(ohem(values, mask, 0.7, 4), ohem(logits, mask, 0.7, 4))


def test_the_loss_is_computed_in_float32_whatever_the_logits():
    logits, label, weight, omega = make(14, soft=True)
    value = consistency(logits.detach().bfloat16(), label, weight, omega, "valid")
    assert value.dtype == torch.float32


# --- laws -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, soft=st.booleans(), divide_by=st.sampled_from(NORMALISERS), per_class=st.booleans())
def test_consistency_is_not_negative_and_finite(seed, soft, divide_by, per_class):
    logits, label, weight, omega = make(seed, soft=soft)
    value = consistency(logits, label, weight, omega, divide_by, per_class).item()
    assert 0 <= value < math.inf


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, soft=st.booleans(), divide_by=st.sampled_from(NORMALISERS), factor=st.floats(0.1, 10))
def test_scaling_the_pixel_weights_scales_the_loss_unless_it_is_divided_by_them(seed, soft, divide_by, factor):
    logits, label, weight, omega = make(seed, soft=soft)
    before = consistency(logits, label, weight, omega, divide_by).item()
    after = consistency(logits, label, weight * factor, omega, divide_by).item()
    assert after == pytest.approx(before if divide_by == "weight" else before * factor, rel=1e-4, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, soft=st.booleans(), factor=st.floats(0.1, 10), per_class=st.booleans())
def test_scaling_the_class_weights_scales_the_loss(seed, soft, factor, per_class):
    logits, label, weight, omega = make(seed, soft=soft)
    before = consistency(logits, label, weight, omega, "valid", per_class).item()
    after = consistency(logits, label, weight, omega * factor, "valid", per_class).item()
    assert after == pytest.approx(before * factor, rel=1e-4, abs=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, shift=st.floats(-50, 50))
def test_losses_do_not_see_a_constant_added_to_all_logits_of_a_pixel(seed, shift):
    logits, label, weight, omega = make(seed, soft=True)
    before, after = (consistency(s, label, weight, omega, "valid").item() for s in (logits, logits + shift))
    assert after == pytest.approx(before, rel=1e-3, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_with_expected_class_weights_the_target_itself_is_the_optimum(seed):
    _, label, weight, omega = make(seed, soft=True)
    best = label.target.clamp(min=1e-6).log().requires_grad_()
    at_best = consistency(best, label, weight, omega, "valid")
    at_best.backward()
    assert best.grad.abs().max() < 1e-5
    other = best.detach() + 0.3 * torch.randn(best.shape, generator=torch.Generator().manual_seed(seed))
    assert consistency(other, label, weight, omega, "valid") >= at_best - 1e-6


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_order_of_images_does_not_matter(seed):
    logits, label, weight, omega = make(seed)
    turned = PseudoLabel(label.target.flip(0), label.confidence.flip(0), label.valid.flip(0))
    one = consistency(logits, label, weight, omega, "kept")
    assert_close(consistency(logits.flip(0), turned, weight.flip(0), omega, "kept"), one)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, threshold=st.floats(0, 1), min_kept=st.integers(1, 40))
def test_ohem_is_at_least_cross_entropy_and_falls_with_what_is_kept(seed, threshold, min_kept):
    logits, label, _, _ = make(seed)
    mask = torch.where(label.valid, label.target, IGNORE)
    value = ohem(logits, mask, threshold, min_kept)
    assert value >= cross_entropy(logits, mask) - 1e-5
    assert ohem(logits, mask, threshold, min_kept + 3) <= value + 1e-5


# --- what methods share ---------------------------------------------------------------------------------------------


def test_squared_error_is_the_sum_over_classes_for_ids_and_for_distributions():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().view(1, 3, 1, 1)
    sure, valid = torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    hard = PseudoLabel(torch.tensor([[[1]]]), sure, valid)
    soft = PseudoLabel(torch.tensor([0.0, 0.6, 0.4]).view(1, 3, 1, 1), sure, valid)
    assert squared_error(logits, hard).item() == pytest.approx(0.2**2 + 0.5**2 + 0.3**2)
    assert squared_error(logits, soft).item() == pytest.approx(0.2**2 + 0.1**2 + 0.1**2)


def test_a_loss_of_its_own_takes_the_place_of_cross_entropy_with_expected_class_weights():
    logits, label, weight, omega = make(0, soft=True)
    value = consistency(logits, label, weight, omega, "valid", own_loss=squared_error)
    factor = torch.einsum("bchw,c->bhw", label.target, omega)
    wanted = (squared_error(logits, label) * factor * weight)[label.valid].sum() / label.valid.sum()
    assert_close(value, wanted)


def view_output(view: View, seed: int = 3, soft: bool = False) -> ViewOutput:
    logits, label, weight, _ = make(seed, soft=soft)
    mix = Mixing(None, (2, 3, 5), torch.device("cpu"))
    return ViewOutput(view, torch.zeros(2, 3, 3, 5), Output(logits, logits), label, weight, None, mix)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("divide_by", NORMALISERS)
def test_a_views_loss_has_the_views_divisor_and_all_classes_count_alike(divide_by, soft):
    output = view_output(View("strong", divide_by=divide_by, loss_weight=7.0), soft=soft)
    given = output.output.logits, output.label, output.weight
    assert view_loss(output).item() == pytest.approx(consistency_by_hand(*given, torch.ones(4), divide_by), rel=1e-6)


def test_a_views_loss_has_the_views_pixel_loss():
    output = view_output(View("strong", loss=squared_error))
    given = output.output.logits, output.label, output.weight, torch.ones(4), "valid", False, squared_error
    assert torch.equal(view_loss(output), consistency(*given))
    assert view_loss(output) != view_loss(view_output(View("strong")))


def test_what_is_given_takes_the_place_of_the_views_own():
    output, (logits, label, weight, omega) = view_output(View("strong", divide_by="kept")), make(5)
    own = output.output.logits, output.label, output.weight
    for loss, by_hand in (
        (view_loss(output, label=label), (own[0], label, own[2])),
        (view_loss(output, weight=weight), (own[0], own[1], weight)),
        (view_loss(output, logits=logits), (logits, own[1], own[2])),
    ):
        assert torch.equal(loss, consistency(*by_hand, divide_by="kept"))
    given = {"class_weight": omega, "per_class": True}
    assert torch.equal(view_loss(output, **given), consistency(*own, divide_by="kept", **given))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, percent=st.floats(0, 100))
def test_percentiles_are_numpys_over_the_valid_values(seed, percent):
    torch.manual_seed(seed)
    values, valid = torch.randn(3, 5, 4), torch.rand(3, 5, 4) < 0.5
    valid[0, 0, 0] = True
    wanted = np.percentile(values[valid].numpy().astype(float), percent)
    assert percentile(values, valid, percent).item() == pytest.approx(wanted, abs=1e-5)


def test_the_percentile_of_nothing_keeps_nothing():
    values = torch.randn(2, 3, 3)
    assert not torch.isfinite(percentile(values, torch.zeros(2, 3, 3, dtype=torch.bool), 50))


@pytest.mark.parametrize(("mass", "kept"), [(0, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1, 3)])
def test_the_fewest_classes_with_a_mass(mass, kept):
    largest = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    assert top_p_mask(largest, mass).flatten().tolist() == [True] * kept + [False] * (3 - kept)


# --- where a mutant once lived --------------------------------------------------------------------------------------


def test_a_single_known_pixel_counts_whole():
    logits, mask = torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]]]]), torch.tensor([[[0, IGNORE]]])
    assert cross_entropy(logits, mask).item() == pytest.approx(math.log(2))


def test_the_setting_chooses_the_loss():
    logits, mask = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    plain = supervised_loss(LossConfig(supervised="ce"))(logits, mask)
    hard = supervised_loss(LossConfig(supervised="ohem", ohem_threshold=0.0, ohem_min_kept=1))(logits, mask)
    assert plain == cross_entropy(logits, mask)
    assert hard == ohem(logits, mask, 0.0, 1) > plain


def test_squared_error_of_ids_where_no_two_sizes_are_the_same():
    ids = torch.tensor([[[0, 2]]])
    label = PseudoLabel(ids, torch.ones(1, 1, 2), torch.ones(1, 1, 2, dtype=torch.bool))
    assert squared_error(torch.zeros(1, 3, 1, 2), label).flatten().tolist() == pytest.approx([4 / 9 + 2 / 9] * 2)


def test_the_percentile_of_one_value_is_it():
    assert percentile(torch.tensor([7.0, 9.0]), torch.tensor([True, False]), 80) == 7
