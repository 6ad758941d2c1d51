"""The one place that wires a run: configuration to data, network, methods, engine; stages; resume; what is left."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssss_zoo import checkpoint
from ssss_zoo.config import Config, as_yaml, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.feed import Needs
from ssss_zoo.engine import Engine, seed_draws
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.evaluation import Evaluator
from ssss_zoo.health import Health, labelled_histogram
from ssss_zoo.models.contract import Network
from ssss_zoo.pictures import predictions, spread
from ssss_zoo.plugins import build_methods, load, make_manager, who_answers
from ssss_zoo.records import Progress, RunInfo, Stage, StageResult
from ssss_zoo.relay import Relay
from ssss_zoo.screen import Screen
from ssss_zoo.tracking import History, Tracker
from ssss_zoo.training import Training

log = logging.getLogger("ssss_zoo")

# What may differ between a stopped run and its continuation: where things lie and how they are shown.
FREE = {
    "output", "resume", "overwrite", "trace", "diagnose", "tracking.uri", "tracking.experiment", "data.root",
    "train.workers", "train.threads", "train.device", "train.log_every", "train.eval_every", "train.checkpoint_every",
    "evaluate.predictions",
}  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """What a run gives back: its folder, its figures (as in metrics.json), the folder of its data set's tracking."""

    folder: Path
    metrics: dict[str, Any]


def run(config: Config) -> RunResult:
    """Train, evaluate, log and save one run. Raises UserError for what a person can fix; Interrupted after Ctrl-C."""
    methods = build_methods(config)  # a wrong name or option fails here, before a file is written
    dataset_class = load("datasets", config.dataset, f"dataset={config.dataset}")
    model_class = load("models", config.model.name, f"model={config.model.name}")
    device = choose_device(config)
    folder = output_folder(config)
    state = open_folder(folder, config)
    dataset = open_dataset(dataset_class, config)
    dataset.check()
    relay = Relay(trace=(lambda line: log.info(line)) if config.trace else None)
    relay.connect(make_manager(config, methods, relay.watch).hook)
    with Screen() as screen:
        made = Run(config, dataset, model_class, relay, device, folder, screen, state)
        greet(made, methods)
        return made.go()


class Run:
    """A run under way: everything that outlives a stage."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        model_class: Callable[..., Network],
        relay: Relay,
        device: torch.device,
        folder: Path,
        screen: Screen,
        state: dict[str, Any] | None,
    ) -> None:
        self.config, self.dataset, self.model_class, self.relay = config, dataset, model_class, relay
        self.device, self.folder, self.screen, self.state = device, folder, screen, state
        self.students = self.make_students()
        self.needs = self.find_needs()
        self.epoch_steps = max(1, len(self.pool()) // (config.train.batch * config.train.accumulate))
        self.steps = config.train.steps or max(1, round((config.train.epochs or 0) * self.epoch_steps))
        self.info = self.make_info()
        self.modules = self.make_modules()
        self.evaluator = Evaluator(
            dataset, config.evaluate, square(config.train.crop), device, config.train.workers or 0
        )
        self.mlflow_run: str | None = (state or {}).get("mlflow_run")
        self.tracker: Tracker | None = None

    def go(self) -> RunResult:
        """Train to the end. What fails before the first step (the rehearsal included) leaves the folder as it was."""
        made = make_folder(self.folder)
        status = "FAILED"
        try:
            training = self.all_stages()
            metrics = training.finish()
            self.leave(training)
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            files = [self.folder / name for name in ("config.yaml", "metrics.json", "predictions.png", "run.log")]
            if self.tracker:
                self.tracker.finish(status, [file for file in files if file.exists()])
            else:
                remove_empty(made)
        return RunResult(self.folder, metrics)

    def start(self) -> None:
        """The rehearsal is over: from here on the folder is this run's."""
        if self.config.overwrite:
            clear(self.folder)
        checkpoint.write_text(self.folder / "config.yaml", as_yaml(self.config))
        self.screen.keep(self.folder / "run.log")
        self.history = History(self.folder / "history.jsonl", (self.state or {}).get("global_step", 0))
        self.tracker = Tracker(self.config, self.tags(), self.mlflow_run)
        self.mlflow_run = self.tracker.run_id

    def track(self, figures: Mapping[str, float], step: int) -> None:
        if self.tracker:
            self.tracker.log(figures, step)

    # --- stages -----------------------------------------------------------------------------------------------------

    def all_stages(self) -> Training:
        """Train every stage that the methods plan; finished ones of a resumed run are read back, not trained again."""
        plan: Iterator[Stage] = self.relay.ask("plan_stages", info=self.info)
        finished = (self.state or {}).get("stage", 0)
        stage, index, offset = next(plan), 0, 0
        while True:
            training = self.training(stage, index, offset)
            if index < finished:
                result = training.read_result(self.stage_folder(index))
            else:
                training.begin(self.state if index == finished else None)
                if self.tracker is None:
                    self.start()
                result = training.fit()
            offset += training.steps
            try:
                following = plan.send(result)  # type: ignore[attr-defined]
            except StopIteration:
                return training
            if index >= finished:
                training.save_result(self.stage_folder(index), result)
            stage, index = following, index + 1

    def stage_folder(self, index: int) -> Path:
        return self.folder / "stages" / str(index)

    def training(self, stage: Stage, index: int, offset: int) -> Training:
        if index > 0 and stage.restart:
            self.students = self.make_students()
        teachers = [self.relay.ask("make_teacher", students=self.students, index=i) for i in range(len(self.students))]
        for teacher in teachers:
            if teacher.network is not None:
                teacher.network.to(self.device)
        engine = Engine(
            self.config,
            self.relay,
            self.students,
            teachers,
            self.modules.values(),
            len(self.dataset.class_names),
            self.device,
            seed=self.config.seed + 1_000_003 * index,
        )
        if self.config.train.compile:
            for network in engine.networks().values():
                for part in network.children():
                    part.compile()
        histogram = labelled_histogram(self.dataset)
        health = Health(len(self.dataset.class_names), histogram, self.device)
        return Training(self, engine, health, stage, index, offset)

    # --- what is made once ------------------------------------------------------------------------------------------

    def make_students(self) -> list[Network]:
        seed_draws(self.config.seed, 0, 0)
        names = len(self.dataset.class_names)
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        students: list[Network] = self.relay.ask(
            "make_students", make_network=lambda: self.model_class(self.config.model, names)
        )
        return [student.to(self.device, memory_format=layout).train() for student in students]  # type: ignore[call-overload]

    def find_needs(self) -> Needs:
        """Which streams are read at all: asked of the methods for the first and for the last step."""
        height, width = square(self.config.train.crop)
        plans = [self.relay.views((self.config.train.batch, height, width), Progress(step, 2, 1)) for step in (0, 1)]
        views = [view for plan in plans for view in plan.views]
        partner = any(view.cutmix and view.cutmix.partner == "stream" for view in views)
        in_batch = any(view.cutmix and view.cutmix.partner != "stream" for view in views)
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
        return Needs(unlabelled, partner, hidden)

    def pool(self) -> Any:
        return self.dataset.unlabelled if self.needs.unlabelled else self.dataset.labelled

    def make_info(self) -> RunInfo:
        config = self.config
        return RunInfo(
            class_names=tuple(self.dataset.class_names),
            feature_dim=self.students[0].feature_dim,
            in_channels=config.model.in_channels,
            crop=square(config.train.crop),
            batch=config.train.batch,
            steps=self.steps,
            epoch_steps=self.epoch_steps,
            folder=self.folder,
            students=tuple(self.students),
        )

    def make_modules(self) -> dict[str, nn.Module]:
        seed_draws(self.config.seed, 0, 1)
        modules: dict[str, nn.Module] = {}
        for answer in self.relay.ask("setup", info=self.info):
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
            "folder": str(self.folder),
        }

    def leave(self, training: Training) -> None:
        """The picture of a finished run."""
        config = self.config
        if config.evaluate.predictions and len(self.dataset.val):
            network = training.reported_network()
            samples = spread(self.dataset.val, config.evaluate.predictions)
            predictions(self.folder / "predictions.png", network, self.evaluator, samples)


def open_dataset(dataset_class: Callable[..., Dataset], config: Config) -> Dataset:
    dataset = dataset_class(config.data)
    dataset.channels = config.model.in_channels
    return dataset


# --- folder and device ----------------------------------------------------------------------------------------------


def output_folder(config: Config) -> Path:
    """`output`, else runs/<dataset>/<method>/<split>/seed<seed> with `/` of a split written `_`."""
    if config.output:
        return Path(config.output).expanduser()
    split = Path(config.data.split).stem if Path(config.data.split).suffix else config.data.split.replace("/", "_")
    return Path("runs", config.dataset, config.method, split, f"seed{config.seed}")


def open_folder(folder: Path, config: Config) -> dict[str, Any] | None:
    """The state to resume from, or None for a fresh run. Raises UserError rather than lose what lies there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file; it takes the path of a folder")
    if config.overwrite and config.resume:
        raise UserError("give resume=true to go on or overwrite=true to start anew, not both")
    metrics = folder / "metrics.json"
    if config.overwrite:
        return None
    finished = metrics.is_file() and '"status": "finished"' in metrics.read_text()
    if finished:
        raise UserError(
            f"{folder} holds a finished run; look at it with `ssss evaluate run={folder}`, choose another output=, or "
            "start anew with overwrite=true"
        )
    last = checkpoint.find_folder(folder / "last")
    if not config.resume:
        if last or (folder / "config.yaml").exists():
            raise UserError(f"{folder} holds an unfinished run; resume=true goes on, overwrite=true starts anew")
        return None
    if last is None:
        log.warning("%s holds no checkpoint to resume from: starting from the first step", folder)
        return None
    state = checkpoint.load_state(last)
    compare(state["config"], flat_config(config), folder)
    return state | {"from": str(last)}


def make_folder(folder: Path) -> list[Path]:
    """Make the folder; returns what had to be made, deepest first. Raises UserError where that is not allowed."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be made: {error.strerror}") from None
    return missing


def remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty: somebody else's by now
            folder.rmdir()


OURS = ("config.yaml", "metrics.json", "history.jsonl", "predictions.png", "run.log")


def clear(folder: Path) -> None:
    """Remove what a run of ours wrote into `folder`, and nothing else."""
    for name in ("last", "best", "rehearsal"):
        for suffix in ("", ".new", ".old"):
            shutil.rmtree(folder / f"{name}{suffix}", ignore_errors=True)
    shutil.rmtree(folder / "stages", ignore_errors=True)
    for name in OURS:
        (folder / name).unlink(missing_ok=True)


def flat_config(config: Config) -> dict[str, str]:
    from ssss_zoo.tracking import flat

    return {key: str(value) for key, value in flat(asdict(config)).items() if key not in FREE}


def compare(old: dict[str, str], new: dict[str, str], folder: Path) -> None:
    """Refuse to go on with another configuration than the checkpoint's, naming the first key that differs."""
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise UserError(
            f"{folder} was started with {key}={old.get(key, 'nothing')}, now {key}={new.get(key, 'nothing')}{more}; "
            "resume with the same configuration, or choose another output="
        )


def choose_device(config: Config) -> torch.device:
    """The device, with torch's threads set; fills `train.workers` and `train.threads` in."""
    name = config.train.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"train.device={name} cannot be used: {str(error).splitlines()[0]}") from None
    if config.train.threads is None:
        config.train.threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or os.cpu_count() or 1
    torch.set_num_threads(config.train.threads)
    if config.train.workers is None:
        config.train.workers = 0 if device.type == "cpu" else 4
    if config.train.precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16 needs a GPU; on a CPU take 32 (bf16 works and is slower on most)")
    if device.type == "cpu":
        keep_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False  # the same kernels twice: same seed, same numbers
    return device


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the kernel after each step: an eighth less CPU time a
    step as measured, at the same peak. Does nothing where there is no glibc."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # parameters of mallopt(3)
    try:
        libc = ctypes.CDLL("libc.so.6")
        for parameter in (trim_threshold, top_pad, mmap_threshold):
            libc.mallopt(parameter, 1 << 28)
    except (OSError, AttributeError):
        pass


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the configuration."""
    packages = ("ssss-zoo", "torch", "timm", "kornia", "torchmetrics", "pluggy", "omegaconf", "mlflow-skinny")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "packages": {package: version(package) for package in packages},
    }


def greet(made: Run, methods: dict[str, Any]) -> None:
    """Say what is about to happen, in a few lines."""
    config, dataset = made.config, made.dataset
    batch = config.train.batch * config.train.accumulate
    streams = f"{batch} labelled" + (f" and {batch} unlabelled" if made.needs.unlabelled else "")
    counts = f"{len(dataset.labelled)} labelled, {len(dataset.unlabelled)} unlabelled, {len(dataset.val)} validation"
    log.info(
        f"{config.method} on {config.dataset}, split {config.data.split}: {counts} images, "
        f"{len(dataset.class_names)} classes"
    )
    for note in dataset.notes:
        log.info(note)
    log.info(
        f"{config.model.name} on {config.model.encoder} ({config.model.weights} weights), crop "
        f"{'x'.join(map(str, square(config.train.crop)))}, {streams} images a step, {made.steps} steps, "
        f"{made.device.type}, {torch.get_num_threads()} threads, seed {config.seed}"
    )
    for name, method in methods.items():
        log.info(
            f"{name}: {getattr(method, 'paper', type(method).__doc__ or 'no paper named').strip().splitlines()[0]}"
        )


__all__ = ["Run", "RunResult", "StageResult", "run", "who_answers"]
