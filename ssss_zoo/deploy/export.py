"""`ssss export`: a run's network as ONNX, as a program of torch.export, or as safetensors, checked against the run."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from ssss_zoo.atomic_write import replacing_folder, write_json
from ssss_zoo.config.fields import Range
from ssss_zoo.config.parse import build_typed, parse_overrides
from ssss_zoo.config.schema import square
from ssss_zoo.deploy.export_check import ExportCheck, ExportedModel, check_export, find_check_images
from ssss_zoo.deploy.exportable import Exportable
from ssss_zoo.deploy.exported_models import CONFIG_FILE, EXPORT_FORMAT, WEIGHTS_FILE, from_pretrained
from ssss_zoo.deploy.trained import TrainedModel, load_model
from ssss_zoo.errors import UserError, cannot_write, expanded
from ssss_zoo.stopping import Stop
from ssss_zoo.text import brief, count
from ssss_zoo.train.checkpoint import separate
from ssss_zoo.train.reevaluate import run_config
from ssss_zoo.train.run_folder import find_run

EXPORT_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ""}  # safetensors is a folder
LOGIT_BOUND, HALF_LOGIT_BOUND = 1e-3, 0.25  # differences of logits; they reach 5e-7 in float32 on lite0 (our choice)
MISMATCH_BOUND, HALF_MISMATCH_BOUND = 1e-4, 1e-2  # shares of pixels (our choice)
TRACED_SHAPE = (2, 90, 150)  # batch, height, width of the image that the exporter sees: none equal, sides to be padded


@dataclass(frozen=True)
class ExportConfig:
    """The arguments of `ssss export`. format: empty for the one that the suffix of output names, else onnx."""

    run: str = ""
    output: str = ""
    format: Literal["", "onnx", "torch", "safetensors"] = ""
    weights: Literal["", "last", "best"] = ""
    network: str = ""
    images: str | None = None
    range: Annotated[float, Range(1e-6, 65535)] = 255.0
    argmax: bool = False
    half: bool = False
    opset: Annotated[int, Range(18, 99)] = 20
    max_difference: Annotated[float | None, Range(0, 1e9)] = None
    max_mismatch: Annotated[float | None, Range(0, 1)] = None
    overwrite: bool = False


@dataclass(frozen=True)
class ExportResult:
    """The written files, the model first, and how the model differs from the network."""

    files: list[Path]
    source: str
    opset: int | None
    check: ExportCheck

    def as_dict(self) -> dict[str, Any]:
        return {"files": list(map(str, self.files)), "source": self.source, "opset": self.opset, **asdict(self.check)}


def export_run(overrides: Iterable[str]) -> ExportResult:
    """Write the model, check it, and keep it only where it agrees with the network. Raises UserError for missing or
    wrong arguments, a missing extra, a network that cannot be exported, and a model that differs too much."""
    config = parse_export_config(overrides)
    check_extra(config.format)
    model = load_model(config.run, config.weights or None, config.network or None, device="cpu")
    targets = target_files(config)
    images, image_source = find_check_images(model, find_run(config.run), config.images)
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        with (
            Stop().handlers_installed(),  # a SIGTERM removes the temporary folder, too
            tempfile.TemporaryDirectory(dir=targets[0].parent, prefix=".export-") as temporary,
        ):
            folder = Path(temporary)
            exported = with_clear_errors(FORMAT_WRITERS[config.format](config, model, folder / targets[0].name))
            logits_of = exported
            if config.argmax:  # class ids have no difference: the same model is written with logits, and compared
                (folder / "logits").mkdir()
                twin_file = folder / "logits" / targets[0].name
                twin = FORMAT_WRITERS[config.format](replace(config, argmax=False), model, twin_file)
                logits_of = with_clear_errors(twin)
            check = check_export(exported, logits_of, model, images, image_source, config.range)
            refuse_differences(config, check)
            write_descriptions(config, model, check, folder / targets[0].name, targets)
            for target in targets:
                move_into_place(folder / target.name, target)
    except OSError as error:
        raise cannot_write(targets[0], error) from error
    return ExportResult(targets, model.source, config.opset if config.format == "onnx" else None, check)


def parse_export_config(overrides: Iterable[str]) -> ExportConfig:
    """The settings, with a format. Raises UserError for missing arguments, and for ones that exclude each other."""
    config: ExportConfig = build_typed(ExportConfig, parse_overrides(overrides))
    if not config.run or not config.output:
        raise UserError("give the run and the file to write: ssss export run=DIR output=PATH format=onnx")
    if not config.format:
        is_program = expanded(config.output).suffix == EXPORT_SUFFIXES["torch"]
        config = replace(config, format="torch" if is_program else "onnx")
    if config.format == "safetensors" and config.argmax:
        raise UserError("argmax=true is for format=onnx and torch: safetensors holds the weights of the network alone")
    return config


def check_extra(kind: str) -> None:
    """Raise UserError where the packages that write and run ONNX are missing."""
    if kind == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise UserError("format=onnx needs other packages: pip install 'ssss-zoo[onnx]'") from None


def target_files(config: ExportConfig) -> list[Path]:
    """The files to write, the model first. Raises UserError where one is there already, without overwrite=true, and
    for an output of another format."""
    output, suffix = expanded(config.output), EXPORT_SUFFIXES[config.format]
    if output.suffix != suffix and output.suffix in filter(None, EXPORT_SUFFIXES.values()):
        raise UserError(f"output={output} ends in {output.suffix}, which is not the file of format={config.format}")
    if suffix and output.is_dir():
        raise UserError(
            f"output={output} is a folder; give the file to write, such as output={output / 'model'}{suffix}"
        )
    model = output if output.suffix == suffix or not suffix else output.with_name(output.name + suffix)
    described = {  # names that differ between formats, so that models of one name can lie side by side
        "onnx": [model.with_suffix(".json"), model.with_name(f"{model.stem}_example.py")],
        "torch": [model.with_name(f"{model.name}.json")],
        "safetensors": [],
    }
    targets = [model, *described[config.format]]
    there = [target for target in targets if target.exists()]
    if there and not config.overwrite:
        raise UserError(f"{there[0]} exists already; give another output=, or overwrite=true to replace it")
    is_other_folder = model.is_dir() and (config.format != "safetensors" or not (model / CONFIG_FILE).is_file())
    if is_other_folder and any(model.iterdir()):
        raise UserError(f"{model} is a folder that holds no exported model; give another output=")
    return targets


def move_into_place(new: Path, target: Path) -> None:
    if new.is_dir():
        with replacing_folder(target) as folder:
            for file in new.iterdir():
                file.replace(folder / file.name)
    else:
        new.replace(target)


def with_clear_errors(exported: ExportedModel) -> ExportedModel:
    """The exported model, with a UserError where it cannot run on images that the network takes."""

    def run(images: Tensor) -> Tensor:
        try:
            return exported(images)
        except Exception as error:  # the runtimes raise many kinds
            reason = brief(" ".join(str(error).split()), 300) or type(error).__name__
            count, _, height, width = images.shape
            raise UserError(
                f"the exported model fails on a batch of {count} of {height}x{width}, which the network takes; nothing "
                f"was written: {reason}"
            ) from error

    return run


def refuse_differences(config: ExportConfig, check: ExportCheck) -> None:
    """Raise UserError where the exported model differs from the network by more than the bounds, or is not finite."""
    logits, share = (HALF_LOGIT_BOUND, HALF_MISMATCH_BOUND) if config.half else (LOGIT_BOUND, MISMATCH_BOUND)
    logits = logits if config.max_difference is None else config.max_difference
    share = share if config.max_mismatch is None else config.max_mismatch
    if not (check.max_difference <= logits and check.class_mismatch <= share):
        raise UserError(
            f"the exported model differs from the network: logits by up to {check.max_difference:.3g} (bound "
            f"{logits:g}), the class in {100 * check.class_mismatch:.3g} % of the pixels (bound {100 * share:g} %); "
            "nothing was written. max_difference= and max_mismatch= set other bounds"
        )


# --- formats --------------------------------------------------------------------------------------------------------


def make_exportable(config: ExportConfig, model: TrainedModel) -> Exportable:
    exportable = Exportable(
        model.network, value_range=config.range, fit=model.predictor.settings.fit, argmax=config.argmax,
        half=config.half,
    )  # fmt: skip
    return exportable.eval().requires_grad_(False)


def trace_network(config: ExportConfig, model: TrainedModel) -> torch.export.ExportedProgram:
    """The network as a program for any batch, height and width. Raises UserError, with torch's reason in short, where
    it cannot be traced."""
    batch, height, width = TRACED_SHAPE
    image = torch.full((batch, model.reading.channels, height, width), config.range / 2)
    dynamic = {"image": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            return torch.export.export(make_exportable(config, model), (image,), dynamic_shapes=dynamic)
    except Exception as error:  # torch raises many kinds
        raise cannot_export(config, model, error) from error


def cannot_export(config: ExportConfig, model: TrainedModel, error: Exception) -> UserError:
    """The error for a network that torch's exporter refuses."""
    reason = brief(" ".join(str(error).split()), 300) or type(error).__name__
    network = type(model.network).__name__
    return UserError(f"the network {network} of {model.source} cannot be exported as {config.format}: {reason}")


def write_onnx(config: ExportConfig, model: TrainedModel, file: Path) -> ExportedModel:
    """Write the model with its description in `metadata_props`, read it back by onnxruntime."""
    import onnx
    import onnxruntime

    program = trace_network(config, model)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            made = torch.onnx.export(
                program, dynamo=True, opset_version=config.opset, input_names=["image"],
                output_names=[output_name(config)], verbose=False,
            )  # fmt: skip
        assert made is not None
        proto = made.model_proto
    except Exception as error:  # as above
        raise cannot_export(config, model, error) from error
    for key, value in describe_model(config, model).items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.save(proto, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def write_program(config: ExportConfig, model: TrainedModel, file: Path) -> ExportedModel:
    """Write the program of torch.export with its description as extra file, and read it back."""
    description = json.dumps(describe_model(config, model))
    torch.export.save(trace_network(config, model), file, extra_files={"description.json": description})
    return without_gradients(torch.export.load(file).module())


def write_weights(config: ExportConfig, model: TrainedModel, folder: Path) -> ExportedModel:
    """Write the folder that `from_pretrained` reads, and read it back."""
    from safetensors.torch import save_file

    folder.mkdir()
    weights = {
        key: tensor.half() if config.half and tensor.is_floating_point() else tensor
        for key, tensor in separate(model.network.state_dict()).items()
    }
    save_file(weights, folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, describe_model(config, model) | network_settings(config))
    read = from_pretrained(folder)
    return without_gradients(Exportable(read.network, value_range=config.range, fit=read.predictor.settings.fit))


def without_gradients(module: nn.Module) -> ExportedModel:
    def predict(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
            return logits

    return predict


FORMAT_WRITERS: Mapping[str, Callable[[ExportConfig, TrainedModel, Path], ExportedModel]] = {
    "onnx": write_onnx,
    "torch": write_program,
    "safetensors": write_weights,
}


# --- description ----------------------------------------------------------------------------------------------------


def output_name(config: ExportConfig) -> str:
    return "classes" if config.argmax else "logits"


def describe_model(config: ExportConfig, model: TrainedModel) -> dict[str, Any]:
    """All that a program needs to use the model, and where it comes from."""
    packages = {name: version(name) for name in ("ssss-zoo", "torch")}
    return {
        "format": EXPORT_FORMAT,
        "classes": list(model.class_names),
        "colours": [list(colour) for colour in model.colours],
        "input": {"name": "image", "shape": ["batch", model.reading.channels, "height", "width"], "type": "float32",
                  "range": [0, config.range]},
        "output": output_name(config),
        "reading": asdict(model.reading),
        "mask_values": model.mask_values,
        "half": config.half,
        "source": model.source,
        "versions": packages,
    }  # fmt: skip


def network_settings(config: ExportConfig) -> dict[str, Any]:
    """The settings of the run by which `from_pretrained` builds the network."""
    run = run_config(find_run(config.run), [])
    return {"model": asdict(run.model), "evaluate": asdict(run.evaluate), "crop": list(square(run.train.crop))}


def write_descriptions(
    config: ExportConfig, model: TrainedModel, check: ExportCheck, written: Path, targets: list[Path]
) -> None:
    """Write the JSON beside the model, which holds the check too, and for ONNX the example."""
    if config.format == "safetensors":
        return
    folder = written.parent
    write_json(folder / targets[1].name, describe_model(config, model) | {"check": asdict(check)})
    if config.format == "onnx":
        from jinja2 import Environment, StrictUndefined

        template = files("ssss_zoo.deploy").joinpath("onnx_example.py.j2").read_text("utf-8")
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        text = environment.from_string(template).render(
            model=targets[0].name, range=config.range, argmax=config.argmax, channels=model.reading.channels
        )
        (folder / targets[2].name).write_text(text, "utf-8")


def export_lines(result: ExportResult) -> list[str]:
    """The result for people, a line each."""
    check = result.check
    opset = f", opset {result.opset}" if result.opset else ""
    return [
        f"exported {result.source}{opset}",
        f"checked on {check.images}, sizes {', '.join(check.sizes)}, "
        f"batches of {' and '.join(map(str, check.batches))}",
        f"largest difference of logits {check.max_difference:.3g}, another class in "
        f"{100 * check.class_mismatch:.3g} % of the pixels",
        f"latency {check.latency_ms:.1f} ms an image of {check.latency_size} on this CPU with "
        f"{count(torch.get_num_threads(), 'thread')} (median of {check.latency_runs}); the network in torch "
        f"{check.network_latency_ms:.1f} ms",
        f"wrote {', '.join(map(str, result.files))}",
    ]
