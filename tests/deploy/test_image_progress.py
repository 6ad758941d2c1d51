"""What a person sees while images are predicted."""

from __future__ import annotations

import io

import pytest

from helpers.clocks import Clock
from helpers.screens import screen_on
from ssss_zoo.deploy import image_progress
from ssss_zoo.deploy.image_progress import show_images
from ssss_zoo.train.console import RunConsole, log


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(image_progress, "time", clock)
    monkeypatch.setattr("ssss_zoo.progress_display.time", clock)
    return clock


def console_on(sink: io.StringIO, *, is_live: bool) -> RunConsole:
    return RunConsole(screen_on(sink, is_live=is_live, width=60))


def test_a_log_gets_a_line_a_minute(clock):
    sink = io.StringIO()
    with console_on(sink, is_live=False), show_images(1, "predict") as advance:
        for _ in range(10):
            clock.now += 31
            advance(0.1)
    assert sink.getvalue().splitlines() == [
        "predict: 20% of 1 image, 4 min 08 s left",
        "predict: 40% of 1 image, 3 min 06 s left",
        "predict: 60% of 1 image, 2 min 04 s left",
        "predict: 80% of 1 image, 1 min 02 s left",
        "predict: 100% of 1 image, 0 s left",
    ]


def test_a_short_command_says_nothing_in_a_log(clock):
    sink = io.StringIO()
    with console_on(sink, is_live=False), show_images(3, "predict") as advance:
        advance(3)
    assert sink.getvalue() == ""


def test_a_terminal_shows_the_images_done_and_warnings_above_them(clock):
    sink = io.StringIO()
    with console_on(sink, is_live=True), show_images(4, "predict") as advance:
        clock.now += 10
        advance(1)
        log.warning("b.png cannot be read")
        clock.now += 10
        advance(1.5)
    lines = sink.getvalue().replace("\r", "\n").splitlines()
    assert any("warning: b.png cannot be read" in line and "image" not in line for line in lines)
    last = [line for line in lines if "image 2/4" in line][-1]
    assert last.endswith("12 s left  predict")
