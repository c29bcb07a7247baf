"""Copying a file's sound into another file, packet by packet, without decoding it."""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction

import av
from av import Packet
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError

from mg.data.opening import open_video

logger = logging.getLogger(__name__)

_LITTLE = Fraction(1, 25)  # seconds by which sound may be late without anybody noticing


class Audio:
    """The sound of an open file, to be written beside pictures. See `open_audio`."""

    def __init__(self, path: str | os.PathLike, container: InputContainer):
        self._path, self._container = path, container
        self._origin = Fraction(container.start_time or 0, av.time_base)
        self._streams: dict[int, AudioStream] = {}  # of the output, by the input's index
        self._latest: dict[int, int] = {}
        self._packets: Iterator[Packet] = iter(())
        self._waiting: Packet | None = None
        self._is_damaged = False

    def add_to(self, output: OutputContainer) -> None:
        """Add a stream to `output` for every stream of sound that its format takes; a warning
        names the others."""
        taken, is_taken = [], _trials(self._path, output.format.name)
        for stream in self._container.streams.audio:
            if stream.index not in is_taken:
                continue  # it has no packet
            if is_taken[stream.index]:
                self._streams[stream.index] = _add_copy(output, stream)
                taken.append(stream)
            else:
                codec = stream.codec_context and stream.codec_context.name
                logger.warning(
                    "%s: its sound (%s) is left out, which the format %s does not take; an output "
                    "named .mkv takes most",
                    self._path,
                    codec or "of an unknown kind",
                    output.format.name,
                )
        if taken:
            self._packets = self._container.demux(taken)
            self._waiting = self._next()
        late = 0 if self._waiting is None else self._time(self._waiting)
        if output.format.name == "avi" and late > _LITTLE:  # which holds no time of a packet
            logger.warning(
                "%s: its sound begins %.2f seconds late, and with the pictures in an .avi",
                self._path,
                late,
            )

    def write(self, output: OutputContainer, until: Fraction | None) -> None:
        """Write the packets before `until`, in seconds from the file's start; None: all."""
        while self._waiting is not None:
            packet = self._waiting
            if until is not None and self._time(packet) >= until:
                return
            self._move(packet)
            try:
                output.mux(packet)
            except FFmpegError as error:
                if isinstance(error, OSError):  # a full disk, say
                    raise
                self._complain(error)
            self._waiting = self._next()

    def _next(self) -> Packet | None:
        try:
            return next((packet for packet in self._packets if packet.size), None)
        except (FFmpegError, OSError, IndexError) as error:  # see `open_video`
            reason = getattr(error, "strerror", None) or "its streams change on the way"
            logger.warning("%s: its sound ends early: %s", self._path, reason)
            return None

    def _complain(self, error: FFmpegError) -> None:
        if not self._is_damaged:
            self._is_damaged = True
            reason = error.strerror or error
            logger.warning("%s: damaged sound is left out: %s", self._path, reason)

    def _time(self, packet: Packet) -> Fraction:
        units = packet.pts if packet.dts is None else packet.dts
        return Fraction(0) if units is None else units * packet.time_base - self._origin

    def _move(self, packet: Packet) -> None:
        """To the output's stream and start; times of decoding increase, or no format takes them."""
        index, shift = packet.stream.index, round(self._origin / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            earliest = self._latest.get(index, packet.dts - shift - 1) + 1
            packet.dts = self._latest[index] = max(packet.dts - shift, earliest)
            packet.pts = None if packet.pts is None else max(packet.pts, packet.dts)
        packet.stream = self._streams[index]


@contextmanager
def open_audio(path: str | os.PathLike | None) -> Iterator[Audio | None]:
    """Give the sound of a file, or None if it has none or there is no file.

    Raises:
        FileNotFoundError, VideoError: as `open_video`.
    """
    if path is None:
        yield None
        return
    stack = ExitStack()
    container, _ = stack.enter_context(open_video(path))
    try:  # and no `with`: `open_video` would say of any fault that it is this file's
        yield Audio(path, container) if container.streams.audio else None
    finally:
        stack.close()


def _trials(path: str | os.PathLike, format_name: str) -> dict[int, bool]:
    """Whether a format takes each of a file's streams of sound, by index: whether a file of its
    first packet can be made."""
    taken = {}
    with open_video(path) as (container, _):
        streams = container.streams.audio
        for packet in container.demux(*streams):
            index = packet.stream.index
            if packet.size and index not in taken:
                taken[index] = _takes(format_name, packet)
            if len(taken) == len(streams):
                break
    return taken


def _takes(format_name: str, packet: Packet) -> bool:
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            packet.stream = _add_copy(trial, packet.stream)
            trial.mux(packet)
    except (FFmpegError, ValueError):
        return False
    return True


def _add_copy(output: OutputContainer, stream: AudioStream) -> AudioStream:
    copy = output.add_stream_from_template(stream)
    # AVI does not say which channel is where; some formats ask for it.
    usual = {"1 channels": "mono", "2 channels": "stereo"}
    if copy.codec_context.layout.name in usual:
        copy.codec_context.layout = usual[copy.codec_context.layout.name]
    return copy
