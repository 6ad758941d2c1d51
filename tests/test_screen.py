"""What a person sees of a run."""

from __future__ import annotations

import logging

import pytest
from rich.console import Console

from ssss_zoo.comparison.search import SearchResult, SearchTrial
from ssss_zoo.text import visible
from ssss_zoo.train.console import Screen, duration, iou_table


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (None, "step 5/10  consistency 0.2500  2.00 steps/s  3 s left"),
        ({"used": 0.25, "weight": 0.25}, "step 5/10  consistency 0.2500  pixels used 25%  2.00 steps/s  3 s left"),
        ({"used": 1.0, "weight": 0.0015}, "pixels used 100%, weight 0.0015  2.00 steps/s"),
        ({"used": 0.5, "weight": 0.2}, "pixels used 50%, weight 0.4  2.00 steps/s"),
        ({"used": 0.002, "weight": 0.002}, "pixels used 0.20%  2.00 steps/s"),
        ({"used": 0.00001, "weight": 0.00001}, "pixels used below 0.01%  2.00 steps/s"),
        ({"used": 0.9999999, "weight": 0.9999999}, "pixels used 99.99%  2.00 steps/s"),
        ({"used": 0.0, "weight": 0.0}, "pixels used 0%, weight 0  2.00 steps/s"),
    ],
)
def test_a_log_step_names_losses_pixels_and_their_mean_weight(health, told, caplog):
    caplog.set_level(logging.INFO, logger="ssss_zoo")
    Screen().report(5, 10, {"consistency": 0.25}, health, 2.0, 2.5)
    assert told in caplog.text


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3661, "1 h 01 min")])
def test_durations(seconds, told):
    assert duration(seconds) == told


NAMES = ["[/b]", "[red]x", "sky [blue]", "[link=http://h]", ":smile:", "a\x1b[31mb", "a\u202eb", "\\[b]", "[/red]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_tables_and_lines(name, capsys, caplog, tmp_path):
    figures = {"student": {"iou": {name: 0.5, "b": None}, "miou": 0.5}}
    console = Console(width=200)
    console.print(iou_table(f"runs/{name}", figures))
    found = SearchResult([SearchTrial([f"method={name}"], 0.5)], SearchTrial([f"method={name}"], 0.5), "ssss run")
    console.print(found.table())
    with Screen() as screen:
        screen.keep(tmp_path / "run.log")
        logging.getLogger("ssss_zoo").warning(f"no pixel of {name}\nand more")
        screen.report(1, 2, {name: 0.5}, None, 1.0, 1.0)
    shown = capsys.readouterr()
    shown = shown.out + shown.err
    assert shown.count(visible(name)) >= 6
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_a_progress_bar_shows_losses_of_any_name(capsys):
    screen = Screen()
    screen.console = Console(force_terminal=True, width=200)
    screen.begin(10, 0)
    screen.report(1, 10, {"[/b]": 0.5}, None, 1.0, 9.0)
    screen.stop()
    assert "[/b] 0.5000" in capsys.readouterr().out
