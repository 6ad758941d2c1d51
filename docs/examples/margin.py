"""Margin: a pixel counts by how far the teacher's first choice is ahead of its second."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from ssss_zoo.toolkit import EMATeacher, Range, hookimpl


@dataclass(eq=False)
class Margin:
    paper: ClassVar[str] = "Margin, the worked example of the documentation"

    power: Annotated[float, Range(0)] = 2.0  # of the margin: 0 counts all pixels alike
    decay: Annotated[float, Range(0, 1)] = 0.9  # of the teacher's average: short, as the runs below are

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.decay)

    @hookimpl
    def pixel_weight(self, probs: Tensor) -> Tensor:
        first, second = probs.topk(2, dim=1).values.unbind(dim=1)
        return (first - second) ** self.power
