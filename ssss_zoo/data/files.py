"""Files as arrays: one image, one mask, and a look at all of them before the first step."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ssss_zoo.data.base import Dataset
from ssss_zoo.errors import UserError
from ssss_zoo.records import IGNORE, Sample

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "CMYK": 3, "YCbCr": 3, "RGBA": 4}  # by Pillow's mode
MODES = {(1, 1): "L", (1, 3): "RGB", (3, 3): "RGB", (4, 3): "RGB", (4, 4): "RGBA"}  # (found, expected): converted to
DEEP = {"I;16": "16-bit", "I;16B": "16-bit", "I;16L": "16-bit", "I": "32-bit", "F": "floating-point"}
COLOURED = ("RGB", "RGBA")  # modes of masks in colour, or in grey three times over; transparency says nothing
ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # EXIF
BROKEN = (  # what Pillow's decoders raise at damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
THREADS, CHUNK = 8, 64  # of the check; it stops after the first chunk with something wrong
SHOWN = 5  # values named in a message


# --- one file -------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file, header read. Raises UserError, naming the file, when Pillow fails at it here or in the body."""
    try:
        with Image.open(path) as image:
            yield image
    except BROKEN as error:
        raise UserError(f"cannot read {path}: {reason(path, error)}") from None


def reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def read_image(path: Path, channels: int) -> np.ndarray:
    """(H, W, channels) uint8, turned upright by its EXIF tag.

    Grey becomes RGB where 3 channels are expected, alpha is dropped. Raises UserError, naming the file, when it cannot
    be read, has more than 8 bits a channel, or another number of channels.
    """
    with opened(path) as image:
        mode = target_mode(image, channels, path)
        upright = image if orientation(image) == UPRIGHT else ImageOps.exif_transpose(image)
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")  # a palette's transparent entry has a colour only this way
        array = np.array(upright if upright.mode == mode else upright.convert(mode))
    return array[:, :, None] if array.ndim == 2 else array


def target_mode(image: Image.Image, channels: int, path: Path) -> str:
    """The Pillow mode that `image` is converted to. Raises UserError where none has `channels` channels."""
    if image.mode in DEEP:
        raise UserError(f"{path} is a {DEEP[image.mode]} image; expected 8 bits a channel: convert it")
    found = CHANNELS.get(image.mode, len(image.getbands()))
    if (found, channels) not in MODES:
        raise UserError(f"{path} has {found} channels ({image.mode}); expected {channels} (model.in_channels)")
    return MODES[found, channels]


def orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 to 8; read from the header alone (Pillow would decode a whole PNG to look for it)."""
    if image.format == "PNG" and "exif" not in image.info:
        return UPRIGHT
    return int(image.getexif().get(ORIENTATION, UPRIGHT))


def image_size(path: Path, channels: int) -> tuple[int, int]:
    """(H, W) as `read_image` will give it, from the header alone where possible. Raises UserError as that does."""
    with opened(path) as image:
        target_mode(image, channels, path)
        turned = orientation(image) in SIDEWAYS
        if turned and image.format == "TIFF":
            image.load()  # Pillow turns a TIFF itself, some versions only now
            turned = False
        width, height = image.size
        return (width, height) if turned else (height, width)


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 as stored: palette indices and greys (one channel, or three that are equal) are class ids, 255 is
    void.

    Raises UserError, naming the file, for what cannot hold ids: colours, JPEG, values above 255.
    """
    with opened(path) as image:
        mode, lossy = image.mode, image.format == "JPEG"
        array = np.array(image)
    if lossy:
        raise UserError(f"mask {path} is a JPEG, which smears class ids; save masks as PNG")
    grey = grey_codes(array) if mode in COLOURED else None
    if grey is not None:
        return grey
    if mode == "F" or mode not in (*DEEP, "1", "L", "P"):
        raise UserError(
            f"mask {path} is not one channel of ids (mode {mode}): colour masks are not class ids; "
            "write the id of its class into each pixel of an 8-bit single-channel PNG"
        )
    low, high = (array.min(), array.max()) if mode in DEEP else (0, 0)
    if low < 0 or high > IGNORE:
        raise UserError(f"mask {path} ({DEEP[mode]}) holds value {high if high > IGNORE else low}; ids are 0 to 254")
    return array.astype(np.uint8)


def grey_codes(colours: np.ndarray) -> np.ndarray | None:
    """(H, W, 3 or 4) to (H, W) where red, green and blue are equal everywhere, else None."""
    red, green, blue = (colours[..., channel] for channel in range(3))
    return red if np.array_equal(red, green) and np.array_equal(red, blue) else None


# --- a data set of files --------------------------------------------------------------------------------------------


class FileDataset(Dataset):
    """A data set whose samples are files: `Sample.image` a Path, `Sample.mask` a Path or None."""

    channels: int = 3  # of the images as read; the run sets it to model.in_channels

    def read_image(self, sample: Sample) -> np.ndarray:
        return read_image(sample.image, self.channels)

    def read_mask(self, sample: Sample) -> np.ndarray:
        if sample.mask is None:
            raise UserError(f"{sample.name} has no mask")
        return read_mask(sample.mask)

    def check(self) -> None:
        check_pairs(self)


@dataclass(frozen=True, eq=False)
class Finding:
    """What a look at one sample gave: pixels of each value (256,), zeros without a mask; what is wrong, if anything.
    kind: problems of one kind are counted together."""

    counts: np.ndarray
    kind: str = ""
    problem: str = ""


NOTHING = np.zeros(IGNORE + 1, np.int64)


def check_pairs(dataset: FileDataset) -> None:
    """Look at every labelled and validation pair (sizes, mask values), and at the header of every unlabelled image.

    Raises UserError, in one line, at the first problem, with the number of files like it; stops soon after. Adds to
    `dataset.notes` the classes that no labelled pixel shows.
    """
    labelled = total(inspect(dataset, dataset.labelled, look_at_pair))
    check_content(labelled, dataset.labelled, "labelled")
    if dataset.val:
        check_content(total(inspect(dataset, dataset.val, look_at_pair)), dataset.val, "validation")
    known = {sample.image for sample in dataset.labelled}
    inspect(dataset, [sample for sample in dataset.unlabelled if sample.image not in known], look_at_image)
    missing = [name for name, pixels in zip(dataset.class_names, labelled, strict=False) if pixels == 0]
    note = f"no labelled pixel of {', '.join(missing)}"
    if missing and note not in dataset.notes:
        dataset.notes = [*dataset.notes, note]


Look = Callable[[FileDataset, Sample], Finding]


def inspect(dataset: FileDataset, samples: Sequence[Sample], look: Look) -> list[Finding]:
    """`look` at every sample, in threads; UserError after the first chunk that holds a problem."""
    findings: list[Finding] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            findings += pool.map(lambda sample: look(dataset, sample), chunk)
            if any(finding.problem for finding in findings[start:]):
                raise UserError(complaint(findings, len(dataset.class_names)))
    return findings


def look_at_image(dataset: FileDataset, sample: Sample) -> Finding:
    try:
        image_size(sample.image, dataset.channels)
    except UserError as error:
        return Finding(NOTHING, "unreadable", str(error))
    return Finding(NOTHING)


def look_at_pair(dataset: FileDataset, sample: Sample) -> Finding:
    """What is wrong with a pair, its mask's values counted."""
    try:
        size = image_size(sample.image, dataset.channels)
        mask = dataset.read_mask(sample)
    except UserError as error:
        return Finding(NOTHING, "unreadable", str(error))
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    if mask.shape != size:
        sizes = f"mask {sample.mask} is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}"
        return Finding(counts, "size", f"{sizes}: they must match pixel for pixel")
    values = value_problem(counts, len(dataset.class_names))
    return Finding(counts, "value", f"mask {sample.mask} {values}") if values else Finding(counts)


def value_problem(counts: np.ndarray, classes: int) -> str:
    """What is wrong with a mask of these values (256,) where ids go up to `classes` - 1; empty when nothing is."""
    wrong = np.flatnonzero(counts[classes:IGNORE]) + classes
    if not wrong.size:
        return ""
    values = ", ".join(f"{value} ({counts[value]:,} pixels)" for value in wrong[:SHOWN])
    more = f" and {wrong.size - SHOWN} more values" if wrong.size > SHOWN else ""
    return f"holds {values}{more}; ids are 0 to {classes - 1}, void is {IGNORE}"


def total(findings: Sequence[Finding]) -> np.ndarray:
    """Pixels of each value over all, (256,)."""
    return np.sum([NOTHING, *(finding.counts for finding in findings)], axis=0)


def complaint(findings: Sequence[Finding], classes: int) -> str:
    """The first problem in one line: hint, and how many of the files seen so far are like it."""
    first = next(finding for finding in findings if finding.problem)
    alike = Counter(finding.kind for finding in findings)[first.kind]
    hint = value_hint(total(findings), classes) if first.kind == "value" else ""
    return f"{first.problem}{hint} ({alike} of {len(findings)} files looked at are like it)"


def value_hint(counts: np.ndarray, classes: int) -> str:
    """What masks with these values (256,) probably are, given that `classes` were declared."""
    present = np.flatnonzero(counts[:IGNORE])
    if present[0] > 0 and present[-1] == classes:
        return "; the ids seem to start at 1: subtract 1 from them"
    if present[-1] >= 2 * classes:
        return "; these look like colours or grey levels: write class ids"
    return "; correct the masks or name the missing classes"


def check_content(counts: np.ndarray, samples: Sequence[Sample], part: str) -> None:
    """Raise UserError when the masks of a part, (256,) pixels by value in all, leave nothing to learn or measure."""
    if not samples:
        raise UserError(f"no {part} image: at least one is needed")
    present = set(np.flatnonzero(counts).tolist())
    where = f"{len(samples)} {part} masks, such as {samples[0].mask}"
    if present == {0, IGNORE}:
        raise UserError(
            f"only 0 and {IGNORE} in all {where}: looks like 0/255 masks, but {IGNORE} is void: "
            f"write 1 for the object and keep {IGNORE} for pixels to ignore (of dataset=folder: data.encoding=values)"
        )
    if present <= {IGNORE}:
        raise UserError(f"nothing but void ({IGNORE}) in all {where}: there is nothing to learn from")
