"""One owner of a folder: a lock that goes with the process that holds it, and names it to everybody else."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssss_zoo.errors import UserError

LOCK = ".lock"
log = logging.getLogger("ssss_zoo")


class Busy(UserError):
    """Another process works in the folder. host, pid: which, as far as it has said so (else "" and 0)."""

    def __init__(self, folder: Path, host: str, pid: int) -> None:
        super().__init__(
            f"{folder} is in use by {owner_words(host, pid)}: wait until it has ended, or choose another output="
        )
        self.host, self.pid = host, pid


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only process that works in `folder`, which is made where it is missing, and removed again where nothing
    was put into it. The system gives the lock back when the process ends, however it ends; children do not inherit it.

    Raises Busy where another process has it, and UserError where the folder cannot be made or written. Warns, and goes
    on without, where the file system keeps no locks.
    """
    from filelock import FileLock, Timeout

    made = make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
        (folder / LOCK).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    except Timeout:
        raise Busy(folder, *owner(folder)) from None
    except PermissionError as error:
        remove_empty(made)
        raise UserError(f"output={folder} cannot be written: {error.strerror}") from None
    except OSError as error:
        log.warning(f"{folder}: no lock can be had here ({error.strerror}): see to it that no second run works in it")
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # before it is given back: nobody can hold a file that is about to go
        lock.release()
        remove_empty(made)


def owner(folder: Path) -> tuple[str, int]:
    """Host and process of the one that holds the lock of a folder; "" and 0 where it has not said so yet."""
    try:
        told = json.loads((folder / LOCK).read_text())
        return str(told["host"]), int(told["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def owner_words(host: str, pid: int) -> str:
    return f"process {pid} on {host}" if pid else "another process"


def make_folder(folder: Path) -> list[Path]:
    """Make a folder; returns what had to be made, deepest first. Raises UserError where that is not allowed."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file; it takes the path of a folder")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be made: {error.strerror}") from None
    return missing


def remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty: somebody else's by now
            folder.rmdir()
