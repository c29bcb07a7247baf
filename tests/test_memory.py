"""Memory that was freed and is taken again."""

import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform != "linux", reason="of glibc, which is on Linux"),
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
