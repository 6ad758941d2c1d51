"""One stage of a run, ready for its first step: its lists, its engine, and how often it is logged, saved, evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ssss_zoo.config.schema import Config
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.engine.step import Engine
from ssss_zoo.toolkit.teachers import Teacher
from ssss_zoo.toolkit.types import Progress, Sample, Stage, StageResult
from ssss_zoo.train.pseudo_label_snapshots import PseudoLabelSnapshots
from ssss_zoo.train.pseudo_label_stats import PseudoLabelStats, labelled_histogram
from ssss_zoo.train.setup import RunParts, create_students, steps_per_epoch

SHORT_RUN_STEPS = 100  # a shorter run is evaluated at its end alone (our choice)
SEED_STRIDE = 1_000_003  # between the seeds of two stages, so that no stage repeats the draws of another


@dataclass(frozen=True)
class Intervals:
    """After how many steps a stage is logged, evaluated and saved; each is also due after its last step."""

    log: int
    evaluate: int
    save: int


@dataclass(frozen=True, eq=False)
class StageParts:
    """The parts of one stage of a run.

    index: its place among the stages, from 0. offset: the steps of the stages before it, because files and trackers
    count from the beginning of the run. snapshots: None for a method that reads no unlabelled images.
    """

    stage: Stage
    index: int
    offset: int
    steps: int
    epoch_steps: int
    labelled: Sequence[Sample]
    unlabelled: Sequence[Sample]
    intervals: Intervals
    engine: Engine
    stats: PseudoLabelStats
    snapshots: PseudoLabelSnapshots | None

    def label(self) -> str:
        """The place of the stage among those that its method plans, as `stage 2/3`; "" where it is the only one."""
        return f"stage {self.index + 1}/{self.stage.stages}" if self.stage.stages > 1 else ""

    def progress(self, step: int) -> Progress:
        """How far the stage is at a step, as hooks and schedules see it."""
        return Progress(step, self.steps, self.epoch_steps)

    def is_due(self, interval: int, steps_done: int) -> bool:
        """Whether an action with this interval is due now; every action is due after the last step."""
        return steps_done % interval == 0 or steps_done == self.steps

    def networks(self) -> dict[str, nn.Module]:
        """The networks to evaluate: `student`, `teacher` where it has its own weights; further pairs are numbered."""
        return self.engine.networks()

    def result_name(self) -> str:
        """The network whose mIoU counts as the run's: the teacher where it has its own weights and `is_result`."""
        teacher = self.engine.teachers[0]
        return "teacher" if teacher.network is not None and teacher.is_result else "student"

    def result_network(self) -> nn.Module:
        """The network of that name, see `result_name`."""
        return self.networks()[self.result_name()]

    def result(self, metrics: dict[str, object]) -> StageResult:
        """The result of this stage for the next one. metrics: the validation figures after the last step."""
        students, teacher = tuple(self.engine.students), self.engine.teachers[0].network
        return StageResult(self.stage, metrics, students, teacher, self.labelled, self.unlabelled)


def make_stage(parts: RunParts, stage: Stage, index: int, offset: int) -> StageParts:
    """A stage of a run. Where it restarts the networks, they get their first weights again, in place."""
    config = parts.config
    if index > 0 and stage.restart:
        fresh_students = create_students(config, parts.hooks, parts.dataset, parts.device)
        for student, fresh in zip(parts.students, fresh_students, strict=True):
            student.load_state_dict(fresh.state_dict())
    labelled = stage.labelled if stage.labelled is not None else parts.dataset.labelled
    unlabelled = stage.unlabelled if stage.unlabelled is not None else parts.dataset.unlabelled
    steps = stage.steps or parts.info.steps
    stats = PseudoLabelStats(len(parts.dataset.class_names), labelled_histogram(parts.dataset), parts.device)
    engine = make_engine(parts, config.seed + SEED_STRIDE * index, stats)
    snapshots = None
    if parts.needs.unlabelled:
        sample = unlabelled[len(unlabelled) // 2]
        snapshots = PseudoLabelSnapshots(parts.dataset, sample, engine, parts.modules)
    return StageParts(
        stage=stage,
        index=index,
        offset=offset,
        steps=steps,
        epoch_steps=parts.info.epoch_steps,
        labelled=labelled,
        unlabelled=unlabelled,
        intervals=choose_intervals(config, steps, steps_per_epoch(config, parts.needs, labelled, unlabelled)),
        engine=engine,
        stats=stats,
        snapshots=snapshots,
    )


def make_engine(parts: RunParts, seed: int, stats: PseudoLabelStats) -> Engine:
    """The engine of a stage, with new teachers. stats: counts the pseudo-labels of the steps in which it is active."""
    teachers: list[Teacher] = []
    for index in range(len(parts.students)):
        teacher = parts.hooks.call("make_teacher", students=parts.students, index=index)
        if teacher.network is not None:
            teacher.network.to(parts.device)
        teachers.append(teacher)
    classes = len(parts.dataset.class_names)
    modules = parts.modules.values()
    engine = Engine(parts.config, parts.hooks, parts.students, teachers, modules, classes, parts.device, seed)
    engine.on_pseudo_label = stats
    if parts.config.train.compile:
        for network in engine.networks().values():
            for part in network.children():
                part.compile()
    return engine


def choose_intervals(config: Config, steps: int, epoch_steps: int) -> Intervals:
    """The intervals in the configuration; by default ten to a hundred log lines and one or five evaluations."""
    train = config.train
    log = train.log_every or max(1, min(10, steps // 10), steps // 100)
    evaluate = train.eval_every or (steps // 5 if steps >= SHORT_RUN_STEPS else steps)
    if train.eval_epochs:
        evaluate = max(1, round(train.eval_epochs * epoch_steps))
    return Intervals(log, evaluate, train.checkpoint_every or evaluate)


def open_loader(parts: RunParts, stage: StageParts, step: int) -> BatchLoader:
    """The batches of a stage, from the first one of `step` on."""
    colour: list[float] = parts.students[0].mean.flatten().tolist()
    return BatchLoader(
        parts.dataset,
        stage.labelled,
        stage.unlabelled,
        parts.config,
        parts.needs,
        stage.engine.seed,
        start=step * parts.config.train.accumulate,
        pin=parts.device.type == "cuda",
        colour=colour,
    )


def image_names(parts: RunParts, loader: BatchLoader, step: int) -> dict[str, list[str]]:
    """The names of the images of a step, by stream."""
    accumulate = parts.config.train.accumulate
    batches = [loader.names(batch) for batch in range(step * accumulate, (step + 1) * accumulate)]
    return {stream: [name for batch in batches for name in batch[stream]] for stream in batches[0]}
