"""What the screens of a comparison and of a search have in common."""

from __future__ import annotations

from typing import Self

from ssss_zoo.comparison.plan import Notify
from ssss_zoo.progress_display import Screen, find_screen
from ssss_zoo.text import visible


class Display:
    """The screen of a command of several runs. As a context manager it removes its progress line in the end."""

    def __init__(self, notify: Notify, output: Screen | None) -> None:
        """notify: also gets each line."""
        self.notify = notify
        self.output = output or find_screen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.hide()

    def print_line(self, line: str) -> None:
        self.output.print_lines([visible(line)])
        self.notify(line)
