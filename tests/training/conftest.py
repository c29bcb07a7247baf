"""One short training run that many tests look at, and the videos for it."""

from pathlib import Path

import pytest
from cli.support import train_flags, write_dataset

from mg.cli.main import main


@pytest.fixture(scope="package")
def videos(tmp_path_factory):
    """A folder of three videos and videos.csv."""
    return write_dataset(tmp_path_factory.mktemp("videos"))


RUN = {"train_steps": 5, "log_interval": 2, "random_flip": True, "compile": "null"}


@pytest.fixture(scope="package")
def run_directory(videos, tmp_path_factory) -> Path:
    """The directory of a run of five steps, on MindSpore in graph mode."""
    output = tmp_path_factory.mktemp("runs") / "deep" / "run"
    assert main(["train", *train_flags(videos, output, **RUN)]) == 0
    return output
