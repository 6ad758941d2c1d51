"""Contrastive arithmetic: class prototypes kept as buffers, anchors drawn per class, losses over prototypes.

Every shape is fixed by the configuration and nothing here waits for the device: an absent class is masked, not dropped.
With several processes, prototypes, banks and the counts that a loss is divided by are those of all of them, and each
process draws its anchors from its own images.
N feature cells (B * h * w), D projection width, C classes, A anchors a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.toolkit.processes import process_gather, process_mean, process_sum

NO_CLASS = 255  # the id of a cell that is no anchor, and a mask's void; any id outside 0 to C - 1 does as well
NO_SIMILARITY = -1e9  # to a prototype that does not exist yet: finite, so that a row of nothing else has no NaN


def projection_head(width: int, dim: int, hidden: int = 1, kernel: int = 1) -> nn.Sequential:
    """`hidden` convolutions with BatchNorm and ReLU, kernel x kernel, then 1x1: (B, width, h, w) to (B, dim, h, w)."""
    layers: list[nn.Module] = []
    for _ in range(hidden):
        convolution = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, dim, 1))


def l2_normalize(features: Tensor) -> Tensor:
    """Features of any float type scaled to length 1 over dimension 1, in float32; a zero vector stays zero."""
    return F.normalize(features.float(), dim=1, eps=1e-6)


def flatten_pixels(maps: Tensor) -> Tensor:
    """(B, D, h, w) to (B * h * w, D), one row a cell."""
    return maps.movedim(1, -1).flatten(0, 2)


def project(head: nn.Module, maps: list[Tensor]) -> Tensor:
    """Feature maps (B, D', h, w) of several passes, projected by `head` in one go to length 1 in float32, autocast off:
    (N, D), one row a cell in the order of the passes."""
    joined = torch.cat(maps).float()
    with torch.autocast(joined.device.type, enabled=False):
        return flatten_pixels(l2_normalize(head(joined)))


def downsample_nearest(pixels: Tensor, height: int, width: int) -> Tensor:
    """The pixel under the centre of each cell: (..., H, W) of any type to (..., height, width)."""
    rows = (2 * torch.arange(height, device=pixels.device) + 1) * pixels.shape[-2] // (2 * height)
    columns = (2 * torch.arange(width, device=pixels.device) + 1) * pixels.shape[-1] // (2 * width)
    return pixels[..., rows.unsqueeze(1), columns]


def one_hot(ids: Tensor, num_classes: int) -> Tensor:
    """(B, h, w) int64 to (B, C, h, w) float32; an id outside 0 to C - 1 (void) gives zeros."""
    return (ids.unsqueeze(1) == torch.arange(num_classes, device=ids.device).view(1, -1, 1, 1)).float()


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """vectors: (C, D), the mean feature of each class, 0 where absent; present: (C,) bool."""

    vectors: Tensor
    present: Tensor


def class_means(features: Tensor, membership: Tensor) -> ClassMeans:
    """The mean of the features of each class over all processes, without gradient across them.

    features: (N, D); membership: (N, C), >= 0, how much a cell belongs to a class.
    """
    mass = process_sum(membership.float().sum(dim=0))  # (C,)
    sums = process_sum(membership.float().T @ features.float())  # (C, D)
    present = mass > 0
    return ClassMeans(sums / mass.where(present, torch.ones_like(mass)).unsqueeze(1), present)


class Prototypes(nn.Module):
    """One running direction a class. vectors: (C, D), length 1 where `initialized` (C,) bool, zero elsewhere."""

    vectors: Tensor
    initialized: Tensor

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_classes, dim))
        self.register_buffer("initialized", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Tensor, membership: Tensor, momentum: float) -> None:
        """Move each class towards the mean of its features, in place. A loss reads copies of `vectors` and
        `initialized`.

        features: (N, D); membership: (N, C), as in `class_means`. With the mean c of a class, mu <- normalise(momentum
        * mu + (1 - momentum) * c), or normalise(c) the first time; a class without any membership keeps its bits.
        """
        means = class_means(features, membership)
        averaged = momentum * self.vectors + (1 - momentum) * means.vectors
        moved = torch.where(self.initialized.unsqueeze(1), averaged, means.vectors)
        self.vectors.copy_(torch.where(means.present.unsqueeze(1), l2_normalize(moved), self.vectors))
        self.initialized.logical_or_(means.present)


@dataclass(frozen=True, eq=False)
class Anchors:
    """Cells drawn for each class. cells: (C, A) int64 rows of the feature matrix; drawn: (C, A) bool, False where a
    class has fewer than A cells and `cells` holds a row of no meaning."""

    cells: Tensor
    drawn: Tensor

    def resample(self, number: int) -> Tensor:
        """So many of each class's drawn cells, uniformly with replacement: (C, number) int64. Drawn cells must come
        first in each row, as `draw_members` and `draw_anchors` have them; of no meaning for a class without any."""
        draw = torch.rand(len(self.cells), number, device=self.cells.device)
        return self.cells.gather(1, (draw * self.drawn.sum(dim=1, keepdim=True)).long())


def draw_anchors(ids: Tensor, num_classes: int, per_class: int) -> Anchors:
    """Up to `per_class` cells of each class, uniformly without replacement.

    ids: (N,) int64 with N > 0; a cell with an id outside 0 to C - 1 is never drawn. The cells are shuffled, then
    sorted by class, so that each class is one run of them whose first `per_class` are taken.
    """
    shuffled = torch.rand(ids.numel(), device=ids.device).argsort()
    classes, order = ids[shuffled].sort(stable=True)
    bounds = torch.searchsorted(classes, torch.arange(num_classes + 1, device=ids.device))  # where each run starts
    place = bounds[:-1, None] + torch.arange(per_class, device=ids.device)  # (C, A)
    return Anchors(shuffled[order[place.clamp(max=ids.numel() - 1)]], place < bounds[1:, None])


def draw_members(members: Tensor, per_class: int) -> Anchors:
    """Up to `per_class` members of each class, uniformly without replacement; a cell may belong to several classes.

    members: (C, N) bool. Drawn cells stand first in each row.
    """
    number = min(per_class, members.shape[1])
    keys = torch.rand(members.shape, device=members.device)
    best, cells = torch.where(members, keys, -1.0).topk(number, dim=1)
    return Anchors(cells, best >= 0)


class ClassBank(nn.Module):
    """The latest vectors of each class, first in, first out. vectors: (C, M, D); filled: (C,) how many there are;
    pointer: (C,) where the next one goes."""

    vectors: Tensor
    filled: Tensor
    pointer: Tensor

    def __init__(self, num_classes: int, capacity: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_classes, capacity, dim))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def push(self, vectors: Tensor, valid: Tensor) -> None:
        """Add the vectors (C, A, D) that are valid (C, A) bool, from all processes in the order of their numbers, so
        that each holds the same bank. In place: read `vectors` as a copy for a loss.

        The valid vectors must come first in each row. A class without any keeps its bits; A is at most M.
        """
        gathered = process_gather(vectors.unsqueeze(0)), process_gather(valid.unsqueeze(0))
        for own_vectors, own_valid in zip(*gathered, strict=True):
            self.append(own_vectors, own_valid)

    def append(self, vectors: Tensor, valid: Tensor) -> None:
        """Add the vectors of one process, as `push` describes."""
        classes, capacity, _ = self.vectors.shape
        slots = (self.pointer.unsqueeze(1) + torch.arange(valid.shape[1], device=valid.device)) % capacity
        rows = torch.arange(classes, device=valid.device).unsqueeze(1)
        old = self.vectors[rows, slots]
        self.vectors[rows, slots] = torch.where(valid.unsqueeze(2), vectors.to(old.dtype), old)
        number = valid.sum(dim=1)
        self.pointer.copy_((self.pointer + number) % capacity)
        self.filled.copy_((self.filled + number).clamp(max=capacity))

    def sample(self, classes: Tensor, number: int) -> Tensor:
        """(K, number, D): so many vectors of each of `classes` (K,) int64, uniformly with replacement. A copy; of no
        meaning for a class without any."""
        draw = torch.rand(len(classes), number, device=self.filled.device)
        return self.vectors[classes.unsqueeze(1), (draw * self.filled[classes].unsqueeze(1)).long()]

    def valid(self) -> Tensor:
        """(C, M) bool: the slots that hold a vector."""
        return torch.arange(self.vectors.shape[1], device=self.filled.device) < self.filled.unsqueeze(1)


def usable_anchors(anchors: Anchors, initialized: Tensor) -> Tensor:
    """(C, A) bool: drawn, with a prototype to go to and at least one other to stay away from."""
    return anchors.drawn & initialized.unsqueeze(1) & (initialized.sum() >= 2)


def anchor_mean(values: Tensor, counted: Tensor, *, class_mean: bool) -> Tensor:
    """Mean of the counted anchors, of each class first and then over classes when `class_mean`; 0, connected to the
    graph, without any. values: (C, A) finite; counted: (C, A) bool.

    With several processes, the mean of what they return is the mean over the anchors of them all.
    """
    values = torch.where(counted, values, 0.0)
    number = counted.sum(dim=1)  # (C,)
    if class_mean:
        present = (process_sum(number) > 0).sum()
        return (values.sum(dim=1) / process_mean(number, least=1)).sum() / present.clamp(min=1)
    return values.sum() / process_mean(number.sum(), least=1)


def info_nce(
    features: Tensor,
    anchors: Anchors,
    vectors: Tensor,
    initialized: Tensor,
    temperature: float,
    *,
    class_mean: bool = True,
) -> Tensor:
    """InfoNCE over prototypes: -log softmax_k(f . mu_k / temperature) at the anchor's own class, over classes with a
    prototype.

    features: (N, D) float32 of length 1; vectors (C, D), initialized (C,): copies of what `Prototypes` holds. A scalar
    between 0 and log(1 + (M - 1) exp(2 / temperature)) with M prototypes; 0 with M < 2 or without anchors.
    Van den Oord et al. (2018) with class means as keys, as in U2PL and ReCo.
    """
    similarity = features[anchors.cells] @ vectors.T / temperature  # (C, A, C)
    log_share = torch.where(initialized, similarity, NO_SIMILARITY).log_softmax(dim=-1)
    own = log_share.diagonal(dim1=0, dim2=2).T  # (C, A)
    return anchor_mean(-own, usable_anchors(anchors, initialized), class_mean=class_mean)


def center_margin(
    features: Tensor, anchors: Anchors, vectors: Tensor, initialized: Tensor, margin: float, *, class_mean: bool = True
) -> Tensor:
    """Pull to the own prototype and push batch centroids apart: mean(1 - f . mu_c) + mean over pairs of classes
    c != k of max(0, m_c . m_k - margin), where m is the normalised mean of a class's anchors, with gradient.

    Arguments as in `info_nce`; margin: in [-1, 1]. A scalar >= 0; 0 under the same conditions. With several processes
    each pushes the centroids of its own anchors apart.
    """
    picked, counted = features[anchors.cells], usable_anchors(anchors, initialized)  # (C, A, D)
    pull = anchor_mean(1 - (picked * vectors.unsqueeze(1)).sum(dim=-1), counted, class_mean=class_mean)
    centroid = l2_normalize((picked * counted.unsqueeze(-1)).sum(dim=1))  # (C, D)
    present = counted.any(dim=1)
    pairs = (present.unsqueeze(0) & present.unsqueeze(1)).fill_diagonal_(False)
    overlap = torch.where(pairs, (centroid @ centroid.T - margin).relu(), 0.0)
    return pull + overlap.sum() / pairs.sum().clamp(min=1)
