"""The benchmark of quality, on a network of a few channels."""

from pathlib import Path

import pytest
from cli.support import run_process, write_checkpoint, write_dataset
from PIL import Image

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quality.py"


def test_every_way_is_measured_and_h264_takes_no_more_bits_than_the_latents(tmp_path):
    videos = write_dataset(tmp_path / "set")
    args = ["--ckpt_path", write_checkpoint(tmp_path / "tae.safetensors"), "--video_folder", videos]
    args += ["--csv_path", videos / "videos.csv", "--sizes", "64", "96", "--num_frames", "4"]
    done = run_process(SCRIPT, *args, "--picture", tmp_path / "quality.png", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.out]
    bits = {(row[0], row[1]): float(row[2]) for row in rows if row[0] in ("64", "96")}
    for size in ("64", "96"):  # 2 numbers of 16 bits for 2x2 pixels, and for as many of 2 frames
        assert bits[size, "TAE"] == 4
        assert bits[size, "TAE, frame by frame"] == 8
        assert 0 < bits[size, "H.264"] <= 4
    columns = len((videos / "videos.csv").read_text().split()) - 1
    assert Image.open(tmp_path / "quality.png").size == (96 * columns, 192)


def test_too_few_frames_for_a_latent_are_refused(tmp_path):
    videos = write_dataset(tmp_path / "set")
    args = ["--ckpt_path", write_checkpoint(tmp_path / "tae.safetensors"), "--video_folder", videos]
    done = run_process(
        SCRIPT, *args, "--csv_path", videos / "videos.csv", "--num_frames", "1", cwd=tmp_path
    )
    assert done.code != 0
    assert done.err[-1] == "--num_frames is 1, expected at least 2"
