"""A data set, a network and runs that are small enough for a test, and how a test adds methods of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.config.layers import entry_points
from ssss_zoo.config.schema import Config, DataConfig, ModelConfig
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine import plugin_source, registry
from ssss_zoo.errors import UserError
from ssss_zoo.models.contract import Network
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.types import IGNORE, Output, Sample

SIZES = ((24, 32), (32, 24), (20, 40), (12, 14), (16, 16))  # (H, W), one smaller than any crop


class TinyData(Dataset):
    """Coloured blocks, drawn when an image is read. `data.split` sets it up, as in `data.split=classes=2,channels=5`.

    classes, channels; labelled, unlabelled, val: how many images; hidden: 1 for hidden labels, 0 for none, 2 for such
    as must not be read; absent: a class that no mask shows (-1: none).
    """

    source = "the tests"

    def __init__(self, data: DataConfig) -> None:
        self.counts = {"classes": 5, "channels": 3, "labelled": 5, "unlabelled": 7, "val": 2, "hidden": 1, "absent": -1}
        self.counts |= {key: int(value) for key, value in re.findall(r"(\w+)=(-?\d+)", data.split)}
        self.class_names = tuple(f"class{index}" for index in range(self.counts["classes"]))
        self.colours = tuple((40 * index % 256, 90 * index % 256, 200) for index in range(self.counts["classes"]))
        self.labelled = self.samples("labelled", 0, masks=True)
        self.unlabelled = self.samples("unlabelled", 1000, masks=self.counts["hidden"] > 0)
        self.val = self.samples("val", 2000, masks=True)

    def samples(self, part: str, first: int, masks: bool) -> list[Sample]:
        numbers = range(first, first + self.counts[part])
        return [Sample(f"{part}{number}", number, number if masks else None) for number in numbers]

    def classes(self, number: int) -> np.ndarray:
        """(H, W) class ids: blocks of 4 x 4 pixels."""
        height, width = SIZES[number % len(SIZES)]
        blocks = np.random.default_rng(number).integers(0, self.counts["classes"], (-(-height // 4), -(-width // 4)))
        if self.counts["absent"] >= 0:
            blocks[blocks == self.counts["absent"]] = (self.counts["absent"] + 1) % self.counts["classes"]
        return blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]

    def read_image(self, sample: Sample) -> np.ndarray:
        rng = np.random.default_rng((7, sample.image))
        colours = np.random.default_rng(3).integers(30, 226, (self.counts["classes"], self.counts["channels"]))
        ids = self.classes(sample.image)
        noise = rng.integers(-30, 31, (*ids.shape, self.counts["channels"]))
        return (colours[ids] + noise).astype(np.uint8)

    def read_mask(self, sample: Sample) -> np.ndarray:
        if self.counts["hidden"] == 2 and sample.name.startswith("unlabelled"):
            raise UserError(f"{sample.name}: a hidden label was read")
        ids = self.classes(sample.mask).astype(np.uint8)
        ids[0, :3] = IGNORE  # some void
        return ids


class TinyEncoder(nn.Module):
    """Two levels: 6 channels at half, 8 at a quarter of the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(channels, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        low = self.low(image)
        return [low, self.high(low)]


@dataclass
class NetworkCall:
    """One forward pass of half a network: which half, the images or the lowest map that it got, and its mode."""

    half: str
    value: Tensor
    training: bool
    grad: bool


class TinyNet(Network):
    """Two convolutions, one on both levels, a classifier. `calls` is filled while it is a list; double() works."""

    source = "the tests"
    feature_dim = 8

    def __init__(self, settings: ModelConfig, num_classes: int) -> None:
        super().__init__([0.5] * settings.in_channels, [0.25] * settings.in_channels)
        self.encoder = TinyEncoder(settings.in_channels)
        self.body = nn.Sequential(nn.Conv2d(14, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.calls: list[NetworkCall] | None = None

    def note(self, half: str, value: Tensor) -> None:
        if self.calls is not None:
            self.calls.append(NetworkCall(half, value.detach().clone(), self.training, torch.is_grad_enabled()))

    def encode(self, image: Tensor) -> list[Tensor]:
        self.note("encode", image)
        maps: list[Tensor] = self.encoder(self.normalise(image.to(self.mean.dtype)))
        return maps

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Output:
        self.note("decode", features[0])
        low, high = features
        high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=False)
        last = self.body(torch.cat([low, high], dim=1))
        logits = F.interpolate(self.classifier(last), size, mode="bilinear", align_corners=False)
        return Output(logits, last)


# --- entry points ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EntryPointStandIn:
    """An entry point of no installed package."""

    name: str
    thing: Any
    value: str = "tests"
    module: str = "tests"  # which no text is read of
    attr: str = ""
    dist: None = None

    def load(self) -> Any:
        return self.thing


@dataclass
class ExtraEntryPoints:
    """Methods, data sets and networks of tests beside the installed ones, by entry-point group."""

    extra: dict[str, list[EntryPointStandIn]] = field(default_factory=dict)

    def add(self, kind: str, name: str, thing: Any) -> None:
        self.extra.setdefault(f"ssss_zoo.{kind}", []).append(EntryPointStandIn(name, thing))

    def entry_points(self, group: str) -> list[Any]:
        return [*entry_points(group), *self.extra.get(group, [])]


def tiny_entry_points() -> ExtraEntryPoints:
    """The installed ones with the tiny data set and network; its `entry_points` replaces the registry's."""
    made = ExtraEntryPoints()
    made.add("datasets", "tiny", TinyData)
    made.add("models", "tiny", TinyNet)
    return made


def install() -> ExtraEntryPoints:
    """Install the tiny data set and network for the rest of this process, which a test has started."""
    made = tiny_entry_points()
    plugin_source.entry_points = made.entry_points  # type: ignore[assignment,attr-defined]
    return made


def tiny_overrides(*more: str) -> list[str]:
    """The overrides of a tiny run, then the given ones, which win."""
    return [
        "method=fixmatch", "dataset=tiny", "model=tiny", "train.steps=6", "train.crop=[16,16]", "train.batch=2",
        "train.threads=1", "train.workers=0", "train.device=cpu", "train.log_every=1", "train.eval_every=3",
        "train.checkpoint_every=3", "optim.lr=0.05", "optim.head_multiplier=2", "evaluate.predictions=0",
        "tracking.uri=off", *more,
    ]  # fmt: skip


def make_method(name: str = "Own", options: Sequence[tuple[str, type, Any]] = (), **hooks: Callable[..., Any]) -> type:
    """A method class from functions (self, ...) by hook name; functions may be marked with `hookimpl` already."""
    marked = {key: hook if hasattr(hook, registry.HOOK_MARK) else hookimpl(hook) for key, hook in hooks.items()}
    return make_dataclass(name, list(options), namespace={"paper": "the tests", **marked}, eq=False)


# --- a run that a test drives by hand -------------------------------------------------------------------------------


@dataclass
class TinyRun:
    """The parts of a run (`RunParts`) and of its stage (`StageParts`), made as a run makes them; no step is done."""

    config: Config
    run: Any
    stage: Any
    methods: dict[str, Any]

    @property
    def engine(self) -> Any:
        return self.stage.engine

    @property
    def student(self) -> TinyNet:
        return self.engine.students[0]

    def double(self) -> TinyRun:
        """Turn the networks and the state of their optimiser to float64. Modules of methods stay in float32."""
        for network in self.engine.networks().values():
            network.double()
        for parameter, kept in self.engine.optimizer.state.items():
            kept |= {key: value.to(parameter.dtype) for key, value in kept.items() if key != "step"}
        return self

    @property
    def feed(self) -> Any:
        """The batches of the run, from the first one on."""
        from ssss_zoo.train.stage import open_loader

        return open_loader(self.run, self.stage, 0)

    def steps(self, count: int, first: int = 0) -> list[dict[str, float]]:
        """The losses of some steps, on the feed's first batches; first: the number of the first step."""
        feed = self.feed
        found = [self.engine.step(feed, self.stage.progress(first + step)) for step in range(count)]
        return [{name: float(value) for name, value in losses.items()} for losses in found]


def make_tiny_run(config: Config) -> TinyRun:
    """Everything made as `ssss run` makes it, no step done."""
    from ssss_zoo.engine.registry import build_methods, load, with_options
    from ssss_zoo.toolkit.types import Stage
    from ssss_zoo.train.run_folder import RunFolder, output_folder
    from ssss_zoo.train.setup import make_parts
    from ssss_zoo.train.stage import make_stage

    methods = build_methods(config)
    config = with_options(config, methods)
    dataset = load("datasets", config.dataset)(config.data)
    folder = RunFolder(output_folder(config))
    folder.path.mkdir(parents=True, exist_ok=True)
    parts = make_parts(config, methods, dataset, folder)
    return TinyRun(parts.config, parts, make_stage(parts, Stage(), 0, 0), methods)
