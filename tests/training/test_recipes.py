"""The recipes that the repository carries."""

import math

import pytest
from cli.support import ROOT, TINY, flags, run, write_checkpoint, write_dataset

from mg.cli import train

from .test_resume import lines_of

RECIPES = sorted((ROOT / "configs" / "tae" / "train").glob("*.yaml"))
NETWORK = {**TINY, "ch": 16, "z_channels": 3}  # so many channels carry colours
SMALL = {
    "num_frames": 4,
    "image_size": 8,
    "num_workers": 0,
    "dtype": "fp32",
    "compile": False,
    "perceptual_weight": 0,
    "lpips_weights": "null",
    "disc_ndf": 4,
    "disc_layers": 1,
    "disc_start": 1,
    "log_interval": 1,
    "train_steps": 2,
}

pytestmark = pytest.mark.once


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_when_made_small(recipe, tmp_path, capsys):
    videos = write_dataset(tmp_path / "videos")
    start = write_checkpoint(tmp_path / "tae.safetensors")
    from_nothing = "tae_config:" in recipe.read_text()
    options = SMALL | ({"tae_config": NETWORK} if from_nothing else {"pretrained": start})
    options |= {"csv_path": videos / "videos.csv", "val_csv_path": videos / "videos.csv"}
    options |= {"video_folder": videos, "output_path": tmp_path / "run"}
    outcome = run(train.command, ["--config", recipe, *flags(**options)], capsys)
    assert outcome.code == 0, outcome.err
    first, *updates, last = lines_of(tmp_path / "run")
    assert [line["step"] for line in updates] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in updates)
    assert ("generator_loss" in updates[1]) == ("disc_weight:" in recipe.read_text())
    averaged = "ema_decay:" in recipe.read_text()
    for line in (first, last):
        assert line["val/psnr"] > 0
        assert ("val_ema/psnr" in line) == averaged
        assert ("ceiling/psnr" in line) != from_nothing


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_its_command_device_and_what_to_expect(recipe):
    header = recipe.read_text().split("\n\n")[0]
    for word in ("# command   ", "# device    ", "# expected  "):
        assert word in header
    assert f"configs/tae/train/{recipe.name}" in header
