"""The loop of one stage: step, log, evaluate, save, and stop cleanly when it must."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo import checkpoint
from ssss_zoo.data.feed import Feed
from ssss_zoo.diary import FOLDER, Diary
from ssss_zoo.engine import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.health import Health
from ssss_zoo.job import LAST, Job
from ssss_zoo.machine import environment, peak_memory
from ssss_zoo.place import flat_config
from ssss_zoo.records import Progress, Stage, StageResult

log = logging.getLogger("ssss_zoo")
SHORT = 100  # steps: a shorter run is evaluated at its end alone, and nothing is said of collapse [our choice]
WATCHED_STEPS = 2  # hook answers are checked in the dry run and in this many steps after it


class Training:
    """One stage of a run. offset: steps of the stages before it; files and trackers count from the run's beginning."""

    def __init__(self, job: Job, engine: Engine, health: Health, stage: Stage, index: int, offset: int) -> None:
        self.job, self.engine, self.health, self.stage, self.index, self.offset = (
            job, engine, health, stage, index, offset,
        )  # fmt: skip
        self.config, self.folder = job.config, job.folder
        self.labelled = stage.labelled if stage.labelled is not None else job.dataset.labelled
        self.unlabelled = stage.unlabelled if stage.unlabelled is not None else job.dataset.unlabelled
        self.steps = stage.steps or job.steps
        train = self.config.train
        self.log_every = train.log_every or max(1, min(10, self.steps // 10), self.steps // 100)
        self.eval_every = train.eval_every or (self.steps // 5 if self.steps >= SHORT else self.steps)
        if train.eval_epochs:
            pool = self.unlabelled if job.needs.unlabelled else self.labelled  # of this stage, as Job counts an epoch
            epoch = max(1, len(pool) // (train.batch * train.accumulate))
            self.eval_every = max(1, round(train.eval_epochs * epoch))
        self.save_every = train.checkpoint_every or self.eval_every
        self.step, self.best, self.val = 0, {}, {}  # type: int, dict[str, Any], dict[str, Any]
        self.spent = {"train": 0.0, "evaluate": 0.0, "wait": 0.0}
        self.pending: list[dict[str, Tensor]] = []
        self.window: list[dict[str, float]] = []  # losses of each step since the last logged one, on the host
        self.seen: dict[str, Any] = {}  # pseudo-label health of the last logged step
        self.stop_asked = self.warned = False
        self.diary = self.make_diary()

    # --- begin and end ----------------------------------------------------------------------------------------------

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Fill everything from a checkpoint's state, open the streams where they stood, rehearse one step."""
        if state:
            self.restore(Path(state["from"]), state)
            log.info(f"resuming at step {self.step} of {self.steps}")
        self.feed = self.open_feed(self.step)
        if self.step < self.steps:
            self.rehearse()

    def make_diary(self) -> Diary | None:
        """Of the unlabelled image in the middle of the list, where unlabelled images are read."""
        if not self.job.needs.unlabelled:
            return None
        sample = self.unlabelled[len(self.unlabelled) // 2]
        return Diary(self.job.dataset, sample, self.engine, self.job.modules)

    def open_feed(self, step: int) -> Feed:
        """The stage's streams from the first batch of `step` on."""
        return Feed(
            self.job.dataset,
            self.labelled,
            self.unlabelled,
            self.config,
            self.job.needs,
            self.engine.seed,
            start=step * self.config.train.accumulate,
            pin=self.engine.device.type == "cuda",
            colour=self.job.colour,
        )

    def fit(self) -> StageResult:
        """Train to the last step. Raises Interrupted after Ctrl-C or SIGTERM, with everything saved."""
        self.job.screen.begin(self.steps, self.step)
        self.mark, self.first = time.perf_counter(), (self.step, self.spent["train"])
        with self.catch_signals():
            try:
                while self.step < self.steps:
                    self.one_step()
            except (UserError, KeyboardInterrupt, Interrupted):
                with suppress(UserError):  # a full disk is already being told of
                    self.write_metrics("stopped")
                raise
            finally:
                self.job.screen.stop()
        return self.result()

    def result(self) -> StageResult:
        return StageResult(
            self.stage,
            self.val,
            tuple(self.engine.students),
            self.engine.teachers[0].network,
            self.labelled,
            self.unlabelled,
        )

    def finish(self) -> dict[str, Any]:
        """The figures of the whole run, written as finished."""
        return self.write_metrics("finished")

    # --- the loop ---------------------------------------------------------------------------------------------------

    def one_step(self) -> None:
        """A step, and whatever is due after it: log, evaluate, save, stop."""
        self.engine.ask.watching = self.step < WATCHED_STEPS
        logs = self.due(self.log_every)
        self.engine.on_health = self.health if logs else None
        self.pending.append(self.engine.step(self.feed, self.progress(self.step)))
        self.step += 1
        self.job.screen.step(self.step)
        evaluates, saves = self.at(self.eval_every), self.at(self.save_every)
        if logs or saves or evaluates or self.stop_asked:
            self.read_losses()
            if logs:
                self.log()
        if evaluates:
            self.evaluate()
        if saves or self.stop_asked:
            self.save()
        if self.step < self.steps:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Raises Interrupted after a first Ctrl-C or SIGTERM; what is worth saving is saved by then."""
        if self.stop_asked:
            raise Interrupted(f"stopped at step {self.step} of {self.steps}; the same command with resume=true goes on")

    def due(self, every: int) -> bool:
        """Whether the step about to be made is one of every so many, or the last."""
        return (self.step + 1) % every == 0 or self.step + 1 == self.steps

    def at(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def progress(self, step: int) -> Progress:
        return Progress(step, self.steps, self.job.epoch_steps)

    def read_losses(self) -> None:
        """Bring the losses since the last reading to the host and prove that they are finite: the one place where the
        loop waits for the device."""
        if not self.pending:
            return
        names = list(dict.fromkeys(name for losses in self.pending for name in losses))
        zero = torch.zeros((), device=self.engine.device)
        table = torch.stack([torch.stack([losses.get(n, zero).float() for n in names]) for losses in self.pending])
        first, self.pending = self.step - len(self.pending), []
        for place, values in enumerate(table.tolist()):
            losses = dict(zip(names, values, strict=True))
            if not all(map(math.isfinite, values)):
                self.explain(first + place, losses, f"at step {first + place + 1}")
            self.window.append(losses)

    def mean_losses(self) -> dict[str, float]:
        """Mean of each loss over the steps since the last logged one."""
        names = list(dict.fromkeys(name for losses in self.window for name in losses))
        means = {n: math.fsum(losses.get(n, 0.0) for losses in self.window) / len(self.window) for n in names}
        self.window = []
        return means

    def explain(self, step: int, losses: Mapping[str, float], when: str) -> None:
        """Stop at a loss that is not finite: when, which losses, what the images were."""
        feed = self.open_feed(step)
        seen = "; ".join(
            f"{name} {image.min():.3g} to {image.max():.3g}, mean {image.mean():.3g}"
            for name, image in self.engine.pictures(next(feed), self.progress(step)).items()
        )
        named = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
        accumulate = self.config.train.accumulate
        batches = range(step * accumulate, (step + 1) * accumulate)
        files = [name for batch in batches for stream in feed.names(batch).values() for name in stream]
        raise UserError(
            f"loss not finite {when}: {named}; views: {seen}; images: {', '.join(files)}; lower optim.lr or take "
            "train.precision=32; a checkpoint from before is in the run's folder if there was one"
        )

    def log(self) -> None:
        """A line of history, a point in the tracker, a line on the screen."""
        self.count_time("train")
        losses = self.mean_losses()
        rate = (self.step - self.first[0]) / max(self.spent["train"] - self.first[1], 1e-9)
        health = self.health.read()
        line: dict[str, Any] = {"step": self.offset + self.step, "stage": self.stage.name, "losses": dict(losses)}
        line["lr"] = self.engine.optimizer.param_groups[0]["lr"]
        if health:
            line["pseudo_labels"] = self.seen = health
            self.warn(health)
        self.job.history.write(line)
        figures = {f"loss/{name}": value for name, value in losses.items()} | {"lr": line["lr"], "steps_per_s": rate}
        if health:
            figures |= {
                f"pseudo/{key}": health[key] for key in ("used", "weight", "confidence", "accuracy") if key in health
            }
        self.job.track(figures, self.offset + self.step)
        self.job.screen.report(self.step, self.steps, losses, health, rate)

    def warn(self, health: dict[str, Any]) -> None:
        """Say once when the pseudo-labels look collapsed or unused; an untrained head in the first tenth, or the first
        steps of a short run, may."""
        warning = self.health.warning(health, tuple(self.job.dataset.class_names))
        if warning and not self.warned and self.step > max(SHORT // 2, 0.1 * self.steps):
            log.warning(f"step {self.step}: {warning}")
            self.warned = True
        self.warned = self.warned and warning is not None

    def count_time(self, what: str) -> None:
        """Count the time since the last call as spent on `what`."""
        now = time.perf_counter()
        self.spent[what] += now - self.mark
        self.mark = now

    # --- evaluate ---------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """What is evaluated: `student`, and `teacher` where it has weights of its own; further pairs are numbered."""
        return self.engine.networks()

    def reported(self) -> str:
        """Whose mIoU stands for the run: the teacher's where it has weights and says so, else the student's."""
        teacher = self.engine.teachers[0]
        return "teacher" if teacher.network is not None and teacher.reported else "student"

    def reported_network(self) -> nn.Module:
        return self.networks()[self.reported()]

    def evaluate(self) -> None:
        """Score the networks on the validation images, tell everybody, keep the best."""
        dataset = self.job.dataset
        if not len(dataset.val):
            return
        self.count_time("train")
        note = self.job.screen.note
        figures = self.job.evaluator(self.networks(), dataset.val, lambda done, all_: note(f"evaluating {done}/{all_}"))
        chosen = figures[self.reported()]
        self.val = {"step": self.offset + self.step, "network": self.reported(), **chosen, **figures}
        words = ", ".join(f"{name} {100 * part['miou']:.2f}" for name, part in figures.items())
        log.info(f"step {self.step}: mIoU {words}")
        self.job.track(
            {f"val/{name}/miou": part["miou"] for name, part in figures.items()}
            | {f"val/iou/{name}": iou for name, iou in chosen["iou"].items() if iou is not None},
            self.offset + self.step,
        )
        self.job.history.write({"step": self.offset + self.step, "stage": self.stage.name, "val": self.val})
        self.engine.ask.ask(
            "after_eval", metrics=self.val, students=self.engine.students, progress=self.progress(self.step)
        )
        if self.diary:
            self.engine.ask.watching = False
            self.diary.write(self.folder / FOLDER, self.offset + self.step, self.progress(self.step))
        self.count_time("evaluate")
        if not self.best or chosen["miou"] > self.best["miou"]:
            self.best = self.val
            self.write_checkpoint(self.folder / "best", training=False)
        self.write_metrics("running")
        if self.job.on_eval:
            self.job.on_eval(self.offset + self.step, chosen["miou"])

    def reads_unlabelled(self) -> bool:
        """Whether unlabelled images take part, as views or with masks that an earlier stage made."""
        return self.job.needs.unlabelled or any(sample.pseudo for sample in self.labelled)

    def spent_so_far(self) -> dict[str, float]:
        """Seconds of the whole run, earlier stages included, by what they were spent on."""
        return dict(self.spent) | {"wait": self.spent["wait"] + self.feed.waited}

    def write_metrics(self, status: str) -> dict[str, Any]:
        """Write metrics.json whole."""
        job, spent = self.job, self.spent_so_far()
        metrics = {
            "status": status,
            "method": self.config.method,
            "dataset": self.config.dataset,
            "split": self.config.data.split,
            "seed": self.config.seed,
            "step": self.offset + self.step,
            "val": self.val,
            "best": self.best,
            "time": {
                "train_seconds": round(spent["train"], 3),
                "evaluate_seconds": round(spent["evaluate"], 3),
                "data_wait_seconds": round(spent["wait"], 3),
                "steps_per_second": round((self.offset + self.step) / spent["train"], 4) if spent["train"] else None,
                "peak_memory_bytes": peak_memory(job.device),
            },
            "environment": environment(job.device),
            "data": {
                "labelled": len(job.dataset.labelled),
                "unlabelled": len(job.dataset.unlabelled) if self.reads_unlabelled() else 0,
                "val": len(job.dataset.val),
                "fingerprint": job.dataset.fingerprint,
                "low": list(self.config.data.low),
                "high": list(self.config.data.high),
                "mean": job.students[0].mean.flatten().tolist(),
                "std": job.students[0].std.flatten().tolist(),
            },
            "pseudo_labels": self.seen | {"labelled_classes": self.health.histogram.tolist()} if self.seen else None,
            "first_weights": job.first_weights,
            "absent_classes": self.config.evaluate.absent,
            "protocol": job.protocol,
        }
        checkpoint.write_json(self.folder / "metrics.json", metrics)
        return metrics

    # --- save and restore -------------------------------------------------------------------------------------------

    def save(self) -> None:
        self.count_time("train")
        self.write_checkpoint(self.folder / "last", training=True)
        self.write_metrics("running")

    def write_checkpoint(self, folder: Path, training: bool) -> None:
        """training: with everything that a continuation needs; else the weights to predict with."""
        weights = {name: network.state_dict() for name, network in self.networks().items()}
        state: dict[str, Any] = {"step": self.step, "global_step": self.offset + self.step, "reported": self.reported()}
        if training:
            weights["methods"] = flat_state(self.job.modules)
            state |= self.training_state()
        checkpoint.save_folder(folder, weights, state)

    def training_state(self) -> dict[str, Any]:
        """What a continuation needs beside the weights; plain types and tensors only."""
        return {
            "stage": self.index,
            "optimizer": self.engine.optimizer.state_dict(),
            "scaler": self.engine.scaler.state_dict(),
            "best": self.best,
            "val": self.val,
            "seen": self.seen,
            "window": self.window,
            "spent": self.spent_so_far(),
            "mlflow_run": self.job.mlflow_run,
            "config": flat_config(self.config),
            "threads": torch.get_num_threads(),
        }

    def restore(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Put weights, optimiser and everything counted back as a checkpoint has them."""
        for name, network in self.networks().items():
            checkpoint.load_weights(folder, name, network)
        checkpoint.load_weights(folder, "methods", nn.ModuleDict(dict(self.job.modules)))
        self.engine.optimizer.load_state_dict(state["optimizer"])
        self.engine.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.val = state["step"], state["best"], state["val"]
        self.spent, self.seen, self.window = dict(state["spent"]), state["seen"], list(state["window"])
        if state["threads"] != torch.get_num_threads():
            log.warning(
                f"the run began with {state['threads']} threads and goes on with {torch.get_num_threads()}: the "
                "last bits of its numbers will differ"
            )

    def rehearse(self) -> None:
        """Before the first step: a step as the last one will be (late terms on), one validation image, and a checkpoint
        written and read back, which also puts everything back. What must fail fails now."""
        begin, place = time.perf_counter(), self.folder / "rehearsal"
        kept = (self.step, self.best, self.val, dict(self.spent))
        self.write_checkpoint(place, training=True)
        try:
            batches = iter(self.feed.peek(self.config.train.accumulate))
            self.engine.ask.watching = True
            losses = self.engine.step(batches, self.progress(self.steps - 1))
            broken = [name for name, loss in losses.items() if not torch.isfinite(loss)]
            if broken:
                self.explain(
                    self.step, {n: loss.item() for n, loss in losses.items()}, "in the rehearsal of the last step"
                )
            self.engine.ask.watching = False
            self.tell_of_terms_that_never_begin(losses)
            if len(self.job.dataset.val):
                self.job.evaluator(self.networks(), self.job.dataset.val[:1])
                if self.diary:
                    self.diary.picture(self.progress(self.steps - 1))
            self.restore(place, checkpoint.load_state(place))
            self.step, self.best, self.val, self.spent = kept
        finally:
            shutil.rmtree(place, ignore_errors=True)
        log.info(f"rehearsed one step, one validation image and one checkpoint in {time.perf_counter() - begin:.1f} s")

    def tell_of_terms_that_never_begin(self, losses: Mapping[str, Tensor]) -> None:
        """Warn of loss terms that a much later step has and the last one of this run, whose losses these are, lacks."""
        batch = self.engine.receive(self.feed.peek(1)[0])
        with torch.no_grad():
            later = self.engine.losses(batch, Progress(LAST, LAST + 1, self.job.epoch_steps))
        missing = [name for name in later if name not in losses]
        if missing:
            log.warning(
                f"in {self.steps} steps of {self.job.epoch_steps} an epoch {', '.join(missing)} never begins: the "
                "method waits longer than the run lasts; give it more steps, or a shorter ramp among its options"
            )

    def save_result(self, folder: Path, result: StageResult) -> None:
        """Keep a finished stage, so that a resumed run need not train it again."""
        weights = {name: network.state_dict() for name, network in self.networks().items()}
        weights["methods"] = flat_state(self.job.modules)
        checkpoint.save_folder(folder, weights, {"val": self.val, "best": self.best})

    def read_result(self, folder: Path) -> StageResult:
        for name, network in self.networks().items():
            checkpoint.load_weights(folder, name, network)
        checkpoint.load_weights(folder, "methods", nn.ModuleDict(dict(self.job.modules)))
        self.val = checkpoint.load_state(folder)["val"]
        return self.result()

    # --- stopping ---------------------------------------------------------------------------------------------------

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step finish, save, and raise Interrupted; a second Ctrl-C stops at once."""

        def ask_to_stop(number: int, frame: object) -> None:
            if self.stop_asked:
                raise KeyboardInterrupt
            self.stop_asked = True
            log.info("stopping after this step; once more stops at once")

        try:
            before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread (a notebook's worker): leave signals alone
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def flat_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return nn.ModuleDict(dict(modules)).state_dict()
