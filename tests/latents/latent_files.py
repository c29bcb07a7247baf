"""A directory of latents without a network: random numbers in the shapes of a tiny one."""

import hashlib
from pathlib import Path

import numpy as np

from mg.latents.encoding import Encoding
from mg.latents.inventory import read_inventory
from mg.latents.manifest import write_manifest
from mg.latents.shard_writer import ShardWriter
from mg.latents.shards import Clip, EncodedFile, checksum, clip_key
from mg.models.tae.config import TAE_CONFIG

CONFIG = {
    **TAE_CONFIG,
    "z_channels": 3,
    "ch_mult": [1, 2],
    "scaling_factor": 1.5,
    "shift_factor": 0.25,
}
SIZES = [(4, 8, 8), (4, 8, 8), (3, 8, 8), (9, 10, 12), (1, 16, 6)]
"""Frames, height and width of each clip; a file has two, the last has one."""


def make_encoding(checkpoint_sha256="ab" * 32, **settings) -> Encoding:
    settings = {"stored": "mean", "scaled": False, "precision": "fp32", **settings}
    return Encoding(checkpoint_sha256, CONFIG, settings)


def write_latents(directory: Path, rng=None, sizes=None, max_bytes=700, **settings) -> dict:
    """Write shards and manifest of numbers that `rng` draws; gives the arrays by (file, clip)."""
    directory.mkdir(parents=True, exist_ok=True)
    encoding, rng = make_encoding(**settings), rng or np.random.default_rng(0)
    writer = ShardWriter(directory, encoding, max_bytes=max_bytes, max_seconds=1e9)
    arrays = {}
    sizes = SIZES if sizes is None else sizes
    for place in range(0, len(sizes), 2):
        name = f"{place // 2}.mp4"
        content = hashlib.sha256(name.encode()).hexdigest()
        clips = sizes[place : place + 2]
        for number, size in enumerate(clips):
            array = rng.standard_normal(encoding.shape(*size)).astype(encoding.dtype)
            where = (clip_key(content, number), content, number, 4 * number)
            writer.add_clip(Clip(*where, *size, 12.5, checksum(array)), array)
            arrays[name, number] = array
        writer.add_file(EncodedFile(name, content, len(clips), 1000 + place, 7))
    writer.flush()
    write_manifest(directory, read_inventory(directory, encoding).rows(), encoding)
    return arrays
