"""Networks of segmentation_models_pytorch (MIT): `model=smp model.architecture=Segformer model.encoder=mit_b0`.

The package is optional (`pip install 'ssss-zoo[smp]'`) and is imported when a network is built. Encoders have its
names: its own, such as `mit_b0` and `resnet34`, or `tu-` and timm's name.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ssss_zoo.errors import UserError, check_choice, nearest
from ssss_zoo.models.contract import Network
from ssss_zoo.models.encoders import (
    check_hub,
    first_line,
    freeze_norm,
    in_cache,
    load_weights,
    no_weights,
    read_weights,
    refuse_multi_grid,
    statistic,
    weights_file,
)
from ssss_zoo.toolkit.tensors import crop_corner, next_multiple, pad_to_multiple, resize
from ssss_zoo.toolkit.types import Output

if TYPE_CHECKING:
    from ssss_zoo.config.schema import ModelConfig

TIMM = "tu-"  # smp's prefix for encoders that it takes from timm
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for weights without numbers of their own
PROBE = 64  # side of the image that measures the decoder's width: two cells of the deepest map at stride 32


class SMP(Network):
    """smp's encoder, decoder and head as a `Network`.

    `encode` pads the image right and bottom (edges repeated) to the sides that smp needs, and returns smp's maps
    unchanged: the first may be the image itself, one may have no channels. `decode` crops the padding, so that every
    size works. `Output.features` is the decoder's last map, before smp's head.
    """

    source: ClassVar[str] = "segmentation_models_pytorch (Iakubovskii, 2019), any architecture as model.architecture"

    def __init__(self, settings: ModelConfig, num_classes: int) -> None:
        """Raises UserError for a missing package, unknown names, parts that do not fit together and missing weights."""
        whole, mean, std = make_network(settings, num_classes)
        super().__init__(mean, std)
        self.encoder, self.decoder, self.head = whole.encoder, whole.decoder, whole.segmentation_head
        self.stride = int(whole.encoder.output_stride)
        kinds = {parameter.kind for parameter in inspect.signature(self.decoder.forward).parameters.values()}
        self.takes_list = inspect.Parameter.VAR_POSITIONAL not in kinds  # smp changed it in 0.5
        self.feature_dim = probe(self)

    def encode(self, image: Tensor) -> list[Tensor]:
        image = self.normalise(image)
        return list(self.encoder(pad_to_multiple(image, self.stride)))

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Output:
        last = self.decoder(features) if self.takes_list else self.decoder(*features)
        padded = tuple(next_multiple(side, self.stride) for side in size)
        logits = self.head(last)
        if logits.shape[-2:] != padded:
            logits = resize(logits, padded)
        return Output(crop_corner(logits, size), last)


@torch.no_grad()
def probe(network: SMP) -> int:
    """Channels of the decoder's last map, measured in evaluation mode, so that no BatchNorm statistics change."""
    network.eval()
    image = network.mean.expand(1, -1, PROBE, PROBE)
    width = int(network.decode(network.encode(image), (PROBE, PROBE)).features.shape[1])
    network.train()
    return width


def make_network(settings: ModelConfig, num_classes: int) -> tuple[Any, list[float], list[float]]:
    """smp's whole network with its encoder's weights, and the mean and std that they expect of images in [0, 1]."""
    smp = package()
    refuse_multi_grid(settings)
    known = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values() if kind.__name__ != "DPT"}
    check_choice("model.architecture", settings.architecture, known)  # smp's DPT fails on patch 14; ours is model=dpt
    check_encoder(smp, settings.encoder)
    pretrained = settings.weights == "imagenet"
    if pretrained:
        check_pretrained(smp, settings)
    kind = known[settings.architecture]
    arguments: dict[str, Any] = {"in_channels": settings.in_channels, "classes": num_classes}
    if "encoder_output_stride" in inspect.signature(kind.__init__).parameters:
        arguments["encoder_output_stride"] = settings.output_stride
    try:
        whole = kind(settings.encoder, encoder_weights=smp_weights(settings), **arguments)
    except Exception as error:  # smp, timm and the hub's client each raise their own errors
        if pretrained:
            raise no_weights(settings, first_line(error)) from error
        parts = f"model.architecture={settings.architecture} with model.encoder={settings.encoder}"
        raise UserError(f"{parts} cannot be built: {first_line(error)}") from error
    if settings.weights not in ("imagenet", "none"):
        load_weights(whole.encoder, read_weights(weights_file(settings.weights)), settings)
    if settings.freeze_norm:
        freeze_norm(whole.encoder, settings)
    mean, std = statistics(smp, settings)
    return whole, statistic("mean", settings, mean), statistic("std", settings, std)


def package() -> Any:
    """segmentation_models_pytorch. Raises UserError when it is not installed."""
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise UserError("model=smp needs another package: pip install 'ssss-zoo[smp]'") from error
    return segmentation_models_pytorch


def check_encoder(smp: Any, name: str) -> None:
    """Raise UserError, with the nearest known name, when smp does not have the encoder."""
    import timm

    if name in smp.encoders.encoders or (name.startswith(TIMM) and timm.is_model(timm_part(name).partition(".")[0])):
        return
    known = [*smp.encoders.encoders, *(TIMM + other for other in timm.list_models())]
    raise UserError(
        f"unknown encoder '{name}' in model.encoder={name}{nearest(name, known)}  known to model=smp: its own, such as "
        f"mit_b0 or resnet34 (`segmentation_models_pytorch.encoders.get_encoder_names()`), and {TIMM}<timm's name>"
    )


def timm_part(name: str) -> str:
    return name.removeprefix(TIMM)


def smp_weights(settings: ModelConfig) -> str | bool | None:
    """The `encoder_weights` argument of smp: True for a timm encoder with pretrained weights, None for no weights."""
    if settings.weights != "imagenet":
        return None
    return True if settings.encoder.startswith(TIMM) else "imagenet"


def check_pretrained(smp: Any, settings: ModelConfig) -> None:
    """Raise UserError when smp has no ImageNet weights for the encoder, or they can be neither found nor downloaded."""
    import timm

    name = settings.encoder
    if name.startswith(TIMM):
        cfg = timm.get_pretrained_cfg(timm_part(name))
        if cfg is None or not cfg.has_weights:
            raise no_weights(settings, "timm has none for this encoder")
        cached = in_cache(str(cfg.hf_hub_id), cfg.hf_hub_filename or "model.safetensors") is not None
    else:
        offered = smp.encoders.encoders[name]["pretrained_settings"]
        if "imagenet" not in offered:
            raise no_weights(
                settings, f"smp has no ImageNet weights for this encoder (it has: {', '.join(offered) or 'none'})"
            )
        source = offered["imagenet"]
        files = ("model.safetensors", "config.json")
        cached = all(in_cache(source["repo_id"], file, source["revision"]) for file in files)
    if not cached:
        check_hub(settings)


def statistics(smp: Any, settings: ModelConfig) -> tuple[list[float], list[float]]:
    """Mean and std of images in [0, 1]: timm's, those that came with the weights that smp loaded, or ImageNet's."""
    import timm

    name = settings.encoder
    if name.startswith(TIMM):
        cfg = timm.get_pretrained_cfg(timm_part(name))
        return (list(cfg.mean), list(cfg.std)) if cfg else (list(MEAN), list(STD))
    if settings.weights != "imagenet":
        return list(MEAN), list(STD)
    source = smp.encoders.encoders[name]["pretrained_settings"]["imagenet"]
    file = in_cache(source["repo_id"], "config.json", source["revision"])
    if file is None:
        raise no_weights(settings, "the file with their mean and std was not downloaded")
    preprocessing = json.loads(Path(file).read_text("utf-8"))
    largest = preprocessing.get("input_range", [0, 1])[-1]  # 255 where the encoder was trained on such images
    return [value / largest for value in preprocessing["mean"]], [value / largest for value in preprocessing["std"]]
