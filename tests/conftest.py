"""Data for the tests: labelled videos written here, or the real clips of MG_TEST_DATA."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from .sample_videos import NUM_FILES, labelled_frames, write_csv, write_losslessly


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A folder of labelled videos 0.mkv .. 4.mkv and its index.csv."""
    folder = tmp_path_factory.mktemp("dataset")
    for file in range(NUM_FILES):
        write_losslessly(folder / f"{file}.mkv", labelled_frames(file))
    write_csv(folder / "index.csv", [f"{file}.mkv" for file in range(NUM_FILES)])
    return folder


@pytest.fixture(scope="session")
def manifest():
    """The real clips: path -> row of their manifest, with the true frame count."""
    root = os.environ.get("MG_TEST_DATA")
    if not root or not (Path(root) / "clips" / "manifest.csv").is_file():
        pytest.skip("MG_TEST_DATA names no folder with clips/manifest.csv")
    clips = Path(root) / "clips"
    with open(clips / "manifest.csv", encoding="utf-8", newline="") as file:
        return {clips / row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)
