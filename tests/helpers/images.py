"""Image files for tests: 8 bits through Pillow, 16 bits by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def save_image(path: Path, pixels: ArrayLike, mode: str | None = None, **options: Any) -> Path:
    """Writes `pixels`, (H, W) or (H, W, C), into `path` with Pillow, turned into `mode` if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(pixels))
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def save_png16(path: Path, pixels: np.ndarray) -> Path:
    """Writes `pixels` (H, W, 3) uint16 as a 16-bit RGB PNG, written by hand: Pillow has no such mode."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path
