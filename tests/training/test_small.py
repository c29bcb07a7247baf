"""scripts/train_small.sh: three stages, each from the one before, resumed by the same command."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from cli.support import ROOT, TINY, process_environment, write_dataset

pytestmark = pytest.mark.once

NETWORK = {**TINY, "ch": 16, "z_channels": 3}  # so many channels carry colours
OPTIONS = {
    "num_frames": 2,
    "image_size": 8,
    "num_workers": 0,
    "train_steps": 2,
    "ckpt_save_steps": 1,
    "warmup_steps": 0,
}


@pytest.fixture
def videos(tmp_path):
    folder = write_dataset(tmp_path / "set")
    for name in ("train", "train_images", "val"):
        (folder / f"{name}.csv").write_text((folder / "videos.csv").read_text())
    return folder


def train_small(videos, runs, *options):
    flags = [text for key, value in OPTIONS.items() for text in (f"--{key}", str(value))]
    return subprocess.run(
        [ROOT / "scripts" / "train_small.sh", videos, runs, "-", *flags, *options],
        env={**process_environment(), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=runs.parent,
    )


def test_stages_follow_one_another_and_a_moved_run_goes_on(videos, tmp_path):
    tiny = f"--tae_config={json.dumps(NETWORK)}"
    (tmp_path / "runs").mkdir()
    done = train_small(videos, tmp_path / "runs", tiny)
    assert done.returncode == 0, done.stderr
    recipes = [
        yaml.safe_load((tmp_path / "runs" / stage / "recipe.yaml").read_text())
        for stage in ("stage1", "stage2")
    ]
    assert recipes[0]["mixed_strategy"] == "image_only" and recipes[0]["pretrained"] is None
    assert recipes[1]["pretrained"].startswith("stage1/tae.")

    # As if it had been stopped after the first update of stage 2, and copied elsewhere.
    for left in (tmp_path / "runs" / "stage2").glob("tae.*"):
        left.unlink()
    moved = tmp_path / "elsewhere" / "runs"
    moved.parent.mkdir()
    os.rename(tmp_path / "runs", moved)
    again = train_small(videos, moved, tiny)
    assert again.returncode == 0, again.stderr
    assert "stage1 is done" in again.stdout
    assert "going on from step_2" in again.stderr
    assert list((moved / "stage2").glob("tae.*"))


def test_a_stage_that_fails_ends_the_command(videos, tmp_path):
    (videos / "train.csv").unlink()
    (tmp_path / "runs").mkdir()
    done = train_small(videos, tmp_path / "runs", f"--tae_config={json.dumps(NETWORK)}")
    assert done.returncode == 2 and "train.csv: no such CSV file" in done.stderr
    assert not (tmp_path / "runs" / "stage2").exists()
