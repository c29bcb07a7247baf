"""The benchmark of the loader, on videos of a few pixels."""

import json
from pathlib import Path

import pytest
from cli.support import run_process, write_dataset

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loader.py"


def test_every_way_of_reading_is_measured(tmp_path):
    videos = write_dataset(tmp_path / "videos")
    args = ["--clips", videos, "--sources", "h264 16x16", "--workers", "1", "--rounds", "1"]
    args += ["--num_frames", "4", "--image_size", "8", "--items", "3", "--json", "rows.json"]
    done = run_process(SCRIPT, *args, cwd=tmp_path)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 2 * 2 * 2  # epochs, with seeking, with a column of frames
    assert all(row["frames_per_second"] > 0 for row in rows)


def test_the_share_of_waiting_is_that_of_all_updates(tmp_path):
    lines = [{"seconds": 1, "data_seconds": 0.1}, {"val/psnr": 20}]
    lines += [{"seconds": 3, "data_seconds": 0.7}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = run_process(SCRIPT, "--metrics", "metrics.jsonl", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.out[0].startswith("20.0 %")
