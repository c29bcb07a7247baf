"""Read a directory of latents in any order, from Python, without a framework."""

import logging
import operator
import os
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from mg.latents.encoding import draw
from mg.latents.inventory import Row
from mg.latents.manifest import MANIFEST, read_manifest
from mg.latents.shards import (
    AGAIN,
    Place,
    checksum,
    read_array,
    read_shard,
    shard_paths,
    shard_size,
)

logger = logging.getLogger(__name__)


class LatentDataset:
    """The latents that `mg encode-dataset` wrote: an item for each clip of each file.

    A sequence, so PyTorch's DataLoader and MindSpore's GeneratorDataset take it as it is. It holds
    no open file and can be pickled; an item is read by one read from one shard, and compared with
    its checksum.

    Args:
        directory: that of the manifest and its shards.
        scaled: give scaled latents, as diffusion models are trained on, instead of raw ones;
            however they are stored.
        sample: where moments are stored, draw from the posterior; otherwise give its mean.
        seed: of that draw, which is then a function of seed, `epoch` and index; by default each
            access draws anew.

    Attributes:
        epoch: see `seed` and `shuffled`; set it before each epoch.
        encoding: checkpoint, config and settings of the latents.

    Raises:
        FileNotFoundError: no manifest, or a shard of it is missing.
        ValueError: the manifest is damaged, or tells of more than a shard holds; or a seed that is
            no whole number from 0.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        scaled: bool = False,
        sample: bool = True,
        seed: int | None = None,
    ):
        if seed is not None:
            _check_whole("seed", seed)
        self.directory = Path(directory).absolute()  # the process may go elsewhere
        self.epoch = 0
        self._table, self.encoding = read_manifest(directory)
        if len(self) == 0:
            raise ValueError(f"{self.directory / MANIFEST}: names no latents")
        self._check_places()
        self._warn_of_others()
        self._scaled, self._sample, self._seed = scaled, sample, seed

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Item `index`, in the order of the manifest, which is by file and clip.

        Returns:
            "latents", float32 `(z t h w)`; and of its clip, as they were encoded, "frames",
            "height", "width", "fps"; "file", its name in the CSV; "clip", its number in the file;
            "start", the file's frame that it begins with.

        Raises:
            IndexError: no such item.
            ValueError, OSError: its latents were damaged or lost since the directory was opened.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.directory}: item {index} of {len(self)}")
        index %= len(self)
        _check_whole("epoch", self.epoch)
        return self._item(index, None if self._seed is None else (self._seed, self.epoch, index))

    def shuffled(self, seed: int = 0, epoch: int | None = None) -> Iterator[dict[str, Any]]:
        """All items, each once, in random order. Order and draws are a function of seed and epoch,
        which is the attribute by default.

        Raises:
            ValueError: one of them is no whole number from 0.
        """
        epoch = self.epoch if epoch is None else epoch
        _check_whole("seed", seed)
        _check_whole("epoch", epoch)
        for index in np.random.default_rng((seed, epoch)).permutation(len(self)):
            yield self._item(int(index), (seed, epoch, int(index)))

    def row(self, index: int) -> Row:
        """A row of the manifest."""
        return Row(*(self._table[name][index].as_py() for name in Row._fields))

    def stored(self, index: int) -> np.ndarray:
        """The array of an item as it is in its shard: see `encoding` for what it means.

        Raises:
            ValueError, OSError: as in `[index]`.
        """
        return self._stored(self.row(index))

    def distinct(self) -> list[int]:
        """The first item of each stored array: files with the same content share theirs."""
        first: dict[str, int] = {}
        for index, key in enumerate(self._table["key"].to_pylist()):
            first.setdefault(key, index)
        return list(first.values())

    def _stored(self, row: Row) -> np.ndarray:
        path = self.directory / row.shard
        array = read_array(path, self._place(row.offset, row.frames, row.height, row.width))
        if checksum(array) != row.crc32:
            raise ValueError(f"{path}: the latents {row.key} of {row.file} are damaged{AGAIN}")
        return array

    def _item(self, index: int, seed: tuple[int, ...] | None) -> dict[str, Any]:
        row = self.row(index)
        latents = self._stored(row).astype(np.float32)
        if self.encoding.stored == "moments":
            mean, logvar = np.split(latents, 2)
            latents = draw(mean, logvar, np.random.default_rng(seed)) if self._sample else mean
        if self._scaled != self.encoding.scaled:
            convert = self.encoding.scale if self._scaled else self.encoding.unscale
            latents = convert(latents)
        keys = ("file", "clip", "start", "frames", "height", "width", "fps")
        return {"latents": latents, **{key: getattr(row, key) for key in keys}}

    def _place(self, offset: int, *size: int) -> Place:
        return Place(offset, self.encoding.shape(*size), self.encoding.dtype)

    def _check_places(self) -> None:
        """Raise unless each array is within a shard of the directory. Whether it is the right one
        its checksum says when it is read; the headers of all shards would take too long here."""
        shards = self._table["shard"].unique().to_pylist()
        num_bytes = {name: self._size_of(name) for name in shards}
        keys = ["shard", "frames", "height", "width"]
        groups = self._table.group_by(keys, use_threads=False)
        for group in groups.aggregate([("offset", "min"), ("offset", "max")]).to_pylist():
            name, *size = (group[key] for key in keys)
            if min(size) < 1 or group["offset_min"] < 0:
                raise ValueError(
                    f"{self.directory / MANIFEST}: a row has impossible sizes: {group}"
                )
            end = self._place(group["offset_max"], *size).end
            if end > num_bytes[name]:
                path = self.directory / name
                raise ValueError(
                    f"{path}: has {num_bytes[name]} bytes, the manifest tells of {end}{AGAIN}"
                )

    def _size_of(self, shard: str) -> int:
        if Path(shard).name != shard:
            raise ValueError(f"{self.directory / MANIFEST}: {shard!r}, expected a shard's name")
        return shard_size(self.directory / shard)

    def _warn_of_others(self) -> None:
        """Tell of videos whose latents are in shards that the manifest does not name."""
        named = {*self._table["shard"].unique().to_pylist()}
        others = [path for path in shard_paths(self.directory) if path.name not in named]
        encoded = {file.file for path in others for file in read_shard(path).files}
        if encoded and (new := encoded.difference(self._table["file"].to_pylist())):
            logger.warning(
                "%s: its manifest lacks %d videos that are encoded, run `mg encode-dataset` again",
                self.directory,
                len(new),
            )


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected a whole number from 0")
