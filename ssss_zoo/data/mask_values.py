"""The value that a mask file holds at each pixel: a whole number, or a colour as red * 65536 + green * 256 + blue."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.colour_vision import Colour
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
    WHITE_IS_ZERO,
    TiffPicture,
    TiffTag,
    open_tiff,
    read_tiff_channels,
    white_is_zero_error,
)
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import IGNORE

DIRECT_MODES = ("1", "L", "P", "RGB", "RGBA")  # Pillow's modes whose pixels are taken as they are; alpha is dropped
SINGLE_CHANNEL_ALPHA_MODES = ("LA", "PA")
VALUE_LIMIT = 1 << 32  # mask values lie between this and its negative
HEX_COLOUR = re.compile("#[0-9a-fA-F]{6}")
GREY_SCALES = {"L;2": 85, "L;4": 17}  # greys of 2 and 4 bits: the factor by which Pillow multiplies them
HIGHEST_GREY_ID = 63  # the largest grey of a palette that counts as an id (our choice: as many classes as can be found)
DEFAULT_READING = Reading()  # masks are turned by their own EXIF tag
VOID_VALUE = -VALUE_LIMIT  # of a pixel that `data.ignore` or the file's own tag leaves out


# --- a file ---------------------------------------------------------------------------------------------------------


def read_stored_mask(path: Path, reading: Reading, *, colours: bool = False, lossy: bool = True) -> np.ndarray:
    """(H, W) palette indices, greys or other numbers of any type, or (H, W, 3) colours, as the file holds them.

    reading: whether the mask is turned by its own EXIF tag, and how many pixels it may have. colours: whether a palette
    is replaced by its colours. Raises UserError, naming the file, when it cannot be read, for several pages, for
    channels that are neither one value nor a colour, and, unless `lossy`, for a lossy format.
    """
    with open_image(path, reading.max_pixels) as image:
        header = header_of_image(image, path)
        lossy_format = "" if lossy else lossy_format_of_image(path, image)
        if lossy_format:
            raise lossy_mask_error(path, lossy_format)
        if header.pages > 1:
            raise UserError(f"mask {path} has {header.pages} pages; expected one: write each into a file of its own")
        pixels = decode_mask(image, header, path, colours=colours)
    turn = ORIENTATION_TURNS.get(header.orientation) if reading.exif else None
    return turn(pixels) if turn else pixels


def decode_mask(image: Image.Image | TiffPicture, header: Header, path: Path, *, colours: bool) -> np.ndarray:
    """(H, W) or (H, W, 3) as stored; alpha is dropped. Raises UserError as `read_stored_mask`."""
    if isinstance(image, TiffPicture):
        pixels = read_tiff_channels(image)
        return value_or_colour(path, pixels // 255 if image.dtype == bool else pixels, alpha=header.alpha)
    if image.format == "TIFF" and image.mode == "L" and image.tag_v2.get(TiffTag.PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        raise white_is_zero_error(path)
    if header.depth:
        return value_or_colour(path, decode_high_depth(image, path), alpha=header.alpha)
    if image.format == "TIFF" and header.orientation in ORIENTATION_TURNS:
        return decode_turned_tiff(image, path, colours=colours)
    if image.mode in SINGLE_CHANNEL_ALPHA_MODES and not (colours and image.mode == "PA"):
        return np.array(image.getchannel(0))
    if image.mode in DIRECT_MODES and not (image.mode == "P" and (colours or palette_holds_ids(image))):
        scale = GREY_SCALES.get(raw_mode(image), 1)
        pixels = value_or_colour(path, decode_eight_bits(image, path), alpha=image.mode == "RGBA")
        pixels = pixels.astype(np.uint8, copy=False)
        return pixels if scale == 1 else pixels // scale
    return np.array(image.convert("RGB"))


def palette_holds_ids(image: Image.Image) -> bool:
    """Whether the greys of a palette are the ids, and not its indices.

    This is so after a grey mask was written as GIF, or made smaller, and only the values that occur were kept: the
    greys are small numbers and 255, and differ from their indices. Brighter greys are for display; indices count then.
    """
    entries = image.getpalette("RGB") or []
    used = [index for index, count in enumerate(image.histogram()[:256]) if count]
    colours = [tuple((*entries[3 * index : 3 * index + 3], 0, 0, 0)[:3]) for index in used]
    greys = [red for red, green, blue in colours if red == green == blue]
    small = [grey for grey in greys if grey < IGNORE]
    all_grey = len(greys) == len(used) == len(set(greys))
    return all_grey and greys != used and (image.format == "GIF" or max(small, default=IGNORE) <= HIGHEST_GREY_ID)


def decode_turned_tiff(image: Image.Image, path: Path, *, colours: bool) -> np.ndarray:
    """The stored pixels of a TIFF of 8 bits with an EXIF tag: Pillow turns some of these itself, tifffile none."""
    with open_tiff(path) as tiff:
        pixels = value_or_colour(path, read_tiff_channels(tiff), alpha=tiff.alpha)
    if image.mode == "1":
        return pixels // 255
    if colours and image.mode == "P":
        return np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[pixels]
    return pixels


def value_or_colour(path: Path, pixels: np.ndarray, *, alpha: bool) -> np.ndarray:
    """(H, W, channels) as one value (H, W) or a colour (H, W, 3). alpha: whether the last channel is alpha. Raises
    UserError for other numbers of channels."""
    count = pixels.shape[2] - alpha
    if count == 1:
        return pixels[..., 0]
    if count == 3 and pixels.dtype.kind == "u":
        return pixels[..., :3]
    raise UserError(f"mask {path} has {count} bands; expected one, of whole numbers, or three, of colours")


def upright_size(path: Path, reading: Reading) -> tuple[int, int]:
    """(H, W) of an image or mask, turned by its own EXIF tag where `reading` says so. Raises UserError, naming the
    file, when it cannot be read."""
    header = read_header(path, reading.max_pixels)
    height, width = header.size
    return (width, height) if reading.exif and header.orientation in SIDEWAYS else (height, width)


def lossy_format_of_image(path: Path, image: Image.Image | TiffPicture) -> str:
    """The format of an open file that changes pixels when it is saved; empty for a lossless one."""
    if isinstance(image, TiffPicture):
        return ""
    if image.format in ("JPEG", "MPO", "AVIF"):
        return "AVIF" if image.format == "AVIF" else "JPEG"
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"TIFF with {image.info['compression']} compression"
    return "lossy WebP" if image.format == "WEBP" and b"VP8L" not in path.read_bytes() else ""


def lossy_format_of_file(path: Path) -> str:
    with open_image(path, sys.maxsize) as image:
        return lossy_format_of_image(path, image)


def is_coloured(path: Path, reading: Reading) -> bool:
    """Whether a mask has three channels that are not all equal; false for a file that cannot be read."""
    try:
        if read_header(path, reading.max_pixels).mode in ("1", "L", "P"):
            return False
        pixels = read_stored_mask(path, reading)
    except UserError:
        return False
    return pixels.ndim == 3 and grey_values(pixels) is None


def lossy_mask_error(path: Path, lossy_format: str, count: str = "") -> UserError:
    """The error for a mask in a lossy format. count: how many pixels are wrong, where that is known."""
    return UserError(
        f"mask {path} is a {lossy_format}, which alters values and colours{f' ({count})' if count else ''}: save masks "
        "as PNG, or of dataset=folder name the classes in classes.txt ('VALUE: name', or 'name R G B' for colours) and "
        "set data.snap=true, which maps each pixel to the nearest class"
    )


# --- values ---------------------------------------------------------------------------------------------------------


def read_mask_values(
    path: Path,
    ignored: Sequence[float] = (),
    reading: Reading = DEFAULT_READING,
    *,
    colours: bool,
    lossy: bool,
) -> np.ndarray:
    """(H, W) values of a mask.

    With `colours` they are int32 colours. Without, they are numbers as stored, uint8 or int64, with `VOID_VALUE` for
    those `ignored` and for the file's own nodata value, unless that is 0 to 255. lossy: whether JPEG and the like are
    allowed.

    Raises UserError, naming the file, as `read_stored_mask` does, for numbers that are not whole or have more than 32
    bits, and for colours where numbers are expected.
    """
    pixels = read_stored_mask(path, reading, colours=colours, lossy=lossy)
    if colours:
        return pack_colours(path, pixels)
    values = grey_values(pixels) if pixels.ndim == 3 else pixels
    if values is None:
        raise UserError(
            f"mask {path} is coloured: colour masks are not class ids; write the id of its class into each pixel of "
            "an 8-bit single-channel PNG, or of dataset=folder give data.encoding=colours"
        )
    return values if values.dtype == np.uint8 else as_whole_numbers(path, values, [*ignored, *nodata_values(path)])


def pack_colours(path: Path, pixels: np.ndarray) -> np.ndarray:
    """(H, W) int32 of greys (H, W) or colours (H, W, 3). Raises UserError for more than 8 bits a channel."""
    if pixels.dtype != np.uint8:
        raise UserError(f"mask {path} has {pixels.dtype} values; expected colours of 8 bits a channel")
    red, green, blue = (pixels[..., channel] if pixels.ndim == 3 else pixels for channel in range(3))
    return red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue


def grey_values(colours: np.ndarray) -> np.ndarray | None:
    """(H, W, 3 or 4) to (H, W) where red, green and blue are equal everywhere; else None."""
    red, green, blue = (colours[..., channel] for channel in range(3))
    return red if np.array_equal(red, green) and np.array_equal(red, blue) else None


def as_whole_numbers(path: Path, values: np.ndarray, ignored: Sequence[float]) -> np.ndarray:
    """(H, W) numbers of any type as int64, `VOID_VALUE` where they are `ignored`. Raises UserError where others are no
    whole numbers of 32 bits."""
    void = np.isin(values, [value for value in ignored if not math.isnan(value)])
    if values.dtype.kind == "f":
        void |= np.isnan(values) & any(math.isnan(value) for value in ignored)
        wrong = ~void & (~np.isfinite(values) | (np.floor(values) != values))
    else:
        wrong = np.zeros(values.shape, bool)
    wrong |= ~void & (np.abs(values.astype(np.float64)) >= VALUE_LIMIT)
    if wrong.any():
        first = values[wrong][0]
        expected = "whole numbers of at most 32 bits, one for each class"
        raise UserError(
            f"mask {path} holds {first:g} where it should hold a class, {int(wrong.sum()):,} of {wrong.size:,} pixels "
            f"have no such value; expected {expected}{suggest_ignore([first])}"
        )
    return np.where(void, VOID_VALUE, np.where(void, 0, values).astype(np.int64))


def suggest_ignore(values: Sequence[float]) -> str:
    """The end of a message that names the setting by which `values` become void; empty where it takes none of them."""
    texts = [f"{value:.0f}" if float(value).is_integer() else str(value) for value in values]
    accepted = all(math.isnan(value) or float(value).is_integer() for value in values)
    return f"; of dataset=folder data.ignore=[{','.join(texts)}] leaves such pixels out" if accepted else ""


def nodata_values(path: Path) -> list[float]:
    """The nodata value of a TIFF's own tag, unless it can be an id; empty for other files."""
    declared = read_header(path, sys.maxsize).nodata
    return [] if declared is None or 0 <= declared <= IGNORE else [declared]


# --- values in settings and messages --------------------------------------------------------------------------------


def parse_ignored_value(text: str, kind: str) -> float:
    """An entry of `data.ignore`: a whole number, `nan`, or a colour such as #ff00ff. kind: of the encoding. Raises
    UserError for others."""
    if kind == "colours":
        if HEX_COLOUR.fullmatch(text):
            return int(text[1:], 16)
        raise ignored_value_error(text, "a colour such as '#ff00ff'", kind)
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if not (math.isnan(number) or number.is_integer()):
        raise ignored_value_error(text, "a whole number such as 7 or -1, or nan", kind)
    return int(number) if abs(number) < VALUE_LIMIT else number


def ignored_value_error(text: str, expected: str, kind: str) -> UserError:
    return UserError(f"data.ignore holds '{brief(text)}'; expected {expected}, since masks hold {kind}")


def pack_colour(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def unpack_colour(value: int) -> Colour:
    return value >> 16, value >> 8 & 255, value & 255


def hex_colour(value: int) -> str:
    return f"#{value:06x}"
