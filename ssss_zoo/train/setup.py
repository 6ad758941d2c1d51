"""Makes the parts of a run before its first step: data set, networks, the methods' modules, the streams to read."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import Config, DataConfig, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.duplicates import describe_dropped_copies, drop_copies, split_off
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.data.loading.loader import StreamNeeds
from ssss_zoo.data.loading.statistics import with_statistics
from ssss_zoo.engine.hooks import HookCaller
from ssss_zoo.engine.registry import load, make_manager
from ssss_zoo.engine.seeding import seed_draws
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.evaluation.predict_sample import predict_sample
from ssss_zoo.evaluation.protocol import check_split_family, describe_protocol
from ssss_zoo.models.contract import Network, check_crop
from ssss_zoo.record_files import Protocol
from ssss_zoo.text import format_bytes
from ssss_zoo.toolkit.augment import Strong
from ssss_zoo.toolkit.losses import supervised_loss
from ssss_zoo.toolkit.mixing import BATCH_PARTNERS, SECOND_BATCH_PARTNERS, nested_cutmix
from ssss_zoo.toolkit.types import IGNORE, Progress, RunInfo, Sample
from ssss_zoo.train.device import choose_device, with_device_defaults
from ssss_zoo.train.run_folder import RunFolder

LATE_STEP = 10**9  # every warm-up is over at this step, in whatever unit it is given
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True, eq=False)
class RunParts:
    """The parts of a run, which all its stages share.

    config: the run's configuration, with the values that were measured on its images and chosen for its machine.
    students, modules: the networks to train and the methods' own modules, on the device.
    needs: the streams of images that the methods read.
    first_weights: a digest of the first student's weights before training.
    """

    config: Config
    folder: RunFolder
    dataset: Dataset
    hooks: HookCaller
    device: torch.device
    students: list[Network]
    modules: dict[str, nn.Module]
    needs: StreamNeeds
    info: RunInfo
    evaluator: Evaluator
    protocol: Protocol
    first_weights: str


def make_parts(config: Config, methods: Mapping[str, Any], dataset: Dataset, folder: RunFolder) -> RunParts:
    """The parts of a run, ready for its first step; nothing is written. Raises UserError for a mistake of the user."""
    hooks = HookCaller(trace=log.info if config.trace else None)
    hooks.connect(make_manager(config, methods, hooks.wrap).hook)
    device = choose_device(config)
    config = with_device_defaults(config, device)
    students = create_students(config, hooks, dataset, device)
    first_weights = weights_digest(students[0])
    check_crop(students[0], square(config.train.crop), config.model.name)
    needs = find_needs(config, hooks, dataset)
    if config.data.cache == "ram":
        dataset = read_into_memory(dataset, needs)
    info = make_info(config, dataset, students, needs, folder, device)
    modules = make_modules(config, hooks, info, device)
    warn_of_unreturned_modules(methods, students, modules)
    crop, workers = square(config.train.crop), config.train.workers or 0
    return RunParts(
        config=config,
        folder=folder,
        dataset=dataset,
        hooks=hooks,
        device=device,
        students=students,
        modules=modules,
        needs=needs,
        info=info,
        evaluator=Evaluator(dataset, config.evaluate, crop, device, workers),
        protocol=cast("Protocol", describe_protocol(config, dataset)),
        first_weights=first_weights,
    )


def create_students(config: Config, hooks: HookCaller, dataset: Dataset, device: torch.device) -> list[Network]:
    """The networks to train, with their first weights, which are the same at every call."""
    network_class = load("models", config.model.name, f"model={config.model.name}")
    classes = len(dataset.class_names)
    seed_draws(config.seed, 0, 0)
    students: list[Network] = hooks.call("make_students", make_network=lambda: network_class(config.model, classes))
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return [student.to(device, memory_format=layout).train() for student in students]  # type: ignore[call-overload]


def weights_digest(network: nn.Module) -> str:
    """A digest of a network's weights and buffers: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def find_needs(config: Config, hooks: HookCaller, dataset: Dataset) -> StreamNeeds:
    """The streams that the methods read, found from their views of the first and the last step.

    Raises UserError where the data set lacks what they read.
    """
    height, width = square(config.train.crop)
    size_of_batch = (config.train.batch, height, width)
    plans = [hooks.make_views(size_of_batch, Progress(step, LATE_STEP + 1, 1)) for step in (0, LATE_STEP)]
    views = [view for plan in plans for view in plan.views]
    partners = {cutmix.partner for view in views for cutmix in nested_cutmix(view.cutmix)}
    if partners >= set(SECOND_BATCH_PARTNERS):
        raise UserError("views ask for both CutMix partners, stream and twin, and a step has one second batch only")
    if views and not dataset.unlabelled:
        raise UserError(
            f"method={config.method} learns from unlabelled images and {config.dataset} has none with "
            f"data.split={config.data.split}; add some, choose a smaller split, or take method=supervised"
        )
    if partners & set(BATCH_PARTNERS) and config.train.batch == 1:
        log.warning("train.batch=1: CutMix finds no other image in the batch, so boxes change nothing")
    hidden = config.diagnose and bool(views)
    if hidden and any(sample.mask is None for sample in dataset.unlabelled):
        raise UserError("diagnose=true needs hidden labels for every unlabelled image, and some have none")
    return StreamNeeds(
        unlabelled=bool(views), partner=next(iter(partners & set(SECOND_BATCH_PARTNERS)), None), hidden=hidden
    )


def read_into_memory(dataset: Dataset, needs: StreamNeeds) -> Dataset:
    """The data set with all images that the run will read in memory. Raises UserError where they are too large."""
    began = time.perf_counter()
    unlabelled = dataset.unlabelled if needs.unlabelled else ()
    masked = [*dataset.labelled, *dataset.val, *(unlabelled if needs.hidden else ())]
    in_memory = InMemoryDataset(dataset, [*dataset.labelled, *dataset.val, *unlabelled], masked)
    log.info(f"read everything into memory: {format_bytes(in_memory.bytes)}, {time.perf_counter() - began:.1f} s")
    return in_memory


def steps_per_epoch(
    config: Config, needs: StreamNeeds, labelled: Sequence[Sample], unlabelled: Sequence[Sample]
) -> int:
    """Steps in one pass over the unlabelled images, over the labelled ones where the methods read no others."""
    images = len(unlabelled if needs.unlabelled else labelled)
    return max(1, images // (config.train.batch * config.train.accumulate))


def make_info(
    config: Config,
    dataset: Dataset,
    students: Sequence[Network],
    needs: StreamNeeds,
    folder: RunFolder,
    device: torch.device,
) -> RunInfo:
    """The facts about the run that a method receives in its `setup`."""
    epoch_steps = steps_per_epoch(config, needs, dataset.labelled, dataset.unlabelled)
    return RunInfo(
        class_names=tuple(dataset.class_names),
        feature_dim=students[0].feature_dim,
        map_dims=map_dims(students[0], config.model.in_channels, device),
        in_channels=config.model.in_channels,
        crop=square(config.train.crop),
        batch=config.train.batch,
        steps=config.train.steps or max(1, round((config.train.epochs or 0) * epoch_steps)),
        epoch_steps=epoch_steps,
        folder=folder.path,
        students=tuple(students),
        labelled=dataset.labelled,
        unlabelled=dataset.unlabelled,
        read=dataset.read_image,
        # Several networks may predict the same sample one after the other: its image is decoded only once.
        predict=partial(predict_sample, lru_cache(maxsize=1)(dataset.read_image)),
        supervised=supervised_loss(config.loss),
        strong=Strong(config.augment),
    )


def map_dims(network: Network, channels: int, device: torch.device) -> tuple[int, ...]:
    """The channels of each map that the encoder returns, found by encoding a blank image."""
    side = -(-32 // network.multiple) * network.multiple
    with torch.no_grad():
        maps = network.eval().encode(torch.zeros(1, channels, side, side, device=device))
    network.train()
    return tuple(level.shape[1] for level in maps)


def make_modules(config: Config, hooks: HookCaller, info: RunInfo, device: torch.device) -> dict[str, nn.Module]:
    """The modules that the methods return from `setup`, on the device. Raises UserError for a name given twice."""
    seed_draws(config.seed, 0, 1)
    modules: dict[str, nn.Module] = {}
    for answer in hooks.call("setup", info=info):
        for name, module in answer.items():
            if name in modules:
                raise UserError(f"two methods keep a module called '{name}'; one must be renamed")
            modules[name] = module.to(device).train()
    return modules


def warn_of_unreturned_modules(
    methods: Mapping[str, Any], students: Sequence[nn.Module], modules: Mapping[str, nn.Module]
) -> None:
    """Warn of modules and tensors of a method that `setup` did not return: they are neither trained nor saved."""
    every = (*modules.values(), *students)
    returned = {id(tensor) for module in every for tensor in (*module.parameters(), *module.buffers())}
    for name, method in methods.items():
        for key, value in vars(method).items():
            tensors = (*value.parameters(), *value.buffers()) if isinstance(value, nn.Module) else ()
            if isinstance(value, Tensor) or any(id(tensor) not in returned for tensor in tensors):
                log.warning(f"{name}: self.{key} is in no module that setup returned: neither trained, moved nor saved")


# --- the data set ---------------------------------------------------------------------------------------------------


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The data set with a share of the labelled images as val, and the rest to train on; which ones depends on their
    names alone. Raises UserError where either part would be empty."""
    labelled = list(dataset.labelled)
    number = round(share * len(labelled))
    if not 0 < number < len(labelled):
        raise UserError(f"data.hold_out={share:g} takes {number} of {len(labelled)} labelled images; 1 to all but one")
    order = sorted(labelled, key=lambda sample: hashlib.sha256(f"hold out {sample.name}".encode()).digest())
    chosen = {sample.name for sample in split_off(order, number, 1)}
    held_out = copy.copy(dataset)
    held_out.val = [sample for sample in labelled if sample.name in chosen]
    held_out.labelled = [sample for sample in labelled if sample.name not in chosen]
    rest = [sample for sample in dataset.unlabelled if sample.name not in chosen]
    held_out.unlabelled = drop_copies(rest, held_out.val, held_out.labelled)
    held_out.list_files = {}  # no published file holds these lists
    number, copies = len(chosen), len(rest) - len(held_out.unlabelled)
    held = "labelled image is" if number == 1 else "labelled images are"
    notes = [f"{number} {held} held out and validated on, in place of val", *describe_dropped_copies(copies)]
    held_out.notes = [*dataset.notes, *notes]
    return held_out


def open_dataset(dataset_class: type[Dataset], config: Config) -> tuple[Dataset, Config]:
    """The run's data set, and the configuration with the settings measured on its images, see `with_statistics`.

    Raises UserError for a `data` key that the data set does not read, and as the data set does.
    """
    check_split_family(config)
    usual = DataConfig()
    for key, given in vars(config.data).items():
        if key not in dataset_class.config_keys and given != getattr(usual, key):
            known = ", ".join(f"data.{name}" for name in dataset_class.config_keys)
            raise UserError(f"dataset={config.dataset} does not use data.{key}; it uses {known}")
    dataset = dataset_class(config.data)
    dataset.channels = config.model.in_channels
    if config.data.hold_out:
        dataset = hold_out(dataset, config.data.hold_out)
    dataset, config = with_statistics(dataset, config)
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
