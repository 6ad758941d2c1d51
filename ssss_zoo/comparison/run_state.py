"""How one run of a comparison ended. This module is imported before torch, so it imports nothing that takes long."""

from __future__ import annotations

import signal
from dataclasses import dataclass

DONE, FAILED, STOPPED, BUSY = "done", "failed", "stopped", "busy"
EXIT_CODES = {DONE: 0, FAILED: 2, STOPPED: 130, BUSY: 75}  # of the process; 75 is sysexits.h's "try again later"
# Exit codes of a process that a signal stopped while it began; Windows has no SIGHUP.
STOPPED_BY_SIGNAL = tuple(-getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))


@dataclass(frozen=True)
class RunState:
    """status: done, failed, stopped, or busy where another process works in the run's folder. reason: why it failed;
    overrides: those of the run, where it began; host, pid: the process that a busy folder belongs to."""

    status: str
    reason: str | None = None
    overrides: tuple[str, ...] | None = None
    host: str = ""
    pid: int = 0
