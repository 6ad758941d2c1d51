"""`ssss evaluate`: evaluates the weights of a run on any list of its data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssss_zoo.config.parse import read_file, split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.fingerprint import describe_differences
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError, check_choice
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.protocol import describe_protocol
from ssss_zoo.hub import is_hub_name
from ssss_zoo.record_files import CheckpointRecord, ResumeRecord, check_types, read_metrics
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Output, Sample
from ssss_zoo.train import checkpoint
from ssss_zoo.train.device import choose_device, with_device_defaults
from ssss_zoo.train.run_folder import RunFolder, find_run
from ssss_zoo.train.setup import open_dataset

log = logging.getLogger("ssss_zoo")
EVALUATE_KEYS = ("run", "on", "weights")  # overrides that are not configuration
RUN_CONFIG_KEYS = (  # keys of every run's config.yaml, from its first line to its last
    *("method", "dataset", "protocol", "plugins", "hooks", "options", "data", "model", "train", "optim", "loss"),
    *("augment", "evaluate", "tracking", "seed", "output", "resume", "overwrite", "diagnose", "trace"),
)
DIFFERENCE_LENGTH_MAX = 400  # characters of the difference between two data sets (our choice)


def evaluate_run(overrides: Iterable[str]) -> dict[str, Any]:
    """The figures of each network of a run (`student`, `teacher`), with `run`, `on`, `weights`, `images`, `step` and
    `protocol`, the protocol of this evaluation."""
    own, rest = split_overrides(overrides, *EVALUATE_KEYS)
    if "run" not in own:
        raise UserError("give the run's folder: ssss evaluate run=DIR")
    folder = find_run(own["run"])
    asked = {"on": "val", "weights": default_weights(folder)} | own
    check_choice("weights", asked["weights"], ("last", "best"))
    config = run_config(folder, rest)
    place = find_checkpoint(folder, asked["weights"])
    state = checkpoint.load_typed(place, CheckpointRecord)
    dataset, config = open_dataset(load("datasets", config.dataset), config)
    order = class_order(classes_of(folder, state), dataset.class_names, folder)
    warn_of_other_data(folder, dataset)
    samples = choose_samples(dataset, asked["on"], config)
    device = choose_device(config)
    config = with_device_defaults(config, device)
    networks = {
        name: reordered(load_network(config, len(dataset.class_names), place, name), order).to(device)
        for name in checkpoint.network_names(place)
    }
    evaluator = Evaluator(dataset, config.evaluate, square(config.train.crop), device, config.train.workers or 0)
    figures = evaluator(networks, samples, calibration=True)
    return {
        "run": own["run"] if is_hub_name(own["run"]) else str(folder),
        "on": asked["on"],
        "weights": asked["weights"],
        "images": len(samples),
        "step": state["global_step"],
        "protocol": describe_protocol(config, dataset),
    } | figures


def default_weights(folder: Path) -> str:
    """The checkpoint of a run to evaluate: the last one, or the best one of a run on the hub that has no other."""
    on_hub = not (folder / "last").exists() and checkpoint.find_folder(folder / "best") is not None
    return "best" if on_hub else "last"


def run_config(folder: Path, overrides: Sequence[str], methods: bool = False) -> Config:
    """The run's configuration, changed by the overrides. methods: whether the methods are built, as in `resolve`.
    Raises UserError when the folder holds no run."""
    file = RunFolder(folder).config
    if not file.is_file():
        raise UserError(f"run={folder} holds no run (no config.yaml); give the folder that `ssss run` wrote")
    there = read_file(file)
    lacking = [key for key in RUN_CONFIG_KEYS if key not in there]
    if lacking:
        raise UserError(f"{file} is damaged: '{lacking[0]}' is missing; {checkpoint.CHECKPOINT_REMEDY}")
    return resolve(overrides, file, methods=methods)


def find_checkpoint(folder: Path, name: str) -> Path:
    """The checkpoint `last` or `best` of a run. Raises UserError where there is none, or its state is missing."""
    place = checkpoint.find_folder(folder / name)
    if place is None and (folder / name).exists():
        raise UserError(f"{folder / name / checkpoint.STATE} is missing; {checkpoint.CHECKPOINT_REMEDY}")
    if place is None:
        raise UserError(f"{folder} holds no {name} checkpoint; the run has not written one yet")
    return place


# --- classes and data of the run, compared with the present ones ----------------------------------------------------


def classes_of(folder: Path, state: CheckpointRecord) -> list[str]:
    """The class of each output of a run's networks. Raises UserError where no file of the run names them."""
    if "classes" in state:
        return state["classes"]
    file, remedy = RunFolder(folder).metrics, "it names the classes of the run: restore it from a copy"
    settings = read_metrics(file, remedy)["protocol"]["settings"]  # a checkpoint older than the formats
    return check_types(settings.get("classes"), list[str], file, remedy, "protocol.settings.classes")


def class_order(run: Sequence[str], data: Sequence[str], folder: Path) -> list[int] | None:
    """The index of the run's output for each class of the data, matched by name; None for the same order. Raises
    UserError where the names differ."""
    if list(run) == list(data):
        return None
    if sorted(run) != sorted(data):
        lacking = [name for name in run if name not in data]
        unknown = [name for name in data if name not in run]
        parts = [f"{brief(', '.join(names))} {what}" for names, what in
                 ((lacking, "not in the data"), (unknown, "not in the run")) if names]  # fmt: skip
        raise UserError(
            f"run={folder} has {len(run)} classes, the data have {len(data)}: {'; '.join(parts)}; name the "
            "classes of the data (classes.txt) as the run does, each of them"
        )
    log.warning("the data list their classes in another order than the run does: classes are matched by name")
    return [run.index(name) for name in data]


class Reordered(nn.Module):
    """A network with the class channels of its logits (B, C, H, W) in another order."""

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network, self.order = network, list(order)
        self.multiple = getattr(network, "multiple", 1)

    @property
    def mean(self) -> Tensor:
        return self.network.mean  # type: ignore[return-value]

    def forward(self, image: Tensor) -> Output:
        output: Output = self.network(image)
        return replace(output, logits=output.logits[:, self.order])


def reordered(network: nn.Module, order: Sequence[int] | None) -> nn.Module:
    return network if order is None else Reordered(network, order).eval()


def warn_of_other_data(folder: Path, dataset: Dataset) -> None:
    """Warn where the data differ from those that the run was trained on, by the digests in its checkpoint."""
    place = checkpoint.find_folder(RunFolder(folder).last)
    old = checkpoint.load_typed(place, ResumeRecord).get("contents") if place else None
    difference = describe_differences(old, dataset.contents) if old is not None else ""
    if difference:
        log.warning(f"these are not the data that the run was trained on: {brief(difference, DIFFERENCE_LENGTH_MAX)}")


def load_network(config: Config, classes: int, place: Path, name: str) -> nn.Module:
    """A network of the run with the weights `<place>/<name>.safetensors`; no pretrained weights are loaded."""
    settings = replace(config.model, weights="none")
    network: nn.Module = load("models", config.model.name)(settings, classes)
    checkpoint.load_module_weights(place, name, network)
    return network.eval()


def choose_samples(dataset: Dataset, on: str, config: Config) -> Sequence[Sample]:
    """The samples that `on` names. Raises UserError when there are none, or some have no mask to compare with."""
    parts = {"val": dataset.val, "labelled": dataset.labelled, "unlabelled": dataset.unlabelled}
    if on in parts:
        samples = parts[on]
    elif Path(on).is_file():
        from ssss_zoo.data.split_lists import read_list

        samples = read_list(Path(on), Path(config.data.root or "."), need_masks=True)
    else:
        raise UserError(f"on={on} must be val, labelled, unlabelled or a file of `<image> <mask>` lines that exists")
    if not samples:
        raise UserError(f"on={on}: no images there")
    if any(sample.mask is None for sample in samples):
        raise UserError(f"on={on}: some of these images have no mask, so there is nothing to compare with")
    return samples
