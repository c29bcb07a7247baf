"""One clip of a video: which frames, which pixels."""

import os

import numpy as np

from mg.data.transforms import MIN_IMAGE_SIZE, mirrored_indices, resize_and_crop, to_float
from mg.data.video_file import count_frames, read_frames
from mg.ranges import check_at_least


def load_clip(
    path: str | os.PathLike,
    num_frames: int | None,
    image_size: int | None,
    *,
    sample_stride: int = 1,
    rng: np.random.Generator | None = None,
    random_crop: bool = False,
    random_flip: bool = False,
    video_frames: int | None = None,
) -> np.ndarray:
    """Load a clip: its first frames and centre, or with `rng` frames from a random start.

    A video too short for the clip is extended by mirroring it in time (0 1 2 1 0 1 ...).

    Args:
        path: a video, or an image, which is a video of one frame.
        num_frames: the clip's length; None for the whole video.
        image_size: short side and square crop in pixels, at least 8; None for the video's own
            size, uncropped.
        sample_stride: take every n-th frame.
        rng: draws the start, and the crop and the flip if these are asked for.
        random_crop: crop at a random place, not the centre.
        random_flip: mirror the clip left to right, one time in two.
        video_frames: the number of the video's frames, if it is stated somewhere, which saves
            decoding it whole to count them.

    Returns:
        float32 (c t h w) in [-1, 1].

    Raises:
        FileNotFoundError: no such file.
        VideoError: what is wrong with the file; it ends before the `video_frames` stated, say.
        ValueError: an argument out of its range, or something random asked for without `rng`.
    """
    frames = read_clip(
        path,
        num_frames,
        image_size,
        sample_stride=sample_stride,
        rng=rng,
        random_crop=random_crop,
        random_flip=random_flip,
        video_frames=video_frames,
    )
    return to_float(frames)


def read_clip(
    path: str | os.PathLike,
    num_frames: int | None,
    image_size: int | None,
    *,
    sample_stride: int = 1,
    rng: np.random.Generator | None = None,
    random_crop: bool = False,
    random_flip: bool = False,
    max_zoom: float = 1.0,
    video_frames: int | None = None,
) -> np.ndarray:
    """Read a clip as `load_clip` does, but as frames: uint8 (t h w 3).

    With `rng`, a crop shows the frame's short side divided by a number drawn log-uniformly from 1
    to `max_zoom`; see `resize_and_crop`.
    """
    check_clip_arguments(num_frames, image_size, sample_stride)
    if rng is None and (random_crop or random_flip):
        raise ValueError("random_crop and random_flip need a random generator, got rng=None")
    indices = _frame_indices(path, num_frames, sample_stride, rng, video_frames)
    where = tuple(rng.random(2)) if rng is not None and random_crop else (0.5, 0.5)
    flip = rng is not None and random_flip and rng.random() < 0.5
    # Drawn last, and only where it is asked for: clips without it are what they always were.
    zoom = max_zoom ** rng.random() if rng is not None and max_zoom > 1 else 1.0

    def kept_pixels(frame: np.ndarray) -> np.ndarray:
        if image_size is not None:
            frame = resize_and_crop(frame, image_size, where, zoom)
        return frame[:, ::-1] if flip else frame

    return read_frames(path, indices, transform=kept_pixels, video_frames=video_frames)


def check_clip_arguments(
    num_frames: int | None, image_size: int | None, sample_stride: int
) -> None:
    """Raise a ValueError that names the first argument out of its range."""
    check_at_least(locals(), num_frames=1, image_size=MIN_IMAGE_SIZE, sample_stride=1)


def _frame_indices(
    path: str | os.PathLike,
    num_frames: int | None,
    stride: int,
    rng: np.random.Generator | None,
    video_frames: int | None,
) -> np.ndarray:
    if num_frames is None:
        return np.arange(0, video_frames or count_frames(path), stride)
    span = (num_frames - 1) * stride + 1
    # Without a random start, frames past the span do not matter and are not decoded.
    available = video_frames or count_frames(path, at_most=span if rng is None else None)
    if available < span:
        return mirrored_indices((available - 1) // stride + 1, num_frames) * stride
    start = 0 if rng is None else int(rng.integers(available - span + 1))
    return start + np.arange(num_frames) * stride
