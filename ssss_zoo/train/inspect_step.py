"""`ssss inspect`: one step as a picture. What each view shows, what the pseudo-labels say, which pixels count and how
much, who answered which hook: where a bug of a method is seen first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.registry import build_methods, hook_summary, load
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.evaluation.figures import (
    PANEL_GAP,
    TEXT_HEIGHT,
    Panel,
    class_bars,
    colour_classes,
    photo,
    sheet,
    stack_vertically,
)
from ssss_zoo.record_files import TrainingState
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Batch, PseudoLabel, RawBatch, Stage, ViewOutput
from ssss_zoo.train import checkpoint
from ssss_zoo.train.reevaluate import find_checkpoint, run_config
from ssss_zoo.train.run import make_job, make_training
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import open_dataset
from ssss_zoo.train.trainer import Training

OWN = {"run": "", "after": "0", "images": "4", "file": "inspect.png"}  # words that are not configuration
SIDE = 160  # pixels that a panel is wide at least (our choice)
FRAME = (255, 60, 60)  # around the boxes of a view


@dataclass
class Look:
    """What was seen of a step: the batch as the hooks got it, the weak views' labels and weights, each view with its
    class weights (C,), and the losses."""

    batch: Batch
    losses: dict[str, float] = field(default_factory=dict)
    weak: list[tuple[PseudoLabel, Tensor]] = field(default_factory=list)
    views: list[tuple[ViewOutput, Tensor]] = field(default_factory=list)


def inspect_words(words: Iterable[str]) -> tuple[Image.Image, Path]:
    """The picture that the words ask for, and the file that they name. run=DIR: with the weights of that run; after=N:
    after so many steps of training; images=N: of the batch. Raises UserError as a run does."""
    given = list(words)
    own = OWN | {key: value for key, _, value in (word.partition("=") for word in given) if key in OWN}
    rest = [word for word in given if word.partition("=")[0] not in OWN]
    file = expanded(own["file"])
    if file.suffix not in (".png", ".jpg") or not file.resolve().parent.is_dir():
        raise UserError(f"file={file} takes a .png or .jpg in a folder that is there")
    config = run_config(expanded(own["run"]), rest, methods=True) if own["run"] else resolve(rest)
    after, images = (whole_number(key, own[key], least) for key, least in (("after", 0), ("images", 1)))
    return inspect_step(config, own["run"] or None, after, images), file


def whole_number(key: str, text: str, least: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise UserError(f"{key} takes a whole number from {least} to 999999999, got '{brief(text)}'")
    return int(text)


def inspect_step(config: Config, run: str | None = None, after: int = 0, images: int = 4) -> Image.Image:
    """One step of a run as a picture; nothing is written. Parameters and what is raised: as in `inspect_words`."""
    steps = config.train.steps or (None if config.train.epochs else max(after + 1, 100))
    config = replace(
        config,
        train=replace(config.train, workers=0, steps=steps),
        tracking=replace(config.tracking, uri="off"),
    )
    methods = build_methods(config)
    dataset, config = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    training = make_training(make_job(config, methods, dataset, RunFolder(Path("nowhere"))), Stage(), 0, 0)
    if run:
        place = find_checkpoint(expanded(run), "last")
        training.restore_folder(place, checkpoint.load_typed(place, TrainingState))
    begin = min(training.step, training.steps - 1)
    feed = training.open_feed(begin)
    for step in range(begin, begin + after):
        training.engine.step(feed, training.progress(step))
    names = feed.names(begin + after)
    look = look_at(training, next(feed), begin + after)
    rows = [row_of(look, index, dataset, names) for index in range(min(images, len(look.batch.labelled.image)))]
    return stack_vertically([sheet(rows, dataset), facts(look, training, begin + after)])


def look_at(training: Training, raw: RawBatch, step: int) -> Look:
    """Make the losses of a step and keep what they were made of."""
    engine = training.engine
    progress = training.progress(step)
    seed_draws(engine.seed, step, 0)
    look = Look(engine.to_device(raw, engine.draw(raw, progress)))
    engine.on_pseudo_label = lambda label, weight, hidden: look.weak.append((label, weight))
    engine.on_view = lambda seen, weights: look.views.append((seen, weights))
    seed_draws(engine.seed, step, 0)
    losses = engine.losses(raw, progress)
    look.losses = {name: loss.item() for name, loss in losses.items()}
    return look


# --- panels ---------------------------------------------------------------------------------------------------------


def row_of(look: Look, index: int, dataset: Any, names: Mapping[str, Sequence[str]]) -> list[Panel]:
    """Heads and pictures of the index-th images of the batch, of the first student. names: of the images, by stream."""
    batch = look.batch
    panels = [
        (f"labelled: {names['labelled'][index]}", pixels(batch.labelled.image[index])),
        ("its mask", colour_classes(ids(batch.labelled.mask[index]), dataset)),
    ]
    if batch.unlabelled and look.weak:
        label, weight = look.weak[0]
        panels += [
            (f"weak view: {names['unlabelled'][index]}", pixels(batch.unlabelled.image[index])),
            ("pseudo-label", colour_classes(ids(label.ids[index]), dataset)),
            ("confidence, 0 to 1", grey(label.confidence[index], 1.0)),
            (scaled("pixel weight", weight), grey(weight[index], top_of(weight))),
        ]
    views = {seen.view.name for seen, _ in look.views}
    for seen, _ in look.views[: len(views)]:  # those of further students come after
        name, weight = seen.view.name, seen.weight * seen.label.valid
        panels += [
            (f"{name}: what it shows", framed(pixels(seen.image[index]), seen.box, index)),
            (f"{name}: its target", colour_classes(ids(seen.label.ids[index]), dataset)),
            (scaled(f"{name}: weight", weight), grey(weight[index], top_of(weight))),
        ]
    return [(head, enlarged(panel)) for head, panel in panels]


def pixels(image: Tensor) -> np.ndarray:
    """(channels, H, W) in [0, 1] as (H, W, 3) uint8."""
    return photo((image.detach().float().clamp(0, 1) * 255).permute(1, 2, 0).cpu().numpy())


def ids(mask: Tensor) -> np.ndarray:
    return mask.to("cpu", torch.uint8).numpy()


def grey(values: Tensor, top: float) -> np.ndarray:
    """(H, W) from 0, black, to `top`, white."""
    return photo((values.detach().float().clamp(0, top) * (255 / top)).cpu().numpy()[..., None])


def top_of(weight: Tensor) -> float:
    """What white stands for: the largest weight, or 1 where all are 0."""
    return weight.max().item() or 1.0


def scaled(head: str, weight: Tensor) -> str:
    return f"{head}, 0 to {top_of(weight):.3g}"


def framed(image: np.ndarray, box: Tensor | None, index: int) -> np.ndarray:
    """The image with a line around what was laid over it."""
    if box is not None:
        inside = box[index][None, None].float()
        rim = (inside > 0) & (F.max_pool2d(1 - inside, 3, 1, 1) > 0)
        image = image.copy()
        image[rim[0, 0].cpu().numpy()] = FRAME
    return image


def enlarged(panel: np.ndarray) -> Image.Image:
    times = max(1, -(-SIDE // panel.shape[1]))
    return Image.fromarray(panel.repeat(times, axis=0).repeat(times, axis=1))


# --- facts ----------------------------------------------------------------------------------------------------------


def facts(look: Look, training: Training, step: int) -> Image.Image:
    """Losses, who answered, how much counts, as text; then the class weights of each view that has any."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in look.losses.items())
    lines = [f"step {step + 1} of {training.steps}, losses: {losses}"]
    lines += hook_summary(training.job.hooks.manager_hooks)
    lines += [share_used(name, label, weight) for name, label, weight in counted(look)]
    text = Image.new("RGB", (900, TEXT_HEIGHT * len(lines) + 2 * PANEL_GAP), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(text).text((PANEL_GAP, PANEL_GAP + number * TEXT_HEIGHT), line, fill="black")
    weights = {seen.view.name: values.tolist() for seen, values in look.views if not torch.all(values == 1)}
    dataset = training.job.dataset
    return stack_vertically(
        [
            text,
            *(
                class_bars(f"class weights of view {name}", of, dataset, "{:.3g}".format)
                for name, of in weights.items()
            ),
        ]
    )


def counted(look: Look) -> list[tuple[str, PseudoLabel, Tensor]]:
    weak = [("weak views", *look.weak[0])] if look.weak else []
    return weak + [(f"view {seen.view.name}", seen.label, seen.weight) for seen, _ in look.views]


def share_used(name: str, label: PseudoLabel, weight: Tensor) -> str:
    valid = label.valid.sum().clamp(min=1)
    used, mean = ((value * label.valid).sum() / valid for value in ((weight > 0).float(), weight))
    return f"{name}: {100 * used.item():.1f} % of the pixels count (padding left out), mean weight {mean.item():.3g}"
