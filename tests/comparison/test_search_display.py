"""What a person sees while a search works: trials done, time left, the best so far, and the trial at work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from helpers.clocks import Clock
from helpers.screens import screen_on
from ssss_zoo.comparison import search_display
from ssss_zoo.comparison.search_display import BestTrial, SearchDisplay, TrialScreen
from ssss_zoo.train.console import LoggedStep, RunConsole


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(search_display, "time", clock)
    monkeypatch.setattr("ssss_zoo.progress_display.time", clock)
    monkeypatch.setattr("ssss_zoo.train.console.time", clock)
    return clock


def display_on(sink: io.StringIO, *, is_live: bool, width: int = 80) -> SearchDisplay:
    return SearchDisplay(output=screen_on(sink, is_live=is_live, width=width))


def test_a_log_gets_one_line_a_trial(clock):
    sink = io.StringIO()
    display = display_on(sink, is_live=False)
    display.begin_search(4, 0, None, [])
    display.begin("trial 0", "method=fixmatch")
    with RunConsole(TrialScreen(display)) as console:
        console.begin(60, 0)
        console.report(LoggedStep(30, 60, {"total": 0.5}, 0.1, None, steps_per_second=2.0, seconds_left=15))
    clock.now += 20
    display.end("mIoU 18.07", scored=BestTrial(0.1807, "method=fixmatch"))
    display.begin("trial 1", "method=cps")
    clock.now += 40
    display.end("out of memory", failed=True)
    display.begin("trial 2", "method=fixmatch")
    display.end("as trial 0")
    display.begin("trial 3", "method=supervised")
    clock.now += 20
    display.end("mIoU 12.00", scored=BestTrial(0.12, "method=supervised"))
    assert sink.getvalue().splitlines() == [
        "trial 0: mIoU 18.07 after 20 s, method=fixmatch (1 of 4 done, best 18.07, about 1 min 00 s left)",
        "trial 1 failed after 40 s, method=cps: out of memory (2 of 4 done, 1 failed, best 18.07, about 40 s left)",
        "trial 2: as trial 0, method=fixmatch (3 of 4 done, 1 failed, best 18.07, about 10 s left)",
        "trial 3: mIoU 12.00 after 20 s, method=supervised (4 of 4 done, 1 failed, best 18.07)",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_shows_the_best_trial_and_the_step_of_the_one_at_work(clock, width):
    sink = io.StringIO()
    display = display_on(sink, is_live=True, width=width)
    display.begin_search(5, 1, BestTrial(0.25, "method=fixmatch"), [100.0])
    display.begin("trial 1", "method=supervised")
    console = RunConsole(TrialScreen(display))
    console.begin(60, 0)
    clock.now += 20
    console.report(LoggedStep(12, 60, {"total": 0.5}, 0.1, None, steps_per_second=2.0, seconds_left=40))
    assert shown_lines(display, width)[1:] == [
        "  best so far: mIoU 25.00 with method=fixmatch",
        "  trial 1: step 12/60, method=supervised",
    ]
    progress = shown_lines(display, width)[0]
    assert progress.startswith("trials done 1/5 ━━━━━━━━━━")
    assert " 5 min 40 s left" in progress  # 40 s of this trial, 100 s of each of three others
    assert len(progress) <= width
    console.note("evaluating 3/92")
    assert shown_lines(display, width)[2] == "  trial 1: step 12/60, evaluating 3/92, method=supervised"
    display.end("mIoU 30.00", scored=BestTrial(0.3, "method=supervised"))
    assert "trial 1: mIoU 30.00 after 20 s, method=supervised\n" in sink.getvalue()
    assert shown_lines(display, width)[1:] == ["  best so far: mIoU 30.00 with method=supervised"]
    with display:
        pass
    assert display.output.live is None


def shown_lines(display: SearchDisplay, width: int) -> list[str]:
    shown = Console(file=io.StringIO(), width=width)
    shown.print(display.output.live.renderable)
    return shown.file.getvalue().splitlines()


def test_the_time_left_needs_a_basis(clock):
    display = display_on(io.StringIO(), is_live=True)
    display.begin_search(3, 0, None, [])
    assert display.left(clock.now) is None
    display.begin("trial 0")
    assert display.left(clock.now) is None
    clock.now += 10
    console = RunConsole(TrialScreen(display))
    console.begin(60, 0)
    console.report(LoggedStep(10, 60, {"total": 0.5}, 0.1, None, steps_per_second=2.0, seconds_left=50))
    assert display.left(clock.now) == 50 + 2 * 60
    display.end("mIoU 30.00", whole=False)  # it went on from an earlier command, and is no measure of a whole trial
    assert display.left(clock.now) is None
