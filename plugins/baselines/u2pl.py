"""U2PL (Wang et al., CVPR 2022, arXiv 2203.03884): pixels that are too uncertain for a pseudo-label still exclude
unlikely classes. Memory banks hold them per class as negatives of a contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ssss_zoo.toolkit import (
    NO_CLASS, Anchors, ClassBank, CutMix, EMAModule, EMATeacher, Labelled, Output, Progress, Range, RunInfo, Teacher,
    View, ViewOutput, Views, class_means, downsample_nearest, draw_members, ema_warmup, flatten_pixels, half_boxes,
    hookimpl, l2_normalize, percentile, predict, process_mean, project, projection_head,
)  # fmt: skip


@dataclass(eq=False)
class U2PL:
    paper: ClassVar[str] = "U2PL (Wang et al., CVPR 2022, arXiv 2203.03884)"

    # Percent of the pixels that are too uncertain at first, 0 at the end; paper alpha_0 and release.
    drop: Annotated[float, Range(0, 100)] = 20.0
    warm_epochs: Annotated[float, Range(0, 1e6)] = 1.0  # labels alone; release: 1 VOC, 0 Cityscapes
    copy_epochs: Annotated[float, Range(0, 1e6)] = 1.0  # after that the teacher is the student's copy so long; release
    ema_decay: Annotated[float, Range(0, 1)] = 0.99  # of the parameters alone, warmed up; release
    # Paper section 4; the release's 1 acts as 1 / GPUs: 0.25 VOC, 0.125 Cityscapes.
    contrast_weight: Annotated[float, Range(0, 1e6)] = 0.1
    dim: Annotated[int, Range(1, 1e6)] = 256  # width of the representation; release
    temperature: Annotated[float, Range(1e-3, 1e3)] = 0.5  # release
    anchors: Annotated[int, Range(1, 1e6)] = 256  # of each class; release
    negatives: Annotated[int, Range(1, 1e6)] = 50  # of each anchor; release
    anchor_floor: Annotated[float, Range(0, 1)] = 0.3  # least probability of an anchor's class; release
    low_rank: Annotated[int, Range(0, 1e6)] = (
        3  # a negative's class is none of its likeliest so many; paper r_l, release
    )
    high_rank: Annotated[int, Range(1, 1e6)] = 20  # nor beyond so many; paper r_h and release
    # Vectors of each class [ours: it is saved with the run]; release: 30,000, 50,000 of class 0.
    memory: Annotated[int, Range(1, 1e6)] = 2000
    # New ones of each class a step, at most, drawn at random [ours], never more than `memory`; release: all.
    pushed: Annotated[int, Range(1, 1e6)] = 512
    release_bugs: bool = False  # true: the release's negatives and its mixed-up classes

    @hookimpl
    def setup(self, info: RunInfo) -> dict[str, nn.Module]:
        self.head = projection_head(info.feature_dim, self.dim, hidden=2, kernel=3)  # as the release
        self.slow_head = EMAModule(self.head, self.decay, train_mode=True, buffers=False)
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
        weight = float(progress.epoch >= self.warm_epochs)
        cutmix = CutMix("next", half_boxes(*size))
        return Views((View("mixed", "weak", weight, "labelled", cutmix, divide_by="kept_share"),))

    @hookimpl
    def refine(self, view_output: ViewOutput, labelled: Labelled, teacher: Teacher, progress: Progress) -> ViewOutput:
        """Drop the pixels whose entropy, as the teacher predicts the mixed image, is in the top percent."""
        output = joint_prediction(teacher, labelled, view_output)
        entropy = view_entropy(output, view_output)
        limit = percentile(entropy, view_output.label.valid, 100 - self.drop_percent(progress))
        weight = view_output.weight * (entropy < limit)
        return replace(view_output, weight=weight, notes={**view_output.notes, "u2pl": output})

    def drop_percent(self, progress: Progress) -> float:
        """alpha_t, percent of the pixels at either end of the entropies: drop * (1 - t / T)."""
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
        """Reliable cells are drawn to the mean of their class and away from the memory of what it is not."""
        if not views or progress.epoch < self.warm_epochs or self.contrast_weight == 0:
            return None
        view_output = views[0]
        output = view_output.notes.get("u2pl") or joint_prediction(teacher, labelled, view_output)
        features = project(self.head, [labelled_output.features, view_output.output.features])  # (N, D) of length 1
        cells = self.contrast_cells(labelled, view_output, output, progress)
        with torch.autocast(features.device.type, enabled=False):
            slow_features = flatten_pixels(self.slow_head(output.features.float()))  # (N, D) of any length
            loss = self.contrast_loss(features, slow_features, cells)
        return {"u2pl_contrast": self.contrast_weight * loss}

    def contrast_cells(
        self, labelled: Labelled, view_output: ViewOutput, output: Output, progress: Progress
    ) -> ContrastCells:
        """Labelled cells are reliable and may be negatives. Unlabelled ones are reliable at the low end of the
        entropies, and may be negatives at the high end; each process takes the percentiles of its own images."""
        valid = view_output.label.valid
        entropy = view_entropy(output, view_output)
        percent = self.drop_percent(progress)
        low = valid & (entropy <= percentile(entropy, valid, percent))
        high = valid & (entropy >= percentile(entropy, valid, 100 - percent))
        known = labelled.mask != NO_CLASS
        grid = output.features.shape[-2:]
        probs = flatten_pixels(downsample_nearest(output.logits.float().softmax(dim=1), *grid)).T
        pairs = [(labelled.mask, view_output.label.ids), (known, low), (known, high)]
        ids, reliable, unreliable = (downsample_nearest(torch.cat(pair), *grid).flatten() for pair in pairs)
        return ContrastCells(ids, reliable, unreliable, probs)

    def contrast_loss(self, features: Tensor, slow_features: Tensor, cells: ContrastCells) -> Tensor:
        """The mean over present classes of each one's loss; 0, connected to the graph, with fewer than two. This step's
        negatives join the memory first, as in the release. features, slow_features: (N, D); a class's positive is the
        direction of the mean of the slow ones, in which long ones count for more (release).

        With several processes present classes and positives are those of all, anchors those of each.
        """
        classes = torch.arange(len(cells.probs), device=features.device)
        own = (cells.ids == classes.unsqueeze(1)) & cells.reliable  # (C, N)
        negatives = draw_members(self.negative_cells(cells), min(self.pushed, self.memory))
        self.bank.push(l2_normalize(slow_features)[negatives.cells], negatives.drawn)
        anchors = draw_members(own & (cells.probs > self.anchor_floor), self.anchors)

        means = class_means(slow_features, own.T)
        memory = classes
        compared = means.present
        number = means.present.sum()
        if self.release_bugs:  # the n-th class is compared with the memory of the n-th present one
            memory = (~means.present).to(torch.int8).sort(stable=True).indices
            compared = classes < number
        losses = self.class_losses(features, anchors, l2_normalize(means.vectors), memory)
        counted = compared & anchors.drawn[:, 0] & (self.bank.filled[memory] > 0)
        processes = process_mean(counted.float(), least=1)  # the share that has anchors of a class
        total = (torch.where(counted, losses, 0.0) / processes).sum() / number.clamp(min=1)
        return total * (number > 1)

    def class_losses(self, features: Tensor, anchors: Anchors, positive: Tensor, memory: Tensor) -> Tensor:
        """(C,): -log softmax of the positive among it and `negatives` of a memory, mean over `anchors` draws with
        replacement; memory: (C,) the class whose memory each takes. Of no meaning without an anchor or a negative."""
        anchor = features[anchors.resample(self.anchors)]  # (C, A, D)
        negatives = self.bank.sample(memory, self.anchors * self.negatives).unflatten(1, (-1, self.negatives))
        to_positive = (anchor * positive.unsqueeze(1)).sum(dim=2, keepdim=True)
        to_negatives = torch.einsum("cad,cand->can", anchor, negatives)
        similarity = torch.cat([to_positive, to_negatives], dim=2) / self.temperature
        return -similarity.log_softmax(dim=2)[..., 0].mean(dim=1)

    def negative_cells(self, cells: ContrastCells) -> Tensor:
        """Which cells are negatives of which class, (C, N) bool. A labelled one: of another class, and the class among
        its likeliest `low_rank`. An unlabelled one: unreliable, and the class ranked from low_rank to high_rank."""
        rank = (-cells.probs).argsort(dim=0, stable=True).argsort(dim=0)
        classes, number = cells.probs.shape
        labelled = torch.arange(number, device=rank.device) < number // 2  # both streams are of one size
        own = cells.ids == torch.arange(classes, device=rank.device).unsqueeze(1)
        middle = cells.unreliable & (rank >= self.low_rank) & (rank < self.high_rank)
        if self.release_bugs:  # a labelled pixel would have to be of the class and not of it
            return middle & own & ~labelled
        return torch.where(labelled, cells.unreliable & ~own & (rank < self.low_rank), middle)

    @hookimpl
    def after_step(self, progress: Progress) -> None:
        self.slow_head.update(self.head, progress)


@dataclass(frozen=True, eq=False)
class ContrastCells:
    """The N feature cells of labelled images and view, in this order. ids, reliable, unreliable: (N,); probs: (C, N) of
    the teacher."""

    ids: Tensor
    reliable: Tensor
    unreliable: Tensor
    probs: Tensor


def joint_prediction(teacher: Teacher, labelled: Labelled, view_output: ViewOutput) -> Output:
    """The teacher's output on labelled images and view together, in train mode where it has weights of its own."""
    images = torch.cat([labelled.image, view_output.image])
    with torch.no_grad():
        return predict(teacher.network, images, train_mode=True) if teacher.network is not None else teacher(images)


def view_entropy(output: Output, view_output: ViewOutput) -> Tensor:
    """(B, H, W) natural entropy of the teacher's joint prediction at the view."""
    probs = output.logits[-len(view_output.image) :].float().softmax(dim=1)
    return torch.special.entr(probs).sum(dim=1)
