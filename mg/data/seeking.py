"""Reading from the middle of a video, exactly as decoding from its start would.

A header may lie about where a frame lies, and decoding may need more than the file's key frame
marks tell. So a seek counts only when all that is decoded after it fits what is known of the file
(see `frames_after_seek`); otherwise it is for the caller to decode from the start.
"""

import os
import zlib
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream

from mg.data.opening import VideoError, check_file, open_video, some_frames
from mg.files import stamp_of

# Codecs whose key frames end all reference to what came before them, by their specifications.
# H.264's do so only where they are IDR pictures, which `_is_restart` looks for.
_RESTARTING = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg1video", "mpeg2video"}
_CACHED_FRAMES = 4_000_000  # of all tables together, at 12 bytes each
_SEEK_ATTEMPTS = 3
_H264_IDR = 5  # type of network abstraction layer unit


class InexactSeek(Exception):
    """What was decoded after a seek may differ from decoding from the start."""


@dataclass(frozen=True)
class FrameTable:
    """What is known of a file's frames.

    Attributes:
        count: how many there are.
        timestamps: int64 (count,), the presentation time of each in the stream's unit, strictly
            increasing; None where the file has no such times.
        checksums: uint32 (count,) of the decoded pixels; None when they were not decoded.
        size: width and height of the first frame; None when it was not decoded.
    """

    count: int
    timestamps: np.ndarray | None
    checksums: np.ndarray | None = None
    size: tuple[int, int] | None = None


class _Tables:
    """The latest tables of this process, by path, time of change and stated number of frames."""

    def __init__(self) -> None:
        self._tables: OrderedDict[tuple, FrameTable] = OrderedDict()
        self._frames = 0

    def get(self, key: tuple) -> FrameTable | None:
        if key in self._tables:
            self._tables.move_to_end(key)
        return self._tables.get(key)

    def put(self, key: tuple, table: FrameTable) -> None:
        old = self._tables.pop(key, None)
        self._frames += _weight(table) - (0 if old is None else _weight(old))
        self._tables[key] = table
        while self._frames > _CACHED_FRAMES and len(self._tables) > 1:
            self._frames -= _weight(self._tables.popitem(last=False)[1])


def _weight(table: FrameTable) -> int:
    """Its frames in memory; a table without any takes as much as some dozens."""
    return 64 + (0 if table.timestamps is None else table.count)


_tables = _Tables()


def decoded_table(path: str | os.PathLike) -> FrameTable:
    """Decode the whole file, or remember that it was decoded and has not changed since.

    Raises:
        FileNotFoundError: no such file.
        VideoError: what is wrong with the file; it has no frame, for one.
    """
    key = _key(path, None)
    table = _tables.get(key)
    if table is None:
        table = _decode_all(path)
        _tables.put(key, table)
    return table


def known_table(path: str | os.PathLike, video_frames: int | None) -> FrameTable | None:
    """What is known of the file without decoding it, or None.

    Args:
        path: a video or an image.
        video_frames: the stated number of its frames, with which the file's packets give a table;
            None for the table of an earlier `decoded_table`.

    Raises:
        FileNotFoundError, VideoError: as `decoded_table`.
    """
    key = _key(path, video_frames)
    table = _tables.get(key)
    if table is None and video_frames is not None:
        table = FrameTable(video_frames, _packet_timestamps(path, video_frames))
        _tables.put(key, table)
    return table


def frames_from_start(path: str | os.PathLike) -> Generator[tuple[int, VideoFrame]]:
    """Decode the file; give each frame with its number."""
    with open_video(path) as (container, stream):
        yield from enumerate(some_frames(path, container.decode(stream)))


def frames_after_seek(
    path: str | os.PathLike, table: FrameTable, first: int
) -> Generator[tuple[int, VideoFrame]]:
    """Decode from a key frame that is shown at or before frame `first`.

    Gives frames with their numbers, beginning with the key frame. They are those that decoding
    from the start gives, because

    - a number follows from the frame's timestamp, and none is left out: the first frame is the
      key frame, and each further one the next in the table. Frames shown before the key frame may
      refer to what was not decoded (open groups of pictures) and are dropped;
    - the pixels have the checksum that the full decode saw. Where there was none, the codec is
      one whose key frames end all references, the decoder too sees a key frame, and no frame is
      damaged, since what stands in for damaged pixels may come from before the key frame.

    Args:
        path: a video.
        table: of that file, with timestamps.
        first: a frame number below `table.count`.

    Raises:
        InexactSeek: one of these does not hold, or the frames end.
        VideoError: FFmpeg fails.
    """
    assert table.timestamps is not None
    with open_video(path) as (container, stream):
        size = table.size or (stream.codec_context.width, stream.codec_context.height)
        packets = _packets_from_key(container, stream, int(table.timestamps[first]))
        key = next(packets)
        assert key.pts is not None
        if table.checksums is None and not _is_restart(key, stream):
            raise InexactSeek("frames may refer to what is before this key frame")
        start = int(np.searchsorted(table.timestamps, key.pts))
        shown = (frame for packet in chain([key], packets) for frame in packet.decode())
        shown = (frame for frame in shown if frame.pts is None or frame.pts >= key.pts)
        for number, frame in enumerate(shown, start):
            if number == table.count or frame.pts != table.timestamps[number]:
                raise InexactSeek("a frame's time is not the next in the table")
            # Later frames are scaled to the first one's size, which may be none of these.
            if (frame.width, frame.height) != size:
                raise InexactSeek("a frame of another size")
            if table.checksums is not None:
                exact = _checksum(frame) == table.checksums[number]
            else:
                exact = not frame.is_corrupt and (frame.key_frame or frame.pts != key.pts)
            if not exact:
                raise InexactSeek("a frame's pixels may be others than when decoded from the start")
            yield number, frame
    raise InexactSeek("the file ends")


def _packets_from_key(
    container: InputContainer, stream: VideoStream, time: int
) -> Iterator[Packet]:
    """Seek to a key frame shown at or before `time`; give its packet and all after it."""
    target = time
    for _ in range(_SEEK_ATTEMPTS):
        container.seek(target, stream=stream)
        packets = container.demux(stream)
        key = next((packet for packet in packets if packet.is_keyframe), None)
        if key is None or key.pts is None:
            break
        if key.pts <= time:
            return chain([key], packets)
        # Some containers seek by the time of decoding, which is earlier than that of showing.
        target = (key.pts if key.dts is None else key.dts) - 1
    raise InexactSeek("no key frame is found before the wanted frame")


def _is_restart(key: Packet, stream: VideoStream) -> bool:
    """Whether, by the codec's specification, no frame shown after this key frame refers to one
    before it."""
    if stream.codec_context.codec.canonical_name != "h264":
        return True  # or there were no timestamps of packets
    return any(unit[0] & 31 == _H264_IDR for unit in _h264_units(bytes(key), stream) if unit)


def _h264_units(data: bytes, stream: VideoStream) -> list[bytes]:
    """The network abstraction layer units of a packet, by either way of parting them."""
    configuration = stream.codec_context.extradata or b""
    if not configuration.startswith(b"\x01") or len(configuration) < 5:
        return data.split(b"\0\0\1")[1:]
    units, size = [], (configuration[4] & 3) + 1  # bytes of a unit's length (ISO 14496-15)
    while len(data) > size:
        length = int.from_bytes(data[:size], "big")
        units.append(data[size : size + length])
        data = data[size + length :]
    return units


def _decode_all(path: str | os.PathLike) -> FrameTable:
    times, checksums, size = [], [], None
    for _, frame in frames_from_start(path):
        times.append(frame.pts)
        checksums.append(_checksum(frame))
        size = size or (frame.width, frame.height)
    # AVI, for one, stores no times, and what FFmpeg makes up follows the order of decoding.
    if None in times or any(later <= sooner for sooner, later in pairwise(times)):
        return FrameTable(len(times), None)
    checksums = np.array(checksums, np.uint32)
    return FrameTable(len(times), np.array(times, np.int64), checksums, size)


def _packet_timestamps(path: str | os.PathLike, video_frames: int) -> np.ndarray | None:
    """The times of a file's packets in the order of showing, if they are those of its frames."""
    try:
        with open_video(path) as (container, stream):
            codec = stream.codec_context.codec
            if not codec.intra_only and codec.canonical_name not in _RESTARTING:
                return None
            reorders = bool(stream.codec_context.has_b_frames)
            packets = (packet for packet in container.demux(stream) if packet.size)
            times = [packet.pts for packet in packets if not packet.is_discard]
    except VideoError:
        return None  # perhaps wrong near its end only: decoding from the start will tell
    in_order = sorted({time for time in times if time is not None})
    if len(in_order) != video_frames or len(times) != video_frames:
        return None
    # A file that stores only the order of decoding does not tell which frame is shown when.
    return None if reorders and in_order == times else np.array(in_order, np.int64)


def _checksum(frame: VideoFrame) -> int:
    """CRC-32 of a frame's pixels as decoded, without the padding at the ends of lines."""
    checksum = 0
    for number, plane in enumerate(frame.planes):
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        parts = [part for part in frame.format.components if part.plane == number]
        if len(frame.planes) == 1:
            used = frame.width * frame.format.padded_bits_per_pixel // 8
        else:
            used = sum(part.width * -(-part.bits // 8) for part in parts)
        checksum = zlib.crc32(np.ascontiguousarray(lines[:, :used]).data, checksum)
    return checksum


def _key(path: str | os.PathLike, video_frames: int | None) -> tuple:
    check_file(path)
    return os.fspath(path), stamp_of(path), video_frames
