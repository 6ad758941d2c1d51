"""Measures on this device what a run costs: seconds of a step and of an evaluation, and memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.sampling import evenly
from ssss_zoo.engine.registry import build_methods, with_options
from ssss_zoo.errors import out_of_memory
from ssss_zoo.evaluation.metrics import import_torchmetrics
from ssss_zoo.toolkit.types import Progress, Sample, Stage
from ssss_zoo.train.device import peak_memory
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import LATE_STEP, RunParts, make_parts
from ssss_zoo.train.stage import StageParts, make_stage, open_loader

WARM_UP_STEPS, TIMED_STEPS = 1, 3  # on a CPU, where a step takes long (our choice)
WARM_UP_STEPS_GPU, TIMED_STEPS_GPU = 3, 8  # on a GPU, whose first steps load kernels (our choice)
TIMED_IMAGES = 4  # of the validation images (our choice)
LOADER_PROCESSES = 4  # of a run on a GPU, which read while it computes
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True)
class RunCost:
    """step: seconds of a step, with reading its images. evaluation: seconds of one evaluation on all validation images.
    memory: peak bytes, of a GPU. epoch_steps: steps in a pass over the unlabelled images."""

    step: float
    evaluation: float
    memory: int
    epoch_steps: int


@dataclass(frozen=True, eq=False)
class Probe:
    """Measures runs on one data set. measured: a configuration with the statistics of its images. seconds: that the
    steps of a measurement take on a CPU at least."""

    dataset: Dataset
    measured: Config
    device: torch.device
    seconds: float

    def cost(self, overrides: Sequence[str], *, evaluate: bool = False) -> RunCost | None:
        """What a run with these overrides costs; None where the memory does not suffice. Nothing is written, and the
        evaluation is left at 0 unless `evaluate`. Raises UserError as a run does."""
        with log_silenced():
            try:
                return self.time_run(self.config(overrides), evaluate=evaluate)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                return None
            finally:
                self.free_memory()

    def config(self, overrides: Sequence[str]) -> Config:
        """The configuration of the overrides, with the statistics of the images, without loader processes."""
        config, measured = resolve(overrides), self.measured
        model = replace(config.model, mean=measured.model.mean, std=measured.model.std)
        train = replace(config.train, workers=0)
        return replace(config, data=measured.data, model=model, train=train)

    def time_run(self, config: Config, *, evaluate: bool) -> RunCost:
        """See `cost`."""
        methods = build_methods(config)
        parts = make_parts(with_options(config, methods), methods, self.dataset, RunFolder(Path("nowhere")))
        stage = make_stage(parts, Stage(), 0, 0)
        step = self.time_steps(parts, stage)
        evaluation = time_evaluation(parts, stage) if evaluate and len(self.dataset.val) else 0.0
        return RunCost(step, evaluation, peak_memory(self.device), parts.info.epoch_steps)

    def time_steps(self, parts: RunParts, stage: StageParts) -> float:
        """Seconds of a step as late in a run as can be, so that every loss term takes part: medians, because another
        process may take the device for a moment."""
        gpu = self.device.type == "cuda"
        loader = open_loader(parts, stage, 0)
        parts.hooks.checked = False
        reading: list[float] = []
        computing: list[float] = []
        warm_up, least = (WARM_UP_STEPS_GPU, TIMED_STEPS_GPU) if gpu else (WARM_UP_STEPS, TIMED_STEPS)
        seconds = 0.0 if gpu else self.seconds  # a GPU's steps differ less
        while len(computing) < warm_up + least or sum(computing[warm_up:]) < seconds:
            began = time.perf_counter()
            loader.upcoming(parts.config.train.accumulate)
            read = time.perf_counter()
            stage.engine.step(loader, Progress(LATE_STEP, LATE_STEP + 1, stage.epoch_steps))
            self.wait_for_device()
            reading.append(read - began)
            computing.append(time.perf_counter() - read)
        read_seconds, step_seconds = median(reading[warm_up:]), median(computing[warm_up:])
        return max(step_seconds, read_seconds / LOADER_PROCESSES) if gpu else step_seconds + read_seconds

    def wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free_memory(self) -> None:
        """Give the memory of the measured networks back, and count peaks anew."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def time_evaluation(parts: RunParts, stage: StageParts) -> float:
    """The seconds that an evaluation of all networks on all validation images takes, from a few of the images."""
    import_torchmetrics()
    val = parts.dataset.val
    some = evenly(list(val), TIMED_IMAGES)
    areas = parts.dataset.areas(some)

    def seconds(images: Sequence[Sample]) -> float:
        began = time.perf_counter()
        parts.evaluator(stage.networks(), images)
        return time.perf_counter() - began

    seconds(some)  # the first passes are slower
    one, several = seconds(some[:1]), seconds(some)
    if len(some) == 1:
        return one
    for_pixel = max(several - one, 0.0) / sum(areas[1:])  # without what every evaluation takes once
    return max(0.0, one - for_pixel * areas[0]) + for_pixel * sum(parts.dataset.areas(val))


@contextmanager
def log_silenced() -> Iterator[None]:
    """Within, nothing is logged: a run says the same again."""
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
