"""PSNR and SSIM of 8-bit frames, as scikit-image computes them."""

import warnings

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

EXACT_PSNR = 100.0
"""dB of a frame without any error, so that means stay finite."""


def frame_scores(frames: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
    """ "psnr" and "ssim" of each frame `(t)`; both uint8 `(t h w 3)`.

    Raises:
        ValueError: frames of another type or shape, or smaller than SSIM's window.
    """
    return {"psnr": psnr(frames, reconstruction), "ssim": ssim(frames, reconstruction)}


def psnr(frames: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame `(t)`, 100 at most; both uint8 `(t h w 3)`.

    Raises:
        ValueError: frames of another type or shape.
    """
    _check(frames, reconstruction)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "divide by zero", RuntimeWarning)
        values = [
            peak_signal_noise_ratio(true, test, data_range=255)
            for true, test in zip(frames, reconstruction, strict=True)
        ]
    return np.minimum(values, EXACT_PSNR)


def ssim(frames: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """SSIM of each frame `(t)`, windows of 7x7, mean over channels; both uint8 `(t h w 3)`.

    Raises:
        ValueError: frames of another type or shape, or smaller than a window.
    """
    _check(frames, reconstruction)
    height, width = frames.shape[1:3]
    if min(height, width) < 7:
        raise ValueError(f"frames of {width}x{height} pixels, SSIM needs at least 7x7")
    return np.array(
        [
            structural_similarity(true, test, data_range=255, channel_axis=-1)
            for true, test in zip(frames, reconstruction, strict=True)
        ]
    )


def _check(frames: np.ndarray, reconstruction: np.ndarray) -> None:
    for given in (frames, reconstruction):
        if given.dtype != np.uint8 or given.ndim != 4 or given.shape[3] != 3:
            raise ValueError(
                f"frames are {given.dtype} of shape {given.shape}, expected uint8 (t h w 3) "
                "(mg.data.to_uint8 makes them of a video)"
            )
    if frames.shape != reconstruction.shape:
        raise ValueError(f"frames of shape {frames.shape} beside {reconstruction.shape}")
