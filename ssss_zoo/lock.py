"""Locks a folder for one process. The lock file names the process, and the system frees the lock when it ends."""

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
LOCKED_BYTES = 1  # filelock locks the first byte of the file
log = logging.getLogger("ssss_zoo")


class Busy(UserError):
    """Another process uses the folder. host, pid: that process; "" and 0 while its lock file is still empty."""

    def __init__(self, folder: Path, host: str, pid: int) -> None:
        super().__init__(
            f"{folder} is in use by {owner_words(host, pid)}: wait until it has ended, or choose another output="
        )
        self.host, self.pid = host, pid


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process. The folder is made where it is missing, and removed again if it stays empty.
    The system releases the lock when the process ends for any reason; child processes do not inherit it.

    Raises Busy where another process holds the lock, and UserError where the folder cannot be made or written. Where
    the file system has no locks, warns and continues without one.
    """
    from filelock import FileLock, Timeout

    made = make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
        write_owner(folder / LOCK)
    except Timeout:
        raise Busy(folder, *owner(folder)) from None
    except PermissionError as error:
        remove_empty(made)
        raise UserError(f"output={folder} cannot be written: {error.strerror}") from None
    except OSError as error:
        log.warning(f"{folder} cannot be locked ({error.strerror}); make sure that no second run uses it")
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # before the release, so that no process locks a file that is then removed
        lock.release()
        remove_empty(made)


def write_owner(file: Path) -> None:
    """Write host and process id behind the bytes that the lock covers: Windows lets nobody read or write those."""
    with file.open("r+b", buffering=0) as opened:
        opened.seek(LOCKED_BYTES)
        opened.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        opened.truncate()


def owner(folder: Path) -> tuple[str, int]:
    """Host and process id of the process that holds the lock; "" and 0 while its lock file is still empty."""
    try:
        with (folder / LOCK).open("rb", buffering=0) as file:
            file.seek(LOCKED_BYTES)
            owner = json.loads(file.read())
        return str(owner["host"]), int(owner["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def owner_words(host: str, pid: int) -> str:
    return f"process {pid} on {host}" if pid else "another process"


def make_folder(folder: Path) -> list[Path]:
    """Make a folder. Returns the folders that it made, the deepest first. Raises UserError where the system refuses."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file; give the path of a folder")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be made: {error.strerror}") from None
    return missing


def remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty: another process has written into it
            folder.rmdir()
