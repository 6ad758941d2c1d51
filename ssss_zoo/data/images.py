"""One image file as an array: any depth, any number of channels, upright.

Files with 8 bits a channel become uint8. Files with more (16 bits, floating point) become float32 in [0, 255], given
the values that are to be 0 and 255, so that no bit is rounded away. Any other content of a file is refused or reported;
none is dropped in silence.
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
    TiffPicture,
    TiffTag,
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
MAX_PIXELS = 180_000_000  # default of `data.max_pixels` (our choice: about where Pillow refuses an image)
MODE_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3} | dict.fromkeys(
    HIGH_DEPTH_MODES, 1
)  # number of channels without alpha, by Pillow's mode
MODE_OF_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's mode by the number of channels, alpha included
ALPHA_MODES = ("LA", "PA", "RGBA")
EXIF_ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = 1  # its value for an image that needs no turn
SIDEWAYS = (5, 6, 7, 8)  # its values that swap height and width
INVERSE_ORIENTATION = {6: 8, 8: 6}  # the orientation that undoes another one; the others undo themselves
ORIENTATION_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of an array (H, W, ...), by EXIF's orientation
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
DECODER_ERRORS = (  # raised for damaged files; imagecodecs' errors are RuntimeErrors
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
Image.MAX_IMAGE_PIXELS = None  # no warning and no limit of Pillow's: `max_pixels` is ours


@dataclass(frozen=True)
class Reading:
    """How the images of a data set become arrays.

    channels: of the arrays. bands: the channels of a file that are read, counted from 1; empty for all. low, high: the
    values that become 0 and 255, one for all channels or one each; empty where files have 8 bits a channel and stay as
    they are. mixed: whether only files with more than 8 bits have that range, and the others stay as they are.
    nodata: values of pixels without data. tags: whether a TIFF's tag may give another such value. gaps: whether there
    may be pixels without data. exif: whether images are turned by EXIF's orientation. max_pixels: the limit for a file.
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
    """The properties of an image file that are known before its pixels are decoded.

    size: (H, W) as stored. mode: Pillow's, empty where tifffile reads the file. channels: alpha included. depth: such
    as `16-bit`, empty for 8 bits a channel. orientation: EXIF's, 1 to 8. colours: the colour space, where it is neither
    grey nor RGB and is not converted. pages: of a TIFF with one channel a page. further: the number of further images
    in a JPEG. nodata: the value of pixels without data, by GDAL's tag. masked: whether a page of the file marks the
    pixels with data.
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
    """Open a file with Pillow and read its header. Raises UserError, naming the file, when Pillow fails here or in the
    body of the `with` statement, for more than `max_pixels`, and for an animation."""
    with translate_decoder_errors(path), open_unmapped(path) as image:
        check_pixel_count(path, (image.height, image.width), max_pixels)
        check_not_animated(image, path)
        yield image


@contextmanager
def open_image(path: Path, max_pixels: int) -> Iterator[Image.Image | TiffPicture]:
    """Open a file with Pillow; or with tifffile, where Pillow would fail at a TIFF or drop a part of it. Raises as
    `open_with_pillow`."""
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
    """Open a file with Pillow, a TIFF without its name. Pillow turns a TIFF upright, except one that it maps into
    memory, which needs the name; without it, every TIFF is turned."""
    image = Image.open(path)
    if image.format == "TIFF":
        image.filename = ""
    return image


@contextmanager
def translate_decoder_errors(path: Path) -> Iterator[None]:
    """Raise UserError, naming the file, where its decoder fails in the body of the `with` statement."""
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
    """Raise UserError for an image of more than `most` pixels. size: (H, W)."""
    if size[0] * size[1] > most:
        raise UserError(
            f"{path} is {size[1]}x{size[0]}, {size[0] * size[1]:,} pixels, more than data.max_pixels={most} lets in: "
            "cut it into tiles, its mask with it, or raise data.max_pixels where memory is enough"
        )


def check_not_animated(image: Image.Image, path: Path) -> None:
    """Raise UserError for an animation. The pages of a TIFF may be channels, and a JPEG may hold previews of itself."""
    if image.format not in ("TIFF", "MPO") and getattr(image, "is_animated", False):
        raise UserError(
            f"{path} is an animation of {getattr(image, 'n_frames', 'several')} frames ({image.format}): save the one "
            "that you want as a file of its own"
        )


# --- header ---------------------------------------------------------------------------------------------------------


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of an image file. Raises UserError, naming the file, when it cannot be read."""
    with open_image(path, max_pixels) as held:
        return header_of_image(held, path)


def header_of_image(held: Image.Image | TiffPicture, path: Path) -> Header:
    """The header of a file that `open_image` opened. Raises UserError for colours that cannot become RGB."""
    if isinstance(held, TiffPicture):
        return header_of_tiff(held)
    if held.mode not in MODE_CHANNELS:
        raise UserError(f"{path} holds colours that are not read (Pillow's mode {held.mode}): save it as RGB")
    depth = high_bit_depth(held, path)
    mode = "LA" if raw_mode(held) == "LA;16B" else held.mode  # Pillow converts it to four channels
    alpha = mode in ALPHA_MODES or (not depth and "transparency" in held.info)
    return Header(
        size=(held.height, held.width)
        if held.format != "TIFF"
        else (held.tag_v2[TiffTag.HEIGHT], held.tag_v2[TiffTag.WIDTH]),  # type: ignore[attr-defined]
        mode=mode,
        channels=MODE_CHANNELS[mode] + alpha,
        alpha=alpha,
        depth=depth,
        orientation=exif_orientation(held),
        further=getattr(held, "n_frames", 1) - 1 if held.format == "MPO" else 0,
        nodata=parse_nodata(held.tag_v2.get(TiffTag.NODATA)) if held.format == "TIFF" else None,  # type: ignore[attr-defined]
    )


def header_of_tiff(held: TiffPicture) -> Header:
    """The header of a file that tifffile reads."""
    name = held.dtype.name
    kinds = {"float": "floating-point", "int": f"signed {name[3:]}-bit", "uint": f"{name[4:]}-bit"}
    return Header(
        size=held.shape[:2],
        mode="",
        channels=held.shape[2],
        alpha=held.alpha,
        depth="" if name in ("uint8", "bool") else kinds.get(name.rstrip("0123456789"), name),
        orientation=held.orientation,
        colours=held.colours,
        pages=len(held.pages),
        nodata=held.nodata,
        masked=held.inside is not None,
    )


def pillow_reads_all(image: Image.Image) -> bool:
    """Whether Pillow reads all of a TIFF: it has one page, at most 8 bits a channel, and no channel beyond Pillow's
    mode."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    described = str(tags.get(TiffTag.DESCRIPTION, ""))
    return (
        not tags.next
        and TiffTag.SUB_FILES not in tags  # ImageJ hides further pages behind the entry of one:
        and not (described.startswith("ImageJ=") and "images=" in described)
        and image.mode in MODE_CHANNELS
        and image.mode not in HIGH_DEPTH_MODES
        and max(tags.get(TiffTag.BITS, (8,))) <= 8
        and set(tags.get(TiffTag.FORMAT, (1,))) <= {1, 4}
        and tags.get(TiffTag.CHANNELS, 1) <= len(image.getbands())
    )


def exif_orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8, from the header alone: Pillow would decode a whole PNG to find it."""
    if image.format == "PNG" and "exif" not in image.info:
        return UPRIGHT
    return int(image.getexif().get(EXIF_ORIENTATION, UPRIGHT))


def check_channel_count(found: Header, reading: Reading, path: Path) -> None:
    """Raise UserError where a file does not have the expected channels."""
    if reading.bands:
        if max(reading.bands) > found.channels:
            raise UserError(
                f"data.channels={list(reading.bands)}: {path} has {describe_channels(found)}, counted from 1"
            )
    elif found.colours:
        raise UserError(
            f"{path} holds {found.colours} colours, which are not read as RGB: save it as RGB, or use its channels "
            f"unchanged (data.channels={list(range(1, found.channels + 1))})"
        )
    elif channels_to_read(found, reading.channels) is None:
        more = found.channels if found.channels > 1 else 3
        raise UserError(
            f"{path} has {describe_channels(found)}; expected {reading.channels}: take all with "
            f"model.in_channels={more}, or of dataset=folder some of them, counted from 1, as data.channels=[1,2,3]"
        )


def is_deeper(depth: str, reading: Reading) -> bool:
    """Whether a file has more bits a channel than expected. depth: as in `Header`."""
    return bool(depth) and not reading.low


def is_shallower(depth: str, reading: Reading) -> bool:
    """Whether a file has 8 bits a channel where more are expected. depth: as in `Header`."""
    return bool(reading.low) and not depth and not reading.mixed and max(reading.high) > 255


def check_bit_depth(depth: str, reading: Reading, path: Path) -> None:
    """Raise UserError where a file has more bits a channel than expected, or fewer. depth: as in `Header`."""
    if is_deeper(depth, reading):
        raise UserError(
            f"{path} is a {depth} image; expected 8 bits a channel: convert it, or with dataset=folder give the values "
            "that become black and white (data.low and data.high, 0 and 65535 for the whole range of 16 bits); 8-bit "
            "images are not changed by them"
        )
    if is_shallower(depth, reading):
        low, high = (f"[{','.join(f'{value:g}' for value in ends)}]" for ends in (reading.low, reading.high))
        raise UserError(
            f"{path} is an 8-bit image, and most images have more bits a channel: convert it, or confirm the values "
            f"that become black and white in those, data.low={low} data.high={high} or better ones; 8-bit images are "
            "not changed by them"
        )


def describe_channels(found: Header) -> str:
    mode = f" ({found.mode})" if found.mode else f", one in each of its {found.pages} pages" if found.pages > 1 else ""
    return f"{found.channels} channel{'s' if found.channels > 1 else ''}{mode}"


def channels_to_read(found: Header, wanted: int) -> int | None:
    """The number of channels to read from a file for `wanted` ones: all, those without alpha, or a single grey one;
    None where none of that fits."""
    without_alpha = found.channels - found.alpha
    if wanted == found.channels:
        return wanted
    return without_alpha if wanted == without_alpha or (without_alpha == 1 and wanted == 3) else None


def image_size(path: Path, reading: Reading) -> tuple[int, int]:
    """(H, W) of the array of `read_image`, from the header alone. Raises UserError as that does, but not for damage in
    the pixels."""
    found = read_header(path, reading.max_pixels)
    check_channel_count(found, reading, path)
    check_bit_depth(found.depth, reading, path)
    height, width = found.size
    return (width, height) if reading.exif and found.orientation in SIDEWAYS else (height, width)


# --- pixels ---------------------------------------------------------------------------------------------------------


def read_image(path: Path, reading: Reading) -> np.ndarray:
    """(H, W, channels), turned upright by EXIF's tag: uint8, or float32 in [0, 255] where `reading` has a range.

    Grey becomes RGB where 3 channels are expected. Alpha is left out unless it is one of the expected channels. Pixels
    without data become 0. Raises UserError, naming the file, when it cannot be read, has another number of channels, or
    more than 8 bits a channel and no range.
    """
    pixels, missing = read_stored_values(path, reading)
    if bool(reading.low) != (pixels.dtype != np.uint8):
        check_bit_depth(read_header(path, reading.max_pixels).depth, reading, path)
    return scale_stored_values(pixels, missing, reading)


def read_valid(path: Path, reading: Reading) -> np.ndarray | None:
    """(H, W) bool, false where an image has no data; None where it has data everywhere. Raises as `read_image`."""
    if not reading.gaps:
        return None
    missing = read_stored_values(path, reading)[1]
    return None if missing is None or not missing.any() else ~missing


def read_stored_values(
    path: Path, reading: Reading, check: Callable[[Header, Reading, Path], None] = check_channel_count
) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a file, (H, W, channels) uint8, or floating-point where it has more than 8 bits a channel, NaN
    without data; and where no channel has data, (H, W) bool, None where all pixels have data. check: raises UserError
    for a header that does not fit. Raises UserError as `read_image`."""
    with open_image(path, reading.max_pixels) as held:
        found = header_of_image(held, path)
        check(found, reading, path)
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
    """(H, W, channels) as stored; and the pixels that the file's own mask marks as outside, (H, W) bool or None."""
    count = found.channels if reading.bands else channels_to_read(found, reading.channels) or found.channels
    outside = None
    if isinstance(held, TiffPicture):
        pixels, outside = read_tiff_channels(held), read_outside_mask(held)
    elif found.depth:
        pixels = decode_high_depth(held, path)
    else:
        pixels = read_eight_bits(held, MODE_OF_CHANNELS[count], path)
        if held.format == "TIFF" and found.orientation in ORIENTATION_TURNS:  # Pillow has turned it: undo that
            pixels = ORIENTATION_TURNS[INVERSE_ORIENTATION.get(found.orientation, found.orientation)](pixels)
    return select_channels(pixels, count, reading), outside


def select_channels(pixels: np.ndarray, count: int, reading: Reading) -> np.ndarray:
    """The channels of (H, W, channels) that `reading` asks for. count: how many of them to read, without its bands; a
    single one is repeated."""
    if reading.bands:
        return np.ascontiguousarray(pixels[..., [band - 1 for band in reading.bands]])
    if pixels.shape[2] > count:
        pixels = pixels[..., :count]
    if count == reading.channels:
        return np.ascontiguousarray(pixels)
    return np.repeat(pixels, reading.channels, axis=2)


def read_eight_bits(image: Image.Image, mode: str, path: Path) -> np.ndarray:
    """(H, W, channels) uint8 of an image with 8 bits a channel, in Pillow's `mode`."""
    if image.mode == mode:
        return decode_eight_bits(image, path)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # only so a palette's transparent entry keeps its colour
    array = np.array(image if image.mode == mode else image.convert(mode))
    return array[:, :, None] if array.ndim == 2 else array


def find_missing_data(
    pixels: np.ndarray, values: tuple[float, ...], outside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (H, W, channels) as `read_stored_values` returns them, with its second result. values: those that stand
    for no data. outside: (H, W) bool, pixels that are known to have none."""
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


def scale_stored_values(pixels: np.ndarray, missing: np.ndarray | None, reading: Reading) -> np.ndarray:
    """The values of `read_stored_values` as `read_image` returns them. missing: its second result."""
    if reading.low and (pixels.dtype != np.uint8 or not reading.mixed):
        pixels = stretch_range(pixels, reading)
    elif reading.low:
        pixels = pixels.astype(np.float32)
    if missing is not None:
        pixels = np.where(missing[..., None], pixels.dtype.type(0), pixels)
    return pixels


def stretch_range(pixels: np.ndarray, reading: Reading) -> np.ndarray:
    """float32 in [0, 255]: low becomes 0, high 255; values beyond are clipped, NaN becomes 0."""
    kind = pixels.dtype if pixels.dtype.kind == "f" else np.float32
    low, high = np.array(reading.low, kind), np.array(reading.high, kind)
    shares = np.clip((pixels.astype(kind) - low) / (high - low), 0, 1)
    return np.nan_to_num(shares).astype(np.float32) * np.float32(255)
