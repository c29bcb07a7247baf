"""Opening a video file: whatever it holds, one clear line or a stream to decode."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from mg.data.pixels import say_once

MAX_PIXELS = 8192 * 8192  # of one frame; twice 8K video. A header may claim any size.
NO_FRAME = "holds no frame that can be decoded"


class VideoError(ValueError):
    """What is wrong with one video file: one line that begins with the file's path."""


def reason_of(error: Exception, path: str | os.PathLike) -> str:
    """What an error says of a file, without its path."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def check_file(path: str | os.PathLike) -> None:
    """Raise unless there is a file that is not empty.

    Raises:
        FileNotFoundError: no such file.
        VideoError: a folder, or an empty file.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such video file")
    if not os.path.isfile(path):
        raise VideoError(f"{path}: not a file, expected a video or an image")
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes), expected a video or an image")


@contextmanager
def open_video(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Give the container and its video stream; both are dead after the `with` block.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is empty, is no video, is larger than `MAX_PIXELS`, or FFmpeg fails
            in the `with` block.
    """
    check_file(path)
    try:
        # An open file and no name, since FFmpeg takes names for more than files: "concat:a|b",
        # "%03d.png". The whitelist keeps a playlist that is called .mp4 from opening others.
        with (
            open(path, "rb") as file,
            av.open(
                file,
                "r",
                # The limit is for the frame that FFmpeg decodes as it opens an image.
                options={"protocol_whitelist": "pipe", "max_pixels": str(MAX_PIXELS)},
                metadata_errors="ignore",
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
            if width == 0 and container.format.name.endswith("_pipe"):  # an image
                raise VideoError(
                    f"{path}: an image that FFmpeg cannot read, or of more than {MAX_PIXELS} pixels"
                )
            # The size may also change on the way.
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            tags = {key.lower(): text for key, text in stream.metadata.items()}
            if tags.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9"):
                # FFmpeg's own decoders of these leave it out.
                say_once(os.fspath(path), "its transparency is ignored, not composited on black")
            # Worker processes already share the cores, each with a file of its own.
            in_worker = multiprocessing.parent_process() is not None
            stream.thread_type = "NONE" if in_worker else "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise VideoError(f"{path}: cannot be read as a video or an image: {reason}") from error
    except IndexError as error:
        # PyAV's, at the end of a file in which streams turn up that its beginning did not tell of.
        raise VideoError(f"{path}: its streams change on the way") from error


def some_frames(path: str | os.PathLike, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """These frames of the file.

    Raises:
        VideoError: there is none.
    """
    is_empty = True
    for frame in frames:
        is_empty = False
        yield frame
    if is_empty:
        raise VideoError(f"{path}: {NO_FRAME}")


def whole_frames(path: str | os.PathLike, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """These frames of the file.

    Raises:
        VideoError: there is none, or one is damaged.
    """
    for number, frame in enumerate(some_frames(path, frames)):
        if frame.is_corrupt:
            raise VideoError(f"{path}: frame number {number} is damaged")
        yield frame


def jpeg_fault(path: str | os.PathLike, container: InputContainer, stream: VideoStream) -> str:
    """What is wrong with a JPEG image, or "": FFmpeg fills in what is cut off, in silence."""
    is_image = container.format.name in ("image2", "jpeg_pipe")
    if not is_image or stream.codec_context.name != "mjpeg":
        return ""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, Image.DecompressionBombError) as error:
        return str(error)
    return ""
