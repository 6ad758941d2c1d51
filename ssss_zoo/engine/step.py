"""One training step, read from top to bottom. It calls the hooks and knows no method by name.

A step: draw the views; let teachers with forward passes of their own label the weak views; run each student over the
labelled images and its views; compare each view's output with its pseudo-label; add the terms of `regularize`; then
backward, optimiser and teachers. Nothing in here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import Config
from ssss_zoo.engine.device_batch import to_device
from ssss_zoo.engine.draws import StepDraws, ViewDraw, draw_flips, draw_view
from ssss_zoo.engine.forward import MixedView, forward
from ssss_zoo.engine.hooks import HookCaller
from ssss_zoo.engine.optimizer import backward, make_optimizer, set_learning_rate
from ssss_zoo.engine.plan import check_plan, is_gated, needs_second, weak_images
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.toolkit.augment import Strong
from ssss_zoo.toolkit.contrast import one_hot
from ssss_zoo.toolkit.losses import supervised_loss, view_loss
from ssss_zoo.toolkit.mixing import Mixing, ground_truth_label, nested_cutmix
from ssss_zoo.toolkit.processes import process_mean
from ssss_zoo.toolkit.teachers import Teacher
from ssss_zoo.toolkit.types import (
    Batch,
    Labelled,
    Output,
    Progress,
    PseudoLabel,
    RawBatch,
    Unlabelled,
    View,
    ViewOutput,
    Views,
)

if TYPE_CHECKING:
    from ssss_zoo.models.contract import Network


@dataclass(frozen=True, eq=False)
class AugmentedView:
    """A view's images (B, channels, H, W) before boxes are laid over them, and its partners' by stream. source: as in
    `MixedView`."""

    view: View
    image: Tensor
    partners: dict[str, Tensor]
    source: str


@dataclass(frozen=True, eq=False)
class PseudoTarget:
    """The teacher's output on a batch of weak views, its pseudo-label and the pixel weights (B, H, W)."""

    output: Output
    label: PseudoLabel
    weight: Tensor


class Engine:
    """The training of one stage: students, each with its teacher, one optimiser, the hooks.

    on_pseudo_label: called at the steps that are logged with (label, weight, hidden labels or None) of the weak view.
    on_view: called with each view as the student saw it and its class weights (C,).
    """

    def __init__(
        self,
        config: Config,
        hooks: HookCaller,
        students: list[Network],
        teachers: list[Teacher],
        modules: Iterable[nn.Module],
        num_classes: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config = config
        self.hooks = hooks
        self.device = device
        self.num_classes = num_classes
        self.seed = seed
        self.students = students
        self.teachers = teachers
        self.strong = Strong(config.augment)
        self.supervised = supervised_loss(config.loss)
        self.optimizer = make_optimizer(config, students, modules)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.on_pseudo_label: Callable[[PseudoLabel, Tensor, Tensor | None], None] | None = None
        self.on_view: Callable[[ViewOutput, Tensor], None] | None = None

    # --- the step ---------------------------------------------------------------------------------------------------

    def step(self, batches: Iterator[RawBatch], progress: Progress) -> dict[str, Tensor]:
        """One optimiser step over `train.accumulate` batches. Returns the losses by name, on the device, detached."""
        set_learning_rate(self.optimizer, self.config.optim, progress)

        # The gradients of all batches add up; the returned losses are means over the batches.
        sums: dict[str, Tensor] = {}
        for pass_index in range(self.config.train.accumulate):
            seed_draws(self.seed, progress.step, pass_index)
            losses = self.losses(next(batches), progress)
            total = torch.stack(list(losses.values())).sum() / self.config.train.accumulate
            backward(self.scaler.scale(total))
            for name, loss in {**losses, "total": total * self.config.train.accumulate}.items():
                sums[name] = sums.get(name, 0) + loss.detach() / self.config.train.accumulate

        # First the students move, then their teachers follow, then methods update what they keep between steps.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for student, teacher in zip(self.students, self.teachers, strict=True):
                teacher.update(student, progress)
            self.hooks.after_step(students=self.students, teachers=self.teachers, progress=progress)
        return sums

    def losses(self, raw: RawBatch, progress: Progress) -> dict[str, Tensor]:
        """All loss terms of a batch by name, each already times its weight; every student learns from its own teacher.

        raw: as the loader makes it. The students' outputs carry the graph, the teachers' do not.
        """
        # Everything that chance decides on the CPU is drawn first: flips, the views with their boxes, and how the
        # pixels of each view change. What follows draws on the device alone.
        draws = self.draw(raw, progress)
        plan = draws.plan

        # The images go to the device, and each view is made once, the same for all students.
        batch = self.to_device(raw, draws)
        weak = weak_images(plan, batch)
        views = [self.augmented(view, draws.views[view.name], batch) for view in plan.views]

        # Teachers with forward passes of their own label first: they need no graph, and they use BatchNorm's statistics
        # as the last step left them.
        targets = [self.label_by_own_pass(teacher, weak, progress) for teacher in self.teachers]

        # CutMix comes next, since a gate may read the teacher's prediction. Then each student runs, one pass for each
        # group of views: images that share a pass share BatchNorm's statistics.
        shown: list[list[MixedView]] = []
        outputs: list[dict[str, Output]] = []
        for student, target in zip(self.students, targets, strict=True):
            mixed = [self.mixed(view, target) for view in views]
            labelling_groups = {t.forward_group: None for t in self.teachers if t.reads_from is student}
            with self.autocast():
                outputs.append(forward(student, plan, batch, mixed, self.config.train.fuse, list(labelling_groups)))
            shown.append(mixed)

        # The losses of each student. A teacher that shares a student's pass labels here, from that student's output.
        losses: dict[str, Tensor] = {}
        for index, teacher in enumerate(self.teachers):
            target = targets[index] | self.label_by_student(teacher, outputs, weak, targets[index], progress)
            terms = self.student_losses(plan, batch, outputs[index], shown[index], target, teacher, progress)
            for name, term in terms.items():
                losses[name] = losses[name] + term if name in losses else term
        return losses

    def student_losses(
        self,
        plan: Views,
        batch: Batch,
        output: dict[str, Output],
        shown: list[MixedView],
        targets: dict[str, PseudoTarget],
        teacher: Teacher,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """The loss terms of one student by name."""
        # The supervised loss: output on labelled images against their masks.
        labelled = output["labelled"]
        losses = {"supervised": plan.supervised_weight * self.supervised(labelled.logits, batch.labelled.mask)}

        # The consistency loss: output on each view against its pseudo-label, which is mixed as the view was.
        view_outputs = tuple(
            self.pair(one, output[f"view {one.view.name}"], targets, teacher, batch, progress) for one in shown
        )
        if view_outputs:
            losses["consistency"] = torch.stack([self.consistency(one, progress) for one in view_outputs]).sum()
        target, partner = targets.get("unlabelled"), targets.get("partner")
        if target and self.on_pseudo_label:
            self.on_pseudo_label(target.label, target.weight, batch.hidden)

        # Further terms of the methods, which may call the networks again.
        with self.autocast():
            return losses | self.hooks.regularize(
                labelled=batch.labelled,
                labelled_output=labelled,
                unlabelled=batch.unlabelled,
                partner=batch.partner,
                teacher=teacher,
                teacher_output=target and target.output,
                partner_output=partner and partner.output,
                label=target and target.label,
                weight=target and target.weight,
                views=view_outputs,
                progress=progress,
            )

    # --- images -----------------------------------------------------------------------------------------------------

    def draw(self, raw: RawBatch, progress: Progress) -> StepDraws:
        """What chance decides about a batch. Raises UserError for views that the batch cannot serve."""
        flips = draw_flips(raw, self.config.augment.flip)
        images = len(raw.labelled.image)
        plan = self.hooks.make_views((images, *raw.labelled.image.shape[-2:]), progress)
        check_plan(plan, raw, self.teachers, progress)
        views = {view.name: draw_view(view, images, self.strong, needs_second([view])) for view in plan.views}
        change_labelled = plan.augment_labelled(raw.labelled) if plan.augment_labelled else None
        return StepDraws(plan, flips, change_labelled, views)

    def to_device(self, raw: RawBatch, draws: StepDraws) -> Batch:
        """The batch on the device, flipped, its labelled images changed as the plan asks."""
        batch = to_device(raw, draws.flips, self.device, self.config.train.channels_last)
        if draws.change_labelled is None:
            return batch
        return replace(batch, labelled=draws.change_labelled(batch.labelled))

    def augmented(self, view: View, draw: ViewDraw, batch: Batch) -> AugmentedView:
        """A view's images and its partners', changed as `draw` says."""
        weak = batch.labelled if view.images == "labelled" else batch.unlabelled
        assert weak is not None
        partners = {"labelled": batch.labelled.image}
        if batch.partner and needs_second([view]):
            partners["partner"] = draw.change(batch.partner.image, partner=True)
        own = "labelled" if view.images == "labelled" else "weak"
        source = f"view {view.name}" if draw.augmentation else own
        return AugmentedView(view, draw.change(weak.image), partners, source)

    def mixed(self, one: AugmentedView, targets: Mapping[str, PseudoTarget]) -> MixedView:
        """The view with its boxes laid over its images; a gate reads the teacher's prediction of each image."""
        view, (images, _, height, width) = one.view, one.image.shape
        probs = targets[view.images].output.logits.float().softmax(dim=1) if is_gated(view) else None
        mixing = Mixing(view.cutmix, (images, height, width), one.image.device, probs)
        source = f"view {view.name}" if view.cutmix else one.source
        return MixedView(view, mixing(one.image, one.partners), source, mixing)

    # --- pseudo-labels ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def label_by_own_pass(
        self, teacher: Teacher, weak: Mapping[str, Unlabelled], progress: Progress
    ) -> dict[str, PseudoTarget]:
        """The teacher's targets, by stream, for all images that it labels in forward passes of its own: the second
        batch always, the others unless it shares a student's pass."""
        targets = {}
        for stream, images in weak.items():
            if teacher.reads_from is None or stream == "partner":
                with self.autocast():
                    output = teacher(images.image)
                targets[stream] = self.target(output, images.valid, stream, progress)
        return targets

    @torch.no_grad()
    def label_by_student(
        self,
        teacher: Teacher,
        outputs: list[dict[str, Output]],
        weak: Mapping[str, Unlabelled],
        known: Mapping[str, PseudoTarget],
        progress: Progress,
    ) -> dict[str, PseudoTarget]:
        """The targets, by stream, that a teacher reads from a student's training pass.

        outputs: of each student; known: the targets that it made in passes of its own.
        """
        targets = {}
        for stream, images in weak.items():
            if stream not in known:
                student = next(at for at, student in enumerate(self.students) if student is teacher.reads_from)
                output = outputs[student]["labelled" if stream == "labelled" else "weak"].detach()
                targets[stream] = self.target(output, images.valid, stream, progress)
        return targets

    @torch.no_grad()
    def label_images(self, images: Unlabelled, progress: Progress) -> PseudoTarget:
        """The target of weak views outside a step, by the first student's teacher in a pass of its own."""
        with self.autocast():
            output = self.teachers[0](images.image)
        return self.target(output, images.valid, "unlabelled", progress)

    def target(self, output: Output, valid: Tensor, stream: str, progress: Progress) -> PseudoTarget:
        """The pseudo-label and pixel weights that the hooks make of a teacher's output on weak views."""
        logits = output.logits.float()
        probs = logits.softmax(dim=1)
        about: dict[str, Any] = {"probs": probs, "stream": stream, "progress": progress}
        label = self.hooks.pseudo_label(logits=logits, output=output, valid=valid, **about)
        return PseudoTarget(output, label, self.hooks.pixel_weight(label=label, **about))

    # --- views against their targets --------------------------------------------------------------------------------

    @torch.no_grad()
    def pair(
        self,
        one: MixedView,
        output: Output,
        targets: Mapping[str, PseudoTarget],
        teacher: Teacher,
        batch: Batch,
        progress: Progress,
    ) -> ViewOutput:
        """A view's output beside its target, which is mixed by the view's boxes as its image was."""
        view, mixing, own = one.view, one.mixing, targets[one.view.images]
        others = {"partner": targets["partner"]} if "partner" in targets else {}
        if any(cutmix.partner == "labelled" for cutmix in nested_cutmix(view.cutmix)):
            others["labelled"] = ground_truth_target(batch.labelled, own)
        label = mixing.label(own.label, {name: target.label for name, target in others.items()})
        weight = mixing(own.weight, {name: target.weight for name, target in others.items()})
        view_output = ViewOutput(view, one.image, output, label, weight, mixing.box, mixing)
        with self.autocast():  # the hook may call the networks again
            view_output = self.hooks.refine(
                view_output=view_output,
                labelled=batch.labelled,
                teacher_output=own.output,
                teacher=teacher,
                progress=progress,
            )
        if view.weight_pooling == "batch":
            mean_weight = process_mean(view_output.weight.mean())
            view_output = replace(view_output, weight=mean_weight.expand_as(view_output.weight))
        return view_output

    def consistency(self, view_output: ViewOutput, progress: Progress) -> Tensor:
        """The loss of a view against its target, times its loss weight."""
        rebalance = self.hooks.class_weight(
            label=view_output.label, weight=view_output.weight, num_classes=self.num_classes, progress=progress
        )
        if self.on_view:
            self.on_view(view_output, rebalance)
        per_class = self.config.loss.class_weight == "per_class"
        return view_output.view.loss_weight * view_loss(view_output, class_weight=rebalance, per_class=per_class)

    # --- for others -------------------------------------------------------------------------------------------------

    def pictures(self, raw: RawBatch, progress: Progress) -> dict[str, Tensor]:
        """The images of a step before boxes, by view; drawn again from the step's own seed."""
        seed_draws(self.seed, progress.step, 0)
        draws = self.draw(raw, progress)
        batch = self.to_device(raw, draws)
        weak = {"weak": batch.unlabelled.image} if batch.unlabelled else {}
        views = {view.name: self.augmented(view, draws.views[view.name], batch).image for view in draws.plan.views}
        return {"labelled": batch.labelled.image} | weak | views

    def networks(self) -> dict[str, nn.Module]:
        """`student`, and `teacher` where it has weights of its own; those of further pairs are numbered from 1."""
        found: dict[str, nn.Module] = {}
        for index, (student, teacher) in enumerate(zip(self.students, self.teachers, strict=True)):
            number = str(index) if index else ""
            found[f"student{number}"] = student
            if teacher.network is not None:
                found[f"teacher{number}"] = teacher.network
        return found

    def autocast(self) -> AbstractContextManager[Any]:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.train.precision)
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)


def ground_truth_target(labelled: Labelled, like: PseudoTarget) -> PseudoTarget:
    """The masks of the labelled images as a target, each pixel with weight 1; ids or distributions as in `like`."""
    label = ground_truth_label(labelled)
    if like.label.target.dim() == 4:
        label = replace(label, target=one_hot(label.target, like.label.target.shape[1]))
    return PseudoTarget(like.output, label, torch.ones_like(like.weight))
