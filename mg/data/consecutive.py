"""A video from its first frame to its last, in pieces: strict, where nothing may be missing."""

import os
from collections.abc import Generator
from contextlib import closing
from itertools import islice

import numpy as np

from mg.data.clip import check_clip_arguments
from mg.data.opening import VideoError, jpeg_fault, open_video, whole_frames
from mg.data.pixels import to_rgb
from mg.data.timing import Clock, missing
from mg.data.transforms import resize_and_crop


def read_consecutive(
    path: str | os.PathLike,
    num_frames: int,
    image_size: int | None = None,
    *,
    sample_stride: int = 1,
) -> Generator[np.ndarray]:
    """Read a whole video, or an image, in one decode.

    Args:
        path: a video or an image.
        num_frames: length of all pieces but the last.
        image_size: short side and centre square in pixels, at least 8; None for the video's own
            size.
        sample_stride: take every n-th frame.

    Yields:
        uint8 (t h w 3), with t = `num_frames` but for the last; the frames of `read_frames`.

    Raises:
        FileNotFoundError: no such file.
        VideoError: what is wrong with the file: it has no frame, one of them is damaged, or its end
            is missing. The pieces before are then to be discarded.
        ValueError: an argument out of its range.
    """
    check_clip_arguments(num_frames, image_size, sample_stride)
    with closing(_frames(path, image_size, sample_stride)) as frames:
        while piece := list(islice(frames, num_frames)):
            yield np.stack(piece)


def _frames(path: str | os.PathLike, image_size: int | None, stride: int) -> Generator[np.ndarray]:
    size, count = None, 0
    with open_video(path) as (container, stream):
        if fault := jpeg_fault(path, container, stream):
            raise VideoError(f"{path}: {fault}")
        clock = Clock(container, stream)
        for frame in whole_frames(path, container.decode(stream)):
            clock.next(frame)
            size = size or (frame.width, frame.height)
            if count % stride == 0:
                image = to_rgb(frame, size, path)
                yield image if image_size is None else resize_and_crop(image, image_size)
            count += 1
        if lost := missing(container, stream, clock):
            raise VideoError(f"{path}: {count} frames were read{lost}")
