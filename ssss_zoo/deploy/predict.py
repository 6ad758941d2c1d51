"""`ssss predict`: a run's predictions of new images, as files."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ssss_zoo.atomic_write import replacing_file
from ssss_zoo.config.fields import Range
from ssss_zoo.config.parse import build_typed, parse_overrides
from ssss_zoo.deploy.exported_models import open_model
from ssss_zoo.deploy.geotiff import read_georeference, write_geotiff
from ssss_zoo.deploy.image_sources import SourceImage, check_output, find_images, looks_like_masks
from ssss_zoo.deploy.mask_format import choose_mask_format, write_png
from ssss_zoo.deploy.polygon_files import COCO_FILE, COCO_FORMAT, PolygonFormat, join_coco_files, write_polygons
from ssss_zoo.deploy.prediction_files import (
    CSV_NAME,
    GEOTIFF_SUFFIX,
    PNG_SUFFIX,
    POLYGONS,
    PredictionRow,
    count_classes,
    mask_path,
    mask_paths,
    output_path,
    read_rows,
    save_extra,
    summarize_classes,
    write_rows,
)
from ssss_zoo.deploy.prediction_record import (
    RECORD_NAME,
    PredictionRecord,
    check_prediction_record,
    make_prediction_record,
    write_prediction_record,
)
from ssss_zoo.deploy.tiff_windows import TiffWindows, UnreadableImage, open_tiff_windows
from ssss_zoo.deploy.tiles import (
    TILE_SIDE,
    TILE_SIDE_MIN,
    Band,
    ReadRows,
    blend_tiles,
    choose_tile_side,
    memory_at_start,
    pixels_that_fit,
)
from ssss_zoo.deploy.trained import TrainedModel, ids_of_classes, image_batch
from ssss_zoo.deploy.video import (
    OVERLAY_VIDEO_SUFFIX,
    Video,
    is_video,
    open_video,
    read_frames,
    write_overlay_video,
)
from ssss_zoo.errors import UserError, cannot_write, expanded, out_of_memory
from ssss_zoo.evaluation.evaluator import Predictor
from ssss_zoo.text import count
from ssss_zoo.toolkit.tensors import resize

REQUIRED_KEYS = ("run", "input", "output")
RESULT_KEYS = ("save", "polygons", "encoding", "tile", "overlap", "flip", "scales")  # they change the files of an image
WHOLE_PIXELS_MAX = 4_000_000  # pixels of an image that is predicted in one piece (our choice)
BATCH_PIXELS = 400_000  # pixels of a batch of images of one size (our choice)
BATCH_IMAGES_MAX = 8  # images of a batch (our choice)
THREADS = min(8, max(2, os.cpu_count() or 1))  # that read images, and as many that write files (our choice)
READ_AHEAD = 16  # images that are read before their turn, or wait to be written
ROWS_WRITTEN_EVERY = 50  # images between two writings of predictions.csv
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True)
class PredictSettings:
    """The arguments of `ssss predict`. polygons: the format of `save=polygons`. tile: its side in pixels; None for the
    default. scales: of test-time augmentation."""

    run: str = ""
    input: str = ""
    output: str = ""
    weights: Literal["", "last", "best"] = ""
    network: str = ""
    device: str = "auto"
    save: list[Literal["overlays", "probabilities", "uncertainty", "polygons"]] = field(default_factory=list)
    polygons: PolygonFormat = "labelme"
    encoding: Literal["ids", "training"] = "ids"
    tile: Annotated[int | None, Range(32)] = None
    overlap: Annotated[float, Range(0, 0.9)] = 0.25
    flip: bool = False
    scales: Annotated[list[float], Range(0.1, 4)] = field(default_factory=lambda: [1.0])
    overwrite: bool = False
    resume: bool = False

    @property
    def folder(self) -> Path:
        """The folder to write into."""
        return expanded(self.output)


@dataclass(frozen=True)
class PredictResult:
    """What a command did. predicted, skipped: numbers of images. saved: the folders and files beside `masks`.
    unreadable: the message of each such file."""

    output: Path
    source: str
    predicted: int
    skipped: int
    saved: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that was read. pixels: (H, W, channels). valid: (H, W) bool or None. error: why it was not read."""

    source: SourceImage
    pixels: np.ndarray | None = None
    valid: np.ndarray | None = None
    error: str = ""
    windowed: bool = False


def predict_files(overrides: Iterable[str]) -> PredictResult:
    """Predict the images that the overrides name, and write the results. Raises UserError before the first image for
    what a person can fix; a file that cannot be read is named in the result."""
    settings = parse_settings(overrides)
    if is_video(expanded(settings.input)):
        return predict_video(settings, open_video(expanded(settings.input)))
    images = find_images(settings.input)
    check_output(settings.input, settings.folder)
    model = open_model(settings.run, settings.weights or None, settings.network or None, settings.device)
    log.info(f"{model.source}; {count(len(images), 'image')} of {settings.input}")
    if model.reading.channels == 3 and looks_like_masks(images, len(model.class_names)):
        log.warning(f"input={settings.input} looks like a folder of masks, not of images: {images[0].path}")
    choose_mask_format(settings.encoding, model)  # refuses before the first image
    record = make_prediction_record(model, {key: getattr(settings, key) for key in RESULT_KEYS})
    rows = find_rows(settings, images, model, record)
    write_prediction_record(settings.folder, record)
    todo = [image for image in images if image.file not in rows]
    loaded = read_ahead(todo, partial(read_source, model))
    unreadable = run_predictions(model, settings, loaded, len(todo), rows)
    if settings.polygons == COCO_FORMAT:
        files = [output_path(settings.folder, POLYGONS, image.name) for image in images]
        join_coco_files([file for file in files if file.exists()], settings.folder / COCO_FILE)
    return PredictResult(
        output=settings.folder,
        source=model.source,
        predicted=len(todo) - len(unreadable),
        skipped=len(images) - len(todo),
        saved=(*settings.save, *([COCO_FILE] if settings.polygons == COCO_FORMAT else [])),
        unreadable=tuple(unreadable),
    )


def predict_video(settings: PredictSettings, video: Video) -> PredictResult:
    """As `predict_files`, for the frames of a video: files for each frame, and `save=overlays` makes a video."""
    if POLYGONS in settings.save:
        raise UserError("save=polygons is for images; of a video there are masks, overlays, uncertainty, probabilities")
    if "overlays" in settings.save and settings.encoding != "ids":
        raise UserError("save=overlays of a video is drawn from masks of class ids: leave encoding= out")
    overlays = settings.folder / "overlays" / f"{video.path.stem}{OVERLAY_VIDEO_SUFFIX}"
    if "overlays" in settings.save and overlays.exists() and not (settings.resume or settings.overwrite):
        raise UserError(f"{overlays} exists: continue with resume=true, replace with overwrite=true, or change output=")
    model = open_model(settings.run, settings.weights or None, settings.network or None, settings.device)
    log.info(f"{model.source}; {count(len(video.frames), 'frame')} of {video.path}")
    choose_mask_format(settings.encoding, model)  # refuses before the first image
    record = make_prediction_record(model, {key: getattr(settings, key) for key in RESULT_KEYS})
    by_frame = replace(settings, save=[folder for folder in settings.save if folder != "overlays"])
    rows = find_rows(by_frame, video.frames, model, record)
    write_prediction_record(settings.folder, record)
    todo = len(video.frames) - len(rows)
    unreadable = run_predictions(model, by_frame, load_frames(model, video, rows), todo, rows)
    masks = [mask_path(settings.folder, frame.name, PNG_SUFFIX) for frame in video.frames]
    predicted = {frame.name for frame, mask in zip(video.frames, masks, strict=True) if mask.exists()}
    if "overlays" in settings.save and predicted:
        write_overlay_video(overlays, video, masks, model.colours, predicted)
    return PredictResult(
        output=settings.folder,
        source=model.source,
        predicted=len(predicted) - len(rows),
        skipped=len(rows),
        saved=tuple(settings.save),
        unreadable=tuple(unreadable),
    )


def load_frames(model: TrainedModel, video: Video, done: Collection[str]) -> Iterator[LoadedImage]:
    """The frames of a video that are not done; a last image that tells of lost frames, if there are any."""
    try:
        for source, frame in read_frames(video):
            if source.file not in done:
                pixels, valid = model.read(frame.to_image())
                yield LoadedImage(source, pixels, valid)
    except UnreadableImage as error:
        yield LoadedImage(SourceImage(video.path, video.path.name, video.path.name), error=str(error))


# --- settings -------------------------------------------------------------------------------------------------------


def parse_settings(overrides: Iterable[str]) -> PredictSettings:
    """The settings that `key=value` arguments make. Raises UserError for an unknown key or a wrong value."""
    settings: PredictSettings = build_typed(PredictSettings, parse_overrides(overrides))
    for key in REQUIRED_KEYS:
        if not getattr(settings, key):
            raise UserError(f"give {key}=: ssss predict run=DIR input=PATH output=DIR")
    if settings.polygons == COCO_FORMAT and POLYGONS not in settings.save:
        raise UserError("polygons=coco is the format of save=polygons: give both, or neither")
    return replace(settings, scales=settings.scales or [1.0])


def find_rows(
    settings: PredictSettings, images: Sequence[SourceImage], model: TrainedModel, record: PredictionRecord
) -> dict[str, PredictionRow]:
    """The rows of the images that an earlier command predicted, by file. Raises UserError where an output exists and
    neither resume nor overwrite is given, and where the output to resume is of another model or other settings."""
    table = settings.folder / CSV_NAME
    started = settings.folder / RECORD_NAME
    if settings.overwrite:
        return {}
    if settings.resume:
        if table.exists() or started.exists():
            check_prediction_record(settings.folder, record)
        rows = read_rows(table, len(model.class_names))
        masked = [
            image.file for image in images if any(mask.exists() for mask in mask_paths(settings.folder, image.name))
        ]
        return {name: rows[name] for name in masked if name in rows}
    masks = [mask for image in images for mask in mask_paths(settings.folder, image.name)]
    tables = [table, started, *([settings.folder / COCO_FILE] if settings.polygons == COCO_FORMAT else [])]
    extras = [output_path(settings.folder, folder, image.name) for folder in settings.save for image in images]
    existing = next((path for path in (*masks, *extras, *tables) if path.exists()), None)
    if existing:
        raise UserError(f"{existing} exists: continue with resume=true, replace with overwrite=true, or change output=")
    return {}


# --- reading, predicting, writing -----------------------------------------------------------------------------------


def run_predictions(
    model: TrainedModel, settings: PredictSettings, images: Iterable[LoadedImage], total: int,
    rows: dict[str, PredictionRow],
) -> list[str]:  # fmt: skip
    """Predict and write all images; returns the messages of those that could not be read. total: the number of images.
    rows: of earlier images."""
    finished = list(rows.values())
    unreadable: list[str] = []
    waiting: deque[Future[PredictionRow]] = deque()
    try:
        with ThreadPoolExecutor(THREADS) as writers, show_images(total, "predict") as advance:
            for batch in batches(images):
                try:
                    futures, settings = predict_in_memory(model, settings, batch, writers)
                    waiting.extend(futures)
                except UnreadableImage as error:
                    log.warning(str(error))
                    unreadable.append(str(error))
                advance(len(batch))
                while len(waiting) > READ_AHEAD:
                    finished.append(waiting.popleft().result())
                    if len(finished) % ROWS_WRITTEN_EVERY == 0:
                        write_rows(settings.folder / CSV_NAME, finished, model.class_names)
            finished.extend(future.result() for future in waiting)
    finally:
        write_rows(settings.folder / CSV_NAME, finished, model.class_names)
    return unreadable


@contextmanager
def show_images(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal; yields a function that takes the number of further images done."""
    columns = (*Progress.get_default_columns()[:-1], TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda number: bar.advance(task, number)


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
    try:
        with open_tiff_windows(source.path, model.reading) as windows:
            if windows is not None:
                return LoadedImage(source, windowed=True)
    except UserError as error:
        return LoadedImage(source, error=str(error))
    return read_whole(model, source)


def read_whole(model: TrainedModel, source: SourceImage) -> LoadedImage:
    """Read an image of any size into memory."""
    try:
        pixels, valid = model.read(source.path)
    except UserError as error:
        return LoadedImage(source, error=str(error))
    return LoadedImage(source, pixels, valid)


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


def predict_batch(
    model: TrainedModel, settings: PredictSettings, batch: Sequence[LoadedImage], writers: ThreadPoolExecutor
) -> list[Future[PredictionRow]]:
    """Predict images of one size, and let the writers write them. Raises UnreadableImage."""
    first = batch[0]
    if first.error:
        raise UnreadableImage(first.error)
    if first.windowed:
        row = predict_windows(model, settings, first.source)
        return [writers.submit(lambda: row)]
    probs = predict_pixels(model, settings, [image.pixels for image in batch if image.pixels is not None])
    return [
        writers.submit(partial(write_outputs, model, settings, image, likely))
        for image, likely in zip(batch, probs, strict=True)
    ]


def predict_in_memory(
    model: TrainedModel, settings: PredictSettings, batch: Sequence[LoadedImage], writers: ThreadPoolExecutor
) -> tuple[list[Future[PredictionRow]], PredictSettings]:
    """As `predict_batch`, in smaller tiles where the memory does not suffice; and the settings for the next images.
    Raises UserError where it does not suffice for the smallest tiles."""
    while True:
        try:
            return predict_batch(model, settings, batch, writers), settings
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            side = (settings.tile or 2 * TILE_SIDE) // 2
            if side < TILE_SIDE_MIN:
                raise UserError(
                    f"out of memory at {batch[0].source.path}, even in tiles of {settings.tile} pixels: close other "
                    "programs, or give device=cpu, a smaller tile=, or scales=1"
                ) from error
        log.warning(f"out of memory at {batch[0].source.path}: from here on in tiles of {side} pixels")
        settings = replace(settings, tile=side)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def predict_pixels(model: TrainedModel, settings: PredictSettings, images: Sequence[np.ndarray]) -> Sequence[Tensor]:
    """Probabilities (C, H, W) of images (H, W, channels) of one size, in tiles where they are large."""
    height, width = images[0].shape[:2]
    memory = memory_at_start(model.device)
    if settings.tile is None and height * width <= min(WHOLE_PIXELS_MAX, pixels_that_fit(memory)):
        return list(augmented_probabilities(model, image_batch(images), settings))
    side = settings.tile or choose_tile_side(width, len(model.class_names), memory)
    found = []
    for image in images:
        bands = predict_bands(model, settings, partial(rows_of_array, image), (height, width), side)
        found.append(torch.cat([band.probs.clone() for band in bands], dim=1))
    return found


def rows_of_array(pixels: np.ndarray, top: int, bottom: int) -> tuple[np.ndarray, None]:
    return pixels[top:bottom], None


def predict_bands(
    model: TrainedModel,
    settings: PredictSettings,
    read: ReadRows,
    size: tuple[int, int],
    side: int,
) -> Iterator[Band]:
    """Bands of a large image, see `blend_tiles`. A tile is predicted in one piece."""
    whole = Predictor(replace(model.predictor.settings, mode="whole"), model.predictor.window)
    in_one_piece = replace(model, predictor=whole)
    return blend_tiles(
        read,
        size,
        side,
        settings.overlap,
        len(model.class_names),
        lambda tile: augmented_probabilities(in_one_piece, image_batch([tile]), settings)[0],
    )


@torch.inference_mode()
def augmented_probabilities(model: TrainedModel, images: Tensor, settings: PredictSettings) -> Tensor:
    """Probabilities (B, C, H, W): the mean over all scales, mirrored and not where flip is set."""
    height, width = images.shape[-2:]
    if not settings.flip and settings.scales == [1.0]:
        return model.probabilities(images)
    images = images.to(model.device).float()
    found = []
    for scale in settings.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = images if scale == 1 else resize(images, size)
        views = [model.probabilities(scaled)]
        if settings.flip:
            views.append(model.probabilities(scaled.flip(-1)).flip(-1))
        found += [resize(view, (height, width)) for view in views]
    return torch.stack(found).mean(dim=0)


def write_outputs(model: TrainedModel, settings: PredictSettings, image: LoadedImage, probs: Tensor) -> PredictionRow:
    """Write the mask of an image and what else is saved; returns its row. probs: (C, H, W)."""
    assert image.pixels is not None
    source = image.source
    classes = ids_of_classes(probs, image.valid)
    confidence = probs.amax(dim=0).cpu().numpy()
    for folder in settings.save:
        file = output_path(settings.folder, folder, source.name)
        if folder == POLYGONS:
            name = source.file if settings.polygons == COCO_FORMAT else source.path.name
            write_polygons(file, settings.polygons, classes, model.class_names, name)
        else:
            save_extra(file, folder, image.pixels, classes, probs, model.colours)
    write_mask(model, settings, source, classes.shape, [classes])
    counts = count_classes(classes, len(model.class_names))
    total = float(confidence.sum() if image.valid is None else confidence[image.valid].sum())
    return summarize_classes(source.file, classes.shape, counts, total)


def predict_windows(model: TrainedModel, settings: PredictSettings, source: SourceImage) -> PredictionRow:
    """Predict a large TIFF by rows of tiles, and write its mask as it comes. Raises UnreadableImage, and
    UserError where the disk refuses."""
    if settings.save:
        log.warning(f"{source.path} is read in windows: its mask alone is written, without {', '.join(settings.save)}")
    counts = np.zeros(len(model.class_names), np.int64)
    confidence = 0.0

    def counted_bands(windows: TiffWindows) -> Iterator[np.ndarray]:
        nonlocal counts, confidence
        for classes, highest in classify_windows(model, settings, windows):
            counts += count_classes(classes, len(counts))
            confidence += float(highest[classes < len(counts)].sum())
            yield classes

    with open_tiff_windows(source.path, model.reading) as windows:
        assert windows is not None
        write_mask(model, settings, source, windows.size, counted_bands(windows))
        return summarize_classes(source.file, windows.size, counts, confidence)


def write_mask(
    model: TrainedModel, settings: PredictSettings, source: SourceImage, size: tuple[int, int],
    bands: Iterable[np.ndarray],
) -> None:  # fmt: skip
    """Write the mask of an image as PNG, or as GeoTIFF where the image has a georeference. size: (H, W). bands: class
    ids, (rows, W) each, from top to bottom. Raises UserError where the disk refuses, and what `bands` raises."""
    mask_format = choose_mask_format(settings.encoding, model)
    georeference = read_georeference(source.path)
    file = mask_path(settings.folder, source.name, GEOTIFF_SUFFIX if georeference else PNG_SUFFIX)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file, flush=False) as new:
            if georeference:
                write_geotiff(new, size, bands, mask_format, georeference)
            else:
                write_png(new, size, bands, mask_format)
    except OSError as error:
        raise cannot_write(file, error) from error


def classify_windows(
    model: TrainedModel, settings: PredictSettings, windows: TiffWindows
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Class ids and confidence, (rows, W) each, of a TIFF from top to bottom."""
    side = settings.tile or choose_tile_side(windows.size[1], len(model.class_names), memory_at_start(model.device))
    for band in predict_bands(model, settings, windows.read_rows, windows.size, side):
        valid = None if band.missing is None else ~band.missing
        yield ids_of_classes(band.probs, valid), band.probs.amax(dim=0).numpy()
