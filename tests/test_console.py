"""What a person sees of a run."""

from __future__ import annotations

import io
import logging
import time

import pytest
from rich.console import Console

from ssss_zoo.comparison.search import SearchResult, SearchTrial
from ssss_zoo.progress_display import NotebookScreen, ProgressLine, TerminalScreen, find_screen
from ssss_zoo.text import duration, visible, wrap_command, wrap_words
from ssss_zoo.train.console import LoggedStep, RunConsole, iou_table


def logged(pseudo_labels=None, **losses) -> LoggedStep:
    return LoggedStep(5, 10, losses, 0.1, pseudo_labels, steps_per_second=2.0, seconds_left=2.5)


@pytest.mark.parametrize("propagated", [True, False])
def test_after_a_run_the_lines_go_where_they_went_before(propagated, monkeypatch):
    logger = logging.getLogger("ssss_zoo")
    monkeypatch.setattr(logger, "propagate", propagated)
    with RunConsole():
        assert not logger.propagate
    assert logger.propagate == propagated


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
    trials = [SearchTrial([f"method={name}", f"seed={seed}"], 0.5) for seed in (0, 1)]
    found = SearchResult(trials, trials[1], "ssss run")
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


def terminal(width: int, sink: io.StringIO | None = None) -> TerminalScreen:
    console = Console(file=sink or io.StringIO(), force_terminal=True, width=width, height=24, color_system=None)
    return TerminalScreen(console, is_live=True)


def test_a_progress_bar_shows_losses_of_any_name():
    sink = io.StringIO()
    run_console = RunConsole(terminal(200, sink))
    run_console.begin(10, 0)
    run_console.report(logged(**{"[/b]": 0.5}))
    run_console.stop()
    assert "[/b] 0.5000" in sink.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_count_bar_and_time_left_are_whole_at_every_width_and_figures_go_from_the_right(width):
    figures = ("supervised 0.9583", "consistency 0.0000", "contrast 0.2000", "total 0.9583", "pixels used 0%, weight 0")
    progress = ProgressLine(60000, 15321, figures, ends=time.monotonic() + 39960.4)
    sink = io.StringIO()
    terminal(width, sink).console.print(progress)
    line = sink.getvalue()
    assert line.startswith("step 15321/60000 ━━━━━━━━━━")
    assert " 11 h 06 min left" in line
    assert line.count("\n") == 1
    assert len(line.rstrip("\n")) <= width
    shown = [figure for figure in figures if figure in line]
    assert shown == list(figures[: len(shown)])
    assert len(shown) == {60: 0, 80: 1, 100: 3, 120: 4}[width]


def test_lines_are_wrapped_by_words_on_a_terminal_and_stay_whole_in_a_file():
    text = "4 labelled images, 12 unlabelled, and a name_that_no_line_of_this_width_could_ever_hold at the end"
    lines = wrap_words(text, 30).split("\n")
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == text
    assert [line for line in lines if len(line) > 30] == ["  name_that_no_line_of_this_width_could_ever_hold"]
    assert wrap_command("ssss run " + "a=1 " * 12, 30).count(" \\\n") == 2
    sink = io.StringIO()
    TerminalScreen(Console(file=sink, width=30), is_live=False).print_lines([text], style="yellow")
    assert sink.getvalue() == f"{text}\n"


def test_a_ci_job_with_a_terminal_and_a_dumb_terminal_get_plain_lines(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert find_screen().is_live
    monkeypatch.setenv("TERM", "dumb")
    assert not find_screen().is_live
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert not find_screen().is_live


def test_a_notebook_gets_one_output_that_is_replaced(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = list[dict[str, str]]()

    class Handle:
        def update(self, output, raw):
            shown.append(output)

    monkeypatch.setattr(display, "display", lambda output, **_: shown.append(output) or Handle())
    notebook = NotebookScreen()
    run_console = RunConsole(notebook)
    run_console.begin(10, 0)
    notebook.shown_at = 0.0
    run_console.report(logged(**{"<b>": 0.5}))
    assert "<progress value='5' max='10'></progress> 2 s left  &lt;b&gt; 0.5000" in shown[-1]["text/html"]
    with run_console:
        logging.getLogger("ssss_zoo").info("step 5: <mIoU>")
    assert shown[-1] == {
        "text/plain": "step 5: <mIoU>",
        "text/html": "<pre style='white-space: pre-wrap'>step 5: &lt;mIoU&gt;</pre>",
    }
