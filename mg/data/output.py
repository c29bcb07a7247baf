"""Containers and encoders of videos to write: which there are, and how they are set."""

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.error import FFmpegError
from av.format import Flags
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from mg.data.pixels import from_rgb

DEFAULT_CODEC = "libx264"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
DEFAULT_CRF = 10  # close to invisible loss: a person is to judge the video and not the codec


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file to be written is an image, by its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


# Codecs whose streams say which matrix made their colours. Where neither stream nor container
# says so, decoders assume BT.601.
_MARKED = ("h264", "hevc", "vp9", "av1", "mpeg2video", "prores")
_FINE, _FINEST = 10_000, 60_000  # units a second; MPEG-4 takes no more than 65535
_MP4_ALIKE = ("ipod", "3gp", "3g2", "f4v", "psp")  # FFmpeg does not say that these take any times
_BLACK = np.zeros((64, 64, 3), np.uint8)
_RGB = ("rgb24", "bgr24", "gbrp", "bgr0", "pal8")


def check_output(path: str | os.PathLike, codec: str | None = None) -> None:
    """Raise unless `open_writer` knows the suffix and the codec: before long work, not after.

    Raises:
        ValueError: as `open_writer`.
        IsADirectoryError: there is a folder of this name.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected the name of a file to write")
    if not is_image(path):
        choose_encoder(path, codec)


def open_output(path: str | os.PathLike, temporary: Path | None = None) -> OutputContainer:
    """A container of the suffix of `path`, which becomes a file `temporary` with the first packet.

    Raises:
        ValueError: FFmpeg does not know the suffix, or writes more than one file for it.
    """
    # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
    with suppress(ValueError):
        container = av.open(os.path.abspath(temporary or path), "w")
        if not container.format.flags & Flags.no_file.value:  # playlists and series of images
            return container
        container.close()
    raise ValueError(
        f"{path}: FFmpeg writes no container of suffix '{Path(path).suffix}', expected one "
        "such as .mp4, .mkv, .webm or .png"
    )


def choose_encoder(path: str | os.PathLike, codec: str | None) -> str:
    """The name of the encoder to use: `codec` if it goes with the container of this suffix.

    Raises:
        ValueError: FFmpeg does not know the suffix or the codec, or they do not go together; or
            the format is of no video, or of one that FFmpeg only reads.
    """
    with open_output(path) as container:
        usual, kind = container.default_video_codec, container.format.long_name
    no_video = f"{path}: {kind} holds no video, expected .mp4, .mkv or .webm, say"
    if usual == "none":
        raise ValueError(no_video)
    if codec is None:
        if _takes(path, DEFAULT_CODEC):
            return DEFAULT_CODEC
        if _encoder(usual) is None:
            raise ValueError(
                f"{path}: this FFmpeg has no encoder for {kind}, expected .mp4, .mkv or .webm, say"
            )
        if not _takes(path, usual):  # of an MP3, say, it is that of a cover
            raise ValueError(no_video)
        return usual
    found = _encoder(codec)
    if found is None:
        raise ValueError(
            f"codec is '{codec}', no encoder of this FFmpeg, expected one such as {DEFAULT_CODEC}"
        )
    if found.type != "video":
        raise ValueError(f"codec is '{codec}', an encoder of {found.type}, expected one of video")
    if not _takes(path, codec):
        raise ValueError(f"{path}: {kind} does not take codec '{codec}', its usual one is {usual}")
    return codec


def _encoder(name: str) -> av.Codec | None:
    with suppress(UnknownCodecError):
        return av.Codec(name, "w")
    return None


def _takes(path: str | os.PathLike, codec: str) -> bool:
    with open_output(path) as container:
        return _format_takes(container.format.name, codec)


@cache
def _format_takes(format_name: str, codec: str) -> bool:
    """Whether the format takes what the encoder makes of small frames, or may: some encode a few
    sizes only, and FFmpeg's tables of what a format takes have holes."""
    if format_name == "rawvideo":  # without a header, it takes any bytes
        return codec == format_name
    unit = Fraction(1, 25)
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            stream = add_video(trial, _BLACK.shape, 1 / unit, {}, codec)
            stream.codec_context.time_base = unit
            try:
                open_encoder(stream)
            except (FFmpegError, OverflowError):
                return True
            for place in range(4):  # of one alone, libx265 makes up times
                frame = from_rgb(_BLACK, stream.codec_context)
                frame.pts, frame.time_base = place, unit
                trial.mux(stream.encode(frame))
            trial.mux(stream.encode(None))
    except (FFmpegError, ValueError):
        return False
    return True


def open_encoder(stream: VideoStream) -> None:
    """Open a stream's encoder, and leave how the program's threads are scheduled as it was: run by
    root, SVT-AV1 (4.1.0) has its own and the one that calls it run in real time, where they and
    what is computed there later take the processors from all other programs.

    Raises:
        FFmpegError, OverflowError: it does not encode such a stream.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        stream.codec_context.open()
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), policy, parameter)


def whole_rate(path: str | os.PathLike, fps: float | Fraction) -> Fraction:
    """The frame rate as a fraction whose denominator is at most 1001.

    Raises:
        ValueError: it is not above 0.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"{path}: expected a frame rate above 0, got {fps}")
    # 1001 is the largest denominator among broadcast rates, as 30000/1001 for "29.97".
    return max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))


def takes_times(container: OutputContainer, codec: str) -> bool:
    """Whether the format holds the time of each frame, and not one frame rate only."""
    if av.Codec(codec, "w").canonical_name in ("mpeg1video", "mpeg2video"):
        return False  # they know some usual rates, and no finer unit of time
    flags, name = container.format.flags, container.format.name
    return bool(flags & Flags.variable_fps.value) or name in _MP4_ALIKE


def fine_unit(container: OutputContainer, fps: Fraction) -> Fraction:
    """A unit of time that is fine and of which a frame at a constant rate lasts a whole number; in
    a GIF its only one, in which frames of more than 100 a second take longer than they should."""
    if container.format.name == "gif":
        return Fraction(1, 100)
    if fps.numerator > _FINEST:
        return Fraction(1, _FINEST)
    return Fraction(1, fps.numerator * -(-_FINE // fps.numerator))


def add_video(
    container: OutputContainer,
    shape: tuple[int, ...],
    fps: Fraction,
    options: Mapping[str, str],
    codec: str,
) -> VideoStream:
    """A stream for frames of this shape `(h w 3)`, set as `open_writer` says."""
    options = dict(options)
    if av.Codec(codec, "w").name == "libx265":
        options["x265-params"] = "log-level=error"  # it would tell stderr about itself
    if codec == "gif":  # it would leave out what has the same index as before, of any palette
        options["gifflags"] = "0"
    stream = container.add_stream(codec, rate=fps, options=options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = _pixel_format(codec, is_odd=bool(stream.height % 2 or stream.width % 2))
    if stream.pix_fmt.startswith("yuv"):
        kind = stream.codec_context.codec.canonical_name
        # The same numbers are the codec's names.
        matrix = Colorspace.ITU709 if kind in _MARKED else Colorspace.ITU601
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = ColorRange.JPEG if kind == "mjpeg" else ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
    return stream


def _pixel_format(codec: str, *, is_odd: bool) -> str:
    """The encoder's format nearest to the frames that most players show."""
    offered = [pixel_format.name for pixel_format in av.Codec(codec, "w").video_formats or []]
    yuv = ("yuv444p", "yuv420p") if is_odd else ("yuv420p", "yuv444p")
    wanted = (*yuv, *_RGB)
    return next((name for name in wanted if name in offered), (offered or ["yuv420p"])[0])
