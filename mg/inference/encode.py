"""Encode one video, of any length, to a latent file."""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from mg import backend
from mg.data import Chunk, promised_frames, read_fps
from mg.evaluation.network import open_network
from mg.files import check_apart, sha256
from mg.inference.network import check_size, encoded, warn_of_memory
from mg.inference.progress import frame_progress
from mg.inference.settings import FileEncoding
from mg.interruption import each_uninterrupted
from mg.latents.encoding import Encoding
from mg.latents.file import Video, check_name, write_latents
from mg.models.tae.weights import weights_file


def encode(settings: FileEncoding) -> Video:
    """Encode a video to a latent file (see `mg.latents.file`), in constant memory; gives what video
    it is.

    Raises:
        ValueError, OSError: something is wrong with settings, input, checkpoint or output; nothing
            is written then.
    """
    check_name(settings.target)
    checkpoint = weights_file(settings.ckpt_path)
    check_apart([settings.target], [settings.source, checkpoint])
    promised = promised_frames(settings.source)
    fps = read_fps(settings.source)
    tae = open_network(settings)
    encoding = Encoding(sha256(checkpoint), tae.config, settings.deciding())
    reader = settings.chunks()
    chunks = each_uninterrupted(reader)
    with (
        frame_progress(promised, settings.num_frames) as progress,
        closing(reader),
        backend.no_grad(),
    ):
        first = next(chunks)
        size = check_size(settings.source, first.frames, tae)
        warn_of_memory(settings.source, size, tae, smaller_by="--max_size")
        clock = _Clock(fps)

        def entering(chunks: Iterable[Chunk]) -> Iterator[np.ndarray]:
            for chunk in chunks:
                clock.add(chunk.times)
                yield chunk.frames

        def leaving() -> Iterator[np.ndarray]:
            frames = entering(chain([first], chunks))
            for z in encoded(tae, frames, sample=settings.sample, seed=settings.seed):
                yield z
                progress.update(min(z.shape[1] * tae.compression, len(clock.times) - progress.n))

        def describe() -> Video:
            return Video(Path(settings.source).name, len(clock.times), *size, fps, clock.varying())

        write_latents(settings.target, leaving(), encoding, describe)
    return describe()


class _Clock:
    """Gathers the times of frames, in seconds from the first."""

    def __init__(self, fps: Fraction):
        self._fps = fps
        self._first: Fraction | None = None
        self._is_constant = True
        self.times = array("d")

    def add(self, times: list[Fraction]) -> None:
        for time in times:
            self._first = time if self._first is None else self._first
            regular = len(self.times) / self._fps
            self._is_constant &= time - self._first == regular
            self.times.append(float(time - self._first))

    def varying(self) -> np.ndarray | None:
        """The times, unless the frame rate tells them."""
        return None if self._is_constant else np.array(self.times)
