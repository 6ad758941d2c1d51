"""Who labels the unlabelled images: the student itself, its running average, another student, a frozen network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssss_zoo.records import Output, Progress

if TYPE_CHECKING:
    from torch import Tensor


class Teacher(Protocol):
    """Labels weak views without gradient.

    joins: True when its predictions are the student's own, read off the pass of the labelled images (in train mode,
        sharing that pass's BatchNorm statistics); False when it makes a pass of its own.
    network: its own weights, to save, evaluate and export; None when it has none.
    """

    joins: bool
    network: nn.Module | None

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


class SelfTeacher:
    """The student labels for itself.

    joins=True: from the pass that it shares with the labelled images, in train mode (FixMatch and UniMatch as
    released, for the batch itself; CutMix partners from a second batch are labelled in evaluation mode).
    joins=False: by a pass of its own in evaluation mode.
    """

    network: nn.Module | None = None

    def __init__(self, student: nn.Module, joins: bool = False) -> None:
        self.student, self.joins = student, joins

    def __call__(self, image: Tensor) -> Output:
        return predict(self.student, image, train_mode=False)

    def update(self, student: nn.Module, progress: Progress) -> None:
        pass


def average_(slow: nn.Module, fast: nn.Module, decay: float) -> None:
    """slow <- decay * slow + (1 - decay) * fast, in place, over parameters and floating buffers (BatchNorm statistics);
    integer buffers are copied. One fused call for all tensors of a device and type."""
    pairs = list(zip(slow.state_dict().values(), fast.state_dict().values(), strict=True))
    floating = [(a, b) for a, b in pairs if a.is_floating_point()]
    with torch.no_grad():
        if floating:
            slow_values, fast_values = (list(side) for side in zip(*floating, strict=True))
            get_ema_multi_avg_fn(decay)(slow_values, fast_values, 0)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)


def warmed_decay(step: int, decay: float) -> float:
    """min(1 - 1/(t + 1), decay): the first update (t = 0) copies, later ones average ever more (Mean Teacher's
    released code and all that followed; methods-wide convention of AugSeg, U2PL, UniMatch V2)."""
    return min(1 - 1 / (step + 1), decay)


class EMATeacher:
    """The running average of the student's weights and BatchNorm statistics (Tarvainen and Valpola, 2017).

    decay: in [0, 1]; warm_up: start as a plain average (see `warmed_decay`). train_mode: label in train mode, with
    the batch's own BatchNorm statistics (the default, evaluation mode, uses the averaged ones).
    """

    joins = False

    def __init__(self, student: nn.Module, decay: float, warm_up: bool = True, train_mode: bool = False) -> None:
        self.network: nn.Module = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay, self.warm_up, self.train_mode = decay, warm_up, train_mode

    def __call__(self, image: Tensor) -> Output:
        return predict(self.network, image, self.train_mode)

    def update(self, student: nn.Module, progress: Progress) -> None:
        average_(self.network, student, warmed_decay(progress.step, self.decay) if self.warm_up else self.decay)


class PeerTeacher:
    """Another student of the run labels (CPS, Chen et al., 2021): in train mode, with the batch's own statistics."""

    joins = False
    network: nn.Module | None = None

    def __init__(self, peer: nn.Module) -> None:
        self.peer = peer

    def __call__(self, image: Tensor) -> Output:
        return predict(self.peer, image, train_mode=True)

    def update(self, student: nn.Module, progress: Progress) -> None:
        pass


class FrozenTeacher:
    """A network that no longer learns (a finished stage's, ST++): evaluation mode, never updated."""

    joins = False

    def __init__(self, network: nn.Module) -> None:
        self.network: nn.Module = copy.deepcopy(network).requires_grad_(False).eval()

    def __call__(self, image: Tensor) -> Output:
        return predict(self.network, image, train_mode=False)

    def update(self, student: nn.Module, progress: Progress) -> None:
        pass
