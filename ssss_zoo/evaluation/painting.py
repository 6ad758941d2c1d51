"""Pixels of pictures: images, classes in their colours, void, wrong pixels, values of pixels, and overlays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ssss_zoo.data.class_colours import WRONG_COLOUR, is_near_wrong
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.toolkit.types import IGNORE

MIN_PICTURE_SIDE = 256  # pixels of the smaller side of a picture in a sheet (our choice)
MAX_PICTURE_SIDE = 768  # pixels of the larger side, also where this makes the smaller one less (our choice)
STRIPE_WIDTH = 4  # pixels, counted along a row
VOID_STRIPES: tuple[Colour, Colour] = ((238, 238, 238), (120, 120, 120))  # falling to the left; no class has stripes
WRONG_STRIPES: tuple[Colour, Colour] = (WRONG_COLOUR, (255, 255, 255))  # falling to the right
RIGHT_BRIGHTNESS = 0.4  # of the grey image below the wrong pixels
OVERLAY_OPACITY = 0.45  # of the class colours over the image (our choice)
EDGE_SHARE = 1 / 300  # of the smaller side: the width of a line along the edge of a class (our choice)
VALUE_COLOURS = (  # viridis (van der Walt and Smith, 2015) at nine even steps, from the lowest value to the highest
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
    (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip


# --- size -----------------------------------------------------------------------------------------------------------


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Width and height of the picture of an image in a sheet: its smaller side is MIN_PICTURE_SIDE, or a whole multiple
    of a smaller image's side that reaches it, and its larger side is at most MAX_PICTURE_SIDE."""
    smaller, larger = min(height, width), max(height, width)
    scale = MIN_PICTURE_SIDE / smaller
    if scale > 1:
        scale = float(np.ceil(scale))
    scale = min(scale, MAX_PICTURE_SIDE / larger)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_photo(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another size (width, height). An enlarged image keeps its pixels as squares."""
    smooth = size[0] < image.shape[1]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX if smooth else Image.Resampling.NEAREST))


def resize_nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) at another size (width, height): each new pixel has the nearest one's value. Class ids stay class ids."""
    width, height = size
    rows = (np.arange(height) + 0.5) * values.shape[0] / height
    columns = (np.arange(width) + 0.5) * values.shape[1] / width
    return values[rows.astype(int)[:, None], columns.astype(int)[None]]


# --- colours --------------------------------------------------------------------------------------------------------


def photo(image: np.ndarray) -> np.ndarray:
    """(H, W, channels) in [0, 255] as (H, W, 3) uint8: the first three channels, or the first one as grey."""
    channels = image[..., : 3 if image.shape[2] >= 3 else 1].astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(channels, (*channels.shape[:2], 3)))


def colour_classes(ids: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """(H, W) class ids as (H, W, 3) colours; void has stripes. For a picture of another size, resize the ids first."""
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(colours)] = colours
    return draw_void(table[ids], ids == IGNORE)


def draw_void(picture: np.ndarray, void: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) with stripes where `void` (H, W) is true."""
    return np.where(void[..., None], stripes(void.shape, VOID_STRIPES, slope=1), picture)


def stripes(shape: tuple[int, ...], colours: tuple[Colour, Colour], slope: int) -> np.ndarray:
    """(H, W, 3) diagonal stripes of two colours. slope: 1 where they fall to the left, -1 where to the right."""
    row, column = np.indices(shape)
    return np.array(colours, np.uint8)[(column + slope * row) // STRIPE_WIDTH % 2]


def draw_errors(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """The image, grey and dark, with its wrong pixels in WRONG_COLOUR and void in stripes.

    Where a class of the data set has a colour near WRONG_COLOUR, wrong pixels have stripes of it, as no class has.
    image: (H, W, 3) uint8; truth, predicted: (H, W) class ids of its size.
    """
    void = truth == IGNORE
    grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    wrong = ((predicted != truth) & ~void)[..., None]
    marked = np.where(wrong, wrong_pixels(void.shape, colours), (grey * RIGHT_BRIGHTNESS).astype(np.uint8))
    return draw_void(marked, void)


def wrong_pixels(shape: tuple[int, ...], colours: Sequence[Colour]) -> np.ndarray:
    """(H, W, 3) as wrong pixels are drawn beside classes of these colours."""
    if is_near_wrong(colours):
        return stripes(shape, WRONG_STRIPES, slope=-1)
    return np.broadcast_to(np.array(WRONG_COLOUR, np.uint8), (*shape, 3))


def colour_values(values: np.ndarray, highest: float) -> np.ndarray:
    """(H, W) values as (H, W, 3) colours: from dark blue for 0 to yellow for `highest` and beyond."""
    share = np.clip(values.astype(np.float64) / highest, 0, 1) * (len(VALUE_COLOURS) - 1)
    channels = [np.interp(share, range(len(VALUE_COLOURS)), channel) for channel in zip(*VALUE_COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


# --- overlays -------------------------------------------------------------------------------------------------------


def draw_overlay(pixels: np.ndarray, classes: np.ndarray, colours: Sequence[Colour]) -> Image.Image:
    """The classes over the image: their colours half transparent, and the edge of each class as a line of its colour.
    Pixels without data stay as they are. pixels: (H, W, channels) in [0, 255]; classes: (H, W) ids."""
    picture = Image.fromarray(photo(pixels))
    solid = Image.fromarray(colour_classes(classes, colours))
    coloured = Image.blend(picture, solid, OVERLAY_OPACITY)
    coloured.paste(solid, mask=Image.fromarray(class_edges(classes)))
    coloured.paste(picture, mask=Image.fromarray(classes == IGNORE))
    return coloured


def class_edges(classes: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a class beside another class. The line on each side of a border is EDGE_SHARE wide."""
    width = max(1, round(min(classes.shape) * EDGE_SHARE))
    edges = np.zeros(classes.shape, bool)
    for step in range(1, width + 1):
        down = classes[step:] != classes[:-step]
        edges[step:] |= down
        edges[:-step] |= down
        right = classes[:, step:] != classes[:, :-step]
        edges[:, step:] |= right
        edges[:, :-step] |= right
    return edges
