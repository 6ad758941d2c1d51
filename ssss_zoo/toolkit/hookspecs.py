"""The hooks: every place where a method may speak. A method is a choice of these, and so is a mix of two methods.

Asked once: `make_students`, `setup`, `plan_stages`, `make_teacher`. Asked at each step, in this order: `make_views`,
`pseudo_label`, `pixel_weight`, `refine`, `class_weight`, `regularize`, `after_step`. After an evaluation: `after_eval`.
An implementation names only the arguments it needs; none may have a default value. Shapes as in `types`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pluggy
from torch import Tensor, nn

from ssss_zoo.toolkit.teachers import Teacher
from ssss_zoo.toolkit.types import (
    Labelled,
    Output,
    Progress,
    PseudoLabel,
    RunInfo,
    Stage,
    StageResult,
    Unlabelled,
    ViewOutput,
    Views,
)

hookspec = pluggy.HookspecMarker("ssss_zoo")
hookimpl = pluggy.HookimplMarker("ssss_zoo")


@hookspec
def setup(info: RunInfo) -> dict[str, nn.Module] | None:
    """Make the state that the method keeps between steps. Every loaded plugin is asked, once, before the first step.

    Returns named modules: they move to the device, their parameters with gradient are trained (at the head's
    learning rate), and they are saved and restored with the run. All state that lasts longer than a step belongs
    into one (tensors as buffers). None means that the method keeps nothing.
    """


@hookspec(firstresult=True)
def make_students(make_network: Callable[[], nn.Module]) -> list[nn.Module] | None:
    """The networks to train. The first answer counts.

    make_network: returns a fresh network, same encoder weights each time, the rest initialised anew.
    Silence means one.
    """


@hookspec(firstresult=True)
def make_teacher(students: list[nn.Module], index: int) -> Teacher | None:
    """Who labels the unlabelled images for student `index`. The first answer counts.

    Returns a `Teacher` (see `ssss_zoo.toolkit.teachers`). Silence means that each student labels for itself, in
    evaluation mode, by a pass of its own.
    """


@hookspec(firstresult=True)
def plan_stages(info: RunInfo) -> Generator[Stage, StageResult, None] | None:
    """The trainings that make up a run, for methods that train, relabel and train again. The first answer counts.

    Returns a generator: `result = yield Stage(...)`. What it makes it must be able to make again when a stopped
    run resumes. Silence means one stage over the run's lists.
    """


@hookspec(firstresult=True)
def make_views(size: tuple[int, int, int], progress: Progress) -> Views | None:
    """What the student looks at in this step. The first answer counts.

    size: (B, H, W) of the unlabelled batch. Random draws use torch's CPU generator, which is seeded for each step.
    Asked before `setup` as well, for the first and for the last step, to learn which images the run will read.
    Returns `Views`. Silence means one strong view, mixed by UniMatch's boxes with the next image of the batch.
    """


@hookspec(firstresult=True)
def pseudo_label(
    probs: Tensor, logits: Tensor, output: Output, valid: Tensor, stream: str, progress: Progress
) -> PseudoLabel | None:
    """Pseudo-label generation: what the teacher's prediction on the weak view means. The first answer counts.

    probs: (B, C, H, W) float32, sums to 1 over C; logits: the same before softmax; output: all that the teacher's
    network gave; none carries a gradient. valid: (B, H, W) bool, False on crop padding; pass it on. stream: the images
    in question, `unlabelled`; `partner` for CutMix partners of a second batch; `labelled` where a view shows those.
    Returns a `PseudoLabel`. Silence means the likeliest class.
    """


@hookspec
def pixel_weight(probs: Tensor, label: PseudoLabel, stream: str, progress: Progress) -> Tensor | None:
    """Pixel weighting: how much each pixel of the weak view counts. Every plugin is asked; answers are multiplied.

    probs: (B, C, H, W) float32, the teacher's, no gradient; label: the pseudo-label these weights go with; stream: as
    in `pseudo_label`. Asked without gradient, as `pseudo_label` is, for each stream and each student's teacher.
    Returns (B, H, W) float, finite and >= 0, exactly that shape. Silence means all ones.
    """


@hookspec(firstresult=True)
def refine(
    view_output: ViewOutput, labelled: Labelled, teacher_output: Output, teacher: Teacher, progress: Progress
) -> ViewOutput | None:
    """A last word on a view once its boxes are laid and the student has seen it: other labels or weights than the weak
    view's, because of what lies where or of what the view looks like. The first answer counts.

    view_output: its label and weight are mixed as the view is; teacher_output: the teacher's output on the weak views;
    teacher: may be called on the view. Asked for each view, without gradient. Returns `view_output` with label, weight
    or notes replaced. Silence means that it stays as it is.
    """


@hookspec
def class_weight(label: PseudoLabel, weight: Tensor, num_classes: int, progress: Progress) -> Tensor | None:
    """Class loss reweighting: how much each class counts in one view. Every plugin is asked; answers are multiplied.

    label, weight: pseudo-label and pixel weights of this view, CutMix done. Asked for each view of each student.
    Returns (C,) float, finite and >= 0.
    A pixel with a soft target gets the expectation of these weights under its target, which leaves the optimum
    of its loss where it is (`loss.class_weight=per_class` weights the target itself). Silence means all ones.
    """


@hookspec
def regularize(
    labelled: Labelled,
    labelled_output: Output,
    unlabelled: Unlabelled | None,
    partner: Unlabelled | None,
    teacher: Teacher,
    teacher_output: Output | None,
    partner_output: Output | None,
    label: PseudoLabel | None,
    weight: Tensor | None,
    views: tuple[ViewOutput, ...],
    progress: Progress,
) -> dict[str, Tensor] | None:
    """Feature regularization: further loss terms. Every plugin is asked; all terms are summed.

    labelled_output: the student's output on the labelled images, with gradient; unlabelled, partner: weak views of the
    batch and of the second batch that CutMix may use; teacher_output, partner_output: the teacher's outputs on them,
    without gradient; label, weight: of the weak views; views: what the student saw, outputs with gradient; teacher: may
    be called on more images. Without views (`make_views`) teacher_output, label and weight are None; without a second
    batch partner and partner_output are.
    Returns scalar losses by the name they are logged under, each already times its own factor. A term with nothing to
    work on returns a zero that is connected to the graph. Read a memory as a copy before you write to it: writing in
    place into what a loss has read breaks backward. Silence means no further term.
    """


@hookspec
def after_step(students: list[nn.Module], teachers: list[Teacher], progress: Progress) -> None:
    """Called once after the optimiser's step and the teachers' updates, without gradient. teachers: one per student."""


@hookspec
def after_eval(metrics: dict[str, Any], students: list[nn.Module], progress: Progress) -> None:
    """Called after each evaluation on the validation set. metrics: as in `metrics.json` under `val`.

    A method that trains by what it is told here learns from validation labels: its card must say so.
    """
