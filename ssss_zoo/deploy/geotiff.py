"""Masks as GeoTIFF: the georeference of an image is copied to its mask, tag by tag, whatever projection it names."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.data.tiff import TiffTag
from ssss_zoo.deploy.mask_format import MaskFormat
from ssss_zoo.toolkit.types import IGNORE

# OGC GeoTIFF 1.1, section 7: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams,
# GeoAsciiParams
GEOREFERENCE_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
TEXT_TYPE = 2  # of a tag
STRIP_ROWS = 64
CLASSIC_TIFF_BYTES = 2**32 - 2**25  # of a mask that a TIFF with offsets of 32 bits holds for certain
Georeference = tuple[
    tuple[int, int, int, Any, bool], ...
]  # tags as tifffile takes them: code, type, count, value, once


def read_georeference(path: Path) -> Georeference:
    """The tags of a TIFF that place it on the earth; none where it has none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            tags = file.pages.first.tags
            found = [tags[code] for code in GEOREFERENCE_TAGS if code in tags]
            return tuple((tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found)
    except Exception:  # a damaged file fails in many ways, and its reader tells of it
        return ()


def write_geotiff(
    file: Path, size: tuple[int, int], bands: Iterable[np.ndarray], mask_format: MaskFormat,
    georeference: Georeference,
) -> None:  # fmt: skip
    """Write a mask as a compressed GeoTIFF that names the value of void as `no data`. size: (H, W). bands: class ids,
    (rows, W) uint8 each, from top to bottom. Raises OSError."""
    import tifffile

    table = np.arange(IGNORE + 1, dtype=np.uint8) if mask_format.table is None else mask_format.table
    shape = (*size, *table.shape[1:])
    tags = georeference
    if table.ndim == 1:
        text = str(table[IGNORE])
        tags = (*georeference, (int(TiffTag.NODATA), TEXT_TYPE, len(text) + 1, text, True))
    options: dict[str, Any] = {"photometric": "rgb" if table.ndim == 2 else "minisblack"}
    if mask_format.table is None:
        palette = np.frombuffer(mask_format.palette, np.uint8).reshape(256, 3)
        options = {"photometric": "palette", "colormap": palette.T.astype(np.uint16) * 257}
    large = int(np.prod(shape)) * table.itemsize > CLASSIC_TIFF_BYTES
    with tifffile.TiffWriter(file, bigtiff=large, byteorder="<") as writer:
        strips = (
            zlib.compress(table[strip].astype(table.dtype.newbyteorder("<")).tobytes()) for strip in strips_of(bands)
        )
        writer.write(
            strips, shape=shape, dtype=table.dtype, rowsperstrip=STRIP_ROWS, compression="zlib", metadata=None,
            extratags=tags, **options,
        )  # fmt: skip


def strips_of(bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in strips of STRIP_ROWS; the last one may be shorter."""
    waiting: np.ndarray | None = None
    for band in bands:
        rows = band if waiting is None else np.concatenate([waiting, band])
        whole = len(rows) - len(rows) % STRIP_ROWS
        yield from (rows[top : top + STRIP_ROWS] for top in range(0, whole, STRIP_ROWS))
        waiting = rows[whole:]
    if waiting is not None and len(waiting):
        yield waiting
