"""Labelled videos, written here."""

from pathlib import Path

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


def pytest_collection_modifyitems(items):
    """The data room knows no framework, so one pass of its tests is enough."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.once)
