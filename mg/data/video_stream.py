"""Reading a whole video once, in order, in constant memory, with the times of its frames."""

import logging
import os
import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from mg.data.opening import VideoError, open_video
from mg.data.pixels import to_rgb
from mg.data.video_file import stream_fps

logger = logging.getLogger(__name__)

_MATROSKA_DURATION = re.compile(r"([0-9]{1,4}):([0-9]{2}):([0-9]{2}\.[0-9]{1,9})")
_LONGEST_PAUSE = 86_400  # seconds between two frames; a time that is further off is a mistake


class Chunk(NamedTuple):
    """Consecutive frames, uint8 (t h w 3), and when each is shown, in seconds from the file's
    start: strictly increasing."""

    frames: np.ndarray
    times: list[Fraction]


def read_chunks(
    path: str | os.PathLike, chunk_frames: int, *, num_frames: int | None = None
) -> Generator[Chunk]:
    """Read a video or an image from its first frame to its last.

    Pixels are those of `read_frames`. Of a damaged or cut file, the frames that can be decoded are
    given, and one warning says how many there were. Frames whose time is missing or not after the
    one before follow at the frame rate.

    Args:
        path: a video or an image.
        chunk_frames: length of all chunks but the last.
        num_frames: end after as many frames.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is empty, is no video, is larger than `MAX_PIXELS`, or has no
            frame that can be decoded.
    """
    if chunk_frames < 1 or (num_frames is not None and num_frames < 1):
        raise ValueError(f"{chunk_frames} frames in chunks of {num_frames}, expected 1 or more")
    frames = islice(_timed_frames(path), num_frames)
    while pairs := list(islice(frames, chunk_frames)):
        yield Chunk(np.stack([image for image, _ in pairs]), [time for _, time in pairs])


def promised_frames(path: str | os.PathLike) -> int | None:
    """How many frames the header promises, or None. For a progress bar: headers lie.

    Raises:
        FileNotFoundError, VideoError: as `read_chunks`.
    """
    with open_video(path) as (container, stream):
        seconds, _ = _promised_seconds(container, stream)
        return stream.frames or round(seconds * stream_fps(stream)) or None


def _timed_frames(path: str | os.PathLike) -> Iterator[tuple[np.ndarray, Fraction]]:
    """Each frame and its time; a word about what is missing in the end."""
    count, size, faults = 0, None, []
    missing = ""
    try:
        with open_video(path) as (container, stream):
            clock = _Clock(container, stream)
            for frame in _decoded(container, stream, faults):
                size = size or (frame.width, frame.height)
                yield to_rgb(frame, size, path), clock.next(frame)
                count += 1
            missing = _missing(container, stream, clock)
    except VideoError as error:
        if count == 0:
            raise
        faults.append(str(error).removeprefix(f"{path}: "))
    if count == 0:
        reason = f" ({faults[0]})" if faults else ""
        raise VideoError(f"{path}: holds no frame that can be decoded{reason}")
    if missing or faults:
        reason = f"damaged ({len(faults)}x {faults[0]})" if faults else "its end is missing"
        logger.warning("%s: %d frames were read%s: %s", path, count, missing, reason)


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


class _Clock:
    """Gives each frame the time at which it is shown."""

    def __init__(self, container: InputContainer, stream: VideoStream):
        assert stream.time_base is not None
        self._unit = stream.time_base
        self.interval = 1 / stream_fps(stream)
        # Times are stored as whole units. What is no further off than that is taken for regular,
        # so that a constant rate stays one in another unit.
        self._tolerance = min(self._unit, self.interval / 4)
        # AVI stores no time but that of decoding, whose order is not that of showing.
        self._shows_as_decoded = container.format.name == "avi"
        self._first_unit = stream.start_time
        self._origin = Fraction(container.start_time or 0, av.time_base)
        self._count = 0
        self.start = self.latest = Fraction(0)

    def next(self, frame: av.VideoFrame) -> Fraction:
        stored = self._stored(frame)
        if self._count == 0:
            time = Fraction(0) if stored is None or abs(stored) <= self._tolerance else stored
            self.start = time
        else:
            regular = self.start + self._count * self.interval
            time = stored if stored is not None else self.latest + self.interval
            if abs(time - regular) <= self._tolerance:
                time = regular
            if not self.latest < time < self.latest + _LONGEST_PAUSE:
                time = self.latest + self.interval
        self._count += 1
        self.latest = time
        return time

    def _stored(self, frame: av.VideoFrame) -> Fraction | None:
        """Seconds from the file's start, as the file has them."""
        units = frame.pts
        if self._shows_as_decoded:
            # The decoder gives the first frame when later ones are in already.
            units = frame.dts
            if self._count == 0:
                self._delay = 0 if units is None else units - (self._first_unit or 0)
            units = None if units is None else units - self._delay
        return None if units is None else units * self._unit - self._origin


def _missing(container: InputContainer, stream: VideoStream, clock: _Clock) -> str:
    """What was promised and did not come, in words; nothing if it is little."""
    promised, is_streams = _promised_seconds(container, stream)
    got = clock.latest - clock.start + clock.interval
    # The header of the whole file may speak of sound that goes on after the pictures.
    tolerance = max(3 * clock.interval, promised / 50) if is_streams else max(1, promised / 10)
    if promised - got <= tolerance:
        return ""
    return f", to second {float(got):.2f} of {float(promised):.2f}"


def _promised_seconds(container: InputContainer, stream: VideoStream) -> tuple[Fraction, bool]:
    """The length that the header promises, or 0; and whether it speaks of the video stream."""
    if container.format.name == "avi" and stream.frames:  # its duration is estimated
        return stream.frames / stream_fps(stream), True
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base, True
    tag = _MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag is not None:
        hours, minutes, seconds = map(Fraction, tag.groups())
        return 3600 * hours + 60 * minutes + seconds, True
    return Fraction(container.duration or 0, av.time_base), False
