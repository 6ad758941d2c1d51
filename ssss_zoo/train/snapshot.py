"""All that a run is at a step, in memory: what to go back to when the steps after it come to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ssss_zoo.train.checkpoint import fit


@dataclass(frozen=True)
class Snapshot:
    """weights: tensors by file and name; state: as in a checkpoint; copies, on the host."""

    weights: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]

    def load(self, name: str, module: nn.Module) -> None:
        fit(module, self.weights[name], name)


def on_host(value: Any) -> Any:
    """A copy of nested mappings, lists and tensors; tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: on_host(item) for key, item in value.items()}
    return [on_host(item) for item in value] if isinstance(value, list) else value
