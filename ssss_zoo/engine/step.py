"""One training step, top to bottom. It asks the hooks, and knows no method by name.

A step: the views are planned; teachers with passes of their own label; each student sees labelled images and views,
pass by pass; pseudo-labels, weights and class weights meet the views' outputs in the consistency loss; regularizers add
their terms; backward, optimiser, teachers. Nothing in here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import Config
from ssss_zoo.engine.hooks import Relay
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.augment import Strong, random_flip
from ssss_zoo.toolkit.contrast import one_hot
from ssss_zoo.toolkit.losses import consistency, supervised_loss
from ssss_zoo.toolkit.mixing import SECOND, Mixing, chain, true_label
from ssss_zoo.toolkit.teachers import Teacher
from ssss_zoo.toolkit.types import (
    Batch,
    Labelled,
    Output,
    Perturbation,
    Progress,
    PseudoLabel,
    Seen,
    Unlabelled,
    View,
    Views,
)

if TYPE_CHECKING:
    from ssss_zoo.models.contract import Network


@dataclass(frozen=True, eq=False)
class Ticket:
    """One entry of a forward pass: what its output is called, its images, what happens to their features."""

    name: str
    image: Tensor
    perturb: Perturbation | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """A view's images (B, channels, H, W) before boxes are laid over them, and its partner's by stream."""

    view: View
    image: Tensor
    others: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Shown:
    """A view's images (B, channels, H, W) as the student sees them, and how they were mixed."""

    view: View
    image: Tensor
    mixing: Mixing


@dataclass(frozen=True, eq=False)
class Target:
    """What a teacher said of a batch of weak views: its output, the pseudo-label and the pixel weights (B, H, W)."""

    output: Output
    label: PseudoLabel
    weight: Tensor


@dataclass(eq=False)
class Lesson:
    """What one student is taught in a step: targets by stream, what it is shown, what it answers."""

    student: Network
    teacher: Teacher
    targets: dict[str, Target] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    outputs: dict[str, Output] = field(default_factory=dict)


class Engine:
    """The training of one stage: students, each with its teacher, one optimiser, the hooks.

    on_health: called at the steps that are logged with (label, weight, hidden labels or None) of the weak view.
    on_view: called with each view as the student saw it and its class weights (C,).
    """

    def __init__(
        self,
        config: Config,
        ask: Relay,
        students: list[Network],
        teachers: list[Teacher],
        modules: Iterable[nn.Module],
        num_classes: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.ask, self.device, self.num_classes, self.seed = config, ask, device, num_classes, seed
        self.students, self.teachers = students, teachers
        self.strong, self.supervised = Strong(config.augment), supervised_loss(config.loss)
        self.optimizer = make_optimizer(config, students, modules)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.on_health: Callable[[PseudoLabel, Tensor, Tensor | None], None] | None = None
        self.on_view: Callable[[Seen, Tensor], None] | None = None

    # --- the step ---------------------------------------------------------------------------------------------------

    def step(self, batches: Iterator[Batch], progress: Progress) -> dict[str, Tensor]:
        """One optimiser step over `train.accumulate` batches. Returns the losses by name, on the device, detached."""
        self.set_rate(progress)
        sums: dict[str, Tensor] = {}
        for pass_index in range(self.config.train.accumulate):
            seed_draws(self.seed, progress.step, pass_index)
            losses = self.losses(self.receive(next(batches)), progress)
            total = torch.stack(list(losses.values())).sum() / self.config.train.accumulate
            backward(self.scaler.scale(total))
            for name, loss in {**losses, "total": total * self.config.train.accumulate}.items():
                sums[name] = sums.get(name, 0) + loss.detach() / self.config.train.accumulate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for student, teacher in zip(self.students, self.teachers, strict=True):
                teacher.update(student, progress)
            self.ask.ask("after_step", students=self.students, teachers=self.teachers, progress=progress)
        return sums

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """All loss terms of a batch, each times its share: every student learns from its own teacher."""
        plan = self.plan(batch, progress)
        batch = replace(batch, labelled=plan.labelled_look(batch.labelled) if plan.labelled_look else batch.labelled)
        weak = weak_views(plan, batch)
        looks = [self.look(view, batch) for view in plan.views]  # the same for all students
        lessons = [Lesson(*pair) for pair in zip(self.students, self.teachers, strict=True)]
        for lesson in lessons:  # teachers first: they need no graph, and see BatchNorm as the last step left it
            self.listen(lesson, weak, progress)
        for lesson in lessons:
            self.show(lesson, looks)
            self.attend(lesson, plan, batch, self.groups(lesson.student))
        losses: dict[str, Tensor] = {}
        for lesson in lessons:
            self.listen(lesson, weak, progress, {one.student: one.outputs for one in lessons})
            for name, term in self.learn(lesson, plan, batch, progress).items():
                losses[name] = losses[name] + term if name in losses else term
        return losses

    def learn(self, lesson: Lesson, plan: Views, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The loss terms of one student: labels meet labelled images, pseudo-labels meet views, regularizers speak."""
        labelled = lesson.outputs["labelled"]
        losses = {"supervised": plan.labelled_share * self.supervised(labelled.logits, batch.labelled.mask)}
        seen = tuple(self.meet(one, lesson, batch, progress) for one in lesson.shown)
        if seen:
            losses["consistency"] = torch.stack([self.consistency(one, progress) for one in seen]).sum()
        target, far = lesson.targets.get("unlabelled"), lesson.targets.get("partner")
        if target and self.on_health:
            self.on_health(target.label, target.weight, batch.hidden)
        with self.autocast():  # further terms may call the networks again
            return losses | self.ask.regularize(
                labelled=batch.labelled,
                labelled_output=labelled,
                unlabelled=batch.unlabelled,
                partner=batch.partner,
                teacher=lesson.teacher,
                weak=target and target.output,
                far=far and far.output,
                label=target and target.label,
                weight=target and target.weight,
                views=seen,
                progress=progress,
            )

    # --- images -----------------------------------------------------------------------------------------------------

    def receive(self, raw: Batch) -> Batch:
        """A batch as the loader made it (uint8), on the device: floats in [0, 1], flipped, image and mask together."""
        chance = self.config.augment.flip
        labelled, unlabelled, partner, hidden = raw.labelled, raw.unlabelled, raw.partner, raw.hidden
        image, mask = random_flip((self.floats(labelled.image), self.move(labelled.mask).long()), chance)
        weak, weak_partner = None, None
        if unlabelled:
            parts = [self.floats(unlabelled.image), self.move(unlabelled.valid)]
            parts += [self.move(hidden).long()] if hidden is not None else []
            flipped = random_flip(tuple(parts), chance)
            weak, hidden = Unlabelled(flipped[0], flipped[1]), flipped[2] if hidden is not None else None
        if partner:
            weak_partner = Unlabelled(*random_flip((self.floats(partner.image), self.move(partner.valid)), chance))
        return Batch(Labelled(image, mask, labelled.pseudo), weak, weak_partner, hidden)

    def plan(self, batch: Batch, progress: Progress) -> Views:
        """The step's views, which the streams and the teachers at hand can serve."""
        images, _, height, width = batch.labelled.image.shape
        plan = self.ask.views((images, height, width), progress)
        check_streams(plan, batch, progress)
        gated = [view.name for view in plan.views if any(cutmix.gate for cutmix in chain(view.cutmix))]
        if gated and any(teacher.source for teacher in self.teachers):
            raise UserError(
                f"view '{gated[0]}' is mixed by what the teacher says of each image, and this run's teacher says it in "
                "the student's own pass; choose hooks.make_teacher=METHOD, one whose teacher makes passes of its own"
            )
        return plan

    def look(self, view: View, batch: Batch) -> Look:
        """A view's images and its partner's, strengthened."""
        make = view.strength if callable(view.strength) else self.strong if view.strength == "strong" else unchanged
        source = batch.labelled if view.of == "labelled" else batch.unlabelled
        assert source is not None
        image, others = make(source.image), {"labelled": batch.labelled.image}
        if batch.partner and needs_second([view]):
            others["partner"] = make(batch.partner.image)
        return Look(view, image, others)

    def show(self, lesson: Lesson, looks: list[Look]) -> None:
        """Lay the boxes: where gates ask for the teacher's word, it is there by now."""
        for look in looks:
            view, (images, _, height, width) = look.view, look.image.shape
            gated = any(cutmix.gate for cutmix in chain(view.cutmix))
            probs = lesson.targets[view.of].output.logits.float().softmax(dim=1) if gated else None
            mixing = Mixing(view.cutmix, (images, height, width), look.image.device, probs)
            lesson.shown.append(Shown(view, mixing(look.image, look.others), mixing))

    def groups(self, student: Network) -> list[str]:
        """The passes of a student off which a teacher reads labels."""
        return list(dict.fromkeys(teacher.group for teacher in self.teachers if teacher.source is student))

    def attend(self, lesson: Lesson, plan: Views, batch: Batch, read: list[str]) -> None:
        """The student's outputs by name, one pass a group of views. read: passes that weak views go into as well."""
        passes: dict[str, list[Ticket]] = {"labelled": [Ticket("labelled", batch.labelled.image)]}
        if plan.views and batch.unlabelled:
            for group in read:
                passes.setdefault(group, []).append(Ticket("weak", batch.unlabelled.image))
        for one in lesson.shown:
            view = one.view
            tickets = passes.setdefault("labelled" if self.config.train.fuse else view.group, [])
            tickets.append(Ticket(f"view {view.name}", one.image, view.perturb))
            if view.perturb and view.perturb_labelled:
                tickets.append(Ticket(f"labelled for {view.name}", batch.labelled.image, view.perturb))
        if plan.labelled_last:
            passes["labelled"] = passes.pop("labelled")
        with self.autocast():
            for tickets in passes.values():
                lesson.outputs |= run_pass(lesson.student, tickets)

    # --- targets and losses -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def listen(
        self,
        lesson: Lesson,
        weak: dict[str, Unlabelled],
        progress: Progress,
        answers: dict[nn.Module, dict[str, Output]] | None = None,
    ) -> None:
        """Fill the lesson's targets with the teacher's word on each stream. It is heard twice in a step: for what it
        says in passes of its own, and, with the students' answers, for what is read off those."""
        teacher = lesson.teacher
        for stream, images in weak.items():
            if stream in lesson.targets:
                continue
            if teacher.source is None or stream == "partner":
                with self.autocast():
                    output = teacher(images.image)
            elif answers is not None:
                name = "labelled" if stream == "labelled" else "weak"
                output = answers[teacher.source][name].detach()
            else:
                continue
            lesson.targets[stream] = self.target(output, images.valid, stream, progress)

    @torch.no_grad()
    def word(self, images: Unlabelled, progress: Progress) -> Target:
        """What the first student's teacher, by a pass of its own, and the hooks say of weak views outside a step."""
        with self.autocast():
            output = self.teachers[0](images.image)
        return self.target(output, images.valid, "unlabelled", progress)

    def target(self, output: Output, valid: Tensor, stream: str, progress: Progress) -> Target:
        """What the hooks make of a teacher's output on weak views."""
        logits = output.logits.float()
        probs = logits.softmax(dim=1)
        about: dict[str, Any] = {"probs": probs, "stream": stream, "progress": progress}
        label = self.ask.pseudo_label(logits=logits, output=output, valid=valid, **about)
        return Target(output, label, self.ask.pixel_weight(label=label, **about))

    @torch.no_grad()
    def meet(self, shown: Shown, lesson: Lesson, batch: Batch, progress: Progress) -> Seen:
        """Bring a view's output and its target together: the target is mixed by the view's boxes, as its image was."""
        view, mixing = shown.view, shown.mixing
        own, others = lesson.targets[view.of], {}
        if "partner" in lesson.targets:
            others["partner"] = lesson.targets["partner"]
        if any(cutmix.partner == "labelled" for cutmix in chain(view.cutmix)):
            others["labelled"] = truth(batch.labelled, own)
        label = mixing.label(own.label, {name: target.label for name, target in others.items()})
        weight = mixing(own.weight, {name: target.weight for name, target in others.items()})
        output = lesson.outputs[f"view {view.name}"]
        seen = Seen(view, shown.image, output, label, weight, mixing.box, mixing)
        with self.autocast():  # a closer look may call the networks again
            seen = self.ask.refine(
                seen=seen, labelled=batch.labelled, weak=own.output, teacher=lesson.teacher, progress=progress
            )
        return replace(seen, weight=pooled(seen.weight, view.pool))

    def consistency(self, seen: Seen, progress: Progress) -> Tensor:
        rebalance = self.ask.class_weight(
            label=seen.label, weight=seen.weight, num_classes=self.num_classes, progress=progress
        )
        if self.on_view:
            self.on_view(seen, rebalance)
        view, per_class = seen.view, self.config.loss.class_weight == "per_class"
        given = (seen.output.logits, seen.label, seen.weight, rebalance)
        return view.share * consistency(*given, view.normaliser, per_class, view.loss)

    def pictures(self, raw: Batch, progress: Progress) -> dict[str, Tensor]:
        """The images of a step before boxes, by view; drawn again from the step's own seed."""
        seed_draws(self.seed, progress.step, 0)
        batch = self.receive(raw)
        plan = self.plan(batch, progress)
        weak = {"weak": batch.unlabelled.image} if batch.unlabelled else {}
        return {"labelled": batch.labelled.image} | weak | {v.name: self.look(v, batch).image for v in plan.views}

    def networks(self) -> dict[str, nn.Module]:
        """`student`, and `teacher` where it has weights of its own; those of further pairs are numbered from 1."""
        found: dict[str, nn.Module] = {}
        for index, (student, teacher) in enumerate(zip(self.students, self.teachers, strict=True)):
            number = str(index) if index else ""
            found[f"student{number}"] = student
            if teacher.network is not None:
                found[f"teacher{number}"] = teacher.network
        return found

    # --- small things -----------------------------------------------------------------------------------------------

    def set_rate(self, progress: Progress) -> None:
        """Poly schedule, lr * (1 - t/T)^power, written before step t (0-based)."""
        factor = (1 - progress.done) ** self.config.optim.power
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def autocast(self) -> AbstractContextManager[Any]:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.train.precision)
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def floats(self, image: Tensor) -> Tensor:
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        return self.move(image).float().div_(255).contiguous(memory_format=layout)


BROKEN_GRAPHS = {  # what torch says, and what a method did
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
        told = next((words for said, words in BROKEN_GRAPHS.items() if said in str(error)), None)
        if told is None:
            raise
        raise UserError(told) from error


def unchanged(image: Tensor) -> Tensor:
    return image


def needs_second(views: Iterable[View]) -> bool:
    """Whether a view is mixed with a second unlabelled batch."""
    return any(cutmix.partner in SECOND for view in views for cutmix in chain(view.cutmix))


def check_streams(plan: Views, batch: Batch, progress: Progress) -> None:
    """Raise UserError when views need a stream that was not opened, because neither the first nor the last step did."""
    if (plan.views and batch.unlabelled is None) or (needs_second(plan.views) and batch.partner is None):
        raise UserError(
            f"make_views asks at step {progress.step + 1} for unlabelled images that it asked for neither at the first "
            "nor at the last step; give such views a share of 0 there instead of leaving them out"
        )


def weak_views(plan: Views, batch: Batch) -> dict[str, Unlabelled]:
    """The images that teachers are asked about, by stream. Of labelled images every pixel counts, void included."""
    weak: dict[str, Unlabelled] = {}
    if any(view.of == "labelled" for view in plan.views):
        weak["labelled"] = Unlabelled(batch.labelled.image, torch.ones_like(batch.labelled.mask, dtype=torch.bool))
    if plan.views and batch.unlabelled:
        weak["unlabelled"] = batch.unlabelled
    if batch.partner and needs_second(plan.views):
        weak["partner"] = batch.partner
    return weak


def truth(labelled: Labelled, like: Target) -> Target:
    """The labelled images' own masks as a target whose pixels all count, in the form of `like`."""
    label = true_label(labelled)
    if like.label.target.dim() == 4:
        label = replace(label, target=one_hot(label.target, like.label.target.shape[1]))
    return Target(like.output, label, torch.ones_like(like.weight))


def pooled(weight: Tensor, pool: str) -> Tensor:
    """Weights (B, H, W) averaged over what one of them is for; see `View.pool`."""
    if pool == "pixel":
        return weight
    return weight.mean().expand_as(weight)


def run_pass(student: Network, tickets: list[Ticket]) -> dict[str, Output]:
    """One forward pass over all tickets. Images that several tickets share are encoded once, and decoded once for all
    that leave their features alone; the decoder sees everything together."""
    images = list({id(ticket.image): ticket.image for ticket in tickets}.values())
    jobs = {(id(ticket.image), id(ticket.perturb)): ticket for ticket in tickets}  # what is decoded, each once
    encoded = student.encode(torch.cat(images) if len(images) > 1 else images[0])
    sizes = [len(image) for image in images]
    if len(jobs) > len(images) or any(ticket.perturb for ticket in tickets):
        parts = dict(zip(map(id, images), zip(*(level.split(sizes) for level in encoded), strict=True), strict=True))
        maps = [list(parts[id(job.image)]) for job in jobs.values()]
        maps = [job.perturb(part) if job.perturb else part for job, part in zip(jobs.values(), maps, strict=True)]
        encoded = [torch.cat(level) for level in zip(*maps, strict=True)]
        sizes = [len(job.image) for job in jobs.values()]
    output = student.decode(encoded, (tickets[0].image.shape[-2], tickets[0].image.shape[-1]))
    levels = zip(*(level.split(sizes) for level in encoded), strict=True)
    split = zip(jobs, output.logits.split(sizes), output.features.split(sizes), levels, strict=True)
    outputs = {key: Output(logits, features, maps) for key, logits, features, maps in split}
    return {ticket.name: outputs[id(ticket.image), id(ticket.perturb)] for ticket in tickets}


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


def seed_draws(seed: int, step: int, pass_index: int) -> None:
    """Make every draw of a step (augmentation, boxes, dropout) a function of seed and step alone: a run that resumes
    draws what it would have drawn, and no random state needs saving."""
    import random

    import numpy as np

    mixed_seed = int(np.random.SeedSequence([seed, step, pass_index]).generate_state(1, np.uint64)[0]) >> 1
    torch.manual_seed(mixed_seed)
    random.seed(mixed_seed)
    np.random.seed(mixed_seed & 0xFFFFFFFF)
