"""Gather latents and write them as shards."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np

from mg.arrays import write_arrays
from mg.latents.encoding import Encoding
from mg.latents.shards import FORMAT, SHARDS, Clip, EncodedFile

_MAX_RECORDS = 10_000  # in a shard, which keeps its header far below `MAX_HEADER`


class ShardWriter:
    """Gathers latents, and writes a shard whenever there are enough of them.

    Args:
        directory: an existing one.
        encoding: of all latents.
        max_bytes: of a shard's arrays; a clip larger than that has a shard of its own.
        max_seconds: how long latents may wait, so that a kill costs no more than that.
    """

    def __init__(self, directory: Path, encoding: Encoding, *, max_bytes: int, max_seconds: float):
        self._directory = directory
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clips: dict[str, tuple[Clip, np.ndarray]] = {}
        self._files: list[EncodedFile] = []
        self._num_bytes = 0
        self._since = time.monotonic()

    def add_clip(self, clip: Clip, latents: np.ndarray) -> None:
        """Take a clip's latents, in the encoding's dtype and shape.

        Raises:
            OSError: a shard cannot be written.
        """
        if self._clips and self._num_bytes + latents.nbytes > self._max_bytes:
            self.flush()
        self._begin()
        self._clips[clip.key] = clip, latents
        self._num_bytes += latents.nbytes

    def add_file(self, file: EncodedFile) -> None:
        """Take note that all clips of a file were added, or are in shards already.

        Raises:
            OSError: a shard cannot be written.
        """
        self._begin()
        self._files.append(file)

    def drop(self, video_sha256: str) -> None:
        """Forget the clips of a video that wait to be written."""
        kept = {k: v for k, v in self._clips.items() if v[0].video_sha256 != video_sha256}
        self._clips = kept
        self._num_bytes = sum(array.nbytes for _, array in kept.values())

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: the shard cannot be written; none is left then.
        """
        if not self._clips and not self._files:
            return
        clips = [clip._asdict() for clip, _ in self._clips.values()]
        files = [file._asdict() for file in self._files]
        metadata = {
            "format": FORMAT,
            "encoding": self._encoding.to_json(),
            "clips": json.dumps(clips),
            "files": json.dumps(files),
        }
        # Named by what it holds: no two processes, of this run or another, give one name twice.
        name = hashlib.sha256(json.dumps(metadata).encode()).hexdigest()[:20]
        arrays = {key: array for key, (_, array) in self._clips.items()}
        write_arrays(self._directory / SHARDS.replace("*", name), arrays, metadata)
        self._clips, self._files, self._num_bytes = {}, [], 0

    def _begin(self) -> None:
        """Write what has waited for too long, or became too much, before more is added."""
        waiting = len(self._clips) + len(self._files)
        late = time.monotonic() - self._since > self._max_seconds
        if waiting and (late or waiting >= _MAX_RECORDS):
            self.flush()
        if not self._clips and not self._files:
            self._since = time.monotonic()
