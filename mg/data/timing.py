"""When the frames of a video are shown, and whether all that its header promises have come."""

import re
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from mg.data.video_file import stream_fps
from mg.ranges import LONGEST_PAUSE

_MATROSKA_DURATION = re.compile(r"([0-9]{1,4}):([0-9]{2}):([0-9]{2}\.[0-9]{1,9})")


class Clock:
    """Gives each frame the time at which it is shown, in seconds from the file's start.

    Attributes:
        start, end: from when to when the frames so far are shown.
        interval: from one frame to the next at the file's rate.
    """

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
        self._is_regular = True  # all frames so far
        self.start = self.end = self._latest = Fraction(0)

    @property
    def start_late(self) -> Fraction:
        """By how much the first frame comes after the time at which the stream begins."""
        return self.start - ((self._first_unit or 0) * self._unit - self._origin)

    def next(self, frame: av.VideoFrame) -> Fraction:
        stored = self._stored(frame)
        if self._count == 0:
            time = Fraction(0) if stored is None or abs(stored) <= self._tolerance else stored
            self.start = time
        else:
            regular = self.start + self._count * self.interval
            time = stored if stored is not None else self._latest + self.interval
            # Times are rounded to units. Of a varying rate, one may be near the grid by chance.
            self._is_regular &= abs(time - regular) <= self._tolerance
            if self._is_regular:
                time = regular
            if not self._latest < time < self._latest + LONGEST_PAUSE:
                time = self._latest + self.interval
        self._count += 1
        self._latest = time
        lasts = (getattr(frame, "duration", 0) or 0) * self._unit  # PyAV 14.0 does not tell
        self.end = time + max(lasts, self.interval)
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


def missing(container: InputContainer, stream: VideoStream, clock: Clock) -> str:
    """What the header promised and did not come, as the end of a sentence that begins "frames were
    read"; "" if that is little."""
    promised, is_streams = promised_seconds(container, stream)
    got = clock.end - clock.start
    if is_streams:  # of a long video too, more than a second is not little
        tolerance = max(3 * clock.interval, min(promised / 50, Fraction(1)))
    else:
        tolerance = max(Fraction(1), min(promised / 10, Fraction(2)))
    # The header of the whole file may speak of sound that goes on after the pictures.
    is_told = is_streams or not container.streams.audio
    if promised - got <= tolerance or not is_told:
        return ""
    late = clock.start_late
    if late <= tolerance:
        return f", to second {float(got):.2f} of {float(promised):.2f}: its end is missing"
    # It begins within a group of pictures, whose first is lost.
    if promised - got - late <= tolerance:
        return f", the first at second {float(late):.2f}: its beginning is missing"
    return (
        f", from second {float(late):.2f} to {float(late + got):.2f} of {float(promised):.2f}: its "
        "beginning and its end are missing"
    )


def promised_seconds(container: InputContainer, stream: VideoStream) -> tuple[Fraction, bool]:
    """The length that the header promises, or 0; and whether it speaks of the video stream."""
    if container.format.name == "avi" and stream.frames:  # its duration is estimated
        return stream.frames / stream_fps(stream), True
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base, True
    tag = _MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag is not None:
        hours, minutes, seconds = map(Fraction, tag.groups())
        end = 3600 * hours + 60 * minutes + seconds  # counted from 0
        return end - max(0, stream.start_time or 0) * (stream.time_base or 0), True
    return Fraction(container.duration or 0, av.time_base), False
