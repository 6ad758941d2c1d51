"""Carries out a run: makes its parts, trains its stages, and writes its results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ssss_zoo.atomic_write import write_json
from ssss_zoo.config.checks import check_budget, warnings_of
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.benchmarks.published_splits import UNKNOWN_LIST
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.engine.registry import build_methods, hook_summary, load, replaces_installed, with_options
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.evaluation.figures import evenly_spaced, write_predictions
from ssss_zoo.lock import owned
from ssss_zoo.progress_display import Screen
from ssss_zoo.stopping import Stop
from ssss_zoo.text import count
from ssss_zoo.toolkit.types import Stage, StageResult
from ssss_zoo.train.checkpointing import Checkpointer, TrainerState
from ssss_zoo.train.console import RunConsole
from ssss_zoo.train.device import check_one_process
from ssss_zoo.train.dry_run import dry_run
from ssss_zoo.train.model_card import write_model_card
from ssss_zoo.train.outputs import open_outputs
from ssss_zoo.train.result import RunResult
from ssss_zoo.train.resume import ResumePoint, find_resume_point
from ssss_zoo.train.run_folder import RunFolder, output_folder
from ssss_zoo.train.setup import RunParts, make_parts, open_dataset
from ssss_zoo.train.stage import StageParts, make_stage, open_loader
from ssss_zoo.train.tracking import check_loggers
from ssss_zoo.train.trainer import Trainer

OnEval = Callable[[int, float], None]
StagePlan = Generator[Stage, StageResult, None]
log = logging.getLogger("ssss_zoo")


def run_training(config: Config, on_eval: OnEval | None = None, shown_on: Screen | None = None) -> RunResult:
    """Train, evaluate, log and save one run.

    on_eval: called with step and mIoU after each evaluation; an exception from it ends the run. shown_on: a screen
    in place of that of this process. Raises UserError for a mistake that the user can fix, Busy where another
    process uses the folder, Interrupted after a signal to stop.
    """
    check_one_process()
    stop = Stop()
    with stop.handlers_installed(), interrupted():
        methods = build_methods(config)  # a wrong name or option fails here, before a file is written
        dataset_class = load("datasets", config.dataset, f"dataset={config.dataset}")
        check_budget(config)
        check_loggers(config)
        folder = RunFolder(output_folder(config))
        with owned(folder.path):
            dataset, config = open_dataset(dataset_class, with_options(config, methods))
            resume = find_resume_point(folder, config, dataset)
            dataset.check()
            with RunConsole(shown_on) as console:
                parts = make_parts(config, methods, dataset, folder)
                log_setup(parts, methods)
                return carry_out(parts, methods, resume, console, stop, on_eval)


@contextmanager
def interrupted() -> Iterator[None]:
    """Raise Interrupted where a signal ends a run at once, outside of its steps."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"{error}" if str(error) else "stopped") from None


def carry_out(
    parts: RunParts,
    methods: Mapping[str, Any],
    resume: ResumePoint | None,
    console: RunConsole,
    stop: Stop,
    on_eval: OnEval | None,
) -> RunResult:
    """Train every stage that the methods plan, and finish the run.

    A failure before the first step, the dry run included, leaves the folder as it was. The status `finished` is written
    last, so that a reader who finds it also finds every other file.
    """
    plan, stage = reach_stage(parts, resume.record["stage"] if resume else 0)
    state = TrainerState()
    if resume:
        state = Checkpointer(parts, stage).restore(resume.folder, resume.record)
        log.info(f"resuming at step {state.step} of {stage.steps}")
    loader, evaluation_seconds = prepare_stage(parts, stage, state)
    outputs = open_outputs(parts, resume, console, on_eval)
    state.tracked_runs = outputs.tracker.run_ids
    try:
        first = Trainer(parts, stage, state, loader, outputs, stop, evaluation_seconds)
        last = train_stages(plan, first)
        draw_predictions(parts, last.stage)
        metrics = last.metrics("finished")
        write_model_card(parts.folder, parts.config, parts.dataset, methods, metrics)
    except BaseException as error:
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        outputs.tracker.finish("KILLED" if stopped else "FAILED", parts.folder.artifacts())
        raise
    outputs.write_results(parts.folder, metrics, model=parts.config.tracking.model)
    write_json(parts.folder.metrics, metrics)
    return RunResult(parts.folder.path, metrics, outputs.tracker.views())


def reach_stage(parts: RunParts, index: int) -> tuple[StagePlan, StageParts]:
    """The methods' plan, and its stage number `index` (from 0). The networks of earlier stages are read from files."""
    plan = parts.hooks.call("plan_stages", info=parts.info)
    stage = make_stage(parts, check_stage(next(plan, None)), 0, 0)
    for earlier in range(index):
        result = Checkpointer(parts, stage).read_result(parts.folder.stage(earlier))
        stage = make_stage(parts, check_stage(plan.send(result)), earlier + 1, stage.offset + stage.steps)
    return plan, stage


def check_stage(planned: Any) -> Stage:
    """The stage that a plan yielded. Raises UserError where it yielded anything else."""
    if not isinstance(planned, Stage):
        raise UserError(f"hook plan_stages must yield a Stage, and at least one; got {planned}")
    return planned


def prepare_stage(parts: RunParts, stage: StageParts, state: TrainerState) -> tuple[BatchLoader, float]:
    """Open the loader of a stage and make its dry run. Returns the loader and the expected seconds of an evaluation."""
    loader = open_loader(parts, stage, state.step)
    return loader, dry_run(parts, stage, loader, state) if state.step < stage.steps else 0.0


def train_stages(plan: StagePlan, trainer: Trainer) -> Trainer:
    """Train a stage and all that follow it in the plan. Returns the trainer of the last one."""
    while True:
        result, began = trainer.fit(), time.perf_counter()
        try:
            planned = check_stage(plan.send(result))  # here a method may rank images or label them again
        except StopIteration:
            return trainer
        parts, done, counted = trainer.parts, trainer.stage, trainer.current_state()
        trainer.checkpointer.save_result(parts.folder.stage(done.index), counted)
        trainer.stop_if_asked()
        stage = make_stage(parts, planned, done.index + 1, done.offset + done.steps)
        seconds = {**counted.seconds, "train": counted.seconds["train"] + time.perf_counter() - began}
        state = TrainerState(seconds=seconds, tracked_runs=counted.tracked_runs)
        loader, evaluation_seconds = prepare_stage(parts, stage, state)
        trainer = Trainer(parts, stage, state, loader, trainer.outputs, trainer.stop, evaluation_seconds)


def draw_predictions(parts: RunParts, stage: StageParts) -> None:
    """Write predictions.png of a finished run: some validation images, their masks and the network's predictions."""
    images = parts.config.evaluate.predictions
    if images and len(parts.dataset.val):
        samples = evenly_spaced(parts.dataset.val, images)
        try:
            write_predictions(parts.folder.predictions, stage.result_network(), parts.evaluator, samples)
        except OSError as error:
            log.warning(f"predictions.png could not be written ({error.strerror}); the run itself is complete")


def log_setup(parts: RunParts, methods: Mapping[str, Any]) -> None:
    """Log what will be trained in a few lines: data, protocol, network, methods and their hooks."""
    config, dataset = parts.config, parts.dataset
    log.info(
        f"{config.method} on {config.dataset}, split {config.data.split}: {len(dataset.labelled)} labelled, "
        f"{len(dataset.unlabelled)} unlabelled, {count(len(dataset.val), 'validation image')}, "
        f"{len(dataset.class_names)} classes"
    )
    for note in dataset.notes:
        log.info(note)
    for line in warnings_of(config):
        log.warning(line)
    if parts.protocol["name"]:  # the digest of any other protocol stands in metrics.json
        log.info(protocol_line(parts.protocol))
    batch = config.train.batch * config.train.accumulate
    streams = f"{batch} labelled" + (f" and {batch} unlabelled" if parts.needs.unlabelled else "")
    log.info(
        f"{config.model.name} on {config.model.encoder} ({config.model.weights} weights), crop "
        f"{'x'.join(map(str, square(config.train.crop)))}, {streams} images a step, {parts.info.steps} steps, "
        f"{parts.device.type}, {count(torch.get_num_threads(), 'thread')}, seed {config.seed}"
    )
    for name, method in methods.items():
        note = "; from your file, in place of the installed one" if replaces_installed(name, type(method)) else ""
        log.info(f"{name}: {getattr(method, 'paper', 'names no paper')}{note}")
    if len(methods) > 1:  # a mix: log which method implements which hook
        log.info(f"hooks: {'; '.join(hook_summary(parts.hooks.manager_hooks))}")


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """The protocol of a run, and which of its lists match no published split."""
    custom = [part for part, entry in protocol["lists"].items() if entry["list"] == UNKNOWN_LIST]
    name = f"protocol {protocol['name']}" if protocol["name"] else "custom protocol"
    if not custom:
        return f"{name} ({protocol['digest']})"
    lists = f"the {' and '.join(custom)} {'list matches' if len(custom) == 1 else 'lists match'} no published split"
    return f"{name} ({protocol['digest']}): {lists}"
