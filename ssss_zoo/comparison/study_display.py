"""Shows a comparison while it works: how many runs are done, the time left, and the step of each run at work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean

from ssss_zoo.comparison.display import Display
from ssss_zoo.comparison.plan import Notify, PlannedRun
from ssss_zoo.comparison.records import REMAKE
from ssss_zoo.comparison.run_state import DONE, FAILED, RunState
from ssss_zoo.comparison.run_timing import RunTiming, file_size, newest_logged_step, seconds_left
from ssss_zoo.progress_display import ProgressLine, Screen
from ssss_zoo.record_files import read_metrics
from ssss_zoo.text import duration, visible

LOOK_INTERVAL = 1.0  # seconds between looks at the logs of the runs (our choice)
LINE_INTERVAL = 60.0  # seconds between lines about the steps, where no progress line is live (our choice)


class StudyDisplay(Display):
    """The screen of a comparison.

    A launcher calls `begin` where it knows that a run begins, and `refresh` while it waits. A run of a cluster begins
    when its log grows.
    """

    def __init__(self, notify: Notify = lambda line: None, output: Screen | None = None) -> None:
        super().__init__(notify, output)
        self.runs = 0  # of the comparison, those of earlier commands included
        self.done = 0
        self.failed = 0
        self.jobs = 1  # the most runs that were at work at a time
        self.waiting = dict[PlannedRun, int]()  # runs that have not begun, and the bytes of their logs
        self.timings = dict[PlannedRun, RunTiming]()  # of the runs that are at work or done
        self.earlier_seconds: Mapping[str, float] = {}
        self.looked = 0.0
        self.line_printed = 0.0

    def begin_study(
        self,
        runs: Sequence[PlannedRun],
        missing: Sequence[PlannedRun],
        jobs: int | None = None,
        *,
        earlier_tell: bool = True,
    ) -> None:
        """Show the progress of a comparison. missing: the runs that are not done; jobs: how many may run at a time,
        where that is given; earlier_tell: whether the runs that are done took as long as others will."""
        self.jobs = jobs or 1
        self.runs = len(runs)
        self.done = len(runs) - len(missing)
        self.waiting = {run: file_size(run.folder.log) for run in missing}
        done = [run for run in runs if run not in self.waiting] if earlier_tell else []
        self.earlier_seconds = seconds_of_earlier_runs(done)
        self.line_printed = time.monotonic()
        self.show(time.monotonic())

    def begin(self, run: PlannedRun) -> None:
        """A run begins."""
        log_start = self.waiting.pop(run, file_size(run.folder.log))
        self.timings[run] = RunTiming(run.row.name, time.monotonic(), log_start, is_whole=log_start == 0)
        self.jobs = max(self.jobs, len(self.at_work()))
        if not self.output.is_live:
            self.print_line(f"{run.label}: begins")
        self.show(time.monotonic())

    def refresh(self) -> None:
        """Look at the logs of the runs and show their steps, where the last look is some time ago."""
        now = time.monotonic()
        if now - self.looked < LOOK_INTERVAL:
            return
        self.looked = now
        for run in [run for run, size in self.waiting.items() if file_size(run.folder.log) > size]:
            self.begin(run)
        for run, timing in self.at_work().items():
            self.timings[run] = timing.with_step(newest_logged_step(run.folder.log, timing.log_start, now))
        self.show(now)
        if not self.output.is_live and now - self.line_printed > LINE_INTERVAL:
            self.line_printed = now
            self.output.print_lines(["; ".join([self.summary(now), *self.steps(now)])])

    def end(self, run: PlannedRun, state: RunState, outcome: str) -> None:
        """A run ended. outcome: its figure, or why it has none."""
        now = time.monotonic()
        timing = self.timings.pop(run, None)
        self.waiting.pop(run, None)
        self.done += state.status == DONE
        self.failed += state.status == FAILED
        if timing and state.status == DONE:
            self.timings[run] = replace(timing, ended=now)
        took = f" after {duration(now - timing.began)}" if timing else ""
        summary = "" if self.output.is_live else f" ({self.summary(now)})"
        self.show(now)
        ended = f" failed{took}: {outcome}" if state.status == FAILED else f": {outcome}{took}"
        self.print_line(f"{run.label}{ended}{summary}")

    def stopping(self) -> None:
        """The comparison was asked to stop, and waits until the runs at work are saved."""
        if self.at_work():
            self.print_line("stopping: the runs at work are saved first")

    def note(self, text: str) -> None:
        """Show a text in place of the runs at work."""
        self.show_progress(ProgressLine(self.runs, self.done, (text,), unit="runs done"))

    # --- what is shown ------------------------------------------------------------------------------------------------

    def at_work(self) -> dict[PlannedRun, RunTiming]:
        return {run: timing for run, timing in self.timings.items() if timing.ended is None}

    def left(self, now: float) -> float | None:
        """The seconds until all runs have ended, where they can be estimated."""
        rows = [run.row.name for run in self.waiting]
        return seconds_left(list(self.timings.values()), rows, self.earlier_seconds, now, self.jobs)

    def summary(self, now: float) -> str:
        """How many runs are done, and the time left."""
        left = self.left(now)
        failed = [f"{self.failed} failed"] if self.failed else []
        ends = [] if left is None or not (self.waiting or self.at_work()) else [f"about {duration(left)} left"]
        return ", ".join([f"{self.done} of {self.runs} done", *failed, *ends])

    def steps(self, now: float) -> list[str]:
        """The step of each run at work."""
        return [visible(f"{run.label}: {run_activity(timing, now)}") for run, timing in self.at_work().items()]

    def show(self, now: float) -> None:
        """Show the progress line, where the screen has one."""
        left = self.left(now)
        at_work = self.at_work().values()
        begun = sum(timing.last.step / timing.last.steps for timing in at_work if timing.last)
        failed = (f"{self.failed} failed",) if self.failed else ()
        progress = ProgressLine(
            steps=self.runs,
            step=self.done,
            details=failed,
            ends=None if left is None else now + left,
            unit="runs done",
            begun=begun,
            lines=tuple(self.steps(now)),
        )
        self.show_progress(progress)

    def show_progress(self, progress: ProgressLine) -> None:
        if self.output.is_live:
            self.output.show(progress)


def run_activity(timing: RunTiming, now: float) -> str:
    """What a run does, by its last logged step."""
    seen = timing.last
    if seen is None:
        return f"starting, {duration(now - timing.began)}"
    return f"step {seen.step}/{seen.steps}{', evaluating' if seen.step == seen.steps else ''}"


def seconds_of_earlier_runs(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """By row, the mean seconds that its finished runs trained and were evaluated."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        figures = read_metrics(run.folder.metrics, REMAKE)["time"]
        seconds.setdefault(run.row.name, []).append(figures["train_seconds"] + figures["evaluate_seconds"])
    return {row: mean(values) for row, values in seconds.items()}
