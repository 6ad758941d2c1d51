"""The optimiser of a stage: its parameter groups, its learning rate, and the backward pass before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import Config, OptimConfig
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Progress

if TYPE_CHECKING:
    from ssss_zoo.models.contract import Network


def make_optimizer(config: Config, students: list[Network], modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """SGD or AdamW: encoders at `lr`, everything else (heads, the methods' modules) at `lr * head_multiplier`. Weight
    decay on all parameters, or with `decay_all=false` on those of two dimensions and more: not on biases and norms."""
    optim = config.optim
    encoders = [p for student in students for p in student.parameter_groups()["encoder"]]
    heads = [p for student in students for p in student.parameter_groups()["head"]]
    heads += [p for module in modules for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for parameters, lr in ((encoders, optim.lr), (heads, optim.lr * optim.head_multiplier)):
        spared = [p for p in parameters if p.dim() < 2 and not optim.decay_all]
        decayed = [p for p in parameters if p.dim() > 1 or optim.decay_all]
        groups += [{"params": decayed, "lr": lr, "initial_lr": lr}]
        groups += [{"params": spared, "lr": lr, "initial_lr": lr, "weight_decay": 0.0}] if spared else []
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)
    sgd = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True)
    if optim.momentum > 0:  # fused SGD cannot take a first gradient later than its group's: start all buffers at once
        for parameter in (p for group in sgd.param_groups for p in group["params"]):
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def set_learning_rate(optimizer: torch.optim.Optimizer, optim: OptimConfig, progress: Progress) -> None:
    """Poly schedule, lr * (1 - t/T)^power, written before step t (0-based)."""
    factor = (1 - progress.done) ** optim.power
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


BROKEN_GRAPHS = {  # torch's message, and what the method did
    "modified by an inplace operation": "a method writes in place into what a loss of the same step has read; let the "
    "loss read a copy, as memory.clone()",
    "backward through the graph a second time": "a method keeps a tensor of an earlier step with its gradient; keep "
    "value.detach()",
}


def backward(loss: Tensor) -> None:
    """Raises UserError where a method wrote into what a loss had read, or kept an earlier step's graph."""
    try:
        loss.backward()
    except RuntimeError as error:
        explanation = next((text for message, text in BROKEN_GRAPHS.items() if message in str(error)), None)
        if explanation is None:
            raise
        raise UserError(explanation) from error
