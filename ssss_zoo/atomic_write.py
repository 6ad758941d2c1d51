"""Writes a file or a folder completely or not at all: under a temporary name first, which is then renamed.

A process killed at any instant leaves the old content or the new content. A folder may then be left under its name
with `.new` or `.old` appended (see `temporary_paths`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssss_zoo.errors import cannot_write


def temporary_paths(path: Path) -> tuple[Path, Path]:
    """The temporary path for the new content of `path`, and the one that keeps a folder's old content meanwhile."""
    return path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")


def flush_to_disk(file: Path) -> None:
    """Wait until the file's content is on the disk, so that a power cut cannot lose it."""
    with file.open("r+b") as handle:  # Windows flushes no file that is open for reading alone
        os.fsync(handle.fileno())


@contextmanager
def replacing_file(file: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield the path to write the new content to. It replaces `file` when the block ends without an error.

    flush: whether to wait for the disk; False for files that can be made again. An error of the block or the system is
    raised, and `file` keeps its old content.
    """
    new, _ = temporary_paths(file)
    try:
        yield new
        if flush:
            flush_to_disk(new)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill with files. It replaces `folder` when the block ends without an error.

    An error of the block or the system is raised, and `folder` keeps its old content.
    """
    new, old = temporary_paths(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        for file in new.iterdir():
            flush_to_disk(file)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Replace a text file. Raises UserError when the system refuses."""
    try:
        with replacing_file(file) as new:
            new.write_text(text, "utf-8", newline="\n")  # the same bytes on every system
    except OSError as error:
        raise cannot_write(file, error) from error


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file. Raises UserError when the system refuses, ValueError for a number that is not finite."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")
