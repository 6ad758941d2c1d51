"""What a mask file holds at a pixel, its code: a value, or a colour as red * 65536 + green * 256 + blue."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssss_zoo.data.classes import Colour
from ssss_zoo.data.files import COLOURED, grey_codes
from ssss_zoo.data.images import opened
from ssss_zoo.errors import UserError


def read_codes(path: Path, colours: bool, lossy: bool) -> np.ndarray:
    """(H, W) codes of a mask, int32: colours, or values as stored.

    Raises UserError, naming the file, for a JPEG unless `lossy`, for values that are negative, no whole numbers or
    above 65535, and for colours where values are expected.
    """
    with opened(path) as image:
        if image.format == "JPEG" and not lossy:
            raise smeared(path, "colours" if colours else "values")
        if colours:
            pixels = np.array(image.convert("RGB")).astype(np.int32)
            return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        stored = np.array(image.convert("RGB") if image.mode in COLOURED else image)
    values = grey_codes(stored) if stored.ndim == 3 else stored
    if values is None:
        raise UserError(f"mask {path} is coloured; expected one value a pixel, or data.encoding=colours")
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise UserError(f"mask {path} holds values that are no whole numbers from 0 to 65535")
    return values.astype(np.int32)


def is_jpeg(path: Path) -> bool:
    with opened(path) as image:
        return image.format == "JPEG"


def smeared(path: Path, what: str, count: str = "") -> UserError:
    """The error for a mask that is a JPEG. count: how bad it is, where that is known."""
    return UserError(
        f"mask {path} is a JPEG, which smears {what}{f' ({count})' if count else ''}: save masks as PNG, or take the "
        "nearest one that a class has (data.snap=true)"
    )


def code_of(word: str, kind: str) -> int:
    """What `data.ignore` names: a value, or a colour such as #ff00ff. Raises UserError for what is neither."""
    try:
        if kind == "colours":
            return int(word.removeprefix("#"), 16) if len(word) == 7 and word[0] == "#" else int("")
        if 0 <= int(word) <= 65535:
            return int(word)
    except ValueError:
        pass
    expected = "a colour such as '#ff00ff'" if kind == "colours" else "a value from 0 to 65535"
    raise UserError(f"data.ignore holds '{word}'; expected {expected}, since masks hold {kind}")


def packed(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def unpacked(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def hex_colour(code: int) -> str:
    return f"#{code:06x}"
