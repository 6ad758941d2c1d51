"""Step time of the engine against two yardsticks, in one process, on synthetic uint8 batches: no data set is needed.

    python benchmarks/step.py [method ...] [--steps N] [--classes C] [--no-loop] [--json] [key=value ...]
    python benchmarks/step.py                                   # four methods at the camvid recipe's network and sizes
    python benchmarks/step.py fixmatch --steps 50 dataset=voc --classes 21 train.precision=bf16

Words are those of `ssss run`; options.<method>.<field> goes to that method alone. Measured, for each method:

engine: `Engine.step`, from raw batches to updated teacher, as a run calls it between two logged steps.
loop: the same mathematics written out below as one would in a script of one's own, without hooks and records: same
    batches, same draws, same grouping of forward passes, same fused optimiser, same averaging call. Before anything is
    timed, the first step's losses must agree; tests/test_benchmark.py holds three steps and the weights to that.
floor: the network alone. The passes of one engine step are noted (images encoded, rows decoded, with gradient or
    without), then replayed on random images: forward, and backward where there was a gradient; nothing else.

After a warm-up the three take turns, in an order that reverses each time (engine, loop, floor, floor, loop, engine),
so that a slow moment of the machine meets all of them. Times are medians; a ratio is the median of the ratios of
neighbours, with its quartiles. On CUDA every timed step begins and ends with a synchronisation. Each method gets a
process of its own; peak_memory is that process's peak (on CUDA: the device's) up to the end of the engine's warm-up,
before the loop's first step. Steps are those of the middle of a run, where terms that begin late are on.

To repeat a figure: nothing else running, a fixed train.threads, 30 steps or more, and a second call that agrees.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.device_batch import floats
from ssss_zoo.engine.registry import build_methods, with_options
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import UserError
from ssss_zoo.models.contract import Network
from ssss_zoo.toolkit import contrast
from ssss_zoo.toolkit.augment import Strong, box_mask, paste, random_boxes, random_flip
from ssss_zoo.toolkit.losses import ohem
from ssss_zoo.toolkit.types import IGNORE, Output, Progress, RawBatch, RawLabelled, RawUnlabelled, Sample, Stage
from ssss_zoo.train.device import peak_memory
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import RunParts, make_parts
from ssss_zoo.train.stage import make_stage
from ssss_zoo.train.trainer import CHECKED_STEPS

METHODS = ("supervised", "fixmatch", "unimatch", "farcluss")
DEFAULTS = ("dataset=camvid", "model.weights=none")  # what the words of the command line are laid over
CAMVID_CLASSES = 11
WARM_UP = 3  # steps, two of which check the hooks' answers, as those of a run do
BATCHES = 4  # different ones, in turn
CLOSE = {"32": 1e-4, "bf16": 0.05, "fp16": 0.05}  # relative, between the losses of the first step

# --- the loops: what one would write for a single method ------------------------------------------------------------


@dataclass(eq=False)
class Loop:
    """The variables of a training script. slow, fast: what the averages follow, tensor by tensor; counters: the same
    for BatchNorm's batch counts, which are copied. own: the method's options. modules: the method's networks."""

    config: Config
    device: torch.device
    classes: int
    seed: int
    own: SimpleNamespace
    losses: Callable[[Loop, RawBatch], dict[str, Tensor]]
    student: Network
    teacher: Network | None
    modules: dict[str, Any]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    strong: Strong
    slow: list[Tensor] = field(default_factory=list)
    fast: list[Tensor] = field(default_factory=list)
    counters: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def step(self, batches: Iterator[RawBatch], progress: Progress) -> dict[str, Tensor]:
        """One optimiser step over `train.accumulate` batches; the losses by name, detached."""
        accumulate = self.config.train.accumulate
        sums: dict[str, Tensor] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - progress.done) ** self.config.optim.power
        for pass_index in range(accumulate):
            seed_draws(self.seed, progress.step, pass_index)
            losses = self.losses(self, next(batches))
            losses["total"] = torch.stack(list(losses.values())).sum()
            self.scaler.scale(losses["total"] / accumulate).backward()
            sums = {name: sums.get(name, 0) + loss.detach() / accumulate for name, loss in losses.items()}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.slow:
            decay = min(1 - 1 / (progress.step + 1), self.own.ema_decay)
            with torch.no_grad():
                get_ema_multi_avg_fn(decay)(self.slow, self.fast, 0)
                for slow, fast in self.counters:
                    slow.copy_(fast)
        return sums

    def autocast(self) -> AbstractContextManager[Any]:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.train.precision)
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def labelled(self, batch: RawBatch) -> tuple[Tensor, Tensor]:
        """Image and mask, flipped, on the device."""
        mask = batch.labelled.mask.to(self.device, non_blocking=True).long()
        image, mask = random_flip((self.pixels(batch.labelled.image), mask), self.config.augment.flip)
        return image, mask

    def weak(self, raw: RawUnlabelled | None) -> tuple[Tensor, Tensor]:
        """Weak view and validity, flipped, on the device."""
        assert raw is not None
        valid = raw.valid.to(self.device, non_blocking=True)
        image, valid = random_flip((self.pixels(raw.image), valid), self.config.augment.flip)
        return image, valid

    def pixels(self, raw: Tensor) -> Tensor:
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        return raw.to(self.device, non_blocking=True).float().div_(255).contiguous(memory_format=layout)

    def box(self, image: Tensor) -> Tensor:
        """One CutMix box an image as a mask, (B, H, W) bool."""
        images, _, height, width = image.shape
        return box_mask(random_boxes(images, height, width), height, width, self.device)

    def supervised(self, logits: Tensor, mask: Tensor) -> Tensor:
        loss = self.config.loss
        if loss.supervised == "ohem":
            return ohem(logits, mask, loss.ohem_threshold, loss.ohem_min_kept)
        return F.cross_entropy(logits.float(), mask, ignore_index=IGNORE)

    def predict(self, image: Tensor) -> Tensor:
        """The student's logits in evaluation mode, without gradient."""
        self.student.eval()
        with torch.no_grad(), self.autocast():
            logits: Tensor = self.student(image).logits
        self.student.train()
        return logits


def supervised(loop: Loop, batch: RawBatch) -> dict[str, Tensor]:
    image, mask = loop.labelled(batch)
    with loop.autocast():
        logits = loop.student(image).logits
    return {"supervised": loop.supervised(logits, mask)}


class Hard(NamedTuple):
    """Pseudo-labels of a batch: class ids, confidence and validity, each (B, H, W)."""

    ids: Tensor
    confidence: Tensor
    valid: Tensor


@torch.no_grad()
def hard_label(logits: Tensor, valid: Tensor) -> Hard:
    confidence, ids = logits.float().softmax(dim=1).max(dim=1)
    return Hard(ids, confidence, valid)


def hard_loss(logits: Tensor, near: Hard, far: Hard, box: Tensor, threshold: float) -> Tensor:
    """Cross-entropy of a strong view with the label of the partner in its box, where confident and valid."""
    ids, confidence, valid = (torch.where(box, theirs, ours) for ours, theirs in zip(near, far, strict=True))
    loss = F.cross_entropy(logits.float(), ids, reduction="none") * ((confidence >= threshold) & valid)
    return loss.sum() / valid.sum().clamp(min=1)


def fixmatch(loop: Loop, batch: RawBatch) -> dict[str, Tensor]:
    image, mask = loop.labelled(batch)
    weak, valid = loop.weak(batch.unlabelled)
    partner, partner_valid = loop.weak(batch.partner)
    box = loop.box(weak)
    strong = paste(loop.strong(weak), loop.strong(partner), box)

    far = hard_label(loop.predict(partner), partner_valid)
    with loop.autocast():
        logits, weak_logits = loop.student(torch.cat([image, weak])).logits.chunk(2)
        strong_logits = loop.student(strong).logits
    near = hard_label(weak_logits, valid)

    consistency = hard_loss(strong_logits, near, far, box, loop.own.threshold)
    return {"supervised": loop.supervised(logits, mask) / 2, "consistency": consistency / 2}


def unimatch(loop: Loop, batch: RawBatch) -> dict[str, Tensor]:
    image, mask = loop.labelled(batch)
    weak, valid = loop.weak(batch.unlabelled)
    partner, partner_valid = loop.weak(batch.partner)
    box1, box2 = loop.box(weak), loop.box(weak)
    strong1 = paste(loop.strong(weak), loop.strong(partner), box1)
    strong2 = paste(loop.strong(weak), loop.strong(partner), box2)

    far = hard_label(loop.predict(partner), partner_valid)
    with loop.autocast():
        logits, weak_logits, perturbed = perturbed_pass(loop, image, weak)
        logits1, logits2 = loop.student(torch.cat([strong1, strong2])).logits.chunk(2)
    near = hard_label(weak_logits, valid)

    threshold = loop.own.threshold
    loss1 = hard_loss(logits1, near, far, box1, threshold)
    loss2 = hard_loss(logits2, near, far, box2, threshold)
    loss3 = F.cross_entropy(perturbed.float(), near.ids, reduction="none") * ((near.confidence >= threshold) & valid)
    consistency = loss1 / 8 + loss2 / 8 + loss3.sum() / valid.sum().clamp(min=1) / 4
    return {"supervised": loop.supervised(logits, mask) / 2, "consistency": consistency}


def perturbed_pass(loop: Loop, image: Tensor, weak: Tensor) -> list[Tensor]:
    """Logits of the labelled images, of the weak views, and of the weak views under channel dropout, in one pass; the
    labelled images go through the decoder under dropout as well, for BatchNorm."""
    count, drop = len(image), loop.own.dropout
    features = loop.student.encode(torch.cat([image, weak]))
    dropped = [F.dropout2d(level[count:], drop) for level in features]
    dropped_labelled = [F.dropout2d(level[:count], drop) for level in features]
    maps = [torch.cat(parts) for parts in zip(features, dropped, dropped_labelled, strict=True)]
    height, width = image.shape[-2:]
    return list(loop.student.decode(maps, (height, width)).logits.split(count))[:3]


class Fuzzy(NamedTuple):
    """FARCLUSS's labels: distribution (B, C, H, W); confidence, pixel weight and validity, each (B, H, W)."""

    target: Tensor
    confidence: Tensor
    weight: Tensor
    valid: Tensor


def farcluss(loop: Loop, batch: RawBatch) -> dict[str, Tensor]:
    assert loop.teacher is not None
    image, mask = loop.labelled(batch)
    weak, valid = loop.weak(batch.unlabelled)
    box = loop.box(weak)
    strong = loop.strong(weak)
    strong = paste(strong, strong.roll(-1, dims=0), box)

    with loop.autocast():
        with torch.no_grad():
            told = loop.teacher(weak)
        output = loop.student(torch.cat([image, strong]))
    logits, strong_logits = output.logits.chunk(2)

    label = fuzzy_label(told.logits.float(), valid, loop.own.top_k)
    mixed = Fuzzy(*(paste(part, part.roll(-1, dims=0), box) for part in label))
    consistency = loop.own.unsupervised_weight * fuzzy_loss(strong_logits, mixed, balance(loop, mixed))
    return {
        "supervised": loop.supervised(logits, mask),
        "consistency": consistency,
        "farcluss_contrast": loop.own.contrast_weight * prototype_loss(loop, image, mask, told, output, label, mixed),
    }


@torch.no_grad()
def fuzzy_label(logits: Tensor, valid: Tensor, top_k: int) -> Fuzzy:
    """The teacher's largest classes, renormalised, and one minus its normalised entropy as the weight."""
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp()
    scores, classes = logits.topk(top_k, dim=1)
    target = torch.zeros_like(logits).scatter_(1, classes, scores.softmax(dim=1))
    entropy = -(probs * log_probs).sum(dim=1) / math.log(logits.shape[1])
    return Fuzzy(target, probs.amax(dim=1), 1 - entropy, valid)


@torch.no_grad()
def balance(loop: Loop, label: Fuzzy) -> Tensor:
    """Class weights (C,) from the batch's class mass: tempered inverse frequency, clipped, mean 1 over the mass."""
    mass = (label.target * label.valid.unsqueeze(1)).sum(dim=(0, 2, 3))
    share = mass / mass.sum().clamp(min=1e-30)
    present, most = mass > 0, loop.own.rebalance_max_ratio
    inverse = 1 / (present.sum() * share.clamp(min=1e-30))
    ratio = inverse.pow(loop.own.rebalance_alpha).clamp(1 / most, most)
    return torch.where(present, ratio / (share * ratio).sum().clamp(min=1e-30), 1.0)


def fuzzy_loss(logits: Tensor, label: Fuzzy, class_weight: Tensor) -> Tensor:
    """Soft cross-entropy, times what the target expects of the class weights, times the pixel weight."""
    soft = -(label.target * logits.float().log_softmax(dim=1)).sum(dim=1)
    expected = (label.target * class_weight.view(1, -1, 1, 1)).sum(dim=1)
    return (soft * expected * label.weight * label.valid).sum() / label.valid.sum().clamp(min=1)


def prototype_loss(
    loop: Loop, image: Tensor, mask: Tensor, told: Output, output: Output, label: Fuzzy, mixed: Fuzzy
) -> Tensor:
    """The teacher's labelled and weak cells move the prototypes; the student's are drawn to them."""
    assert loop.teacher is not None
    own, modules, grid = loop.own, loop.modules, output.features.shape[-2:]
    prototypes = modules["farcluss_prototypes"]
    features = project(modules["farcluss_head"], output.features)
    with torch.no_grad():
        with loop.autocast():
            seen = loop.teacher(image)
        slow = project(modules["farcluss_slow_head"], torch.cat([seen.features.float(), told.features.float()]))
        label, mixed = (Fuzzy(*(contrast.downsample_nearest(part, *grid) for part in one)) for one in (label, mixed))
        ids = contrast.downsample_nearest(mask, *grid)
        sure = label.valid & (label.confidence >= own.contrast_confidence)
        members = [contrast.one_hot(ids, loop.classes), label.target * (label.weight * sure).unsqueeze(1)]
        prototypes.update(slow, contrast.flatten_pixels(torch.cat(members)), own.contrast_momentum)
        sure = mixed.valid & (mixed.confidence >= own.contrast_confidence)
        ids = torch.cat([ids, torch.where(sure, mixed.target.argmax(dim=1), contrast.NO_CLASS)]).flatten()
    vectors, initialized = prototypes.vectors.clone(), prototypes.initialized.clone()
    anchors = contrast.draw_anchors(ids, loop.classes, own.contrast_anchors)
    temperature, class_mean = own.contrast_temperature, own.contrast_class_mean
    return contrast.info_nce(features, anchors, vectors, initialized, temperature, class_mean=class_mean)


def project(head: nn.Module, maps: Tensor) -> Tensor:
    return contrast.flatten_pixels(contrast.l2_normalize(head(maps.float())))


LOOPS: dict[str, Callable[[Loop, RawBatch], dict[str, Tensor]]] = {
    "supervised": supervised,
    "fixmatch": fixmatch,
    "unimatch": unimatch,
    "farcluss": farcluss,
}
WRITTEN_FOR: dict[str, dict[str, Any]] = {  # the loops follow numbers; of the other options they know one choice each
    "supervised": {},
    "fixmatch": {"partner": "stream", "ema_decay": 0.0, "shared_pass": False},
    "unimatch": {"partner": "stream", "perturb_labelled": True},
    "farcluss": {
        "label_mode": "fixed_k", "temperature": 1.0, "mass_power": 0.0, "uncertainty_form": "power",
        "uncertainty_gamma": 1.0, "reduce": "valid", "rebalance": "mass", "rebalance_counts": "soft",
        "rebalance_min_mass": 0.0, "contrast": "proto_infonce", "contrast_members": "soft",
        "contrast_centroids": "teacher", "cutmix": True, "feature_perturbation": 0.0,
    },
}  # fmt: skip


# --- both sides of the comparison -----------------------------------------------------------------------------------


class Synthetic(Dataset):
    """What a run asks of a data set before its first step: names and lists, sized so that an epoch is one step."""

    source = "the benchmark"

    def __init__(self, classes: int, channels: int, images: int) -> None:
        self.channels = channels
        self.class_names = tuple(f"class{number}" for number in range(classes))
        self.colours = ((0, 0, 0),) * classes
        self.labelled = self.unlabelled = [Sample(f"image{number}", number, number) for number in range(images)]
        self.val: list[Sample] = []

    def read_image(self, sample: Sample) -> np.ndarray:
        return np.zeros((8, 8, self.channels), np.uint8)

    def read_mask(self, sample: Sample) -> np.ndarray:
        return np.zeros((8, 8), np.uint8)


@dataclass(eq=False)
class Bench:
    """Engine and loop, from the same weights, on the same batches. batches: lists of `train.accumulate` of them."""

    config: Config
    parts: RunParts
    engine: Engine
    loop: Loop | None
    batches: list[list[RawBatch]]

    def engine_step(self, index: int) -> dict[str, Tensor]:
        self.engine.hooks.checked = index < CHECKED_STEPS
        return self.engine.step(iter(self.batches[index % len(self.batches)]), self.progress(index))

    def loop_step(self, index: int) -> dict[str, Tensor]:
        assert self.loop is not None
        return self.loop.step(iter(self.batches[index % len(self.batches)]), self.progress(index))

    def progress(self, index: int) -> Progress:
        """Steps of the second half of the run, over and over."""
        steps = self.parts.info.steps
        return Progress(steps // 2 + index % (steps - steps // 2), steps, self.parts.info.epoch_steps)


def make_bench(words: Iterable[str], classes: int = CAMVID_CLASSES, with_loop: bool = True) -> Bench:
    """Both sides for the configuration that `words` make. Raises UserError where the loop does not follow them."""
    config = resolve([*DEFAULTS, *words, "tracking.uri=off"])
    methods = build_methods(config)
    config = with_options(config, methods)
    loop_name = config.method if with_loop and config.method in LOOPS else None
    if loop_name:
        check_loop(config, loop_name)
    dataset = Synthetic(classes, config.model.in_channels, config.train.batch * config.train.accumulate)
    parts = make_parts(config, methods, dataset, RunFolder(Path("nowhere")))  # type: ignore[arg-type]
    engine = make_stage(parts, Stage(), 0, 0).engine
    loop = make_loop(parts, engine, loop_name) if loop_name else None
    groups = [[draw_batch(parts, k, part) for part in range(config.train.accumulate)] for k in range(BATCHES)]
    return Bench(parts.config, parts, engine, loop, groups)


def check_loop(config: Config, name: str) -> None:
    """Raise UserError when the configuration asks for what the method's loop below does not do."""
    wanted: dict[str, Any] = {f"options.{name}.{key}": value for key, value in WRITTEN_FOR[name].items()}
    given: dict[str, Any] = {f"options.{name}.{key}": value for key, value in config.options[name].items()}
    wanted |= {"train.fuse": False, "loss.class_weight": "expected", "hooks": {}, "diagnose": False}
    given |= {"train.fuse": config.train.fuse, "loss.class_weight": config.loss.class_weight}
    given |= {"hooks": config.hooks, "diagnose": config.diagnose}
    for key, value in wanted.items():
        if given[key] != value:
            raise UserError(
                f"the loop of {name} is written for {key}={value}, got {given[key]}; --no-loop measures the engine "
                "against the floor alone"
            )


def make_loop(parts: RunParts, engine: Engine, name: str) -> Loop:
    """The loop of a method, with copies of the engine's weights: call it before the engine's first step."""
    config, device = parts.config, engine.device
    student, teacher = copy.deepcopy(engine.students[0]), copy.deepcopy(engine.teachers[0].network)
    modules = copy.deepcopy(parts.modules)
    compile_parts(config, student, teacher)
    loop = Loop(
        config,
        device,
        engine.num_classes,
        engine.seed,
        SimpleNamespace(**config.options[name]),
        LOOPS[name],
        student,
        teacher,  # type: ignore[arg-type]
        modules,
        plain_optimizer(config, student, modules),
        torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16"),
        Strong(config.augment),
    )
    if teacher is not None:
        follow(loop, teacher, student)
        follow(loop, modules["farcluss_slow_head"].eval(), modules["farcluss_head"])
    return loop


def follow(loop: Loop, slow: nn.Module, fast: nn.Module) -> None:
    """Let `slow` be the running average of `fast`."""
    for theirs, ours in zip(slow.state_dict().values(), fast.state_dict().values(), strict=True):
        if theirs.is_floating_point():
            loop.slow.append(theirs)
            loop.fast.append(ours)
        else:
            loop.counters.append((theirs, ours))


def plain_optimizer(config: Config, student: Network, modules: dict[str, nn.Module]) -> torch.optim.Optimizer:
    optim, groups = config.optim, student.parameter_groups()
    heads = [*groups["head"], *(p for module in modules.values() for p in module.parameters() if p.requires_grad)]
    rates = (optim.lr, optim.lr * optim.head_multiplier)
    given = [
        {"params": part, "lr": rate, "initial_lr": rate}
        for part, rate in zip((groups["encoder"], heads), rates, strict=True)
    ]
    if optim.name == "sgd":
        return torch.optim.SGD(given, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True)
    return torch.optim.AdamW(given, weight_decay=optim.weight_decay, fused=True)


def compile_parts(config: Config, *networks: nn.Module | None) -> None:
    """Compile as a run does with train.compile=true."""
    for network in networks:
        for part in network.children() if network is not None and config.train.compile else ():
            part.compile()


def draw_batch(parts: RunParts, index: int, part: int) -> RawBatch:
    """A raw batch as the loader makes it, of noise: uint8 images, masks of 8 x 8 blocks with some void, some padding.
    A function of its arguments alone."""
    config, needs = parts.config, parts.needs
    height, width = square(config.train.crop)
    shape = (config.train.batch, config.model.in_channels, height, width)
    chance = torch.Generator().manual_seed(1000 * index + part)
    pin = parts.device.type == "cuda"

    def ready(tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if pin else tensor

    def image() -> Tensor:
        return ready(torch.randint(256, shape, generator=chance, dtype=torch.uint8))

    def unlabelled() -> RawUnlabelled:
        valid = torch.ones(shape[0], height, width, dtype=torch.bool)
        valid[0, -(height // 8) :] = False
        return RawUnlabelled(image(), ready(valid))

    blocks = torch.randint(
        len(parts.dataset.class_names), (shape[0], -(-height // 8), -(-width // 8)), generator=chance
    )
    mask = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].to(torch.uint8).contiguous()
    mask[:, :2] = IGNORE
    labelled = RawLabelled(image(), ready(mask))
    return RawBatch(labelled, unlabelled() if needs.unlabelled else None, unlabelled() if needs.partner else None)


# --- the floor ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Pass:
    """A pass through a network. shape: of the images encoded; decoded: rows of each call of the decoder; trained: with
    gradient; train_mode: BatchNorm takes the batch's statistics."""

    shape: torch.Size
    trained: bool
    train_mode: bool
    decoded: list[int] = field(default_factory=list)


@contextmanager
def noted_passes(networks: Iterable[Network]) -> Iterator[list[Pass]]:
    """The passes that the networks make while this is open, in order."""
    passes: list[Pass] = []
    networks = list(networks)
    for network in networks:
        network.encode, network.decode = noting(network, passes)  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        for network in networks:
            del network.encode, network.decode


def noting(network: Network, passes: list[Pass]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`encode` and `decode` of a network that append to `passes`."""
    plain_encode, plain_decode = network.encode, network.decode
    last: list[Pass] = []

    def encode(image: Tensor) -> list[Tensor]:
        last[:] = [Pass(image.shape, torch.is_grad_enabled(), network.training)]
        passes.extend(last)
        return plain_encode(image)

    def decode(features: list[Tensor], size: tuple[int, int]) -> Output:
        last[0].decoded.append(len(features[0]))
        return plain_decode(features, size)

    return encode, decode


class Floor:
    """Replays passes on copies of a network, one in train and one in evaluation mode, on random images."""

    def __init__(self, engine: Engine, passes: list[Pass]) -> None:
        self.passes, self.autocast = passes, engine.autocast
        student = engine.students[0]
        self.networks = {mode: copy.deepcopy(student).train(mode) for mode in (True, False)}
        compile_parts(engine.config, *self.networks.values())
        raw = [torch.randint(256, one.shape, dtype=torch.uint8) for one in passes]
        self.images = [floats(image, engine.device, engine.config.train.channels_last) for image in raw]

    def __call__(self, index: int) -> None:
        for one, image in zip(self.passes, self.images, strict=True):
            self.replay(one, self.networks[one.train_mode], image)
        for network in self.networks.values():
            network.zero_grad(set_to_none=True)

    def replay(self, one: Pass, network: Network, image: Tensor) -> None:
        height, width = image.shape[-2:]
        with torch.set_grad_enabled(one.trained), self.autocast():
            features = network.encode(image)
            logits = [network.decode(rows(features, count), (height, width)).logits for count in one.decoded]
        if one.trained:
            torch.autograd.backward(logits, [torch.ones_like(each) for each in logits])

    def image_passes(self) -> dict[str, int]:
        """How many images are encoded a step, with and without gradient, and how many rows are decoded beyond them."""
        trained = sum(one.shape[0] for one in self.passes if one.trained)
        every = sum(one.shape[0] for one in self.passes)
        decoded = sum(sum(one.decoded) for one in self.passes)
        return {"trained": trained, "without_gradient": every - trained, "decoded_again": decoded - every}


def rows(features: list[Tensor], count: int) -> list[Tensor]:
    """`count` rows of each map, repeated in order where there are fewer."""
    have = len(features[0])
    return features if have == count else [torch.cat([level] * -(-count // have))[:count] for level in features]


# --- the measurement ------------------------------------------------------------------------------------------------


def measure(
    words: Iterable[str], steps: int = 30, classes: int = CAMVID_CLASSES, with_loop: bool = True
) -> dict[str, Any]:
    """All figures of one method, times in milliseconds, memory in bytes; what concerns the loop is None without one.

    Raises UserError when engine and loop do not agree on the first step's losses: they would not do the same work.
    """
    bench = make_bench(words, classes, with_loop)
    device = bench.engine.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with noted_passes(bench.engine.networks().values()) as passes:  # type: ignore[arg-type]
        first = bench.engine_step(0)
    for index in range(1, WARM_UP):
        bench.engine_step(index)
    peak = peak_memory(device)
    floor = Floor(bench.engine, passes)
    actions: dict[str, Callable[[int], object]] = {"engine": bench.engine_step, "floor": floor}
    apart = None
    if bench.loop:
        actions = {"engine": bench.engine_step, "loop": bench.loop_step, "floor": floor}
        apart = difference(first, bench.loop_step(0))
        if not apart <= CLOSE[bench.config.train.precision]:
            raise UserError(f"engine and loop differ by {apart:.2g} in a loss of the first step: not the same work")
    for index in range(1, WARM_UP):
        for action in list(actions.values())[1:]:
            action(index)
    times = interleave(actions, WARM_UP, steps, device)
    return figures(times) | {
        "method": bench.config.method,
        "peak_memory": peak,
        "image_passes": floor.image_passes(),
        "loss_difference": apart,
        "steps": steps,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference between losses of the same name; infinite when the names differ."""
    if ours.keys() != theirs.keys():
        return math.inf
    pairs = [(float(ours[name]), float(theirs[name])) for name in ours]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs)


def interleave(
    actions: dict[str, Callable[[int], object]], first: int, steps: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds of `steps` calls of each action, by name. They take turns, forwards and backwards."""
    gc.collect()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(first, first + steps):
        order = list(actions) if index % 2 == 0 else list(reversed(actions))
        for name in order:
            times[name].append(timed(actions[name], index, device))
    return times


def timed(action: Callable[[int], object], index: int, device: torch.device) -> float:
    wait(device)
    begin = time.perf_counter()
    action(index)
    wait(device)
    return 1000 * (time.perf_counter() - begin)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def figures(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and ratios of the measured times; None where there is no loop."""
    found: dict[str, Any] = {"step_ms": float(np.median(times["engine"]))}
    for name in ("loop", "floor"):
        measured = name in times
        ratios = np.divide(times["engine"], times[name]) if measured else None
        found[f"{name}_ms"] = float(np.median(times[name])) if measured else None
        found[f"engine_over_{name}"] = float(np.median(ratios)) if ratios is not None else None
        found[f"engine_over_{name}_quartiles"] = (
            np.percentile(ratios, [25, 75]).tolist() if ratios is not None else None
        )
    return found


# --- the command ----------------------------------------------------------------------------------------------------

COLUMNS = ("step_ms", "loop_ms", "floor_ms", "engine_over_loop", "engine_over_floor")
HEADER = f"{'method':<20}{''.join(f'{name:>18}' for name in COLUMNS)}{'peak_memory':>18}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0], epilog="What is measured and how: see the top of this file."
    )
    parser.add_argument("words", nargs="*", metavar="method | key=value", help=f"default: {' '.join(METHODS)}")
    parser.add_argument("--steps", type=int, default=30, help="timed steps (default 30)")
    parser.add_argument("--classes", type=int, default=CAMVID_CLASSES, help="how many (default CamVid's 11)")
    parser.add_argument("--no-loop", action="store_true", help="engine against floor alone, for any method")
    parser.add_argument("--json", action="store_true", help="a list of objects, one a method")
    given = parser.parse_intermixed_args(arguments)
    if given.steps < 1 or given.classes < 1:
        parser.error("--steps and --classes take whole numbers above 0")
    methods = [word for word in given.words if "=" not in word] or list(METHODS)
    settings = [word for word in given.words if "=" in word]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ssss` sets it, for the processes started below
    found: list[dict[str, Any]] = []
    if not given.json:
        print(HEADER, flush=True)
    for method in methods:
        try:
            found.append(in_own_process(method_words(method, settings), given.steps, given.classes, not given.no_loop))
        except UserError as error:
            sys.exit(f"{method}: {error}")
        if not given.json:
            print(line(found[-1]), flush=True)
    if given.json:
        print(json.dumps(found, indent=1))


def method_words(method: str, settings: Iterable[str]) -> list[str]:
    """The words of one method: options of the others are left out."""
    parts = method.split("+")
    ours = [word for word in settings if not word.startswith("options.") or word.split(".")[1] in parts]
    return [f"method={method}", *ours]


def in_own_process(words: list[str], steps: int, classes: int, with_loop: bool) -> dict[str, Any]:
    """`measure` in a fresh process, so that memory, allocator and caches are the method's own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, words, steps, classes, with_loop).result()


def line(one: dict[str, Any]) -> str:
    """A method's figures below `HEADER`."""
    cells = ["-" if one[name] is None else f"{one[name]:.{3 if 'over' in name else 1}f}" for name in COLUMNS]
    return f"{one['method']:<20}{''.join(f'{cell:>18}' for cell in cells)}{one['peak_memory'] / 2**20:>14.0f} MiB"


if __name__ == "__main__":
    main()
