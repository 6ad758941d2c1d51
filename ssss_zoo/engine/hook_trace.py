"""One line of `ssss run --trace` for each answer of a hook: which hook, whose answer, how long it took, what it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssss_zoo.toolkit.types import Progress, PseudoLabel, Views


def trace_line(plugin: str, hook: str, arguments: dict[str, Any], answer: Any, seconds: float) -> str:
    asked = ", ".join(f"{name} {describe_value(value)}" for name, value in arguments.items())
    return f"{hook:<13} {plugin:<12} {seconds * 1000:8.2f} ms  -> {describe_value(answer)}  [{asked}]"


def describe_value(value: Any) -> str:
    """A value in a few characters: tensors by shape and type, records by their parts."""
    if isinstance(value, Tensor):
        return f"{'x'.join(map(str, value.shape)) or 'scalar'}:{str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, PseudoLabel):
        return f"PseudoLabel(target {describe_value(value.target)})"
    if isinstance(value, Views):
        views = ", ".join(f"{view.name}*{view.loss_weight:g} in {view.forward_group}" for view in value.views)
        return f"Views({views or 'labels alone'})"
    if isinstance(value, Progress):
        return f"{value.step}/{value.steps}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(describe_value(item) for item in value)}]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return str(value)
    return type(value).__name__
