"""What masks hold, counted, and whether it looks like classes: smeared edges and stray pixels do not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

THREADS = 8
CLOSE = 256  # masks at most whose neighbouring pixels are compared, evenly chosen (our choice: it takes a second)
# Of CamVid's masks .005 of the steps lead over a code between two others (.028 at a quarter of the size), of the same
# masks made smaller with interpolation .43, of squares of three classes .08 (box) to .31.
SMEARED, FLAT, STEPS = 0.06, 0.5, 100  # steps so, pixels like their neighbours, and steps in all, at least (our choice)
THIN = 0.02  # of a code's pixels lie inside it; less is a line, or an edge (our choice)
STRAY, STRAY_OF_MASK = 1e-4, 1e-3  # shares of all pixels, and of those of the masks that hold it (our choice)
FEW, FEW_MASKS = 0.1, 2  # share of the masks, and number, that a stray is in at most (our choice)


@dataclass(frozen=True, eq=False)
class Tally:
    """What one mask, or all, hold. Of each code (N,), in order: its pixels, and those of masks looked at `closely`;
    of these, those `inside`, like their four neighbours, and those `between` a neighbour with a lower code and the
    opposite one with a higher code. steps: neighbouring pixels that differ."""

    codes: np.ndarray
    pixels: np.ndarray
    closely: np.ndarray
    inside: np.ndarray
    between: np.ndarray
    steps: int


def tally(codes: np.ndarray, close: bool, levels: Callable[[np.ndarray], np.ndarray]) -> Tally:
    """Of a mask (H, W). levels: codes (N,) as numbers (N, K) that smearing changes."""
    if codes.dtype == np.uint8:
        known, ranks = np.arange(256), codes
    else:
        known, ranks = np.unique(codes, return_inverse=True)
    pixels = np.bincount(ranks.ravel(), minlength=len(known))
    held = pixels > 0
    nothing = np.zeros_like(pixels)
    if close:
        inside, between, steps = neighbours(ranks, levels(known))
        return Tally(known[held], pixels[held], pixels[held], inside[held], between[held], steps)
    return Tally(known[held], pixels[held], nothing[held], nothing[held], nothing[held], 0)


def neighbours(ranks: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels inside and between of each rank, (N,) each, and the steps of a mask (H, W); levels (N, K)."""
    count, steps = len(levels), 0
    between = np.zeros(count, np.int64)
    for view in (ranks, ranks.T):
        edge = view[:, 1:] != view[:, :-1]
        steps += int(np.count_nonzero(edge))
        row, left = np.nonzero(edge[:, 1:] & edge[:, :-1])
        middle = view[row, left + 1]
        one, level, other = levels[view[row, left]], levels[middle], levels[view[row, left + 2]]
        inner = (np.minimum(one, other) <= level) & (level <= np.maximum(one, other))
        between += np.bincount(middle[inner.all(axis=1)], minlength=count)
    centre = ranks[1:-1, 1:-1]
    alike = (centre == ranks[:-2, 1:-1]) & (centre == ranks[2:, 1:-1])
    alike &= (centre == ranks[1:-1, :-2]) & (centre == ranks[1:-1, 2:])
    return np.bincount(centre[alike], minlength=count), between, steps


@dataclass(frozen=True, eq=False)
class Census(Tally):
    """What all masks hold. masks: how many there are; holders: of each code, the masks that hold it; sizes: pixels of
    each of those masks together."""

    masks: int
    holders: Sequence[Sequence[Path]]
    sizes: np.ndarray

    @cached_property
    def thin(self) -> np.ndarray:
        """Codes (N,) bool that are lines or edges, no areas."""
        return (self.closely > 0) & (self.inside < THIN * self.closely)

    @cached_property
    def rims(self) -> np.ndarray:
        """Codes (N,) bool that may be lines around areas, as a class of their own: no more of them than areas."""
        return self.thin if self.thin.sum() <= (~self.thin).sum() else np.zeros_like(self.thin)

    def smeared(self) -> bool:
        """Whether many steps lead over a code between two others, as interpolation makes them; rims do not count."""
        flat = self.inside.sum() > FLAT * self.closely.sum()
        return bool(flat and self.steps >= STEPS and self.between[~self.rims].sum() > SMEARED * self.steps)

    def between_areas(self) -> list[int]:
        """Rims whose pixels lie, most of them, between two other codes."""
        return self.codes[self.rims & (2 * self.between > self.closely) & (self.between >= STEPS)].tolist()

    def strays(self) -> np.ndarray:
        """Codes (N,) bool with almost no pixels, in few masks."""
        held = np.array([len(paths) for paths in self.holders])
        few = held <= max(FEW * self.masks, FEW_MASKS)
        rare = (self.pixels < STRAY * self.pixels.sum()) & (self.pixels < STRAY_OF_MASK * self.sizes)
        return few & rare

    def pixels_of(self, code: int) -> int:
        return int(self.pixels[self.codes == code].sum())

    def holders_of(self, code: int) -> Sequence[Path]:
        """The masks that hold a code."""
        return next((self.holders[at] for at in np.flatnonzero(self.codes == code).tolist()), [])

    def without(self, codes: Collection[float]) -> list[int]:
        """The codes that occur, without some."""
        return [int(code) for code in self.codes if code not in codes]


def one_level(codes: np.ndarray) -> np.ndarray:
    """Values (N,) as levels (N, 1)."""
    return codes[:, None]


def census(
    masks: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    levels: Callable[[np.ndarray], np.ndarray] = one_level,
    close: int = CLOSE,
) -> Census:
    """Count what `masks` hold, in threads; read: their codes (H, W). Raises UserError as `read` does."""
    every = max(-(-len(masks) // close), 1)
    with ThreadPoolExecutor(THREADS) as pool:
        counted = list(pool.map(lambda at: tally(read(masks[at]), at % every == 0, levels), range(len(masks))))
    owner = np.repeat(np.arange(len(masks)), [len(one.codes) for one in counted])
    sizes = np.array([one.pixels.sum() for one in counted])[owner]
    codes, place = np.unique(np.concatenate([one.codes for one in counted]), return_inverse=True)

    def summed(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.bincount(place, weights=np.concatenate(parts), minlength=len(codes)).astype(np.int64)

    holders: list[list[Path]] = [[] for _ in codes]
    for index, mask in zip(place.tolist(), owner.tolist(), strict=True):
        holders[index].append(masks[mask])
    return Census(
        codes=codes,
        pixels=summed([one.pixels for one in counted]),
        closely=summed([one.closely for one in counted]),
        inside=summed([one.inside for one in counted]),
        between=summed([one.between for one in counted]),
        steps=sum(one.steps for one in counted),
        masks=len(masks),
        holders=holders,
        sizes=summed([sizes]),
    )
