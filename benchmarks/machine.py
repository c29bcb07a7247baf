"""The machine that a benchmark runs on, for its tables."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The processor's name and the number of cores."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
