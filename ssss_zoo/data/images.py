"""One image file as an array: any depth, any number of channels, upright.

Files of 8 bits a channel come as uint8. Deeper ones (16 bits, floating point) come as float32 in [0, 255], once it is
known which values are to be 0 and 255: no bit of them is rounded away. What a file holds besides is refused or told of:
nothing of it is dropped in silence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.decoders import (
    HIGH_DEPTH_MODES,
    decode_eight_bits,
    decode_high_depth,
    high_bit_depth,
    raw_mode,
)
from ssss_zoo.data.tiff import (
    NODATA,
    TiffPicture,
    is_tiff,
    open_tiff,
    parse_nodata,
    read_outside_mask,
    read_tiff_channels,
)
from ssss_zoo.errors import UserError

IMAGE_SUFFIXES = (  # of the files that are read, in upper or lower case
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".avif", ".tga"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_PIXELS = 180_000_000  # of a file that is read, see `data.max_pixels` (our choice: what Pillow refuses above, about)
MODE_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3} | dict.fromkeys(
    HIGH_DEPTH_MODES, 1
)  # by Pillow's mode: how many channels there are beside alpha
MODE_OF_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by the number of channels, alpha among them
ALPHA_MODES = ("LA", "PA", "RGBA")
WIDTH, LENGTH, BITS, DESCRIPTION, SAMPLES, BELOW, FORMAT = 256, 257, 258, 270, 277, 330, 339  # a TIFF's tags
ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # EXIF
INVERSE_ORIENTATION = {6: 8, 8: 6}  # the turn that takes another back, where it is not the same
ORIENTATION_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of an array (H, W, ...), by EXIF's tag
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
DECODER_ERRORS = (  # what decoders raise at damaged files; imagecodecs' are RuntimeErrors
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
)
Image.MAX_IMAGE_PIXELS = None  # a warning at half of the size that is refused, and no setting: `max_pixels` is ours


@dataclass(frozen=True)
class Reading:
    """How the images of a data set become arrays.

    channels: how many are expected. bands: which of a file's, counted from 1, empty for all. low, high: the values that
    become 0 and 255, one for all channels or one each, empty where files have 8 bits a channel and stay as they are.
    mixed: whether they are of the deeper files, and those of 8 bits stay as they are. nodata: values of pixels without
    data. tags: whether a TIFF's own tag says further ones. gaps: whether there may be such pixels at all. exif: whether
    files are turned as their EXIF tag says. max_pixels: of a file at most.
    """

    channels: int = 3
    bands: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mixed: bool = False
    nodata: tuple[float, ...] = ()
    tags: bool = False
    gaps: bool = False
    exif: bool = True
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Header:
    """What a file says of its picture before a pixel is decoded.

    size: (H, W) as stored; mode: Pillow's, empty where tifffile reads the file; channels: alpha among them; depth: such
    as `16-bit`, empty for 8 bits a channel; orientation: EXIF's, 1 to 8; colours: what channels are, where they are
    neither grey nor RGB and stay so; pages: of a TIFF, one for each channel; further: pictures of a JPEG beside the
    first; nodata: the value of pixels without data by GDAL's tag; masked: whether a page says where there is data.
    """

    size: tuple[int, int]
    mode: str
    channels: int
    alpha: bool = False
    depth: str = ""
    orientation: int = UPRIGHT
    colours: str = ""
    pages: int = 1
    further: int = 0
    nodata: float | None = None
    masked: bool = False


# --- opening --------------------------------------------------------------------------------------------------------


@contextmanager
def open_with_pillow(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The file, header read. Raises UserError, naming the file, when Pillow fails at it here or in the body, where it
    has more pixels, and where it is an animation."""
    with translate_decoder_errors(path), open_unmapped(path) as image:
        check_pixel_count(path, (image.height, image.width), max_pixels)
        check_not_animated(image, path)
        yield image


@contextmanager
def open_image(path: Path, max_pixels: int) -> Iterator[Image.Image | TiffPicture]:
    """The file as Pillow has it, or as tifffile, where Pillow would fail at a TIFF or drop some of it. Raises as
    `opened`."""
    with translate_decoder_errors(path):
        try:
            image = open_unmapped(path)
        except DECODER_ERRORS:
            if not is_tiff(path):
                raise
        else:
            with image:
                if image.format != "TIFF" or pillow_reads_all(image):
                    check_pixel_count(path, (image.height, image.width), max_pixels)
                    check_not_animated(image, path)
                    yield image
                    return
        with open_tiff(path) as found:
            check_pixel_count(path, found.shape[:2], max_pixels)
            yield found


def open_unmapped(path: Path) -> Image.Image:
    """The file as Pillow opens it. It turns a TIFF upright by its tag, but not one that it maps into memory, which it
    does where it knows a file's name: so it gets none of a TIFF."""
    image = Image.open(path)
    if image.format == "TIFF":
        image.filename = ""
    return image


@contextmanager
def translate_decoder_errors(path: Path) -> Iterator[None]:
    """Raises UserError, naming the file, where its decoder fails in the body."""
    try:
        yield
    except DECODER_ERRORS as error:
        raise UserError(f"cannot read {path}: {decoder_error_text(path, error)}") from None


def decoder_error_text(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def check_pixel_count(path: Path, size: tuple[int, int], most: int) -> None:
    """Raise UserError for a picture (H, W) of more than `most` pixels."""
    if size[0] * size[1] > most:
        raise UserError(
            f"{path} is {size[1]}x{size[0]}, {size[0] * size[1]:,} pixels, more than data.max_pixels={most} lets in: "
            "cut it into tiles, its mask with it, or raise data.max_pixels where memory is enough"
        )


def check_not_animated(image: Image.Image, path: Path) -> None:
    """Raise UserError for an animation. Pages of a TIFF may be bands, a JPEG's further pictures hang on its first."""
    if image.format not in ("TIFF", "MPO") and getattr(image, "is_animated", False):
        raise UserError(
            f"{path} is an animation of {getattr(image, 'n_frames', 'several')} frames ({image.format}): save the one "
            "that is meant as a file of its own"
        )


# --- header ---------------------------------------------------------------------------------------------------------


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """What a file says of its picture. Raises UserError, naming the file, when it cannot be read."""
    with open_image(path, max_pixels) as held:
        return header_of_image(held, path)


def header_of_image(held: Image.Image | TiffPicture, path: Path) -> Header:
    """The header of a file that `source` holds. Raises UserError for colours that do not become RGB."""
    if isinstance(held, TiffPicture):
        return header_of_tiff(held)
    if held.mode not in MODE_CHANNELS:
        raise UserError(f"{path} holds colours that are not read (Pillow's mode {held.mode}): save it as RGB")
    depth = high_bit_depth(held, path)
    mode = "LA" if raw_mode(held) == "LA;16B" else held.mode  # Pillow makes four channels of it
    alpha = mode in ALPHA_MODES or (not depth and "transparency" in held.info)
    return Header(
        size=(held.height, held.width) if held.format != "TIFF" else (held.tag_v2[LENGTH], held.tag_v2[WIDTH]),  # type: ignore[attr-defined]
        mode=mode,
        channels=MODE_CHANNELS[mode] + alpha,
        alpha=alpha,
        depth=depth,
        orientation=exif_orientation(held),
        further=getattr(held, "n_frames", 1) - 1 if held.format == "MPO" else 0,
        nodata=parse_nodata(held.tag_v2.get(NODATA)) if held.format == "TIFF" else None,  # type: ignore[attr-defined]
    )


def header_of_tiff(held: TiffPicture) -> Header:
    """The header of a file that tifffile reads."""
    name = held.dtype.name
    words = {"float": "floating-point", "int": f"signed {name[3:]}-bit", "uint": f"{name[4:]}-bit"}
    return Header(
        size=held.shape[:2],
        mode="",
        channels=held.shape[2],
        alpha=held.alpha,
        depth="" if name in ("uint8", "bool") else words.get(name.rstrip("0123456789"), name),
        orientation=held.orientation,
        colours=held.colours,
        pages=len(held.pages),
        nodata=held.nodata,
        masked=held.inside is not None,
    )


def pillow_reads_all(image: Image.Image) -> bool:
    """Whether Pillow holds all of a TIFF: one page, 8 bits a channel at most, and no sample that its mode has not."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    described = str(tags.get(DESCRIPTION, ""))
    return (
        not tags.next
        and BELOW not in tags  # ImageJ keeps many pages behind the entry of one:
        and not (described.startswith("ImageJ=") and "images=" in described)
        and image.mode in MODE_CHANNELS
        and image.mode not in HIGH_DEPTH_MODES
        and max(tags.get(BITS, (8,))) <= 8
        and set(tags.get(FORMAT, (1,))) <= {1, 4}
        and tags.get(SAMPLES, 1) <= len(image.getbands())
    )


def exif_orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 to 8; read from the header alone (Pillow would decode a whole PNG to look for it)."""
    if image.format == "PNG" and "exif" not in image.info:
        return UPRIGHT
    return int(image.getexif().get(ORIENTATION, UPRIGHT))


def check_channel_count(found: Header, reading: Reading, path: Path) -> None:
    """Raise UserError where a file has other channels than are expected."""
    if reading.bands:
        if max(reading.bands) > found.channels:
            raise UserError(
                f"data.channels={list(reading.bands)}: {path} has {describe_channels(found)}, counted from 1"
            )
    elif found.colours:
        raise UserError(
            f"{path} holds {found.colours} colours, which are not taken for RGB: save it as RGB, or take its channels "
            f"as they are (data.channels={list(range(1, found.channels + 1))})"
        )
    elif channels_to_read(found, reading.channels) is None:
        more = found.channels if found.channels > 1 else 3
        raise UserError(
            f"{path} has {describe_channels(found)}; expected {reading.channels}: take all with "
            f"model.in_channels={more}, or of dataset=folder some of them, counted from 1, as data.channels=[1,2,3]"
        )


def check_bit_depth(depth: str, reading: Reading, path: Path) -> None:
    """Raise UserError where a file has more bits a channel than are expected, or fewer. depth: as in `Header`."""
    if depth and not reading.low:
        raise UserError(
            f"{path} is a {depth} image; expected 8 bits a channel: convert it, or of dataset=folder say which values "
            "are dark and bright in images of more bits (data.low and data.high, 0 and 65535 where all of 16 bits "
            "count); those of 8 bits then stay as they are"
        )
    if reading.low and not depth and not reading.mixed and max(reading.high) > 255:
        low, high = (f"[{','.join(f'{value:g}' for value in ends)}]" for ends in (reading.low, reading.high))
        raise UserError(
            f"{path} is an 8-bit image, and most have more bits a channel: convert it, or confirm what is dark and "
            f"bright in those, data.low={low} data.high={high} or better values; those of 8 bits then stay as they are"
        )


def describe_channels(found: Header) -> str:
    mode = f" ({found.mode})" if found.mode else f", one in each of its {found.pages} pages" if found.pages > 1 else ""
    return f"{found.channels} channel{'s' if found.channels > 1 else ''}{mode}"


def channels_to_read(found: Header, wanted: int) -> int | None:
    """How many channels are read for `wanted` ones: all, those beside alpha, or a single grey one; None where they do
    not fit."""
    beside = found.channels - found.alpha
    if wanted == found.channels:
        return wanted
    return beside if wanted == beside or (beside == 1 and wanted == 3) else None


def image_size(path: Path, reading: Reading) -> tuple[int, int]:
    """(H, W) as `read_image` will give it, from the header alone. Raises UserError as that does, damage apart."""
    found = read_header(path, reading.max_pixels)
    check_channel_count(found, reading, path)
    check_bit_depth(found.depth, reading, path)
    height, width = found.size
    return (width, height) if reading.exif and found.orientation in SIDEWAYS else (height, width)


# --- pixels ---------------------------------------------------------------------------------------------------------


def read_image(path: Path, reading: Reading) -> np.ndarray:
    """(H, W, channels), turned upright by its EXIF tag: uint8, or where `reading` gives a range float32 in [0, 255].

    Grey becomes RGB where 3 channels are expected, alpha is left out unless it is one of those expected, pixels without
    data are 0. Raises UserError, naming the file, when it cannot be read, has another number of channels, or more than
    8 bits a channel and no range.
    """
    pixels, missing = read_stored_values(path, reading)
    if bool(reading.low) != (pixels.dtype != np.uint8):
        check_bit_depth(read_header(path, reading.max_pixels).depth, reading, path)
    if reading.low and (pixels.dtype != np.uint8 or not reading.mixed):
        pixels = stretch_range(pixels, reading)
    elif reading.low:
        pixels = pixels.astype(np.float32)
    if missing is not None:
        pixels = np.where(missing[..., None], pixels.dtype.type(0), pixels)
    return pixels


def read_valid(path: Path, reading: Reading) -> np.ndarray | None:
    """(H, W) bool, false where an image has no data; None where it has data everywhere. Raises as `read_image`."""
    if not reading.gaps:
        return None
    missing = read_stored_values(path, reading)[1]
    return None if missing is None or not missing.any() else ~missing


def read_stored_values(path: Path, reading: Reading) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, channels) values of the file, uint8, or floating-point ones of a deeper file, NaN without data; and
    (H, W) bool, where no channel has data, None where nothing says so. Raises UserError as `read_image`."""
    with open_image(path, reading.max_pixels) as held:
        found = header_of_image(held, path)
        check_channel_count(found, reading, path)
        pixels, outside = read_channels(held, found, reading, path)
    turn = found.orientation if reading.exif else UPRIGHT
    if turn in ORIENTATION_TURNS:
        pixels = np.ascontiguousarray(ORIENTATION_TURNS[turn](pixels))
        outside = ORIENTATION_TURNS[turn](outside) if outside is not None else None
    values = reading.nodata
    if reading.tags and found.nodata is not None:
        values = (*values, found.nodata)
    return find_missing_data(pixels, values, outside)


def read_channels(
    held: Image.Image | TiffPicture, found: Header, reading: Reading, path: Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, channels) as stored, and where the file's own mask says that there is no picture, (H, W) bool or None."""
    count = found.channels if reading.bands else channels_to_read(found, reading.channels) or found.channels
    outside = None
    if isinstance(held, TiffPicture):
        pixels, outside = read_tiff_channels(held), read_outside_mask(held)
    elif found.depth:
        pixels = decode_high_depth(held, path)
    else:
        pixels = read_eight_bits(held, MODE_OF_CHANNELS[count], path)
        if held.format == "TIFF" and found.orientation in ORIENTATION_TURNS:  # Pillow has turned it
            pixels = ORIENTATION_TURNS[INVERSE_ORIENTATION.get(found.orientation, found.orientation)](pixels)
    if reading.bands:
        return np.ascontiguousarray(pixels[..., [band - 1 for band in reading.bands]]), outside
    if pixels.shape[2] > count:
        pixels = pixels[..., :count]
    if count == reading.channels:
        return np.ascontiguousarray(pixels), outside
    return np.repeat(pixels, reading.channels, axis=2), outside


def read_eight_bits(image: Image.Image, mode: str, path: Path) -> np.ndarray:
    """(H, W, bands) uint8 of an image that Pillow holds without loss, in one of MODES."""
    if image.mode == mode:
        return decode_eight_bits(image, path)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette's transparent entry has a colour only this way
    array = np.array(image if image.mode == mode else image.convert(mode))
    return array[:, :, None] if array.ndim == 2 else array


def find_missing_data(
    pixels: np.ndarray, values: tuple[float, ...], outside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (H, W, channels), those of more than 8 bits as floating-point numbers, NaN without data; and where no
    channel has data, (H, W) bool, None where nothing says so. values: of a channel without data."""
    eight = pixels.dtype == np.uint8
    if eight and not values and outside is None:
        return pixels, None
    exact = eight or pixels.dtype.name in ("int8", "int16", "uint16", "float16", "float32")
    floats = pixels.astype(np.float32 if exact else np.float64)
    gaps = ~np.isfinite(floats)
    with np.errstate(over="ignore"):
        for value in values:
            gaps |= floats == floats.dtype.type(value)
    if outside is not None:
        gaps |= outside[..., None]
    missing = gaps.all(axis=2)
    if not eight:
        floats[gaps] = np.nan
    return (pixels if eight else floats), (missing if missing.any() else None)


def stretch_range(pixels: np.ndarray, reading: Reading) -> np.ndarray:
    """float32 in [0, 255]: low becomes 0, high 255, what lies beyond is cut off, and what is no number is 0."""
    kind = pixels.dtype if pixels.dtype.kind == "f" else np.float32
    low, high = np.array(reading.low, kind), np.array(reading.high, kind)
    shares = np.clip((pixels.astype(kind) - low) / (high - low), 0, 1)
    return np.nan_to_num(shares).astype(np.float32) * np.float32(255)
