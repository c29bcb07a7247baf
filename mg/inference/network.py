"""A video through the network, chunk by chunk: uint8 frames in and out, latents between."""

from collections.abc import Iterable, Iterator

import numpy as np

from mg import backend
from mg.data import VideoError, to_float, to_uint8
from mg.models.tae.tae import TemporalAutoencoder


def encoded(
    tae: TemporalAutoencoder,
    chunks: Iterable[np.ndarray],
    *,
    sample: bool = False,
    seed: int | None = None,
) -> Iterator[np.ndarray]:
    """Raw latents, float32 `(z t h w)` in chunks, of consecutive frames, uint8 `(t h w 3)`."""
    videos = (backend.from_numpy(to_float(frames)[None]) for frames in chunks)
    for z, _, _ in tae.encode_stream(videos, sample, seed=seed):
        yield backend.to_numpy(z)[0]


def decoded(
    tae: TemporalAutoencoder,
    latents: Iterable[np.ndarray],
    size: tuple[int, int],
    num_frames: int | None = None,
) -> Iterator[np.ndarray]:
    """Frames, uint8 `(t h w 3)` in chunks, of consecutive raw latents `(z t h w)`: `num_frames` of
    them, or all 8t, cut to `size`, (height, width)."""
    chunks = (backend.from_numpy(z[None]) for z in latents)
    for video in tae.decode_stream(chunks, num_frames, size):
        yield to_uint8(backend.to_numpy(video)[0])


def check_size(path: str, frames: np.ndarray, tae: TemporalAutoencoder) -> tuple[int, int]:
    """Height and width of frames `(t h w 3)`.

    Raises:
        VideoError: they are too small for the network.
    """
    height, width = frames.shape[1:3]
    if min(height, width) < tae.compression:
        raise VideoError(
            f"{path}: frames of {width}x{height} pixels, expected at least "
            f"{tae.compression}x{tae.compression}"
        )
    return height, width
