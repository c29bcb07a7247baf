"""The adversarial loss: a patch discriminator over videos, hinge losses, the adaptive weight.

As taming-transformers' VQGAN has them (Esser et al. 2021, arXiv 2012.09841), with the PatchGAN of
pix2pix (Isola et al. 2017, arXiv 1611.07004) convolving in time too, as in TATS (arXiv 2204.03638).

Axes: b batch, c channels, t frames, h height, w width; t' h' w' count patches.
"""

import math

import numpy as np

from mg import backend
from mg.backend import Module, ModuleList, Tensor, cast, conv3d, group_norm, leaky_relu, relu
from mg.losses.size import check_least

SLOPE = 0.2  # of leaky ReLU, as in pix2pix
SPREAD = 0.02  # standard deviation of the initial weights, as in pix2pix
MAX_GROUPS = 32  # of group norm
WIDEST = 8  # layers have at most this many times the first one's channels, as in pix2pix
TAPS = 3  # frames that a convolution reads
KERNEL = 4  # pixels that a convolution reads in each direction


class PatchLayer(Module):
    """A convolution in time and space, then group norm and leaky ReLU where they are asked for.

    Frames beyond the clip's ends are the end frames, so an image is a video that stands still.
    Group norm takes its statistics over the clip: over each frame it would hide a flicker of
    brightness or contrast. Batch norm would let other clips matter, and how they are divided
    among processes.
    """

    def __init__(self, rng, in_channels, out_channels, *, stride, has_norm, has_activation):
        super().__init__()
        shape = (out_channels, in_channels, TAPS, KERNEL, KERNEL)
        weight = SPREAD * rng.standard_normal(shape, dtype=np.float32)
        self.weight = backend.parameter(weight)
        self.stride, self.has_norm, self.has_activation = stride, has_norm, has_activation
        self.groups = math.gcd(MAX_GROUPS, out_channels)
        zeros = np.zeros(out_channels, np.float32)
        if has_norm:
            gamma = 1 + SPREAD * rng.standard_normal(out_channels, dtype=np.float32)
            self.gamma, self.beta = backend.parameter(gamma), backend.parameter(zeros)
        self.bias = None if has_norm else backend.parameter(zeros)  # beta is a bias already

    def forward(self, x):
        stride = (self.stride, self.stride)
        x = conv3d(x, self.weight, self.bias, stride=stride, padding=(1, 1, 1, 1))
        if self.has_norm:
            x = group_norm(x, self.gamma, self.beta, groups=self.groups, over_clip=True)
        return leaky_relu(x, SLOPE) if self.has_activation else x


class Discriminator(Module):
    """One logit for each patch of a video: how real it looks.

    Args:
        in_channels: of the videos.
        ndf: channels of the first layer; later ones have 2, 4, then 8 times as many.
        n_layers: convolutions of stride 2, in time, height and width; two of stride 1 follow.
            With 3, a patch is 70 x 70 pixels of 47 frames.
        dtype: of convolutions: "fp32", "bf16" or "fp16". Weights, norms and logits are float32.
        seed: of the initial weights; the same on both frameworks.

    Raises:
        ValueError: sizes below 1; a dtype that the device does not have.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        ndf: int = 64,
        n_layers: int = 3,
        dtype: str = "fp32",
        seed: int = 0,
    ):
        super().__init__()
        if min(in_channels, ndf, n_layers) < 1:
            raise ValueError(
                f"a discriminator of in_channels {in_channels}, ndf {ndf}, n_layers {n_layers}, "
                "expected each at least 1"
            )
        self.smallest = 3 * 2**n_layers  # pixels, of which the last layer sees 2
        self._compute_dtype, self._float32 = backend.dtype(dtype), backend.dtype("fp32")
        rng = np.random.default_rng(seed)
        widths = [in_channels, *(ndf * min(2**level, WIDEST) for level in range(n_layers + 1)), 1]
        self.layers = ModuleList(
            [
                PatchLayer(
                    rng,
                    widths[level],
                    widths[level + 1],
                    stride=2 if level < n_layers else 1,
                    has_norm=0 < level <= n_layers,
                    has_activation=level <= n_layers,
                )
                for level in range(n_layers + 2)
            ]
        )

    def forward(self, video: Tensor) -> Tensor:
        """Logits `(b t' h' w')`, float32, of a video `(b c t h w)` in [-1, 1] with t >= 1.

        Raises:
            ValueError: see `check_size`.
        """
        self.check_size(video.shape[3], video.shape[4])
        x = cast(video, self._compute_dtype).permute(0, 2, 1, 3, 4)
        for layer in self.layers:
            x = layer(x)
        b, t, _, h, w = x.shape
        return cast(x, self._float32).reshape(b, t, h, w)

    def check_size(self, height: int, width: int) -> None:
        """A video's height and width in pixels must be at least `smallest`, 3 * 2^n_layers.

        Raises:
            ValueError: they are not.
        """
        check_least(height, width, self.smallest, "the discriminator")


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """What the discriminator minimises: half of mean max(0, 1 - real) + mean max(0, 1 + fake)."""
    return 0.5 * (relu(1.0 - real_logits).mean() + relu(1.0 + fake_logits).mean())


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """What the generator minimises: minus the mean logit of its videos."""
    return -fake_logits.mean()


def adaptive_weight(norm_reconstruction: float, norm_generator: float) -> float:
    """The factor of the generator loss that makes it pull at the decoder's last layer as strongly
    as the reconstruction does (arXiv 2012.09841, equation 7), within [0, 1e4] as in
    taming-transformers.

    Args:
        norm_reconstruction, norm_generator: norms of both losses' gradients with respect to the
            last layer's weight. One that is not finite gives NaN.
    """
    if not (math.isfinite(norm_reconstruction) and math.isfinite(norm_generator)):
        return math.nan
    return min(max(norm_reconstruction / (norm_generator + 1e-4), 0.0), 1e4)
