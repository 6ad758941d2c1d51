"""The git repository that the working folder belongs to."""

from __future__ import annotations

import subprocess
from functools import cache

GIT_SECONDS = 5.0  # that git may take (our choice); a repository on a slow disk may need longer, and is left out then
# Git's mark behind the commit of a folder whose files differ from it.
DIRTY_MARK = "-dirty"


@cache
def git_commit() -> str | None:
    """The commit of the repository that the working folder belongs to, with `-dirty` behind it where files differ from
    it; None outside of a repository, and without git. The folder of the data is not looked at."""
    # fsmonitor is a program that a repository may name.
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", f"--dirty={DIRTY_MARK}", "--abbrev=40",
               "--exclude=*"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
