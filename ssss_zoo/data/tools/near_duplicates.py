"""Images made from one photograph: saved again as JPEG, in another size, cropped, darker or brighter.

Each image is reduced to a small grey copy, and copies are compared in two steps. The coarse step compares the layout of
light, COARSE_CELLS x COARSE_CELLS cells, of every image with cropped versions of every other. Smooth images look alike
in it. So the fine step aligns each such pair and compares its fine detail, FINE_CELLS x FINE_CELLS cells, with strong
edges clipped to the level of the grain: different photographs have different grain. The fine step also compares
uncropped images with the same grain that the coarse step did not pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

COPY_SIDE = 64  # cells of a small copy, each way

# The coarse step.
COARSE_CELLS = 8  # cells that are compared, each way
CROPPED_MAX = 0.2  # share of its height and width that a copy may lack, both ends together (our choice)
CUT_STEPS = 4  # steps from 0 to CROPPED_MAX at each end (our choice)
COARSE_MIN = 0.9  # correlation of a pair that goes on to the fine step; copies of photographs are above .86 (see below)

# The fine step. Measured with 120 smooth images and 118 photographs, copied in 18 ways: the detail of copies correlates
# with .92 and more for photographs, and mostly with .7 and more for smooth images; that of other images with .54 at
# most, and that of frames of a film a second apart with .88.
FINE_CELLS = 32  # cells that are compared, each way
SAME_LIGHT = 0.9  # correlation of light from which two images are copies
SAME_DETAIL = 0.65  # correlation of fine detail from which they are
UNCUT_DETAIL_MIN = 0.5  # the same of two uncropped images, from which the fine step compares them (our choice)
FIRST_STEP_MIN = 0.3  # correlation of detail after the first round of aligning, below which there is no second one
GRAIN = 2  # detail is clipped at so many of its medians (our choice)
FLAT = 0.5  # grey levels, of 255: smaller differences are not detail (our choice)
DETAILED_CELLS_MIN = 32  # an image with less detailed cells has no detail (our choice)
PAIRS_COMPARED = 1000  # pairs at most in the fine step, the likeliest ones; 2 ms each (our choice)
STEPS = (0.025, 0.0125, 0.006)  # shares of height and width by which the ends of a cut move
ROUNDS = 3  # moves of each step at most
END_MOVES = np.eye(4)  # one end of the cut moves
SHIFTS = np.array([[1, 0, -1, 0], [0, 1, 0, -1]])  # the whole cut moves
CUT_MOVES = np.concatenate([END_MOVES, -END_MOVES, SHIFTS, -SHIFTS])

Cut = tuple[float, float, float, float]  # shares of the image left out at the top, left, bottom and right


@dataclass(frozen=True)
class NearDuplicate:
    """Two images, by their index in two lists, that probably show one photograph. likeness: correlation of detail."""

    first: int
    second: int
    likeness: float


@dataclass(frozen=True)
class Match:
    """A pair to compare in the fine step.

    correlation: the likeliest pair has the highest. first, second: the index in each list. cut: of one of the two
    images, to look like the other. cut_second: whether it is of the second one.
    """

    correlation: float
    first: int
    second: int
    cut: Cut
    cut_second: bool


def small_copy(image: np.ndarray) -> np.ndarray:
    """(COPY_SIDE, COPY_SIDE) float32, the mean grey level of each cell, of an image (H, W, channels) in [0, 255]."""
    if image.dtype == np.uint8 and image.shape[2] == 3:
        grey = Image.fromarray(image).convert("L").convert("F")
    else:
        grey = Image.fromarray(image[..., :3].mean(axis=2, dtype=np.float32))
    return np.asarray(grey.resize((COPY_SIDE, COPY_SIDE), Image.Resampling.BOX), np.float32)


def packed_copy(small: np.ndarray) -> bytes:
    """A small copy in COPY_SIDE * COPY_SIDE bytes, its darkest cell 0 and its brightest 255."""
    contrast = float(np.ptp(small)) or 1
    return ((small - small.min()) * (255 / contrast)).round().astype(np.uint8).tobytes()


def unpacked_copy(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(COPY_SIDE, COPY_SIDE).astype(np.float32)


# --- two lists of images --------------------------------------------------------------------------------------------


def find_near_duplicates(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[NearDuplicate]:
    """The pairs of an image of the first list and one of the second that show one photograph, the likeliest first. Both
    lists hold small copies."""
    if not len(first) or not len(second):
        return []
    firsts = [prepare_image(small) for small in first]
    seconds = [prepare_image(small) for small in second]
    matches = {(match.first, match.second): match for match in find_coarse_matches(first, second)}
    for match in find_coarse_matches(second, first):
        pair = (match.second, match.first)
        if pair not in matches or match.correlation > matches[pair].correlation:
            matches[pair] = Match(match.correlation, *pair, match.cut, True)
    straight = np.stack([image.detail for image in firsts]) @ np.stack([image.detail for image in seconds]).T
    for a, b in np.argwhere(straight >= UNCUT_DETAIL_MIN).tolist():  # the coarse step may miss smooth images
        matches[a, b] = Match(1 + float(straight[a, b]), a, b, (0.0, 0.0, 0.0, 0.0), False)
    likeliest = sorted(matches.values(), key=lambda match: (match.correlation, match.first, match.second), reverse=True)
    pairs = []
    for match in likeliest[:PAIRS_COMPARED]:
        one, other = firsts[match.first], seconds[match.second]
        light, detail = align(other, one, match.cut) if match.cut_second else align(one, other, match.cut)
        if light >= SAME_LIGHT and detail >= SAME_DETAIL:
            pairs.append(NearDuplicate(match.first, match.second, round(detail, 3)))
    return sorted(pairs, key=lambda pair: -pair.likeness)


def find_coarse_matches(wholes: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> list[Match]:
    """The pairs of a whole image and an image that some cut of it looks like, small copies all."""
    rows, cuts = coarse_cuts()
    uncut = np.stack([coarse_vectors(part, rows[:1])[0] for part in parts])
    matches = []
    for number, whole in enumerate(wholes):
        correlations = coarse_vectors(whole, rows) @ uncut.T  # (cuts, parts)
        best = correlations.max(axis=0)
        for part in np.flatnonzero(best >= COARSE_MIN).tolist():
            cut = cuts[int(correlations[:, part].argmax())]
            matches.append(Match(float(best[part]), number, part, cut, False))
    return matches


@cache
def coarse_cuts() -> tuple[np.ndarray, list[Cut]]:
    """The cell weights of each cut along one axis, (cuts, COARSE_CELLS, COPY_SIDE); and the cuts along both axes, in
    the order of `coarse_vectors`."""
    step = CROPPED_MAX / CUT_STEPS
    steps = [(begin, end) for begin in range(CUT_STEPS + 1) for end in range(CUT_STEPS + 1 - begin)]
    ends = np.array([(begin * step, end * step) for begin, end in steps])
    cuts = [(top, left, bottom, right) for top, bottom in ends for left, right in ends]
    return cell_weights(ends[:, 0], ends[:, 1], COARSE_CELLS), cuts


def coarse_vectors(small: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(cuts, COARSE_CELLS ** 2): the cells of each cut of an image, without mean and slope of light, of length 1."""
    shown = np.einsum("ias,st,jbt->ijab", rows, small, rows, optimize=True).reshape(-1, COARSE_CELLS * COARSE_CELLS)
    return unit_length(shown @ slope_remover())


@cache
def slope_remover() -> np.ndarray:
    """The projection that removes the mean and the slopes from COARSE_CELLS x COARSE_CELLS cells."""
    down, along = np.mgrid[:COARSE_CELLS, :COARSE_CELLS].reshape(2, -1)
    basis, _ = np.linalg.qr(np.stack([np.ones(COARSE_CELLS * COARSE_CELLS), down, along], axis=1))
    return (np.eye(COARSE_CELLS * COARSE_CELLS) - basis @ basis.T).astype(np.float32)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) scaled to length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def cell_weights(begin: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """(N, count, COPY_SIDE): how much each cell of a small copy adds to each of `count` equal cells of N cuts. begin,
    end: (N,) shares of the axis that the cuts leave out."""
    kept = COPY_SIDE * (1 - begin - end)[:, None]
    edges = (COPY_SIDE * begin[:, None] + kept * np.arange(count + 1) / count).astype(np.float32)
    before = np.clip(edges[:, :, None] - np.arange(COPY_SIDE, dtype=np.float32), 0, 1)  # share of a cell before an edge
    weights: np.ndarray = np.diff(before, axis=1) * (count / kept[:, :, None]).astype(np.float32)
    return weights


# --- one pair -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A small copy, prepared for the fine step.

    small: (COPY_SIDE, COPY_SIDE). grain: where its detail is clipped, 0 where it has none. light, detail:
    (FINE_CELLS ** 2,), of length 1.
    """

    small: np.ndarray
    grain: float
    light: np.ndarray
    detail: np.ndarray


def prepare_image(small: np.ndarray) -> PreparedImage:
    """Prepare a small copy for the fine step, uncut."""
    shown = apply_cuts(small, np.zeros((1, 4)))
    differences = np.abs(high_pass(shown))
    differences = differences[differences > FLAT]
    grain = GRAIN * float(np.median(differences)) if differences.size >= DETAILED_CELLS_MIN else 0.0
    return PreparedImage(small, grain, centred_unit(shown)[0], fine_detail(shown, grain)[0])


def align(whole: PreparedImage, part: PreparedImage, cut: Cut) -> tuple[float, float]:
    """The correlations of light and of fine detail between `part` and the cut of `whole` that fits it best. The search
    begins at `cut` and takes ever smaller steps."""
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


def apply_cuts(small: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """(N, FINE_CELLS, FINE_CELLS): the cuts (N, 4) of a small copy."""
    top, left, bottom, right = cuts.T
    rows, columns = cell_weights(top, bottom, FINE_CELLS), cell_weights(left, right, FINE_CELLS)
    shown: np.ndarray = rows @ small @ columns.transpose(0, 2, 1)
    return shown


def centred_unit(shown: np.ndarray) -> np.ndarray:
    """(N, cells): the cells of each of N images without their mean, of length 1."""
    flat = shown.reshape(len(shown), -1)
    return unit_length(flat - flat.mean(axis=1, keepdims=True))


def fine_detail(shown: np.ndarray, grain: float) -> np.ndarray:
    """(N, cells): the difference of each cell from its surroundings, clipped at `grain`, of length 1."""
    return centred_unit(np.clip(high_pass(shown), -grain, grain))


def high_pass(shown: np.ndarray) -> np.ndarray:
    """The difference of each cell from the mean of its surroundings, (N, FINE_CELLS, FINE_CELLS) as given."""
    blur = blur_matrix()
    return shown - blur @ shown @ blur.T


@cache
def blur_matrix() -> np.ndarray:
    """(FINE_CELLS, FINE_CELLS): takes the mean of each cell and two on each side."""
    near = np.abs(np.subtract.outer(np.arange(FINE_CELLS), np.arange(FINE_CELLS))) <= 2
    return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
