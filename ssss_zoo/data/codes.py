"""What a mask file holds at a pixel, its code: a whole number, or a colour as red * 65536 + green * 256 + blue."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.classes import Colour
from ssss_zoo.data.decoders import decode_eight_bits, decode_high_depth, raw_mode
from ssss_zoo.data.images import (
    ORIENTATION_TURNS,
    SIDEWAYS,
    Header,
    Reading,
    header_of_image,
    open_image,
    read_header,
)
from ssss_zoo.data.tiff import (
    PHOTOMETRIC,
    WHITE_IS_ZERO,
    TiffPicture,
    open_tiff,
    read_tiff_channels,
    white_is_zero_error,
)
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import IGNORE

PLAIN = ("1", "L", "P", "RGB", "RGBA")  # Pillow's modes that are taken as they are; transparency says nothing
WITH_ALPHA = ("LA", "PA")
LARGEST = 1 << 32  # codes lie between this and its negative
COLOUR = re.compile("#[0-9a-fA-F]{6}")
SCALED = {"L;2": 85, "L;4": 17}  # greys of 2 and 4 bits: what Pillow multiplies them by
MOST_SHOWN = 63  # the largest grey of a palette that is taken for an id (our choice: as many classes as can be found)
AS_TOLD = Reading()  # masks are turned as their own tag says
VOIDED = -LARGEST  # the code of a pixel that `data.ignore` or the file's own tag leaves out


# --- a file ---------------------------------------------------------------------------------------------------------


def stored(path: Path, reading: Reading, shown: bool = False, lossy: bool = True) -> np.ndarray:
    """(H, W) palette indices, greys or other numbers of any type, or (H, W, 3) colours, as the file has them.

    reading: whether they are turned upright by the file's own tag, and how many pixels there may be. shown: with the
    colours of its palette, where it has one. Raises UserError, naming the file, when it cannot be read, has several
    pages or bands that are no colours, and, unless `lossy`, for a format that smears.
    """
    with open_image(path, reading.max_pixels) as held:
        found = header_of_image(held, path)
        smears = "" if lossy else lossy_format(path, held)
        if smears:
            raise smeared(path, smears)
        if found.pages > 1:
            raise UserError(f"mask {path} has {found.pages} pages; expected one: write each into a file of its own")
        pixels = pixels_of(held, found, path, shown)
    return (
        ORIENTATION_TURNS[found.orientation](pixels)
        if reading.exif and found.orientation in ORIENTATION_TURNS
        else pixels
    )


def pixels_of(held: Image.Image | TiffPicture, found: Header, path: Path, shown: bool) -> np.ndarray:
    """(H, W) or (H, W, 3) as stored; alpha is dropped. Raises UserError as `stored`."""
    if isinstance(held, TiffPicture):
        pixels = read_tiff_channels(held)
        return bands(path, pixels // 255 if held.dtype == bool else pixels, found.alpha)
    if held.format == "TIFF" and held.mode == "L" and held.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        raise white_is_zero_error(path)
    if found.depth:
        return bands(path, decode_high_depth(held, path), found.alpha)
    if held.format == "TIFF" and found.orientation in ORIENTATION_TURNS:
        return unturned(held, path, shown)
    if held.mode in WITH_ALPHA and not (shown and held.mode == "PA"):
        return np.array(held.getchannel(0))
    if held.mode in PLAIN and not (held.mode == "P" and (shown or shows_greys(held))):
        scale = SCALED.get(raw_mode(held), 1)
        pixels = bands(path, decode_eight_bits(held, path), held.mode == "RGBA").astype(np.uint8, copy=False)
        return pixels if scale == 1 else pixels // scale
    return np.array(held.convert("RGB"))


def shows_greys(image: Image.Image) -> bool:
    """Whether a palette holds greys, small numbers and 255, that are not their own indices: what is left of a grey mask
    that was written as GIF, or made smaller, and kept only the values that occur. Brighter ones are there to be seen,
    and the indices count."""
    found = image.getpalette("RGB") or []
    used = [index for index, count in enumerate(image.histogram()[:256]) if count]
    entries = [tuple((*found[3 * index : 3 * index + 3], 0, 0, 0)[:3]) for index in used]
    greys = [red for red, green, blue in entries if red == green == blue]
    small = [grey for grey in greys if grey < IGNORE]
    whole_palette = len(greys) == len(used) == len(set(greys))
    return whole_palette and greys != used and (image.format == "GIF" or max(small, default=IGNORE) <= MOST_SHOWN)


def unturned(image: Image.Image, path: Path, shown: bool) -> np.ndarray:
    """The pixels of a TIFF of 8 bits that has a tag: Pillow turns some of these and not others, tifffile none."""
    with open_tiff(path) as held:
        pixels = bands(path, read_tiff_channels(held), held.alpha)
    if image.mode == "1":
        return pixels // 255
    if shown and image.mode == "P":
        return np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[pixels]
    return pixels


def bands(path: Path, pixels: np.ndarray, alpha: bool) -> np.ndarray:
    """(H, W, bands) as one band (H, W) or three colours (H, W, 3). Raises UserError for others."""
    count = pixels.shape[2] - alpha
    if count == 1:
        return pixels[..., 0]
    if count == 3 and pixels.dtype.kind == "u":
        return pixels[..., :3]
    raise UserError(f"mask {path} has {count} bands; expected one, of whole numbers, or three, of colours")


def upright_size(path: Path, reading: Reading) -> tuple[int, int]:
    """(H, W) of a file's picture, turned by its own tag where `reading` says so. Raises UserError, naming the file,
    when it cannot be read."""
    found = read_header(path, reading.max_pixels)
    height, width = found.size
    return (width, height) if reading.exif and found.orientation in SIDEWAYS else (height, width)


def lossy_format(path: Path, held: Image.Image | TiffPicture) -> str:
    """The format of a file whose pixels are not those that were saved; empty where they are."""
    if isinstance(held, TiffPicture):
        return ""
    if held.format in ("JPEG", "MPO", "AVIF"):
        return "AVIF" if held.format == "AVIF" else "JPEG"
    if held.format == "TIFF" and held.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"TIFF with {held.info['compression']} compression"
    return "lossy WebP" if held.format == "WEBP" and b"VP8L" not in path.read_bytes() else ""


def lossy_file(path: Path) -> str:
    """The lossy format of a file; empty where it has none."""
    with open_image(path, sys.maxsize) as held:
        return lossy_format(path, held)


def is_coloured(path: Path, reading: Reading) -> bool:
    """Whether a mask has colours: three channels that are not all equal. A file that cannot be read has none."""
    try:
        pixels = stored(path, reading) if read_header(path, reading.max_pixels).mode not in ("1", "L", "P") else None
    except UserError:
        return False
    return pixels is not None and pixels.ndim == 3 and grey_codes(pixels) is None


def smeared(path: Path, made_by: str, count: str = "") -> UserError:
    """The error for a mask in a lossy format. count: how bad it is, where that is known."""
    return UserError(
        f"mask {path} is a {made_by}, which smears values and colours{f' ({count})' if count else ''}: save masks as "
        "PNG, or of dataset=folder name the classes in classes.txt ('VALUE: name', or 'name R G B' for colours) and "
        "give data.snap=true, which takes the nearest one that a class has"
    )


# --- codes ----------------------------------------------------------------------------------------------------------


def read_codes(
    path: Path, colours: bool, lossy: bool, ignored: Sequence[float] = (), reading: Reading = AS_TOLD
) -> np.ndarray:
    """(H, W) codes of a mask: colours, int32; or values as stored, uint8 or int64, with `VOIDED` for what is `ignored`
    and for the file's own nodata value where that is none of 0 to 255.

    Raises UserError, naming the file, as `stored` does, for values that are no whole numbers or have more than 32
    bits, and for colours where values are expected.
    """
    pixels = stored(path, reading, shown=colours, lossy=lossy)
    if colours:
        return as_colours(path, pixels)
    values = grey_codes(pixels) if pixels.ndim == 3 else pixels
    if values is None:
        raise UserError(
            f"mask {path} is coloured: colour masks are not class ids; write the id of its class into each pixel of "
            "an 8-bit single-channel PNG, or of dataset=folder give data.encoding=colours"
        )
    return values if values.dtype == np.uint8 else whole(path, values, [*ignored, *nodata(path)])


def as_colours(path: Path, pixels: np.ndarray) -> np.ndarray:
    """(H, W) int32 of greys (H, W) or colours (H, W, 3). Raises UserError for more than 8 bits a channel."""
    if pixels.dtype != np.uint8:
        raise UserError(f"mask {path} has {pixels.dtype} values; expected colours of 8 bits a channel")
    red, green, blue = (pixels[..., channel] if pixels.ndim == 3 else pixels for channel in range(3))
    return red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue


def grey_codes(colours: np.ndarray) -> np.ndarray | None:
    """(H, W, 3 or 4) to (H, W) where red, green and blue are equal everywhere, else None."""
    red, green, blue = (colours[..., channel] for channel in range(3))
    return red if np.array_equal(red, green) and np.array_equal(red, blue) else None


def whole(path: Path, values: np.ndarray, ignored: Sequence[float]) -> np.ndarray:
    """(H, W) numbers of any type as int64, `VOIDED` where they are `ignored`. Raises UserError where others are no
    whole numbers of 32 bits."""
    void = np.isin(values, [value for value in ignored if not math.isnan(value)])
    if values.dtype.kind == "f":
        void |= np.isnan(values) & any(math.isnan(value) for value in ignored)
        wrong = ~void & (~np.isfinite(values) | (np.floor(values) != values))
    else:
        wrong = np.zeros(values.shape, bool)
    wrong |= ~void & (np.abs(values.astype(np.float64)) >= LARGEST)
    if wrong.any():
        first = values[wrong][0]
        expected = "whole numbers of at most 32 bits, one for each class"
        raise UserError(
            f"mask {path} holds {first:g} where it should hold a class, {int(wrong.sum()):,} of {wrong.size:,} pixels "
            f"have no such value; expected {expected}{leave_out([first])}"
        )
    return np.where(void, VOIDED, np.where(void, 0, values).astype(np.int64))


def leave_out(values: Sequence[float]) -> str:
    """The setting that makes void of values, as the end of a message; empty where it takes none of them."""
    words = [f"{value:.0f}" if float(value).is_integer() else str(value) for value in values]
    kept = all(math.isnan(value) or float(value).is_integer() for value in values)
    return f"; of dataset=folder data.ignore=[{','.join(words)}] leaves such pixels out" if kept else ""


def nodata(path: Path) -> list[float]:
    """The value that a TIFF's own tag says is none, where that can be no id; empty for other files."""
    declared = read_header(path, sys.maxsize).nodata
    return [] if declared is None or 0 <= declared <= IGNORE else [declared]


# --- words ----------------------------------------------------------------------------------------------------------


def code_of(word: str, kind: str) -> float:
    """What `data.ignore` names: a whole number, `nan`, or a colour such as #ff00ff. Raises UserError for others."""
    if kind == "colours":
        if COLOUR.fullmatch(word):
            return int(word[1:], 16)
        raise not_ignored(word, "a colour such as '#ff00ff'", kind)
    try:
        number = float(word)
    except ValueError:
        number = math.inf
    if not (math.isnan(number) or number.is_integer()):
        raise not_ignored(word, "a whole number such as 7 or -1, or nan", kind)
    return int(number) if abs(number) < LARGEST else number


def not_ignored(word: str, expected: str, kind: str) -> UserError:
    return UserError(f"data.ignore holds '{brief(word)}'; expected {expected}, since masks hold {kind}")


def packed(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def unpacked(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def hex_colour(code: int) -> str:
    return f"#{code:06x}"
