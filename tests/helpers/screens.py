"""A screen whose text a test can read."""

from __future__ import annotations

import io

from rich.console import Console

from ssss_zoo.progress_display import TerminalScreen


def screen_on(sink: io.StringIO, *, is_live: bool, width: int = 80) -> TerminalScreen:
    """A terminal, or with `is_live=False` a log."""
    console = Console(file=sink, width=width, force_terminal=is_live, color_system=None, legacy_windows=False)
    return TerminalScreen(console, is_live=is_live)
