"""Rows of a large TIFF, decoded strip by strip or tile by tile, so that the image need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.data.images import (
    UPRIGHT,
    Header,
    Reading,
    channels_to_read,
    find_missing_data,
    header_of_image,
    scale_stored_values,
    select_channels,
    translate_decoder_errors,
)
from ssss_zoo.data.tiff import BLACK_IS_ZERO, JPEG, RGB, YCBCR, open_tiff
from ssss_zoo.deploy.image_sources import check_like_training
from ssss_zoo.errors import UserError

WINDOWED_PIXELS = 16_000_000  # from this size on a TIFF is read in windows (our choice)
NO_LIMIT = 10**12  # pixels
CONTIGUOUS = 1  # value of the tag PLANARCONFIG: the channels of a pixel stand together


class UnreadableImage(UserError):
    """A file that cannot be read; other files still can."""


@dataclass(frozen=True, eq=False)
class TiffWindows:
    """An open TIFF that is read by rows. path: its file. size: (H, W). page: tifffile's; reading: how its
    values become pixels."""

    path: Path
    size: tuple[int, int]
    page: Any
    header: Header
    reading: Reading

    def read_rows(self, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows [top, bottom) as `read_image` returns them, (rows, W, channels); and (rows, W) bool, true where the
        image has no data, None where it has data everywhere. Raises UnreadableImage."""
        reading = self.reading
        count = self.header.channels if reading.bands else channels_to_read(self.header, reading.channels)
        try:
            with translate_decoder_errors(self.path):
                stored = self.stored_rows(top, bottom)
        except UserError as error:
            raise UnreadableImage(str(error)) from None
        pixels = select_channels(stored, count or self.header.channels, reading)
        values = reading.nodata
        if reading.tags and self.header.nodata is not None:
            values = (*values, self.header.nodata)
        pixels, missing = find_missing_data(pixels, values, None)
        return scale_stored_values(pixels, missing, reading), missing if reading.gaps else None

    def stored_rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows [top, bottom) as stored, (rows, W, channels)."""
        page = self.page
        rows = np.zeros((bottom - top, self.size[1], self.header.channels), page.dtype)
        high = page.tilelength if page.is_tiled else page.rowsperstrip
        across = -(-self.size[1] // page.tilewidth) if page.is_tiled else 1
        last = min(-(-bottom // high) * across, len(page.dataoffsets))
        for number in range(top // high * across, last):
            page.parent.filehandle.seek(page.dataoffsets[number])
            data = page.parent.filehandle.read(page.databytecounts[number])
            segment, place, shape = page.decode(data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
            if segment is None:
                continue  # a tile that the file leaves out is 0
            row, column = place[2], place[3]
            first, end = max(row, top), min(row + shape[1], bottom)
            wide = min(shape[2], self.size[1] - column)  # a tile at the border reaches beyond it
            part = segment[0, first - row : end - row, :wide]
            rows[first - top : end - top, column : column + wide] = part
        return rows


@contextmanager
def open_tiff_windows(path: Path, reading: Reading) -> Iterator[TiffWindows | None]:
    """Open a large TIFF to read it by rows; None where the file is small, or is stored in a way that is not read by
    rows. Raises UserError, naming the file, for other channels or another depth than the run's images."""
    with ExitStack() as stack:
        with translate_decoder_errors(path):
            held = stack.enter_context(open_tiff(path))
            header = header_of_image(held, path)
        page = held.pages[0]
        readable = (
            len(held.pages) == 1
            and held.inside is None
            and (header.orientation == UPRIGHT or not reading.exif)
            and page.planarconfig == CONTIGUOUS
            and (page.photometric in (BLACK_IS_ZERO, RGB) or (page.photometric, page.compression) == (YCBCR, JPEG))
            and page.dtype != bool
            and page.imagedepth == 1
        )
        if not readable or header.size[0] * header.size[1] < WINDOWED_PIXELS:
            yield None
            return
        check_like_training(header, reading, path)
        yield TiffWindows(path, header.size, page, header, replace(reading, max_pixels=NO_LIMIT))
