"""Mean Teacher for segmentation (Tarvainen and Valpola, 2017), as TorchSemiSeg runs it: the student
learns the probabilities of an averaged teacher on the same images, labelled ones included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import EMATeacher, PseudoLabel, Range, View, Views, hookimpl, soft_label, squared_error


@dataclass(eq=False)
class MeanTeacher:
    paper: ClassVar[str] = "Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780), as in TorchSemiSeg"

    weight: Annotated[float, Range(0, 1e9)] = 100.0  # of the squared error; TorchSemiSeg, no ramp
    # Constant, of the parameters alone; TorchSemiSeg.
    ema_decay: Annotated[float, Range(0, 1)] = 0.99

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        """In train mode, with BatchNorm statistics of its own; the student is evaluated, not the teacher."""
        student = students[index]
        return EMATeacher(student, lambda progress: self.ema_decay, train_mode=True, buffers=False, is_result=False)

    @hookimpl
    def make_views(self) -> Views:
        """The weak view and the labelled images as they are, half each: the mean is over both together, padding too."""
        weak = View("weak", "weak", self.weight / 2, "weak", divide_by="all", loss=mean_squared_error)
        return Views((weak, replace(weak, name="same", forward_group="labelled", images="labelled")))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        return soft_label(probs, torch.ones_like(valid))


def mean_squared_error(logits: Tensor, label: PseudoLabel) -> Tensor:
    """(B, H, W): the mean over classes."""
    return squared_error(logits, label) / logits.shape[1]
