"""The loop of one stage: step, log, evaluate, save, and stop cleanly when it must."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo.atomic_write import write_json, write_text
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.evaluation.metrics import import_torchmetrics
from ssss_zoo.record_files import FORMAT
from ssss_zoo.text import count
from ssss_zoo.toolkit.types import Progress, Stage, StageResult
from ssss_zoo.train import checkpoint
from ssss_zoo.train.console import duration
from ssss_zoo.train.device import environment, peak_memory
from ssss_zoo.train.pseudo_label_snapshots import Diary
from ssss_zoo.train.pseudo_label_stats import Health
from ssss_zoo.train.resume import flat_config
from ssss_zoo.train.setup import LAST, Job
from ssss_zoo.train.snapshot import Snapshot, on_host

log = logging.getLogger("ssss_zoo")
SHORT = 100  # steps: a shorter run is evaluated at its end alone, and nothing is said of collapse [our choice]
WATCHED_STEPS = 2  # hook answers are checked in the dry run and in this many steps after it
MOST_SKIPPED = 10  # steps in a row whose loss is not finite before train.on_nan=skip stops (our choice)
METHODS = "methods"  # the file of the methods' modules in a checkpoint
COPYING = 0.01  # share of the training time that copies of all state into memory may take (our choice)
SLOW = 10  # seconds: an evaluation that takes longer says so, and how far it is (our choice)
Weights = dict[str, Mapping[str, Tensor]]


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
        self.evaluations = 0
        self.evaluation_due = False  # a checkpoint says so that was written before the evaluation of its step
        self.skipped: list[int] = []  # steps that train.on_nan=skip left out
        self.spent = {"train": 0.0, "evaluate": 0.0, "wait": 0.0}
        self.pending: list[dict[str, Tensor]] = []
        self.window: list[dict[str, float]] = []  # losses of each step since the last logged one, on the host
        self.seen: dict[str, Any] = {}  # pseudo-label health of the last logged step
        self.warned = False
        self.diary = self.make_diary()
        self.evaluation_seconds = 0.0  # what one takes, by the last one or by the rehearsal

    # --- begin and end ----------------------------------------------------------------------------------------------

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Fill everything from a checkpoint's state, open the streams where they stood, rehearse one step."""
        if state:
            self.restore_folder(Path(state["from"]), state)
            log.info(f"resuming at step {self.step} of {self.steps}")
        self.feed = self.open_feed(self.step)
        if self.step < self.steps:
            self.rehearse()
        self.whole, self.saved, self.saved_at = True, self.step if state else 0, time.monotonic()
        self.snapshot = self.take_snapshot()

    def make_diary(self) -> Diary | None:
        """Of the unlabelled image in the middle of the list, where unlabelled images are read."""
        if not self.job.needs.unlabelled:
            return None
        sample = self.unlabelled[len(self.unlabelled) // 2]
        return Diary(self.job.dataset, sample, self.engine, self.job.modules)

    def open_feed(self, step: int) -> BatchLoader:
        """The stage's streams from the first batch of `step` on."""
        return BatchLoader(
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
        """Train to the last step. Raises Interrupted where a stop was asked for, with everything saved; whatever else
        it raises, what is whole is saved first."""
        self.job.screen.begin(self.steps, self.step)
        self.mark, self.first = time.perf_counter(), (self.step, self.spent["train"])
        try:
            with self.job.stop.patient():
                if self.evaluation_due:
                    self.evaluate()
                    self.snapshot = self.take_snapshot()
                while self.step < self.steps:
                    self.one_step()
        except BaseException as error:
            self.save_what_is_whole()
            with suppress(UserError):  # a full disk is already being told of
                self.write_metrics("stopped" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed")
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

    # --- the loop ---------------------------------------------------------------------------------------------------

    def one_step(self) -> None:
        """A step, and whatever is due after it: log, save, evaluate, stop."""
        self.engine.hooks.checked = self.step < WATCHED_STEPS
        self.engine.on_pseudo_label = self.health if self.at(self.log_every, self.step + 1) else None
        self.feed.peek(self.config.train.accumulate)  # a file that cannot be read fails before anything has changed
        self.whole = False
        self.pending.append(self.engine.step(self.feed, self.progress(self.step)))
        self.step, self.whole = self.step + 1, True
        self.job.screen.step(self.step)

        stops = bool(self.job.stop.asked) or self.overdue()
        if not (stops or any(map(self.at, (self.log_every, self.eval_every, self.save_every)))):
            return
        self.read_losses()  # with train.on_nan=skip the run may stand at an earlier step now
        if self.at(self.log_every):
            self.log()
        self.evaluation_due = self.at(self.eval_every) and len(self.job.dataset.val) > 0
        if stops or self.evaluation_due or self.at(self.save_every):
            self.save()  # before the evaluation, which is where memory runs out and schedulers lose patience
        if self.step < self.steps or self.evaluation_due:
            self.stop_if_asked()
        if self.evaluation_due:
            self.evaluate()  # which may change what methods keep: steps before it cannot be made again from here on
            self.snapshot = self.take_snapshot()
        elif time.monotonic() - self.copied_at > self.copy_seconds / COPYING:
            self.snapshot = self.take_snapshot()

    def overdue(self) -> bool:
        """Whether the last checkpoint is older than `train.checkpoint_minutes`."""
        return time.monotonic() - self.saved_at >= 60 * self.config.train.checkpoint_minutes

    def stop_if_asked(self) -> None:
        """Raises Interrupted where a stop was asked for; what is worth saving is saved by then."""
        if self.job.stop.asked:
            raise Interrupted(
                f"stopped by {self.job.stop.asked} at step {self.step} of {self.steps}; the same command with "
                "resume=true goes on"
            )

    def at(self, every: int, step: int | None = None) -> bool:
        """Whether so many steps, or those done, are a multiple of `every`, or all."""
        done = self.step if step is None else step
        return done % every == 0 or done == self.steps

    def progress(self, step: int) -> Progress:
        return Progress(step, self.steps, self.job.epoch_steps)

    def read_losses(self) -> None:
        """Bring the losses since the last reading to the host and prove that they are finite: the one place where the
        loop waits for the device. Where they are not, see `not_finite`."""
        names = list(dict.fromkeys(name for losses in self.pending for name in losses))
        zero = torch.zeros((), device=self.engine.device)
        table = torch.stack([torch.stack([losses.get(n, zero).float() for n in names]) for losses in self.pending])
        first, self.pending = self.step - len(self.pending), []
        for place, values in enumerate(table.tolist()):
            losses = dict(zip(names, values, strict=True))
            if not all(map(math.isfinite, values)):
                return self.not_finite(first + place, losses)
            self.window.append(losses)

    def mean_losses(self) -> dict[str, float]:
        """Mean of each loss over the steps since the last logged one."""
        names = list(dict.fromkeys(name for losses in self.window for name in losses))
        means = {n: math.fsum(losses.get(n, 0.0) for losses in self.window) / len(self.window) for n in names}
        self.window = []
        return means

    # --- losses that are not finite -----------------------------------------------------------------------------------

    def not_finite(self, step: int, losses: Mapping[str, float]) -> None:
        """Go back to how all was before the step of that number, keep that, and stop; or, with train.on_nan=skip, go on
        behind it as if it had never been. Raises UserError: which losses, what the images were, what helps."""
        self.rewind(step)
        record = self.keep_step(step, losses)
        why = self.explain(step, losses, f"at step {step + 1}")
        in_a_row = [*self.skipped, step][-MOST_SKIPPED:]
        many = len(in_a_row) == MOST_SKIPPED and in_a_row[-1] - in_a_row[0] == MOST_SKIPPED - 1
        if self.config.train.on_nan == "stop" or many:
            again = f"`ssss run replay={record}` repeats the step" if record else ""
            skips = f", {MOST_SKIPPED} steps in a row" if many else "; train.on_nan=skip leaves such steps out"
            raise UserError(f"{why}{skips}; {again}")
        log.warning(f"step {step + 1} is left out: {why}")
        line = {"step": self.offset + step + 1, "stage": self.stage.name, "skipped": ", ".join(not_finite_of(losses))}
        self.job.history.write(line)
        self.skipped.append(step)
        self.step = step + 1
        self.pass_over()

    def rewind(self, step: int) -> None:
        """Put everything back to how it was before the step of that number: as the last snapshot has it, and the steps
        since then made once more, which draw what they drew."""
        window, skipped = self.window, self.skipped
        self.restore(on_host(self.snapshot.state), self.snapshot.load)
        self.window, self.skipped = window, skipped
        self.feed, self.engine.on_pseudo_label = self.open_feed(self.step), None
        self.health.reset()
        while self.step < step:
            if self.step in self.skipped:
                self.pass_over()
            else:
                self.engine.step(self.feed, self.progress(self.step))
            self.step += 1

    def pass_over(self) -> None:
        """Leave out the images of a step."""
        for _ in range(self.config.train.accumulate):
            next(self.feed)

    def keep_step(self, step: int, losses: Mapping[str, float]) -> Path | None:
        """Write down what repeats the step: the state before it, seed, images, and the losses that it gave. Returns the
        record's file; None where the disk refuses, for the run has something else to say."""
        place = self.folder.not_finite / f"step{self.offset + step + 1}"
        record = {
            "format": FORMAT,
            "step": step,
            "stage": self.index,
            "seed": self.config.seed,
            "losses": {name: repr(value) for name, value in losses.items()},
            "images": self.images(step),
        }
        try:
            checkpoint.save_folder(place, *self.content())
            write_text(place / "config.yaml", as_yaml(replace(self.config, resume=False, overwrite=False)))
            write_json(place / "record.json", record)
        except UserError as error:
            log.warning(str(error))
            return None
        return place / "record.json"

    def images(self, step: int) -> dict[str, list[str]]:
        """The names of the images of a step, by stream."""
        accumulate = self.config.train.accumulate
        batches = [self.feed.names(batch) for batch in range(step * accumulate, (step + 1) * accumulate)]
        return {stream: [name for batch in batches for name in batch[stream]] for stream in batches[0]}

    def explain(self, step: int, losses: Mapping[str, float], when: str) -> str:
        """Losses of the next step that are not finite in words: when, which, what the images were, what helps."""
        seen = "; ".join(
            f"{name} {image.min():.3g} to {image.max():.3g}, mean {image.mean():.3g}"
            for name, image in self.engine.pictures(self.feed.peek(1)[0], self.progress(step)).items()
        )
        named = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
        files = [name for names in self.images(step).values() for name in names]
        return (
            f"loss not finite {when}: {named}; views: {seen}; images: {', '.join(files)}; lower optim.lr or take "
            "train.precision=32"
        )

    # --- logging ------------------------------------------------------------------------------------------------------

    def log(self) -> None:
        """A line of history, a point in the tracker, a line on the screen."""
        self.count_time("train")
        losses = self.mean_losses()
        rate = (self.step - self.first[0]) / max(self.spent["train"] - self.first[1], 1e-9)
        left = (self.steps - self.step) / max(rate, 1e-9) + self.evaluations_left() * self.evaluation_seconds
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
        self.job.screen.report(self.step, self.steps, losses, health, rate, left)

    def evaluations_left(self) -> int:
        """How many evaluations are still to come, the one of this step included."""
        done = (self.step - 1) // self.eval_every
        return (self.steps - 1) // self.eval_every + 1 - done if len(self.job.dataset.val) else 0

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
        return "teacher" if teacher.network is not None and teacher.is_result else "student"

    def reported_network(self) -> nn.Module:
        return self.networks()[self.reported()]

    def evaluate(self) -> None:
        """Score the networks on the validation images, tell everybody, keep the best, save. Raises Interrupted at the
        next image where a stop is asked for: the checkpoint before says that this is to be made up."""
        dataset = self.job.dataset
        self.count_time("train")
        if self.evaluation_seconds > SLOW:
            log.info(f"evaluating {count(len(dataset.val), 'image')}, about {duration(self.evaluation_seconds)}")
        figures = self.job.evaluator(self.networks(), dataset.val, self.tick(time.perf_counter()))
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
        self.engine.hooks.call(
            "after_eval", metrics=self.val, students=self.engine.students, progress=self.progress(self.step)
        )
        if self.diary:
            self.engine.hooks.checked = False
            self.diary.write(self.folder.pseudo_labels, self.offset + self.step, self.progress(self.step))
        self.count_time("evaluate")
        self.evaluations, self.evaluation_due = self.evaluations + 1, False
        if not self.best or chosen["miou"] > self.best["miou"]:
            self.best = self.val
            self.write_checkpoint(self.folder.best, training=False)
        self.save()
        if self.job.on_eval:
            self.job.on_eval(self.offset + self.step, chosen["miou"])

    def tick(self, begin: float) -> Callable[[int, int], None]:
        """What an evaluation that began at that time tells of each image: it shows how far it is, and stops where it
        is asked to."""
        told = begin

        def tell(done: int, images: int) -> None:
            nonlocal told
            now = time.perf_counter()
            left = (now - begin) / done * (images - done)
            self.job.screen.note(f"evaluating {done}/{images}")
            if now - told > SLOW and done < images:
                log.info(f"evaluated {done} of {images} images, {duration(left)} left")
                told = now
            if done == images:
                self.evaluation_seconds = now - begin
            self.stop_if_asked()

        return tell

    def reads_unlabelled(self) -> bool:
        """Whether unlabelled images take part, as views or with masks that an earlier stage made."""
        return self.job.needs.unlabelled or any(sample.pseudo for sample in self.labelled)

    def spent_so_far(self) -> dict[str, float]:
        """Seconds of the whole run, earlier stages included, by what they were spent on."""
        return dict(self.spent) | {"wait": self.spent["wait"] + self.feed.waited}

    def write_metrics(self, status: str) -> None:
        write_json(self.folder.metrics, self.metrics(status))

    def metrics(self, status: str) -> dict[str, Any]:
        """What metrics.json says of the whole run. `of`, beside the best figures: of how many evaluations."""
        job, spent = self.job, self.spent_so_far()
        return {
            "format": FORMAT,
            "status": status,
            "method": self.config.method,
            "dataset": self.config.dataset,
            "split": self.config.data.split,
            "seed": self.config.seed,
            "step": self.offset + self.step,
            "val": self.val,
            "best": self.best and self.best | {"of": self.evaluations},
            "skipped_steps": len(self.skipped),
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

    # --- save and restore -------------------------------------------------------------------------------------------

    def save(self) -> None:
        self.count_time("train")
        self.write_checkpoint(self.folder.last, training=True)
        self.saved, self.saved_at = self.step, time.monotonic()
        self.write_metrics("running")

    def save_what_is_whole(self) -> None:
        """Save the last step that is done, when something breaks the run off: this one, or where the break fell into a
        step, the one of the last snapshot. Says so where that fails as well."""
        begin = self.step
        if not (self.whole and self.finite()):
            self.restore(on_host(self.snapshot.state), self.snapshot.load)
        try:
            if self.step > self.saved:
                self.write_checkpoint(self.folder.last, training=True)
                log.info(
                    f"saved step {self.step}{'' if self.step == begin else f', the last of {begin} that is whole'}"
                )
        except UserError as error:
            log.warning(str(error))

    def finite(self) -> bool:
        return all(bool(torch.isfinite(loss)) for losses in self.pending for loss in losses.values())

    def write_checkpoint(self, folder: Path, training: bool) -> None:
        """training: with everything that a continuation needs; else the weights to predict with."""
        weights, state = self.content()
        if not training:
            weights = {name: of for name, of in weights.items() if name != METHODS}
            state = {key: state[key] for key in ("format", "step", "global_step", "reported")}
        else:
            state["contents"] = self.job.dataset.contents
        state["classes"] = list(self.job.dataset.class_names)
        checkpoint.save_folder(folder, weights, state)

    def take_snapshot(self) -> Snapshot:
        """A copy of all that the run is now. Whoever goes back to an older one makes the steps since then once more."""
        begin, (weights, state) = time.monotonic(), self.content()
        taken = Snapshot(on_host(weights), on_host(state))
        self.copied_at = time.monotonic()
        self.copy_seconds = self.copied_at - begin
        return taken

    def content(self) -> tuple[Weights, dict[str, Any]]:
        """What a continuation needs: weights by file, and the state; plain types and tensors only, all of them live."""
        weights: Weights = {name: network.state_dict() for name, network in self.networks().items()}
        return weights | {METHODS: flat_state(self.job.modules)}, {
            "format": FORMAT,
            "step": self.step,
            "global_step": self.offset + self.step,
            "reported": self.reported(),
            "stage": self.index,
            "optimizer": self.engine.optimizer.state_dict(),
            "scaler": self.engine.scaler.state_dict(),
            "best": self.best,
            "val": self.val,
            "evaluations": self.evaluations,
            "evaluation_due": self.evaluation_due,
            "skipped": list(self.skipped),
            "seen": self.seen,
            "window": list(self.window),
            "spent": self.spent_so_far(),
            "mlflow_run": self.job.mlflow_run,
            "config": flat_config(self.config),
            "threads": torch.get_num_threads(),
        }

    def restore_folder(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Put everything back as the checkpoint in a folder has it."""
        self.restore(state, lambda name, module: checkpoint.load_weights(folder, name, module))
        if state["threads"] != torch.get_num_threads():
            log.warning(
                f"the run began with {state['threads']} threads and goes on with {torch.get_num_threads()}: the "
                "last bits of its numbers will differ"
            )

    def restore(self, state: Mapping[str, Any], load: Callable[[str, nn.Module], None]) -> None:
        """Put weights, optimiser and everything counted back. load: fills a network or the methods' modules by name."""
        for name, network in self.networks().items():
            load(name, network)
        load(METHODS, nn.ModuleDict(dict(self.job.modules)))
        self.engine.optimizer.load_state_dict(state["optimizer"])
        self.engine.optimizer.zero_grad(set_to_none=True)
        self.engine.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.val = state["step"], state["best"], state["val"]
        self.spent, self.seen, self.window = dict(state["spent"]), state["seen"], list(state["window"])
        self.pending = []
        self.evaluations = state.get("evaluations", 0)  # of format 0: not counted, saved behind its evaluation
        self.evaluation_due, self.skipped = state.get("evaluation_due", False), list(state.get("skipped", ()))

    def rehearse(self) -> None:
        """Before the first step: a step as the last one will be (late terms on), one validation image, and a checkpoint
        written and read back, which also puts everything back. What must fail fails now."""
        begin, place = time.perf_counter(), self.folder.dry_run
        kept = dict(self.spent)
        self.write_checkpoint(place, training=True)
        try:
            batches = iter(self.feed.peek(self.config.train.accumulate))
            self.engine.hooks.checked = True
            losses = self.engine.step(batches, self.progress(self.steps - 1))
            broken = [name for name, loss in losses.items() if not torch.isfinite(loss)]
            if broken:
                values = {name: loss.item() for name, loss in losses.items()}
                raise UserError(self.explain(self.step, values, "in the rehearsal of the last step"))
            self.engine.hooks.checked = False
            self.tell_of_terms_that_never_begin(losses)
            if len(self.job.dataset.val):
                self.rehearse_evaluation()
                if self.diary:
                    self.diary.picture(self.progress(self.steps - 1))
            self.restore_folder(place, checkpoint.load_state(place))
            self.spent = kept
        finally:
            shutil.rmtree(place, ignore_errors=True)
        log.info(f"rehearsed one step, one validation image and one checkpoint in {time.perf_counter() - begin:.1f} s")

    def rehearse_evaluation(self) -> None:
        """Score the largest validation image, which needs the most memory, and estimate from it how long all take."""
        val = self.job.dataset.val
        areas = self.job.dataset.areas(val)
        largest = max(range(len(val)), key=areas.__getitem__)
        import_torchmetrics()
        begin = time.perf_counter()
        self.job.evaluator(self.networks(), val[largest : largest + 1])
        self.evaluation_seconds = (time.perf_counter() - begin) * sum(areas) / areas[largest]

    def tell_of_terms_that_never_begin(self, losses: Mapping[str, Tensor]) -> None:
        """Warn of loss terms that a much later step has and the last one of this run, whose losses these are, lacks."""
        batch = self.feed.peek(1)[0]
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
        weights[METHODS] = flat_state(self.job.modules)
        checkpoint.save_folder(folder, weights, {"val": self.val, "best": self.best})

    def read_result(self, folder: Path) -> StageResult:
        for name, network in self.networks().items():
            checkpoint.load_weights(folder, name, network)
        checkpoint.load_weights(folder, METHODS, nn.ModuleDict(dict(self.job.modules)))
        self.val = checkpoint.load_state(folder)["val"]
        return self.result()


def flat_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return nn.ModuleDict(dict(modules)).state_dict()


def not_finite_of(losses: Mapping[str, float]) -> list[str]:
    """The names of the losses that are not finite; `total` only where it is alone."""
    names = [name for name, value in losses.items() if not math.isfinite(value)]
    return [name for name in names if name != "total"] or names
