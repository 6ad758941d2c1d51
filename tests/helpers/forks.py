"""Functions called in a process of their own, without the imports that a fresh one would repeat."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any


def in_a_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a function that is called in a copy of this process; what it changes there is gone afterwards."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(function(*arguments)))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(60) else None
    except EOFError:  # it ended without an answer: its error is on stderr
        return None
    finally:
        process.kill()
        process.join()


class ForkedProcess:
    """A function that is called in a copy of this process, in a session of its own; its answer is the exit code. It can
    be asked what a `subprocess.Popen` with a pipe to its input can be asked."""

    def __init__(self, function: Callable[[], int], environment: Mapping[str, str], console: IO[Any] | int) -> None:
        source, sink = os.pipe()
        console = console if isinstance(console, int) else console.fileno()
        job = (function, environment, source, sink, console)
        self.process = multiprocessing.get_context("fork").Process(target=call_alone, args=job)
        self.process.start()
        os.close(source)
        self.stdin = os.fdopen(sink, "wb")

    @property
    def pid(self) -> int:
        assert self.process.pid
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            assert timeout
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()


def call_alone(
    function: Callable[[], int], environment: Mapping[str, str], source: int, sink: int, console: int
) -> None:
    """The life of a `ForkedProcess`: `source` becomes its input, `console` its output."""
    os.setsid()
    os.close(sink)
    os.dup2(source, 0)
    for output in (1, 2):
        os.dup2(console, output)
    os.environ.update(environment)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.exit(function())
