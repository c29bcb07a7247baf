"""The benchmark of speed, on networks of a few channels."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_architecture import ABSENT, BARE_IMPORTS

pytestmark = pytest.mark.once

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bare_machine(tmp_path):
    """The environment of processes in which PyTorch and numpy are all that is installed."""
    pytest.importorskip("torch")
    (tmp_path / "sitecustomize.py").write_text(f"ABSENT = {ABSENT!r}\n{BARE_IMPORTS}")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHON": sys.executable}


@pytest.mark.slow
def test_gpu_script_measures_on_a_bare_machine(bare_machine, tmp_path):
    """Here on the CPU; what is not installed is told in its row."""
    flags = "--device_target CPU --dtype fp32 --ch 4 --sizes 8x16 --rounds 2"
    flags += " --contestants ours-torch ours-torch-recompute plain-torch wan ours-mindspore"
    subprocess.run(
        ["sh", BENCHMARKS / "gpu.sh", *flags.split(), "--json", "speed.json"],
        cwd=tmp_path,
        env=bare_machine,
        check=True,
        timeout=200,
    )
    report = json.loads((tmp_path / "speed.json").read_text())
    inference, *training = (table["rows"] for table in report["tables"])
    rows = {row["name"]: row for row in inference if "name" in row}
    assert rows["wan"]["failure"] == "diffusers is not installed"
    assert rows["ours-mindspore"]["failure"] == "mindspore is not installed"
    assert len(training) == 2  # tables: one for each framework
    trained = {row["name"]: row for row in training[0] if "name" in row}
    assert list(trained) == ["ours-torch", "ours-torch-recompute", "plain-torch"]
    for row in (rows["ours-torch"], rows["plain-torch"], *trained.values()):
        assert row["failure"] is None
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values())
        assert row["peak_bytes"] > 2**20 and min(row["share"].values()) > 0
    assert rows["ours-torch"]["parameters"] == rows["plain-torch"]["parameters"]


def test_contestant_that_fails_gives_its_error_and_not_the_advice_after_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import contestants

    advice = "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
    error = "torch.AcceleratorError: CUDA error: an illegal memory access"
    worker = tmp_path / "worker.py"
    worker.write_text(f"import sys\nsys.exit({f'Traceback:{chr(10)}{error}{chr(10)}{advice}'!r})\n")
    monkeypatch.setattr(contestants, "WORKER", worker)
    with pytest.raises(contestants.Failed, match="^torch.AcceleratorError: CUDA error: an illegal"):
        contestants.Process(contestants.CONTESTANTS["ours-torch"], {"device_target": "CPU"})


def test_contestant_that_is_killed_says_so(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    from contestants import CONTESTANTS, Failed, Process

    conditions = {"what": "inference", "frames": 8, "pixels": 16, "ch": 4, "dtype": "fp32"}
    process = Process(CONTESTANTS["ours-torch"], conditions | {"device_target": "CPU"})
    assert process.ask("encode")["seconds"] > 0
    os.kill(process.facts["pid"], signal.SIGKILL)
    with pytest.raises(Failed, match="killed by SIGKILL"):
        process.ask("encode")
    process.end()
    with pytest.raises(Failed, match="^ValueError: dtype is 'fp15'"):
        Process(CONTESTANTS["ours-torch"], conditions | {"device_target": "CPU", "dtype": "fp15"})
