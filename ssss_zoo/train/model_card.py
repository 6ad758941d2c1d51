"""The model card of a finished run, card.md in the form of the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import Metrics
from ssss_zoo.text import count, visible
from ssss_zoo.train.run_folder import RunFolder

if TYPE_CHECKING:
    from jinja2 import Template

FEW_VALIDATION_IMAGES = 50  # below so many the card warns of chance in the figures (our choice)
UNKNOWN_LICENCE = "not known to this program: the owner of the images decides who may use a model trained on them"
log = logging.getLogger("ssss_zoo")


def write_model_card(
    folder: RunFolder, config: Config, dataset: Dataset, methods: Mapping[str, Any], metrics: Metrics
) -> None:
    """Write card.md into the folder of a run that was evaluated. A disk that refuses costs a warning, never the run."""
    if not metrics["val"]:
        return
    try:
        write_text(folder.card, model_card(config, dataset, methods, metrics))
    except UserError as error:
        log.warning(f"{error}; the run itself is complete")


def model_card(config: Config, dataset: Dataset, methods: Mapping[str, Any], metrics: Metrics) -> str:
    """The text of card.md. methods: of the run, by name."""
    benchmark = dataset.benchmark
    return card_template().render(
        title=f"{config.method} on {config.dataset}, split {config.data.split}, seed {config.seed}",
        config=config,
        metrics=metrics,
        val=metrics["val"],
        crop=square(config.train.crop),
        methods=[f"{name}, {getattr(method, 'paper', 'which names no paper')}" for name, method in methods.items()],
        source=dataset.source,
        licence=benchmark.licence if benchmark else UNKNOWN_LICENCE,
        limits=limits_of(metrics, config),
    )


@cache
def card_template() -> Template:
    from jinja2 import Environment

    text = files("ssss_zoo.train").joinpath("card.md.j2").read_text("utf-8")
    return Environment(finalize=one_line, keep_trailing_newline=True).from_string(text)


def one_line(value: Any) -> Any:
    """Text with its line breaks and control characters as escapes, so that no name can add a line to the card."""
    return visible(value).replace("|", "\\|") if type(value) is str else value


def limits_of(metrics: Metrics, config: Config) -> list[str]:
    """The reasons to be careful with the figures, one sentence each, from what the run knows."""
    val, images = metrics["val"], metrics["data"]["val"]
    limits = ["These are the figures of one seed. Runs of the same settings with other seeds differ."]
    if images < FEW_VALIDATION_IMAGES:
        limits.append(f"The figures come from {count(images, 'validation image')}: chance has a large part in them.")
    absent = [name for name, iou in val["iou"].items() if iou is None]
    if absent:
        limits.append(f"Nothing is known of the classes {', '.join(absent)}: no validation image shows them.")
    poor = [name for name, iou in val["iou"].items() if iou is not None and iou < val["miou"] / 2]
    if poor:
        limits.append(f"It finds these classes less than half as well as the mean: {', '.join(poor)}.")
    if config.model.weights == "imagenet":
        limits.append("The encoder starts from ImageNet weights. Their licence is that of their publisher.")
    limits.append("Images of another kind than those of the training were not tried.")
    return limits
