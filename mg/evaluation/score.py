"""The clip of a video that is judged, and how good its reconstruction is."""

import os

import numpy as np

from mg import backend
from mg.data import count_frames, load_clip, to_float, to_uint8
from mg.evaluation.metrics import frame_scores
from mg.losses.lpips import LPIPS
from mg.models.tae.tae import TemporalAutoencoder

_LPIPS_FRAMES = 8  # at a time: VGG16 takes hundreds of megabytes for those of 256x256


def judged_clip(
    path: str | os.PathLike, num_frames: int, image_size: int, *, sample_stride: int = 1
) -> tuple[np.ndarray, int]:
    """The first frames and the centre of a video, float32 `(c t h w)` in [-1, 1], and how many of
    its frames are the video's own: one that is too short is mirrored in time.

    Raises:
        VideoError, OSError: the file cannot be read.
    """
    clip = load_clip(path, num_frames, image_size, sample_stride=sample_stride)
    span = (num_frames - 1) * sample_stride + 1
    available = count_frames(path, at_most=span)  # later frames do not matter
    return clip, -(-available // sample_stride)


def reconstructed(tae: TemporalAutoencoder, clips: np.ndarray) -> np.ndarray:
    """The reconstruction of clips `(b c t h w)` in [-1, 1] from their posteriors' means, in the
    same size; NaN of a clip whose latents are not finite."""
    t, h, w = clips.shape[2:]
    with backend.no_grad():
        _, mean, _ = tae.encode(backend.from_numpy(clips), sample=False)
        latents = backend.to_numpy(mean)
        broken = ~np.isfinite(latents).all((1, 2, 3, 4), keepdims=True)
        if broken.any():  # which `decode` refuses
            mean = backend.from_numpy(np.where(broken, 0, latents))
        videos = backend.to_numpy(tae.decode(mean, t, (h, w)))
    return np.where(broken, np.float32(np.nan), videos)


def score(
    clip: np.ndarray, reconstruction: np.ndarray, frames: int, lpips: LPIPS | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Compare the first `frames` frames of two clips `(c t h w)`, rounded to 8 bits.

    Returns:
        "psnr" in dB, "ssim" and, given its network, "lpips": of each frame; and the frames
        compared, uint8 `(t h w 3)`, original and reconstruction.
    """
    original = to_uint8(clip[:, :frames])
    reconstructed = to_uint8(reconstruction[:, :frames])
    scores = frame_scores(original, reconstructed)
    if lpips is not None:
        starts = range(0, len(original), _LPIPS_FRAMES)
        pieces = [slice(start, start + _LPIPS_FRAMES) for start in starts]
        distances = [_lpips(lpips, original[piece], reconstructed[piece]) for piece in pieces]
        scores["lpips"] = np.concatenate(distances)
    return scores, original, reconstructed


def _lpips(lpips: LPIPS, original: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    pair = [backend.from_numpy(to_float(frames)[None]) for frames in (original, reconstructed)]
    with backend.no_grad():
        return backend.to_numpy(lpips(*pair))[0]
