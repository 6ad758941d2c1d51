"""Every setting of a run: its key, its type with range or choices, its default, and what it does.

The text below a field describes it; the settings page is made of these texts. A configuration is frozen:
`dataclasses.replace` makes another one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from ssss_zoo.config.fields import Range
from ssss_zoo.config.yaml_text import write_yaml

Share = Annotated[float, Range(0, 1)]
Steps = Annotated[int | None, Range(1, 1e9)]  # numbers of steps and epochs: bounds of our choice
Epochs = Annotated[float | None, Range(1e-6, 1e6)]


@dataclass(frozen=True)
class PluginsConfig:
    """The methods of the run, and the files they come from.

    Such files are run only where the command line names them. `plugins.trust=true`, given there, also runs those that
    a --config file or a run's config.yaml names.
    """

    names: list[str] = field(default_factory=list)
    """Methods in the order in which they are asked. The method's recipe, or `method=a+b`, sets them."""
    path: list[str] = field(default_factory=list)
    """Python files with methods of your own, one class each. `method=./mine.py` sets both keys."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images and masks lie, and how they are read. From `layout` on, dataset=folder alone reads the keys."""

    root: str | None = None
    """Folder of the data set. Default: `$SSSS_DATA/<dataset>`."""
    split: str = "all"
    """The labelled list: `1/8`, `92`, `all`, or the path of a list file or of a folder with the lists of a split."""
    cache: Literal["none", "ram"] = "none"
    """`ram` keeps all decoded images and masks of the run in memory; `none` reads the files each time."""
    hold_out: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of the labelled images that the run validates on instead of training on them, in place of val. For choices
    that must not use val."""
    changed: Literal["refuse", "allow"] = "refuse"
    """Whether resume=true continues a run whose data files have changed since it began."""
    layout: str = "auto"
    """`folders` (images/ and masks/), `parts` (train/images, train/masks, val/...), `suffix` (a.jpg and a_mask.png in
    one folder), or `auto` to detect one of these."""
    images: str | None = None
    """Name of the folders of images, where it is none of the usual ones."""
    masks: str | None = None
    """Name of the folders of masks, where it is none of the usual ones."""
    parts: dict[str, str] = field(default_factory=dict)
    """`train`, `val` or `test` by the name of a folder whose name does not tell, as {site_3: val}."""
    unlabelled: list[str] = field(default_factory=list)
    """Further folders of images without masks."""
    encoding: str = "auto"
    """What the pixels of a mask hold: class `ids`, other `values`, `colours`, or `auto` to detect it."""
    ignore: list[str] = field(default_factory=list)
    """Further mask values, or colours as '#ff00ff', of pixels that do not count. Among ids, 255 never counts."""
    snap: bool = False
    """Map mask values or colours that belong to no class to the nearest class."""
    resize_masks: bool = False
    """Resize a mask whose size differs from its image's, with the same aspect ratio, by nearest neighbour."""
    channels: list[int] = field(default_factory=list)
    """Channels of an image to read, counted from 1. Default: all."""
    low: list[float] = field(default_factory=list)
    """Pixel values mapped to black, one number or one per channel. Default: the 0.1 percentile of a sample for images
    deeper than 8 bits, no scaling otherwise."""
    high: list[float] = field(default_factory=list)
    """Pixel values mapped to white, as `low`. Default: the 99.9 percentile."""
    nodata: list[str] = field(default_factory=list)
    """Values of pixels without data: 0 in images and void in masks; `off` for none. Default: the value in a TIFF's tag,
    and in images deeper than 8 bits a value that many pixels share and that is far from all others."""
    exif: bool = True
    """Rotate images and masks as their EXIF tag says."""
    max_pixels: Annotated[int, Range(1, 1e12)] = 180_000_000
    """Largest number of pixels of an image."""


@dataclass(frozen=True)
class ModelConfig:
    """The network: a decoder on a pretrained encoder."""

    name: str = "deeplabv3plus"
    """Decoder family, a name of `ssss list models`. `model=NAME` sets it, too."""
    architecture: str = "Segformer"
    """Architecture of segmentation_models_pytorch, for model=smp alone."""
    encoder: str = "tf_efficientnet_lite0"
    """Encoder, by its name in timm; for model=smp by its name there."""
    weights: str = "imagenet"
    """`imagenet` (the pretrained weights that come with the encoder), `none`, the path of a file, or `hf://NAME`, the
    encoder of a run on the hub."""
    in_channels: Annotated[int, Range(1, 4096)] = 3
    """Channels of the images. Default: 3, or the number of `data.channels`."""
    output_stride: int = 16
    """Pixels of the image, along a side, that one pixel of the encoder's last map stands for."""
    multi_grid: list[int] = field(default_factory=list)
    """Factors of the dilations in the blocks of a ResNet's last stage (CPS, U2PL, AugSeg: 2, 2, 4). Default: none."""
    freeze_norm: bool = False
    """Neither train the encoder's BatchNorm nor update its statistics (CutMix-Seg)."""
    channels: Annotated[int, Range(1)] = 256
    """Channels of the decoder."""
    low_level_channels: Annotated[int, Range(1)] = 48
    """Channels that the decoder takes of the encoder's early, finer map."""
    separable: bool = False
    """Use depthwise-separable 3x3 convolutions in the decoder, our choice for CPUs."""
    rates: Annotated[list[int], Range(1)] = field(default_factory=list)
    """Dilations of the ASPP. Default: those of the literature for the output stride."""
    dropout: Annotated[float, Range(0, 0.95)] = 0.0
    """Dropout rate in the decoder."""
    mean: list[float] = field(default_factory=list)
    """Mean of the images in [0, 1], per channel. Default: the encoder's own for three channels, otherwise that of the
    training images."""
    std: list[float] = field(default_factory=list)
    """Standard deviation, as `mean`."""


@dataclass(frozen=True)
class TrainConfig:
    """The budget, the batches and the device."""

    steps: Steps = None
    """Optimiser steps of the run. Give `steps` or `epochs`."""
    epochs: Epochs = None
    """Epochs of the run: passes over the unlabelled list, or over the labelled one for a method that reads no other."""
    crop: list[int] = field(default_factory=lambda: [321])
    """Side of the training crops in pixels, or [height, width]."""
    batch: Annotated[int, Range(1, 1e9)] = 8
    """Images per stream (labelled, unlabelled) and forward pass."""
    accumulate: Annotated[int, Range(1, 1e9)] = 1
    """Passes per optimiser step: the global batch is batch x accumulate."""
    precision: Literal["32", "bf16", "fp16"] = "32"
    """Number format of the forward passes."""
    channels_last: bool = True
    """Store feature maps channels-last, which is faster on most devices."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    fuse: bool = False
    """Run all views in one forward pass with the labelled images: faster on a GPU, other BatchNorm statistics than in
    the papers."""
    workers: Annotated[int | None, Range(0, 1e3)] = None
    """Loader processes per stream. Default: 0 on a CPU, 4 on a GPU."""
    threads: Annotated[int | None, Range(1, 4096)] = None
    """Threads of torch on a CPU; their number changes the last bits of results. Default: all cores."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto` for a GPU where there is one."""
    log_every: Steps = None
    """Steps between two log lines. Default: a hundredth of the run, of a short one a tenth."""
    eval_every: Steps = None
    """Steps between two evaluations. Default: a fifth of the run, below 100 steps its end alone."""
    eval_epochs: Epochs = None
    """Epochs between two evaluations, in place of `eval_every`. Releases evaluate after each; the more often, the
    better is the best."""
    checkpoint_every: Steps = None
    """Steps between two checkpoints. Default: as `eval_every`."""
    checkpoint_minutes: Annotated[float, Range(1e-6, 1e6)] = 10.0
    """Minutes after which a checkpoint is due, whatever the steps."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss that is not finite ends the run (`stop`), or its step is undone (`skip`). Either way not_finite/ in the
    run's folder keeps the step."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """The optimiser."""
    lr: Annotated[float, Range(0, 1e3)] = 0.001
    """Learning rate of the encoder."""
    head_multiplier: Annotated[float, Range(0, 1e6)] = 10.0
    """Learning rate of all other parameters, as a multiple of `lr`."""
    momentum: Annotated[float, Range(0, 0.9999)] = 0.9
    """Momentum of SGD."""
    weight_decay: Share = 0.0001
    """Weight decay."""
    decay_all: bool = True
    """Decay every parameter (UniMatch, U2PL); false: not biases and BatchNorm (CPS)."""
    power: Annotated[float, Range(0, 1e3)] = 0.9
    """Power of the poly schedule lr * (1 - t/T)^power, set before step t (CPS, U2PL, ST++; UniMatch's release is one
    step behind)."""


@dataclass(frozen=True)
class LossConfig:
    """The supervised loss, and weights of classes."""

    supervised: Literal["ce", "ohem"] = "ce"
    """`ce`: cross entropy of all pixels; `ohem`: of hard pixels alone, with the two keys below."""
    ohem_threshold: Share = 0.7
    """A pixel is hard where the probability of its true class is at most this."""
    ohem_min_kept: Annotated[int, Range(1, 1e9)] = 200000
    """Least number of pixels that count as hard."""
    class_weight: Literal["expected", "per_class"] = "expected"
    """`expected`: a soft target has the expected weight of its classes, and its optimum stays; `per_class`: the weights
    multiply the target itself."""


@dataclass(frozen=True)
class AugmentConfig:
    """The weak view is scaled, cropped and flipped; the strong view has colour changes on top. Defaults: UniMatch's
    release."""

    scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    """Smallest and largest scale, a share of the long side, or of `base` pixels."""
    scale_law: Literal["uniform", "halves"] = "uniform"
    """How scales are drawn: `uniform`, or `halves`, below and above 1 equally often (U2PL)."""
    base: Annotated[int | None, Range(1, 1e5)] = None
    """Long side in pixels that a scale of 1 stands for (ST++, AugSeg). Default: the image's own."""
    pad_fill: Literal["black", "mean"] = "black"
    """Colour around an image smaller than the crop: `black`, or the `mean` of the network (U2PL, CPS, AugSeg)."""
    pad_place: Literal["end", "centre"] = "end"
    """Where the padding lies: right and below (`end`), or on all sides (`centre`; U2PL, CPS)."""
    pad_label: Annotated[int, Range(0, 255)] = 255
    """Label of padding in labelled masks: 255 leaves it out, 0 is U2PL's background."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    jitter: Share = 0.8
    """Probability of colour jitter in the strong view, with the four ranges below."""
    brightness: Share = 0.5
    """Range of brightness."""
    contrast: Share = 0.5
    """Range of contrast."""
    saturation: Share = 0.5
    """Range of saturation."""
    hue: Annotated[float, Range(0, 0.5)] = 0.25
    """Range of hue, as a share of the colour wheel."""
    grey: Share = 0.2
    """Probability that the strong view is grey."""
    blur: Share = 0.5
    """Probability of Gaussian blur in the strong view."""
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    """Smallest and largest sigma of the blur, in pixels."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How predictions are made and scored."""

    mode: Literal["whole", "sliding", "centre"] = "whole"
    """`whole` images at native size, `sliding` windows, or the `centre` of each image, one window of it padded to its
    size where the image is smaller (U2PL on VOC)."""
    window: list[int] = field(default_factory=list)
    """Side of the window in pixels, or [height, width]. Default: the training crop."""
    stride: list[int] = field(default_factory=list)
    """Pixels between two sliding windows, or [down, right]. Default: from `overlap`."""
    edge: Literal["shift", "cut"] = "shift"
    """`shift` the last sliding window to end at the border (UniMatch V2, CPS, U2PL), or `cut` it (UniMatch V1)."""
    sums: Literal["softmax", "logits"] = "softmax"
    """What is averaged where sliding windows overlap: `softmax`, or `logits` (CPS, U2PL)."""
    pad_label: Annotated[int, Range(0, 255)] = 255
    """mode=centre: label of pixels beyond the image: 0 for U2PL's background, 255 to leave them out."""
    overlap: Annotated[float, Range(0, 0.95)] = 1 / 3
    """Share of a sliding window that the next one covers again, where no `stride` is given."""
    fit: Literal["pad", "resize"] = "pad"
    """For sides that are no multiples of what the network needs: `pad` right and below by repeating the edge, or
    `resize` to the nearest multiples and the logits back (UniMatch V2)."""
    absent: Literal["exclude", "zero"] = "exclude"
    """A class that no mask shows: `exclude` it from the mean, or count an IoU of `zero` (UniMatch, U2PL)."""
    predictions: Annotated[int, Range(0, 1e3)] = 4
    """Images in predictions.png."""


@dataclass(frozen=True)
class TrackingConfig:
    """Where the figures of a run are logged, beside its own files."""

    to: list[str] = field(default_factory=lambda: ["mlflow"])
    """The loggers: `mlflow`, `tensorboard`, `wandb` (Weights & Biases), or those of other packages."""
    uri: str | None = None
    """The store of MLflow. Default: a SQLite file under `runs/`. `off` logs nothing anywhere, whatever `to` names."""
    experiment: str = "ssss-zoo"
    """Name of MLflow's experiment, and of W&B's project."""
    parent: str | None = None
    """The run of MLflow that this one is shown under; a comparison sets it."""
    group: str | None = None
    """The group of W&B that this run is shown in; a comparison sets it."""
    online: bool = False
    """Send figures to W&B's server as the run goes. Default: `wandb sync` sends them later."""
    model: bool = False
    """Log the best network to MLflow as a model that `mlflow.pyfunc.load_model` loads."""
    system: bool = False
    """Log the load of processors, memory, disk and network, to MLflow and W&B."""


@dataclass(frozen=True)
class Config:
    """What is trained on which data."""

    method: str = "farcluss"
    """Method, or several joined by `+`. `unimatch:release` has every switch as in the release, where a recipe says
    how."""
    dataset: str = "shapes"
    """Data set, a name of `ssss list datasets`."""
    protocol: str | None = None
    """A file of configs/protocol/, which settles data set, family of split lists, crop and scoring, whatever the
    method's recipe says."""
    plugins: PluginsConfig = field(default_factory=PluginsConfig)
    hooks: dict[str, str] = field(default_factory=dict)
    """`hooks.<hook>=NAME`: who answers one hook, instead of the method."""
    options: dict[str, Any] = field(default_factory=dict)
    """`options.<method>.<option>=value`: the methods' own settings; `ssss card METHOD` explains them."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: Annotated[int, Range(0, 2**31)] = 0
    """Everything random follows from it."""
    output: str | None = None
    """Folder of the run. Default: runs/<dataset>/<method>/<split>/seed<seed>."""
    resume: bool = False
    """Continue the run in `output`."""
    overwrite: bool = False
    """Replace the run in `output`."""
    diagnose: bool = False
    """Compare pseudo-labels with the hidden labels of the unlabelled images; this is reported and reaches no method."""
    trace: bool = False
    """Print the hook calls of the first steps."""

    # No setting: the file and line of each value that a file gave, by its key. Messages name it.
    locations: dict[str, str] = field(
        default_factory=dict, compare=False, repr=False, metadata={"omegaconf_ignore": True}
    )


def as_tree(config: Config) -> dict[str, Any]:
    """All settings as nested mappings."""
    return {key: value for key, value in asdict(config).items() if key != "locations"}


def as_yaml(config: Config) -> str:
    """The configuration as YAML that `--config` reads back to the same one."""
    return write_yaml(as_tree(config))


def square(sides: list[int]) -> tuple[int, int]:
    """[side] or [height, width] as (height, width)."""
    return (sides[0], sides[-1])
