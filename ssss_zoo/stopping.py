"""Handles the signals that ask a run to stop: from Ctrl-C, a scheduler or a terminal that closes."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# SLURM's --signal sends USR1, a CPU time limit XCPU, and Windows BREAK for Ctrl-Break. Each system has some of them.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU", "SIGBREAK")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
SECOND_SIGNAL_DELAY = 1.0  # seconds until a second Ctrl-C counts, since `timeout` sends each signal twice (our choice)


class Stop:
    """Handles the signals that ask a run to stop, within `handlers_installed`. asked: the first signal's name, or "".

    A signal raises KeyboardInterrupt. Within `signals_deferred` it is only recorded: the code there reads `asked` where
    the run can be saved, and stops itself. Later signals are ignored, because process groups often receive two; but a
    second Ctrl-C after SECOND_SIGNAL_DELAY seconds always raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.asked = ""
        self.since = 0.0
        self.waits = False

    @contextmanager
    def handlers_installed(self) -> Iterator[None]:
        """Install the signal handlers for the block, and restore the earlier ones after it. Outside the main thread, as
        in some notebooks, it does nothing. A hangup that is ignored already (nohup) stays ignored."""
        try:
            before = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                if before[number] != signal.SIG_IGN or number != getattr(signal, "SIGHUP", None):
                    signal.signal(number, self.receive)
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def signals_deferred(self) -> Iterator[None]:
        """Within the block, a signal is recorded and interrupts nothing."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        first = not self.asked
        now = time.monotonic()
        if first:
            self.asked = signal.Signals(number).name
            self.since = now
        impatient = number == signal.SIGINT and now - self.since > SECOND_SIGNAL_DELAY
        if impatient or (first and not self.waits):
            raise KeyboardInterrupt(f"stopped by {self.asked}")
        if first:
            tell_terminal("stopping after this step, once it is saved; press Ctrl-C again to stop at once")


def tell_terminal(line: str) -> None:
    """Print a line on the terminal without Python's buffers, which the signal may have interrupted during a write."""
    with suppress(OSError, ValueError, AttributeError):
        if sys.__stderr__.isatty():  # type: ignore[union-attr]
            os.write(2, f"\n{line}\n".encode())


def stop_this_process() -> None:
    """Let this process receive SIGTERM, from any of its threads. On Windows `os.kill` would end it at once instead."""
    if sys.platform == "win32":
        _thread.interrupt_main(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)  # unlike interrupt_main, it also interrupts a call that waits


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started within the block ignore the signals that ask to stop, which go to the whole process group.
    Their parent ends them (see `end_with_parent`). Signals to this process arrive after the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a process started within `signals_blocked`: end on a SIGTERM from the parent, and on no other signal."""
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=wait_for_parent, daemon=True).start()


def wait_for_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
