"""Reports a run's progress to console and run.log, history.jsonl, the loggers and the caller."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.record_files import FORMAT, Metrics, tracked_run_ids
from ssss_zoo.text import duration
from ssss_zoo.train.console import LoggedStep, RunConsole
from ssss_zoo.train.history import History, open_history
from ssss_zoo.train.resume import ResumePoint
from ssss_zoo.train.run_folder import RunFolder
from ssss_zoo.train.setup import RunParts
from ssss_zoo.train.tracked_run import per_class_iou_table, result_note, run_summary, tracked_run
from ssss_zoo.train.tracking import Tracker, start_tracker

SLOW_EVALUATION = 10  # seconds: a longer evaluation says so, and how far it is (our choice)
TRACKED_FIGURES = ("used", "weight", "confidence", "accuracy")  # of pseudo-labels; those of each class are left out
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True, eq=False)
class RunOutputs:
    """The outputs that a run reports to. They count steps from the beginning of the run, earlier stages included; only
    the console counts within the stage. note: what the loggers are told of the run, in Markdown, when it starts.
    on_eval: called with step and mIoU after each evaluation."""

    console: RunConsole
    history: History
    tracker: Tracker
    note: str = ""
    on_eval: Callable[[int, float], None] | None = None

    def write_step(self, logged: LoggedStep, global_step: int, stage: str) -> None:
        """Report a log step. stage: its name."""
        losses = dict(logged.losses)
        line: dict[str, Any] = {"step": global_step, "stage": stage, "losses": losses, "lr": logged.rate}
        tracked = {f"loss/{name}": loss for name, loss in losses.items()}
        tracked |= {"lr": logged.rate, "steps_per_s": logged.steps_per_second}
        if logged.pseudo_labels:
            figures: Mapping[str, Any] = logged.pseudo_labels
            line["pseudo_labels"] = figures
            tracked |= {f"pseudo/{key}": figures[key] for key in TRACKED_FIGURES if key in figures}
        self.history.write(line)
        self.tracker.log(tracked, global_step)
        self.console.report(logged)

    def write_skipped_step(self, global_step: int, stage: str, losses: str) -> None:
        """Report a step that was left out. losses: the names of those that were not finite."""
        self.history.write({"step": global_step, "stage": stage, "skipped": losses})

    def write_evaluation(self, figures: Mapping[str, Any], val: Mapping[str, Any], step: int, stage: str) -> None:
        """Report an evaluation. figures: of each network. val: as in metrics.json. step: of the stage."""
        mious = {name: network["miou"] for name, network in figures.items()}
        log.info(f"step {step}: mIoU {', '.join(f'{name} {100 * miou:.2f}' for name, miou in mious.items())}")
        tracked = {"val/miou": val["miou"], **{f"val/{name}/miou": miou for name, miou in mious.items()}}
        tracked |= {f"val/iou/{name}": iou for name, iou in val["iou"].items() if iou is not None}
        self.tracker.log(tracked, val["step"])
        self.history.write({"step": val["step"], "stage": stage, "val": val})

    def write_pseudo_label(self, folder: RunFolder, global_step: int) -> None:
        """Hand the picture of a pseudo-label to the loggers."""
        self.tracker.log_picture("pseudo_labels", folder.pseudo_labels / f"{global_step}.png", global_step)

    def write_results(self, folder: RunFolder, metrics: Metrics, *, model: bool) -> None:
        """Hand the results of a finished run to the loggers, and end it there. metrics: the final metrics.json, which
        is not written yet. model: whether to log the best network."""
        step = metrics["step"]
        self.tracker.log_summary(run_summary(metrics))
        self.tracker.log_note(result_note(metrics) + self.note)
        self.tracker.log_picture("predictions", folder.predictions, step)
        if metrics["val"]:
            self.tracker.log_table("per_class_iou", per_class_iou_table(metrics), step)
        if model:
            self.tracker.log_model(folder.path)
        self.tracker.finish("FINISHED", folder.artifacts(), {"metrics.json": json.dumps(metrics, indent=1)})

    def evaluation_progress(self) -> Callable[[int, int], None]:
        """A function that shows an evaluation's progress. Call it after each image; the evaluation begins now."""
        began = logged = time.perf_counter()

        def after_image(done: int, images: int) -> None:
            nonlocal logged
            now = time.perf_counter()
            self.console.note(f"evaluating {done}/{images}")
            if now - logged > SLOW_EVALUATION and done < images:
                log.info(
                    f"evaluated {done} of {images} images, {duration((now - began) / done * (images - done))} left"
                )
                logged = now

        return after_image


def open_outputs(
    parts: RunParts,
    resume: ResumePoint | None,
    console: RunConsole,
    on_eval: Callable[[int, float], None] | None,
) -> RunOutputs:
    """Take the folder for this run: remove an overwritten run, write config.yaml, open run.log, history and tracker.

    Raises UserError when the disk refuses.
    """
    config, folder = parts.config, parts.folder
    if config.overwrite:
        folder.clear()
    folder.clear_leftovers()
    text = as_yaml(replace(config, resume=False, overwrite=False))
    write_text(folder.config, f"format: {FORMAT}\n{text}")
    console.log_to(folder.log)
    step = resume.record["global_step"] if resume else 0
    due = resume.record.get("evaluation_due", False) if resume else False
    history = open_history(folder.history, folder.damaged_history, step, evaluation_due=due)
    run_ids = tracked_run_ids(resume.record) if resume else {}
    tracked = tracked_run(parts, first_step=step + 1 if resume else 0)
    return RunOutputs(console, history, start_tracker(tracked, run_ids), tracked.note, on_eval)
