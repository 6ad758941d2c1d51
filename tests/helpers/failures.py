"""Stand-ins for what goes wrong: a full disk, a kill, a function that raises."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Killed(BaseException):
    """Stands in for a kill: no code of the package catches it."""


def raising(error: BaseException) -> Callable[..., None]:
    """A function of any arguments that raises the error."""

    def function(*_: object, **__: object) -> None:
        raise error

    return function
