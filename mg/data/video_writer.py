"""Writing videos and images, whole or not at all."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from mg.data.audio import Audio, open_audio
from mg.data.output import (
    DEFAULT_CRF,
    add_video,
    choose_encoder,
    fine_unit,
    is_image,
    open_encoder,
    open_output,
    takes_times,
    whole_rate,
)
from mg.data.pixels import from_rgb
from mg.files import atomic_path, writing

logger = logging.getLogger(__name__)

# No frame is decoded so many units of time before it is shown; libx265 says so in a video of one
# or two (FFmpeg 8.1).
_NEVER = 1 << 32


class VideoWriter:
    """Takes the frames of one video, in order. See `open_writer`."""

    def __init__(
        self,
        path: str | os.PathLike,
        container: OutputContainer,
        fps: float | Fraction,
        options: Mapping[str, str],
        codec: str,
        audio: Audio | None,
    ):
        self._path, self._container, self._audio = path, container, audio
        self._fps = whole_rate(path, fps)
        self._options, self._codec = options, codec
        self._stream: VideoStream | None = None
        self._shape: tuple[int, ...] = ()
        self._first_time: Fraction | None = None
        self._takes_times = takes_times(container, codec)
        self._is_irregular = False
        self.count = 0

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame.

        Args:
            image: uint8 (h w 3), of one size.
            time: when it is shown, in seconds: later than the one before. All frames have one, or
                none has and they follow at the frame rate. With sound, it counts from the start of
                the sound's file; without, from the first frame.

        Raises:
            ValueError: another type, shape or size, or one that the codec does not take.
            OSError: the file cannot be written.
        """
        if self._stream is None:
            self._shape = np.shape(image)
            _check_image(self._path, image, self._shape)
            self._start(has_times=time is not None)
        _check_image(self._path, image, self._shape)
        assert self._stream is not None
        frame = from_rgb(image, self._stream.codec_context)
        frame.pts, frame.time_base = self._units(time), self._unit
        self._mux(frame)
        self.count += 1

    def finish(self, *, cut_audio: bool) -> None:
        """Write what is left; `open_writer` calls it. `cut_audio`: no sound after the last frame.

        Raises:
            ValueError: there was no frame.
            OSError: the file cannot be written.
        """
        if self._stream is None:
            raise ValueError(f"{self._path}: no frames to write")
        self._mux(None)
        if self._audio is not None:
            end = self._latest_units * self._unit + 1 / self._fps if cut_audio else None
            self._audio.write(self._container, end)
        if self._is_irregular:
            logger.warning(
                "%s: its format holds one frame rate only: frames follow each other at %s a second",
                self._path,
                self._fps,
            )

    def _start(self, has_times: bool) -> None:
        self._unit = 1 / self._fps
        if has_times and self._takes_times:
            self._unit = fine_unit(self._container, self._fps)
        self._latest_units = -1
        self._stream = stream = add_video(
            self._container, self._shape, self._fps, self._options, self._codec
        )
        stream.codec_context.time_base = self._unit
        try:
            open_encoder(stream)
        except (FFmpegError, OverflowError) as error:
            height, width = self._shape[:2]
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"{self._path}: codec {self._codec} cannot encode frames of {width}x{height} "
                f"pixels as {stream.pix_fmt} at {self._fps} a second: {reason}"
            ) from None
        if self._audio is not None:
            self._audio.add_to(self._container)

    def _units(self, time: Fraction | None) -> int:
        """The time stamp of the next frame."""
        units = self.count
        if time is not None:
            if self._first_time is None:
                self._first_time = Fraction(0) if self._audio is not None else time
            time -= self._first_time
            if self._takes_times:
                units = max(round(time / self._unit), self._latest_units + 1)
            elif abs(time - self.count * self._unit) > self._unit:
                self._is_irregular = True
        self._latest_units = units
        return units

    def _mux(self, frame: av.VideoFrame | None) -> None:
        assert self._stream is not None
        for packet in self._stream.encode(frame):
            pts, dts = packet.pts, packet.dts
            if pts is not None and dts is not None and pts - dts > _NEVER:
                packet.dts = pts
            if self._audio is not None and packet.dts is not None:
                self._audio.write(self._container, packet.dts * packet.time_base)
            self._container.mux(packet)


class ImageWriter:
    """Takes the one frame of an image, as `VideoWriter` takes those of a video."""

    def __init__(self, path: str | os.PathLike, temporary: Path):
        self._path, self._temporary = path, temporary
        self.count = 0

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:  # noqa: ARG002
        """Write the frame. Raises ValueError if it is not the only one, or none."""
        if self.count:
            raise ValueError(
                f"{self._path}: an image holds one frame, expected the name of a video"
            )
        _check_image(self._path, image, np.shape(image))
        is_webp = self._temporary.suffix.lower() == ".webp"
        options: dict[str, Any] = {"lossless": True} if is_webp else {"quality": 95}
        with writing(self._path):
            Image.fromarray(image).save(self._temporary, **options)
        self.count = 1

    def finish(self, *, cut_audio: bool) -> None:  # noqa: ARG002
        """Raises ValueError if there was no frame."""
        if not self.count:
            raise ValueError(f"{self._path}: no frames to write")


@contextmanager
def open_writer(
    path: str | os.PathLike,
    fps: float | Fraction,
    *,
    crf: int = DEFAULT_CRF,
    codec: str | None = None,
    options: Mapping[str, str] | None = None,
    audio_from: str | os.PathLike | None = None,
    cut_audio: bool = False,
) -> Iterator[VideoWriter | ImageWriter]:
    """Give a writer of a file that is complete after the `with` block or, if anything fails in it,
    not there.

    The size is kept exactly. Even sizes are stored as yuv420p, which every player and browser
    shows; that format cannot hold an odd size, which is stored as yuv444p instead (VLC, mpv and
    FFmpeg show it, most browsers do not), where the codec has these formats. Colours are BT.709 and
    marked so, or BT.601 where a codec's stream cannot be marked.

    Args:
        path: its suffix chooses the container; an image's makes one of a single frame
            (JPEG at quality 95, the others without loss).
        fps: frames per second.
        crf: the constant rate factor, of codecs that have one. Lower is better and larger; 10 is
            close to invisible loss, so that what a person judges is the video and not the codec.
        codec: an FFmpeg encoder; None: libx264, or what is usual in a container that does not
            take it.
        options: more options of the encoder, by FFmpeg's names for them.
        audio_from: copy the sound of this file, packet by packet, as it is. A warning names
            sound that the container does not take and that is left out.
        cut_audio: the sound ends with the last frame.

    Raises:
        ValueError: no frames, frames of another type, shape or of several sizes, a frame
            rate that is not above 0, a suffix or a codec that FFmpeg does not have, or one that
            does not go with the other.
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if is_image(path):
            writer = ImageWriter(path, temporary)
            yield writer
            writer.finish(cut_audio=cut_audio)
            return
        try:
            codec = choose_encoder(path, codec)
            with open_audio(audio_from) as audio, open_output(path, temporary) as container:
                options = {"crf": str(crf), **(options or {})}
                writer = VideoWriter(path, container, fps, options, codec, audio)
                yield writer
                writer.finish(cut_audio=cut_audio)
        except FFmpegError as error:
            reason = error.strerror or str(error)
            raise OSError(f"{path}: cannot be written: {reason}") from error


def write_video(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    *,
    crf: int = DEFAULT_CRF,
    codec: str | None = None,
) -> None:
    """Write frames as a video that is complete or, if anything fails, not there.

    Args:
        path, fps, crf, codec: see `open_writer`, as for what is raised.
        frames: uint8 (t h w 3), or any iterable of uint8 (h w 3) of one size.
    """
    with open_writer(path, fps, crf=crf, codec=codec) as writer:
        for image in frames:
            writer.write(image)


def _check_image(path: str | os.PathLike, image: np.ndarray, shape: tuple[int, ...]) -> None:
    right = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == shape
    if not right or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        given = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
        raise ValueError(f"{path}: expected uint8 frames (h w 3) of one size, got {given}")
