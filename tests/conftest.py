"""What all tests share: optional real data, named by the environment variable MG_TEST_DATA."""

import csv
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mg import backend

if backend.name == "torch":
    import torch

    if not torch.cuda.is_available():  # kernels for a GPU are interpreted; Triton reads it early
        os.environ.setdefault("TRITON_INTERPRET", "1")


# Signals may be ignored here, and so by all that tests start: by nohup, or in a shell's background.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def device():
    """Chosen as programs do, which sets MindSpore up for the CPU too."""
    backend.set_device("auto")


@pytest.fixture(scope="session")
def test_data():
    """The directory of real clips, golden numbers and weights."""
    root = os.environ.get("MG_TEST_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("MG_TEST_DATA names no directory of test data")
    return Path(root)


@pytest.fixture(scope="session")
def manifest(test_data):
    """The real clips: path -> row of their manifest, with the true frame count."""
    clips = test_data / "clips"
    if not (clips / "manifest.csv").is_file():
        pytest.skip("MG_TEST_DATA holds no clips/manifest.csv")
    with open(clips / "manifest.csv", encoding="utf-8", newline="") as file:
        return {clips / row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def on_both_frameworks(tmp_path, request):
    """Runs a program in a process of each framework; it gets the folder of tests and the file to
    which it saves arrays. Gives (PyTorch's arrays, MindSpore's) by name."""
    # Not imported: MindSpore cannot be once this process has protobuf.
    if not (find_spec("torch") and find_spec("mindspore")):
        pytest.skip("needs both frameworks")

    def run(program):
        program = f"from mg import backend\nbackend.set_device('auto')\n{program}"
        results = []
        for name in ("torch", "mindspore"):
            file = tmp_path / f"{name}.npz"
            subprocess.run(
                [sys.executable, "-c", program, str(request.config.rootpath / "tests"), str(file)],
                env={**os.environ, "MG_BACKEND": name},
                check=True,
                timeout=300,
            )
            with np.load(file) as arrays:
                results.append(dict(arrays))
        assert list(results[0]) == list(results[1])
        return results

    return run
