"""What the pixels of a written mask hold: class ids, or the values or colours that the training masks held."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.deploy.trained import TrainedModel, palette_bytes
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import MaskValuesRecord
from ssss_zoo.toolkit.types import IGNORE

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_TYPE, RGB_TYPE, PALETTE_TYPE = 0, 2, 3  # colour types of a PNG
VOID_COLOURS = ((0, 0, 0), (255, 255, 255), (128, 128, 128))  # for void, the first that no class has (our choice)
UP_FILTER = 2  # number of the filter that stores differences to the row above
HIGHEST_PNG_VALUE = 65535


@dataclass(frozen=True, eq=False)
class MaskFormat:
    """How class ids are written.

    palette: see `palette_bytes`. table: by class id the value, (256,) uint8 or uint16, or the colour, (256, 3) uint8,
    that is written; None: the ids themselves, with the palette.
    """

    palette: bytes
    table: np.ndarray | None = None


def choose_mask_format(encoding: str, model: TrainedModel) -> MaskFormat:
    """The format for `encoding=ids`, or `training`: as the training masks were. Raises UserError where these are not
    known or cannot be written as PNG."""
    palette = palette_bytes(model.colours)
    if encoding == "ids":
        return MaskFormat(palette)
    record = model.mask_values
    if record is None:
        raise UserError(
            f"encoding=training: {model.source} does not say what its training masks held: it trained on polygons, or "
            "by an earlier version. Leave encoding= out; masks then hold class ids"
        )
    if record["kind"] == "ids":
        return MaskFormat(palette)
    return MaskFormat(palette, colour_table(record) if record["kind"] == "colours" else value_table(record))


def value_table(record: MaskValuesRecord) -> np.ndarray:
    """(256,) values by class id. Void is 255, or 65535 where a class has 255, unless the training masks had a value for
    it. Raises UserError for values that a PNG cannot hold."""
    values = record["values"]
    outside = [value for value in values if not 0 <= value <= HIGHEST_PNG_VALUE]
    if outside:
        raise UserError(
            f"encoding=training: the training masks hold the value {outside[0]}; a PNG holds 0 to {HIGHEST_PNG_VALUE}. "
            "Leave encoding= out; masks then hold class ids"
        )
    void = record["void"]
    if void is None or not 0 <= void <= HIGHEST_PNG_VALUE:
        void = HIGHEST_PNG_VALUE if IGNORE in values else IGNORE
    table = np.full(IGNORE + 1, void, np.uint16 if max(*values, void) > IGNORE else np.uint8)
    table[: len(values)] = values
    return table


def colour_table(record: MaskValuesRecord) -> np.ndarray:
    """(256, 3) colours by class id. Void has the colour that it had in training masks, else one of VOID_COLOURS."""
    colours = [split_colour(value) for value in record["values"]]
    unused = [colour for colour in VOID_COLOURS if colour not in colours]
    void = split_colour(record["void"]) if record["void"] is not None else unused[0]
    table = np.full((IGNORE + 1, 3), void, np.uint8)
    table[: len(colours)] = colours
    return table


def split_colour(value: int) -> Colour:
    """The colour of a number 0xRRGGBB."""
    return value >> 16 & 255, value >> 8 & 255, value & 255


# --- PNG ------------------------------------------------------------------------------------------------------------


def write_png(file: Path, size: tuple[int, int], bands: Iterable[np.ndarray], mask_format: MaskFormat) -> None:
    """Write a mask as PNG. size: (H, W). bands: class ids, (rows, W) uint8 each, from top to bottom. Raises OSError."""
    with open(file, "wb") as handle:
        writer = MaskRowWriter(handle, size, mask_format)
        for band in bands:
            writer.write_rows(band)
        writer.close()


class MaskRowWriter:
    """Writes a PNG row by row, so that the mask need not fit into memory: Pillow and imagecodecs write whole images
    alone. size: (H, W).

    Each byte is stored as its difference to the one above, and runs of equal bytes are compressed alone: on masks of
    CamVid that takes a quarter of the time of zlib's default, for files that are 3 to 7 % larger.
    """

    def __init__(self, handle: BinaryIO, size: tuple[int, int], mask_format: MaskFormat) -> None:
        self.handle = handle
        self.table = mask_format.table
        self.compressor = zlib.compressobj(strategy=zlib.Z_RLE)
        self.row_above: np.ndarray | int = 0
        handle.write(PNG_SIGNATURE)
        colour_type, depth = png_type(self.table)
        self.write_chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, colour_type, 0, 0, 0))
        if self.table is None:
            self.write_chunk(b"PLTE", mask_format.palette)

    def write_rows(self, classes: np.ndarray) -> None:
        """Append rows of class ids, (rows, W) uint8."""
        stored = classes if self.table is None else self.table[classes]
        stored = stored.astype(stored.dtype.newbyteorder(">"))  # as PNG has numbers of 16 bits
        rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(len(classes), -1)
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = UP_FILTER
        filtered[:, 1:] = rows
        filtered[0, 1:] -= self.row_above
        filtered[1:, 1:] -= rows[:-1]
        self.row_above = rows[-1]
        body = self.compressor.compress(filtered.tobytes())
        if body:
            self.write_chunk(b"IDAT", body)

    def close(self) -> None:
        self.write_chunk(b"IDAT", self.compressor.flush())
        self.write_chunk(b"IEND", b"")

    def write_chunk(self, name: bytes, body: bytes) -> None:
        self.handle.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))


def png_type(table: np.ndarray | None) -> tuple[int, int]:
    """Colour type and bits a channel."""
    if table is None:
        return PALETTE_TYPE, 8
    return (RGB_TYPE, 8) if table.ndim == 2 else (GREY_TYPE, 8 * table.itemsize)
