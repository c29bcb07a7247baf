"""The benchmark of long videos, on a network of a few channels."""

from pathlib import Path

import pytest
from cli.support import run_process, write_dataset

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "long_video.py"
SMALL = ["--frameworks", "torch", "--frames", "16", "--height", "16", "--width", "16"]
SMALL += ["--ch", "4", "--rounds", "1"]


@pytest.mark.parametrize("what", ["memory", "time", "tiles"])
def test_there_is_a_row_of_numbers(tmp_path, what):
    pytest.importorskip("torch")
    clips = [write_dataset(tmp_path, ["a.mp4"], num_frames=16) / "a.mp4"] if what == "tiles" else []
    done = run_process(SCRIPT, what, *SMALL, *(["--clips", *clips] if clips else []), cwd=tmp_path)
    assert done.code == 0, done.err
    header, rule, *rows = [line for line in done.out if line.startswith("|")]
    assert rule == "|---" * (header.count("|") - 1) + "|"
    assert rows and all(row.count("|") == header.count("|") for row in rows)
