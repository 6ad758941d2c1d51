"""Being asked to stop: Ctrl-C, a scheduler, a terminal that closes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")  # SLURM's --signal sends USR1, a limit of CPU time XCPU
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
AGAIN = 1.0  # seconds after which another Ctrl-C means "at once": `timeout` sends each signal twice (our choice)


class Stop:
    """Hears the signals that ask a run to stop, from `hearing` on. asked: the name of the first one, or "".

    Where nothing could be lost it ends the run at once, by KeyboardInterrupt; within `patient` it only takes note, and
    who works there looks at `asked` where everything can be saved. Another signal changes nothing, for who gives one to
    a group often gives two, but for a second Ctrl-C, AGAIN seconds later, which always ends at once.
    """

    def __init__(self) -> None:
        self.asked, self.since, self.waits = "", 0.0, False

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Listen within; what was done at signals before is done again after. Outside the main thread, as in some
        notebooks, signals are left alone. A hangup that is ignored already (nohup) stays so."""
        try:
            before = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                if before[number] != signal.SIG_IGN or number != getattr(signal, "SIGHUP", None):
                    signal.signal(number, self.hear)
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within, a signal interrupts nothing."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        first, now = not self.asked, time.monotonic()
        if first:
            self.asked, self.since = signal.Signals(number).name, now
        impatient = number == signal.SIGINT and now - self.since > AGAIN
        if impatient or (first and not self.waits):
            raise KeyboardInterrupt(f"stopped by {self.asked}")
        if first:
            tell_terminal("stopping as soon as this step is done and saved; Ctrl-C again stops at once")


def tell_terminal(line: str) -> None:
    """A line on a terminal, past all buffers: a signal may have come while one of them was being written to."""
    with suppress(OSError, ValueError, AttributeError):
        if sys.__stderr__.isatty():  # type: ignore[union-attr]
            os.write(2, f"\n{line}\n".encode())


@contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started within never hear the signals that ask to stop, which go to a whole group: who
    started them ends them (see `end_with_parent`). The signals themselves come when it is over."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a process that was started `unheard`: end at the SIGTERM of the process that started it, and at no other."""
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=wait_for_parent, daemon=True).start()


def wait_for_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
