"""FARCLUSS outside a run: random logits, its answers to them, and the call of `regularize` on features made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from ssss_zoo.plugins.farcluss.farcluss import Farcluss
from torch import nn

from ssss_zoo.toolkit.losses import consistency, cross_entropy
from ssss_zoo.toolkit.types import Labelled, Output, Progress, RunInfo, View, ViewOutput

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
RAMP_START = Progress(0, 1000, 10)
AFTER_RAMP = Progress(60, 1000, 10)  # the ramp of 5 epochs ends at step 50


def random_logits(seed, classes=5, size=(2, 3, 4), scale=3.0):
    batch, height, width = size
    return scale * torch.randn(batch, classes, height, width, generator=torch.Generator().manual_seed(seed))


def all_valid(logits):
    return torch.ones(logits.shape[0], *logits.shape[2:], dtype=torch.bool)


def some_valid(logits, seed):
    return torch.rand(all_valid(logits).shape, generator=torch.Generator().manual_seed(seed)) < 0.7


def label_of(method, logits, valid=None):
    probs = logits.float().softmax(dim=1)
    return method.pseudo_label(probs=probs, logits=logits, valid=all_valid(logits) if valid is None else valid)


def weight_of(method, logits):
    return method.pixel_weight(probs=logits.float().softmax(dim=1))


def class_weight_of(method, label, classes):
    omega = method.class_weight(label=label, num_classes=classes)
    return torch.ones(classes) if omega is None else omega


def dense(label, classes):
    return F.one_hot(label.target, classes).movedim(-1, 1).float() if label.target.dim() == 3 else label.target


def loss_of(method, teacher, student, valid=None, per_class=False):
    label, classes = label_of(method, teacher, valid), teacher.shape[1]
    weight, omega = weight_of(method, teacher), class_weight_of(method, label, classes)
    return consistency(student, label, weight, omega, method.reduce, per_class)


def as_probs(*pixels):
    return torch.tensor(pixels).T.view(1, len(pixels[0]), 1, len(pixels))


def off(**options):
    """All but the fuzzy labels switched off, unless asked for."""
    return Farcluss(**{"uncertainty_gamma": 0.0, "rebalance": "off", "contrast": "off", **options})


def info(classes=3, feature_dim=4):
    names = tuple(f"class {c}" for c in range(classes))
    sizes = {"class_names": names, "feature_dim": feature_dim, "map_dims": (feature_dim,), "in_channels": 3}
    budget = {"crop": (8, 8), "batch": 2, "steps": 1000, "epoch_steps": 10, "folder": Path("."), "students": ()}
    functions = {"read": print, "predict": print, "supervised": cross_entropy, "strong": abs}
    return RunInfo(**sizes, **budget, labelled=(), unlabelled=(), **functions)


def ready(classes=3, feature_dim=4, **options):
    """A method after setup whose projection is the identity, so that cells are the features themselves."""
    method = Farcluss(**{"contrast_dim": feature_dim, "contrast_anchors": 500, **options})
    method.setup(info=info(classes, feature_dim))
    method.prototype_contrast.head = nn.Identity()
    method.prototype_contrast.slow_head = nn.Identity()
    return method


class FixedTeacher:
    """A teacher that answers the same features for whatever it is shown."""

    def __init__(self, output):
        self.output = output
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return self.output


def scene(seed, classes=3, batch=2, grid=4, size=8, width=4):
    """What `regularize` is called with: random features, labels, weights and masks with some void."""
    generator = torch.Generator().manual_seed(seed)

    def output(size=size):
        logits = 4 * torch.randn(batch, classes, size, size, generator=generator)
        return Output(logits, torch.randn(batch, width, grid, grid, generator=generator))

    mask = torch.randint(0, classes, (batch, size, size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    weak, student, strong = output(), output(), output()
    strong.features.requires_grad_()
    student.features.requires_grad_()
    label = label_of(Farcluss(), weak.logits, some_valid(weak.logits, seed))
    weight = weight_of(Farcluss(), weak.logits)
    image = torch.zeros(batch, 3, size, size)
    turned = replace(label, target=label.target.flip(0))
    seen = ViewOutput(View("strong"), image, strong, turned, weight.flip(0), None, lambda own, others: own)
    seen = replace(seen, label=replace(seen.label, confidence=label.confidence.flip(0), valid=label.valid.flip(0)))
    return {
        "labelled": Labelled(image, mask),
        "labelled_output": student,
        "teacher": FixedTeacher(output()),
        "teacher_output": weak,
        "label": label,
        "weight": weight,
        "views": (seen,),
        "progress": AFTER_RAMP,
    }
