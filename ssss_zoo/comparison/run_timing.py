"""How far the runs of a comparison are, read from their logs, and the seconds that are left for all of them.

All times are in seconds of `time.monotonic`.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

LOGGED_STEP = re.compile(rb"(?: stage (\d+)/(\d+) )? step (\d+)/(\d+)  ")  # as `RunConsole.report` writes it
TAIL_BYTES = 16384  # of a log, which hold its newest lines


@dataclass(frozen=True)
class SeenStep:
    """A logged step of a run, and its steps in all; a stage that does not say its place counts as the whole run. seen:
    when it was read in the log, soon after the step."""

    step: int
    steps: int
    seen: float


@dataclass(frozen=True)
class RunTiming:
    """The times of a run that was started. row: its name. log_start: the bytes that its log had before. is_whole: False
    for a run that continues an earlier attempt, and so takes less than a whole run. first, last: of the logged steps of
    its stage. ended: None while it is at work, and for a run that failed or was stopped."""

    row: str
    began: float
    log_start: int
    is_whole: bool
    first: SeenStep | None = None
    last: SeenStep | None = None
    ended: float | None = None

    def with_step(self, seen: SeenStep | None) -> RunTiming:
        """The timing after a look at the log. A step below the last one begins a new stage."""
        if seen is None or (self.last and (seen.step, seen.steps) == (self.last.step, self.last.steps)):
            return self
        goes_on = self.first and self.last and self.last.steps == seen.steps and self.last.step < seen.step
        return replace(self, first=self.first if goes_on else seen, last=seen)

    def expected_seconds(self, scoring_seconds: float) -> float | None:
        """The seconds that the run takes in all, by the speed of its steps; None before two steps are logged.
        scoring_seconds: what follows its last logged step."""
        if self.first is None or self.last is None or self.first is self.last:
            return None
        step_seconds = (self.last.seen - self.first.seen) / (self.last.step - self.first.step)
        steps_left = self.last.steps - self.last.step
        return self.last.seen - self.began + steps_left * step_seconds + scoring_seconds


def file_size(file: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return file.stat().st_size if file.is_file() else 0


def newest_logged_step(log: Path, start: int, now: float) -> SeenStep | None:
    """The last logged step in a run.log, from the byte `start` on; None before there is one."""
    if file_size(log) <= start:
        return None
    with log.open("rb") as file:
        file.seek(max(start, file_size(log) - TAIL_BYTES))
        found = LOGGED_STEP.findall(file.read())
    if not found:
        return None
    stage, stages, step, steps = (int(number or 1) for number in found[-1])
    return SeenStep((stage - 1) * steps + step, stages * steps, now)  # stages are about equally long


def seconds_left(
    timings: Sequence[RunTiming], waiting: Iterable[str], earlier: Mapping[str, float], now: float, jobs: int
) -> float | None:
    """The seconds until all runs have ended; None before there is a basis for the estimate.

    timings: of the runs that are at work and of those that came to their end. waiting: the row of each run that has not
    begun. earlier: by row, the seconds of a run of an earlier command. jobs: runs at a time.
    """
    scoring = scoring_seconds(timings)
    by_row = seconds_by_row(timings, earlier, scoring)
    if not by_row:
        return None
    other = mean(by_row.values())  # for a row that no run has been timed of
    left = []
    for timing in (timing for timing in timings if timing.ended is None):
        spent = now - timing.began
        expected = timing.expected_seconds(scoring) or by_row.get(timing.row)
        if expected is None and spent > other:  # it takes longer than the other rows, and nobody knows how long
            return None
        left.append(max(0.0, (expected or other) - spent))

    # Each waiting run takes the place of the run that ends first.
    places = [*left, *[0.0] * (max(1, jobs) - len(left))]
    heapq.heapify(places)
    for row in waiting:
        heapq.heapreplace(places, places[0] + by_row.get(row, other))
    return max(places)


def seconds_by_row(
    timings: Iterable[RunTiming], earlier: Mapping[str, float], scoring_seconds: float
) -> dict[str, float]:
    """The seconds of a whole run of each row: the mean of those that ended or, where none has, what one at work is
    expected to take or, where none is, what a run of an earlier command took."""
    ended = defaultdict[str, list[float]](list)
    expected = dict[str, float]()
    for timing in timings:
        if not timing.is_whole:
            continue
        if timing.ended is not None:
            ended[timing.row].append(timing.ended - timing.began)
        else:
            seconds = timing.expected_seconds(scoring_seconds)
            expected |= {} if seconds is None else {timing.row: seconds}
    return {**earlier, **expected, **{row: mean(seconds) for row, seconds in ended.items()}}


def scoring_seconds(timings: Iterable[RunTiming]) -> float:
    """The mean seconds from the last logged step of a run to its end; 0 before a run has ended."""
    seconds = [timing.ended - timing.last.seen for timing in timings if timing.ended is not None and timing.last]
    return mean(seconds) if seconds else 0.0
