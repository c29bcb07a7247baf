"""What all tests share: optional real data, named by the environment variable MG_TEST_DATA."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest


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
