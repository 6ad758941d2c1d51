"""Checks of what a hook returns, and that it leaves alone what it was given."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo.engine.hook_trace import describe_value
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.mixing import BATCH_PARTNERS, nested_cutmix
from ssss_zoo.toolkit.types import CutMix, PseudoLabel, View, ViewOutput, Views


def check_answer(plugin: str, hook: str, answer: Any, arguments: dict[str, Any]) -> None:
    """Raise UserError, naming plugin and hook, when an answer is not what the spec says. None is always allowed."""
    checker = CHECKS.get(hook)
    if answer is None or checker is None:
        return
    fault = checker(answer, arguments)
    if fault:
        raise UserError(f"hook {hook} of '{plugin}' must return {fault}")


def tensor_fault(
    name: str, value: Any, shape: tuple[int, ...], floating: bool = True, least: float = 0.0
) -> str | None:
    """What is wrong with a tensor, or None."""
    sizes = f"{name} = {shape}"
    if not isinstance(value, Tensor):
        return f"a tensor {sizes}, got {type(value).__name__}"
    if tuple(value.shape) != shape:
        return f"{sizes}, got {tuple(value.shape)}"
    if floating != value.is_floating_point():
        return f"{'floats' if floating else 'whole numbers'}, got {value.dtype}"
    if not torch.isfinite(value).all():
        return f"finite numbers, got {int((~torch.isfinite(value)).sum())} of {value.numel()} that are not"
    if value.numel() and value.min() < least:
        return f"numbers >= {least:g}, got {value.min().item():g}"
    return None


def check_pseudo_label(answer: Any, arguments: dict[str, Any]) -> str | None:
    """What is wrong with a pseudo-label, target, confidence and validity in turn."""
    if not isinstance(answer, PseudoLabel):
        return f"a PseudoLabel, got {type(answer).__name__}"
    images, classes, height, width = arguments["probs"].shape
    pixels = (images, height, width)
    if not isinstance(answer.target, Tensor):
        return f"target, ids (B, H, W) or a distribution (B, C, H, W), got {describe_value(answer.target)}"
    if answer.target.is_floating_point():
        fault = tensor_fault("target (B, C, H, W)", answer.target, (images, classes, height, width))
        off = fault is None and (answer.target.sum(dim=1) - 1).abs().max() > 1e-3
        fault = "targets that sum to 1 over the classes" if off else fault
    else:
        fault = tensor_fault("target (B, H, W)", answer.target, pixels, floating=False)
        if fault is None and answer.target.dtype != torch.int64:
            fault = f"class ids of type int64, got {answer.target.dtype}"
        if fault is None and answer.target.max() >= classes:
            fault = f"class ids below {classes}, got {int(answer.target.max())}"
    fault = fault or tensor_fault("confidence (B, H, W)", answer.confidence, pixels)
    good = isinstance(answer.valid, Tensor) and answer.valid.dtype == torch.bool and tuple(answer.valid.shape) == pixels
    if fault is None and not good:
        fault = f"valid (B, H, W) = {pixels} bool, got {describe_value(answer.valid)}"
    return fault


def check_views(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, Views):
        return f"Views, got {type(answer).__name__}"
    if not (math.isfinite(answer.supervised_weight) and answer.supervised_weight >= 0):
        return f"a supervised_weight that is finite and >= 0, got {answer.supervised_weight}"
    names = [view.name for view in answer.views]
    if len(set(names)) != len(names):
        return f"views with different names, got {names}"
    return next((fault for view in answer.views if (fault := check_view(view, arguments["size"][0]))), None)


VIEW_CHOICES = {
    "divide_by": ("valid", "kept", "weight", "all", "kept_share"),
    "weight_pooling": ("pixel", "batch"),
    "images": ("unlabelled", "labelled"),
}
CUTMIX_PARTNERS = ("next", "reverse", "rows", "stream", "twin", "labelled")


def check_view(view: View, images: int) -> str | None:
    if not (math.isfinite(view.loss_weight) and view.loss_weight >= 0):
        return f"loss weights that are finite and >= 0, got {view.loss_weight} for {view.name}"
    if view.strength not in ("weak", "strong") and not (
        hasattr(view.strength, "draw") and hasattr(view.strength, "apply")
    ):
        return f"views of strength weak, strong or an Augmentation, got '{view.strength}' for {view.name}"
    for name, choices in VIEW_CHOICES.items():
        if getattr(view, name) not in choices:
            return f"a {name} of {', '.join(choices)}, got '{getattr(view, name)}' for {view.name}"
    return next((fault for cutmix in nested_cutmix(view.cutmix) if (fault := check_cutmix(cutmix, images))), None)


def check_cutmix(cutmix: CutMix, images: int) -> str | None:
    if cutmix.partner not in CUTMIX_PARTNERS:
        return f"a CutMix partner of {', '.join(CUTMIX_PARTNERS)}, got '{cutmix.partner}'"
    in_batch = cutmix.partner in BATCH_PARTNERS
    wrong = cutmix.rows is None if cutmix.partner == "rows" else in_batch and cutmix.rows is not None
    if wrong:
        rows = describe_value(cutmix.rows)
        return f"CutMix rows with the partner rows, none with next and reverse; got {rows} with {cutmix.partner}"
    shape = tuple(cutmix.boxes.shape)
    if len(shape) != 3 or shape[0] != images or shape[2] != 4 or cutmix.boxes.is_floating_point():
        return f"CutMix boxes (B, n, 4) int64 with B = {images}, got {describe_value(cutmix.boxes)}"
    return None


def check_refine(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, ViewOutput):
        return f"a ViewOutput, got {type(answer).__name__}"
    images, _, height, width = answer.output.logits.shape
    fault = check_pseudo_label(answer.label, {"probs": answer.output.logits})
    return fault or tensor_fault("weight (B, H, W)", answer.weight, (images, height, width))


def check_pixel_weight(answer: Any, arguments: dict[str, Any]) -> str | None:
    images, _, height, width = arguments["probs"].shape
    return tensor_fault("(B, H, W)", answer, (images, height, width))


def check_class_weight(answer: Any, arguments: dict[str, Any]) -> str | None:
    return tensor_fault("(C,)", answer, (arguments["num_classes"],))


def check_terms(answer: Any, arguments: dict[str, Any]) -> str | None:
    """What is wrong with loss terms: names that are taken, no scalars, no gradient."""
    if not isinstance(answer, dict):
        return f"a dict of scalar losses by name, got {type(answer).__name__}"
    taken = sorted(answer.keys() & {"supervised", "consistency", "total"})
    if taken:
        return f"losses by names of its own; '{taken[0]}' is the engine's"
    faults = (tensor_fault(f"'{name}': a scalar", term, (), least=-float("inf")) for name, term in answer.items())
    fault = next((fault for fault in faults if fault), None)
    unattached = [name for name, term in answer.items() if fault is None and not term.requires_grad]
    if unattached and torch.is_grad_enabled():
        return (
            f"'{unattached[0]}': a loss that reaches the student, got one without a gradient; where there is nothing "
            "to work on, 0 times something of the student's"
        )
    return fault


def check_modules(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, dict) or not all(isinstance(module, nn.Module) for module in answer.values()):
        return f"a dict of torch modules by name, got {describe_value(answer)}"
    return None


def check_students(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, list) or not answer or not all(isinstance(network, nn.Module) for network in answer):
        return f"a list of networks, got {describe_value(answer)}"
    return None


def check_teacher(answer: Any, arguments: dict[str, Any]) -> str | None:
    missing = [
        name
        for name in ("reads_from", "forward_group", "network", "is_result", "update", "__call__")
        if not hasattr(answer, name)
    ]
    return f"a Teacher; {type(answer).__name__} has no {', '.join(missing)}" if missing else None


def check_stages(answer: Any, arguments: dict[str, Any]) -> str | None:
    return None if isinstance(answer, Generator) else f"a generator of Stage, got {describe_value(answer)}"


CHECKS: dict[str, Callable[[Any, dict[str, Any]], str | None]] = {
    "setup": check_modules,
    "make_students": check_students,
    "make_teacher": check_teacher,
    "plan_stages": check_stages,
    "make_views": check_views,
    "pseudo_label": check_pseudo_label,
    "pixel_weight": check_pixel_weight,
    "refine": check_refine,
    "class_weight": check_class_weight,
    "regularize": check_terms,
}


def versions(arguments: dict[str, Any]) -> list[tuple[str, Tensor, int]]:
    """Every tensor that a hook is given, by its name, with the count of writes into it so far."""
    return [(name, tensor, tensor._version) for name, tensor in tensors_in(arguments)]


def tensors_in(things: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in things.items():
        if isinstance(value, Tensor):
            yield name, value
        elif is_dataclass(value) and not isinstance(value, type):
            yield from tensors_in({f"{name}.{part.name}": getattr(value, part.name) for part in fields(value)})
        elif isinstance(value, tuple):  # views, maps; a list holds networks, or the thousands of samples of a run
            yield from tensors_in({f"{name}[{index}]": item for index, item in enumerate(value)})


def check_untouched(plugin: str, hook: str, before: list[tuple[str, Tensor, int]]) -> None:
    """Raise UserError when a hook wrote into what it was given."""
    touched = [name for name, tensor, count in before if tensor._version != count]
    if touched:
        raise UserError(
            f"hook {hook} of '{plugin}' writes into {touched[0]}, which others read after it; work on a copy"
        )


def largest_number(tensor: Tensor) -> float:
    """The largest of its numbers without their signs, nan where one is nan; 0 of whole numbers and of none."""
    return float(tensor.detach().abs().max()) if tensor.is_floating_point() and tensor.numel() else 0.0
