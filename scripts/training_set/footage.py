"""Telling whether two videos show the same footage, also where one was made from the other by
another codec, size or frame rate."""

import os

import numpy as np
from PIL import Image

from mg.data.video_file import count_frames, read_frames

SIDE = 16  # pixels of a frame's thumbnail
EVERY = 5  # frames
PLAIN = 10.0  # grey levels: deviation below which a frame tells nothing
ALIKE = 0.95  # correlation of thumbnails: a frame transcoded has 1.00, unlike ones reach 0.85


def signature(path: str | os.PathLike) -> np.ndarray:
    """Thumbnails of every `EVERY`-th frame that is not plain: float32 (n, SIDE * SIDE), each of
    mean 0 and length 1.

    Raises:
        VideoError: see `mg.data.count_frames`.
    """
    indices = np.arange(0, count_frames(path), EVERY)
    small = read_frames(path, indices, transform=_thumbnail).reshape(len(indices), -1)
    small = small.astype(np.float32)
    small = small[small.std(1) > PLAIN]
    small -= small.mean(1, keepdims=True)
    return small / np.linalg.norm(small, axis=1, keepdims=True)


def shows_the_same(video: np.ndarray, others: list[np.ndarray]) -> bool:
    """Whether any frame of a video is in one of others, all given by their signatures."""
    return any(len(video) and len(other) and (video @ other.T).max() > ALIKE for other in others)


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    return np.asarray(
        Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    )
