"""Hidden labels reach no hook and change no number."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.engine_steps import (
    SIDE,
    START,
    box,
    raw_batch,
    views,
)
from ssss_zoo.toolkit.types import (
    CutMix,
    Labelled,
    Output,
    PseudoLabel,
    RawBatch,
    RawLabelled,
    RawUnlabelled,
    Unlabelled,
    View,
)


def tensors_in(value) -> list[Tensor]:
    """Every tensor within records, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return tensors_in(list(value.values()))
    if isinstance(value, (Labelled, Unlabelled, RawBatch, Output, PseudoLabel)) or hasattr(value, "view"):
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
        assert not isinstance(labelled, RawBatch)
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
    made.engine.losses(raw_batch(), START)
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
    raw = RawBatch(
        RawLabelled(image, columns), RawUnlabelled(image, columns < 6), RawUnlabelled(image, columns < 6), columns
    )
    torch.manual_seed(0)
    batch = made.engine.to_device(raw, made.engine.draw(raw, START))
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
