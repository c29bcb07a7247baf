"""Encode videos one after another: decode, compute, and hand over to shards."""

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mg import backend, ranks
from mg.backend import Tensor
from mg.data import VideoError, read_fps, to_float
from mg.data.consecutive import read_consecutive
from mg.data.index import Failure
from mg.data.opening import reason_of
from mg.files import sha256
from mg.inference.dataset_settings import DatasetEncoding
from mg.inference.network import check_size, warn_of_memory
from mg.inference.sources import Source
from mg.interruption import Interruption
from mg.latents.encoding import Encoding, draw
from mg.latents.inventory import Inventory
from mg.latents.shard_writer import ShardWriter
from mg.latents.shards import Clip, EncodedFile, checksum, clip_key
from mg.models.tae.tae import TemporalAutoencoder

logger = logging.getLogger(__name__)

_PIECE = 8  # frames of a whole video that are read at a time: 0.8 GB of floats at 4K


class Latents(NamedTuple):
    """Those of one clip: its frames, height and width; what is stored of them."""

    size: tuple[int, int, int]
    array: np.ndarray


class DatasetEncoder:
    """Encodes videos one after another into shards: one process's work.

    Args:
        inventory: what is there already and need not be encoded.
    """

    def __init__(
        self,
        settings: DatasetEncoding,
        tae: TemporalAutoencoder,
        encoding: Encoding,
        inventory: Inventory,
    ):
        self._settings = settings
        self._tae = tae
        self._encoding = encoding
        self._inventory = inventory
        self._writer = ShardWriter(
            Path(settings.output_path),
            encoding,
            max_bytes=settings.shard_size << 20,
            max_seconds=60 * settings.shard_minutes,
        )
        self._interruption = Interruption()
        self._num_frames = 0  # encoded so far, for the progress bar
        self._size = (0, 0)  # of the last frames read
        self._warned: set[tuple[int, int]] = set()

    def encode_all(self, sources: list[Source]) -> list[Failure]:
        """Encode videos and write their shards; gives those that cannot be encoded."""
        failed = []
        total = sum(len(source.files) for source in sources)
        with (
            tqdm(total=total, unit="video", disable=not ranks.is_first()) as progress,
            logging_redirect_tqdm(),
            self._interruption,
        ):
            try:
                for source in sources:
                    self._interruption.check()
                    failed += self._encode(source, progress)
                    progress.update(len(source.files))
            finally:
                # Interrupted or not, what is encoded is kept.
                self._writer.flush()
        return failed

    def _encode(self, source: Source, progress: tqdm) -> list[Failure]:
        """Encode the clips of a video that are not there yet; gives what is wrong with it."""
        path = Path(self._settings.video_folder) / source.files[0].name
        content = source.video_sha256 or ""
        try:
            content = content or _sha256(path)
            if self._inventory.is_complete(content):
                count = self._inventory.count(content)
            else:
                count = self._encode_clips(path, content, progress)
        except (VideoError, FileNotFoundError) as error:
            self._writer.drop(content)
            logger.warning("%s", error)
            return [Failure(file.name, reason_of(error, path)) for file in source.files]
        for name, size, modified in source.files:
            self._writer.add_file(EncodedFile(name, content, count, size, modified))
        return []

    def _encode_clips(self, path: Path, content: str, progress: tqdm) -> int:
        """Encode and keep; gives the number of clips."""
        fps = float(read_fps(path) / self._settings.sample_stride)
        length = (self._settings.num_frames or 0) * self._settings.sample_stride
        count = 0
        for number, latents in enumerate(self._clips(path, content)):
            count += 1
            if latents is None:
                continue
            where = (clip_key(content, number), content, number, number * length)
            clip = Clip(*where, *latents.size, fps, checksum(latents.array))
            self._writer.add_clip(clip, latents.array)
            self._num_frames += clip.frames
            seconds = progress.format_dict["elapsed"]
            rate = f"{self._num_frames / max(seconds, 1e-9):.1f} frames/s"
            progress.set_postfix_str(rate, refresh=False)
        if count == 0:
            raise VideoError(
                f"{path}: shorter than a clip of {self._settings.num_frames} frames, which is "
                "encoded with keep_remainder only"
            )
        return count

    def _clips(self, path: Path, content: str) -> Iterator[Latents | None]:
        """Those of each clip of a video; None where they are there already."""
        there = self._inventory.clips_of(content)

        def rng(number: int) -> np.random.Generator:
            return np.random.default_rng((self._settings.seed, int(content, 16), number))

        if self._settings.num_frames is None:
            yield None if 0 in there else self._whole(path, rng(0))
            return
        number = 0
        for videos in self._batches(path):
            numbers = range(number, number + len(videos))
            number += len(videos)
            # Whole batches, so that no number depends on where a run before was killed.
            if there.issuperset(numbers):
                yield from [None] * len(videos)
                continue
            with backend.no_grad():
                x = backend.from_numpy(to_float(videos))
                _, *moments = self._tae.encode(x, sample=False)
            frames, height, width = videos.shape[1:4]
            arrays = zip(*map(backend.to_numpy, moments), strict=True)
            for clip, (mean, logvar) in zip(numbers, arrays, strict=True):
                if clip in there:
                    yield None
                    continue
                array = self._stored(path, mean, logvar, rng(clip))
                yield Latents((frames, height, width), array)

    def _batches(self, path: Path) -> Iterator[np.ndarray]:
        """Consecutive clips of a video, uint8 (b t h w 3)."""
        length, left = self._settings.num_frames or 1, self._settings.clips_per_video
        for piece in self._read(path, length * self._settings.batch_size):
            whole = len(piece) // length
            clips = piece[: whole * length].reshape(whole, length, *piece.shape[1:])
            rest = piece[None, whole * length :]
            for batch in (clips, rest if self._settings.keep_remainder else rest[:0]):
                batch = batch[:left]
                if not batch.size:  # a remainder of no frame is no clip
                    continue
                yield batch
                left = None if left is None else left - len(batch)
                if left == 0:
                    return

    def _whole(self, path: Path, rng: np.random.Generator) -> Latents:
        frames = 0

        def pieces() -> Iterator[Tensor]:
            nonlocal frames
            for piece in self._read(path, _PIECE):
                if frames == 0 and self._size not in self._warned:
                    self._warned.add(self._size)
                    warn_of_memory(str(path), self._size, self._tae, smaller_by="--image_size")
                frames += len(piece)
                yield backend.from_numpy(to_float(piece)[None])

        with backend.no_grad():
            latents = self._tae.encode_stream(pieces(), sample=False)
            parts = [
                self._stored(path, backend.to_numpy(mean)[0], backend.to_numpy(logvar)[0], rng)
                for _, mean, logvar in latents
            ]
        height, width = self._size
        return Latents((frames, height, width), np.concatenate(parts, 1))

    def _read(self, path: Path, num_frames: int) -> Iterator[np.ndarray]:
        settings = self._settings
        options = {"image_size": settings.image_size, "sample_stride": settings.sample_stride}
        for piece in _ahead(read_consecutive(path, num_frames, **options)):
            self._interruption.check()
            size = check_size(str(path), piece, self._tae)
            if size != self._size:
                self._size = size
                backend.forget_sizes()
            yield piece

    def _stored(
        self, path: Path, mean: np.ndarray, logvar: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """What is kept of a posterior, in the encoding's terms."""
        if self._encoding.stored == "moments":
            values = np.concatenate([mean, logvar])
        else:
            values = mean if self._encoding.stored == "mean" else draw(mean, logvar, rng)
        try:
            return self._encoding.to_stored(values)
        except ValueError as error:
            raise VideoError(f"{path}: {error}") from None


def _ahead(pieces: Generator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same pieces; the next is read while one is computed."""
    with closing(pieces), ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = thread.submit(next, pieces, None)
            yield piece


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror}") from None
