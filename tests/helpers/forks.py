"""Functions called in a process of their own, without the imports that a fresh one would repeat."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


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
