"""Videos that tests write: kept without loss, and labelled so that a clip tells its origin."""

from fractions import Fraction

import av
import numpy as np

NUM_FILES = 5
FRAMES_PER_FILE = 20


def write_losslessly(path, frames, codec="ffv1", pix_fmt="bgr0", options=None, title=""):
    """Write uint8 frames (t h w 3) with a codec that keeps every value."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def labelled_frames(file, num_frames=FRAMES_PER_FILE, height=20, width=28):
    """Frames of one colour: red is 40 x file, green 10 x frame; blue darkens to the right."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[..., 0] = 40 * file
    frames[..., 1] = 10 * np.arange(num_frames)[:, None, None]
    frames[..., 2] = np.linspace(250, 0, width).astype(np.uint8)
    return frames


def write_csv(path, names, column="video"):
    path.write_text("\n".join([column, *names]) + "\n", encoding="utf-8")
    return path


def write_moving(
    path, codec, pix_fmt="yuv420p", options=None, num_frames=50, times=None, muxer=None
):
    """Write a moving picture of 64 x 48 with a lossy codec, every frame unlike the others.

    `times` are the frames' presentation times in milliseconds, for a variable frame rate;
    `muxer`, its options.
    """
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (24, 24, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            image = np.roll(ground, (2 * number, 3 * number), (0, 1))[:48, :64]
            image = 255 - image if number % 23 == 17 else image  # a cut, which codecs notice
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number if times is None else int(times[number])
            if times is not None:
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
