"""How far a command is with its images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ssss_zoo.progress_display import ProgressLine, Screen
from ssss_zoo.text import count, duration
from ssss_zoo.train.console import current_screen

ROUNDING = 1e-6  # of shares of an image that add up to 1
LINE_SECONDS = 60.0  # between two lines where no progress line is live (our choice)
log = logging.getLogger("ssss_zoo")


@contextmanager
def show_images(total: int, title: str) -> Iterator[Callable[[float], None]]:
    """Show a progress line, or lines in a log. title: what is done with the images. Yields a function that takes the
    number of further images done, a share of one for a large image."""
    progress = ImageProgress(total, title, current_screen())
    if progress.output.is_live:
        progress.show()
    try:
        yield progress.advance
    finally:
        progress.output.hide()


class ImageProgress:
    """The images done so far, and the time left by the speed until now."""

    def __init__(self, total: int, title: str, output: Screen) -> None:
        self.total = total
        self.title = title
        self.output = output
        self.done = 0.0
        self.began = self.line_logged = time.monotonic()

    def advance(self, images: float) -> None:
        self.done += images
        if self.output.is_live:
            self.show()
        elif time.monotonic() - self.line_logged > LINE_SECONDS:
            share = self.done / self.total
            log.info(f"{self.title}: {share:.0%} of {count(self.total, 'image')}, {duration(self.seconds_left())} left")
            self.line_logged = time.monotonic()

    def show(self) -> None:
        whole = int(self.done + ROUNDING)
        ends = time.monotonic() + self.seconds_left() if self.done else None
        begun = max(0.0, self.done - whole)
        self.output.show(ProgressLine(self.total, whole, (self.title,), ends, "image", begun))

    def seconds_left(self) -> float:
        """Seconds; 0 before anything is done."""
        return (time.monotonic() - self.began) * (self.total - self.done) / self.done if self.done else 0.0
