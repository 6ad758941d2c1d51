"""Decoders besides Pillow's: faster ones, and ones that keep more than 8 bits. They raise their libraries' errors."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HIGH_DEPTH_MODES = {"I;16": "16-bit", "I;16B": "16-bit", "I;16L": "16-bit", "I": "32-bit", "F": "floating-point"}
FAST_DECODERS = {"JPEG": "jpeg8_decode", "PNG": "png_decode"}  # imagecodecs' function, by Pillow's format
FULL_DEPTH_DECODERS = {
    "PNG": "png_decode",
    "JPEG2000": "jpeg2k_decode",
    "AVIF": "avif_decode",
}  # the same, for files that Pillow reduces to 8 bits a channel
JPEG_END = b"\xff\xd9"  # the last bytes of a complete JPEG
DEPTH_MARKS = {  # a mark in a file, the distance from it to the byte with the bits a channel, and its value for 8 bits
    "JPEG2000": (b"\xff\x4f\xff\x51", 42, 7),
    "AVIF": (b"pixi", 9, 8),
}
MARK_SEARCH_BYTES = 1 << 16  # bytes at the beginning of a file that are searched for the mark


def decode_eight_bits(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, channels) uint8, equal to Pillow's array. A faster decoder is used where it gives the same: imagecodecs
    takes 0.55 to 0.8 of the time for a JPEG, 0.6 to 0.65 for a PNG (benchmarks/loader.py). Raises Pillow's errors."""
    tiles = getattr(image, "tile", [])
    if image.format in FAST_DECODERS and image.mode in ("L", "RGB") and tiles and "transparency" not in image.info:
        import imagecodecs

        content = path.read_bytes()
        raw = tiles[0][3] if image.format == "PNG" else image.mode
        whole = image.format == "PNG" or content.rstrip(b"\0").endswith(
            JPEG_END
        )  # imagecodecs fills up a JPEG that is cut short
        if whole and raw == image.mode and not image.info.get("interlace"):
            with suppress(RuntimeError):  # a damaged file: Pillow names the fault
                pixels: np.ndarray = getattr(imagecodecs, FAST_DECODERS[image.format])(content)
                return pixels[:, :, None] if pixels.ndim == 2 else pixels
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array


def high_bit_depth(image: Image.Image, path: Path) -> str:
    """`16-bit`, `32-bit` or `floating-point` where the file of an image (no TIFF) has more than 8 bits a channel, else
    empty. Pillow drops the lower bits of coloured ones without a warning."""
    if image.mode in HIGH_DEPTH_MODES:
        return HIGH_DEPTH_MODES[image.mode]
    if image.format == "PNG" and ";16" in str(raw_mode(image)):
        return "16-bit"
    if image.format == "PPM" and ppm_maximum(image) > 255:
        return "16-bit"
    if image.format in DEPTH_MARKS:
        mark, distance, eight = DEPTH_MARKS[image.format]
        with open(path, "rb") as file:
            begin = file.read(MARK_SEARCH_BYTES)
        start = begin.find(mark)
        return "16-bit" if start >= 0 and (begin[start + distance] & 0x7F) > eight else ""
    return ""


def raw_mode(image: Image.Image) -> Any:
    """How the file stores its values, by the arguments of Pillow's decoder."""
    tiles = getattr(image, "tile", [])
    return tiles[0][3] if tiles else ""


def ppm_maximum(image: Image.Image) -> int:
    """The value of full brightness in a PPM."""
    mode = raw_mode(image)
    return int(mode[1]) if isinstance(mode, tuple) and len(mode) == 2 else 255


def decode_high_depth(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, channels) as stored, of a file with more than 8 bits a channel."""
    if image.mode in HIGH_DEPTH_MODES:
        return np.array(image)[:, :, None]
    if image.format == "PPM":
        decoder, _, offset, _ = getattr(image, "tile", [])[0]
        if decoder != "ppm":
            raise ValueError("16 bits written out as text; save it as PNG")
        shape = (image.height, image.width, len(image.getbands()))
        return (
            np.frombuffer(path.read_bytes(), ">u2", int(np.prod(shape)), int(offset)).reshape(shape).astype(np.uint16)
        )
    import imagecodecs

    pixels: np.ndarray = getattr(imagecodecs, FULL_DEPTH_DECODERS[str(image.format)])(path.read_bytes())
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
