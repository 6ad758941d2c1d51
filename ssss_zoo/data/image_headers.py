"""The headers of all images of a data set: how many are turned, have several pages, or have content that is left
out. Each finding is a line for the person to see."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ssss_zoo.data.images import Header, Reading, channels_to_read, open_image, read_header
from ssss_zoo.data.sampling import evenly
from ssss_zoo.data.tiff import read_tiff_channels
from ssss_zoo.errors import UserError

HEADERS_READ = 10_000  # of the images, evenly (our choice: about two seconds)
ALPHA_IMAGES_DECODED = 16  # to see whether their alpha is used (our choice)
HEADER_THREADS = 8
ORIENTATION_NAMES = {  # by EXIF's orientation
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
    """The header of each file, of HEADERS_READ files at most. Files that cannot be read are left out."""

    def read(path: Path) -> Header | None:
        try:
            return read_header(path, max_pixels)
        except UserError:
            return None

    chosen = evenly(list(dict.fromkeys(paths)), HEADERS_READ)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        headers = dict(zip(chosen, pool.map(read, chosen), strict=True))
    return {path: header for path, header in headers.items() if header is not None}


def describe_headers(headers: Headers, reading: Reading) -> list[str]:
    """A line for each property that a person may not expect."""
    return [
        *describe_orientations(headers, reading),
        *describe_dropped_alpha(headers, reading),
        *describe_special_files(headers),
    ]


def describe_orientations(headers: Headers, reading: Reading) -> list[str]:
    """How many images have an EXIF orientation, by orientation."""
    turns = Counter(
        ORIENTATION_NAMES[header.orientation] for header in headers.values() if header.orientation in ORIENTATION_NAMES
    )
    if turns and not reading.exif:
        return [
            f"{count_images(turns.total())} would be turned by an EXIF tag, and data.exif=false leaves all as stored"
        ]
    return [
        f"{count_images(count)} {'are' if count > 1 else 'is'} {turn} by {'their' if count > 1 else 'its'} EXIF tag: "
        "look at the preview (data.exif=false leaves all as stored)"
        for turn, count in turns.items()
    ]


def describe_dropped_alpha(headers: Headers, reading: Reading) -> list[str]:
    """How many images have transparent pixels, where alpha is left out. Of many images only some are decoded."""
    dropped = [path for path, header in headers.items() if drops_alpha(header, reading)]
    decoded = evenly(dropped, ALPHA_IMAGES_DECODED)
    count = sum(has_transparent_pixels(path) for path in decoded)
    if not count:
        return []
    sampled = "" if len(decoded) == len(dropped) else f" of {len(decoded)} looked at"
    return [
        f"{count_images(count)}{sampled} {'have' if count > 1 else 'has'} transparent pixels, and transparency is left "
        "out: their colours count as any (model.in_channels=4 reads it as a channel, where all images have it)"
    ]


def drops_alpha(header: Header, reading: Reading) -> bool:
    """Whether a file has an alpha channel that is not read."""
    if not header.alpha or reading.bands:
        return False
    return (channels_to_read(header, reading.channels) or header.channels) < header.channels


def has_transparent_pixels(path: Path) -> bool:
    """Whether an image with alpha is not opaque everywhere; false for one that cannot be read."""
    try:
        with open_image(path, sys.maxsize) as image:
            if isinstance(image, Image.Image):
                return bool(np.array(image.convert("RGBA"))[..., 3].min() < 255)
            alpha = read_tiff_channels(image)[..., -1]
            opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else alpha.max()
            return bool(alpha.min() < opaque)
    except UserError:
        return False


def describe_special_files(headers: Headers) -> list[str]:
    """How many files have content that is combined, converted or left out."""
    every = headers.values()
    paged = [header.pages for header in every if header.pages > 1]
    further = sum(header.further > 0 for header in every)
    cmyk = sum(header.mode == "CMYK" for header in every)
    masked = sum(header.masked for header in every)
    lines = []
    if paged:
        pages = " or ".join(map(str, sorted(set(paged))))
        lines.append(f"{images_hold(len(paged))} a band in each of {pages} pages")
    if further:
        lines.append(
            f"{images_hold(further)} further pictures (MPO: previews, depth, a second eye): the first one is read"
        )
    if cmyk:
        lines.append(f"{images_hold(cmyk)} CMYK and become RGB without a colour profile")
    if masked:
        lines.append(f"{images_hold(masked)} a page that says where there is a picture: the rest is void in masks")
    return lines


def images_hold(number: int) -> str:
    return f"{count_images(number)} hold{'s' if number == 1 else ''}"


def count_images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
