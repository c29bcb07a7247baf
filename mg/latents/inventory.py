"""What the shards of a directory hold together: which files are done, and where each clip is."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mg.latents.encoding import Encoding
from mg.latents.shards import Clip, EncodedFile, Shard, read_shard, shard_paths


class Row(NamedTuple):
    """A row of the manifest: a clip of a file, and where its latents are.

    `shard` is a file of the directory, `key` the array's name in it and `offset` its first byte;
    the others are as in `Clip` and `EncodedFile`. Files with the same content share their latents.
    """

    file: str
    clip: int
    start: int
    frames: int
    height: int
    width: int
    fps: float
    shard: str
    key: str
    offset: int
    crc32: int
    video_sha256: str


class Inventory:
    """What a set of shards holds.

    Attributes:
        files: the record of each file, by its name in the CSV.
    """

    def __init__(self, shards: Iterable[Shard]):
        self.files: dict[str, EncodedFile] = {}
        self._clips: defaultdict[str, dict[int, tuple[str, int, Clip]]] = defaultdict(dict)
        for shard in shards:
            for clip in shard.clips:
                place = (shard.path.name, shard.places[clip.key].offset, clip)
                self._clips[clip.video_sha256].setdefault(clip.number, place)
            for file in shard.files:
                self.files.setdefault(file.file, file)
        self._counts = {file.video_sha256: file.clips for file in self.files.values()}

    def clips_of(self, video_sha256: str) -> set[int]:
        """The numbers of the clips that are there of a video."""
        return set(self._clips.get(video_sha256, ()))

    def is_complete(self, video_sha256: str) -> bool:
        """Whether all clips of a video are there."""
        count, clips = self._counts.get(video_sha256), self._clips.get(video_sha256, {})
        return count is not None and all(number in clips for number in range(count))

    def count(self, video_sha256: str) -> int:
        """The number of clips of a complete video."""
        return self._counts[video_sha256]

    def rows(self) -> list[Row]:
        """The manifest's rows, by file and clip: of all files that are complete."""
        rows = []
        for name in sorted(self.files):
            file = self.files[name]
            if not self.is_complete(file.video_sha256):
                continue
            for number in range(file.clips):
                shard, offset, clip = self._clips[file.video_sha256][number]
                size = (clip.start, clip.frames, clip.height, clip.width, clip.fps)
                where = (shard, clip.key, offset, clip.crc32, clip.video_sha256)
                rows.append(Row(name, number, *size, *where))
        return rows


def read_inventory(directory: str | os.PathLike, encoding: Encoding) -> Inventory:
    """Read the headers of all shards of a directory.

    Raises:
        ValueError: a shard is damaged, or its latents were encoded in another way.
    """
    return Inventory(_shards_of(Path(directory), encoding))


def _shards_of(directory: Path, encoding: Encoding) -> Iterable[Shard]:
    for path in shard_paths(directory):
        shard = read_shard(path)
        difference = shard.encoding.difference(encoding)
        if difference is not None:
            raise ValueError(
                f"{shard.path}: its latents were encoded in another way than now: {difference}; "
                "expected the same, or another output_path"
            )
        yield shard
