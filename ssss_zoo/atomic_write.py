"""Write a file or a folder whole or not at all: it is written beside its place first and then renamed into it.

A process that is killed at any instant leaves the old content, the new content, or, of a folder, either of them under
the name with `.new` or `.old` behind it (see `temporary_paths`).
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
    """Where the new content of `path` is written, and where a folder's old content waits until the new one is there."""
    return path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")


def flush_to_disk(file: Path) -> None:
    """Return once the system has put the file's content on the disk, so that a power cut cannot lose it."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def replacing_file(file: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield the path to write the new content to; when the block has ended without an error, that replaces `file`.

    flush: whether to wait for the disk; False for files that can be made again. What the block or the system raises is
    raised, and `file` is as it was then.
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
    """Yield an empty folder to fill with files; when the block has ended without an error, that replaces `folder`.

    What the block or the system raises is raised, and what lay in `folder` is there still.
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
            new.write_text(text, "utf-8")
    except OSError as error:
        raise cannot_write(file, error) from error


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file. Raises UserError when the system refuses, ValueError for a number that is not finite."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")
