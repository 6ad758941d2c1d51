"""The image of a TIFF, read by tifffile: for files that Pillow cannot read, or of which it drops a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from ssss_zoo.errors import UserError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of a file, by byte order and size of offsets
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6  # values of the tag PHOTOMETRIC
JPEG = 7  # value of the tag COMPRESSION
OTHER_COLOUR_SPACES = {5: "CMYK", 8: "L*a*b*", 9: "L*a*b*", 10: "L*a*b*"}  # values of the same tag
CAMERA_RAW = {32803: "a camera's raw mosaic", 34892: "a camera's raw values", 32844: "LogL", 32845: "LogLuv"}
SIZES_SHOWN = 4  # sizes named in a message


class TiffTag(IntEnum):
    """Tags of a TIFF that are read."""

    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    PHOTOMETRIC = 262
    DESCRIPTION = 270
    ORIENTATION = 274
    CHANNELS = 277
    SUB_FILES = 330
    FORMAT = 339
    NODATA = 42113  # GDAL's


@dataclass(frozen=True, eq=False)
class TiffPicture:
    """An open TIFF, its pixels not decoded.

    shape: (H, W, channels) as stored. alpha: whether the last channel is alpha. colours: the colour space, where it is
    neither grey nor RGB. pages: each holds one channel, where there are several. inside: the page of a mask of one bit,
    0 outside of the image; None without one. series: tifffile's array of all pages; None where they must be stacked.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    alpha: bool
    colours: str
    orientation: int
    nodata: float | None
    pages: list[Any]
    inside: Any
    series: Any


def is_tiff(path: Path) -> bool:
    """Whether a file begins like a TIFF."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in TIFF_MAGIC
    except OSError:
        return False


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffPicture]:
    """Open a TIFF. Reduced copies are left out; pages of one channel and of one size are the channels of one image.

    Raises UserError, naming the file, for several images; ValueError and others for a damaged file.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            yield read_tiff_picture(file, path)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None


def read_tiff_picture(file: Any, path: Path) -> TiffPicture:
    """The image of a `tifffile.TiffFile`. Raises UserError as `open_tiff`."""
    whole = find_whole_pages(file)
    masks = [page for page in file.pages if page.is_mask and not page.is_reduced]
    if not whole or is_camera_preview(whole[0]):
        raise UserError(f"{path} begins with a reduced copy of its picture: save the picture alone, as a plain TIFF")
    page, series = whole[0], find_series(file, whole)
    if len(whole) > 1 and (series is None or page.ndim != 2):
        check_pages_alike(path, whole)
    shape = series_shape(path, series) if series is not None else (*page.shape, len(whole))
    alpha = page.photometric in (BLACK_IS_ZERO, RGB) and bool({1, 2} & set(map(int, page.extrasamples)))
    if int(page.photometric) in CAMERA_RAW:
        raise UserError(f"{path} holds {CAMERA_RAW[int(page.photometric)]}: develop it, and save it as RGB")
    if page.photometric == WHITE_IS_ZERO and page.bitspersample > 1:
        raise white_is_zero_error(path)
    return TiffPicture(
        shape=shape,
        dtype=np.dtype(page.dtype),
        alpha=alpha,
        colours=OTHER_COLOUR_SPACES.get(int(page.photometric), ""),
        orientation=page_orientation(page),
        nodata=parse_nodata(page.tags.get(TiffTag.NODATA)),
        pages=whole,
        inside=next((mask for mask in masks if mask.shape[:2] == shape[:2]), None),
        series=series,
    )


def find_whole_pages(file: Any) -> list[Any]:
    """The pages of the image itself, without masks and reduced copies; of a scanned slide (Aperio's SVS), which does
    not mark its smaller levels, thumbnail, label and overview, the pages of the largest level."""
    if file.is_svs:
        return list(file.series[0].pages)
    return [page for page in file.pages if not page.is_reduced and not page.is_mask]


def white_is_zero_error(path: Path) -> UserError:
    """The error for a file whose values some readers invert and others do not."""
    return UserError(
        f"{path} is a TIFF whose values say that 0 is white (tag {TiffTag.PHOTOMETRIC:d}), which is read in two ways: "
        "save it with 0 as black, or as PNG"
    )


def is_camera_preview(page: Any) -> bool:
    """Whether a page is the preview of a larger image that a camera's file keeps below it."""
    return any(below.imagewidth > page.imagewidth for below in page.pages or ())


def find_series(file: Any, whole: list[Any]) -> Any:
    """The series of tifffile that holds every page; None where there is none and the pages must be stacked."""
    wanted = {page.index for page in whole}
    covers = (s for s in file.series if wanted <= {page.index for page in s.pages if page is not None})
    return next(covers, None)


def check_pages_alike(path: Path, pages: list[Any]) -> None:
    """Raise UserError unless every page is one channel of the same size and type."""
    kinds = {(page.shape, str(page.dtype)): page for page in pages}
    if len(kinds) == 1 and pages[0].ndim == 2:
        return
    sizes = ", ".join(f"{page.imagewidth}x{page.imagelength}" for page in pages[:SIZES_SHOWN])
    more = f" and {len(pages) - SIZES_SHOWN} more" if len(pages) > SIZES_SHOWN else ""
    raise UserError(
        f"{path} holds {len(pages)} pictures ({sizes}{more}), and one is expected: save the one that is meant as a "
        "file of its own (pages of one band each and of one size would be the bands of one picture)"
    )


def series_shape(path: Path, series: Any) -> tuple[int, int, int]:
    """(H, W, channels) of a series. Raises UserError for more dimensions."""
    axes, shape = series.axes, series.shape
    if len(shape) not in (2, 3) or not {"Y", "X"} <= set(axes):
        raise UserError(f"{path} holds {'x'.join(map(str, shape))} values ({axes}); expected bands of one image")
    sides = dict(zip(axes, shape, strict=True))
    bands = shape[channel_axis(axes)] if len(shape) == 3 else 1
    return sides["Y"], sides["X"], bands


def channel_axis(axes: str) -> int:
    return next(at for at, axis in enumerate(axes) if axis not in "YX")


def page_orientation(page: Any) -> int:
    tag = page.tags.get(TiffTag.ORIENTATION)
    return int(tag.value) if tag else 1


def parse_nodata(tag: Any) -> float | None:
    """The value of pixels without data by GDAL's tag; None without the tag, or where it holds no number."""
    text = getattr(tag, "value", tag)
    try:
        return float(str(text).strip("\0 ")) if text is not None else None
    except ValueError:
        return None


def read_tiff_channels(picture: TiffPicture) -> np.ndarray:
    """(H, W, channels) as stored; images of one bit become 0 and 255."""
    if picture.series is None:
        pixels = np.stack([page.asarray() for page in picture.pages], axis=2)
    else:
        pixels = picture.series.asarray()
        pixels = np.moveaxis(pixels, channel_axis(picture.series.axes), 2) if pixels.ndim == 3 else pixels[:, :, None]
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else np.ascontiguousarray(pixels)


def read_outside_mask(picture: TiffPicture) -> np.ndarray | None:
    """(H, W) bool, true outside of the image by the file's own mask; None without one."""
    return None if picture.inside is None else picture.inside.asarray() == 0
