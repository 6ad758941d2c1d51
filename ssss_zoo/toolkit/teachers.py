"""Teachers label the unlabelled images: the student itself, its running average, or another student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssss_zoo.toolkit.types import Output, Progress


class Teacher(Protocol):
    """Labels weak views without gradient.

    reads_from: the student whose training pass also gives the teacher's predictions (in train mode, with that pass's
        BatchNorm statistics); None when the teacher makes its own passes.
    forward_group: with `reads_from`, the pass that the weak views join.
    network: the teacher's own weights, to save, evaluate and export; None when it has none.
    is_result: whether these weights, rather than the student's, are the result of the run.
    """

    reads_from: nn.Module | None
    forward_group: str
    network: nn.Module | None
    is_result: bool

    def __call__(self, image: Tensor) -> Output: ...

    def update(self, student: nn.Module, progress: Progress) -> None:
        """Called after each optimiser step of its student."""


def predict(network: nn.Module, image: Tensor, *, train_mode: bool) -> Output:
    """A pass without gradient in train or evaluation mode. The network's own mode is restored afterwards."""
    if network.training == train_mode:
        with torch.no_grad():
            output: Output = network(image)
        return output
    network.train(train_mode)
    try:
        return predict(network, image, train_mode=train_mode)
    finally:
        network.train(not train_mode)


class BaseTeacher:
    """The base of most teachers: it makes its own passes, and has no weights of its own and nothing to update."""

    reads_from: nn.Module | None = None
    forward_group: str = "labelled"
    network: nn.Module | None = None
    is_result: bool = True

    def update(self, student: nn.Module, progress: Progress) -> None:
        pass


class SelfTeacher(BaseTeacher):
    """The student is its own teacher.

    shares_pass=True: labels come from the training pass with the labelled images, in train mode (FixMatch and UniMatch
    as released, for the batch itself; CutMix partners from a second batch are labelled in evaluation mode).
    shares_pass=False: labels come from a separate pass in evaluation mode.
    """

    def __init__(self, student: nn.Module, shares_pass: bool = False) -> None:
        self.student = student
        self.reads_from = student if shares_pass else None

    def __call__(self, image: Tensor) -> Output:
        return predict(self.student, image, train_mode=False)


def ema_update_(slow: nn.Module, fast: nn.Module, decay: float, *, buffers: bool = True) -> None:
    """slow <- decay * slow + (1 - decay) * fast, in place, over parameters and floating buffers (BatchNorm statistics);
    integer buffers are copied. buffers=False: over parameters only; all buffers stay as they are. One fused call
    updates all tensors of a device and type."""
    names = slow.state_dict() if buffers else dict(slow.named_parameters())
    theirs = fast.state_dict()
    pairs = [(value, theirs[name]) for name, value in names.items()]
    floating = [(a, b) for a, b in pairs if a.is_floating_point()]
    with torch.no_grad():
        if floating:
            slow_values, fast_values = (list(side) for side in zip(*floating, strict=True))
            get_ema_multi_avg_fn(decay)(slow_values, fast_values, 0)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)


def ema_warmup(step: int, decay: float) -> float:
    """min(1 - 1/(t + 1), decay): the first update (t = 0) copies the student, later ones average over more and more
    steps (Mean Teacher's released code; AugSeg, U2PL and UniMatch V2 do the same)."""
    return min(1 - 1 / (step + 1), decay)


Decay = float | Callable[[Progress], float]


def decay_function(decay: Decay) -> Callable[[Progress], float]:
    """The decay of each step: a number is warmed up (see `ema_warmup`), a function of the progress is used as is."""
    return decay if callable(decay) else lambda progress: ema_warmup(progress.step, decay)


class EMATeacher(BaseTeacher):
    """The running average of the student's weights and BatchNorm statistics (Tarvainen and Valpola, 2017).

    decay: a number in [0, 1], which is warmed up (see `ema_warmup`), or a function of the progress.
    train_mode: label in train mode, with the batch's own BatchNorm statistics; the default, evaluation mode, uses the
        averaged ones.
    buffers: average BatchNorm's statistics too; else the teacher keeps those of its own passes, which change in train
        mode only.
    is_result: see `Teacher`.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: Decay,
        train_mode: bool = False,
        buffers: bool = True,
        is_result: bool = True,
    ) -> None:
        self.network: nn.Module = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay = decay_function(decay)
        self.train_mode = train_mode
        self.buffers = buffers
        self.is_result = is_result

    def __call__(self, image: Tensor) -> Output:
        return predict(self.network, image, train_mode=self.train_mode)

    def update(self, student: nn.Module, progress: Progress) -> None:
        ema_update_(self.network, student, self.decay(progress), buffers=self.buffers)


class EMAModule(nn.Module):
    """The running average of a module that is not a whole network, such as a projection head. A method returns it
    from `setup`, so that it is saved with the run.

    decay, train_mode, buffers: as in `EMATeacher`. The forward pass has no gradient.
    """

    def __init__(self, module: nn.Module, decay: Decay, train_mode: bool = False, buffers: bool = True) -> None:
        super().__init__()
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay_function(decay)
        self.train_mode = train_mode
        self.average_buffers = buffers

    def forward(self, features: Tensor) -> Tensor:
        self.average.train(self.train_mode)
        with torch.no_grad():
            output: Tensor = self.average(features)
        return output

    def update(self, module: nn.Module, progress: Progress) -> None:
        """Update the average with the weights of `module`. The method calls this in `after_step`."""
        ema_update_(self.average, module, self.decay(progress), buffers=self.average_buffers)


class PeerTeacher(BaseTeacher):
    """Another student of the run is the teacher (CPS, Chen et al., 2021), in train mode with the batch's statistics.

    shares_pass: its labels come from its training pass `forward_group`, which contains the weak views; else it makes
    separate passes, without gradient.
    """

    def __init__(self, peer: nn.Module, shares_pass: bool = False, forward_group: str = "labelled") -> None:
        self.peer = peer
        self.reads_from = peer if shares_pass else None
        self.forward_group = forward_group

    def __call__(self, image: Tensor) -> Output:
        return predict(self.peer, image, train_mode=True)
