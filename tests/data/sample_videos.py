"""Videos that tests write: kept without loss, and labelled so that a clip tells its origin."""

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
