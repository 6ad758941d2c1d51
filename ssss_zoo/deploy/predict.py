"""`ssss predict`: a run's predictions of new images, as files."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssss_zoo.atomic_write import replacing_file
from ssss_zoo.deploy.exported_models import open_model
from ssss_zoo.deploy.geotiff import read_georeference, write_geotiff
from ssss_zoo.deploy.image_sources import SourceImage, check_output, find_images, looks_like_masks
from ssss_zoo.deploy.inference import classify_windows, predict_pixels
from ssss_zoo.deploy.loaded_images import (
    READ_AHEAD,
    THREADS,
    LoadedImage,
    batches,
    load_frames,
    read_ahead,
    read_source,
    show_images,
)  # fmt: skip
from ssss_zoo.deploy.mask_format import choose_mask_format, write_png
from ssss_zoo.deploy.polygon_files import COCO_FILE, COCO_FORMAT, join_coco_files, write_polygons
from ssss_zoo.deploy.predict_settings import RESULT_KEYS, PredictSettings, parse_settings
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
)
from ssss_zoo.deploy.trained import TrainedModel, ids_of_classes
from ssss_zoo.deploy.video import (
    OVERLAY_VIDEO_SUFFIX,
    Video,
    is_video,
    open_video,
    write_overlay_video,
)
from ssss_zoo.errors import UserError, cannot_write, expanded, out_of_memory
from ssss_zoo.text import count

ROWS_WRITTEN_EVERY = 50  # images between two writings of predictions.csv
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


def predict_files(overrides: Iterable[str]) -> PredictResult:
    """Predict the images that the overrides name, and write the results. Raises UserError before the first image for
    what a person can fix; a file that cannot be read is named in the result."""
    settings = parse_settings(overrides)
    if is_video(expanded(settings.input)):
        return predict_video(settings, open_video(expanded(settings.input)))
    images = find_images(settings.input)
    check_output(settings.input, settings.folder)
    model, record = open_prediction(settings, f"{count(len(images), 'image')} of {settings.input}")
    if model.reading.channels == 3 and looks_like_masks(images, len(model.class_names)):
        log.warning(f"input={settings.input} looks like a folder of masks, not of images: {images[0].path}")
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
    model, record = open_prediction(settings, f"{count(len(video.frames), 'frame')} of {video.path}")
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


def open_prediction(settings: PredictSettings, images: str) -> tuple[TrainedModel, PredictionRecord]:
    """The model, and what its predictions depend on. images: how many of what, for the person. Raises UserError before
    the first image for masks that cannot be written."""
    model = open_model(settings.run, settings.weights or None, settings.network or None, settings.device)
    log.info(f"{model.source}; {images}")
    choose_mask_format(settings.encoding, model)
    return model, make_prediction_record(model, {key: getattr(settings, key) for key in RESULT_KEYS})


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


# --- predicting and writing -----------------------------------------------------------------------------------------


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
