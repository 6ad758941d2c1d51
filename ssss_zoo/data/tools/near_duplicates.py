"""Pictures that are one and the same photograph: again as JPEG, in another size, cropped, darker or brighter.

Of every picture a small grey copy is kept. Copies are found in two looks. The coarse one compares the layout of light,
COARSE x COARSE cells, of the whole of one picture with parts of the other (what cropping leaves of it). Smooth pictures
look alike there, so the close one lays each such pair upon each other as well as can be and compares their fine detail,
FINE x FINE cells, in which strong edges count no more than grain: another picture has other grain. Whole pictures with
the same grain are looked at closely whatever the coarse look says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

COPY_SIDE = 64  # cells of the small copy, each way
COARSE_CELLS, FINE_CELLS = 8, 32  # cells compared at the coarse and at the close look
CROPPED_MAX = 0.2  # of its height and of its width that a copy may lack, at both ends together (our choice)
CUT_STEPS = 4  # steps from nothing to CROPPED at each end, at the coarse look (our choice)
COARSE_MIN = 0.9  # correlation from which a pair is looked at closely
# measured: 120 smooth and 118 photographed pictures, 18 ways of copying; of the photographs' copies all are above .86
UNCUT_DETAIL_MIN = (
    0.5  # correlation of fine detail of two whole pictures from which they are looked at closely (our choice)
)
FIRST_STEP_MIN = 0.3  # correlation of fine detail after the first step below which no finer one is tried
SAME_LIGHT, SAME_DETAIL = 0.9, 0.65
# correlations of a copy, measured as above: copies of photographs have .92 of detail and more, of smooth pictures
# mostly .7 and more; pictures that are none .54 at most, and frames of a film a second apart .88
GRAIN, FLAT = (
    2,
    0.5,
)  # medians of detail at which it is cut; steps of grey, of 255, below which there is none (our choice)
DETAILED_CELLS_MIN = 32  # cells with detail at least: fewer say nothing (our choice)
PAIRS_COMPARED = 1000  # pairs looked at closely, the likeliest ones: 2 ms each (our choice)
STEPS, ROUNDS = (0.025, 0.0125, 0.006), 3  # of height and width, by which a cut's ends move; so often at most
END, SHIFT = np.eye(4), np.array([[1, 0, -1, 0], [0, 1, 0, -1]])  # one end moves, or the whole cut
CUT_MOVES = np.concatenate([END, -END, SHIFT, -SHIFT])

Cut = tuple[float, float, float, float]  # shares of the picture left out at top, left, bottom and right


@dataclass(frozen=True)
class NearDuplicate:
    """Two pictures, by their places in two lists, that are likely one. likeness: correlation of their fine detail."""

    first: int
    second: int
    likeness: float


def small_copy(image: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) float32, mean grey of each cell, of an image (H, W, channels) in [0, 255]."""
    if image.dtype == np.uint8 and image.shape[2] == 3:
        grey = Image.fromarray(image).convert("L").convert("F")
    else:
        grey = Image.fromarray(image[..., :3].mean(axis=2, dtype=np.float32))
    return np.asarray(grey.resize((COPY_SIDE, COPY_SIDE), Image.Resampling.BOX), np.float32)


def packed_copy(small: np.ndarray) -> bytes:
    """A small copy in SIDE * SIDE bytes: its darkest cell is 0, its brightest 255."""
    spread = float(np.ptp(small)) or 1
    return ((small - small.min()) * (255 / spread)).round().astype(np.uint8).tobytes()


def unpacked_copy(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(COPY_SIDE, COPY_SIDE).astype(np.float32)


# --- two lists of pictures ------------------------------------------------------------------------------------------


def find_near_duplicates(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[NearDuplicate]:
    """The pairs of a picture of the first list and one of the second, small copies all, that show one photograph, the
    likeliest first."""
    if not len(first) or not len(second):
        return []
    ours, theirs = [PreparedPicture(small) for small in first], [PreparedPicture(small) for small in second]
    alike = {(a, b): (far, a, b, cut, False) for far, a, b, cut in find_coarse_matches(first, second)}
    for far, b, a, cut in find_coarse_matches(second, first):
        if far > alike.get((a, b), (0.0,))[0]:
            alike[a, b] = (far, a, b, cut, True)
    straight = np.stack([picture.detail for picture in ours]) @ np.stack([picture.detail for picture in theirs]).T
    for a, b in np.argwhere(straight >= UNCUT_DETAIL_MIN).tolist():  # the coarse look may miss smooth ones
        alike[a, b] = (1 + float(straight[a, b]), a, b, (0.0, 0.0, 0.0, 0.0), False)
    chosen = sorted(alike.values(), reverse=True)[:PAIRS_COMPARED]
    pairs = []
    for _, a, b, cut, turned in chosen:
        light, detail = align(theirs[b], ours[a], cut) if turned else align(ours[a], theirs[b], cut)
        if light >= SAME_LIGHT and detail >= SAME_DETAIL:
            pairs.append(NearDuplicate(a, b, round(detail, 3)))
    return sorted(pairs, key=lambda pair: -pair.likeness)


def find_coarse_matches(wholes: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> list[tuple[float, int, int, Cut]]:
    """(correlation, place of the whole, place of the part, cut) of each pair where some cut of the one is ALIKE the
    other."""
    rows, cuts = coarse_cuts()
    frames = np.stack([coarse_vectors(part, rows[:1])[0] for part in parts])
    found = []
    for number, whole in enumerate(wholes):
        far = coarse_vectors(whole, rows) @ frames.T  # (cuts, parts)
        best = far.max(axis=0)
        for part in np.flatnonzero(best >= COARSE_MIN):
            cut = cuts[int(far[:, part].argmax())]
            found.append((float(best[part]), number, int(part), cut))
    return found


@cache
def coarse_cuts() -> tuple[np.ndarray, list[Cut]]:
    """Of one direction the cells of each cut, (cuts, COARSE, SIDE); of both directions every cut, in `coarse`'s
    order."""
    step = CROPPED_MAX / CUT_STEPS
    ends = np.array(
        [(begin * step, end * step) for begin in range(CUT_STEPS + 1) for end in range(CUT_STEPS + 1 - begin)]
    )
    cuts = [(top, left, bottom, right) for top, bottom in ends for left, right in ends]
    return cell_weights(ends[:, 0], ends[:, 1], COARSE_CELLS), cuts


def coarse_vectors(picture: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(cuts, COARSE * COARSE) of a picture's cuts, each without its mean and its slope of light, of length 1."""
    shown = np.einsum("ias,st,jbt->ijab", rows, picture, rows, optimize=True).reshape(-1, COARSE_CELLS * COARSE_CELLS)
    return unit_length(shown @ slope_remover())


@cache
def slope_remover() -> np.ndarray:
    """The projection that takes mean and slopes off COARSE x COARSE cells."""
    down, along = np.mgrid[:COARSE_CELLS, :COARSE_CELLS].reshape(2, -1)
    basis, _ = np.linalg.qr(np.stack([np.ones(COARSE_CELLS * COARSE_CELLS), down, along], axis=1))
    return (np.eye(COARSE_CELLS * COARSE_CELLS) - basis @ basis.T).astype(np.float32)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def cell_weights(begin: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """(N, count, SIDE): how much of each of the SIDE cells lies in each of `count` equal ones, where `begin` and `end`
    (N,), shares of the whole, are left out."""
    kept = COPY_SIDE * (1 - begin - end)[:, None]
    edges = (COPY_SIDE * begin[:, None] + kept * np.arange(count + 1) / count).astype(np.float32)
    before = np.clip(edges[:, :, None] - np.arange(COPY_SIDE, dtype=np.float32), 0, 1)  # parts of cells before an edge
    inside: np.ndarray = np.diff(before, axis=1) * (count / kept[:, :, None]).astype(np.float32)
    return inside


# --- one pair -------------------------------------------------------------------------------------------------------


class PreparedPicture:
    """A picture, whole, as the close look needs it. small: (SIDE, SIDE); grain: where its detail is cut, 0 where it has
    none to speak of; light, detail: (FINE * FINE,), of length 1."""

    def __init__(self, small: np.ndarray) -> None:
        self.small, shown = small, apply_cuts(small, np.zeros((1, 4)))
        sizes = np.abs(high_pass(shown))
        sizes = sizes[sizes > FLAT]
        self.grain = GRAIN * float(np.median(sizes)) if sizes.size >= DETAILED_CELLS_MIN else 0.0
        self.light, self.detail = centred_unit(shown)[0], fine_detail(shown, self.grain)[0]


def align(whole: PreparedPicture, part: PreparedPicture, cut: Cut) -> tuple[float, float]:
    """Correlations of light and of fine detail between a picture and the cut of another that fits it best, sought from
    `cut` on in ever finer steps."""
    best = np.array(cut)
    likeness = float((fine_detail(apply_cuts(whole.small, best[None]), whole.grain) @ part.detail)[0])
    for step in STEPS:
        for _ in range(ROUNDS):
            tries = np.clip(best + step * CUT_MOVES, 0, CROPPED_MAX + STEPS[0])
            found = fine_detail(apply_cuts(whole.small, tries), whole.grain) @ part.detail
            if found.max() <= likeness:
                break
            best, likeness = tries[found.argmax()], float(found.max())
        if likeness < FIRST_STEP_MIN:
            break
    return float((centred_unit(apply_cuts(whole.small, best[None])) @ part.light)[0]), likeness


def apply_cuts(picture: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """(N, FINE, FINE) of the cuts (N, 4) of a picture."""
    top, left, bottom, right = cuts.T
    shown: np.ndarray = (
        cell_weights(top, bottom, FINE_CELLS) @ picture @ cell_weights(left, right, FINE_CELLS).transpose(0, 2, 1)
    )
    return shown


def centred_unit(shown: np.ndarray) -> np.ndarray:
    """(N, cells): each without its mean, of length 1."""
    flat = shown.reshape(len(shown), -1)
    return unit_length(flat - flat.mean(axis=1, keepdims=True))


def fine_detail(shown: np.ndarray, grain: float) -> np.ndarray:
    """(N, cells): what is left when the surroundings are taken off, cut at `grain`, of length 1."""
    return centred_unit(np.clip(high_pass(shown), -grain, grain))


def high_pass(shown: np.ndarray) -> np.ndarray:
    blur = blur_matrix()
    return shown - blur @ shown @ blur.T


@cache
def blur_matrix() -> np.ndarray:
    """(FINE, FINE): of each cell the mean of it and of two on each side."""
    near = np.abs(np.subtract.outer(np.arange(FINE_CELLS), np.arange(FINE_CELLS))) <= 2
    return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
