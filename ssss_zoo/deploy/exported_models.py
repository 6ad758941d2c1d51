"""Reads the models that `ssss export` writes, and finds the model that `run=` names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import EvaluateConfig, ModelConfig, square
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.deploy.trained import TrainedModel, load_model, reading_from_record
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.evaluation.evaluator import Predictor
from ssss_zoo.hub import is_hub_name
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Output
from ssss_zoo.train.checkpoint import fill_module

EXPORT_FORMAT = 1  # of the description in an ONNX file, beside a model, and in config.json
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
ONNX_SUFFIX = ".onnx"
EXPORT_AGAIN = "write it again by `ssss export run=DIR output=PATH`"


def open_model(
    run: str | Path, weights: str | None = None, network: str | None = None, device: str = "auto"
) -> TrainedModel:
    """The model of a run's folder, of an ONNX file or of a safetensors folder; `model.predict("photo.jpg")` predicts an
    image.

    run: the folder of a run, `hf://NAME` for one on the hub, or what `ssss export` wrote with format=onnx or
    format=safetensors. weights: `best` or `last`; by default the best checkpoint, the last where there is no best one.
    network: `student` or `teacher`; by default the one that the run's figures are of. device: as `train.device`; an
    exported model runs on the CPU. Raises UserError where there is no run, no checkpoint, or no whole model.
    """
    if is_hub_name(run):
        return load_model(run, weights, network, device)
    path = expanded(run)
    exported = path.suffix.lower() == ONNX_SUFFIX or (path / WEIGHTS_FILE).is_file()
    if not exported:
        return load_model(run, weights, network, device)
    if weights or network:
        raise UserError(f"weights= and network= choose within the folder of a run; {path} is an exported model of one")
    return load_onnx(path) if path.suffix.lower() == ONNX_SUFFIX else from_pretrained(path)


# --- ONNX -----------------------------------------------------------------------------------------------------------


class OnnxNetwork(nn.Module):
    """A network that onnxruntime runs: images (B, channels, H, W) in [0, 1] to logits of that size.

    session: onnxruntime's. value_range: what the model calls white.
    """

    multiple = 1  # the model itself fits any size

    def __init__(self, session: Any, value_range: float) -> None:
        super().__init__()
        self.session = session
        self.value_range = value_range

    def forward(self, image: Tensor) -> Output:
        (logits,) = self.session.run(None, {"image": (image * self.value_range).numpy()})
        return Output(logits=torch.from_numpy(logits), features=image.new_zeros(()))


def load_onnx(file: Path) -> TrainedModel:
    """The model of an ONNX file that `ssss export` wrote, on the CPU. Raises UserError without onnxruntime, and for a
    file of another kind or version."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{file} needs another package to run: pip install 'ssss-zoo[onnx]'") from None
    if not file.is_file():
        raise UserError(f"run={file}: there is no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        stored = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(f"{file} cannot be read as ONNX: {brief(' '.join(str(error).split()))}") from None
    description = read_description(stored, file)
    try:
        if description["output"] != "logits":
            raise UserError(
                f"{file} was exported with argmax=true and gives class ids without probabilities: {EXPORT_AGAIN}"
            )
        network = OnnxNetwork(session, description["input"]["range"][1])
        return described_model(description, network, Predictor(EvaluateConfig(), (0, 0)), file)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"the description in {file} is damaged: {brief(error)}; {EXPORT_AGAIN}") from None


def read_description(stored: Mapping[str, str], file: Path) -> dict[str, Any]:
    """The description in an ONNX file's metadata, whose values are text as it is or JSON. Raises UserError."""
    if stored.get("format") is None:
        raise UserError(f"{file} was not written by `ssss export`: the file does not name its classes; {EXPORT_AGAIN}")
    if stored["format"] != str(EXPORT_FORMAT):
        found = brief(stored["format"])
        raise UserError(f"{file} has format {found}; this version reads format {EXPORT_FORMAT}: {EXPORT_AGAIN}")
    texts = ("output", "source")
    try:
        return {key: value if key in texts else json.loads(value) for key, value in stored.items()}
    except ValueError as error:
        raise UserError(f"the description in {file} is damaged: {brief(error)}; {EXPORT_AGAIN}") from None


def described_model(
    description: Mapping[str, Any], network: nn.Module, predictor: Predictor, path: Path
) -> TrainedModel:
    """A model on the CPU with the classes, colours and reading of its description. Raises KeyError, TypeError or
    ValueError for a description of another form."""
    colours: list[Colour] = [(red, green, blue) for red, green, blue in description["colours"]]
    return TrainedModel(
        network=network.eval(),
        class_names=tuple(description["classes"]),
        colours=tuple(colours),
        reading=reading_from_record(description["reading"]),
        predictor=predictor,
        device=torch.device("cpu"),
        source=f"{path}, exported from {description['source']}",
        mask_values=description.get("mask_values"),
    )


# --- safetensors ----------------------------------------------------------------------------------------------------


def from_pretrained(folder: str | Path) -> TrainedModel:
    """The model of a folder that `ssss export format=safetensors` wrote, in float32 on the CPU. Raises UserError where
    the folder holds none, or one that is damaged."""
    from safetensors.torch import load_file

    place = expanded(folder)
    try:
        known = json.loads((place / CONFIG_FILE).read_text("utf-8"))
        tensors = load_file(place / WEIGHTS_FILE)
        settings = ModelConfig(**known["model"] | {"weights": "none"})
        network: nn.Module = load("models", settings.name)(settings, len(known["classes"]))
        wanted = network.state_dict()
        same_types = {key: tensor.to(wanted[key].dtype) if key in wanted else tensor for key, tensor in tensors.items()}
        fill_module(network, same_types, str(place / WEIGHTS_FILE))
        predictor = Predictor(EvaluateConfig(**known["evaluate"]), square(known["crop"]))
        return described_model(known, network, predictor, place)
    except UserError:
        raise
    except Exception as error:  # a missing or damaged file fails in many ways
        raise UserError(
            f"{place} holds no whole exported model ({CONFIG_FILE}, {WEIGHTS_FILE}): {brief(error)}; "
            "ssss export run=DIR output=FOLDER format=safetensors writes one"
        ) from error
