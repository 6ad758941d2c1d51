"""One training step, top to bottom. It asks the hooks, and knows no method by name.

A step: the views are planned; the teacher labels the weak view; the student sees labelled images and views, pass by
pass; pseudo-labels, weights and class weights meet the views' outputs in the consistency loss; regularizers add their
terms; backward, optimiser, teacher. Nothing in here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssss_zoo.augment import Strong, box_mask, partner_rows, paste, random_flip
from ssss_zoo.config import Config
from ssss_zoo.errors import UserError
from ssss_zoo.losses import consistency, cross_entropy, ohem
from ssss_zoo.records import (
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
    mixed,
)
from ssss_zoo.relay import Relay
from ssss_zoo.teacher import Teacher

if TYPE_CHECKING:
    from ssss_zoo.models.contract import Network


@dataclass(frozen=True, eq=False)
class Ticket:
    """One entry of a forward pass: what its output is called, its images, what happens to their features."""

    name: str
    image: Tensor
    perturb: Perturbation | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """A view's images (B, channels, H, W) as the student sees them; box (B, H, W) bool: where a partner lies."""

    view: View
    image: Tensor
    box: Tensor | None


@dataclass(frozen=True, eq=False)
class Target:
    """What a teacher said of a batch of weak views: its output, the pseudo-label and the pixel weights (B, H, W)."""

    output: Output
    label: PseudoLabel
    weight: Tensor


class Engine:
    """The training of one stage: students, each with its teacher, one optimiser, the hooks.

    on_health: called at the steps that are logged with (label, weight, hidden labels or None) of the weak view.
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
        self.strong = Strong(config.augment)
        self.optimizer = make_optimizer(config, students, modules)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.on_health: Callable[[PseudoLabel, Tensor, Tensor | None], None] | None = None

    # --- the step ---------------------------------------------------------------------------------------------------

    def step(self, batches: Iterator[Batch], progress: Progress) -> dict[str, Tensor]:
        """One optimiser step over `train.accumulate` batches. Returns the losses by name, on the device, detached."""
        self.set_rate(progress)
        sums: dict[str, Tensor] = {}
        for pass_index in range(self.config.train.accumulate):
            seed_draws(self.seed, progress.step, pass_index)
            losses = self.losses(self.receive(next(batches)), progress)
            total = torch.stack(list(losses.values())).sum() / self.config.train.accumulate
            self.scaler.scale(total).backward()
            for name, loss in {**losses, "total": total * self.config.train.accumulate}.items():
                sums[name] = sums.get(name, 0) + loss.detach() / self.config.train.accumulate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for student, teacher in zip(self.students, self.teachers, strict=True):
                teacher.update(student, progress)
                self.ask.ask("after_step", student=student, teacher=teacher, progress=progress)
        return sums

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """All loss terms of a batch, each times its share: every student learns from its own teacher."""
        images, _, height, width = batch.labelled.image.shape
        plan = self.ask.views((images, height, width), progress)
        check_streams(plan, batch, progress)
        shown = [self.show(view, batch) for view in plan.views]  # the same for all students
        losses: dict[str, Tensor] = {}
        for student, teacher in zip(self.students, self.teachers, strict=True):
            for name, term in self.learn(student, teacher, batch, plan, shown, progress).items():
                losses[name] = losses[name] + term if name in losses else term
        return losses

    def learn(
        self, student: Network, teacher: Teacher, batch: Batch, plan: Views, shown: list[Shown], progress: Progress
    ) -> dict[str, Tensor]:
        """The loss terms of one student."""
        own_pass = bool(plan.views) and not teacher.joins
        partners = any(view.cutmix and view.cutmix.partner == "stream" for view in plan.views)
        with self.autocast():  # the teacher first: it needs no graph, and sees BatchNorm as the last step left it
            weak = teacher(batch.unlabelled.image) if own_pass and batch.unlabelled else None
            far = teacher(batch.partner.image) if partners and batch.partner else None
            outputs = self.forward(student, batch, plan, shown, joins=teacher.joins)
        losses = {"supervised": plan.labelled_share * self.supervised(outputs["labelled"].logits, batch.labelled.mask)}
        target: Target | None = None
        seen: tuple[Seen, ...] = ()
        if plan.views and batch.unlabelled:  # what was predicted becomes labels, labels meet the views
            target = self.target(weak or outputs["weak"].detach(), batch.unlabelled.valid, progress)
            away = self.target(far, batch.partner.valid, progress) if far and batch.partner else None
            seen = tuple(self.meet(one, outputs[f"view {one.view.name}"], target, away) for one in shown)
            losses["consistency"] = torch.stack([self.consistency(one, progress) for one in seen]).sum()
            if self.on_health:
                self.on_health(target.label, target.weight, batch.hidden)
        with self.autocast():  # further terms may call the networks again
            return losses | self.ask.regularize(
                labelled=batch.labelled,
                labelled_output=outputs["labelled"],
                teacher=teacher,
                weak=target and target.output,
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
        return Batch(Labelled(image, mask), weak, weak_partner, hidden)

    def show(self, view: View, batch: Batch) -> Shown:
        """The images of a view as the student sees them: strengthened, boxes mixed in."""
        assert batch.unlabelled is not None
        look = self.strong if view.strength == "strong" else (lambda image: image)
        image: Tensor = look(batch.unlabelled.image)
        if view.cutmix is None:
            return Shown(view, image, None)
        if view.cutmix.partner == "stream":
            assert batch.partner is not None
            other = look(batch.partner.image)
        else:
            other = partner_rows(image, view.cutmix.partner)
        box = box_mask(view.cutmix.boxes, image.shape[-2], image.shape[-1], image.device)
        return Shown(view, paste(image, other, box), box)

    def forward(
        self, student: Network, batch: Batch, plan: Views, shown: list[Shown], joins: bool
    ) -> dict[str, Output]:
        """The student's outputs by name, one pass per group of views; the labelled images' pass comes first."""
        passes: dict[str, list[Ticket]] = {"labelled": [Ticket("labelled", batch.labelled.image)]}
        if joins and plan.views and batch.unlabelled:
            passes["labelled"].append(Ticket("weak", batch.unlabelled.image))
        for one in shown:
            view = one.view
            group = passes.setdefault("labelled" if self.config.train.fuse else view.group, [])
            group.append(Ticket(f"view {view.name}", one.image, view.perturb))
            if view.perturb and view.perturb_labelled:
                group.append(Ticket(f"labelled for {view.name}", batch.labelled.image, view.perturb))
        return {name: output for tickets in passes.values() for name, output in run_pass(student, tickets).items()}

    # --- targets and losses -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def target(self, output: Output, valid: Tensor, progress: Progress) -> Target:
        """What the hooks make of a teacher's output on weak views."""
        logits = output.logits.float()
        probs = logits.softmax(dim=1)
        label = self.ask.pseudo_label(
            probs=probs, logits=logits, features=output.features, valid=valid, progress=progress
        )
        return Target(output, label, self.ask.pixel_weight(probs=probs, label=label, progress=progress))

    @torch.no_grad()
    def meet(self, shown: Shown, output: Output, target: Target, away: Target | None) -> Seen:
        """Bring a view's output and its target together: the target is mixed by the view's boxes, as its image was."""
        view, image, box = shown.view, shown.image, shown.box
        if view.cutmix is None or box is None:
            return Seen(view, image, output, target.label, target.weight)
        if view.cutmix.partner == "stream":
            assert away is not None
            label, weight = away.label, away.weight
        else:
            label, weight = (turned(value, view.cutmix.partner) for value in (target.label, target.weight))
        return Seen(view, image, output, mixed(target.label, label, box), torch.where(box, weight, target.weight))

    def supervised(self, logits: Tensor, mask: Tensor) -> Tensor:
        loss = self.config.loss
        if loss.supervised == "ohem":
            return ohem(logits, mask, loss.ohem_threshold, loss.ohem_min_kept)
        return cross_entropy(logits, mask)

    def consistency(self, seen: Seen, progress: Progress) -> Tensor:
        rebalance = self.ask.class_weight(
            label=seen.label, weight=seen.weight, num_classes=self.num_classes, progress=progress
        )
        per_class = self.config.loss.class_weight == "per_class"
        loss = consistency(seen.output.logits, seen.label, seen.weight, rebalance, seen.view.normaliser, per_class)
        return seen.view.share * loss

    def pictures(self, raw: Batch, progress: Progress) -> dict[str, Tensor]:
        """The images of a step as the student saw them, by view; drawn again from the step's own seed."""
        seed_draws(self.seed, progress.step, 0)
        batch = self.receive(raw)
        images, _, height, width = batch.labelled.image.shape
        plan = self.ask.views((images, height, width), progress)
        weak = {"weak": batch.unlabelled.image} if batch.unlabelled else {}
        shown = {view.name: self.show(view, batch).image for view in plan.views}
        return {"labelled": batch.labelled.image} | weak | shown

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


def check_streams(plan: Views, batch: Batch, progress: Progress) -> None:
    """Raise UserError when views need a stream that was not opened, because neither the first nor the last step did."""
    partner = any(view.cutmix and view.cutmix.partner == "stream" for view in plan.views)
    if (plan.views and batch.unlabelled is None) or (partner and batch.partner is None):
        raise UserError(
            f"make_views asks at step {progress.step + 1} for unlabelled images that it asked for neither at the first "
            "nor at the last step; give such views a share of 0 there instead of leaving them out"
        )


def run_pass(student: Network, tickets: list[Ticket]) -> dict[str, Output]:
    """One forward pass over all tickets. Images that several tickets share are encoded once; features are perturbed on
    their way to the decoder, which sees all tickets together."""
    stack: list[Tensor] = []
    rows: dict[int, slice] = {}
    for ticket in tickets:
        if id(ticket.image) not in rows:
            start = sum(len(image) for image in stack)
            rows[id(ticket.image)] = slice(start, start + len(ticket.image))
            stack.append(ticket.image)
    features = student.encode(torch.cat(stack) if len(stack) > 1 else stack[0])
    if len(tickets) > len(stack) or any(ticket.perturb for ticket in tickets):
        parts = [[level[rows[id(ticket.image)]] for level in features] for ticket in tickets]
        parts = [ticket.perturb(part) if ticket.perturb else part for ticket, part in zip(tickets, parts, strict=True)]
        features = [torch.cat(level) for level in zip(*parts, strict=True)]
    height, width = tickets[0].image.shape[-2:]
    output = student.decode(features, (height, width))
    sizes = [len(ticket.image) for ticket in tickets]
    parts_of = zip(tickets, output.logits.split(sizes), output.features.split(sizes), strict=True)
    return {ticket.name: Output(logits, features) for ticket, logits, features in parts_of}


def turned(value: Any, partner: str) -> Any:
    """A pseudo-label or weight of each image's CutMix partner in the batch."""
    if isinstance(value, PseudoLabel):
        parts = {name: partner_rows(getattr(value, name), partner) for name in ("target", "confidence", "valid")}
        return replace(value, **parts)
    return partner_rows(value, partner)


def make_optimizer(config: Config, students: list[Network], modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: encoders at `lr`, everything else (heads, the methods' modules) at
    `lr * head_multiplier`. Weight decay on all of them, BatchNorm and biases included (UniMatch's release)."""
    optim = config.optim
    encoders = [p for student in students for p in student.parameter_groups()["encoder"]]
    heads = [p for student in students for p in student.parameter_groups()["head"]]
    heads += [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": encoders, "lr": optim.lr, "initial_lr": optim.lr},
        {"params": heads, "lr": optim.lr * optim.head_multiplier, "initial_lr": optim.lr * optim.head_multiplier},
    ]
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
