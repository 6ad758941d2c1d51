"""A run from beginning to end: made, trained stage by stage, finished; the one place that wires the parts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo.atomic_write import write_json
from ssss_zoo.config.checks import check_budget, warnings_of
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks.published_splits import UNKNOWN_LIST
from ssss_zoo.engine.hooks import HookCaller
from ssss_zoo.engine.registry import build_methods, hook_summary, load, make_manager, replaces_installed, with_options
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.evaluation.figures import evenly_spaced, write_predictions
from ssss_zoo.lock import owned
from ssss_zoo.stopping import Stop
from ssss_zoo.text import count
from ssss_zoo.toolkit.types import Stage, StageResult
from ssss_zoo.train.console import Screen
from ssss_zoo.train.device import check_one_process, choose_device, with_device_defaults
from ssss_zoo.train.pseudo_label_stats import Health, labelled_histogram
from ssss_zoo.train.resume import find_resume_state
from ssss_zoo.train.run_folder import RunFolder, output_folder
from ssss_zoo.train.setup import Job, open_dataset
from ssss_zoo.train.trainer import Training

log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True)
class RunResult:
    """What a run gives back: its folder, and its figures as in metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def run(config: Config, on_eval: Callable[[int, float], None] | None = None) -> RunResult:
    """Train, evaluate, log and save one run. on_eval: told step and mIoU after each evaluation; what it raises ends the
    run. Raises UserError for what a person can fix, Busy where another process works in the folder; Interrupted after
    a signal that asks to stop."""
    check_one_process()
    stop = Stop()
    with stop.hearing(), interrupted():
        methods = build_methods(config)  # a wrong name or option fails here, before a file is written
        dataset_class = load("datasets", config.dataset, f"dataset={config.dataset}")
        check_budget(config)
        folder = RunFolder(output_folder(config))
        with owned(folder.path):
            dataset, config = open_dataset(dataset_class, with_options(config, methods))
            state = find_resume_state(folder, config, dataset)
            dataset.check()
            with Screen() as screen:
                job = make_job(config, methods, dataset, folder, state, screen)
                job.on_eval, job.stop = on_eval, stop
                greet(job, methods)
                return carry_out(job)


@contextmanager
def interrupted() -> Iterator[None]:
    """Where a signal ends a run at once, outside of its steps, Interrupted says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"{error}" if str(error) else "stopped") from None


def make_job(
    config: Config,
    methods: Mapping[str, Any],
    dataset: Dataset,
    folder: RunFolder,
    state: dict[str, Any] | None = None,
    screen: Screen | None = None,
) -> Job:
    """Networks, hooks and the methods' own state, ready for the first step; nothing is written. Raises UserError for
    what keeps them from it."""
    model_class = load("models", config.model.name, f"model={config.model.name}")
    hooks = HookCaller(trace=log.info if config.trace else None)
    hooks.connect(make_manager(config, methods, hooks.wrap).hook)
    device = choose_device(config)
    config = with_device_defaults(config, device)
    job = Job(config, dataset, model_class, hooks, device, folder, screen or Screen(), state)
    tell_of_what_is_not_kept(methods, job)
    return job


def tell_of_what_is_not_kept(methods: Mapping[str, Any], job: Job) -> None:
    """Warn of modules and tensors that `setup` made and did not return: they are neither trained nor saved."""
    kept = {id(part) for module in (*job.modules.values(), *job.students) for part in module.modules()}
    for name, method in methods.items():
        for key, value in vars(method).items():
            if isinstance(value, Tensor) or (isinstance(value, nn.Module) and id(value) not in kept):
                log.warning(f"{name}: self.{key} is in no module that setup returned: neither trained, moved nor saved")


def carry_out(job: Job) -> RunResult:
    """Train to the end. What fails before the first step (the rehearsal included) leaves the folder as it was. That the
    run is finished is written last: whoever reads it finds everything."""
    status, metrics = "FAILED", None
    try:
        training = all_stages(job)
        picture(job, training)
        status, metrics = "FINISHED", training.metrics("finished")
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        files = (job.folder.config, job.folder.metrics, job.folder.predictions, job.folder.log)
        if job.tracker:
            job.tracker.finish(status, [file for file in files if file.exists()], metrics)
    write_json(job.folder.metrics, metrics)
    return RunResult(job.folder.path, metrics)


def all_stages(job: Job) -> Training:
    """Train every stage that the methods plan; finished ones of a resumed run are read back, not trained again."""
    plan, training = reached(job)
    training.begin(job.state)
    while True:
        job.start()
        result, begin = training.fit(), time.perf_counter()
        try:
            stage = a_stage(plan.send(result))
        except StopIteration:
            return training
        spent = training.spent_so_far()
        spent["train"] += time.perf_counter() - begin  # ranking, relabelling
        training.save_result(job.folder.stage(training.index), result)
        training.stop_if_asked()
        training = make_training(job, stage, training.index + 1, training.offset + training.steps)
        training.spent = spent
        training.begin(None)


def reached(job: Job) -> tuple[Generator[Stage, StageResult, None], Training]:
    """The methods' plan, and the training of the stage that the run's state stands in, not begun; what earlier stages
    came to is read back."""
    plan = job.hooks.call("plan_stages", info=job.info)
    training = make_training(job, a_stage(next(plan, None)), 0, 0)
    for index in range((job.state or {}).get("stage", 0)):
        result = training.read_result(job.folder.stage(index))
        training = make_training(job, a_stage(plan.send(result)), index + 1, training.offset + training.steps)
    return plan, training


def a_stage(given: Any) -> Stage:
    if not isinstance(given, Stage):
        raise UserError(f"hook plan_stages must yield a Stage, and at least one; got {given}")
    return given


def make_training(job: Job, stage: Stage, index: int, offset: int) -> Training:
    """The training of one stage: teachers, engine, pseudo-label health; fresh students where it restarts."""
    if index > 0 and stage.restart:
        for student, fresh in zip(job.students, job.make_students(), strict=True):
            student.load_state_dict(fresh.state_dict())
    teachers = [job.hooks.call("make_teacher", students=job.students, index=i) for i in range(len(job.students))]
    for teacher in teachers:
        if teacher.network is not None:
            teacher.network.to(job.device)
    classes = len(job.dataset.class_names)
    seed = job.config.seed + 1_000_003 * index  # a stage draws nothing that an earlier one drew
    engine = Engine(job.config, job.hooks, job.students, teachers, job.modules.values(), classes, job.device, seed)
    if job.config.train.compile:
        for network in engine.networks().values():
            for part in network.children():
                part.compile()
    return Training(job, engine, Health(classes, labelled_histogram(job.dataset), job.device), stage, index, offset)


def picture(job: Job, training: Training) -> None:
    """predictions.png of a finished run."""
    count = job.config.evaluate.predictions
    if count and len(job.dataset.val):
        samples = evenly_spaced(job.dataset.val, count)
        try:
            write_predictions(job.folder.predictions, training.reported_network(), job.evaluator, samples)
        except OSError as error:
            log.warning(f"predictions.png could not be written ({error.strerror}); the run itself is whole")


def greet(job: Job, methods: Mapping[str, Any]) -> None:
    """Say what is about to happen, in a few lines."""
    config, dataset = job.config, job.dataset
    batch = config.train.batch * config.train.accumulate
    streams = f"{batch} labelled" + (f" and {batch} unlabelled" if job.needs.unlabelled else "")
    counts = f"{len(dataset.labelled)} labelled, {len(dataset.unlabelled)} unlabelled"
    log.info(
        f"{config.method} on {config.dataset}, split {config.data.split}: {counts}, "
        f"{count(len(dataset.val), 'validation image')}, "
        f"{len(dataset.class_names)} classes"
    )
    for note in dataset.notes:
        log.info(note)
    for line in warnings_of(config):
        log.warning(line)
    protocol = job.protocol
    strange = [part for part, entry in protocol["lists"].items() if entry["list"] == UNKNOWN_LIST]
    told = f"; split lists that are none of the field's: {', '.join(strange)}" if strange else ""
    log.info(f"protocol {protocol['name'] or 'of its own'}, digest {protocol['digest']}{told}")
    log.info(
        f"{config.model.name} on {config.model.encoder} ({config.model.weights} weights), crop "
        f"{'x'.join(map(str, square(config.train.crop)))}, {streams} images a step, {job.steps} steps, "
        f"{job.device.type}, {torch.get_num_threads()} threads, seed {config.seed}"
    )
    for name, method in methods.items():
        note = "; your file's, in place of the installed one" if replaces_installed(name, type(method)) else ""
        log.info(f"{name}: {getattr(method, 'paper', 'names no paper')}{note}")
    if len(methods) > 1:  # a mix: say whose parts these are
        log.info(f"hooks: {'; '.join(hook_summary(job.hooks.manager_hooks))}")
