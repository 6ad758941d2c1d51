"""Images of a command, read by threads before their turn and put into batches of one size."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ssss_zoo.config.parse import UNWRITABLE
from ssss_zoo.data.tiff import is_tiff
from ssss_zoo.deploy.geotiff import Georeference, read_georeference
from ssss_zoo.deploy.image_sources import SourceImage
from ssss_zoo.deploy.tiff_windows import UnreadableImage, open_tiff_windows
from ssss_zoo.deploy.trained import TrainedModel
from ssss_zoo.deploy.video import Video, read_frames, upright_pixels
from ssss_zoo.errors import UserError
from ssss_zoo.text import visible

THREADS = min(8, max(2, os.cpu_count() or 1))  # that read images, and as many that write files (our choice)
READ_AHEAD = 16  # images that are read before their turn (our choice)
BATCH_PIXELS = 400_000  # pixels of a batch of images of one size (our choice)
BATCH_IMAGES_MAX = 8  # images of a batch (our choice)


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that was read. pixels: (H, W, channels). valid: (H, W) bool or None. georeference: of a GeoTIFF. error:
    why it was not read. windowed: whether it is large and read by rows later."""

    source: SourceImage
    pixels: np.ndarray | None = None
    valid: np.ndarray | None = None
    georeference: Georeference = ()
    error: str = ""
    windowed: bool = False


def read_ahead(images: Sequence[SourceImage], read: Callable[[SourceImage], LoadedImage]) -> Iterator[LoadedImage]:
    """The images in order, read in threads a few before their turn."""
    with ThreadPoolExecutor(THREADS) as readers:
        coming: deque[Future[LoadedImage]] = deque()
        for image in images:
            coming.append(readers.submit(read, image))
            if len(coming) > READ_AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def read_source(model: TrainedModel, source: SourceImage) -> LoadedImage:
    """Read an image; a large TIFF that is read by rows later is only opened."""
    if UNWRITABLE.search(source.file):
        return LoadedImage(
            source, error=f"{visible(str(source.path))} has a name that is not in UTF-8: rename the file"
        )
    if not is_tiff(source.path):
        return read_whole(model, source)
    georeference = read_georeference(source.path)
    try:
        with open_tiff_windows(source.path, model.reading) as windows:
            if windows is not None:
                return LoadedImage(source, georeference=georeference, windowed=True)
    except UserError as error:
        return LoadedImage(source, error=str(error))
    return replace(read_whole(model, source), georeference=georeference)


def read_whole(model: TrainedModel, source: SourceImage) -> LoadedImage:
    """Read an image of any size into memory."""
    try:
        pixels, valid = model.read(source.path)
    except UserError as error:
        return LoadedImage(source, error=str(error))
    return LoadedImage(source, pixels, valid)


def load_frames(model: TrainedModel, video: Video, done: Collection[str]) -> Iterator[LoadedImage]:
    """The frames of a video that are not done; a last image that tells of lost frames, if there are any."""
    try:
        for source, frame in read_frames(video):
            if source.file not in done:
                pixels, valid = model.read(upright_pixels(frame))
                yield LoadedImage(source, pixels, valid)
    except UnreadableImage as error:
        yield LoadedImage(SourceImage(video.path, video.path.name, video.path.name), error=str(error))


def batches(images: Iterable[LoadedImage]) -> Iterator[list[LoadedImage]]:
    """The images in order, neighbours of one size and type together."""
    batch: list[LoadedImage] = []
    for image in images:
        fits = batch and batch[0].pixels is not None and image.pixels is not None
        if batch and not (fits and same_kind(batch, image.pixels)):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def same_kind(batch: Sequence[LoadedImage], pixels: np.ndarray | None) -> bool:
    """Whether an image has the size and type of a batch that has room for it."""
    first = batch[0].pixels
    assert first is not None
    assert pixels is not None
    room = min(BATCH_IMAGES_MAX, BATCH_PIXELS // (first.shape[0] * first.shape[1]))
    return len(batch) < room and (first.shape, first.dtype) == (pixels.shape, pixels.dtype)
