"""The network that stands for a finished run, opened to be scored, and what it costs to predict with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from ssss_zoo.atomic_write import write_json
from ssss_zoo.comparison.folders import ComparedRunFolder
from ssss_zoo.comparison.network_costs import MeasuredCost, find_measured_cost
from ssss_zoo.comparison.records import REMAKE
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.sampling import evenly
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator, ValidationImages
from ssss_zoo.evaluation.network_cost import cost_key, measure_network_cost
from ssss_zoo.record_files import CheckpointRecord, dataclass_tree, read_metrics
from ssss_zoo.text import count
from ssss_zoo.train import checkpoint
from ssss_zoo.train.device import choose_device, environment, with_device_defaults
from ssss_zoo.train.reevaluate import load_network
from ssss_zoo.train.setup import open_dataset

SIZES_LOOKED_AT = 8  # validation images, of whose sizes the most frequent one stands for all (our choice)


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """A finished run with the last weights of the network that stands for it, on its device."""

    dataset: Dataset
    network: nn.Module
    evaluator: Evaluator


def open_scored_run(config: Config, folder: ComparedRunFolder) -> ScoredRun:
    """Raises UserError where the weights or the validation images are no longer the run's."""
    place = checkpoint.find_folder(folder.last)
    if place is None:
        raise UserError(f"{folder.path} holds no checkpoint to score")
    dataset, config = open_dataset(load("datasets", config.dataset), config)
    images = read_metrics(folder.metrics, REMAKE)["data"]["val"]
    if len(dataset.val) != images:
        raise UserError(
            f"{folder.path} was trained with {images} validation images, and there are {len(dataset.val)} now: put "
            "back what was there, or choose another output="
        )
    device = choose_device(config)
    config = with_device_defaults(config, device)
    state = checkpoint.load_typed(place, CheckpointRecord)
    network = load_network(config, len(dataset.class_names), place, state["reported"]).to(device)
    evaluator = Evaluator(dataset, config.evaluate, square(config.train.crop), device, config.train.workers or 0)
    return ScoredRun(dataset, network, evaluator)


def write_network_cost(run: ScoredRun, folder: ComparedRunFolder) -> None:
    """Measure the run's network, unless a run of the comparison with the same network was measured before."""
    evaluator = run.evaluator
    shape, device = typical_shape(run), device_name(run)
    key = cost_key(run.network, evaluator, shape, device)
    cost = find_measured_cost(folder, key) or measure_network_cost(
        run.network, evaluator, shape, evaluator.device, device
    )
    write_json(folder.cost, dataclass_tree(MeasuredCost(key=key, cost=cost)))


def typical_shape(run: ScoredRun) -> tuple[int, int, int]:
    """Channels, height and width of the images that the network sees in validation."""
    images = ValidationImages(run.dataset, evenly(run.dataset.val, SIZES_LOOKED_AT))
    shapes = Counter(tuple(images[index][0].shape) for index in range(len(images)))
    channels, height, width = shapes.most_common(1)[0][0]
    if run.evaluator.settings.mode == "centre":
        return (channels, *run.evaluator.window)
    return channels, height, width


def device_name(run: ScoredRun) -> str:
    """The name of the run's device, with the threads of a CPU, which its speed depends on."""
    machine = environment(run.evaluator.device)
    name: str = machine["device"]
    return name if run.evaluator.device.type == "cuda" else f"{name}, {count(machine['threads'], 'thread')}"
