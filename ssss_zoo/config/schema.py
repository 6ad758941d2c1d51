"""The configuration: a typed schema, and the layers that fill it.

Later wins: schema defaults, data set file, method file (its common part, then its part for the data set), `--config`
file, command line. Every value, from a file or the command line, arrives as text and is read by the type of the key it
is for, so that a split called `1_8` stays one (YAML 1.1 would make it 18).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssss_zoo.config.fields import check_ranges
from ssss_zoo.config.layers import (
    dataset_layer,
    method_layers,
    name_files,
    not_trusted,
    paths_of,
    recipes,
    strangers,
    variant,
)
from ssss_zoo.config.parse import merge, places, read_file, read_value, read_words, section, told_where, typed
from ssss_zoo.errors import UserError, check_choice, check_range, unknown
from ssss_zoo.record_files import check_format
from ssss_zoo.text import brief


@dataclass
class PluginsConfig:
    """Which methods speak. names: in the order in which they are asked (set by the method file, or by `method=a+b`);
    path: Python files with methods of your own, one class each (`method=./mine.py` fills in both). Such files are run
    only where the command line names them; `plugins.trust=true`, said there, also runs those that a --config file or a
    run's config.yaml names."""

    names: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)


@dataclass
class DataConfig:
    """root: where the data set lies (else `$SSSS_DATA/<dataset>`); split: which labelled list; cache: `ram`
    keeps every image and mask of the run decoded in memory, `none` reads files each time; hold_out: this share
    of the labelled images is not trained on but validated on, in place of val (for choices that val must not
    know of). changed: what resume=true does where files have changed since the run began, `refuse` or `allow` it.

    The rest is read by dataset=folder alone. layout: auto, `folders` (images/ and masks/), `parts` (train/images,
    train/masks, val/...) or `suffix` (a.jpg and a_mask.png side by side). images, masks: what those folders are called
    where they have no usual name. parts: which part a folder is whose name does not say so, `train`, `val` or `test` by
    the folder's name, as {site_3: val}. unlabelled: further folders of images without masks. encoding: what masks hold,
    auto, `ids`, `values` or `colours`. ignore: further values (or colours as '#ff00ff') of pixels that do not count; in
    ids 255 never does. snap: take values or colours that no class has for the nearest that one has. resize_masks: a
    mask of another size than its image, but of the same aspect, is resized to it (nearest neighbour). channels: which
    ones of an image's, counted from 1; empty means all. low, high: of images with more than 8 bits a channel, or of
    others that should be stretched, the values that become dark and bright, one or one for each channel; empty means
    from the images (percentiles 0.1 and 99.9 of a sample) where they are deep, and as they are where not. nodata:
    values of pixels that hold no data, 0 in images and void in masks; empty means what a TIFF's tag says, and in images
    of more than 8 bits a value that many pixels share and that lies far from all others; `off` means none. exif:
    whether images and masks are turned as their EXIF tag says. max_pixels: of an image at most.
    """

    root: str | None = None
    split: str = "all"
    cache: str = "none"
    hold_out: float = 0.0
    changed: str = "refuse"
    layout: str = "auto"
    images: str | None = None
    masks: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    encoding: str = "auto"
    ignore: list[str] = field(default_factory=list)
    snap: bool = False
    resize_masks: bool = False
    channels: list[int] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    nodata: list[str] = field(default_factory=list)
    exif: bool = True
    max_pixels: int = 180_000_000


@dataclass
class ModelConfig:
    """The network: decoder family `name` on a timm `encoder` (of model=smp: one of smp's).

    architecture: of segmentation_models_pytorch, read by model=smp alone. weights: `imagenet` (the pretrained ones
    that come with the encoder), `none` or a path. mean, std: of the images in [0, 1]; empty means the encoder's own for
    three channels, else those of the training images.
    multi_grid: factors of the dilations in the blocks of a ResNet's last stage (CPS, U2PL and AugSeg: 2, 2, 4); empty
    means none. freeze_norm: keep the encoder's BatchNorm as the weights bring it, neither trained nor estimated
    (CutMix-Seg). rates: of the ASPP; empty means the literature's for the output stride. separable:
    depthwise-separable 3x3 convolutions in the head, our choice for CPUs.
    """

    name: str = "deeplabv3plus"
    architecture: str = "Segformer"
    encoder: str = "tf_efficientnet_lite0"
    weights: str = "imagenet"
    in_channels: int = 3
    output_stride: int = 16
    multi_grid: list[int] = field(default_factory=list)
    freeze_norm: bool = False
    channels: int = 256
    low_level_channels: int = 48
    separable: bool = False
    rates: list[int] = field(default_factory=list)
    dropout: float = 0.0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


@dataclass
class TrainConfig:
    """steps or epochs: the budget; an epoch is one pass over the unlabelled list (over the labelled one for a method
    that reads no other). crop: one number or [height, width]. batch: images per stream and pass. accumulate: passes
    per optimiser step, so that the global batch is batch x accumulate. precision: 32, bf16, fp16. fuse: all views in
    one forward pass with the labelled images (quicker on a GPU, other BatchNorm statistics than the paper's).
    workers: loader processes per stream (none: 0 on a CPU, 4 on a GPU). threads: of torch on a CPU (none: all
    cores); it changes the last bits of results. log_every, eval_every, checkpoint_every: in steps (none: a
    hundredth of the run, of a short one a tenth; a fifth, below 100 steps its end alone; as eval_every). eval_epochs:
    in place of eval_every, in epochs; a release's one each, and the more often, the better is the best.
    checkpoint_minutes: a checkpoint at least so often, whatever the steps. on_nan: what a loss that is not finite does:
    `stop` the run, or `skip` the step as if it had never been; the step is kept in the run's folder (not_finite/)."""

    steps: int | None = None
    epochs: float | None = None
    crop: list[int] = field(default_factory=lambda: [321])
    batch: int = 8
    accumulate: int = 1
    precision: str = "32"
    channels_last: bool = True
    compile: bool = False
    fuse: bool = False
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    log_every: int | None = None
    eval_every: int | None = None
    eval_epochs: float | None = None
    checkpoint_every: int | None = None
    checkpoint_minutes: float = 10.0
    on_nan: str = "stop"


@dataclass
class OptimConfig:
    """name: sgd or adamw. lr: of the encoder; the rest trains at lr x head_multiplier. power: of the poly schedule
    lr * (1 - t/T)^power, written before step t (CPS, U2PL, ST++; UniMatch's release lags one step). decay_all: weight
    decay on every parameter (UniMatch, U2PL); false: not on biases and BatchNorm (CPS)."""

    name: str = "sgd"
    lr: float = 0.001
    head_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 0.0001
    decay_all: bool = True
    power: float = 0.9


@dataclass
class LossConfig:
    """supervised: ce or ohem (keep pixels whose true class has at most ohem_threshold, at least ohem_min_kept of them).
    class_weight: `expected` (a soft target gets the expected weight of its classes, its optimum stays) or `per_class`
    (the weights multiply the target itself)."""

    supervised: str = "ce"
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 200000
    class_weight: str = "expected"


@dataclass
class AugmentConfig:
    """Weak view: scale (share of the long side, or of `base` pixels where given, as ST++ and AugSeg have it), crop,
    flip. scale_law: `uniform`, or `halves`, below and above 1 equally often (U2PL). Where a crop is larger than its
    image, pad_fill: `black`, or the network's `mean` colour (U2PL, CPS, AugSeg); pad_place: the image stands at the
    upper left and padding at the `end`, or in the `centre` (U2PL, CPS); pad_label: what padding is in labelled masks,
    255 to leave it out, 0 for U2PL's background. Strong view, on top: colour jitter with chance `jitter` and the four
    ranges, grey with chance `grey`, blur with chance `blur` and sigma in pixels. Defaults are UniMatch's release."""

    scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    scale_law: str = "uniform"
    base: int | None = None
    pad_fill: str = "black"
    pad_place: str = "end"
    pad_label: int = 255
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])


@dataclass
class EvaluateConfig:
    """mode: `whole` image at native size, `sliding` windows of `window` (empty: the crop), or the `centre` of an
    image, one window of it (U2PL on VOC), padded to its size where it is smaller. Of sliding: windows are `stride`
    pixels apart, else overlap by the share `overlap`; edge: the last one is `shift`ed to end at the border
    (UniMatch V2, CPS, U2PL), or begins where its turn is and is `cut` there (UniMatch V1); sums: what is averaged
    where they overlap, `softmax` or `logits` (CPS, U2PL). pad_label: of centre: what pixels beyond the image are in
    the truth, 0 for U2PL's background, 255 to leave them out. fit: an image or window whose sides are no multiples
    of what the network needs is padded right and bottom, edges repeated (`pad`), or resized to the nearest
    multiples and its logits back (`resize`, UniMatch V2). absent: a class that the truth does not show
    is left out of the mean (`exclude`), or counts with an IoU of 0 (`zero`; UniMatch, U2PL). predictions: images
    in predictions.png.
    """

    mode: str = "whole"
    window: list[int] = field(default_factory=list)
    stride: list[int] = field(default_factory=list)
    edge: str = "shift"
    sums: str = "softmax"
    pad_label: int = 255
    overlap: float = 1 / 3
    fit: str = "pad"
    absent: str = "exclude"
    predictions: int = 4


@dataclass
class TrackingConfig:
    """MLflow. uri: a store (none: a SQLite file under `runs/`); `off` for none. experiment: its name there. parent: the
    run that this one is shown under (a comparison's)."""

    uri: str | None = None
    experiment: str = "ssss-zoo"
    parent: str | None = None


@dataclass
class Config:
    """All of a run. method, dataset: names, `unimatch:release` for every switch as a release's figures were made, where
    a recipe has such (`release:`); protocol: a file of configs/protocol/, which settles data set,
    split family, crop and scoring, whatever the method's own recipe says; hooks: who answers one hook, instead
    of the method; options: the methods' own. output: the run's folder (none:
    runs/<dataset>/<method>/<split>/seed<seed>). diagnose: compare pseudo-labels with the hidden labels of the
    unlabelled images, for reporting only. trace: print the first steps' hook calls."""

    method: str = "farcluss"
    dataset: str = "shapes"
    protocol: str | None = None
    plugins: PluginsConfig = field(default_factory=PluginsConfig)
    hooks: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    output: str | None = None
    resume: bool = False
    overwrite: bool = False
    diagnose: bool = False
    trace: bool = False

    def __post_init__(self) -> None:
        self.places: dict[str, str] = {}  # where the value of a key stands, of those that a file gave


# --- layers ---------------------------------------------------------------------------------------------------------


def resolve(words: Iterable[str], config_file: Path | None = None, methods: bool = True) -> Config:
    """The configuration of a run from the words of the command line and a file of the user's own. Raises UserError for
    what it cannot be, and for Python files that only the file names, unless the words say plugins.trust=true. methods:
    False where none will be built: such files are left out then."""
    given = read_words(words)
    trusted = take_trust(given)
    own = read_own(config_file) if config_file else {}
    if "trust" in section(own, "plugins"):
        raise UserError(f"{config_file}: plugins.trust counts on the command line alone; take it out of the file")
    typed(Config, own)
    (given, files), (own, theirs) = name_files(given), name_files(own)
    keep_strangers_out(given, own, config_file, trusted, methods)
    method, release = variant(choose("method", given, own))
    dataset = choose("dataset", given, own)
    check_names(given, own, config_file)
    protocol = read_value(given.get("protocol", own.get("protocol")), str | None, "protocol")
    if protocol and "dataset" not in given and "dataset" not in own:
        given["dataset"] = dataset = protocol_settings(protocol)["dataset"]
    layers = [
        dataset_layer(dataset),
        *method_layers(method, dataset, theirs | files, release),
        protocol_layer(protocol, dataset),
    ]
    tree: dict[str, Any] = {}
    for layer in (*layers, own, given):
        typed(Config, layer)  # each layer is right by itself, whatever a later one would replace
        one_of_each(tree, layer)
        merge(tree, layer)
    values = typed(Config, tree)
    count_channels(values)
    config: Config = build(Config, values)
    config.places = places(tree)
    with told_where(config.places):
        check(config)
    return config


def take_trust(given: dict[str, Any]) -> bool:
    """Take `plugins.trust` out of the words: it is said anew each time, and never written down."""
    plugins = section(given, "plugins")
    if "trust" not in plugins:
        return False
    given["plugins"] = {key: value for key, value in plugins.items() if key != "trust"}
    return bool(read_value(plugins["trust"], bool, "plugins.trust"))


def keep_strangers_out(
    given: dict[str, Any], own: dict[str, Any], config_file: Path | None, trusted: bool, methods: bool
) -> None:
    """Write into `given` which Python files may be run: those that the words name, and the file's own where the person
    trusts it. Raises UserError for others, where methods are built at all."""
    unknown_files = [] if trusted else strangers(own, given)
    if unknown_files and methods:
        raise not_trusted(unknown_files[0], config_file)
    allowed = [path for path in dict.fromkeys([*paths_of(given), *paths_of(own)]) if path not in unknown_files]
    if "path" in own.get("plugins", {}):
        given["plugins"] = section(given, "plugins") | {"path": allowed}


def read_own(file: Path) -> dict[str, Any]:
    """A configuration file of the user's own, or of a run, which says its `format`. Raises UserError as `read_file`
    does, and for one of a newer version."""
    own = read_file(file)
    check_format(read_value(own.pop("format", "0"), int, "format"), file)
    return own


def count_channels(values: dict[str, Any]) -> None:
    """The network takes as many channels as are read, unless something else was said."""
    channels = values.get("data", {}).get("channels")
    if channels:
        values.setdefault("model", {}).setdefault("in_channels", len(channels))


def check_names(given: Mapping[str, Any], own: Mapping[str, Any], config_file: Path | None) -> None:
    """`plugins.names` is how a method file says what it is made of, and a resolved configuration repeats it; a person
    says `method=a+b`. Raises UserError where the two would disagree."""
    if "names" in given.get("plugins", {}):
        raise UserError("plugins.names belongs into a method file; say method=a+b")
    if "names" in own.get("plugins", {}) and (
        "method" not in own or given.get("method", own["method"]) != own["method"]
    ):
        raise UserError(
            f"{config_file} names its plugins, as a run's resolved configuration does: it goes with the method beside "
            f"them (method={own.get('method', '?')}) and no other"
        )


ONE_OF = (("steps", "epochs"), ("eval_every", "eval_epochs"))  # keys of `train` that say one thing in two ways


def one_of_each(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """`steps` of a later layer replaces `epochs` of an earlier one, and the other way round; so do the like."""
    train, later = tree.get("train", {}), layer.get("train", {})
    for pair in ONE_OF:
        for key, other in (pair, pair[::-1]):
            if isinstance(later, Mapping) and later.get(key) not in (None, "null"):
                train.pop(other, None)


def choose(key: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    value = given.get(key, own.get(key, getattr(Config, key)))
    if not isinstance(value, str) or not value:
        raise UserError(f"{key} takes a name; got '{brief(value)}'")
    return value


def protocol_settings(name: str) -> dict[str, Any]:
    """The file of a protocol, its values of the right types: `dataset`, `family` of the split lists, and sections of
    the configuration. Raises UserError for an unknown one."""
    known = recipes("protocol")
    if name not in known:
        raise unknown("protocol", name, known, f"protocol={name}")
    tree = read_file(known[name])
    own = {key: tree.pop(key) for key in ("dataset", "family")}
    return own | typed(Config, tree)


def protocol_layer(name: str | None, dataset: str) -> dict[str, Any]:
    """What a protocol settles. Raises UserError where it is one of another data set."""
    if name is None:
        return {}
    of = protocol_settings(name)["dataset"]
    if of != dataset:
        raise UserError(f"protocol={name} is one of dataset={of}, the run is on dataset={dataset}")
    tree = read_file(recipes("protocol")[name])
    return {key: value for key, value in tree.items() if key not in ("dataset", "family")}


def build(schema: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of the dataclass `schema` from values that `typed` has read, defaults filled in; OmegaConf checks the
    types once more. Raises UserError for a field that has no default and was not given. prefix: of its keys, in that
    message."""
    missing = [
        f.name
        for f in dataclasses.fields(schema)
        if f.init and f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{prefix}{missing[0]} has no default: give {prefix}{missing[0]}=value")
    try:
        merged = OmegaConf.merge(defaults_of(schema), literal(values))
        check_ranges(schema, merged, prefix)  # before a method's own __post_init__ works with its options
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(brief(" ".join(str(error).split()), 200)) from None


@cache
def defaults_of(schema: type) -> Any:
    """OmegaConf's tree of a dataclass, which nothing writes into: making one takes a third of `resolve`."""
    return OmegaConf.structured(schema)


def literal(value: Any) -> Any:
    """A tree whose text OmegaConf leaves as it stands: `${...}` is no reference to anything. Raises UserError for its
    mark of a value that is missing, which cannot be told from text."""
    if value == "???":
        raise UserError("a setting is given as '???', which stands for no value: give a value, or leave it out")
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{2 * found[1]}\\${{", value)
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value


def check_budget(config: Config) -> None:
    """Raise UserError where neither the words nor a recipe say how long to train."""
    if config.train.steps is None and config.train.epochs is None:
        raise UserError("how long to train? give train.steps or train.epochs")


def check(config: Config) -> None:
    """Ranges that hold whatever the method; a method checks its own options."""
    train = config.train
    for key, other in ONE_OF:
        first, second = getattr(train, key), getattr(train, other)
        if first is not None and second is not None:
            raise UserError(f"give train.{key} or train.{other}, not both; got {first} and {second:g}")
    check_choice("train.precision", train.precision, ("32", "bf16", "fp16"))
    check_choice("train.on_nan", train.on_nan, ("stop", "skip"))
    check_choice("optim.name", config.optim.name, ("sgd", "adamw"))
    check_choice("loss.supervised", config.loss.supervised, ("ce", "ohem"))
    check_choice("loss.class_weight", config.loss.class_weight, ("expected", "per_class"))
    check_choice("data.cache", config.data.cache, ("none", "ram"))
    check_choice("data.changed", config.data.changed, ("refuse", "allow"))
    check_choice("evaluate.mode", config.evaluate.mode, ("whole", "sliding", "centre"))
    check_choice("evaluate.edge", config.evaluate.edge, ("shift", "cut"))
    check_choice("evaluate.sums", config.evaluate.sums, ("softmax", "logits"))
    check_choice("evaluate.fit", config.evaluate.fit, ("pad", "resize"))
    check_choice("evaluate.absent", config.evaluate.absent, ("exclude", "zero"))
    check_choice("augment.scale_law", config.augment.scale_law, ("uniform", "halves"))
    check_choice("augment.pad_fill", config.augment.pad_fill, ("black", "mean"))
    check_choice("augment.pad_place", config.augment.pad_place, ("end", "centre"))
    check_sides("train.crop", train.crop, least=1)
    check_sides("evaluate.window", config.evaluate.window, least=0)
    check_sides("evaluate.stride", config.evaluate.stride, least=0)
    check_pair("augment.scale", config.augment.scale, 0.01, 20)
    if config.augment.scale_law == "halves" and not config.augment.scale[0] <= 1 <= config.augment.scale[1]:
        raise UserError(f"augment.scale_law=halves needs 1 within augment.scale; got {config.augment.scale}")
    check_pair("augment.blur_sigma", config.augment.blur_sigma, 0.001, 50)
    check_channels(config)
    check_nodata(config.data.nodata)
    for (low, high), keys in RANGES.items():
        for key in keys.split():
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            if value is not None:
                check_range(key, value, low, high)


RANGES = {  # lowest and highest value: the keys that lie within them, where they are given at all (our choice)
    (0, 1): "augment.flip augment.jitter augment.grey augment.blur augment.brightness augment.contrast "
    "augment.saturation loss.ohem_threshold optim.weight_decay",
    (0, 0.95): "model.dropout evaluate.overlap",
    (0, 0.5): "augment.hue",
    (0, 0.9): "data.hold_out",
    (0, 1e3): "optim.lr optim.power evaluate.predictions train.workers",
    (0, 0.9999): "optim.momentum",
    (0, 1e6): "optim.head_multiplier",
    (0, 2**31): "seed",
    (0, 255): "evaluate.pad_label augment.pad_label",
    (1, 1e5): "augment.base",
    (1, 1e12): "data.max_pixels",
    (1, 4096): "model.in_channels train.threads",
    (1, 1e9): "train.batch train.accumulate train.steps train.log_every train.eval_every train.checkpoint_every "
    "loss.ohem_min_kept",
    (1e-6, 1e6): "train.epochs train.eval_epochs train.checkpoint_minutes",
}


def check_sides(key: str, sides: list[int], least: int) -> None:
    """Raise UserError unless there are at least `least` sides and at most 2, each of 1 pixel or more."""
    if not least <= len(sides) <= 2 or min(sides, default=1) < 1:
        raise UserError(f"{key} takes one side or [height, width] in pixels; got {brief(sides)}")


def check_pair(key: str, pair: list[float], low: float, high: float) -> None:
    """Raise UserError unless it is [smallest, largest], both within [low, high] (our choice of these)."""
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise UserError(f"{key} takes [smallest, largest] with 0 < smallest <= largest; got {brief(pair)}")
    for value in pair:
        check_range(key, value, low, high)


SMALL = 32  # pixels of a crop's side below which a step sees next to nothing (our choice: the literature's 321 to 801)


def oddities(config: Config) -> list[str]:
    """What is allowed and hardly meant, a line each."""
    lines = []
    if min(config.train.crop) < SMALL:
        lines.append(f"train.crop={brief(config.train.crop)} pixels: so small a crop shows a network next to nothing")
    if config.optim.lr == 0:
        lines.append("optim.lr=0: no weight will move")
    return lines


def check_channels(config: Config) -> None:
    """Raise UserError for channels that cannot be, and for ranges that do not fit them."""
    data, expected = config.data, config.model.in_channels
    if data.channels and min(data.channels) < 1:
        raise UserError(f"data.channels={data.channels}: the channels of a file are counted from 1")
    if data.channels and len(data.channels) != expected:
        raise UserError(f"data.channels={data.channels} are {len(data.channels)}, and model.in_channels={expected}")
    paired = len(data.low) == len(data.high) and len(data.low) in (0, 1, expected)
    if not paired or any(low >= high for low, high in zip(data.low, data.high, strict=True)):
        raise UserError(
            f"data.low={data.low} and data.high={data.high} must both be one number or one for each of {expected} "
            "channels (model.in_channels), each low below its high"
        )


def check_nodata(words: list[str]) -> None:
    """Raise UserError for what is neither numbers nor `off` alone."""
    for word in words:
        try:
            float(word)
        except ValueError:
            if words != ["off"]:
                raise UserError(
                    f"data.nodata={words}: expected the values of pixels without data, or off where all have some"
                ) from None


def as_yaml(config: Config) -> str:
    """The configuration as YAML that `--config` reads back to the same one."""
    return yaml.dump(asdict(config), Dumper=Writer, sort_keys=False, allow_unicode=True, width=sys.maxsize)


class Writer(yaml.SafeDumper):
    """Writes text as text, whatever it looks like, and a part that is there twice in full both times."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Writer.add_multi_representer(str, lambda writer, text: writer.represent_str(str(text)))


def square(sides: list[int]) -> tuple[int, int]:
    """[side] or [height, width] as (height, width)."""
    return (sides[0], sides[-1])
