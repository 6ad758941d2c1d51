"""`ssss predict`: a run's predictions of new images, as files."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.atomic_write import replacing_file
from ssss_zoo.deploy.exported_models import open_model
from ssss_zoo.deploy.geotiff import write_geotiff
from ssss_zoo.deploy.image_progress import show_images
from ssss_zoo.deploy.image_sources import SourceImage, check_output, find_images, looks_like_masks
from ssss_zoo.deploy.inference import classify_windows, predict_pixels
from ssss_zoo.deploy.loaded_images import THREADS, LoadedImage, batches, load_frames, read_ahead, read_source
from ssss_zoo.deploy.mask_format import MaskFormat, choose_mask_format, write_png
from ssss_zoo.deploy.polygon_files import COCO_FILE, COCO_FORMAT, join_coco_files, write_polygons
from ssss_zoo.deploy.predict_settings import RESULT_KEYS, PredictSettings, parse_settings
from ssss_zoo.deploy.prediction_files import (
    CSV_NAME,
    GEOTIFF_SUFFIX,
    PNG_SUFFIX,
    POLYGONS,
    PROBABILITY_FOLDERS,
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
)
from ssss_zoo.deploy.trained import TrainedModel, likeliest_classes, mark_void
from ssss_zoo.deploy.video import (
    OVERLAY_VIDEO_SUFFIX,
    Video,
    is_video,
    open_video,
    write_overlay_video,
)
from ssss_zoo.errors import Interrupted, UserError, cannot_write, expanded, out_of_memory
from ssss_zoo.text import count

WRITE_AHEAD = 16  # batches that wait to be written (our choice)
TABLE_SECONDS = 10.0  # between two writings of predictions.csv (our choice)
log = logging.getLogger("ssss_zoo")


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
class PredictJob:
    """What a command predicts with. record: what its predictions depend on."""

    model: TrainedModel
    settings: PredictSettings
    mask_format: MaskFormat
    record: PredictionRecord


def predict_files(overrides: Iterable[str]) -> PredictResult:
    """Predict the images that the overrides name, and write the results. Raises UserError before the first image for
    what a person can fix; a file that cannot be read is named in the result."""
    settings = parse_settings(overrides)
    if is_video(expanded(settings.input)):
        return predict_video(settings, open_video(expanded(settings.input)))
    images = find_images(settings.input)
    check_output(settings.input, settings.folder)
    job = open_job(settings, f"{count(len(images), 'image')} of {settings.input}")
    model = job.model
    if model.reading.channels == 3 and looks_like_masks(images, len(model.class_names)):
        log.warning(f"input={settings.input} looks like a folder of masks, not of images: {images[0].path}")
    rows = find_rows(job, images)
    write_prediction_record(settings.folder, job.record)
    todo = [image for image in images if image.file not in rows]
    loaded = read_ahead(todo, partial(read_source, model))
    unreadable = run_predictions(job, loaded, len(todo), rows)
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
    job = open_job(settings, f"{count(len(video.frames), 'frame')} of {video.path}")
    by_frame = replace(settings, save=[folder for folder in settings.save if folder != "overlays"])
    job = replace(job, settings=by_frame)
    rows = find_rows(job, video.frames)
    write_prediction_record(settings.folder, job.record)
    todo = len(video.frames) - len(rows)
    unreadable = run_predictions(job, load_frames(job.model, video, rows), todo, rows)
    masks = [mask_path(settings.folder, frame.name, PNG_SUFFIX) for frame in video.frames]
    predicted = {frame.name for frame, mask in zip(video.frames, masks, strict=True) if mask.exists()}
    if "overlays" in settings.save and predicted:
        write_overlay_video(overlays, video, masks, job.model.colours, predicted)
    return PredictResult(
        output=settings.folder,
        source=job.model.source,
        predicted=len(predicted) - len(rows),
        skipped=len(rows),
        saved=tuple(settings.save),
        unreadable=tuple(unreadable),
    )


def open_job(settings: PredictSettings, images: str) -> PredictJob:
    """The model, and the form of its masks. images: how many of what, for the person. Raises UserError before the first
    image for masks that cannot be written."""
    model = open_model(settings.run, settings.weights or None, settings.network or None, settings.device)
    log.info(f"{model.source}; {images}")
    mask_format = choose_mask_format(settings.encoding, model)
    record = make_prediction_record(model, {key: getattr(settings, key) for key in RESULT_KEYS})
    return PredictJob(model, settings, mask_format, record)


def find_rows(job: PredictJob, images: Sequence[SourceImage]) -> dict[str, PredictionRow]:
    """The rows of the images that an earlier command predicted, by file. Raises UserError where an output exists and
    neither resume nor overwrite is given, and where the output to resume is of another model or other settings."""
    settings = job.settings
    table = settings.folder / CSV_NAME
    started = settings.folder / RECORD_NAME
    if settings.overwrite:
        return {}
    if settings.resume:
        if table.exists() or started.exists():
            check_prediction_record(settings.folder, job.record)
        rows = read_rows(table, len(job.model.class_names))
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


# --- predicting and writing -----------------------------------------------------------------------------------------


def run_predictions(
    job: PredictJob, images: Iterable[LoadedImage], total: int, rows: dict[str, PredictionRow]
) -> list[str]:
    """Predict and write all images; returns the messages of those that could not be read. total: the number of images.
    rows: of earlier images. Raises Interrupted, with the table written, where a stop was asked for."""
    table, names = job.settings.folder / CSV_NAME, job.model.class_names
    finished = list(rows.values())
    unreadable: list[str] = []
    waiting: deque[Future[list[PredictionRow]]] = deque()
    table_written = time.monotonic()
    try:
        with ThreadPoolExecutor(THREADS) as writers, show_images(total, "predict") as advance:
            for batch in batches(images):
                try:
                    written, job = predict_in_memory(job, batch, writers, advance)
                    waiting.append(written)
                except UnreadableImage as error:
                    log.warning(str(error))
                    unreadable.append(str(error))
                    advance(len(batch))
                while len(waiting) > WRITE_AHEAD:
                    finished += waiting.popleft().result()
                if time.monotonic() - table_written > TABLE_SECONDS:
                    write_rows(table, finished, names)
                    table_written = time.monotonic()
            while waiting:
                finished += waiting.popleft().result()
    except KeyboardInterrupt as stop:
        raise Interrupted(f"{str(stop) or 'stopped'}; the same command with resume=true goes on") from stop
    finally:  # by now the writers have ended, and what they wrote counts after an error, too
        finished += [row for future in waiting if not future.exception() for row in future.result()]
        write_rows(table, finished, names)
    return unreadable


def predict_in_memory(
    job: PredictJob, batch: Sequence[LoadedImage], writers: ThreadPoolExecutor, advance: Callable[[float], None]
) -> tuple[Future[list[PredictionRow]], PredictJob]:
    """As `predict_batch`, in smaller tiles where the memory does not suffice; and the job for the next images. Raises
    UserError where it does not suffice for the smallest tiles."""
    path = batch[0].source.path
    while True:
        try:
            return predict_batch(job, batch, writers, advance), job
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            side = (job.settings.tile or 2 * TILE_SIDE) // 2
            if side < TILE_SIDE_MIN:
                raise UserError(
                    f"out of memory at {path}, even in tiles of {job.settings.tile} pixels: close other programs, or "
                    "give device=cpu, a smaller tile=, or scales=1"
                ) from error
        log.warning(f"out of memory at {path}: from here on in tiles of {side} pixels")
        job = replace(job, settings=replace(job.settings, tile=side))
        if job.model.device.type == "cuda":
            torch.cuda.empty_cache()


def predict_batch(
    job: PredictJob, batch: Sequence[LoadedImage], writers: ThreadPoolExecutor, advance: Callable[[float], None]
) -> Future[list[PredictionRow]]:
    """Predict images of one size, and let a writer write them. advance: see `show_images`. Raises UnreadableImage."""
    first = batch[0]
    if first.error:
        raise UnreadableImage(first.error)
    if first.windowed:
        row = predict_windows(job, first, advance)
        return writers.submit(lambda: [row])
    probs = predict_pixels(job.model, job.settings, [image.pixels for image in batch if image.pixels is not None])
    classes, confidence = likeliest_classes(probs)
    kept = probs if PROBABILITY_FOLDERS & set(job.settings.save) else None  # else its memory serves the next batch
    advance(len(batch))
    return writers.submit(write_batch, job, batch, classes, confidence, kept)


# --- writing --------------------------------------------------------------------------------------------------------


def write_batch(
    job: PredictJob, batch: Sequence[LoadedImage], classes: Tensor, confidence: Tensor, probs: Tensor | None
) -> list[PredictionRow]:
    """Write the files of images of one size; returns their rows. classes, confidence: (B, H, W), and probs,
    (B, C, H, W), on the device; probs are given where they are saved."""
    on_host = classes.cpu().numpy(), confidence.cpu().numpy()  # which waits for the device, once a batch
    return [
        write_outputs(job, image, mark_void(ids, image.valid), highest, None if probs is None else probs[number])
        for number, (image, ids, highest) in enumerate(zip(batch, *on_host, strict=True))
    ]


def write_outputs(
    job: PredictJob, image: LoadedImage, classes: np.ndarray, confidence: np.ndarray, probs: Tensor | None
) -> PredictionRow:
    """Write the mask of an image and what else is saved; returns its row. classes, confidence: (H, W). probs:
    (C, H, W), or None where they are not saved."""
    assert image.pixels is not None
    source, settings = image.source, job.settings
    for folder in settings.save:
        file = output_path(settings.folder, folder, source.name)
        if folder == POLYGONS:
            name = source.file if settings.polygons == COCO_FORMAT else source.path.name
            write_polygons(file, settings.polygons, classes, job.model.class_names, name)
        else:
            save_extra(file, folder, image.pixels, classes, probs, job.model.colours)
    write_mask(job, image, classes.shape, [classes])
    counts = count_classes(classes, len(job.model.class_names))
    total = float(confidence.sum() if image.valid is None else confidence[image.valid].sum())
    return summarize_classes(source.file, classes.shape, counts, total)


def predict_windows(job: PredictJob, image: LoadedImage, advance: Callable[[float], None]) -> PredictionRow:
    """Predict a large TIFF by rows of tiles, and write its mask as it comes. advance: gets the share of the image that
    each row of tiles is. Raises UnreadableImage, and UserError where the disk refuses."""
    model, settings, source = job.model, job.settings, image.source
    if settings.save:
        log.warning(f"{source.path} is read in windows: its mask alone is written, without {', '.join(settings.save)}")
    counts = np.zeros(len(model.class_names), np.int64)
    confidence, shown = 0.0, 0.0

    def counted_bands(windows: TiffWindows) -> Iterator[np.ndarray]:
        nonlocal counts, confidence, shown
        for classes, highest in classify_windows(model, settings, windows):
            counts += count_classes(classes, len(counts))
            confidence += float(highest[classes < len(counts)].sum())
            yield classes
            share = len(classes) / windows.size[0]
            advance(share)
            shown += share

    with open_tiff_windows(source.path, model.reading) as windows:
        assert windows is not None
        try:
            write_mask(job, image, windows.size, counted_bands(windows))
        except (UserError, MemoryError, RuntimeError):
            advance(-shown)  # the image is left out, or predicted anew in smaller tiles
            raise
        return summarize_classes(source.file, windows.size, counts, confidence)


def write_mask(job: PredictJob, image: LoadedImage, size: tuple[int, int], bands: Iterable[np.ndarray]) -> None:
    """Write the mask of an image as PNG, or as GeoTIFF where the image has a georeference. size: (H, W). bands: class
    ids, (rows, W) each, from top to bottom. Raises UserError where the disk refuses, and what `bands` raises."""
    suffix = GEOTIFF_SUFFIX if image.georeference else PNG_SUFFIX
    file = mask_path(job.settings.folder, image.source.name, suffix)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file, flush=False) as new:
            if image.georeference:
                write_geotiff(new, size, bands, job.mask_format, image.georeference)
            else:
                write_png(new, size, bands, job.mask_format)
    except OSError as error:
        raise cannot_write(file, error) from error
