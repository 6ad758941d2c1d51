"""What the headers of a data set's images say together: how many are turned, deeper, made of pages, and what is left
out of them, one line each for the person to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.images import Header, Reading, channels_to_read, open_image, read_header
from ssss_zoo.data.tiff import read_tiff_channels
from ssss_zoo.errors import UserError

HEADERS_READ = 10_000  # whose headers are read, evenly spread (our choice: about two seconds)
ALPHA_IMAGES_DECODED = 16  # images with alpha that are decoded, to see whether it says anything (our choice)
HEADER_THREADS = 8
ORIENTATION_NAMES = {  # by EXIF's tag
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored along a diagonal",
    6: "turned by 90 degrees to the right",
    7: "mirrored along a diagonal",
    8: "turned by 90 degrees to the left",
}

Headers = dict[Path, Header]


def read_headers(paths: Sequence[Path], max_pixels: int) -> Headers:
    """The header of each file, of at most FILES; those that cannot be read are passed over."""

    def look(path: Path) -> Header | None:
        try:
            return read_header(path, max_pixels)
        except UserError:
            return None

    chosen = list(dict.fromkeys(paths))
    chosen = chosen[:: -(-len(chosen) // HEADERS_READ) or 1]
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = dict(zip(chosen, pool.map(look, chosen), strict=True))
    return {path: one for path, one in found.items() if one is not None}


def describe_headers(headers: Headers, reading: Reading) -> list[str]:
    """One line for each thing that a person may not expect."""
    return [
        *describe_orientations(headers, reading),
        *describe_dropped_alpha(headers, reading),
        *describe_special_files(headers),
    ]


def describe_orientations(headers: Headers, reading: Reading) -> list[str]:
    """How many images an EXIF tag turns, by the way it does."""
    turns = Counter(
        ORIENTATION_NAMES[found.orientation] for found in headers.values() if found.orientation in ORIENTATION_NAMES
    )
    if not reading.exif:
        count = turns.total()
        return (
            [f"{count_images(count)} would be turned by an EXIF tag, and data.exif=false leaves all as stored"]
            if count
            else []
        )
    return [
        f"{count_images(count)} {'are' if count > 1 else 'is'} {turn} by {'their' if count > 1 else 'its'} EXIF tag: "
        "look at the preview (data.exif=false leaves all as stored)"
        for turn, count in turns.items()
    ]


def describe_dropped_alpha(headers: Headers, reading: Reading) -> list[str]:
    """Alpha that is left out, where it says anything."""
    dropped = [
        path
        for path, found in headers.items()
        if found.alpha
        and not reading.bands
        and (channels_to_read(found, reading.channels) or found.channels) < found.channels
    ]
    looked = dropped[:: -(-len(dropped) // ALPHA_IMAGES_DECODED) or 1]
    clear = sum(has_transparent_pixels(path) for path in looked)
    if not clear:
        return []
    of = "" if len(looked) == len(dropped) else f" of {len(looked)} looked at"
    return [
        f"{count_images(clear)}{of} {'have' if clear > 1 else 'has'} transparent pixels, and transparency is left out: "
        "their colours count as any (model.in_channels=4 reads it as a channel, where all images have it)"
    ]


def has_transparent_pixels(path: Path) -> bool:
    """Whether an image with alpha is not opaque everywhere. One that cannot be read is."""
    try:
        with open_image(path, 1 << 62) as held:
            if isinstance(held, Image.Image):
                return bool(np.array(held.convert("RGBA"))[..., 3].min() < 255)
            alpha = read_tiff_channels(held)[..., -1]
            return bool(alpha.min() < (np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else alpha.max()))
    except UserError:
        return False


def describe_special_files(headers: Headers) -> list[str]:
    """What files hold that is put together, changed or left out."""

    def count(holds: Callable[[Header], bool]) -> int:
        return sum(holds(found) for found in headers.values())

    lines = []
    if many := count(lambda found: found.pages > 1):
        pages = sorted({found.pages for found in headers.values() if found.pages > 1})
        lines.append(f"{hold(many)} a band in each of {' or '.join(map(str, pages))} pages")
    if many := count(lambda found: found.further > 0):
        lines.append(f"{hold(many)} further pictures (MPO: previews, depth, a second eye): the first one is read")
    if many := count(lambda found: found.mode == "CMYK"):
        lines.append(f"{hold(many)} CMYK and become RGB without a colour profile")
    if many := count(lambda found: found.masked):
        lines.append(f"{hold(many)} a page that says where there is a picture: the rest is void in masks")
    return lines


def hold(count: int) -> str:
    return f"{count_images(count)} hold{'s' if count == 1 else ''}"


def count_images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
