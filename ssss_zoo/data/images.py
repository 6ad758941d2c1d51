"""One image file as an array: any depth, any number of channels, upright.

Files of 8 bits a channel come as uint8. Deeper ones (16 bits, floating point) come as float32 in [0, 255], once it is
known which values are to be 0 and 255: no bit of them is rounded away.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ssss_zoo.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TIFF = (".tif", ".tiff")
CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "CMYK": 3, "YCbCr": 3, "RGBA": 4}  # by Pillow's mode
MODES = {(1, 1): "L", (1, 3): "RGB", (3, 3): "RGB", (4, 3): "RGB", (4, 4): "RGBA"}  # (found, expected): converted to
PLAIN = {1: "L", 3: "RGB", 4: "RGBA"}  # what a mode of so many channels becomes where bands are picked
DEEP = {"I;16": "16-bit", "I;16B": "16-bit", "I;16L": "16-bit", "I": "32-bit", "F": "floating-point"}
QUICK = {"JPEG": "jpeg8_decode", "PNG": "png_decode"}  # imagecodecs' function, by Pillow's format
END = b"\xff\xd9"  # of a whole JPEG
BITS = 258  # TIFF's tag BitsPerSample
ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # EXIF
WORDS = {"uint16": 16, "int16": 16, "uint32": 32, "int32": 32, "float32": 32, "float64": 64}
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of an array (H, W, ...), by EXIF's tag
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
BROKEN = (  # what decoders raise at damaged files; imagecodecs' are RuntimeErrors
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Reading:
    """How the images of a data set become arrays. channels: how many are expected; bands: which of a file's, counted
    from 1, empty for all; low, high: the values that become 0 and 255, one for all channels or one each, empty where
    files have 8 bits a channel and stay as they are."""

    channels: int = 3
    bands: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


# --- opening --------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file, header read. Raises UserError, naming the file, when Pillow fails at it here or in the body."""
    with readable(path), Image.open(path) as image:
        yield image


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises UserError, naming the file, where its decoder fails in the body."""
    try:
        yield
    except BROKEN as error:
        raise UserError(f"cannot read {path}: {reason(path, error)}") from None


def reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def deep(path: Path) -> bool:
    """Whether a file has more than 8 bits a channel; its header is read. Raises UserError when it cannot be."""
    if many_bands(path):
        with tiff_page(path) as page:
            return bool(page.dtype != np.uint8)
    with opened(path) as image:
        return is_deep(image)


def is_deep(image: Image.Image) -> bool:
    """Whether the file behind an image has more than 8 bits a channel; Pillow drops the lower half of a coloured one
    and says nothing."""
    if image.format == "TIFF":
        return image.mode in DEEP or max(getattr(image, "tag_v2", {}).get(BITS, (8,))) > 8
    tiles = getattr(image, "tile", [])
    raw = str(tiles[0][3]) if tiles else ""
    return image.mode in DEEP or (image.format == "PNG" and ";16" in raw)


def many_bands(path: Path) -> bool:
    """Whether a file is a TIFF that Pillow cannot open: bands that are no colours. Others, and none, are not."""
    if path.suffix.lower() not in TIFF or not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        with Image.open(path) as image:
            return image.mode not in CHANNELS and image.mode not in DEEP
    except BROKEN:
        return True


# --- pixels ---------------------------------------------------------------------------------------------------------


def read_image(path: Path, reading: Reading) -> np.ndarray:
    """(H, W, channels), turned upright by its EXIF tag: uint8, or where `reading` gives a range float32 in [0, 255].

    Grey becomes RGB where 3 channels are expected, alpha is dropped. Raises UserError, naming the file, when it cannot
    be read, has another number of channels, or more than 8 bits a channel and no range.
    """
    pixels = stored_pixels(path, reading)
    if reading.low and (pixels.dtype != np.uint8 or max(reading.high) <= 255):
        return stretched(pixels, reading)
    if reading.low or pixels.dtype != np.uint8:
        found, wanted = (8, "more") if reading.low else (WORDS.get(pixels.dtype.name, pixels.dtype.name), "8")
        raise UserError(
            f"{path} is a {found}-bit image; expected {wanted} bits a channel: convert it, or of dataset=folder say "
            "which values are dark and bright in all images (data.low, data.high)"
        )
    return pixels


def stored_pixels(path: Path, reading: Reading) -> np.ndarray:
    """(H, W, channels) with the values of the file. Raises UserError as `read_image`, at any depth."""
    if many_bands(path):
        return picked(tiff_pixels(path), reading, path)
    with opened(path) as image:
        if is_deep(image):
            turn = orientation(image)
            pixels = deep_pixels(path, image)
        else:
            return eight_bits(image, reading, path)
    return picked(TURNS[turn](pixels) if turn in TURNS else pixels, reading, path)


def eight_bits(image: Image.Image, reading: Reading, path: Path) -> np.ndarray:
    """(H, W, channels) uint8 of an image that Pillow holds without loss."""
    found = CHANNELS.get(image.mode, len(image.getbands()))
    mode = PLAIN.get(found, image.mode) if reading.bands else target_mode(image, reading.channels, path)
    if image.mode == mode and orientation(image) == UPRIGHT:
        array = decoded(image, path)
        return picked(array, reading, path) if reading.bands else array
    upright = image if orientation(image) == UPRIGHT else ImageOps.exif_transpose(image)
    if upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA")  # a palette's transparent entry has a colour only this way
    array = np.array(upright if upright.mode == mode else upright.convert(mode))
    array = array[:, :, None] if array.ndim == 2 else array
    return picked(array, reading, path) if reading.bands else array


def decoded(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, bands) uint8 of an image as Pillow gives it, by a quicker decoder where that gives the same (imagecodecs:
    a JPEG in 0.55 to 0.8, a PNG in 0.6 to 0.65 of the time, see benchmarks/loader.py). Raises as Pillow."""
    tiles = getattr(image, "tile", [])
    if image.format in QUICK and image.mode in ("L", "RGB") and tiles and "transparency" not in image.info:
        import imagecodecs

        content = path.read_bytes()
        raw = tiles[0][3] if image.format == "PNG" else image.mode
        whole = image.format == "PNG" or content.rstrip(b"\0").endswith(END)  # it fills up what a JPEG lacks
        if whole and raw == image.mode and not image.info.get("interlace"):
            with suppress(RuntimeError):  # a damaged file: Pillow says what is wrong
                pixels: np.ndarray = getattr(imagecodecs, QUICK[image.format])(content)
                return pixels[:, :, None] if pixels.ndim == 2 else pixels
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array


def target_mode(image: Image.Image, channels: int, path: Path) -> str:
    """The Pillow mode that `image` is converted to. Raises UserError where none has `channels` channels."""
    found = CHANNELS.get(image.mode, len(image.getbands()))
    if (found, channels) not in MODES:
        raise wrong_channels(path, found, channels, f" ({image.mode})")
    return MODES[found, channels]


def wrong_channels(path: Path, found: int, channels: int, mode: str = "") -> UserError:
    return UserError(
        f"{path} has {found} channels{mode}; expected {channels}: take all with model.in_channels={found}, or of "
        "dataset=folder some of them, counted from 1, as data.channels=[1,2,3]"
    )


def picked(pixels: np.ndarray, reading: Reading, path: Path) -> np.ndarray:
    """The channels that are expected, of (H, W, bands): the bands asked for, all of them, or one grey one repeated."""
    found, wanted = pixels.shape[2], reading.channels
    if reading.bands:
        if max(reading.bands) > found:
            raise UserError(f"data.channels={list(reading.bands)}: {path} has {found} channels, counted from 1")
        return np.ascontiguousarray(pixels[..., [band - 1 for band in reading.bands]])
    if found not in (1, wanted) or (found == 1 and wanted not in (1, 3)):
        raise wrong_channels(path, found, wanted)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], wanted)))


def stretched(pixels: np.ndarray, reading: Reading) -> np.ndarray:
    """float32 in [0, 255]: low becomes 0, high 255, what lies beyond is cut off, and what is no number is 0."""
    low, high = np.array(reading.low, np.float32), np.array(reading.high, np.float32)
    return np.nan_to_num(np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)) * np.float32(255)


def deep_pixels(path: Path, image: Image.Image) -> np.ndarray:
    """(H, W, bands) as stored, of a file with more than 8 bits a channel; alpha beside colours is dropped."""
    if image.format == "TIFF":
        return tiff_pixels(path)
    if image.mode in DEEP:
        return np.array(image)[:, :, None]
    import imagecodecs

    with readable(path):
        pixels: np.ndarray = imagecodecs.png_decode(path.read_bytes())  # Pillow keeps 8 of 16 bits
    return pixels[..., :3]


@contextmanager
def tiff_page(path: Path) -> Iterator[Any]:
    """The first series of a TIFF, as tifffile has it. Raises UserError, naming the file, when it fails at it."""
    import tifffile

    try:
        with readable(path), tifffile.TiffFile(path) as file:
            yield file.series[0]
    except tifffile.TiffFileError as error:
        raise UserError(f"cannot read {path}: {reason(path, error)}") from None


def tiff_pixels(path: Path) -> np.ndarray:
    """(H, W, bands) as stored; bands may be samples, planes or pages. Raises UserError for more dimensions."""
    with tiff_page(path) as series:
        axes, pixels = series.axes, series.asarray()
    if pixels.ndim not in (2, 3) or not {"Y", "X"} <= set(axes):
        raise UserError(f"{path} holds {'x'.join(map(str, pixels.shape))} values ({axes}); expected bands of one image")
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels)[:, :, None]
    return np.ascontiguousarray(np.moveaxis(pixels, next(at for at in (0, 1, 2) if axes[at] not in "YX"), 2))


# --- header ---------------------------------------------------------------------------------------------------------


def orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 to 8; read from the header alone (Pillow would decode a whole PNG to look for it)."""
    if image.format == "PNG" and "exif" not in image.info:
        return UPRIGHT
    return int(image.getexif().get(ORIENTATION, UPRIGHT))


def image_size(path: Path, reading: Reading) -> tuple[int, int]:
    """(H, W) as `read_image` will give it, from the header alone where possible. Raises UserError as that does."""
    if many_bands(path):
        height, width = stored_pixels(path, reading).shape[:2]
        return height, width
    with opened(path) as image:
        if is_deep(image) and not reading.low:
            read_image(path, reading)
        if not is_deep(image) and not reading.bands:
            target_mode(image, reading.channels, path)
        turned = orientation(image) in SIDEWAYS
        if turned and image.format == "TIFF" and not is_deep(image):
            image.load()  # Pillow turns a TIFF itself, some versions only now
            turned = False
        width, height = image.size
        return (width, height) if turned else (height, width)
