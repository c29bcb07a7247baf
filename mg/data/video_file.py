"""Reading and writing video files with PyAV. An image is a video of one frame.

No other module opens a video. Frames are RGB, uint8, (t h w 3).
"""

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from itertools import chain

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from mg.files import atomic_path

MAX_PIXELS = 8192 * 8192  # of one frame; twice 8K video. A header may claim any size.
DEFAULT_FPS = Fraction(25)  # what FFmpeg gives an image

_AVCOL_SPC_BT709 = 1  # the codec's name for what the reformatter calls Colorspace.ITU709


class VideoError(ValueError):
    """What is wrong with one video file: one line that begins with the file's path."""


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
    _check_file(path)
    return _count_frames(os.fspath(path), os.stat(path).st_mtime_ns, at_most)


@cache
def _count_frames(path: str, modified: int, at_most: int | None) -> int:
    count = 0
    with _open_video(path) as (container, stream):
        for _ in container.decode(stream):
            count += 1
            if count == at_most:
                break
    if count == 0:
        raise VideoError(f"{path}: holds no frame that can be decoded")
    return count


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int] | np.ndarray,
    *,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Read the frames with the given indices; they may repeat and come in any order.

    The file is decoded from its start to the last wanted frame, and only wanted frames are
    converted to RGB, turned upright as the file's rotation mark says (a phone's video, a photo's
    EXIF orientation; mirrored orientations are not told apart from turned ones). Transparency
    is dropped. Frames whose size differs from the first's are scaled to it.

    Args:
        path: a video or an image.
        indices: frame numbers, counted from 0; at least one.
        transform: applied to each wanted frame, uint8 (h w 3), as it is decoded, so that a
            large video that is to be cropped is never held whole.

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
    last = max(places)
    count, size, frames = 0, None, None
    with _open_video(path) as (container, stream):
        for frame in container.decode(stream):
            size = size or (frame.width, frame.height)
            if count in places:
                image = _to_rgb(frame, size)
                image = image if transform is None else transform(image)
                if frames is None:
                    frames = np.empty((len(indices), *image.shape), image.dtype)
                frames[places[count]] = image
            if count == last and frames is not None:
                return frames
            count += 1
    raise VideoError(f"{path}: ends after {count} frames, but frame number {last} is wanted")


def read_fps(path: str | os.PathLike) -> Fraction:
    """Read the frame rate, in frames per second; 25 where the file states none, as in images.

    Raises:
        FileNotFoundError: no such file.
        VideoError: as in `count_frames`.
    """
    with _open_video(path) as (_, stream):
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


def _check_file(path: str | os.PathLike) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such video file")
    if not os.path.isfile(path):
        raise VideoError(f"{path}: not a file, expected a video or an image")
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes), expected a video or an image")


@contextmanager
def _open_video(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Give the container and its video stream; both are dead after the `with` block."""
    _check_file(path)
    try:
        # An open file and no name, since FFmpeg takes names for more than files: "concat:a|b",
        # "%03d.png". The whitelist keeps a playlist that is called .mp4 from opening others.
        with (
            open(path, "rb") as file,
            av.open(
                file, "r", options={"protocol_whitelist": "pipe"}, metadata_errors="ignore"
            ) as container,
        ):
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise VideoError(f"{path}: has no video stream")
            if stream.codec_context is None:
                raise VideoError(f"{path}: no decoder for its kind of video")
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MAX_PIXELS:
                raise VideoError(
                    f"{path}: frames of {width}x{height} pixels, more than the limit {MAX_PIXELS}"
                )
            # The size may also change on the way.
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            # Worker processes already share the cores, each with a file of its own.
            in_worker = multiprocessing.parent_process() is not None
            stream.thread_type = "NONE" if in_worker else "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise VideoError(f"{path}: cannot be read as a video or an image: {reason}") from error


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
