"""The smallest example of each hook: a method that answers it and nothing else. Shown in the pages of the hooks, and
run by a test."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import EMATeacher, Teacher, hookimpl, types


# --8<-- [start:setup]
@dataclass(eq=False)
class Setup:
    """Counts, in a module that is saved with the run, how many confident unlabelled pixels each class had."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def setup(self, info: types.RunInfo) -> dict[str, nn.Module]:
        self.memory = nn.Module()
        self.memory.register_buffer("confident", torch.zeros(info.num_classes))
        return {"setup_example": self.memory}

    @hookimpl
    def pixel_weight(self, label: types.PseudoLabel, stream: str) -> None:
        if stream == "unlabelled":  # asked of CutMix partners and labelled views as well
            self.memory.confident.index_add_(0, label.ids.flatten(), (label.confidence > 0.9).flatten().float())


# --8<-- [end:setup]


@dataclass(eq=False)
class MakeStudents:
    """Two networks: encoders with the same weights, heads that begin apart."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def make_students(self, make_network: Callable[[], nn.Module]) -> list[nn.Module]:
        return [make_network(), make_network()]


@dataclass(eq=False)
class MakeTeacher:
    """The running average of the student labels."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> Teacher:
        return EMATeacher(students[index], decay=0.99)


@dataclass(eq=False)
class PlanStages:
    """Two trainings of half the budget each; the second goes on with the networks of the first."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def plan_stages(self, info: types.RunInfo) -> Generator[types.Stage, types.StageResult, None]:
        half = max(info.steps // 2, 1)
        yield types.Stage("first", steps=half)
        yield types.Stage("second", steps=half, restart=False)


@dataclass(eq=False)
class MakeViews:
    """A weak and a strong view of the unlabelled images, each with half of the weight."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def make_views(self) -> types.Views:
        return types.Views((types.View("weak", "weak", loss_weight=0.5), types.View("strong", loss_weight=0.5)))


@dataclass(eq=False)
class PseudoLabel:
    """Soft labels: the teacher's distribution as it is."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> types.PseudoLabel:
        return types.PseudoLabel(probs, probs.max(dim=1).values, valid)


@dataclass(eq=False)
class PixelWeight:
    """A pixel counts as much as the teacher is sure of it."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def pixel_weight(self, label: types.PseudoLabel) -> Tensor:
        return label.confidence


@dataclass(eq=False)
class Refine:
    """Pixels of which the student already says the same count half."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def refine(self, view_output: types.ViewOutput) -> types.ViewOutput:
        agrees = view_output.output.logits.max(dim=1).indices == view_output.label.ids
        return replace(view_output, weight=view_output.weight * torch.where(agrees, 0.5, 1.0))


@dataclass(eq=False)
class ClassWeight:
    """Classes count by the inverse root of their share of the pseudo-label; the mean of those there is 1."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def class_weight(self, label: types.PseudoLabel, num_classes: int) -> Tensor:
        counts = torch.zeros(num_classes, device=label.confidence.device)
        counts.index_add_(0, label.ids.flatten(), label.valid.flatten().float())
        weights = counts.clamp(min=1).rsqrt() * (counts > 0)
        return weights / weights.sum().clamp(min=1e-6) * (counts > 0).sum()


@dataclass(eq=False)
class Regularize:
    """Features of the labelled images are kept small."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def regularize(self, labelled_output: types.Output) -> dict[str, Tensor]:
        return {"small_features": 1e-4 * labelled_output.features.square().mean()}


@dataclass(eq=False)
class AfterStep:
    """All weights are kept within [-1, 1]."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def after_step(self, students: list[nn.Module]) -> None:
        for student in students:
            for parameter in student.parameters():
                parameter.clamp_(-1, 1)


@dataclass(eq=False)
class AfterEval:
    """Says which class is worst."""

    paper: ClassVar[str] = "an example"

    @hookimpl
    def after_eval(self, metrics: dict[str, Any]) -> None:
        known = {name: iou for name, iou in metrics["iou"].items() if iou is not None}
        print(f"worst: {min(known, key=known.__getitem__)}")
