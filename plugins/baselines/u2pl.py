"""U2PL (Wang et al., CVPR 2022, arXiv 2203.03884): pixels whose prediction is too uncertain to teach a class still say
which classes they are not; per-class memories of them are the negatives of a contrastive loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    NO_CLASS, Anchors, ClassBank, CutMix, EMATeacher, Labelled, Output, Progress, RunInfo, Teacher, View, ViewOutput,
    Views, check_range, device_generator, downsample_nearest, draw_members, ema_update_, ema_warmup, flatten_pixels,
    half_boxes, hookimpl, l2_normalize, percentile, predict,
)  # fmt: skip


@dataclass(eq=False)
class U2PL:
    paper: ClassVar[str] = "U2PL (Wang et al., CVPR 2022, arXiv 2203.03884)"

    drop: float = 20.0  # percent of the pixels that are too uncertain at first, 0 at the end; paper alpha_0 and release
    warm_epochs: float = 1.0  # labels alone; release: 1 VOC, 0 Cityscapes
    copy_epochs: float = 1.0  # after that the teacher is the student's copy so long; release
    ema_decay: float = 0.99  # of the parameters alone, warmed up; release
    contrast_weight: float = 0.1  # paper section 4; the release's 1 acts as 1 / GPUs: 0.25 VOC, 0.125 Cityscapes
    dim: int = 256  # width of the representation; release
    temperature: float = 0.5  # release
    anchors: int = 256  # of each class; release
    negatives: int = 50  # of each anchor; release
    anchor_floor: float = 0.3  # least probability of an anchor's class; release
    low_rank: int = 3  # a negative's class is none of its likeliest so many; paper r_l and release
    high_rank: int = 20  # nor beyond so many; paper r_h and release
    memory: int = 2000  # vectors of each class [ours: it is saved with the run]; release: 30,000, 50,000 of class 0
    pushed: int = 512  # new ones of each class a step, at most, drawn at random [ours]; release: all
    release_bugs: bool = False  # true: the release's negatives and its mixed-up classes

    def __post_init__(self) -> None:
        for name in ("drop", "warm_epochs", "copy_epochs", "contrast_weight", "low_rank"):
            check_range(f"options.u2pl.{name}", getattr(self, name), 0, 100 if name == "drop" else 1e6)
        for name in ("dim", "anchors", "negatives", "high_rank", "memory", "pushed"):
            check_range(f"options.u2pl.{name}", getattr(self, name), 1, 1e6)
        check_range("options.u2pl.ema_decay", self.ema_decay, 0, 1)
        check_range("options.u2pl.anchor_floor", self.anchor_floor, 0, 1)
        check_range("options.u2pl.temperature", self.temperature, 1e-3, 1e3)
        self.pushed = min(self.pushed, self.memory)

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.head = representation_head(info.feature_dim, self.dim)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False)
        self.bank = ClassBank(info.num_classes, self.memory, self.dim)
        return {"u2pl_head": self.head, "u2pl_slow_head": self.slow_head, "u2pl_memory": self.bank}

    @hookimpl
    def make_teacher(self, students: list[nn.Module], index: int) -> EMATeacher:
        return EMATeacher(students[index], self.decay, buffers=False)

    def decay(self, progress: Progress) -> float:
        if progress.epoch < self.warm_epochs + self.copy_epochs:
            return 0.0
        return ema_warmup(progress.step - int(self.warm_epochs * progress.epoch_steps), self.ema_decay)

    @hookimpl
    def make_views(self, size: tuple[int, int, int], progress: Progress) -> Views:
        """The weak view with half of the next image, in the labelled pass; its loss is N / K^2 times the sum."""
        share = float(progress.epoch >= self.warm_epochs)
        mix = CutMix("next", half_boxes(*size))
        return Views((View("mixed", "weak", share, "labelled", mix, divide_by="kept_share"),))

    @hookimpl
    def refine(self, view_output: ViewOutput, labelled: Labelled, teacher: Teacher, progress: Progress) -> ViewOutput:
        """Drop the pixels whose entropy, by the teacher's word on the mixed image, is in the top percent."""
        told = second_look(teacher, labelled, view_output)
        entropy = entropies(told, view_output)
        kept = entropy < percentile(entropy, view_output.label.valid, 100 - self.left(progress))
        return replace(view_output, weight=view_output.weight * kept, notes={**view_output.notes, "u2pl": told})

    def left(self, progress: Progress) -> float:
        """Percent of the pixels at either end of the entropies: drop * (1 - t / T)."""
        return self.drop * (1 - progress.done)

    @hookimpl
    def regularize(
        self,
        labelled: Labelled,
        labelled_output: Output,
        teacher: Teacher,
        views: tuple[ViewOutput, ...],
        progress: Progress,
    ) -> dict[str, Tensor] | None:
        if not views or progress.epoch < self.warm_epochs or self.contrast_weight == 0:
            return None
        view_output = views[0]
        told = view_output.notes["u2pl"] if "u2pl" in view_output.notes else second_look(teacher, labelled, view_output)
        features = torch.cat([labelled_output.features, view_output.output.features]).float()
        with torch.autocast(features.device.type, enabled=False):
            own = flatten_pixels(l2_normalize(self.head(features)))  # (N, D)
            with torch.no_grad():
                slow = flatten_pixels(self.slow_head.train()(told.features.float()))
            sure, unsure, ids = self.sort_pixels(labelled, view_output, told, progress)
            return {"u2pl_contrast": self.contrast_weight * self.loss_over_classes(own, slow, ids, sure, unsure, told)}

    def sort_pixels(
        self, labelled: Labelled, view_output: ViewOutput, told: Output, progress: Progress
    ) -> tuple[Tensor, Tensor, Tensor]:
        """On the feature grid, labelled images first, each (N,): low entropy, high entropy, class ids. Labelled pixels
        are sure and may be negatives; of unlabelled ones the ends of the entropies are."""
        entropy, valid, left = entropies(told, view_output), view_output.label.valid, self.left(progress)
        low = valid & (entropy <= percentile(entropy, valid, left))
        high = valid & (entropy >= percentile(entropy, valid, 100 - left))
        known = labelled.mask != NO_CLASS
        grid = told.features.shape[-2:]

        def cells(one: Tensor, other: Tensor) -> Tensor:
            return downsample_nearest(torch.cat([one, other]), *grid).flatten()

        return cells(known, low), cells(known, high), cells(labelled.mask, view_output.label.ids)

    def loss_over_classes(
        self, own: Tensor, slow: Tensor, ids: Tensor, sure: Tensor, unsure: Tensor, told: Output
    ) -> Tensor:
        """The mean over present classes of each one's loss; 0, connected to the graph, with fewer than two. Pushes this
        step's negatives first, as the release does. own: (N, D) of length 1; slow: (N, D) as the head gives them: a
        class's positive is the direction of their mean, in which long ones count for more (release)."""
        number = torch.arange(told.logits.shape[1], device=ids.device)
        probs = flatten_pixels(downsample_nearest(told.logits.float().softmax(dim=1), *told.features.shape[-2:])).T
        mine = (ids == number.unsqueeze(1)) & sure  # (C, N)
        far = draw_members(self.negative_cells(probs, ids, unsure), self.pushed)
        self.bank.push(l2_normalize(slow)[far.cells], far.drawn)
        anchors = draw_members(mine & (probs > self.anchor_floor), self.anchors)
        positive = l2_normalize(mine.float() @ slow / mine.sum(dim=1, keepdim=True).clamp(min=1))  # (C, D)
        present = mine.any(dim=1)
        memory = (~present).to(torch.int8).sort(stable=True).indices if self.release_bugs else number
        speaks = number < present.sum() if self.release_bugs else present
        losses = self.class_losses(own, anchors, positive, memory)
        counted = speaks & anchors.drawn[:, 0] & (self.bank.filled[memory] > 0)
        total = torch.where(counted, losses, 0.0).sum() / present.sum().clamp(min=1)
        return total * (present.sum() > 1)

    def class_losses(self, own: Tensor, anchors: Anchors, positive: Tensor, memory: Tensor) -> Tensor:
        """(C,): -log softmax of the positive among it and `negatives` of a memory, mean over `anchors` draws with
        replacement; memory: (C,) the class whose memory each takes. Of no meaning without an anchor or a negative."""
        where, shape = own.device, (len(memory), self.anchors)
        draw = torch.rand(*shape, generator=device_generator(where), device=where)
        pick = (draw * anchors.drawn.sum(dim=1, keepdim=True)).long()  # drawn cells come first
        anchor = own[anchors.cells.gather(1, pick)]  # (C, A, D)
        negatives = self.bank.sample(memory, self.anchors * self.negatives).unflatten(1, (-1, self.negatives))
        near = (anchor * positive.unsqueeze(1)).sum(dim=2, keepdim=True)
        far = torch.einsum("cad,cand->can", anchor, negatives)
        return -(torch.cat([near, far], dim=2) / self.temperature).log_softmax(dim=2)[..., 0].mean(dim=1)

    def negative_cells(self, probs: Tensor, ids: Tensor, unsure: Tensor) -> Tensor:
        """Which cells are negatives of which class, (C, N) bool. A labelled one: of another class, and the class among
        its likeliest `low_rank`. An unlabelled one: uncertain, and the class ranked from low_rank to high_rank.
        probs: (C, N)."""
        rank = (-probs).argsort(dim=0, stable=True).argsort(dim=0)
        half = probs.shape[1] // 2  # labelled images come first, and both streams are of one size
        labelled = torch.arange(probs.shape[1], device=ids.device) < half
        own = ids == torch.arange(len(probs), device=ids.device).unsqueeze(1)
        middle = unsure & (rank >= self.low_rank) & (rank < self.high_rank)
        if self.release_bugs:  # a labelled pixel would have to be of the class and not of it
            return middle & own & ~labelled
        return torch.where(labelled, unsure & ~own & (rank < self.low_rank), middle)

    @hookimpl
    def after_step(self, progress: Progress) -> None:
        ema_update_(self.slow_head, self.head, self.decay(progress), buffers=False)


def second_look(teacher: Teacher, labelled: Labelled, view_output: ViewOutput) -> Output:
    """The teacher's output on labelled images and view together, in train mode where it has weights of its own."""
    images = torch.cat([labelled.image, view_output.image])
    with torch.no_grad():
        return predict(teacher.network, images, train_mode=True) if teacher.network is not None else teacher(images)


def entropies(told: Output, view_output: ViewOutput) -> Tensor:
    """(B, H, W) natural entropy of the second look at the view."""
    probs = told.logits[-len(view_output.image) :].float().softmax(dim=1)
    return torch.special.entr(probs).sum(dim=1)


def representation_head(width: int, dim: int) -> nn.Sequential:
    """Two 3x3 convolutions with BatchNorm and ReLU, then 1x1 to `dim`, on the decoder's last map."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, dim, 1))
