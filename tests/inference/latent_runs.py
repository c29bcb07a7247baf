"""Runs of `mg encode-dataset` and what they leave."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from cli.support import data_flags, flags

from mg.latents import LatentDataset
from mg.latents.manifest import MANIFEST
from mg.latents.shards import read_shard, shard_paths


def encode_flags(videos, output, checkpoint, **changes) -> list[str]:
    """A command line that encodes clips of 4 frames."""
    options = {"ckpt_path": checkpoint, "num_frames": 4, "compile": False}
    options = {**data_flags(videos, output), **options, **changes}
    return flags(**{key: value for key, value in options.items() if value is not None})


def rows_of(output: Path) -> list[dict]:
    return parquet.read_table(output / MANIFEST).to_pylist()


def latents_of(output: Path) -> dict[tuple, np.ndarray]:
    """The stored arrays by (file, clip); each row of the manifest is there once."""
    dataset = LatentDataset(output)
    arrays = {}
    for index in range(len(dataset)):
        row = dataset.row(index)
        assert (row.file, row.clip) not in arrays
        arrays[row.file, row.clip] = dataset.stored(index)
    return arrays


def keys_of(output: Path) -> list[str]:
    """The names of all arrays of all shards."""
    return [key for path in shard_paths(output) for key in read_shard(path).places]


def assert_same_latents(one: Path, other: Path) -> None:
    """The same rows but for where they are, and the same bits."""
    for first, second in zip(rows_of(one), rows_of(other), strict=True):
        for place in ("shard", "offset"):
            first.pop(place), second.pop(place)
        assert first == second
    first, second = latents_of(one), latents_of(other)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


def assert_clean(output: Path) -> None:
    """Nothing but whole files is left."""
    names = {path.name for path in output.iterdir()} - {path.name for path in shard_paths(output)}
    assert names <= {MANIFEST, "bad.csv", ".lock", ".lock-run"}, names
