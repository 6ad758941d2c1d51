"""`ssss inspect`: one step as a picture: views, pseudo-labels, pixel weights, and the method that answered each hook. A
bug of a method is seen here first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssss_zoo.config.parse import split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.registry import build_methods, hook_summary, load
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.evaluation.painting import (
    colour_classes,
    colour_values,
    draw_void,
    photo,
    picture_size,
    resize_nearest,
    resize_photo,
)
from ssss_zoo.evaluation.picture_files import PICTURE_KEYS, check_picture_keys, picture_file
from ssss_zoo.evaluation.sheets import (
    Panel,
    PanelRow,
    class_legend,
    draw_class_bars,
    draw_sheet,
    draw_table,
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

INSPECT_KEYS = {"run": "", "after": "0", "images": "4", **PICTURE_KEYS}  # overrides that are not configuration
INSPECT_FILE = "inspect.png"
INSPECT_REFUSES = ("output", "resume", "trace")  # keys of `ssss run` that would mean nothing
BOX_COLOUR = (255, 255, 255)  # of the line around the boxes of a view


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
    check_picture_keys("ssss inspect", rest, INSPECT_REFUSES)
    file = picture_file(INSPECT_FILE, own["file"], own["overwrite"])
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
    shown = range(min(images, config.train.batch))
    rows = [row for index in shown for row in image_rows(inspected, index, dataset, names)]
    sheet = draw_sheet(rows, class_legend(dataset, range(len(dataset.class_names))))
    return stack_vertically([sheet, draw_facts(inspected, stage, dataset, sheet.width)])


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


def image_rows(
    inspected: InspectedStep, index: int, dataset: Dataset, names: Mapping[str, Sequence[str]]
) -> list[PanelRow]:
    """Rows of one image of each stream of the batch, and of the first student's views. names: of the images, by
    stream."""
    batch = inspected.batch
    labelled = [photo_panel("as it is trained on", batch.labelled.image[index])]
    labelled.append(classes_panel("its mask", batch.labelled.mask[index], dataset))
    rows = [PanelRow(f"labelled: {names['labelled'][index]}", labelled)]
    if batch.unlabelled and inspected.weak:
        label, weight = inspected.weak[0]
        weak = [
            photo_panel("weak view", batch.unlabelled.image[index]),
            classes_panel("pseudo-label", label.ids[index], dataset),
            values_panel("confidence", label.confidence[index], 1.0),
            values_panel("pixel weight", weight[index], largest_weight(weight)),
        ]
        rows.append(PanelRow(f"unlabelled: {names['unlabelled'][index]}", weak))
    view_count = len({view_output.view.name for view_output, _ in inspected.views})
    for view_output, _ in inspected.views[:view_count]:  # the views of further students follow them
        weight, valid = view_output.weight * view_output.label.valid, view_output.label.valid[index]
        box = view_output.box[index] if view_output.box is not None else None
        seen = [
            photo_panel("image" if box is None else "image, boxes framed", view_output.image[index], box),
            classes_panel("its target", view_output.label.ids[index], dataset),
            values_panel("its weight", weight[index], largest_weight(weight), valid),
        ]
        rows.append(PanelRow(f"view {view_output.view.name}", seen))
    return rows


def photo_panel(title: str, image: Tensor, box: Tensor | None = None) -> Panel:
    """image: (channels, H, W) in [0, 1]; box: (H, W) bool, what lies inside a box."""
    channels = (image.detach().float().clamp(0, 1) * 255).permute(1, 2, 0).cpu().numpy()
    size = picture_size(*channels.shape[:2])
    picture = resize_photo(photo(channels), size)
    if box is not None:
        picture = with_box_frame(picture, resize_nearest(box.cpu().numpy(), size))
    return Panel(title, Image.fromarray(picture))


def classes_panel(title: str, mask: Tensor, dataset: Dataset) -> Panel:
    """mask: (H, W) class ids."""
    ids = resize_nearest(mask.to("cpu", torch.uint8).numpy(), picture_size(*mask.shape))
    return Panel(title, Image.fromarray(colour_classes(ids, dataset.colours)))


def values_panel(title: str, values: Tensor, top: float, valid: Tensor | None = None) -> Panel:
    """values: (H, W) from 0 to `top`; valid: (H, W) bool, false where they are without meaning."""
    size = picture_size(*values.shape)
    picture = colour_values(resize_nearest(values.detach().float().cpu().numpy(), size), top)
    if valid is not None:
        picture = draw_void(picture, ~resize_nearest(valid.cpu().numpy(), size))
    return Panel(title, Image.fromarray(picture), top)


def largest_weight(weight: Tensor) -> float:
    """The top of the scale: the largest weight, or 1 where all are 0."""
    return weight.max().item() or 1.0


def with_box_frame(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with a line two pixels wide along the edge of what is inside (H, W)."""
    outside = 1 - torch.from_numpy(inside).float()[None, None]
    rim = inside & (F.max_pool2d(outside, 5, 1, 2)[0, 0] > 0).numpy()
    framed = image.copy()
    framed[rim] = BOX_COLOUR
    return framed


# --- facts ----------------------------------------------------------------------------------------------------------


def draw_facts(inspected: InspectedStep, stage: StageParts, dataset: Dataset, width: int) -> Image.Image:
    """Losses, hooks and shares of pixels as a table; below it the class weights of each view that has any."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in inspected.losses.items())
    rows = [("step", f"{inspected.step + 1} of {stage.steps}"), ("losses", losses)]
    rows += [("weak views", share_used(*inspected.weak[0]))] if inspected.weak else []
    rows += [(f"view {view.view.name}", share_used(view.label, view.weight)) for view, _ in inspected.views]
    hooks_by_answer: dict[str, list[str]] = {}
    for line in hook_summary(stage.engine.hooks.manager_hooks):
        hook, _, methods = line.partition(" ")
        hooks_by_answer.setdefault(methods, []).append(hook)
    rows += [(f"hooks of {methods}", ", ".join(hooks)) for methods, hooks in hooks_by_answer.items()]
    class_weights = {view.view.name: values.tolist() for view, values in inspected.views if not torch.all(values == 1)}
    charts = [
        draw_class_bars(f"class weights of view {name}", values, dataset, "{:.3g}".format, width)
        for name, values in class_weights.items()
    ]
    return stack_vertically([draw_table(rows, width), *charts])


def share_used(label: PseudoLabel, weight: Tensor) -> str:
    """How many pixels count in a view, and how much."""
    valid = label.valid.sum().clamp(min=1)
    used = ((weight > 0).float() * label.valid).sum() / valid
    mean = (weight * label.valid).sum() / valid
    return f"{100 * used.item():.1f} % of the pixels count (padding left out), mean weight {mean.item():.3g}"
