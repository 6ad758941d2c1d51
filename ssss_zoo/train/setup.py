"""What a run is made of before its first step: data, methods, networks, streams needed, and what is kept of it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from ssss_zoo.atomic_write import write_text
from ssss_zoo.config.schema import Config, DataConfig, as_yaml, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks.download import format_bytes
from ssss_zoo.data.duplicates import describe_dropped_copies, drop_copies, split_off
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.data.loading.loader import StreamNeeds
from ssss_zoo.data.loading.statistics import with_statistics
from ssss_zoo.engine.hooks import HookCaller
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.predict_sample import predict_sample
from ssss_zoo.evaluation.protocol import check_split_family, describe_protocol
from ssss_zoo.models.contract import Network, check_crop
from ssss_zoo.record_files import FORMAT
from ssss_zoo.stopping import Stop
from ssss_zoo.toolkit.augment import Strong
from ssss_zoo.toolkit.losses import supervised_loss
from ssss_zoo.toolkit.mixing import IN_BATCH, SECOND, chain
from ssss_zoo.toolkit.types import IGNORE, Progress, RunInfo, Sample
from ssss_zoo.train.console import Screen
from ssss_zoo.train.history import open_history
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.tracking import Tracker

LAST = 10**9  # a step so late that every warm-up is over, whatever it counts in
log = logging.getLogger("ssss_zoo")


class Job:
    """Everything of a run that outlives a stage. Making one writes nothing; `start` does, once the rehearsal is over.

    students, modules: the networks to train and the methods' own state, on the device; needs: which streams are read;
    steps, epoch_steps: as in `RunInfo`; state: the checkpoint to go on from, or None.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        model_class: Callable[..., Network],
        hooks: HookCaller,
        device: torch.device,
        folder: RunFolder,
        screen: Screen,
        state: dict[str, Any] | None,
    ) -> None:
        self.config, self.dataset, self.model_class, self.hooks = config, dataset, model_class, hooks
        self.device, self.folder, self.screen, self.state = device, folder, screen, state
        self.students = self.make_students()
        self.first_weights = digest(self.students[0])
        self.colour: list[float] = self.students[0].mean.flatten().tolist()  # what padding may be filled with
        check_crop(self.students[0], square(config.train.crop), config.model.name)
        self.needs = self.find_needs()
        if config.data.cache == "ram":
            self.dataset = dataset = self.in_memory()
        self.epoch_steps = max(1, len(self.pool()) // (config.train.batch * config.train.accumulate))
        self.steps = config.train.steps or max(1, round((config.train.epochs or 0) * self.epoch_steps))
        self.info = self.make_info()
        self.modules = self.make_modules()
        self.evaluator = Evaluator(
            dataset, config.evaluate, square(config.train.crop), device, config.train.workers or 0
        )
        self.protocol = describe_protocol(config, dataset)
        self.on_eval: Callable[[int, float], None] | None = None
        self.stop = Stop()
        self.mlflow_run: str | None = (state or {}).get("mlflow_run")
        self.tracker: Tracker | None = None

    def make_students(self) -> list[Network]:
        seed_draws(self.config.seed, 0, 0)
        names = len(self.dataset.class_names)
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        students: list[Network] = self.hooks.call(
            "make_students", make_network=lambda: self.model_class(self.config.model, names)
        )
        return [student.to(self.device, memory_format=layout).train() for student in students]  # type: ignore[call-overload]

    def find_needs(self) -> StreamNeeds:
        """Which streams are read at all: asked of the methods for the first and for the last step."""
        height, width = square(self.config.train.crop)
        plans = [
            self.hooks.make_views((self.config.train.batch, height, width), Progress(step, LAST + 1, 1))
            for step in (0, LAST)
        ]
        views = [view for plan in plans for view in plan.views]
        mixes = {cutmix.partner for view in views for cutmix in chain(view.cutmix)}
        if mixes >= set(SECOND):
            raise UserError("views ask for both CutMix partners, stream and twin, and a step has one second batch only")
        partner, in_batch = next(iter(mixes & set(SECOND)), None), bool(mixes & set(IN_BATCH))
        unlabelled = bool(views)
        if unlabelled and not self.dataset.unlabelled:
            raise UserError(
                f"method={self.config.method} learns from unlabelled images and {self.config.dataset} has none with "
                f"data.split={self.config.data.split}; add some, choose a smaller split, or take method=supervised"
            )
        if in_batch and self.config.train.batch == 1:
            log.warning("train.batch=1: CutMix finds no other image in the batch, so boxes change nothing")
        hidden = self.config.diagnose and unlabelled
        if hidden and any(sample.mask is None for sample in self.dataset.unlabelled):
            raise UserError("diagnose=true needs hidden labels for every unlabelled image, and some have none")
        return StreamNeeds(unlabelled, partner, hidden)

    def in_memory(self) -> Dataset:
        """The data set with all that the run will read in memory. Raises UserError where that is too much."""
        given, begin = self.dataset, time.perf_counter()
        unlabelled = given.unlabelled if self.needs.unlabelled else ()
        masked = [*given.labelled, *given.val, *(unlabelled if self.needs.hidden else ())]
        dataset = InMemoryDataset(given, [*given.labelled, *given.val, *unlabelled], masked)
        log.info(f"read everything into memory: {format_bytes(dataset.bytes)}, {time.perf_counter() - begin:.1f} s")
        return dataset

    def pool(self) -> Sequence[Sample]:
        return self.dataset.unlabelled if self.needs.unlabelled else self.dataset.labelled

    def make_info(self) -> RunInfo:
        """What the methods are told in `setup`."""
        config = self.config
        return RunInfo(
            class_names=tuple(self.dataset.class_names),
            feature_dim=self.students[0].feature_dim,
            map_dims=map_dims(self.students[0], config.model.in_channels, self.device),
            in_channels=config.model.in_channels,
            crop=square(config.train.crop),
            batch=config.train.batch,
            steps=self.steps,
            epoch_steps=self.epoch_steps,
            folder=self.folder.path,
            students=tuple(self.students),
            labelled=self.dataset.labelled,
            unlabelled=self.dataset.unlabelled,
            read=self.dataset.read_image,
            # Several networks may predict the same sample one after the other: its image is then decoded once.
            predict=partial(predict_sample, lru_cache(maxsize=1)(self.dataset.read_image)),
            supervised=supervised_loss(config.loss),
            strong=Strong(config.augment),
        )

    def make_modules(self) -> dict[str, nn.Module]:
        seed_draws(self.config.seed, 0, 1)
        modules: dict[str, nn.Module] = {}
        for answer in self.hooks.call("setup", info=self.info):
            for name, module in answer.items():
                if name in modules:
                    raise UserError(f"two methods keep a module called '{name}'; one must be renamed")
                modules[name] = module.to(self.device).train()
        return modules

    def tags(self) -> dict[str, str]:
        config = self.config
        return {
            "method": config.method,
            "dataset": config.dataset,
            "split": config.data.split,
            "seed": str(config.seed),
            "data": self.dataset.fingerprint,
            "protocol": self.protocol["name"] or "none",
            "protocol_digest": self.protocol["digest"],
            "folder": str(self.folder.path),
        }

    def start(self) -> None:
        """The rehearsal is over: from here on the folder is this run's. A second call does nothing."""
        if self.tracker:
            return
        if self.config.overwrite:
            self.folder.clear()
        self.folder.clear_leftovers()
        config = as_yaml(replace(self.config, resume=False, overwrite=False))
        write_text(self.folder.config, f"format: {FORMAT}\n{config}")
        self.screen.keep(self.folder.log)
        state = self.state or {}
        step, due = state.get("global_step", 0), state.get("evaluation_due", False)
        self.history = open_history(self.folder.history, self.folder.damaged_history, step, evaluation_due=due)
        self.tracker = Tracker(self.config, self.tags(), self.mlflow_run)
        self.mlflow_run = self.tracker.run_id

    def track(self, figures: Mapping[str, float], step: int) -> None:
        if self.tracker:
            self.tracker.log(figures, step)


def digest(network: nn.Module) -> str:
    """16 hexadecimal digits that two networks share where all their weights and buffers are the same."""
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def map_dims(network: Network, channels: int, device: torch.device) -> tuple[int, ...]:
    """Channels of the maps that the encoder hands over, from a look at a blank image."""
    side = -(-32 // network.multiple) * network.multiple
    with torch.no_grad():
        maps = network.eval().encode(torch.zeros(1, channels, side, side, device=device))
    network.train()
    return tuple(level.shape[1] for level in maps)


def hold_out(dataset: Dataset, share: float) -> None:
    """Validate on a share of the labelled images, and train on the rest; which ones depends on their names alone.
    Raises UserError where that leaves nothing of either."""
    labelled = list(dataset.labelled)
    number = round(share * len(labelled))
    if not 0 < number < len(labelled):
        raise UserError(f"data.hold_out={share:g} takes {number} of {len(labelled)} labelled images; 1 to all but one")
    order = sorted(labelled, key=lambda sample: hashlib.sha256(f"hold out {sample.name}".encode()).digest())
    chosen = {sample.name for sample in split_off(order, number, 1)}
    dataset.val = [sample for sample in labelled if sample.name in chosen]
    dataset.labelled = [sample for sample in labelled if sample.name not in chosen]
    rest = [sample for sample in dataset.unlabelled if sample.name not in chosen]
    dataset.unlabelled = drop_copies(rest, dataset.val, dataset.labelled)
    dataset.list_files = {}  # these lists are nobody's
    number, copies = len(chosen), len(rest) - len(dataset.unlabelled)
    held = "labelled image is" if number == 1 else "labelled images are"
    told = [f"{number} {held} held out and validated on, in place of val", *describe_dropped_copies(copies)]
    dataset.notes = [*dataset.notes, *told]


def open_dataset(dataset_class: type[Dataset], config: Config) -> tuple[Dataset, Config]:
    """The run's data set, and the configuration with the settings that its images decide, see `with_statistics`. Raises
    UserError for a `data` key that it does not read, and as the data set does."""
    check_split_family(config)
    usual = DataConfig()
    for key, given in vars(config.data).items():
        if key not in dataset_class.config_keys and given != getattr(usual, key):
            known = ", ".join(f"data.{name}" for name in dataset_class.config_keys)
            raise UserError(f"data.{key} means nothing to dataset={config.dataset}, which reads {known}")
    dataset = dataset_class(config.data)
    dataset.channels = config.model.in_channels
    if config.data.hold_out:
        hold_out(dataset, config.data.hold_out)
    config = with_statistics(dataset, config)
    check_padding(dataset, config)
    return dataset, config


def check_padding(dataset: Dataset, config: Config) -> None:
    """Raise UserError for a label of padding that is no class of the data set."""
    classes = len(dataset.class_names)
    given = {"augment.pad_label": config.augment.pad_label, "evaluate.pad_label": config.evaluate.pad_label}
    for key, label in given.items():
        if classes <= label < IGNORE:
            have = f"{config.dataset} has {classes} classes, 0 to {classes - 1}"
            raise UserError(f"{key}={label} is no class: {have}; {IGNORE} leaves padding out")
