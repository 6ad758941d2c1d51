"""`ssss evaluate`: a run's weights on any list of its data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ssss_zoo import checkpoint
from ssss_zoo.config import Config, resolve, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.errors import UserError, check_choice, expanded
from ssss_zoo.evaluation import Evaluator
from ssss_zoo.job import open_dataset
from ssss_zoo.machine import choose_device
from ssss_zoo.plugins import load
from ssss_zoo.protocol import describe
from ssss_zoo.reading import merge, read_words
from ssss_zoo.records import Sample

OWN = ("run", "on", "weights")  # words that are not configuration


def evaluate_run(words: Iterable[str]) -> dict[str, Any]:
    """Figures of each network of a run: `student` and `teacher` beside `run`, `on`, `weights`, `images`, `step` and
    `protocol`, the digest of how they were scored."""
    given = [word for word in words if word.partition("=")[0] not in OWN]
    asked: dict[str, Any] = merge({"on": "val", "weights": "last"}, read_words(w for w in words if w not in given))
    if "run" not in asked:
        raise UserError("give the run's folder: ssss evaluate run=DIR")
    check_choice("weights", asked["weights"], ("last", "best"))
    folder = expanded(asked["run"])
    config = run_config(folder, given)
    place = checkpoint.find_folder(folder / asked["weights"])
    if place is None:
        raise UserError(f"{folder} holds no {asked['weights']} checkpoint; it has not come to one yet")
    dataset = open_dataset(load("datasets", config.dataset), config)
    samples = choose_samples(dataset, asked["on"], config)
    device = choose_device(config)
    networks = {
        file.stem: load_network(config, dataset, place, file.stem).to(device)
        for file in sorted(place.glob("*.safetensors"))
        if file.stem.startswith(("student", "teacher"))
    }
    evaluator = Evaluator(dataset, config.evaluate, square(config.train.crop), device, config.train.workers or 0)
    figures = evaluator(networks, samples)
    step = checkpoint.load_state(place)["global_step"]
    return {
        "run": str(folder),
        "on": asked["on"],
        "weights": asked["weights"],
        "images": len(samples),
        "step": step,
        "protocol": describe(config, dataset),
    } | figures


def run_config(folder: Path, words: Sequence[str], methods: bool = False) -> Config:
    """The run's own configuration with the words laid over it. methods: whether they will be built, as in `resolve`.
    Raises UserError when the folder holds no run."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"run={folder} holds no run (no config.yaml); give the folder that `ssss run` wrote")
    return resolve(words, file, methods)


def load_network(config: Config, dataset: Dataset, place: Path, name: str) -> nn.Module:
    """A network of the run with the weights `<place>/<name>.safetensors`; no pretrained weights are looked for."""
    config.model.weights = "none"
    network: nn.Module = load("models", config.model.name)(config.model, len(dataset.class_names))
    checkpoint.load_weights(place, name, network)
    return network.eval()


def choose_samples(dataset: Dataset, on: str, config: Config) -> Sequence[Sample]:
    """The samples that `on` names. Raises UserError when there are none, or some have no mask to compare with."""
    parts = {"val": dataset.val, "labelled": dataset.labelled, "unlabelled": dataset.unlabelled}
    if on in parts:
        samples = parts[on]
    elif Path(on).is_file():
        from ssss_zoo.data.lists import read_list

        samples = read_list(Path(on), Path(config.data.root or "."), need_masks=True)
    else:
        raise UserError(f"on={on} must be val, labelled, unlabelled or a file of `<image> <mask>` lines that exists")
    if not samples:
        raise UserError(f"on={on}: no images there")
    if any(sample.mask is None for sample in samples):
        raise UserError(f"on={on}: some of these images have no mask, so there is nothing to compare with")
    return samples
