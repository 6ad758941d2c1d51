"""`history.jsonl`: one JSON line for each logged step and each evaluation of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssss_zoo.atomic_write import write_text
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.record_files import HistoryLine, check_types, parse

log = logging.getLogger("ssss_zoo")


class History:
    """The history of a run, to append lines to."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line. Raises UserError when the disk refuses."""
        try:
            with self.file.open("a", encoding="utf-8", newline="\n") as handle:
                handle.write(json.dumps(dict(line), allow_nan=False) + "\n")
        except OSError as error:
            raise cannot_write(self.file, error) from error


def open_history(file: Path, aside: Path, step: int, *, evaluation_due: bool = False) -> History:
    """The history of a run that goes on at `step`: lines of later steps are removed, because the run makes them again.

    aside: the file that keeps a copy of a history with damaged lines. evaluation_due: the evaluation of `step` is still
    to come, so its line is removed too. Raises UserError when the disk refuses.
    """
    lines, damaged = sort_lines(file)
    if damaged:
        keep_damaged_copy(file, aside, damaged)
    if step > 0 and not file.exists():
        log.warning(f"{file} is gone: it begins anew after step {step}")
    kept = [line for line in lines if line["step"] <= step]
    kept = [line for line in kept if not (evaluation_due and line["step"] == step and "val" in line)]
    write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
    return History(file)


def read_history(file: Path) -> list[dict[str, Any]]:
    """The lines of a history, each as `HistoryLine`. Warns of damaged lines, which are left out. Raises UserError for a
    file that cannot be read; a file that does not exist has no lines."""
    lines, damaged = sort_lines(file)
    if damaged:
        log.warning(f"{file}: {damage_message(damaged)}, left out")
    return lines


def sort_lines(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The whole lines of a history, and the numbers (from 1) of the damaged ones.

    A last line without a line end was cut short by a kill: it is in neither list. Raises UserError for a file that
    cannot be read.
    """
    lines: list[dict[str, Any]] = []
    damaged: list[int] = []
    texts = read_bytes(file).split(b"\n") if file.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(dict(check_types(parse(text.decode("utf-8"), file, ""), HistoryLine, file, "")))
        except (UserError, UnicodeDecodeError):
            if text and number < len(texts):  # the text behind the last line end is empty or was cut short
                damaged.append(number)
    return lines, damaged


def read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def damage_message(damaged: Sequence[int]) -> str:
    return f"line {damaged[0]} is damaged" if len(damaged) == 1 else f"{len(damaged)} lines are damaged"


def keep_damaged_copy(file: Path, aside: Path, damaged: Sequence[int]) -> None:
    """Append the history to the copies of earlier damaged ones. Raises UserError when the disk refuses."""
    try:
        with aside.open("ab") as handle:
            handle.write(file.read_bytes())
    except OSError as error:
        raise cannot_write(aside, error) from error
    log.warning(f"{file}: {damage_message(damaged)}, left out; the file as it was is kept as {aside.name}")
