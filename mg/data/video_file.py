"""Reading and writing video files with PyAV. An image is a video of one frame.

No other room opens a video. Frames are RGB, uint8, (t h w 3).
"""

import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from mg.data.opening import VideoError, check_file, open_video
from mg.data.seeking import (
    InexactSeek,
    decoded_table,
    frames_after_seek,
    frames_from_start,
    known_table,
)
from mg.files import atomic_path

DEFAULT_FPS = Fraction(25)  # what FFmpeg gives an image

_AVCOL_SPC_BT709 = 1  # the codec's name for what the reformatter calls Colorspace.ITU709


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
    return _count_up_to(os.fspath(path), os.stat(path).st_mtime_ns, at_most)


@lru_cache(maxsize=1 << 16)
def _count_up_to(path: str, modified: int, at_most: int) -> int:
    count = sum(1 for _ in islice(frames_from_start(path), at_most))
    if count == 0:
        raise VideoError(f"{path}: holds no frame that can be decoded")
    return count


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int] | np.ndarray,
    *,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    num_frames: int | None = None,
) -> np.ndarray:
    """Read the frames with the given indices; they may repeat and come in any order.

    They are those that decoding the file from its start gives. Where the file's frames are known
    (by an earlier `count_frames` or by `num_frames`), decoding begins at a key frame near the
    first wanted one, as far as that is sure to give the same.

    Only wanted frames are converted to RGB, turned upright as the file's rotation mark says (a
    phone's video, a photo's EXIF orientation; mirrored orientations are not told apart from
    turned ones). Transparency is dropped. Frames whose size differs from the first's are scaled
    to it.

    Args:
        path: a video or an image.
        indices: frame numbers, counted from 0; at least one.
        transform: applied to each wanted frame, uint8 (h w 3), as it is decoded, so that a
            large video that is to be cropped is never held whole.
        num_frames: the number of the file's frames, if it is stated somewhere. A wrong one costs
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
    table = known_table(path, num_frames) if first > 0 else None
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
                image = _to_rgb(frame, size)
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


def write_video(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    *,
    crf: int = 10,
    codec: str = "libx264",
) -> None:
    """Write frames as a video that is complete or, if anything fails, not there.

    The size is kept exactly. Even sizes are stored as yuv420p, which every player and browser
    shows; that format cannot hold an odd size, which is stored as yuv444p instead (VLC, mpv and
    FFmpeg show it, most browsers do not). Colours are BT.709 and marked so.

    Args:
        path: its suffix chooses the container; .mp4 goes with the default codec.
        frames: uint8 (t h w 3), or any iterable of uint8 (h w 3) of one size.
        fps: frames per second.
        crf: the codec's constant rate factor. Lower is better and larger; 10 is close to
            invisible loss, so that what a person judges is the video and not the codec.
        codec: an FFmpeg encoder.

    Raises:
        ValueError: no frames, frames of another type, shape or of several sizes, or a frame
            rate that is not above 0.
        OSError: the file cannot be written.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: no frames to write")
    if not 0 < fps < float("inf"):
        raise ValueError(f"{path}: expected a frame rate above 0, got {fps}")
    shape = np.shape(first)
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = None
        for number, image in enumerate(chain([first], frames)):
            _check_image(path, image, shape)
            stream = stream or _add_stream(container, shape, fps, crf, codec)
            frame = _from_rgb(image, stream.pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))


def _to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    # One thread: swscale would start a pool of its own for every frame.
    width, height = size
    image = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
    return np.rot90(image, round(frame.rotation / 90))


def _from_rgb(image: np.ndarray, pixel_format: str | None) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format=pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )


def _check_image(path: str | os.PathLike, image: np.ndarray, shape: tuple[int, ...]) -> None:
    right = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == shape
    if not right or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        given = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
        raise ValueError(f"{path}: expected uint8 frames (h w 3) of one size, got {given}")


def _add_stream(
    container: OutputContainer,
    shape: tuple[int, ...],
    fps: float | Fraction,
    crf: int,
    codec: str,
) -> VideoStream:
    # 1001 is the largest denominator among broadcast rates, as 30000/1001 for "29.97".
    rate = Fraction(fps).limit_denominator(1001)
    stream = container.add_stream(codec, rate=rate, options={"crf": str(crf)})
    if not isinstance(stream, VideoStream):
        raise ValueError(f"codec: expected a video encoder, got '{codec}'")
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
    stream.codec_context.colorspace = _AVCOL_SPC_BT709
    stream.codec_context.color_range = ColorRange.MPEG
    stream.codec_context.color_primaries = ColorPrimaries.BT709
    stream.codec_context.color_trc = ColorTrc.BT709
    return stream
