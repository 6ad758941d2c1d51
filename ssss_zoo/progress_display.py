"""The screens on which a long command shows its lines and its progress: a terminal, plain text, or a notebook.

A terminal has a live line below the log lines. A log file and the output of a CI job get plain lines without control
codes. A notebook gets one output that is replaced as the command goes on; it needs no ipywidgets.
"""

from __future__ import annotations

import html
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from ssss_zoo.text import duration, wrap_words

BAR_WIDTHS = (10, 24)  # least and most characters (our choice)
LINES_MAX = 8  # below the progress line (our choice)
REFRESHES_PER_SECOND = 4  # of the live line (our choice)
NOTEBOOK_REFRESH = 0.5  # seconds between two refreshes (our choice)
NOTEBOOK_LINES_MAX = 500  # lines kept in a notebook (our choice)


@dataclass(frozen=True)
class ProgressLine:
    """How far a command is. unit: the noun of the steps. details: texts, of which the last ones are left out where the
    line has no room. ends: the expected end, in seconds of `time.monotonic`; None before it is known. begun: the share
    of the steps under way that is done, for the bar. lines: shown below, each cut where the screen ends."""

    steps: int
    step: int
    details: tuple[str, ...] = ("starting",)
    ends: float | None = None
    unit: str = "step"
    begun: float = 0.0
    lines: tuple[str, ...] = ()

    def parts(self, width: int) -> tuple[str, int, str, str]:
        """The count, the width of the bar, the time left, and the details that fit a line of `width` characters. The
        first three are never shortened."""
        done = f"{self.unit} {self.step}/{self.steps} "
        left = "" if self.ends is None else f" {duration(max(0.0, self.ends - time.monotonic()))} left"
        least, most = BAR_WIDTHS
        room = width - len(done) - least - len(left)
        details = ""
        for detail in self.details:
            if len(details) + 2 + len(detail) > room:
                break
            details += f"  {detail}"
        return done, max(least, min(most, least + room - len(details))), left, details

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        done, bar_width, left, details = self.parts(options.max_width)
        filled = min(bar_width, round(bar_width * (self.step + self.begun) / max(1, self.steps)))
        full, empty = ("#", "-") if options.ascii_only else ("━", "━")
        bar = ((full * filled, "bar.complete"), (empty * (bar_width - filled), "bar.back"))
        yield Text.assemble(done, *bar, (left, "progress.remaining"), details, no_wrap=True, overflow="ignore")
        for line in self.shown_lines():
            yield Text(f"  {line}", no_wrap=True, overflow="crop")

    def shown_lines(self) -> list[str]:
        """The lines below, at most LINES_MAX."""
        more = len(self.lines) - LINES_MAX
        return [*self.lines[:LINES_MAX], *([f"and {more} more"] if more > 0 else [])]


class Screen(ABC):
    """A place that shows lines and, where it is live, a progress line below them."""

    is_live: bool

    @abstractmethod
    def print_lines(self, lines: Sequence[str], style: str | None = None) -> None:
        """Print lines. style: a colour of rich."""

    def show(self, progress: ProgressLine) -> None:  # noqa: B027  # screens without a live line do nothing
        """Show a progress line in place of the earlier one."""

    def hide(self) -> None:  # noqa: B027
        """Remove the progress line."""


class TerminalScreen(Screen):
    """A terminal, or with `is_live=False` a file or a CI job."""

    def __init__(self, console: Console, *, is_live: bool) -> None:
        self.console = console
        self.is_live = is_live
        self.live: Live | None = None

    def print_lines(self, lines: Sequence[str], style: str | None = None) -> None:
        width = self.console.width
        shown = [wrap_words(line, width) for line in lines] if self.console.is_terminal else lines
        text = "\n".join(shown)
        self.console.print(text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def show(self, progress: ProgressLine) -> None:
        if self.live:
            self.live.update(progress)
            return
        self.live = Live(progress, console=self.console, transient=True, refresh_per_second=REFRESHES_PER_SECOND)
        self.live.start()

    def hide(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None


class NotebookScreen(Screen):
    """One output of a notebook's cell, which holds all lines and the progress bar."""

    is_live = True

    def __init__(self) -> None:
        self.lines = list[str]()
        self.progress: ProgressLine | None = None
        self.handle: Any = None
        self.shown_at = 0.0

    def print_lines(self, lines: Sequence[str], style: str | None = None) -> None:
        self.lines = [*self.lines, *lines][-NOTEBOOK_LINES_MAX:]
        self.refresh()

    def show(self, progress: ProgressLine) -> None:
        self.progress = progress
        if time.monotonic() - self.shown_at > NOTEBOOK_REFRESH:
            self.refresh()

    def hide(self) -> None:
        self.progress = None
        self.refresh()

    def refresh(self) -> None:
        """Replace the cell's output."""
        from IPython.display import display

        output = {"text/html": self.as_html(), "text/plain": "\n".join(self.lines)}
        if self.handle is None:
            self.handle = display(output, raw=True, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
        else:
            self.handle.update(output, raw=True)
        self.shown_at = time.monotonic()

    def as_html(self) -> str:
        """The lines as preformatted text, and the progress as an element of HTML."""
        lines = f"<pre style='white-space: pre-wrap'>{html.escape(chr(10).join(self.lines))}</pre>"
        if self.progress is None:
            return lines
        done, _, left, details = self.progress.parts(120)
        bar = f"<progress value='{self.progress.step + self.progress.begun:g}' max='{self.progress.steps}'></progress>"
        below = "".join(f"<br>{html.escape(line)}" for line in self.progress.shown_lines())
        return f"{lines}<div>{html.escape(done)}{bar}{html.escape(left + details)}{below}</div>"


def find_screen() -> Screen:
    """The screen of this process."""
    if in_notebook():
        # tqdm, which timm imports, asks for ipywidgets; the display of this module does without.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return NotebookScreen()
    console = Console(file=sys.stderr, highlight=False, force_jupyter=False)
    is_live = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
    return TerminalScreen(console, is_live=is_live)


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this code, and not a script or IPython in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and "ipykernel" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")
