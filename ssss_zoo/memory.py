"""The memory of this process and of the machine, on Linux, macOS and Windows."""

from __future__ import annotations

import sys


def peak_resident_memory() -> int:
    """The most memory that this process has had resident so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def free_memory() -> int | None:
    """The free bytes of memory, those included that only buffer files; None where the system does not tell."""
    import psutil

    try:
        return int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, ValueError):  # such as a Linux container without /proc
        return None
