"""Arithmetic of clips in numpy and Pillow: pixel values, lengths in time, resize and crop."""

import numpy as np
from PIL import Image

MIN_IMAGE_SIZE = 8  # one latent pixel covers 8 x 8 pixels


def to_float(frames: np.ndarray) -> np.ndarray:
    """Turn frames, uint8 (... t h w c), into video, float32 (... c t h w) in [-1, 1].

    Raises:
        ValueError: numbers of another type, which may be in another range.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype}, expected uint8 from 0 to 255")
    video = np.ascontiguousarray(np.moveaxis(frames, -1, -4)).astype(np.float32)
    video /= 127.5
    video -= 1.0
    return video


def to_uint8(video: np.ndarray) -> np.ndarray:
    """Turn video, floats (... c t h w) in [-1, 1], into frames, uint8 (... t h w c).

    Values are rounded to the nearest level and clipped, so every level survives
    `to_uint8(to_float(frames))`.

    Raises:
        ValueError: a value is NaN or infinite, as a network's whose weights are ruined.
    """
    video = np.asarray(video, np.float32)
    if not np.isfinite(video).all():
        raise ValueError("the video holds NaN or infinite values")
    frames = np.rint((np.clip(video, -1, 1) + 1.0) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(frames, -4, -1))


def mirrored_indices(num_available: int, num_wanted: int) -> np.ndarray:
    """Extend 0 .. num_available - 1 to `num_wanted` indices by mirroring in time.

    Three frames become 0 1 2 1 0 1 2 ...; a single one repeats.
    """
    period = max(2 * (num_available - 1), 1)
    phase = np.arange(num_wanted) % period
    return np.where(phase < num_available, phase, period - phase)


def scaled_down(frame: np.ndarray, max_size: int) -> np.ndarray:
    """Scale a frame, uint8 (h w 3), so that its longer side has at most `max_size` pixels.

    A smaller one stays as it is. Others keep their aspect to within a pixel: both sides become
    even, as many players of video expect, and none falls below `MIN_IMAGE_SIZE`. Bicubic and
    antialiased, as `resize_and_crop`.
    """
    height, width = frame.shape[:2]
    longest = max(height, width)
    if longest <= max_size:
        return frame
    most = max_size // 2 * 2
    scaled = [2 * round(length * most / longest / 2) for length in (width, height)]
    least = (min(length, MIN_IMAGE_SIZE) for length in (width, height))
    size = [*map(max, scaled, least)]
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def resize_and_crop(
    frame: np.ndarray,
    image_size: int,
    where: tuple[float, float] = (0.5, 0.5),
    zoom: float = 1.0,
) -> np.ndarray:
    """Resize a frame's short side to `image_size * zoom`, then crop a square of `image_size`.

    The resize is bicubic and antialiased. Only the pixels that are kept are computed.

    Args:
        frame: uint8 (h w 3).
        image_size: the square's side in pixels.
        where: the square's place along (height, width), each in [0, 1): 0 is the top or left
            edge, 0.5 the centre.
        zoom: 1 or more; less where it would enlarge the frame.

    Returns:
        uint8 (image_size image_size 3).
    """
    height, width = frame.shape[:2]
    side = min(height, width)
    side /= min(zoom, max(side / image_size, 1.0))  # of the square, in source pixels
    scale = side / image_size  # source pixels per pixel of the result
    # The square lies on the grid of the resized frame, as if all of that had been computed.
    rows, columns = (int(length * image_size / side) - image_size + 1 for length in (height, width))
    top, left = int(where[0] * rows) * scale, int(where[1] * columns) * scale
    box = (left, top, min(left + side, width), min(top + side, height))
    resized = Image.fromarray(frame).resize(
        (image_size, image_size), Image.Resampling.BICUBIC, box=box
    )
    return np.asarray(resized)
