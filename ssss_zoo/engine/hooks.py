"""Calls the hooks and combines their answers by the rule of each spec; checks and traces them in the first steps."""

from __future__ import annotations

import functools
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssss_zoo.engine.hook_checks import check_answer, check_untouched, largest_number, tensors_in, versions
from ssss_zoo.engine.hook_trace import trace_line
from ssss_zoo.errors import NOT_FINITE, Interrupted, UserError, out_of_memory
from ssss_zoo.toolkit.types import Progress, PseudoLabel, ViewOutput, Views

Print = Callable[[str], None]
HUGE = 1e6  # no output of a network whose training goes well; what is computed from such numbers overflows (our choice)


class HookCaller:
    """Calls the hooks of a run's methods.

    checked: while True every answer is checked for type, shape and finiteness, and printed when `trace` is given. A
    check waits for the device, so the trainer turns it off after the first steps.
    """

    def __init__(self, trace: Print | None = None) -> None:
        self.manager_hooks: Any = None  # `PluginManager.hook`, set by `connect`
        self.checked = True
        self.trace = trace
        self.arguments: dict[str, Any] = {}  # of the call that goes on: pluggy gives a method only those it asks for

    def connect(self, manager_hooks: Any) -> None:
        """manager_hooks: `PluginManager.hook` of the run."""
        self.manager_hooks = manager_hooks

    def call(self, hook: str, **arguments: Any) -> Any:
        """All answers in a list, or the first one where the spec says so."""
        self.arguments = arguments
        caller = getattr(self.manager_hooks, hook)
        answer = caller(**arguments)
        if self.checked:
            wrappers = [one.plugin_name.partition(" ")[0] for one in caller.get_hookimpls() if one.wrapper]
            if wrappers:  # each answer was checked when it was given; a wrapper may have changed it since
                with blame_the_network(hook, arguments):
                    for one in answer if isinstance(answer, list) else [answer]:
                        check_answer("+".join(wrappers), hook, one, arguments)
        return answer

    # --- the hooks of a step, each combined by its rule ---------------------------------------------------------------

    def make_views(self, size: tuple[int, int, int], progress: Progress) -> Views:
        """The first answer."""
        views: Views = self.call("make_views", size=size, progress=progress)
        return views

    def pseudo_label(self, **arguments: Any) -> PseudoLabel:
        """The first answer."""
        label: PseudoLabel = self.call("pseudo_label", **arguments)
        return label

    def pixel_weight(self, label: PseudoLabel, **arguments: Any) -> Tensor:
        """Product of all answers, (B, H, W) float32; ones without an answer."""
        answers = self.call("pixel_weight", label=label, **arguments)
        return product(answers) if answers else torch.ones_like(label.confidence)

    def refine(self, view_output: ViewOutput, **arguments: Any) -> ViewOutput:
        """The first answer; the view's output as it is without an answer."""
        return self.call("refine", view_output=view_output, **arguments) or view_output

    def class_weight(self, label: PseudoLabel, weight: Tensor, num_classes: int, progress: Progress) -> Tensor:
        """Product of all answers, (C,) float32; ones without an answer."""
        answers = self.call("class_weight", label=label, weight=weight, num_classes=num_classes, progress=progress)
        return product(answers) if answers else torch.ones(num_classes, device=weight.device)

    def regularize(self, **arguments: Any) -> dict[str, Tensor]:
        """The loss terms of all answers; terms of one name are added."""
        terms: dict[str, Tensor] = {}
        for answer in self.call("regularize", **arguments):
            for name, term in answer.items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    def after_step(self, **arguments: Any) -> None:
        """Tell every method that the step is done."""
        self.call("after_step", **arguments)

    # --- checks and faults --------------------------------------------------------------------------------------------

    def wrap(self, plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, the implementation of `hook` by `plugin`, with its answers checked and traced while `checked`,
        and its exceptions turned into a UserError that names plugin, hook and line."""

        @functools.wraps(function)  # pluggy reads the names of its parameters
        def wrapped(*values: Any) -> Any:
            """As `function`."""
            arguments = self.arguments
            before = versions(arguments) if self.checked else []
            start = time.perf_counter()
            with blame_the_network(hook, arguments):
                with named_faults(plugin, hook):
                    answer = function(*values)
                if not self.checked:
                    return answer
                check_answer(plugin, hook, answer, arguments)
                check_untouched(plugin, hook, before)
                if self.trace:
                    self.trace(trace_line(plugin, hook, arguments, answer, time.perf_counter() - start))
                return answer

        return wrapped


@contextmanager
def blame_the_network(hook: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Within, a UserError about a hook that was given numbers that are not finite, or HUGE, becomes one about the
    network that made them."""
    try:
        yield
    except UserError as error:
        largest = {name: top for name, tensor in tensors_in(arguments) if not (top := largest_number(tensor)) < HUGE}
        if not largest:
            raise
        name, top = next(iter(largest.items()))
        what = f"as large as {top:.3g}" if math.isfinite(top) else "not finite"
        progress = arguments.get("progress")
        step = progress.step + 1 if isinstance(progress, Progress) else 0
        raise UserError(
            f"the network's outputs are {what} at step {step}: so hook {hook} was given {name}; {NOT_FINITE}"
        ) from error


@contextmanager
def named_faults(plugin: str, hook: str) -> Iterator[None]:
    """Within, an exception of a method becomes a UserError that says which hook of which method fails, and where."""
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)[2:]  # without this function and the wrapper
        deepest = next(frame for frame in reversed(frames) if frame.filename == frames[0].filename)
        what = " ".join(traceback.format_exception_only(error)[-1].split())
        where = f"{Path(deepest.filename).name}, line {deepest.lineno}"
        raise UserError(f"hook {hook} of '{plugin}' fails in {where}: {what}") from error


def product(factors: list[Tensor]) -> Tensor:
    """The product of tensors of one shape, float32."""
    return functools.reduce(torch.mul, factors).float()
