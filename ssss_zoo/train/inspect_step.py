"""`ssss inspect`: one step as a picture. What each view shows, what the pseudo-labels say, which pixels count and how
much, who answered which hook: where a bug of a method is seen first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ssss_zoo.config.parse import split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
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
from ssss_zoo.record_files import ResumeRecord
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Batch, PseudoLabel, RawBatch, Stage, ViewOutput
from ssss_zoo.train import checkpoint
from ssss_zoo.train.checkpointing import Checkpointer
from ssss_zoo.train.reevaluate import find_checkpoint, run_config
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import make_parts, open_dataset
from ssss_zoo.train.stage import StageParts, make_stage, open_loader

INSPECT_KEYS = {"run": "", "after": "0", "images": "4", "file": "inspect.png"}  # overrides that are not configuration
PANEL_WIDTH_MIN = 160  # pixels that a panel is wide at least (our choice)
FRAME_COLOUR = (255, 60, 60)  # around the boxes of a view


@dataclass(frozen=True, eq=False)
class InspectedStep:
    """What a step was made of. batch: as the hooks get it, on the device. weak: the pseudo-labels and pixel weights of
    the weak views, of each student. views: each view as a student saw it, with its class weights (C,)."""

    step: int
    batch: Batch
    losses: dict[str, float]
    weak: list[tuple[PseudoLabel, Tensor]]
    views: list[tuple[ViewOutput, Tensor]]


def draw_inspection(overrides: Iterable[str]) -> tuple[Image.Image, Path]:
    """The picture that the overrides ask for, and the file that they name.

    run=DIR: with the weights of that run; after=N: after so many steps of training; images=N: of the batch. Raises
    UserError as a run does.
    """
    given, rest = split_overrides(overrides, *INSPECT_KEYS)
    own = INSPECT_KEYS | given
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
    """One step of a run as a picture; nothing is written. Parameters and errors as in `draw_inspection`."""
    steps = config.train.steps or (None if config.train.epochs else max(after + 1, 100))
    train, tracking = replace(config.train, workers=0, steps=steps), replace(config.tracking, uri="off")
    config = replace(config, train=train, tracking=tracking)
    methods = build_methods(config)
    dataset, config = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    parts = make_parts(config, methods, dataset, RunFolder(Path("nowhere")))
    stage = make_stage(parts, Stage(), 0, 0)
    step = 0
    if run:
        folder = find_checkpoint(expanded(run), "last")
        state = Checkpointer(parts, stage).restore(folder, checkpoint.load_typed(folder, ResumeRecord))
        step = min(state.step, stage.steps - 1)
    loader = open_loader(parts, stage, step)
    for number in range(step, step + after):
        stage.engine.step(loader, stage.progress(number))
    names = loader.names(step + after)
    inspected = make_inspected_step(stage, next(loader), step + after)
    rows = [panels_of(inspected, index, dataset, names) for index in range(min(images, config.train.batch))]
    return stack_vertically([sheet(rows, dataset), draw_facts(inspected, stage, dataset)])


def make_inspected_step(stage: StageParts, raw: RawBatch, step: int) -> InspectedStep:
    """Compute the losses of a step and keep what they were made of."""
    engine = stage.engine
    weak: list[tuple[PseudoLabel, Tensor]] = []
    views: list[tuple[ViewOutput, Tensor]] = []
    engine.on_pseudo_label = lambda label, weight, hidden: weak.append((label, weight))
    engine.on_view = lambda view_output, class_weights: views.append((view_output, class_weights))
    progress = stage.progress(step)
    seed_draws(engine.seed, step, 0)
    batch = engine.to_device(raw, engine.draw(raw, progress))
    seed_draws(engine.seed, step, 0)
    losses = engine.losses(raw, progress)
    return InspectedStep(step, batch, {name: loss.item() for name, loss in losses.items()}, weak, views)


# --- panels ---------------------------------------------------------------------------------------------------------


def panels_of(
    inspected: InspectedStep, index: int, dataset: Dataset, names: Mapping[str, Sequence[str]]
) -> list[Panel]:
    """Titles and pictures of one image of the batch and of its first student. names: of the images, by stream."""
    batch = inspected.batch
    panels = [
        (f"labelled: {names['labelled'][index]}", pixels(batch.labelled.image[index])),
        ("its mask", colour_classes(class_ids(batch.labelled.mask[index]), dataset)),
    ]
    if batch.unlabelled and inspected.weak:
        label, weight = inspected.weak[0]
        panels += [
            (f"weak view: {names['unlabelled'][index]}", pixels(batch.unlabelled.image[index])),
            ("pseudo-label", colour_classes(class_ids(label.ids[index]), dataset)),
            ("confidence, 0 to 1", grey_levels(label.confidence[index], 1.0)),
            (weight_title("pixel weight", weight), grey_levels(weight[index], largest_weight(weight))),
        ]
    view_count = len({view_output.view.name for view_output, _ in inspected.views})
    for view_output, _ in inspected.views[:view_count]:  # the views of further students follow them
        name, weight = view_output.view.name, view_output.weight * view_output.label.valid
        panels += [
            (f"{name}: what it shows", with_box_frame(pixels(view_output.image[index]), view_output.box, index)),
            (f"{name}: its target", colour_classes(class_ids(view_output.label.ids[index]), dataset)),
            (weight_title(f"{name}: weight", weight), grey_levels(weight[index], largest_weight(weight))),
        ]
    return [(title, enlarged(panel)) for title, panel in panels]


def pixels(image: Tensor) -> np.ndarray:
    """(channels, H, W) in [0, 1] as (H, W, 3) uint8."""
    return photo((image.detach().float().clamp(0, 1) * 255).permute(1, 2, 0).cpu().numpy())


def class_ids(mask: Tensor) -> np.ndarray:
    return mask.to("cpu", torch.uint8).numpy()


def grey_levels(values: Tensor, top: float) -> np.ndarray:
    """(H, W) from 0, black, to `top`, white."""
    return photo((values.detach().float().clamp(0, top) * (255 / top)).cpu().numpy()[..., None])


def largest_weight(weight: Tensor) -> float:
    """What white stands for: the largest weight, or 1 where all are 0."""
    return weight.max().item() or 1.0


def weight_title(head: str, weight: Tensor) -> str:
    return f"{head}, 0 to {largest_weight(weight):.3g}"


def with_box_frame(image: np.ndarray, box: Tensor | None, index: int) -> np.ndarray:
    """The image with a line around what was laid over it."""
    if box is not None:
        inside = box[index][None, None].float()
        rim = (inside > 0) & (F.max_pool2d(1 - inside, 3, 1, 1) > 0)
        image = image.copy()
        image[rim[0, 0].cpu().numpy()] = FRAME_COLOUR
    return image


def enlarged(panel: np.ndarray) -> Image.Image:
    times = max(1, -(-PANEL_WIDTH_MIN // panel.shape[1]))
    return Image.fromarray(panel.repeat(times, axis=0).repeat(times, axis=1))


# --- facts ----------------------------------------------------------------------------------------------------------


def draw_facts(inspected: InspectedStep, stage: StageParts, dataset: Dataset) -> Image.Image:
    """Losses, hooks and shares of pixels as lines of text; below them the class weights of each view that has any."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in inspected.losses.items())
    lines = [f"step {inspected.step + 1} of {stage.steps}, losses: {losses}"]
    lines += hook_summary(stage.engine.hooks.manager_hooks)
    lines += [share_used("weak views", *inspected.weak[0])] if inspected.weak else []
    lines += [share_used(f"view {view.view.name}", view.label, view.weight) for view, _ in inspected.views]
    text = Image.new("RGB", (900, TEXT_HEIGHT * len(lines) + 2 * PANEL_GAP), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(text).text((PANEL_GAP, PANEL_GAP + number * TEXT_HEIGHT), line, fill="black")
    class_weights = {view.view.name: values.tolist() for view, values in inspected.views if not torch.all(values == 1)}
    charts = [
        class_bars(f"class weights of view {name}", values, dataset, "{:.3g}".format)
        for name, values in class_weights.items()
    ]
    return stack_vertically([text, *charts])


def share_used(name: str, label: PseudoLabel, weight: Tensor) -> str:
    """A line on how many pixels count in a view, and how much."""
    valid = label.valid.sum().clamp(min=1)
    used, mean = ((value * label.valid).sum() / valid for value in ((weight > 0).float(), weight))
    return f"{name}: {100 * used.item():.1f} % of the pixels count (padding left out), mean weight {mean.item():.3g}"
