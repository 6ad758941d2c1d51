"""`ssss label`: chooses the unlabelled images of a run that would help most if a person labelled them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.config.fields import Range
from ssss_zoo.config.parse import build_typed, parse_overrides, split_overrides
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.split_lists import find_root
from ssss_zoo.data.tools.audit import samples_by_part
from ssss_zoo.deploy.acquisition import (
    UNCERTAINTIES,
    ChosenImage,
    Diversity,
    Uncertainty,
    choose_core_set,
    choose_k_means,
    mean_uncertainty,
    most_uncertain,
)
from ssss_zoo.deploy.image_progress import show_images
from ssss_zoo.deploy.image_sources import SourceImage, common_folder, name_images
from ssss_zoo.deploy.inference import predict_pixels
from ssss_zoo.deploy.label_files import (
    CONTACT_SHEET,
    IMAGES,
    LABEL_CLASSES,
    LABEL_CSV,
    SHEET_IMAGES_MAX,
    LabelFormat,
    LabelRow,
    check_new_folder,
    copy_image,
    filling_folder,
    join_annotations,
    sheet_panels,
    write_class_names,
    write_contact_sheet,
    write_label_csv,
    write_mask_to_correct,
)
from ssss_zoo.deploy.loaded_images import LoadedImage, batches, read_ahead, read_whole
from ssss_zoo.deploy.polygon_files import COCO_FORMAT
from ssss_zoo.deploy.predict_settings import PredictSettings
from ssss_zoo.deploy.trained import TrainedModel, ids_of_classes, load_model
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.evaluation.sheets import Panel
from ssss_zoo.text import count
from ssss_zoo.toolkit.types import Output, Sample
from ssss_zoo.train.reevaluate import class_order, reordered, run_config, warn_of_other_data
from ssss_zoo.train.run_folder import find_run
from ssss_zoo.train.setup import open_dataset

CANDIDATES_PER_IMAGE = 2  # most uncertain images for each that is chosen, as 16 for 8 in Yang et al.
CANDIDATES_SHARE = 0.5  # of the pool, where that is more (our choice): the most uncertain frames of a video are alike
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True)
class LabelSettings:
    """The arguments of `ssss label` that choose images. by: the measure of uncertainty, or a choice without one.
    diversity: empty for the default. candidates: the most uncertain images, of which the core-set is chosen. simplify:
    how far, in pixels, the corners of a polygon may lie from the predicted mask."""

    run: str = ""
    output: str = ""
    count: Annotated[int, Range(1)] = 20
    by: Literal["entropy", "margin", "confidence", "diversity", "random"] = "entropy"
    diversity: Literal["", "core-set", "k-means++", "none"] = ""
    candidates: Annotated[int | None, Range(1)] = None
    format: LabelFormat = "labelme"
    simplify: Annotated[float, Range(0, 50)] = 1.0
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    weights: Literal["", "last", "best"] = ""
    network: str = ""
    device: str = "auto"
    tile: Annotated[int | None, Range(32)] = None

    @property
    def uncertainty(self) -> Uncertainty:
        """The measure of uncertainty; without one, entropy is shown and decides nothing."""
        return cast("Uncertainty", self.by) if self.by in UNCERTAINTIES else "entropy"

    @property
    def choice(self) -> Diversity:
        """How diverse images are chosen: by default by the core-set, which goes well with few labels (our choice)."""
        return self.diversity or "core-set"


@dataclass(frozen=True)
class LabelResult:
    """The images that were chosen. rows: the images, in the order of their choice. pool: the number of unlabelled
    images. unreadable: how many of them could not be read."""

    output: Path
    source: str
    rows: tuple[LabelRow, ...]
    pool: int
    settings: LabelSettings
    unreadable: int


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """An image that was predicted. features: (D,) the mean of the encoder's last map over the image, of length 1."""

    source: SourceImage
    uncertainty: float
    features: Tensor


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """Images that were predicted, and the messages of those that could not be read."""

    images: tuple[ScoredImage, ...] = ()
    unreadable: tuple[str, ...] = ()


def label_images(overrides: Iterable[str]) -> LabelResult:
    """Choose images, predict their masks and write both for a person to correct. Raises UserError before the first
    image for what a person can fix; an image that cannot be read is named in the result and not chosen."""
    data, own = split_overrides(overrides, "data.")
    settings = parse_label_settings(own)
    output = expanded(settings.output)
    folder = find_run(settings.run)
    model = load_model(settings.run, settings.weights or None, settings.network or None, settings.device)
    dataset, config = open_run_data(folder, [f"{key}={text}" for key, text in data.items()])
    check_new_folder(output, find_root(config.data, config.dataset, "its images"))
    model = with_classes_of(model, dataset, folder)
    warn_of_other_data(folder, dataset)
    parts = samples_by_part(dataset)
    check_count(settings.count, parts["unlabelled"], config)
    log.info(f"{model.source}; {count(len(parts['unlabelled']), 'unlabelled image')}")
    pool = [as_source(sample) for sample in parts["unlabelled"]]
    labelled = [as_source(sample) for sample in parts["labelled"]]
    choice = choose_images(model, settings, pool, labelled)
    rows = write_chosen(model, settings, dataset, choice, output)
    return LabelResult(
        output=output,
        source=model.source,
        rows=tuple(rows),
        pool=len(pool),
        settings=settings,
        unreadable=len(choice.unreadable) + len(choice.sources) - len(rows),
    )


# --- the run and its data -------------------------------------------------------------------------------------------


def parse_label_settings(overrides: Iterable[str]) -> LabelSettings:
    """The settings that `key=value` arguments make. Raises UserError for an unknown key, a wrong value, and values that
    exclude each other."""
    settings: LabelSettings = build_typed(LabelSettings, parse_overrides(overrides))
    for key in ("run", "output"):
        if not getattr(settings, key):
            raise UserError(f"give {key}=: ssss label run=DIR count=20 output=DIR, or ssss label run=DIR take=FOLDER")
    if settings.by == "random" and settings.diversity:
        raise UserError(f"by=random draws images whatever they show: leave out diversity={settings.diversity}")
    if settings.by == "diversity" and settings.diversity == "none":
        raise UserError("by=diversity with diversity=none leaves nothing to choose by: give by=entropy, or core-set")
    uncertain_first = settings.by in UNCERTAINTIES and settings.choice == "core-set"
    if settings.candidates is not None and not uncertain_first:
        raise UserError(
            "candidates= is the number of uncertain images of which diversity=core-set chooses, with "
            f"by={', '.join(UNCERTAINTIES)}: leave it out"
        )
    if settings.candidates is not None and settings.candidates < settings.count:
        raise UserError(f"candidates={settings.candidates} is less than count={settings.count}: give at least as many")
    return settings


def open_run_data(folder: Path, overrides: Sequence[str]) -> tuple[Dataset, Config]:
    """The data set of a run and its configuration, changed by the overrides. Raises UserError for a data set that is
    not stored in files."""
    config = run_config(folder, overrides)
    dataset, config = open_dataset(load("datasets", config.dataset), config)
    if not all(isinstance(sample.image, Path) for sample in (*dataset.labelled, *dataset.unlabelled)):
        raise UserError(f"dataset={config.dataset} is drawn in memory: there are no image files to label")
    return dataset, config


def with_classes_of(model: TrainedModel, dataset: Dataset, folder: Path) -> TrainedModel:
    """The model with the classes in the order of the data set. Raises UserError where their names differ."""
    network = reordered(model.network, class_order(model.class_names, dataset.class_names, folder))
    return replace(model, network=network, class_names=dataset.class_names, colours=tuple(dataset.colours))


def check_count(number: int, unlabelled: Sequence[Sample], config: Config) -> None:
    """Raise UserError where there are no unlabelled images, or fewer than asked for."""
    where = f"{config.dataset} with data.split={config.data.split}"
    if not unlabelled:
        raise UserError(
            f"no unlabelled image is left in {where}: add images without masks, or give another data.split="
        )
    if number > len(unlabelled):
        raise UserError(f"count={number} is more than the {count(len(unlabelled), 'unlabelled image')} of {where}")


def as_source(sample: Sample) -> SourceImage:
    return SourceImage(sample.image, sample.name, sample.name)


# --- scores ---------------------------------------------------------------------------------------------------------


def score_images(
    model: TrainedModel, settings: LabelSettings, sources: Sequence[SourceImage], title: str
) -> ScoredImages:
    """Predict images, and keep of each its uncertainty and its features. title: of the progress bar."""
    scored: list[ScoredImage] = []
    unreadable: list[str] = []
    with show_images(len(sources), title) as advance:
        for batch in batches(read_ahead(sources, partial(read_whole, model))):
            if batch[0].error:
                log.warning(batch[0].error)
                unreadable.append(batch[0].error)
            else:
                pixels = [image.pixels for image in batch if image.pixels is not None]
                probs, features = predict_with_features(model, settings, pixels)
                scored += [
                    ScoredImage(image.source, mean_uncertainty(settings.uncertainty, likely, image.valid), vector)
                    for image, likely, vector in zip(batch, probs, features, strict=True)
                ]
            advance(len(batch))
    return ScoredImages(tuple(scored), tuple(unreadable))


def predict_with_features(
    model: TrainedModel, settings: LabelSettings, images: Sequence[np.ndarray]
) -> tuple[list[Tensor], Tensor]:
    """Probabilities (C, H, W) of images of one size, and their features (B, D) on the CPU, of length 1, so that
    distances compare directions as the cosine does in Yang et al."""
    probs: list[Tensor] = []
    features: list[Tensor] = []
    together = len(images) if settings.tile is None else 1  # the tiles of an image are predicted one after the other
    for start in range(0, len(images), together):
        with pooled_features(model.network) as pooled:
            probs += predict_pixels(model, PredictSettings(tile=settings.tile), images[start : start + together])
        features.append(torch.stack(pooled).mean(dim=0))
    return probs, F.normalize(torch.cat(features).cpu(), dim=1)


@contextmanager
def pooled_features(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that gets, at each forward pass of the block, the mean over the pixels of the encoder's last map,
    (B, D): the image descriptor of Yang et al. A network without such maps gives the decoder's last map."""
    pooled: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Output) -> None:
        last = output.maps[-1] if output.maps else output.features
        pooled.append(last.float().mean(dim=(2, 3)))

    handle = network.register_forward_hook(keep)
    try:
        yield pooled
    finally:
        handle.remove()


# --- choice ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabelChoice:
    """The images that were chosen, in the order of their choice. distances: as in `ChosenImage`. unreadable: the
    messages of images that could not be read."""

    sources: tuple[SourceImage, ...]
    distances: tuple[float | None, ...]
    unreadable: tuple[str, ...] = ()


def choose_images(
    model: TrainedModel, settings: LabelSettings, pool: Sequence[SourceImage], labelled: Sequence[SourceImage]
) -> LabelChoice:
    """Choose `count` images of the pool. Raises UserError where too few of them can be read."""
    if settings.by == "random":
        drawn = np.random.default_rng(settings.seed).choice(len(pool), settings.count, replace=False)
        return LabelChoice(tuple(pool[index] for index in drawn), (None,) * settings.count)
    scored = score_images(model, settings, pool, "score")
    if len(scored.images) < settings.count:
        raise UserError(
            f"count={settings.count} is more than the {count(len(scored.images), 'unlabelled image')} that can be "
            f"read: {scored.unreadable[0]}"
        )
    chosen = choose_scored(model, settings, scored.images, labelled)
    sources = tuple(scored.images[image.index].source for image in chosen)
    return LabelChoice(sources, tuple(image.distance for image in chosen), scored.unreadable)


def choose_scored(
    model: TrainedModel, settings: LabelSettings, images: Sequence[ScoredImage], labelled: Sequence[SourceImage]
) -> list[ChosenImage]:
    """Choose by uncertainty and diversity.

    core-set: in two stages, as Yang et al. (Suggestive annotation, MICCAI 2017, arXiv 1706.04737): the most uncertain
    images are candidates, and of these the most diverse ones are chosen, here by k-centre. k-means++: the features,
    each as long as the image is uncertain, take the place of BADGE's gradients, whose length is the uncertainty, too
    (our choice).
    """
    uncertainties = [image.uncertainty for image in images]
    if settings.choice == "none":
        return [ChosenImage(index) for index in most_uncertain(uncertainties, settings.count)]
    features = torch.stack([image.features for image in images])
    if settings.choice == "k-means++":
        lengths = torch.ones(len(images)) if settings.by == "diversity" else torch.tensor(uncertainties)
        return choose_k_means(features * lengths[:, None], settings.count, settings.seed)
    usual = max(CANDIDATES_PER_IMAGE * settings.count, round(CANDIDATES_SHARE * len(images)))
    number = settings.candidates or usual
    candidates = most_uncertain(uncertainties, len(images) if settings.by == "diversity" else number)
    centres = score_images(model, settings, labelled, "labelled").images
    if not centres:
        raise UserError("none of the labelled images can be read: ssss data check names what is wrong with them")
    chosen = choose_core_set(features[candidates], torch.stack([image.features for image in centres]), settings.count)
    return [replace(image, index=candidates[image.index]) for image in chosen]


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PredictedImage:
    """A chosen image with its predicted classes (H, W)."""

    loaded: LoadedImage
    classes: np.ndarray
    uncertainty: float


def predict_chosen(
    model: TrainedModel, settings: LabelSettings, sources: Sequence[SourceImage]
) -> Iterator[PredictedImage | None]:
    """The prediction of each image in order; None for one that cannot be read, which is warned of."""
    with show_images(len(sources), "write") as advance:
        for batch in batches(read_ahead(sources, partial(read_whole, model))):
            if batch[0].error:
                log.warning(batch[0].error)
                yield None
            else:
                pixels = [image.pixels for image in batch if image.pixels is not None]
                probs = predict_pixels(model, PredictSettings(tile=settings.tile), pixels)
                for image, likely in zip(batch, probs, strict=True):
                    uncertain = mean_uncertainty(settings.uncertainty, likely, image.valid)
                    yield PredictedImage(image, ids_of_classes(likely, image.valid), uncertain)
            advance(len(batch))


def write_chosen(
    model: TrainedModel, settings: LabelSettings, dataset: Dataset, choice: LabelChoice, output: Path
) -> list[LabelRow]:
    """Write the chosen images and their masks, the contact sheet and the table; returns the lines of the table."""
    paths = [source.path for source in choice.sources]
    copies = name_images(paths, common_folder(paths))
    rows: list[LabelRow] = []
    panels: list[list[Panel]] = []
    with filling_folder(output) as folder:
        for number, found in enumerate(predict_chosen(model, settings, copies)):
            if found is None:
                continue
            copy, pixels = copies[number], found.loaded.pixels
            assert pixels is not None
            row = LabelRow(
                rank=len(rows) + 1,
                image=choice.sources[number].file,
                file=f"{IMAGES}/{copy.file}",
                uncertainty=found.uncertainty,
                distance=choice.distances[number],
            )
            copy_image(copy, folder)
            write_mask_to_correct(folder, settings.format, copy, found.classes, dataset, settings.simplify)
            rows.append(row)
            if len(panels) < SHEET_IMAGES_MAX:
                panels.append(sheet_panels(pixels, found.classes, row, dataset))
        if not rows:
            raise UserError("none of the chosen images can be read")
        if settings.format == COCO_FORMAT:
            join_annotations(folder)
        write_class_names(folder / LABEL_CLASSES, dataset)
        write_contact_sheet(folder / CONTACT_SHEET, panels, dataset)
        write_label_csv(folder / LABEL_CSV, rows)
    return rows
