"""Asks the hooks, combines their answers by the rule of each spec, checks and traces them while a run is young."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo.errors import NOT_FINITE, Interrupted, UserError, out_of_memory
from ssss_zoo.toolkit.mixing import IN_BATCH, chain
from ssss_zoo.toolkit.types import CutMix, Progress, PseudoLabel, Seen, View, Views

Print = Callable[[str], None]
HUGE = 1e6  # no output of a network whose training goes well; what is computed from such numbers overflows (our choice)


class Relay:
    """The run's line to its methods.

    watching: while True every answer is checked for type, shape and finiteness (which waits for the device, so it is
    turned off after the first steps), and printed when `trace` is given.
    """

    def __init__(self, trace: Print | None = None) -> None:
        self.hook: Any = None  # the plugin manager's relay, set by `connect`
        self.watching, self.trace = True, trace
        self.arguments: dict[str, Any] = {}
        self.step = 0  # the one that the last hook with a `progress` was asked in

    def connect(self, hook: Any) -> None:
        self.hook = hook

    def ask(self, hook: str, **arguments: Any) -> Any:
        """Every answer (a list), or the first one where the spec says so."""
        self.arguments = arguments
        if isinstance(progress := arguments.get("progress"), Progress):
            self.step = progress.step + 1
        caller = getattr(self.hook, hook)
        answer = caller(**arguments)
        if self.watching:
            wrappers = [one.plugin_name.partition(" ")[0] for one in caller.get_hookimpls() if one.wrapper]
            if wrappers:  # each answer was checked as it was given; what wrappers made of them was not
                with self.own_faults(hook):
                    for one in answer if isinstance(answer, list) else [answer]:
                        check_answer("+".join(wrappers), hook, one, arguments)
        return answer

    def views(self, size: tuple[int, int, int], progress: Progress) -> Views:
        views: Views = self.ask("make_views", size=size, progress=progress)
        return views

    def pseudo_label(self, **arguments: Any) -> PseudoLabel:
        label: PseudoLabel = self.ask("pseudo_label", **arguments)
        return label

    def pixel_weight(self, label: PseudoLabel, **arguments: Any) -> Tensor:
        """Product of all answers, (B, H, W) float32; ones when nobody speaks."""
        answers = self.ask("pixel_weight", label=label, **arguments)
        return product(answers) if answers else torch.ones_like(label.confidence)

    def refine(self, seen: Seen, **arguments: Any) -> Seen:
        """The view as its first answer has it; as it was when nobody speaks."""
        return self.ask("refine", seen=seen, **arguments) or seen

    def class_weight(self, label: PseudoLabel, weight: Tensor, num_classes: int, progress: Progress) -> Tensor:
        """Product of all answers, (C,) float32; ones when nobody speaks."""
        answers = self.ask("class_weight", label=label, weight=weight, num_classes=num_classes, progress=progress)
        return product(answers) if answers else torch.ones(num_classes, device=weight.device)

    def regularize(self, **arguments: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for answer in self.ask("regularize", **arguments):
            for name, term in answer.items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    def watch(self, plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, the answer of `plugin` to `hook`, with its answers checked and traced while watching, and its
        faults told by name and line."""
        function = named_faults(plugin, hook, function)

        def watched(*arguments: Any) -> Any:
            with self.own_faults(hook):
                if not self.watching:
                    return function(*arguments)
                start, before = time.perf_counter(), versions(self.arguments)
                answer = function(*arguments)
                check_answer(plugin, hook, answer, self.arguments)
                check_untouched(plugin, hook, before)
                if self.trace:
                    self.trace(trace_line(plugin, hook, self.arguments, answer, time.perf_counter() - start))
                return answer

        return watched

    @contextmanager
    def own_faults(self, hook: str) -> Iterator[None]:
        """Faults of a hook that was given numbers that are not finite, or HUGE, become one of the networks that made
        those."""
        given = self.arguments
        try:
            yield
        except UserError as error:
            largest = {name: top for name, tensor in tensors_in(given) if not (top := size_of(tensor)) < HUGE}
            if not largest:
                raise
            name, top = next(iter(largest.items()))
            what = f"as large as {top:.3g}" if math.isfinite(top) else "not finite"
            raise UserError(
                f"the network's outputs are {what} at step {self.step}: so hook {hook} was given {name}; {NOT_FINITE}"
            ) from error


def named_faults(plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose exceptions become a UserError that says which hook of which method fails, and where."""

    def named(*arguments: Any) -> Any:
        """As `function`."""
        try:
            return function(*arguments)
        except (UserError, Interrupted):
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            frames = traceback.extract_tb(error.__traceback__)[1:]
            place = next(frame for frame in reversed(frames) if frame.filename == frames[0].filename)
            what = " ".join(traceback.format_exception_only(error)[-1].split())
            where = f"{Path(place.filename).name}, line {place.lineno}"
            raise UserError(f"hook {hook} of '{plugin}' fails in {where}: {what}") from error

    return named


def size_of(tensor: Tensor) -> float:
    """The largest of its numbers without their signs, nan where one is nan; 0 of whole numbers and of none."""
    return float(tensor.detach().abs().max()) if tensor.is_floating_point() and tensor.numel() else 0.0


def product(factors: list[Tensor]) -> Tensor:
    return reduce(torch.mul, factors).float()


# --- what a trace line says -----------------------------------------------------------------------------------------


def trace_line(plugin: str, hook: str, arguments: dict[str, Any], answer: Any, seconds: float) -> str:
    asked = ", ".join(f"{name} {describe(value)}" for name, value in arguments.items())
    return f"{hook:<13} {plugin:<12} {seconds * 1000:8.2f} ms  -> {describe(answer)}  [{asked}]"


def describe(value: Any) -> str:
    """A value in a few characters: tensors by shape and type, records by their parts."""
    if isinstance(value, Tensor):
        return f"{'x'.join(map(str, value.shape)) or 'scalar'}:{str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, PseudoLabel):
        return f"PseudoLabel(target {describe(value.target)})"
    if isinstance(value, Views):
        return f"Views({', '.join(f'{v.name}*{v.share:g} in {v.group}' for v in value.views) or 'labels alone'})"
    if isinstance(value, Progress):
        return f"{value.step}/{value.steps}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(describe(item) for item in value)}]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return str(value)
    return type(value).__name__


# --- what must stay as it is ----------------------------------------------------------------------------------------


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


# --- what an answer must be -----------------------------------------------------------------------------------------


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
        return f"target, ids (B, H, W) or a distribution (B, C, H, W), got {describe(answer.target)}"
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
        fault = f"valid (B, H, W) = {pixels} bool, got {describe(answer.valid)}"
    return fault


def check_views(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, Views):
        return f"Views, got {type(answer).__name__}"
    if not (math.isfinite(answer.labelled_share) and answer.labelled_share >= 0):
        return f"a labelled_share that is finite and >= 0, got {answer.labelled_share}"
    names = [view.name for view in answer.views]
    if len(set(names)) != len(names):
        return f"views with different names, got {names}"
    return next((fault for view in answer.views if (fault := check_view(view, arguments["size"][0]))), None)


WORDS = {
    "normaliser": ("valid", "kept", "weight", "all", "kept_share"),
    "pool": ("pixel", "batch"),
    "of": ("unlabelled", "labelled"),
}
PARTNERS = ("next", "reverse", "rows", "stream", "twin", "labelled")


def check_view(view: View, images: int) -> str | None:
    if not (math.isfinite(view.share) and view.share >= 0):
        return f"shares that are finite and >= 0, got {view.share} for {view.name}"
    if not callable(view.strength) and view.strength not in ("weak", "strong"):
        return f"views of strength weak, strong or a function, got '{view.strength}' for {view.name}"
    for name, choices in WORDS.items():
        if getattr(view, name) not in choices:
            return f"a {name} of {', '.join(choices)}, got '{getattr(view, name)}' for {view.name}"
    return next((fault for cutmix in chain(view.cutmix) if (fault := check_cutmix(cutmix, images))), None)


def check_cutmix(cutmix: CutMix, images: int) -> str | None:
    if cutmix.partner not in PARTNERS:
        return f"a CutMix partner of {', '.join(PARTNERS)}, got '{cutmix.partner}'"
    wrong = cutmix.rows is None if cutmix.partner == "rows" else cutmix.partner in IN_BATCH and cutmix.rows is not None
    if wrong:
        return f"CutMix rows with the partner rows, none with next and reverse; got {describe(cutmix.rows)} with them"
    shape = tuple(cutmix.boxes.shape)
    if len(shape) != 3 or shape[0] != images or shape[2] != 4 or cutmix.boxes.is_floating_point():
        return f"CutMix boxes (B, n, 4) int64 with B = {images}, got {describe(cutmix.boxes)}"
    return None


def check_refine(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, Seen):
        return f"a Seen, got {type(answer).__name__}"
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
    loose = [name for name, term in answer.items() if fault is None and not term.requires_grad]
    if loose and torch.is_grad_enabled():
        return (
            f"'{loose[0]}': a loss that reaches the student, got one without a gradient; where there is nothing to "
            "work on, 0 times something of the student's"
        )
    return fault


def check_modules(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, dict) or not all(isinstance(module, nn.Module) for module in answer.values()):
        return f"a dict of torch modules by name, got {describe(answer)}"
    return None


def check_students(answer: Any, arguments: dict[str, Any]) -> str | None:
    if not isinstance(answer, list) or not answer or not all(isinstance(network, nn.Module) for network in answer):
        return f"a list of networks, got {describe(answer)}"
    return None


def check_teacher(answer: Any, arguments: dict[str, Any]) -> str | None:
    missing = [
        name for name in ("source", "group", "network", "reported", "update", "__call__") if not hasattr(answer, name)
    ]
    return f"a Teacher; {type(answer).__name__} has no {', '.join(missing)}" if missing else None


def check_stages(answer: Any, arguments: dict[str, Any]) -> str | None:
    return None if isinstance(answer, Generator) else f"a generator of Stage, got {describe(answer)}"


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
