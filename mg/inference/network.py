"""A video through the network, chunk by chunk: uint8 frames in and out, latents between."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from mg import backend
from mg.data import VideoError, to_float, to_uint8
from mg.memory import available_memory
from mg.models.tae.tae import TemporalAutoencoder

logger = logging.getLogger(__name__)

# What encoding and decoding a long stream takes on a CPU, for each pixel of a frame and each of the
# network's `ch` channels: docs/performance.md#large-frames.
_BYTES = {"torch": 450, "mindspore": 600}


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


def warn_of_memory(
    path: str, size: tuple[int, int], tae: TemporalAutoencoder, *, smaller_by: str | None = None
) -> None:
    """Say so if a long video of frames of (height, width) may need more memory than the machine has
    left, before hours are spent on it.

    Args:
        smaller_by: the option that makes frames smaller.
    """
    available = available_memory()
    if available is None or not backend.on_cpu():
        return
    height, width = size
    needed = _BYTES[backend.name] * height * width * tae.config["ch"]
    if needed > available:
        logger.warning(
            "%s: frames of %dx%d pixels may take up to %.0f GiB of memory, %.0f are available%s",
            path,
            width,
            height,
            needed / 2**30,
            available / 2**30,
            f" ({smaller_by} makes them smaller)" if smaller_by else "",
        )
