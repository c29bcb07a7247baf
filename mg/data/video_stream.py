"""Reading a whole video once, in order, in constant memory, with the times of its frames."""

import logging
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from mg.data.opening import NO_FRAME, VideoError, jpeg_fault, open_video, reason_of
from mg.data.pixels import to_rgb
from mg.data.timing import Clock, missing, promised_seconds
from mg.data.transforms import MIN_IMAGE_SIZE, scaled_down
from mg.data.video_file import stream_fps
from mg.ranges import check_at_least

logger = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """Consecutive frames, uint8 (t h w 3), and when each is shown, in seconds from the file's
    start: strictly increasing."""

    frames: np.ndarray
    times: list[Fraction]


def read_chunks(
    path: str | os.PathLike,
    chunk_frames: int,
    *,
    num_frames: int | None = None,
    max_size: int | None = None,
) -> Generator[Chunk]:
    """Read a video or an image from its first frame to its last.

    Pixels are those of `read_frames`, but for scaling. Of a damaged or cut file, the frames that
    can be decoded are given, and one warning says how many there were. Frames whose time is missing
    or not after the one before follow at the frame rate.

    Args:
        path: a video or an image.
        chunk_frames: length of all chunks but the last.
        num_frames: end after as many frames.
        max_size: scale larger frames down, as `scaled_down` does; at least 8.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is empty, is no video, is larger than `MAX_PIXELS`, or has no
            frame that can be decoded.
        ValueError: an argument out of its range.
    """
    check_at_least(locals(), chunk_frames=1, num_frames=1, max_size=MIN_IMAGE_SIZE)
    frames = islice(_timed_frames(path, max_size), num_frames)
    while pairs := list(islice(frames, chunk_frames)):
        yield Chunk(np.stack([image for image, _ in pairs]), [time for _, time in pairs])


def promised_frames(path: str | os.PathLike) -> int | None:
    """How many frames the header promises, or None. For a progress bar: headers lie.

    Raises:
        FileNotFoundError, VideoError: as `read_chunks`.
    """
    with open_video(path) as (container, stream):
        seconds, _ = promised_seconds(container, stream)
        return stream.frames or round(seconds * stream_fps(stream)) or None


def _timed_frames(
    path: str | os.PathLike, max_size: int | None
) -> Iterator[tuple[np.ndarray, Fraction]]:
    """Each frame and its time; a word about what is missing in the end."""
    count, size, faults = 0, None, []
    lost = ""
    try:
        with open_video(path) as (container, stream):
            clock = Clock(container, stream)
            for frame in _decoded(container, stream, faults):
                size = size or (frame.width, frame.height)
                image = to_rgb(frame, size, path)
                image = image if max_size is None else scaled_down(image, max_size)
                yield image, clock.next(frame)
                count += 1
            lost = missing(container, stream, clock)
            if fault := jpeg_fault(path, container, stream):
                faults.append(fault)
    except VideoError as error:
        if count == 0:
            raise
        faults.append(reason_of(error, path))
    if count == 0:
        reason = f" ({faults[0]})" if faults else ""
        raise VideoError(f"{path}: {NO_FRAME}{reason}")
    if faults:
        lost += f": damaged ({len(faults)}x {faults[0]})"
    if lost:
        logger.warning("%s: %d frames were read%s", path, count, lost)


def _decoded(
    container: InputContainer, stream: VideoStream, faults: list[str]
) -> Iterator[av.VideoFrame]:
    """The frames that can be decoded; what is wrong with others goes to `faults`."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError as error:
            faults.append(error.strerror or str(error))
            continue
        yield from frames
