"""Memory that was freed and is taken again, and what is left."""

import os
import subprocess
import sys

import pytest

from mg.memory import available_memory

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform != "linux", reason="of Linux and its glibc"),
]

FAULTS = """
import resource
import sys
import numpy as np
from mg.memory import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
for size in (64, 40):  # MiB
    np.ones(size << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in (64, 40, 50, 33):
    np.ones(size << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*args):
    command = [sys.executable, "-c", FAULTS, *args]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_large_arrays_are_given_the_pages_of_earlier_ones():
    assert page_faults("keep") < page_faults() / 4


def test_available_memory_is_some_of_what_the_machine_has():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**24 < available_memory() < total
