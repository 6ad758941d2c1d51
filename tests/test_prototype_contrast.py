"""Contrast with prototypes: which cells take part, and which network's features move the prototypes."""

from __future__ import annotations

from dataclasses import replace

import torch
from ssss_zoo.plugins.baselines.esl import ESL
from torch import nn
from torch.testing import assert_close

from helpers.farcluss import info, scene
from ssss_zoo.toolkit import (
    NO_CLASS,
    Output,
    PrototypeContrast,
    PseudoLabel,
    View,
    confident_ids,
    downsample_label,
    hookimpl,
)
from ssss_zoo.toolkit.types import Progress


def identity_contrast(classes: int = 3, dim: int = 4) -> PrototypeContrast:
    contrast = PrototypeContrast(info(classes, dim), dim, 0.9)
    contrast.head = nn.Identity()
    contrast.slow_head = nn.Identity()
    return contrast


def test_a_pixel_at_the_confidence_counts_and_one_below_it_or_in_the_padding_does_not():
    edge = torch.tensor(0.95)
    confidence = torch.stack([edge, torch.nextafter(edge, torch.tensor(0.0)), torch.tensor(1.0)]).view(1, 1, 3)
    valid = torch.tensor([True, True, False]).view(1, 1, 3)
    ids = confident_ids(PseudoLabel(torch.tensor([[[3, 3, 3]]]), confidence, valid), 0.95)
    assert ids.flatten().tolist() == [3, NO_CLASS, NO_CLASS]


def test_a_label_reaches_the_grid_as_the_pixels_under_the_cell_centres():
    label = scene(1)["label"]
    small = downsample_label(label, 4, 4)
    for name in ("target", "confidence", "valid"):
        assert torch.equal(getattr(small, name), getattr(label, name)[..., 1::2, 1::2]), name


def test_anchor_cells_are_the_labelled_images_then_the_views_that_are_not_perturbed():
    given = scene(1)
    view = given["views"][0]
    perturbed = replace(view, view=View("perturbed", perturb=lambda maps: maps))
    cells = identity_contrast().anchor_cells(given["labelled"], given["labelled_output"], (view, perturbed), 0.6)
    features = torch.cat([given["labelled_output"].features, view.output.features])
    assert_close(cells.features, nn.functional.normalize(features, dim=1).movedim(1, -1).flatten(0, 2))
    wanted = torch.cat([given["labelled"].mask, confident_ids(view.label, 0.6)])[:, 1::2, 1::2]
    assert cells.ids.tolist() == wanted.flatten().tolist()
    assert NO_CLASS in cells.ids


def test_the_teachers_features_pass_the_slow_head_without_gradient_and_a_pass_may_be_missing():
    contrast = PrototypeContrast(info(3, 4), 5, 0.9)
    output = Output(torch.zeros(0), torch.randn(2, 4, 3, 3, requires_grad=True))
    with torch.no_grad():
        contrast.head[0].weight.add_(1.0)
    features = contrast.teacher_features(output, None)
    assert features.shape == (18, 5)
    assert not features.requires_grad
    slow = nn.functional.normalize(contrast.slow_head(output.features), dim=1).movedim(1, -1).flatten(0, 2)
    assert torch.equal(features, slow)


def test_the_slow_head_follows_the_head():
    contrast = PrototypeContrast(info(3, 4), 5, 0.9)
    before = contrast.slow_head.average[0].weight.clone()
    with torch.no_grad():
        contrast.head[0].weight.add_(1.0)
    contrast.update(Progress(500, 1000, 10))
    assert_close(contrast.slow_head.average[0].weight, 0.9 * before + 0.1 * contrast.head[0].weight.detach())


def test_its_three_parts_are_named():
    assert list(dict(PrototypeContrast(info(3, 4), 5, 0.9).named_children())) == ["head", "slow_head", "prototypes"]


def test_a_run_warns_of_what_setup_makes_and_does_not_return_and_of_nothing_else(tiny_run, monkeypatch, warnings):
    """The parts of a module may be returned one by one."""
    for method in ("farcluss", "esl"):
        tiny_run(f"method={method}")
    assert not [line for line in warnings() if "setup returned" in line]

    @hookimpl
    def setup(self, info):
        self.whole = nn.ModuleDict({"returned": nn.Linear(2, 2), "forgotten": nn.Linear(2, 2)})
        self.contrast = PrototypeContrast(info, 5, 0.9)
        return {"returned": self.whole["returned"], **dict(self.contrast.named_children())}

    monkeypatch.setattr(ESL, "setup", setup)
    tiny_run("method=esl")
    (line,) = [line for line in warnings() if "setup returned" in line]
    assert line.startswith("esl: self.whole is in no module that setup returned")
