"""The training loop of one stage: step, log, save, stop, evaluate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from ssss_zoo.atomic_write import write_json
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.record_files import Metrics, PseudoLabelFigures
from ssss_zoo.stopping import Stop
from ssss_zoo.text import count, duration
from ssss_zoo.toolkit.types import StageResult
from ssss_zoo.train.checkpointing import Checkpointer, TrainerState
from ssss_zoo.train.console import LoggedStep
from ssss_zoo.train.not_finite import report_broken_step, rewind, skip_images
from ssss_zoo.train.outputs import SLOW_EVALUATION, RunOutputs
from ssss_zoo.train.run_metrics import run_metrics
from ssss_zoo.train.setup import RunParts
from ssss_zoo.train.stage import SHORT_RUN_STEPS, StageParts

CHECKED_STEPS = 2  # hook answers are checked in the dry run and in this many first steps
log = logging.getLogger("ssss_zoo")


class Trainer:
    """Trains one stage of a run, and logs, evaluates and saves on the way."""

    def __init__(
        self,
        parts: RunParts,
        stage: StageParts,
        state: TrainerState,
        loader: BatchLoader,
        outputs: RunOutputs,
        stop: Stop,
        evaluation_seconds: float,
    ) -> None:
        """loader: stands at the first batch of `state.step`. evaluation_seconds: what an evaluation is expected to
        take."""
        self.parts = parts
        self.stage = stage
        self.state = state
        self.loader = loader
        self.outputs = outputs
        self.stop = stop
        self.evaluation_seconds = evaluation_seconds
        self.checkpointer = Checkpointer(parts, stage)
        self.unread_losses: list[dict[str, Tensor]] = []  # of each step since the last reading, on the device
        self.is_whole = True  # False while a step is under way: weights and counters are of different steps then
        self.warned = False
        self.saved_step = state.step
        self.saved_at = time.monotonic()
        self.first_step = state.step
        self.first_seconds = state.seconds["train"]

    def fit(self) -> StageResult:
        """Train to the last step.

        Raises Interrupted, with everything saved, where a stop was asked for. Before any other error goes on, the last
        step that is done is saved.
        """
        self.outputs.console.begin(self.stage.steps, self.state.step, self.stage.label())
        self.snapshot = self.checkpointer.take_snapshot(self.current_state())
        self.lap_began = time.perf_counter()
        try:
            with self.stop.signals_deferred():  # within, a signal is only noted
                self.train()
        except BaseException as error:
            self.save_last_whole_step()
            with suppress(UserError):  # a full disk is the error already
                self.write_metrics("stopped" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed")
            raise
        finally:
            self.outputs.console.stop()
        return self.stage.result(self.state.val)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Make all steps that are left, and whatever is due after each."""
        stage, intervals, config = self.stage, self.stage.intervals, self.parts.config.train

        # A checkpoint that was written before the evaluation of its step still owes it.
        if self.state.evaluation_due:
            self.evaluate()
            self.snapshot = self.checkpointer.take_snapshot(self.current_state())

        while self.state.step < stage.steps:
            # Hook answers are checked in the first steps alone, because a check waits for the device, and pseudo-labels
            # are counted in the logged steps alone.
            self.parts.hooks.checked = self.state.step < CHECKED_STEPS
            stage.stats.active = stage.is_due(intervals.log, self.state.step + 1)

            # One optimizer step. The images are read first: a file that cannot be read then fails while the run is
            # whole. An error within the step leaves weights of half a step, which `fit` takes back.
            self.loader.upcoming(config.accumulate)
            self.is_whole = False
            self.unread_losses.append(stage.engine.step(self.loader, stage.progress(self.state.step)))
            self.state.step += 1
            self.is_whole = True
            self.outputs.console.step(self.state.step)

            # Most steps end here: reading a loss waits for the device, which would stand still meanwhile.
            stops = bool(self.stop.asked) or time.monotonic() - self.saved_at >= 60 * config.checkpoint_minutes
            if not (stops or any(map(self.is_due, (intervals.log, intervals.evaluate, intervals.save)))):
                continue

            # Read the losses since the last reading. One that is not finite raises; with train.on_nan=skip the run goes
            # back behind that step, so from here on it may stand at an earlier one.
            broken = self.read_losses()
            if broken:
                self.leave_out(*broken)
            if self.is_due(intervals.log):
                self.log_step()

            # Save before the evaluation, where memory runs out most often and schedulers lose their patience.
            self.state.evaluation_due = self.is_due(intervals.evaluate) and len(self.parts.dataset.val) > 0
            if stops or self.state.evaluation_due or self.is_due(intervals.save):
                self.save()

            # Stop where it was asked for, unless nothing is left to do.
            if self.state.step < stage.steps or self.state.evaluation_due:
                self.stop_if_asked()

            # Evaluate. A method may change its modules after an evaluation, and steps before it cannot be made again
            # from then on: that takes a new copy in memory. Otherwise a copy is renewed as often as its time allows.
            if self.state.evaluation_due:
                self.evaluate()
            elif not self.snapshot.is_old():
                continue
            self.snapshot = self.checkpointer.take_snapshot(self.current_state())

    def is_due(self, interval: int) -> bool:
        """Whether something that happens at an interval is due after the steps that are done."""
        return self.stage.is_due(interval, self.state.step)

    def stop_if_asked(self) -> None:
        """Raise Interrupted where a stop was asked for; whatever is worth saving is saved by then."""
        if self.stop.asked:
            raise Interrupted(
                f"stopped by {self.stop.asked} at step {self.state.step} of {self.stage.steps}; the same command with "
                "resume=true goes on"
            )

    # --- losses -------------------------------------------------------------------------------------------------------

    def read_losses(self) -> tuple[int, dict[str, float]] | None:
        """Bring the losses since the last reading to the host, where the next log line takes them from.

        Here alone the loop waits for the device. Returns the first step (from 0) whose losses are not finite, and them.
        """
        names = list(dict.fromkeys(name for losses in self.unread_losses for name in losses))
        zero = torch.zeros((), device=self.parts.device)
        rows = [torch.stack([losses.get(name, zero).float() for name in names]) for losses in self.unread_losses]
        first, self.unread_losses = self.state.step - len(rows), []
        for step, values in enumerate(torch.stack(rows).tolist(), first):
            losses = dict(zip(names, values, strict=True))
            if not all(map(math.isfinite, values)):
                return step, losses
            self.state.unlogged_losses.append(losses)
        return None

    def leave_out(self, step: int, losses: Mapping[str, float]) -> None:
        """Go back to before a step whose losses are not finite, and then stand behind it as if it had never been.

        Raises UserError, with the run as it was before that step, unless train.on_nan=skip allows to leave it out.
        """
        parts, stage = self.parts, self.stage
        self.state, self.loader = rewind(parts, stage, self.snapshot, self.current_state(), step)
        names = report_broken_step(parts, stage, self.state, self.loader, losses)
        self.outputs.write_skipped_step(stage.offset + step + 1, stage.stage.name, names)
        skip_images(parts, self.loader)
        self.state.skipped_steps = [*self.state.skipped_steps, step]
        self.state.step += 1

    # --- log ----------------------------------------------------------------------------------------------------------

    def log_step(self) -> None:
        """Report the means of the losses since the last log step, and the pseudo-labels of this one."""
        self.count_time("train")
        state, stage = self.state, self.stage
        steps_per_second = (state.step - self.first_step) / max(state.seconds["train"] - self.first_seconds, 1e-9)
        later_stages = max(0, stage.stage.stages - stage.index - 1)
        steps_left = stage.steps - state.step + later_stages * stage.steps
        evaluations_left = self.evaluations_left(state.step) + later_stages * self.evaluations_left(1)
        logged = LoggedStep(
            step=state.step,
            steps=stage.steps,
            losses=mean_losses(state.unlogged_losses),
            rate=stage.engine.optimizer.param_groups[0]["lr"],
            pseudo_labels=stage.stats.read(),
            steps_per_second=steps_per_second,
            seconds_left=steps_left / max(steps_per_second, 1e-9) + evaluations_left * self.evaluation_seconds,
            stage=stage.label(),
        )
        state.unlogged_losses = []
        if logged.pseudo_labels:
            state.pseudo_labels = logged.pseudo_labels
            self.warn_of_collapse(logged.pseudo_labels)
        self.outputs.write_step(logged, self.global_step(), stage.stage.name)

    def evaluations_left(self, step: int) -> int:
        """How many evaluations of the stage are still to come at a step, the one of this step included."""
        interval = self.stage.intervals.evaluate
        done = (step - 1) // interval
        return (self.stage.steps - 1) // interval + 1 - done if len(self.parts.dataset.val) else 0

    def warn_of_collapse(self, figures: PseudoLabelFigures) -> None:
        """Warn, once for as long as it lasts, that pseudo-labels look collapsed or unused.

        In the first tenth of a run and in its first steps they may look so, because the head is untrained.
        """
        warning = self.stage.stats.warning(figures, tuple(self.parts.dataset.class_names))
        if warning and not self.warned and self.state.step > max(SHORT_RUN_STEPS // 2, 0.1 * self.stage.steps):
            log.warning(f"step {self.state.step}: {warning}")
            self.warned = True
        self.warned = self.warned and warning is not None

    # --- evaluate -----------------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Score the networks on the validation images, tell the methods, keep the best checkpoint, save.

        Raises Interrupted at the next image where a stop was asked for: the checkpoint before the evaluation says that
        it is still due.
        """
        self.count_time("train")
        state, stage, parts, step = self.state, self.stage, self.parts, self.global_step()
        if self.evaluation_seconds > SLOW_EVALUATION:
            log.info(f"evaluating {count(len(parts.dataset.val), 'image')}, about {duration(self.evaluation_seconds)}")
        began, show = time.perf_counter(), self.outputs.evaluation_progress()

        def after_image(done: int, images: int) -> None:
            show(done, images)
            self.stop_if_asked()

        is_last = state.step >= stage.steps  # calibration is for the card of the finished run, and costs time
        figures = parts.evaluator(stage.networks(), parts.dataset.val, after_image, calibration=is_last)
        self.evaluation_seconds = time.perf_counter() - began
        result = figures[stage.result_name()]
        state.val = {"step": step, "network": stage.result_name(), **result, **figures}
        self.outputs.write_evaluation(figures, state.val, state.step, stage.stage.name)
        progress = stage.progress(state.step)
        parts.hooks.call("after_eval", metrics=state.val, students=stage.engine.students, progress=progress)
        if stage.snapshots:
            parts.hooks.checked = False
            stage.snapshots.write(parts.folder.pseudo_labels, step, progress)
            self.outputs.write_pseudo_label(parts.folder, step)
        self.count_time("evaluate")
        state.evaluations += 1
        state.evaluation_due = False
        if not state.best or result["miou"] > state.best["miou"]:
            state.best = state.val
            self.checkpointer.save_for_prediction(parts.folder.best, self.current_state())
        self.save()
        if self.outputs.on_eval:
            self.outputs.on_eval(step, result["miou"])

    # --- save ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint to resume from, and metrics.json. Raises UserError when the disk refuses."""
        self.count_time("train")
        self.checkpointer.save(self.parts.folder.last, self.current_state())
        self.saved_step = self.state.step
        self.saved_at = time.monotonic()
        self.write_metrics("running")

    def save_last_whole_step(self) -> None:
        """Save after an error: the step that is done or, where the error fell into a step, that of the last copy in
        memory. Where the disk refuses too, a warning says so."""
        reached = self.state.step
        finite = all(bool(torch.isfinite(loss)) for losses in self.unread_losses for loss in losses.values())
        if not (self.is_whole and finite):
            seconds = self.state.seconds
            self.state = self.checkpointer.restore_snapshot(self.snapshot)
            self.state.seconds = seconds  # spent all the same
        if self.state.step <= self.saved_step:
            return
        try:
            self.checkpointer.save(self.parts.folder.last, self.current_state())
            which = "" if self.state.step == reached else f", the last of {reached} that is whole"
            log.info(f"saved step {self.state.step}{which}")
        except UserError as error:
            log.warning(str(error))

    def write_metrics(self, status: str) -> None:
        """Write metrics.json. Raises UserError when the disk refuses."""
        write_json(self.parts.folder.metrics, self.metrics(status))

    def metrics(self, status: str) -> Metrics:
        """The metrics of the run so far, see `run_metrics`."""
        return run_metrics(self.parts, self.stage, self.current_state(), status)

    # --- counters -----------------------------------------------------------------------------------------------------

    def global_step(self) -> int:
        """The steps that the run has done, earlier stages included."""
        return self.stage.offset + self.state.step

    def count_time(self, activity: str) -> None:
        """Count the time since the last call as spent on an activity: train or evaluate."""
        now = time.perf_counter()
        self.state.seconds[activity] += now - self.lap_began
        self.lap_began = now

    def current_state(self) -> TrainerState:
        """The counters, with the time that the loop has waited for images until now."""
        seconds = self.state.seconds
        return replace(self.state, seconds={**seconds, "wait": seconds["wait"] + self.loader.waited})


def mean_losses(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each loss over the steps; a step without a loss counts as 0."""
    names = list(dict.fromkeys(name for losses in steps for name in losses))
    return {name: math.fsum(losses.get(name, 0.0) for losses in steps) / len(steps) for name in names}
