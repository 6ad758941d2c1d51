"""Shows a search while it works: how many trials are done, the time left, the trial at work, and the best so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from ssss_zoo.comparison.display import Display
from ssss_zoo.comparison.plan import Notify
from ssss_zoo.progress_display import ProgressLine, Screen
from ssss_zoo.text import duration, visible


class BestTrial(NamedTuple):
    """The best trial so far, or one that may be. miou: on the held-out images, in [0, 1]. settings: as text."""

    miou: float
    settings: str

    def __str__(self) -> str:
        return f"{100 * self.miou:.2f} with {self.settings}"


class SearchDisplay(Display):
    """The screen of a search."""

    def __init__(self, notify: Notify = lambda line: None, output: Screen | None = None) -> None:
        super().__init__(notify, output)
        self.trials = 0  # of the search, those of earlier commands included
        self.done = 0
        self.failed = 0
        self.best: BestTrial | None = None
        self.seconds = list[float]()  # of each trial that came to its end
        self.label = ""  # of the trial at work, "" between two
        self.settings = ""  # of that trial
        self.began = 0.0
        self.progress: ProgressLine | None = None  # of the run of this trial

    def begin_search(self, trials: int, done: int, best: BestTrial | None, seconds: Sequence[float]) -> None:
        """Show the progress of a search. done, best, seconds: of earlier commands."""
        self.trials, self.done, self.best, self.seconds = trials, done, best, list(seconds)
        self.show()

    def begin(self, label: str, settings: str = "") -> None:
        """A trial begins. settings: "" before they are chosen."""
        self.label = label
        self.settings = f", {settings}" if settings else ""
        self.began = time.monotonic()
        self.progress = None
        self.show()

    def show_run(self, progress: ProgressLine) -> None:
        """Show how far the run of the trial at work is."""
        self.progress = progress
        self.show()

    def end(self, outcome: str, *, scored: BestTrial | None = None, failed: bool = False, whole: bool = True) -> None:
        """The trial at work ended. outcome: its figure, or why it has none; scored: its mIoU; whole: False for a trial
        that went on from an earlier command."""
        seconds = time.monotonic() - self.began
        took = f" after {duration(seconds)}" if seconds >= 1 else ""
        line = f"{self.label}: {outcome}{took}{self.settings}"
        if failed:
            line = f"{self.label} failed{took}{self.settings}: {outcome}"
        self.done += 1
        self.failed += failed
        if scored and (self.best is None or scored.miou > self.best.miou):
            self.best = scored
        if whole and not failed:
            self.seconds.append(seconds)
        self.label, self.progress = "", None
        self.show()
        self.print_line(line if self.output.is_live else f"{line} ({', '.join(self.summary(time.monotonic()))})")

    # --- what is shown ------------------------------------------------------------------------------------------------

    def left(self, now: float) -> float | None:
        """The seconds until all trials have ended, where they can be estimated."""
        ends = self.progress.ends if self.progress else None
        if self.seconds:
            usual = mean(self.seconds)
        elif ends is not None:
            usual = ends - self.began
        else:
            return None
        waiting = self.trials - self.done
        if not self.label:
            return waiting * usual
        rest = self.began + usual - now if ends is None else ends - now
        return max(0.0, rest) + max(0, waiting - 1) * usual

    def summary(self, now: float) -> list[str]:
        """How many trials are done, the best figure, and the time left."""
        left = self.left(now)
        return [
            f"{self.done} of {self.trials} done",
            *([f"{self.failed} failed"] if self.failed else []),
            *([f"best {100 * self.best.miou:.2f}"] if self.best else []),
            *([f"about {duration(left)} left"] if left and self.done < self.trials else []),
        ]

    def lines(self) -> tuple[str, ...]:
        """The best trial, and the one at work with its step."""
        best = [f"best so far: mIoU {self.best}"] if self.best else []
        at_work = [f"{self.label}: {trial_activity(self.progress)}{self.settings}"] if self.label else []
        return tuple(map(visible, [*best, *at_work]))

    def show(self) -> None:
        """Show the progress line, where the screen has one."""
        if not self.output.is_live:
            return
        now = time.monotonic()
        left = self.left(now)
        run = self.progress
        progress = ProgressLine(
            steps=self.trials,
            step=self.done,
            details=(f"{self.failed} failed",) if self.failed else (),
            ends=None if left is None else now + left,
            unit="trials done",
            begun=run.step / max(1, run.steps) if run else 0.0,
            lines=self.lines(),
        )
        self.output.show(progress)


def trial_activity(progress: ProgressLine | None) -> str:
    """What the run of a trial does. A note, such as that it is evaluated, stands alone in the run's details."""
    if progress is None:
        return "starting"
    note = f", {progress.details[0]}" if len(progress.details) == 1 else ""
    return f"{progress.unit} {progress.step}/{progress.steps}{note}"


class TrialScreen(Screen):
    """The screen of a trial's run: its progress goes to the display of the search. Its lines stay in its run.log."""

    is_live = True

    def __init__(self, display: SearchDisplay) -> None:
        self.display = display

    def print_lines(self, lines: Sequence[str], style: str | None = None) -> None:
        """Nothing is printed."""

    def show(self, progress: ProgressLine) -> None:
        self.display.show_run(progress)
