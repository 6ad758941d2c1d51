"""Errors that the user can fix. Each message is one line: what came, what was expected, where, what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from ssss_zoo.text import LONGEST, brief

MEMORY_ADVICE = (
    "lower train.batch and raise train.accumulate, lower train.crop, or set train.precision=bf16; to evaluate large "
    "images, set evaluate.mode=sliding"
)
OUT_OF_MEMORY = f"out of memory; {MEMORY_ADVICE}"
RESUME_ADVICE = "a run or a prediction with resume=true, a comparison with the same command"
DISK_FULL_ADVICE = f"free some space, then continue: {RESUME_ADVICE}"
NOT_FINITE = "lower optim.lr or set train.precision=32; the last checkpoint, if one was saved, is in the run's folder"


class UserError(Exception):
    """A mistake in the input. The command line prints it as one line and exits with 2, without a traceback. location:
    the file and line of the mistake; empty where the value came from no file, None where this is not known yet."""

    location: str | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.location}: {message}" if self.location else message

    def _render_traceback_(self) -> list[str]:
        """IPython and notebooks print these lines in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def expanded(path: str | Path) -> Path:
    """The path with a leading `~` or `~name` replaced by the home folder. Raises UserError where this machine has no
    such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        who = str(path).partition("/")[0]
        raise UserError(f"{path}: no home folder is known for {who}; write the whole path") from None


class Interrupted(Exception):
    """The user pressed Ctrl-C, and the run saved its state. The command line exits with 130."""

    def _render_traceback_(self) -> list[str]:
        """IPython and notebooks print these lines in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


# Phrases of the system's message, which torch and safetensors repeat.
DISK_FULL_PHRASES = ("no space left", "quota exceeded", "file too large")


def cannot_write(file: Path, error: BaseException, kept: str = "") -> UserError:
    """The error for a file that the system refuses to write, with a remedy for its reason. error: an OSError, or the
    error that a library raised for one; kept: the files that are complete all the same."""
    why = getattr(error, "strerror", None) or " ".join(str(error).split())
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or any(phrase in why.lower() for phrase in DISK_FULL_PHRASES):
        remedy = DISK_FULL_ADVICE
    elif not file.parent.is_dir():
        remedy = f"the folder {file.parent} was removed or renamed in the meantime"
    else:
        remedy = f"check its permissions, then continue: {RESUME_ADVICE}; nothing written before is lost"
    return UserError(f"cannot write {file}: {why}; {f'{kept}: ' if kept else ''}{remedy}")


def out_of_memory(error: BaseException) -> bool:
    """Whether the error is a lack of memory: Python's, a GPU's, or that of torch's allocator on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def failure_reason(error: Exception) -> str:
    """Why a run failed, in one line."""
    if isinstance(error, UserError):
        return str(error)
    return OUT_OF_MEMORY if out_of_memory(error) else f"{type(error).__name__}: {' '.join(str(error).split())}"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the known name closest to `word`, or nothing when none is close."""
    if len(word) > LONGEST:
        return ""  # no known name is that long, and the search takes long
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for an unknown name. where: the setting that it came from, such as `method=a+b`."""
    names = sorted(known)
    place = f" in {brief(where)}" if where else ""
    return UserError(f"unknown {kind} '{brief(word)}'{place}{nearest(word, names)}  known: {', '.join(names)}")


def wrong_choice(key: str, value: str, choices: Iterable[str]) -> UserError:
    """The error for an option whose value is not among its choices. An empty one, for no choice, is not named."""
    names = [choice for choice in choices if choice]
    return UserError(f"{key} must be one of {', '.join(names)}; got '{brief(value)}'{nearest(value, names)}")


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError when the value of the option `key` is not among `choices`."""
    names = list(choices)
    if value not in names:
        raise wrong_choice(key, value, names)


def check_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise UserError when the option `key` lies outside [low, high] (NaN included)."""
    if not low <= value <= high:
        bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{key} must be {bound}; got {brief(value) if isinstance(value, int) else f'{value:g}'}")
