"""The defaults of the hooks: one student that labels for itself, one strong view, one stage."""

from __future__ import annotations

from collections.abc import Callable, Generator

from torch import Tensor, nn

from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.labels import hard_label
from ssss_zoo.toolkit.teachers import SelfTeacher, Teacher
from ssss_zoo.toolkit.types import CutMix, Progress, PseudoLabel, Stage, StageResult, View, Views


class Defaults:
    """The answers of last resort, registered so that every method is asked before them."""

    @hookimpl
    def make_students(self, make_network: Callable[[], nn.Module]) -> list[nn.Module]:
        return [make_network()]

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> Teacher:
        return SelfTeacher(students[index])

    @hookimpl
    def plan_stages(self) -> Generator[Stage, StageResult, None]:
        yield Stage()

    @hookimpl
    def make_views(self, size: tuple[int, int, int], progress: Progress) -> Views:
        from ssss_zoo.toolkit.augment import random_boxes

        return Views((View("strong", cutmix=CutMix("next", random_boxes(*size))),))

    @hookimpl
    def pseudo_label(self, probs: Tensor, valid: Tensor) -> PseudoLabel:
        return hard_label(probs, valid)
