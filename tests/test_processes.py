"""Two processes with half of the images each give the numbers of one process with all of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from helpers.processes import in_two_processes
from ssss_zoo.toolkit import (
    PseudoLabel,
    consistency,
    cross_entropy,
    ohem,
    process_count,
    process_gather,
    process_max,
    process_mean,
    process_sum,
)  # fmt: skip

B, C, H, W = 4, 3, 5, 6
EVEN = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])  # (B, 2)


def images() -> tuple[Tensor, Tensor, PseudoLabel, Tensor]:
    """Logits, masks, pseudo-labels and weights of four images; the last has hardly a labelled or valid pixel."""
    make = torch.Generator().manual_seed(0)
    logits = torch.randn(B, C, H, W, generator=make, dtype=torch.float64)
    mask = torch.randint(C, (B, H, W), generator=make)
    mask[3, 1:] = 255
    valid = torch.rand(B, H, W, generator=make) < 0.8
    valid[3, 1:] = False
    target = torch.randint(C, (B, H, W), generator=make)
    weight = torch.rand(B, H, W, generator=make).double() * (torch.rand(B, H, W, generator=make) < 0.6)
    return logits, mask, PseudoLabel(target, valid.double(), valid), weight


def gradients(part: slice) -> dict[str, Tensor]:
    """The gradient of each loss by its logits, of some of the four images."""
    logits, mask, label, weight = images()
    label = PseudoLabel(label.target[part], label.confidence[part], label.valid[part])
    losses = {"cross_entropy": lambda x: cross_entropy(x, mask[part])}
    single = torch.full_like(mask, 255)
    single[0, 0, 0] = 1
    losses["a single labelled pixel"] = lambda x: cross_entropy(x, single[part])
    losses["ohem"] = lambda x: ohem(x, mask[part], threshold=1.0, min_kept=2)  # all: whichever process they are in
    for divide_by in ("valid", "kept", "weight", "all", "kept_share"):
        losses[divide_by] = partial(
            lambda x, divide_by: consistency(x, label, weight[part], torch.ones(C), divide_by), divide_by=divide_by
        )
    found = {}
    for name, loss in losses.items():
        own = logits[part].clone().requires_grad_()
        loss(own).backward()
        found[name] = own.grad
    return found


def work(rank: int) -> dict:
    """Gradients of two images as a process of two has them, and what each function makes of the rows of EVEN."""
    part = slice(2 * rank, 2 * rank + 2)
    rows = EVEN[part]
    return {
        "gradients": gradients(part),
        "count": process_count(),
        "sum": process_sum(rows),
        "max": process_max(rows),
        "mean": process_mean(rows.long()),
        "gather": process_gather(rows),
        "kept": rows,  # nothing is reduced in place
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return in_two_processes(work, tmp_path_factory.mktemp("processes"))


def test_two_processes_have_the_mean_gradient_of_one_with_all_images(both):
    """The gradients of processes are averaged, so half of each must be that of all images in one."""
    whole = gradients(slice(None))
    for name, gradient in whole.items():
        assert_close(torch.cat([one["gradients"][name] for one in both]) / 2, gradient, atol=1e-12, rtol=1e-9, msg=name)


def test_sums_maxima_means_and_gathered_rows_are_the_same_everywhere(both):
    for rank, one in enumerate(both):
        assert one["count"] == 2
        assert one["sum"].tolist() == [[6, 8], [10, 12]]
        assert one["max"].tolist() == [[5, 6], [7, 8]]
        assert one["mean"].tolist() == [[3, 4], [5, 6]]
        assert torch.equal(one["gather"], EVEN)
        assert torch.equal(one["kept"], EVEN[2 * rank : 2 * rank + 2])


def test_a_single_process_changes_nothing():
    rows = torch.tensor([1, 2])
    assert process_count() == 1
    assert all(function(rows) is rows for function in (process_sum, process_max, process_mean, process_gather))
