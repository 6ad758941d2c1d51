"""What a person sees of a run."""

from __future__ import annotations

import logging

import pytest
from rich.console import Console

from ssss_zoo.comparison.search import SearchResult, SearchTrial
from ssss_zoo.text import visible
from ssss_zoo.train.console import LoggedStep, RunConsole, duration, iou_table


def logged(pseudo_labels=None, **losses) -> LoggedStep:
    return LoggedStep(5, 10, losses, 0.1, pseudo_labels, steps_per_second=2.0, seconds_left=2.5)


@pytest.mark.parametrize(
    ("pseudo_labels", "expected"),
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
def test_a_log_step_names_losses_pixels_and_their_mean_weight(pseudo_labels, expected, caplog):
    caplog.set_level(logging.INFO, logger="ssss_zoo")
    RunConsole().report(logged(pseudo_labels, consistency=0.25))
    assert expected in caplog.text


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3661, "1 h 01 min")]
)
def test_durations(seconds, expected):
    assert duration(seconds) == expected


NAMES = ["[/b]", "[red]x", "sky [blue]", "[link=http://h]", ":smile:", "a\x1b[31mb", "a\u202eb", "\\[b]", "[/red]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_tables_and_lines(name, capsys, caplog, tmp_path):
    figures = {"student": {"iou": {name: 0.5, "b": None}, "miou": 0.5}}
    console = Console(width=200)
    console.print(iou_table(f"runs/{name}", figures))
    found = SearchResult([SearchTrial([f"method={name}"], 0.5)], SearchTrial([f"method={name}"], 0.5), "ssss run")
    console.print(found.table())
    with RunConsole() as run_console:
        run_console.log_to(tmp_path / "run.log")
        logging.getLogger("ssss_zoo").warning(f"no pixel of {name}\nand more")
        run_console.report(logged(**{name: 0.5}))
    shown = capsys.readouterr()
    shown = shown.out + shown.err
    assert shown.count(visible(name)) >= 6
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_a_progress_bar_shows_losses_of_any_name(capsys):
    run_console = RunConsole()
    run_console.console = Console(force_terminal=True, width=200)
    run_console.begin(10, 0)
    run_console.report(logged(**{"[/b]": 0.5}))
    run_console.stop()
    assert "[/b] 0.5000" in capsys.readouterr().out
