"""How often each value occurs in masks, and whether the counts look like classes, smeared edges or stray pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

COUNTING_THREADS = 8
MASKS_EXAMINED = 256  # masks whose neighbouring pixels are compared, evenly spaced (our choice: it takes a second)
# In CamVid's masks .005 of the edges cross a value between two others (.028 at a quarter of the size); in the same
# masks made smaller with interpolation .43; in squares of three classes .08 (box filter) to .31.
SMEARED_EDGES = 0.06  # share of edges that cross a value between two others, from which on masks look smeared
FLAT_PIXELS = 0.5  # share of pixels like their neighbours; below it a mask is no picture of areas (our choice)
EDGES_NEEDED = 100  # edges from which on the shares mean something (our choice)
LINE_INTERIOR = 0.02  # share of a value's pixels inside it; below it the value is a line, or an edge (our choice)
STRAY_PIXELS = 1e-4  # share of all pixels, and
STRAY_PIXELS_OF_MASKS = 1e-3  # share of the pixels of the masks that hold it, below which a value is a stray, if it is
STRAY_MASKS = 0.1  # in at most this share of the masks,
STRAY_MASK_COUNT = 2  # or in this many (all four: our choice)

Levels = Callable[[np.ndarray], np.ndarray]  # values (N,) as numbers (N, K) between which interpolation lies


@dataclass(frozen=True, eq=False)
class MaskCounts:
    """Pixel counts of one mask, or of several, for each value that occurs, (N,) each and in the order of the values.

    pixels: all pixels. The others are of masks whose neighbouring pixels were compared. examined: pixels of these
    masks; interior: pixels that equal their four neighbours; between: pixels between a neighbour of a lower value and
    an opposite one of a higher value. edges: the number of neighbouring pixels that differ.
    """

    values: np.ndarray
    pixels: np.ndarray
    examined: np.ndarray
    interior: np.ndarray
    between: np.ndarray
    edges: int


def count_mask(values: np.ndarray, levels: Levels, *, examine: bool) -> MaskCounts:
    """The counts of a mask (H, W). examine: whether neighbouring pixels are compared."""
    if values.dtype == np.uint8:
        known, ranks = np.arange(256), values
    else:
        known, ranks = np.unique(values, return_inverse=True)
        ranks = ranks.reshape(values.shape)  # NumPy 1 flattens them
    pixels = np.bincount(ranks.ravel(), minlength=len(known))
    held = pixels > 0
    if examine:
        interior, between, edges = count_neighbours(ranks, levels(known))
        return MaskCounts(known[held], pixels[held], pixels[held], interior[held], between[held], edges)
    zeros = np.zeros_like(pixels[held])
    return MaskCounts(known[held], pixels[held], zeros, zeros, zeros, 0)


def count_neighbours(ranks: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The interior pixels and the pixels between two values, (N,) each, and the edges of a mask.

    ranks: (H, W) places in the list of values; levels: (N, K).
    """
    count, edges = len(levels), 0
    between = np.zeros(count, np.int64)
    for view in (ranks, ranks.T):
        edge = view[:, 1:] != view[:, :-1]
        edges += int(np.count_nonzero(edge))
        row, left = np.nonzero(edge[:, 1:] & edge[:, :-1])
        middle = view[row, left + 1]
        one, level, other = levels[view[row, left]], levels[middle], levels[view[row, left + 2]]
        inner = (np.minimum(one, other) <= level) & (level <= np.maximum(one, other))
        between += np.bincount(middle[inner.all(axis=1)], minlength=count)
    centre = ranks[1:-1, 1:-1]
    alike = (centre == ranks[:-2, 1:-1]) & (centre == ranks[2:, 1:-1])
    alike &= (centre == ranks[1:-1, :-2]) & (centre == ranks[1:-1, 2:])
    return np.bincount(centre[alike], minlength=count), between, edges


@dataclass(frozen=True, eq=False)
class ValueCounts(MaskCounts):
    """The counts of all masks. mask_count: the number of masks; masks_with: for each value, the masks that hold it;
    pixels_of_masks: (N,) all pixels of those masks."""

    mask_count: int
    masks_with: Sequence[Sequence[Path]]
    pixels_of_masks: np.ndarray

    @cached_property
    def is_line(self) -> np.ndarray:
        """(N,) bool: values that form lines or edges, no areas."""
        return (self.examined > 0) & (self.interior < LINE_INTERIOR * self.examined)

    @cached_property
    def is_rim(self) -> np.ndarray:
        """(N,) bool: lines that may be classes of their own, around areas; there are no more of them than areas."""
        return self.is_line if self.is_line.sum() <= (~self.is_line).sum() else np.zeros_like(self.is_line)

    @cached_property
    def is_stray(self) -> np.ndarray:
        """(N,) bool: values with almost no pixels, in few masks."""
        held = np.array([len(paths) for paths in self.masks_with])
        few = held <= max(STRAY_MASKS * self.mask_count, STRAY_MASK_COUNT)
        rare = self.pixels < STRAY_PIXELS * self.pixels.sum()
        return few & rare & (self.pixels < STRAY_PIXELS_OF_MASKS * self.pixels_of_masks)

    def look_smeared(self) -> bool:
        """Whether many edges cross a value between two others, as interpolation makes them; rims do not count."""
        flat = self.interior.sum() > FLAT_PIXELS * self.examined.sum()
        crossings = self.between[~self.is_rim].sum()
        return bool(flat and self.edges >= EDGES_NEEDED and crossings > SMEARED_EDGES * self.edges)

    def rims_between_areas(self) -> list[int]:
        """Rims most of whose pixels lie between two other values."""
        enclosed = (2 * self.between > self.examined) & (self.between >= EDGES_NEEDED)
        return self.values[self.is_rim & enclosed].tolist()

    def pixels_of(self, value: int) -> int:
        return int(self.pixels[self.values == value].sum())

    def masks_holding(self, value: int) -> Sequence[Path]:
        return next((self.masks_with[at] for at in np.flatnonzero(self.values == value).tolist()), [])

    def values_except(self, excluded: Collection[float]) -> list[int]:
        return [int(value) for value in self.values if value not in excluded]


def values_as_levels(values: np.ndarray) -> np.ndarray:
    """(N,) to (N, 1)."""
    return values[:, None]


def count_mask_values(
    masks: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    levels: Levels = values_as_levels,
    examined: int = MASKS_EXAMINED,
) -> ValueCounts:
    """Count the values of `masks`, in threads.

    read: returns the values (H, W) of a mask. examined: the number of masks whose neighbouring pixels are compared.
    Raises UserError as `read` does.
    """
    every = max(-(-len(masks) // examined), 1)
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        counts = list(
            pool.map(lambda at: count_mask(read(masks[at]), levels, examine=at % every == 0), range(len(masks)))
        )
    owner = np.repeat(np.arange(len(masks)), [len(one.values) for one in counts])
    sizes = np.array([one.pixels.sum() for one in counts])[owner]
    values, place = np.unique(np.concatenate([one.values for one in counts]), return_inverse=True)

    def summed(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.bincount(place, weights=np.concatenate(parts), minlength=len(values)).astype(np.int64)

    masks_with: list[list[Path]] = [[] for _ in values]
    for index, mask in zip(place.tolist(), owner.tolist(), strict=True):
        masks_with[index].append(masks[mask])
    return ValueCounts(
        values=values,
        pixels=summed([one.pixels for one in counts]),
        examined=summed([one.examined for one in counts]),
        interior=summed([one.interior for one in counts]),
        between=summed([one.between for one in counts]),
        edges=sum(one.edges for one in counts),
        mask_count=len(masks),
        masks_with=masks_with,
        pixels_of_masks=summed([sizes]),
    )
