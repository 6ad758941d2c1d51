"""Decoders beside Pillow's: quicker ones, and ones that keep every bit. They raise as their libraries do."""

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
}  # the same, for what Pillow cuts to 8 bits
JPEG_END = b"\xff\xd9"  # of a whole JPEG
DEPTH_MARKS = {  # a mark in a file, the bytes from it to the bits of the first channel, and what 8 bits are there
    "JPEG2000": (b"\xff\x4f\xff\x51", 42, 7),
    "AVIF": (b"pixi", 9, 8),
}
MARK_SEARCH_BYTES = 1 << 16  # bytes of a file in which that lies


def decode_eight_bits(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, bands) uint8 of an image as Pillow gives it, by a quicker decoder where that gives the same (imagecodecs:
    a JPEG in 0.55 to 0.8, a PNG in 0.6 to 0.65 of the time, see benchmarks/loader.py). Raises as Pillow."""
    tiles = getattr(image, "tile", [])
    if image.format in FAST_DECODERS and image.mode in ("L", "RGB") and tiles and "transparency" not in image.info:
        import imagecodecs

        content = path.read_bytes()
        raw = tiles[0][3] if image.format == "PNG" else image.mode
        whole = image.format == "PNG" or content.rstrip(b"\0").endswith(JPEG_END)  # it fills up what a JPEG lacks
        if whole and raw == image.mode and not image.info.get("interlace"):
            with suppress(RuntimeError):  # a damaged file: Pillow says what is wrong
                pixels: np.ndarray = getattr(imagecodecs, FAST_DECODERS[image.format])(content)
                return pixels[:, :, None] if pixels.ndim == 2 else pixels
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array


def high_bit_depth(image: Image.Image, path: Path) -> str:
    """`16-bit`, `32-bit` or `floating-point` where the file behind an image, no TIFF, has more than 8 bits a channel,
    else empty; Pillow drops the lower half of a coloured one and says nothing."""
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
        place = begin.find(mark)
        return "16-bit" if place >= 0 and (begin[place + distance] & 0x7F) > eight else ""
    return ""


def raw_mode(image: Image.Image) -> Any:
    """How the file holds its values, in Pillow's words."""
    tiles = getattr(image, "tile", [])
    return tiles[0][3] if tiles else ""


def ppm_maximum(image: Image.Image) -> int:
    """The value of a PPM that is full light."""
    told = raw_mode(image)
    return int(told[1]) if isinstance(told, tuple) and len(told) == 2 else 255


def decode_high_depth(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, bands) as stored, of a file with more than 8 bits a channel."""
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
