"""What a person sees while a comparison works: runs done, time left, the step of each run at work."""

from __future__ import annotations

import io
import logging
import shutil

import pytest
from rich.console import Console

from helpers.clocks import Clock
from helpers.comparisons import NEWEST_COMPARISON
from helpers.screens import screen_on
from ssss_zoo.comparison import study_display
from ssss_zoo.comparison.plan import PlannedRun, plan_study
from ssss_zoo.comparison.run_state import DONE, FAILED, RunState
from ssss_zoo.comparison.run_timing import RunTiming, SeenStep, newest_logged_step, seconds_left
from ssss_zoo.comparison.study_display import StudyDisplay
from ssss_zoo.progress_display import TerminalScreen
from ssss_zoo.train.console import LoggedStep, RunConsole


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(study_display, "time", clock)
    monkeypatch.setattr("ssss_zoo.progress_display.time", clock)
    return clock


@pytest.fixture
def runs(tmp_path) -> list[PlannedRun]:
    """Two methods with two seeds each, in the order in which they run."""
    return plan_study(["methods=supervised,fixmatch", "seeds=0,1", f"output={tmp_path / 'cmp'}"]).runs()


def log_step(run: PlannedRun, step: int, steps: int = 60, stage: str = "") -> None:
    """Append a logged step to the run's log, as the run itself does."""
    run.folder.path.mkdir(parents=True, exist_ok=True)
    with RunConsole(TerminalScreen(Console(file=io.StringIO()), is_live=False)) as console:
        console.log_to(run.folder.log)
        console.report(LoggedStep(step, steps, {"total": 0.5}, 0.1, None, 2.0, seconds_left=2.5, stage=stage))
        logging.getLogger("ssss_zoo").info(f"step {step}: mIoU student 18.07")


def display_on(sink: io.StringIO, *, is_live: bool, width: int = 80) -> StudyDisplay:
    return StudyDisplay(output=screen_on(sink, is_live=is_live, width=width))


def test_a_log_gets_a_line_as_each_run_begins_and_ends_and_one_a_minute(clock, runs):
    sink = io.StringIO()
    display = display_on(sink, is_live=False)
    display.begin_study(runs, runs)
    for run in runs[:2]:
        display.begin(run)
    log_step(runs[0], 6)
    clock.now += 61
    display.refresh()
    clock.now += 30
    log_step(runs[0], 12)
    display.refresh()  # no second line within the minute
    clock.now += 9
    display.end(runs[0], RunState(DONE), "mIoU 18.07")
    display.end(runs[1], RunState(FAILED, "out of memory"), "out of memory")
    assert sink.getvalue().splitlines() == [
        "supervised, seed 0: begins",
        "fixmatch, seed 0: begins",
        "0 of 4 done; supervised, seed 0: step 6/60; fixmatch, seed 0: starting, 1 min 01 s",
        "supervised, seed 0: mIoU 18.07 after 1 min 40 s (1 of 4 done, about 1 min 40 s left)",
        "fixmatch, seed 0 failed after 1 min 40 s: out of memory (1 of 4 done, 1 failed, about 1 min 40 s left)",
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_terminal_shows_runs_done_a_bar_the_time_left_and_each_run_at_work(clock, runs, width):
    shutil.copytree(NEWEST_COMPARISON / "runs/supervised/seed0", runs[0].folder.path)  # of an earlier command
    sink = io.StringIO()
    display = display_on(sink, is_live=True, width=width)
    log_step(runs[1], 50)  # of an attempt that was stopped
    display.begin_study(runs, runs[1:])
    display.begin(runs[1])
    display.begin(runs[2])
    assert display.steps(clock.now + 9) == ["fixmatch, seed 0: starting, 9 s", "supervised, seed 1: starting, 9 s"]
    for step in (54, 60):
        clock.now += 30
        log_step(runs[1], step)
        log_step(runs[2], step - 30)
        display.refresh()
    shown = Console(file=io.StringIO(), width=width)
    shown.print(display.output.live.renderable)
    progress, first, second = shown.file.getvalue().splitlines()
    assert progress.startswith("runs done 1/4 ━━━━━━━━━━")
    assert " 3 min 30 s left" in progress  # the last run follows the first, and takes as long as the other row
    assert [first, second] == ["  fixmatch, seed 0: step 60/60, evaluating", "  supervised, seed 1: step 30/60"]
    assert all(len(line) <= width for line in (progress, first, second))
    display.end(runs[1], RunState(DONE), "mIoU 18.07")
    with display:
        pass
    assert "fixmatch, seed 0: mIoU 18.07 after 1 min 00 s\n" in sink.getvalue()
    assert display.output.live is None


def timing(row: str, began: float = 0.0, **more) -> RunTiming:
    return RunTiming(row, began, log_start=0, is_whole=True, **more)


def test_the_time_left_needs_a_basis_and_fills_the_places_in_order():
    first, last = SeenStep(10, 100, seen=20.0), SeenStep(20, 100, seen=30.0)
    at_work = timing("a", first=first, last=last)  # 1 s a step, 110 s in all
    assert seconds_left([], ["a"], {}, now=0.0, jobs=1) is None
    assert seconds_left([timing("a", first=first, last=first)], [], {}, now=20.0, jobs=1) is None
    assert seconds_left([at_work], [], {}, now=40.0, jobs=1) == 70.0
    assert seconds_left([at_work], ["a", "b"], {"b": 5.0}, now=40.0, jobs=1) == 70.0 + 110.0 + 5.0
    assert seconds_left([at_work], ["a", "b"], {"b": 5.0}, now=40.0, jobs=2) == 110.0
    assert seconds_left([at_work], ["new"], {}, now=40.0, jobs=1) == 70.0 + 110.0  # as the rows that are known


def test_runs_that_ended_count_most_and_tell_how_long_scoring_takes():
    last = SeenStep(100, 100, seen=110.0)
    ended = timing("a", last=last, ended=125.0)
    other = timing("b", began=130.0, first=SeenStep(10, 100, 140.0), last=SeenStep(20, 100, 150.0))
    assert seconds_left([ended], ["a"], {"a": 1000.0}, now=200.0, jobs=1) == 125.0
    assert seconds_left([other], [], {}, now=150.0, jobs=1) == 80.0
    assert seconds_left([ended, other], [], {}, now=150.0, jobs=1) == 80.0 + 15.0


def test_a_run_that_takes_longer_than_every_other_row_leaves_the_time_open():
    known = {"a": 30.0}
    assert seconds_left([timing("b")], [], known, now=10.0, jobs=1) == 20.0
    assert seconds_left([timing("b")], [], known, now=31.0, jobs=1) is None
    assert seconds_left([timing("a")], [], known, now=31.0, jobs=1) == 0.0


def test_a_continued_run_is_no_measure_of_a_whole_one_and_a_new_stage_begins_anew():
    continued = RunTiming("a", 0.0, log_start=500, is_whole=False, ended=3.0)
    assert seconds_left([continued], ["a"], {}, now=3.0, jobs=1) is None
    staged = timing("a").with_step(SeenStep(10, 60, 1.0)).with_step(SeenStep(60, 60, 51.0))
    assert staged.with_step(SeenStep(60, 60, 52.0)) is staged
    staged = staged.with_step(SeenStep(10, 60, 90.0))
    assert staged.first == staged.last == SeenStep(10, 60, 90.0)


def test_a_run_of_several_stages_counts_the_steps_of_all(clock, runs):
    display = display_on(io.StringIO(), is_live=True)
    display.begin_study(runs[:1], runs[:1])
    display.begin(runs[0])
    for step, stage in ((30, 1), (60, 1), (30, 2)):
        clock.now += 30
        log_step(runs[0], step, stage=f"stage {stage}/3")
        display.refresh()
    assert display.steps(clock.now) == ["supervised, seed 0: step 90/180"]
    assert display.left(clock.now) == 90


def test_runs_that_shared_the_machine_otherwise_do_not_tell_how_long_another_takes(clock, runs):
    shutil.copytree(NEWEST_COMPARISON / "runs/supervised/seed0", runs[0].folder.path)
    for jobs, equal in ((None, True), (2, True), (2, False)):
        display = display_on(io.StringIO(), is_live=True)
        display.begin_study(runs[:3], runs[1:3], jobs, earlier_tell=equal)
        assert (display.left(clock.now) is not None) == equal
    one, two = (display_on(io.StringIO(), is_live=True) for _ in range(2))
    one.begin_study(runs[:3], runs[1:3])
    two.begin_study(runs[:3], runs[1:3], 2)
    assert one.left(clock.now) == 2 * two.left(clock.now)


def test_a_run_of_a_cluster_begins_when_its_log_grows(clock, runs):
    sink = io.StringIO()
    display = display_on(sink, is_live=False)
    log_step(runs[1], 30)
    display.begin_study(runs, runs)
    display.refresh()
    assert sink.getvalue() == ""
    log_step(runs[1], 36)
    clock.now += 2
    display.refresh()
    assert sink.getvalue() == "fixmatch, seed 0: begins\n"
    assert newest_logged_step(runs[1].folder.log, 0, now=1.0) == SeenStep(36, 60, 1.0)
    display.end(runs[2], RunState(DONE), "mIoU 18.07")  # between two looks
    assert sink.getvalue().endswith("supervised, seed 1: mIoU 18.07 (1 of 4 done)\n")
