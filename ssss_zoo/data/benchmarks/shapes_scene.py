"""The drawn street scenes of `shapes`, with rare small classes and clutter that looks like objects.

Ground, wall and sky fill most of a scene; bushes, crates and barrels are common; lamps, signs and balls are rare and
small. Colour alone decides little: a barrel may have a crate's wood, a bush the green of the grass, a ball any colour;
and posters, windows, balloons, puddles, leaves, bare posts and rocks look like objects but count as background.
Scene i of a part depends on SHAPES_VERSION, the part and i alone: no run's seed changes a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.random import PCG64, Generator

# Our choices, like every measure in the drawings below: this set follows no publication.
SHAPES_VERSION = 1  # raise it whenever a pixel or a list changes
HEIGHT, WIDTH = 96, 128
SCENES_PER_PART = {"train": 320, "val": 64}  # scenes of each part

SHAPES_CLASSES = {  # colours of `class_colours.CLASS_COLOURS`
    "ground": (168, 144, 72),
    "wall": (144, 180, 132),
    "sky": (40, 175, 250),
    "bush": (0, 125, 85),
    "crate": (144, 84, 12),
    "barrel": (240, 140, 40),
    "lamp": (245, 220, 60),
    "sign": (168, 48, 120),
    "ball": (0, 252, 252),
}
CLASS_IDS = {name: index for index, name in enumerate(SHAPES_CLASSES)}
CLUTTER_LABELS = {"post": None, "rock": "ground"}  # its class in the mask; None for the class of what is behind it
OBJECT_SIZES = {
    "bush": 34,
    "crate": 30,
    "barrel": 32,
    "lamp": 60,
    "sign": 44,
    "ball": 19,
    "post": 48,
    "rock": 24,
}  # pixels
OBJECT_CHANCES = {  # of a first, a second, ... object of each kind in one scene
    "bush": (0.75, 0.5, 0.4),
    "crate": (0.6, 0.45, 0.3),
    "barrel": (0.45, 0.3),
    "lamp": (0.4,),
    "sign": (0.45,),
    "ball": (0.35, 0.3),
    "post": (0.4, 0.3),
    "rock": (0.45, 0.4),
}

Palette = tuple[tuple[float, float, float], ...]
WOODS = ((0.62, 0.44, 0.26), (0.45, 0.30, 0.18), (0.72, 0.60, 0.42), (0.50, 0.48, 0.45))
GREENS = ((0.28, 0.45, 0.16), (0.20, 0.36, 0.20), (0.47, 0.50, 0.18), (0.55, 0.36, 0.16))
STONES = ((0.55, 0.54, 0.52), (0.45, 0.40, 0.36), (0.66, 0.60, 0.50), (0.38, 0.40, 0.44))
BRICKS = ((0.62, 0.34, 0.26), (0.50, 0.30, 0.24), (0.74, 0.62, 0.48), (0.70, 0.70, 0.68))
PAINTS = ((0.80, 0.16, 0.14), (0.16, 0.34, 0.70), (0.92, 0.76, 0.16), (0.90, 0.90, 0.88), (0.16, 0.52, 0.30))
METALS = ((0.22, 0.23, 0.25), (0.50, 0.52, 0.54), (0.16, 0.30, 0.24), (0.44, 0.30, 0.22))
SKIES = ((0.36, 0.58, 0.86), (0.66, 0.70, 0.75), (0.55, 0.62, 0.78), (0.80, 0.58, 0.46))
GLASS = ((1.0, 0.93, 0.66), (0.98, 0.98, 0.94), (0.72, 0.74, 0.72))

ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)  # (H, W) each


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer to paint. cover: (H, W) in [0, 1]. colour: (3, 1, 1) or (3, H, W), about [0, 1]."""

    cover: np.ndarray
    colour: np.ndarray


class Placement:
    """The place of an object, in pixels. x: (H, W) to the right of its foot. y: (H, W) upwards of its foot. size."""

    def __init__(self, column: float, row: float, size: float, tilt: float = 0.0) -> None:
        self.y = row - ROWS
        self.x = COLUMNS - column - tilt * self.y
        self.size = size


class Scene:
    """A scene while it is painted. image: (3, H, W). mask: (H, W) uint8. hidden: the object pixels painted over."""

    def __init__(self) -> None:
        self.image = np.zeros((3, HEIGHT, WIDTH))
        self.mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.hidden = 0

    def paint(self, layer: Layer, label: str | None = None) -> None:
        """Paint `layer` over the image. Without a label, the mask keeps the classes of what is behind it."""
        rows, columns = np.flatnonzero(layer.cover.any(axis=1)), np.flatnonzero(layer.cover.any(axis=0))
        if not len(rows):
            return
        window = np.s_[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # only for speed
        colour = np.broadcast_to(layer.colour, self.image.shape)[window]
        self.image[window] += (colour - self.image[window]) * layer.cover[window]
        if label is not None:
            solid = layer.cover > 0.5
            self.hidden += int((self.mask[solid] >= CLASS_IDS["bush"]).sum())
            self.mask[solid] = CLASS_IDS[label]


# Numbers and textures. Arrays see only +, -, *, / and sqrt, in float64: the same bytes on every machine.


def draw_between(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def pick_colour(rng: Generator, palette: Palette, spread: float = 0.16) -> np.ndarray:
    """One colour of the palette, moved by up to half of `spread` per channel, (3, 1, 1)."""
    colour = np.array(palette[int(rng.random() * len(palette))]) + (rng.random(3) - 0.5) * spread
    return colour[:, None, None]


def smooth_noise(rng: Generator, tall: float, wide: float) -> np.ndarray:
    """Smooth random field (H, W) in [0, 1] whose bumps measure `tall` x `wide` pixels."""
    grid = rng.random((int(HEIGHT / tall) + 2, int(WIDTH / wide) + 2))
    across, down = COLUMNS[0] / wide, ROWS[:, :1] / tall
    left, top = across.astype(int), down[:, 0].astype(int)
    lines = grid[:, left] + (grid[:, left + 1] - grid[:, left]) * (across - left)
    return lines[top] + (lines[top + 1] - lines[top]) * (down - top[:, None])


def clouds(rng: Generator, size: float) -> np.ndarray:
    """Three octaves of noise, (H, W) in [0, 1]."""
    coarse, middle, fine = (smooth_noise(rng, size / cut, size / cut) for cut in (1, 2, 4))
    return 0.5 * coarse + 0.3 * middle + 0.2 * fine


def tile_pattern(position: np.ndarray, groove: float) -> np.ndarray:
    """1 on tiles of length 1, 0 in the grooves between them; a groove takes that share of the length."""
    return (position - np.floor(position) > groove).astype(float)


def soft_cover(distance: np.ndarray) -> np.ndarray:
    """Cover (H, W) of the region with distance < 0, softened over one pixel at its edge."""
    return np.clip(0.5 - distance, 0, 1)


def disc_distance(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def box_distance(x: np.ndarray, y: np.ndarray, half_width: float | np.ndarray, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


# Objects: each function draws the object of its name in OBJECT_CHANCES at a place.


def draw_bush(rng: Generator, at: Placement, palette: Palette = GREENS, grain: float = 3.0) -> Layer:
    """Two lobes with a ragged edge, full of leaves."""
    lean, radius = draw_between(rng, -0.3, 0.3) * at.size, at.size * draw_between(rng, 0.32, 0.4)
    shape = np.minimum(
        disc_distance(at.x, at.y - radius * 0.8, radius), disc_distance(at.x - lean, at.y - radius * 1.1, radius * 0.75)
    )
    leaves = 0.6 * smooth_noise(rng, grain, grain) + 0.4 * smooth_noise(rng, grain / 2, grain / 2)
    shape = np.maximum(shape + (leaves - 0.5) * 0.3 * at.size, -at.y)
    light = 0.35 + 0.8 * leaves + 0.35 * np.clip(at.y / at.size, 0, 1)
    return Layer(soft_cover(shape), pick_colour(rng, palette) * light)


def draw_rock(rng: Generator, at: Placement) -> Layer:
    """The outline of a bush, the surface of a stone."""
    return draw_bush(rng, at, palette=STONES, grain=9.0)


def draw_crate(rng: Generator, at: Placement) -> Layer:
    """A front of boards in a frame, and a lid seen from above."""
    half, tall = at.size * draw_between(rng, 0.38, 0.6), at.size * draw_between(rng, 0.7, 1.0)
    front = 0.8 * tall
    lid = np.clip((at.y - front) / (tall - front), 0, 1)  # 0 on the front, 1 at the far edge of the lid
    cover = soft_cover(box_distance(at.x, at.y - tall / 2, half * (1 - 0.25 * lid), tall / 2))
    boards = 0.64 + 0.21 * tile_pattern(at.y / front * int(draw_between(rng, 3, 6)), 0.2) * smooth_noise(rng, 2, 12)
    frame = box_distance(at.x, at.y - front / 2, half * 0.78, front * 0.36) > 0
    light = np.where(lid > 0, 1.25, np.where(frame, 1.0, boards))
    return Layer(cover, pick_colour(rng, WOODS + PAINTS[:2]) * light)


def draw_barrel(rng: Generator, at: Placement) -> Layer:
    """Bulging staves between two hoops."""
    height, half = np.clip(at.y / at.size, 0, 1), at.size * draw_between(rng, 0.28, 0.36)
    reach = half * (0.8 + 0.8 * height * (1 - height))
    cover = soft_cover(box_distance(at.x, at.y - at.size / 2, reach, at.size / 2))
    around = np.clip(at.x / reach, -1, 1)
    hoop = (np.abs(np.abs(height - 0.5) - 0.27) < 0.05) | (height > 0.94)
    light = (1.15 - 0.7 * around * around) * np.where(hoop, 0.45, 0.85 + 0.15 * tile_pattern(around * 3, 0.25))
    return Layer(cover, pick_colour(rng, WOODS + PAINTS[:2]) * light)


def draw_ball(rng: Generator, at: Placement) -> Layer:
    """A lit sphere: plain, striped or of two halves."""
    radius, turn = at.size / 2, draw_between(rng, -1, 1)
    across, up = at.x / radius, at.y / radius - 1
    stripe = tile_pattern((across + turn * up) * draw_between(rng, 0.0, 1.6) + 0.5, 0.5)
    light = 1.15 - 0.35 * ((across + 0.4) * (across + 0.4) + (up - 0.4) * (up - 0.4))
    first, second = pick_colour(rng, PAINTS + GREENS[:1]), pick_colour(rng, PAINTS + WOODS[:1])
    return Layer(soft_cover(disc_distance(at.x, at.y - radius, radius)), (first + (second - first) * stripe) * light)


def draw_post(rng: Generator, at: Placement, share: float = 1.0, head: Layer | None = None) -> Layer:
    """A thin pole over `share` of the size, with a head in front of it or none."""
    tall, half = at.size * share, max(1.0, 0.03 * at.size)
    pole = Layer(
        soft_cover(box_distance(at.x, at.y - tall / 2, half, tall / 2)),
        pick_colour(rng, METALS) * (1.1 - 0.3 * at.x / half),
    )
    if head is None:
        return pole
    return Layer(np.maximum(pole.cover, head.cover), pole.colour + (head.colour - pole.colour) * head.cover)


def draw_lamp(rng: Generator, at: Placement) -> Layer:
    """A pole with a globe or a lantern, lit or not."""
    half, up = at.size * draw_between(rng, 0.1, 0.13), at.y - 0.88 * at.size
    lantern = box_distance(at.x, up, np.clip(0.8 * half + 0.3 * up, 0.4 * half, 1.1 * half), half * 1.2)
    shape = disc_distance(at.x, up, half) if rng.random() < 0.5 else lantern
    return draw_post(
        rng, at, 0.85, Layer(soft_cover(shape), pick_colour(rng, GLASS) * (1.05 - 0.12 * np.abs(at.x) / half))
    )


def draw_sign(rng: Generator, at: Placement) -> Layer:
    """A pole with a round, square, diamond or triangular plate: a rim, a face and a bar."""
    half, up = at.size * draw_between(rng, 0.21, 0.26), at.y - 0.76 * at.size
    plates = (
        disc_distance(at.x, up, half),
        box_distance(at.x, up, half * 0.9, half * 0.8),
        (np.abs(at.x) + np.abs(up) - half * 1.2) * 0.7,
        np.maximum(np.abs(at.x) * 0.87 + up * 0.5 - half * 0.55, -up - half * 0.7),
    )
    plate = plates[int(rng.random() * len(plates))]
    rim, face, bar = (
        pick_colour(rng, PAINTS, 0.1),
        pick_colour(rng, PAINTS, 0.1),
        soft_cover(box_distance(at.x, up, half * 0.5, half * 0.16)),
    )
    colour = face + (rim - face) * np.maximum(bar, 1 - soft_cover(plate + 0.28 * half))
    return draw_post(rng, at, 0.7, Layer(soft_cover(plate), colour))


DrawObject = Callable[[Generator, Placement], Layer]
OBJECT_DRAWINGS: dict[str, DrawObject] = {
    "bush": draw_bush,
    "crate": draw_crate,
    "barrel": draw_barrel,
    "lamp": draw_lamp,
    "sign": draw_sign,
    "ball": draw_ball,
    "post": draw_post,
    "rock": draw_rock,
}


# The background: sky, walls and ground, and what is painted on them.


def paint_sky(rng: Generator, scene: Scene) -> None:
    """A gradient with clouds, and sometimes a balloon with the looks of a ball."""
    tone, white = pick_colour(rng, SKIES), np.clip(clouds(rng, 36) * 2.4 - draw_between(rng, 0.9, 1.6), 0, 1)
    pale = np.maximum(ROWS / HEIGHT, 0.85 * white)
    scene.paint(Layer(np.ones((HEIGHT, WIDTH)), tone + (0.94 - tone) * pale), "sky")
    if rng.random() < 0.35:
        scene.paint(
            draw_ball(rng, Placement(draw_between(rng, 0, WIDTH), draw_between(rng, 8, 36), draw_between(rng, 6, 14)))
        )


def paint_wall(rng: Generator, scene: Scene, area: np.ndarray, foot: float) -> None:
    """One house front of bricks, plaster or boards over `area` (H, W) bool, with windows or a poster."""
    row, column = ROWS / draw_between(rng, 4, 8), COLUMNS / draw_between(rng, 5, 14)
    brick = tile_pattern(row, 0.2) * tile_pattern(column + 0.5 * (np.floor(row) % 2), 0.1)
    boards = tile_pattern(column, 0.12)
    surface = (0.8 + 0.2 * brick, np.ones_like(row), 0.82 + 0.18 * boards)[int(rng.random() * 3)]
    light = surface * (0.72 + 0.4 * clouds(rng, 24)) + 0.12 * (smooth_noise(rng, 1, 1) - 0.5)
    scene.paint(Layer(area.astype(float), pick_colour(rng, BRICKS + STONES + WOODS[:2]) * light), "wall")
    if rng.random() < 0.6:
        paint_windows(rng, scene, area, draw_between(rng, 9, 16))
    if rng.random() < 0.55:
        columns = np.flatnonzero(area.any(axis=0))
        middle = columns[int(rng.random() * len(columns))] if len(columns) else 0
        paint_poster(rng, scene, area, Placement(middle, foot - draw_between(rng, 6, 14), draw_between(rng, 12, 22)))


def paint_windows(rng: Generator, scene: Scene, area: np.ndarray, pitch: float) -> None:
    """Panes of glass in rows, `pitch` pixels apart: a crate's outline, the sky's colours or a lit room's."""
    panes = tile_pattern(COLUMNS / pitch + rng.random(), 0.5) * tile_pattern(ROWS / (1.3 * pitch) + rng.random(), 0.5)
    scene.paint(
        Layer(
            panes * area * 0.9,
            pick_colour(rng, SKIES + METALS[:1] + GLASS[:1]) * (0.7 + 0.5 * smooth_noise(rng, 12, 12)),
        )
    )


def paint_poster(rng: Generator, scene: Scene, area: np.ndarray, at: Placement) -> None:
    """A flat picture of some object on a sheet of paper; all of it is wall."""
    sheet = area & (box_distance(at.x, at.y - at.size * 0.5, at.size * 0.6, at.size * 0.65) < 0)
    scene.paint(Layer(sheet * 0.95, pick_colour(rng, PAINTS + STONES)))
    picture = list(OBJECT_DRAWINGS.values())[int(rng.random() * len(OBJECT_DRAWINGS))](rng, at)
    scene.paint(Layer(picture.cover * sheet * 0.85, picture.colour))


def paint_ground(rng: Generator, scene: Scene, horizon: float) -> None:
    """Paving, earth or grass up to the horizon, with puddles, leaves and spilt paint."""
    area, depth = horizon <= ROWS, np.clip((ROWS + 1 - horizon) / (HEIGHT - horizon), 0.03, 1)  # 1 at the lower edge
    across = (COLUMNS / WIDTH - draw_between(rng, 0.2, 0.8)) * 5 / depth
    paving = 1 - 0.3 * (1 - tile_pattern(1.6 / depth, 0.08) * tile_pattern(across, 0.08)) * depth
    earth, grass = 0.72 + 0.45 * clouds(rng, 16), 0.45 + 0.45 * smooth_noise(rng, 3, 1) + 0.45 * clouds(rng, 30)
    kind = int(rng.random() * 3)
    light = (earth * paving, earth, grass)[kind] + 0.1 * (smooth_noise(rng, 1, 1) - 0.5)
    scene.paint(
        Layer(area.astype(float), pick_colour(rng, GREENS if kind == 2 else STONES + BRICKS[:3]) * light), "ground"
    )
    for palette, chance in ((SKIES, 0.35), (GREENS, 0.5), (PAINTS, 0.35)):
        if rng.random() < chance:
            at = Placement(
                draw_between(rng, 0, WIDTH), draw_between(rng, horizon + 8, HEIGHT), draw_between(rng, 8, 20)
            )
            edge = disc_distance(at.x, at.y * 3, at.size) + (clouds(rng, 10) - 0.5) * at.size
            scene.paint(
                Layer(soft_cover(edge) * area * 0.8, pick_colour(rng, palette) * (0.5 + 0.9 * smooth_noise(rng, 2, 3)))
            )


def paint_objects(rng: Generator, scene: Scene, horizon: float) -> None:
    """The objects, back to front, each over its shadow; about half of them crowd around one spot and overlap."""
    sun, shade, crowd = draw_between(rng, -0.4, 0.4), draw_between(rng, 0.1, 0.5), draw_between(rng, 20, WIDTH - 20)
    names = [name for name, chances in OBJECT_CHANCES.items() for chance in chances if rng.random() < chance]
    for depth, name in sorted((float(rng.random()), name) for name in names):  # 0 at the horizon, 1 at the lower edge
        column = draw_between(rng, 0, WIDTH) if rng.random() < 0.5 else crowd + draw_between(rng, -24, 24)
        row, size = horizon + 3 + depth * (HEIGHT - 2 - horizon), OBJECT_SIZES[name] * (0.45 + 0.55 * depth)
        at = Placement(column, row, size * draw_between(rng, 0.8, 1.25), draw_between(rng, -0.08, 0.08))
        shadow = disc_distance((at.x - sun * at.size) / 0.6, at.y / 0.14, at.size) * 0.14
        scene.paint(Layer(soft_cover(shadow) * shade, np.zeros((3, 1, 1))))
        scene.paint(OBJECT_DRAWINGS[name](rng, at), CLUTTER_LABELS.get(name, name))


def simulate_camera(rng: Generator, image: np.ndarray) -> np.ndarray:
    """Add colour cast, exposure, haze, blur and grain to (3, H, W). Returns (H, W, 3) uint8."""
    cast = draw_between(rng, 0.7, 1.15) * (1 + (rng.random((3, 1, 1)) - 0.5) * 0.24)
    image = image * cast * (1 + draw_between(rng, -0.25, 0.25) * (COLUMNS / WIDTH - 0.5))
    image = image + (0.75 - image) * draw_between(rng, 0, 0.25)
    wide, blur = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge"), draw_between(rng, 0, 0.25)
    wide = wide[:, 1:-1] + blur * (wide[:, 2:] + wide[:, :-2] - 2 * wide[:, 1:-1])
    image = wide[..., 1:-1] + blur * (wide[..., 2:] + wide[..., :-2] - 2 * wide[..., 1:-1])
    image = image + draw_between(rng, 0.02, 0.14) * (rng.random(image.shape) - 0.5)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


@cache
def draw_scene(part: str, index: int) -> Scene:
    """Scene `index` of a part, its image (H, W, 3) uint8."""
    rng, scene = Generator(PCG64([SHAPES_VERSION, list(SCENES_PER_PART).index(part), index])), Scene()
    horizon, tall = draw_between(rng, 36, 58), draw_between(rng, 14, 44) if rng.random() < 0.85 else 0.0
    paint_sky(rng, scene)
    edges = sorted(draw_between(rng, 0, WIDTH) for _ in range(int(rng.random() * 3)))
    for left, right in pairwise([0.0, *edges, float(WIDTH)]):
        eaves = horizon - tall + draw_between(rng, -8, 8)
        area = (left <= COLUMNS) & (right > COLUMNS) & (eaves <= ROWS) & (horizon > ROWS)
        paint_wall(rng, scene, area, horizon)
    paint_ground(rng, scene, horizon)
    paint_objects(rng, scene, horizon)
    scene.image = simulate_camera(rng, scene.image)
    return scene
