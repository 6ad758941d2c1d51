"""Teachers, which label the unlabelled images: the student itself, its running average, another student."""

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

    reads_from: the student off whose own training pass its predictions are read (in train mode, sharing that pass's
        BatchNorm statistics); None when it makes passes of its own.
    forward_group: with `reads_from`, the pass that the weak views are put into.
    network: its own weights, to save, evaluate and export; None when it has none.
    is_result: whether those weights, rather than the student's, stand for the run.
    """

    reads_from: nn.Module | None
    forward_group: str
    network: nn.Module | None
    is_result: bool

    def __call__(self, image: Tensor) -> Output: ...

    def update(self, student: nn.Module, progress: Progress) -> None:
        """Called after each optimiser step of its student."""


def predict(network: nn.Module, image: Tensor, train_mode: bool) -> Output:
    """A pass without gradient in train or evaluation mode; the network's own mode is as before afterwards."""
    if network.training == train_mode:
        with torch.no_grad():
            output: Output = network(image)
        return output
    network.train(train_mode)
    try:
        return predict(network, image, train_mode)
    finally:
        network.train(not train_mode)


class BaseTeacher:
    """What most teachers have in common: no weights of their own, passes of their own, nothing to update."""

    reads_from: nn.Module | None = None
    forward_group: str = "labelled"
    network: nn.Module | None = None
    is_result: bool = True

    def update(self, student: nn.Module, progress: Progress) -> None:
        pass


class SelfTeacher(BaseTeacher):
    """The student labels for itself.

    shares_pass=True: from the pass that it shares with the labelled images, in train mode (FixMatch and UniMatch as
    released, for the batch itself; CutMix partners from a second batch are labelled in evaluation mode).
    shares_pass=False: by a pass of its own in evaluation mode.
    """

    def __init__(self, student: nn.Module, shares_pass: bool = False) -> None:
        self.student, self.reads_from = student, student if shares_pass else None

    def __call__(self, image: Tensor) -> Output:
        return predict(self.student, image, train_mode=False)


def ema_update_(slow: nn.Module, fast: nn.Module, decay: float, buffers: bool = True) -> None:
    """slow <- decay * slow + (1 - decay) * fast, in place, over parameters and floating buffers (BatchNorm statistics);
    integer buffers are copied. buffers=False: over parameters only, all buffers stay as they are. One fused call for
    all tensors of a device and type."""
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
    """min(1 - 1/(t + 1), decay): the first update (t = 0) copies, later ones average ever more (Mean Teacher's
    released code and all that followed; methods-wide convention of AugSeg, U2PL, UniMatch V2)."""
    return min(1 - 1 / (step + 1), decay)


Decay = float | Callable[[Progress], float]


def decay_function(decay: Decay) -> Callable[[Progress], float]:
    """The decay of each step: a number is warmed up (see `ema_warmup`), a function of the progress taken as it is."""
    return decay if callable(decay) else lambda progress: ema_warmup(progress.step, decay)


class EMATeacher(BaseTeacher):
    """The running average of the student's weights and BatchNorm statistics (Tarvainen and Valpola, 2017).

    decay: in [0, 1], warmed up (see `ema_warmup`), or a function of the progress that gives it as it is.
    train_mode: label in train mode, with the batch's own BatchNorm statistics; the default, evaluation mode, uses the
        averaged ones.
    buffers: average BatchNorm's statistics too; else the teacher keeps those of its own passes, which only train mode
        moves.
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
        return predict(self.network, image, self.train_mode)

    def update(self, student: nn.Module, progress: Progress) -> None:
        ema_update_(self.network, student, self.decay(progress), self.buffers)


class EMAModule(nn.Module):
    """The running average of a module that is no network, such as a projection head. Returned by `setup`, it is saved
    with the run.

    decay, train_mode, buffers: as in `EMATeacher`; train_mode is about its own forward pass, which has no gradient.
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
        """Move the average towards `module`, as a teacher follows its student. Called by `after_step`."""
        ema_update_(self.average, module, self.decay(progress), self.average_buffers)


class PeerTeacher(BaseTeacher):
    """Another student of the run labels (CPS, Chen et al., 2021): in train mode, with the batch's own statistics.

    shares_pass: its labels are read off the training pass in which it sees the weak views itself, `forward_group`; else
    it makes passes of its own, without gradient.
    """

    def __init__(self, peer: nn.Module, shares_pass: bool = False, forward_group: str = "labelled") -> None:
        self.peer, self.reads_from, self.forward_group = peer, peer if shares_pass else None, forward_group

    def __call__(self, image: Tensor) -> Output:
        return predict(self.peer, image, train_mode=True)
