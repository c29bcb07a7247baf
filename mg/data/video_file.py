"""Reading frames of a video by their numbers. An image is a video of one frame.

No other room opens a video. Frames are RGB, uint8, (t h w 3).
"""

import os
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from functools import lru_cache
from itertools import islice

import av
import numpy as np
from av.video.stream import VideoStream

from mg.data.opening import VideoError, check_file, open_video
from mg.data.pixels import to_rgb
from mg.data.seeking import (
    InexactSeek,
    decoded_table,
    frames_after_seek,
    frames_from_start,
    known_table,
)
from mg.files import Stamp, stamp_of

DEFAULT_FPS = Fraction(25)  # what FFmpeg gives an image


def count_frames(path: str | os.PathLike, at_most: int | None = None) -> int:
    """Count the frames of a video by decoding it: headers lie about their number.

    The count is remembered in this process for as long as the file does not change.

    Args:
        path: a video or an image.
        at_most: stop decoding here, when only "at least so many" matters.

    Returns:
        The number of frames, at least 1.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is empty, is no video, is damaged, is larger than `MAX_PIXELS`, or
            has no frame.
    """
    if at_most is None:
        return decoded_table(path).count
    check_file(path)
    return _count_up_to(os.fspath(path), stamp_of(path), at_most)


@lru_cache(maxsize=1 << 16)
def _count_up_to(path: str, stamp: Stamp, at_most: int) -> int:
    return sum(1 for _ in islice(frames_from_start(path), at_most))


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int] | np.ndarray,
    *,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    video_frames: int | None = None,
) -> np.ndarray:
    """Read the frames with the given indices; they may repeat and come in any order.

    They are those that decoding the file from its start gives. Where the file's frames are known
    (by an earlier `count_frames` or by `video_frames`), decoding begins at a key frame near the
    first wanted one, as far as that is sure to give the same.

    Only wanted frames are converted to RGB, turned upright as the file's rotation mark says (a
    phone's video, a photo's EXIF orientation; mirrored orientations are not told apart from
    turned ones). Transparency is composited on black and more than 8 bits are converted to 8; a
    warning says so once. Frames whose size differs from the first's are scaled to it.

    Args:
        path: a video or an image.
        indices: frame numbers, counted from 0; at least one.
        transform: applied to each wanted frame, uint8 (h w 3), as it is decoded, so that a
            large video that is to be cropped is never held whole.
        video_frames: the number of the file's frames, if it is stated somewhere. A wrong one costs
            time, and gives no wrong frame.

    Returns:
        uint8 (t h w 3), one frame for each index. What `transform` returns, stacked, if given.

    Raises:
        FileNotFoundError: no such file.
        VideoError: as in `count_frames`, or the video ends before a wanted frame.
        ValueError: no index, or a negative one.
    """
    places = defaultdict(list)
    for place, index in enumerate(indices):
        places[int(index)].append(place)
    if not places or min(places) < 0:
        raise ValueError(f"{path}: expected frame indices of 0 or more, got {list(indices)}")
    first, last = min(places), max(places)
    table = known_table(path, video_frames) if first > 0 else None
    if table is not None and table.timestamps is not None and last < table.count:
        # VideoError too: in a damaged file the seek alone may fail.
        with suppress(InexactSeek, VideoError):
            return _collect(path, frames_after_seek(path, table, first), places, transform)
    return _collect(path, frames_from_start(path), places, transform)


def _collect(
    path: str | os.PathLike,
    numbered: Generator[tuple[int, av.VideoFrame]],
    places: Mapping[int, list[int]],
    transform: Callable[[np.ndarray], np.ndarray] | None,
) -> np.ndarray:
    """Put each wanted frame where `places` says."""
    last, length = max(places), sum(map(len, places.values()))
    count, size, frames = 0, None, None
    with closing(numbered):
        for number, frame in numbered:
            size = size or (frame.width, frame.height)
            if number in places:
                image = to_rgb(frame, size, path)
                image = image if transform is None else transform(image)
                if frames is None:
                    frames = np.empty((length, *image.shape), image.dtype)
                frames[places[number]] = image
            if number == last and frames is not None:
                return frames
            count = number + 1
    raise VideoError(f"{path}: ends after {count} frames, but frame number {last} is wanted")


def read_fps(path: str | os.PathLike) -> Fraction:
    """Read the frame rate, in frames per second; 25 where the file states none, as in images.

    Raises:
        FileNotFoundError: no such file.
        VideoError: as in `count_frames`.
    """
    with open_video(path) as (_, stream):
        return stream_fps(stream)


def stream_fps(stream: VideoStream) -> Fraction:
    """The frame rate of an open video, as `read_fps` reads it."""
    return stream.average_rate or stream.guessed_rate or DEFAULT_FPS
