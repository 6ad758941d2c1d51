"""What a person can fix, said in one line: what came, what was expected, where, what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from ssss_zoo.text import LONGEST, brief

LESS = (
    "a smaller train.batch with train.accumulate, a smaller train.crop or train.precision=bf16 needs less, and "
    "evaluate.mode=sliding where large images are evaluated"
)
MEMORY = f"out of memory; {LESS}"

ROOM = "make room, then go on: a run with resume=true, a comparison by the same command"


NOT_FINITE = (
    "lower optim.lr or take train.precision=32; a checkpoint from before is in the run's folder if there was one"
)


class UserError(Exception):
    """A mistake in the input. The command line prints it as one line and exits with 2, without a traceback. location:
    the file and line of the mistake; `` where no file gave the value, None where that is not known yet."""

    location: str | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.location}: {message}" if self.location else message


def expanded(path: str | Path) -> Path:
    """The path with a leading `~` or `~name` as the folder that it stands for. Raises UserError where this machine
    knows of none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        who = str(path).partition("/")[0]
        raise UserError(f"{path}: {who} is the home folder of nobody known here; write the whole path") from None


class Interrupted(Exception):
    """The person pressed Ctrl-C: the run saved its state first. The command line exits with 130."""


FULL = ("no space left", "quota exceeded", "file too large")  # as torch and safetensors repeat the system's words


def cannot_write(file: Path, error: BaseException, kept: str = "") -> UserError:
    """The error for a file that the system refuses to write, with the remedy that its reason has. error: an OSError, or
    what a library made of one; kept: what is there all the same."""
    why = getattr(error, "strerror", None) or " ".join(str(error).split())
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(word in why.lower() for word in FULL)
    if full:
        remedy = ROOM
    elif not file.parent.is_dir():
        remedy = f"{file.parent} was removed or renamed meanwhile"
    else:
        remedy = "see whether it may be written to, then go on as after a full disk: nothing written before is lost"
    return UserError(f"cannot write {file}: {why}; {f'{kept}: ' if kept else ''}{remedy}")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a GPU's, or a CPU's as torch's allocator says it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the word that is closest to `word`, or nothing when none is close."""
    if len(word) > LONGEST:
        return ""  # nothing is close, and to find that out takes long
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for a name that nothing answers to. `where` is the setting it came from, such as `method=a+b`."""
    names = sorted(known)
    place = f" in {brief(where)}" if where else ""
    return UserError(f"unknown {kind} '{brief(word)}'{place}{nearest(word, names)}  known: {', '.join(names)}")


def wrong_choice(key: str, value: str, choices: Iterable[str]) -> UserError:
    """The error for an option that has none of the values that it may have."""
    names = list(choices)
    return UserError(f"{key} must be one of {', '.join(names)}; got '{brief(value)}'{nearest(value, names)}")


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError when the option `key` has none of `choices`."""
    names = list(choices)
    if value not in names:
        raise wrong_choice(key, value, names)


def check_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise UserError when the option `key` lies outside [low, high] (NaN included)."""
    if not low <= value <= high:
        bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{key} must be {bound}; got {brief(value) if isinstance(value, int) else f'{value:g}'}")
