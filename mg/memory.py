"""Memory of the process, and of the machine."""

import ctypes
import re
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, to use it again, until it ends.

    The C library (glibc) returns each large array to the kernel when it is freed, and takes fresh
    pages for the next: for a network on the CPU, filling these takes about as long as the
    arithmetic (docs/performance.md). `mg.backend.set_device` calls this on PyTorch; MindSpore keeps
    a pool of its own. Without glibc, it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # no pages apart for an array
        mallopt(_TRIM_THRESHOLD, -1)  # the largest number there is: nothing at the end is returned


def return_freed_memory() -> None:
    """Return to the kernel what this process has freed. Without glibc, it does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def available_memory() -> int | None:
    """Bytes that a program can take before the machine runs short, by Linux's own estimate; None
    where that is unknown. A limit set for a container is not seen."""
    try:
        table = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable: +(\d+) kB$", table, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
