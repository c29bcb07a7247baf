"""How threads of PyTorch wait, as the OpenMP that it comes with says."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="of GCC's OpenMP"),
]


def spins(**variables):
    """How often a thread looks before it sleeps, in a process with these variables."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment |= {"MG_BACKEND": "torch", "OMP_DISPLAY_ENV": "verbose", **variables}
    command = [sys.executable, "-c", "import mg.backend"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = re.search("GOMP_SPINCOUNT = '(.*)'", done.stderr)
    if found is None:
        pytest.skip("this PyTorch has another OpenMP than GCC's")
    return int(found[1])


def test_threads_soon_sleep():
    assert spins() == 5000


@pytest.mark.parametrize(
    ("variables", "expected"), [({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "PASSIVE"}, 0)]
)
def test_what_a_person_has_set_stands(variables, expected):
    assert spins(**variables) == expected
