"""The terms of the training loss: pure functions of tensors, each with its reduction.

Pixel and latent terms are sums over one frame's values, averaged over the batch's frames, as in the
latent diffusion autoencoders that this one continues; the weights of the recipes (KL 1e-6,
perceptual 1, outlier penalty 1e5) belong to these reductions.

Axes: b batch, c channels, t frames of the video, f frames of the latents, h height, w width.
"""

from mg.backend import Tensor, relu

OUTLIER_STDS = 3.0  # r of the paper
_TINY = 1e-12  # under square roots, whose gradient at 0 is infinite


def reconstruction(video: Tensor, target: Tensor) -> Tensor:
    """L1: sum of absolute differences in a frame, averaged over frames. Both `(b c t h w)`.

    Raises:
        ValueError: videos of two shapes.
    """
    _check_alike(video, target)
    return (video - target).abs().sum() / _frames(target)


def perceptual(distances: Tensor, target: Tensor) -> Tensor:
    """LPIPS, counted once for every value of a frame, averaged over frames.

    LPIPS is one number a frame; as in latent diffusion's loss it is added to each of the frame's
    c * h * w absolute differences before those are summed.

    Args:
        distances: LPIPS of each frame, `(b t)`.
        target: the video `(b c t h w)`.
    """
    _, c, _, h, w = target.shape
    return distances.mean() * (c * h * w)


def kl_divergence(mean: Tensor, logvar: Tensor, target: Tensor) -> Tensor:
    """KL of the posterior N(mean, exp(logvar)) to N(0, 1): sum over all latents, divided by the
    number of the video's frames.

    Args:
        mean, logvar: `(b z f h w)`.
        target: the video `(b c t h w)`.
    """
    return 0.5 * (mean * mean + logvar.exp() - 1.0 - logvar).sum() / _frames(target)


def outlier_penalty(z: Tensor) -> Tensor:
    """The paper's outlier penalty loss (arXiv 2410.13720, equation 1), averaged over latent frames.

    In a frame X of the latents, mean and standard deviation are vectors over channels, taken over
    positions (the deviation with divisor h * w); the loss is the mean over positions ij of
    max(||X_ij - mean|| - r ||std||, 0) with norms over channels and r = 3.

    Args:
        z: latents `(b z f h w)`.
    """
    centred = z - z.mean((3, 4)).reshape(*z.shape[:3], 1, 1)
    squares = centred * centred
    distance = (squares.sum(1) + _TINY).sqrt()  # (b f h w)
    spread = (squares.mean((3, 4)).sum(1) + _TINY).sqrt()  # (b f), norm of the deviations
    excess = distance - OUTLIER_STDS * spread.reshape(*spread.shape, 1, 1)
    return relu(excess).mean()


def mean_squared_error(video: Tensor, target: Tensor) -> Tensor:
    """Mean over all values; PSNR is 10 log10(4 / this) for values in [-1, 1].

    Raises:
        ValueError: videos of two shapes.
    """
    _check_alike(video, target)
    return ((video - target) * (video - target)).mean()


def _check_alike(video: Tensor, target: Tensor) -> None:
    if video.shape != target.shape:  # which would be broadcast
        raise ValueError(
            f"a video of shape {tuple(video.shape)} for a target of {tuple(target.shape)}"
        )


def _frames(video: Tensor) -> int:
    return video.shape[0] * video.shape[2]
