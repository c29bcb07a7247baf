"""Movie Gen's Temporal Autoencoder (arXiv 2410.13720, section 3.1.1): the whole wiring.

An image autoencoder inflated to video: a 1-D temporal convolution after every 2-D convolution, a
1-D temporal attention after every spatial attention. It compresses 8x in time, height and width.

Axes: b batch, c channels, t frames, h height, w width. The interface is `(b c t h w)`; inside, a
video is `(b t c h w)`.
"""

import logging
import os

import numpy as np

from mg import backend
from mg.backend import Module, ModuleList, Tensor, cast, cat, silu
from mg.models.tae.layers import (
    Conv,
    GroupNorm,
    MiddleBlock,
    Setting,
    SpatialConv,
    SpatialDownsample,
    SpatialUpsample,
    TemporalDownsample,
    TemporalUpsample,
    residual_blocks,
)
from mg.models.tae.tiling import tiled
from mg.models.tae.weights import (
    Arrays,
    infer_sizes,
    is_mindone,
    load_strictly,
    read_weights,
    write_weights,
)

logger = logging.getLogger(__name__)

TAE_CONFIG = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "z_channels": 16,
    "num_groups": 32,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "norm_scope": "frame",  # group norm over each "frame", or over the whole "clip"
    "upsample_padding": "replicate",  # of the convolutions that double the frames; or "zeros"
}
"""The full-size network, shaped as Stable Diffusion 3.5's image autoencoder."""

MINDONE_TAE_CONFIG = {**TAE_CONFIG, "norm_scope": "clip", "upsample_padding": "zeros"}
"""The network that mindone's published TAE checkpoints are for."""

ENCODE_TILE = 32  # frames; the paper encodes tiles of 32 frames without overlap,
DECODE_TILE, DECODE_OVERLAP = 32, 16  # and decodes tiles of 32 with 16 shared (section 3.1.1)


def check_config(config: dict) -> dict:
    """`config` with the defaults of TAE_CONFIG filled in.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or sizes that do not fit together.
    """
    unknown = sorted(set(config) - set(TAE_CONFIG))
    if unknown:
        raise ValueError(f"unknown TAE config key {unknown[0]!r}, expected one of {[*TAE_CONFIG]}")
    full = {**TAE_CONFIG, **config}
    full["ch_mult"] = [*full["ch_mult"]] if isinstance(full["ch_mult"], list | tuple) else None
    for key, default in TAE_CONFIG.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        value = full[key]
        if type(value) not in kinds or (type(value) is int and value < 1 and int in kinds[:1]):
            raise ValueError(f"TAE config {key} is {config[key]!r}, expected one like {default!r}")
    if not full["ch_mult"] or any(type(m) is not int or m < 1 for m in full["ch_mult"]):
        raise ValueError(f"TAE config ch_mult is {config['ch_mult']!r}, expected positive integers")
    for multiple in full["ch_mult"]:
        if full["ch"] * multiple % full["num_groups"]:
            raise ValueError(
                f"TAE config: {full['ch']} x {multiple} channels (ch, ch_mult) do not divide into "
                f"{full['num_groups']} groups (num_groups)"
            )
    for key, choices in (
        ("norm_scope", ("frame", "clip")),
        ("upsample_padding", ("replicate", "zeros")),
    ):
        if full[key] not in choices:
            raise ValueError(f"TAE config {key} is {full[key]!r}, expected one of {choices}")
    return full


class EncoderLevel(Module):
    """Residual blocks at one resolution, then half of it in space and time."""

    def __init__(self, setting, in_channels, out_channels, num_blocks, has_resampling):
        super().__init__()
        self.block = residual_blocks(setting, in_channels, out_channels, num_blocks)
        self.has_resampling = has_resampling
        if has_resampling:
            self.downsample_spat = SpatialDownsample(setting, out_channels)
            self.downsample_temp = TemporalDownsample(out_channels)

    def forward(self, x):
        for block in self.block:
            x = block(x)
        if self.has_resampling:
            x = self.downsample_temp(self.downsample_spat(x))
        return x


class DecoderLevel(Module):
    """Residual blocks at one resolution, then twice that in space and time."""

    def __init__(self, setting, in_channels, out_channels, num_blocks, has_resampling):
        super().__init__()
        self.block = residual_blocks(setting, in_channels, out_channels, num_blocks)
        self.has_resampling = has_resampling
        if has_resampling:
            self.upsample_spat = SpatialUpsample(setting, out_channels)
            self.upsample_temp = TemporalUpsample(setting, out_channels)

    def forward(self, x):
        for block in self.block:
            x = block(x)
        if self.has_resampling:
            x = self.upsample_temp(self.upsample_spat(x))
        return x


class Encoder(Module):
    """`(b t c h w)` to the mean and log variance of each latent, side by side in channels."""

    def __init__(self, setting, config):
        super().__init__()
        widths = [config["ch"] * multiple for multiple in config["ch_mult"]]
        self.conv_in = Conv(setting, config["in_channels"], config["ch"])
        self.down = ModuleList(
            [
                EncoderLevel(
                    setting,
                    in_channels=widths[level - 1] if level else config["ch"],
                    out_channels=width,
                    num_blocks=config["num_res_blocks"],
                    has_resampling=level < len(widths) - 1,
                )
                for level, width in enumerate(widths)
            ]
        )
        self.mid = MiddleBlock(setting, widths[-1])
        self.norm_out = GroupNorm(setting, widths[-1])
        self.conv_out = Conv(setting, widths[-1], 2 * config["z_channels"])

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        return self.conv_out(silu(self.norm_out(x)))


class Decoder(Module):
    """Latents `(b t c h w)` to pixels; level 0 has the pixels' resolution and comes last."""

    def __init__(self, setting, config):
        super().__init__()
        widths = [config["ch"] * multiple for multiple in config["ch_mult"]]
        self.num_levels = len(widths)
        self.conv_in = Conv(setting, config["z_channels"], widths[-1])
        self.mid = MiddleBlock(setting, widths[-1])
        self.up = ModuleList(
            [
                DecoderLevel(
                    setting,
                    in_channels=widths[min(level + 1, len(widths) - 1)],
                    out_channels=width,
                    num_blocks=config["num_res_blocks"] + 1,
                    has_resampling=level > 0,
                )
                for level, width in enumerate(widths)
            ]
        )
        self.norm_out = GroupNorm(setting, widths[0])
        self.conv_out = Conv(setting, widths[0], config["out_ch"])

    def features(self, z):
        """All but the last layer, `conv_out`, which `last_layer` of the whole network calls."""
        x = self.mid(self.conv_in(z))
        for level in range(self.num_levels):
            x = self.up[self.num_levels - 1 - level](x)
        return silu(self.norm_out(x))


class TemporalAutoencoder(Module):
    """Video `(b c t h w)` in [-1, 1] to latents `(b z ceil(t/8) ceil(h/8) ceil(w/8))` and back.

    Args:
        pretrained: a checkpoint, `.safetensors` or (MindSpore) `.ckpt`, which brings its config;
            one of mindone's gets MINDONE_TAE_CONFIG. None: initial weights.
        config: keys to change in that config, or in TAE_CONFIG.
        use_tile: encode and decode tiles of 32 frames, as the paper does, to save memory.
        dtype: of convolutions and matrix products: "fp32", "bf16" or "fp16". Weights, norms,
            softmax, latents and pixels are float32.
        use_recompute: in training, compute activations twice instead of keeping them.
        compile: compile `encode` and `decode` for each size of video: MindSpore's graph mode
            (at `jit_level`), or `torch.compile`; None: on MindSpore only.
        seed: of the initial weights; the same on both frameworks.

    Raises:
        ValueError: an unknown or unfit config; a checkpoint that is damaged or does not fit; a
            dtype that the device does not have.
        FileNotFoundError: no such checkpoint.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike | None = None,
        config: dict | None = None,
        *,
        use_tile: bool = False,
        dtype: str = "fp32",
        use_recompute: bool = False,
        compile: bool | None = False,
        jit_level: str = "O0",
        seed: int = 0,
    ):
        super().__init__()
        arrays = None
        if pretrained is not None:
            arrays, stored_config = read_weights(pretrained)
            stored_config = _config_of(arrays, stored_config, source=str(pretrained))
            config = {**stored_config, **(config or {})}
        self.config = check_config(config or {})
        self.use_tile = use_tile
        self.compression = 2 ** (len(self.config["ch_mult"]) - 1)  # of time, height and width
        self._compute_dtype = backend.dtype(dtype)
        self._float32 = backend.dtype("fp32")
        self._warned_of_range = False

        setting = Setting(
            groups=self.config["num_groups"],
            over_clip=self.config["norm_scope"] == "clip",
            upsample_padding=self.config["upsample_padding"],
            use_recompute=use_recompute,
            rng=np.random.default_rng(seed),
        )
        z_channels = self.config["z_channels"]
        self.encoder = Encoder(setting, self.config)
        self.decoder = Decoder(setting, self.config)
        self.has_quant_conv = self.config["use_quant_conv"]
        if self.has_quant_conv:
            self.quant_conv = SpatialConv(setting, 2 * z_channels, 2 * z_channels, kernel=1)
        self.has_post_quant_conv = self.config["use_post_quant_conv"]
        if self.has_post_quant_conv:
            self.post_quant_conv = SpatialConv(setting, z_channels, z_channels, kernel=1)

        if arrays is not None:
            load_strictly(backend.named_parameters(self), arrays, source=str(pretrained))
        self._encode_tile, self._decode_tile = self.moments, self.pixels
        if backend.compiles_by_default if compile is None else compile:
            self._encode_tile = backend.compile(self.moments, jit_level=jit_level)
            self._decode_tile = backend.compile(self.pixels, jit_level=jit_level)

    # The network as two functions of tensors: what graphs are compiled from.

    def moments(self, x: Tensor) -> Tensor:
        """Mean and log variance `(b 2z t/8 h/8 w/8)` of x `(b c t h w)`; h and w multiples of 8."""
        y = self.encoder(cast(x, self._compute_dtype).permute(0, 2, 1, 3, 4))
        if self.has_quant_conv:
            y = self.quant_conv(y)
        return cast(y.permute(0, 2, 1, 3, 4), self._float32)

    def pixels(self, z: Tensor) -> Tensor:
        """The video `(b c 8t 8h 8w)` of latents z `(b z t h w)`."""
        return self.last_layer(self.features(z))

    def features(self, z: Tensor) -> Tensor:
        """What the decoder's last layer reads, `(b 8t ch 8h 8w)` in the compute dtype, of latents
        z `(b z t h w)`."""
        y = cast(z, self._compute_dtype).permute(0, 2, 1, 3, 4)
        if self.has_post_quant_conv:
            y = self.post_quant_conv(y)
        return self.decoder.features(y)

    def last_layer(self, features: Tensor) -> Tensor:
        """The video `(b c 8t 8h 8w)` of what `features` gives."""
        return cast(self.decoder.conv_out(features).permute(0, 2, 1, 3, 4), self._float32)

    def posterior(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each `(b z t h w)`; the latter kept within [-30, 20], where its
        exponential is finite."""
        z_channels = moments.shape[1] // 2
        return moments[:, :z_channels], moments[:, z_channels:].clamp(-30.0, 20.0)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For training: (video, z, mean, logvar), with z = mean + exp(logvar / 2) noise.

        Args:
            x: `(b c t h w)` in [-1, 1]; h and w multiples of 8.
            noise: standard normal, of the size of the latents.
        """
        z, mean, logvar = self.sample(x, noise)
        return self.pixels(z)[:, :, : x.shape[2]], z, mean, logvar

    def sample(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The latents of `reconstruct`: (z, mean, logvar)."""
        mean, logvar = self.posterior(self.moments(x))
        return mean + (0.5 * logvar).exp() * noise, mean, logvar

    # The interface.

    def encode(
        self, x: Tensor, sample: bool = True, *, seed: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compress a video.

        Args:
            x: `(b c t h w)` in [-1, 1], t >= 1, h and w >= 8. Heights and widths that are no
                multiple of 8 are extended by their last row and column.
            sample: z is drawn from the posterior; otherwise it is the posterior's mean.
            seed: of that draw; None draws anew at each call.

        Returns:
            (z, mean, logvar), each `(b z ceil(t/8) ceil(h/8) ceil(w/8))`, float32; z is raw, see
            `scale`.

        Raises:
            ValueError: another shape, or values that are not finite. Values beyond [-1, 1] are
                warned of once.
        """
        x = self._checked_video(x)
        for axis in (3, 4):
            x = _extend(x, axis, -x.shape[axis] % self.compression)
        if self.use_tile:
            moments = tiled(self._encode_tile, x, axis=2, tile=ENCODE_TILE)
        else:
            moments = self._encode_tile(x)
        mean, logvar = self.posterior(moments)
        if not sample:
            return mean, mean, logvar
        rng = np.random.default_rng(seed)
        noise = backend.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
        return mean + (0.5 * logvar).exp() * noise, mean, logvar

    def decode(
        self,
        z: Tensor,
        num_target_frames: int | None = None,
        target_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Give back the video of latents.

        Args:
            z: raw latents `(b z t h w)`; see `unscale`.
            num_target_frames: keep that many frames of the 8t; 1 for an image.
            target_size: (height, width) to keep of (8h, 8w).

        Returns:
            `(b c t h w)`, float32, in about [-1, 1] (not clipped).

        Raises:
            ValueError: another shape or number of channels, values that are not finite, or a
                target larger than what there is.
        """
        z = self._checked_latents(z)
        sizes = [size * self.compression for size in z.shape[2:]]
        targets = [num_target_frames, *(target_size or (None, None))]
        for target, size, axis in zip(targets, sizes, ("frames", "rows", "columns"), strict=True):
            if target is not None and not 1 <= target <= size:
                raise ValueError(f"{target} {axis} asked of latents that hold 1 to {size}")
        if self.use_tile:
            tile, overlap = DECODE_TILE // self.compression, DECODE_OVERLAP // self.compression
            x = tiled(self._decode_tile, z, axis=2, tile=tile, overlap=overlap)
        else:
            x = self._decode_tile(z)
        frames, rows, columns = (t or size for t, size in zip(targets, sizes, strict=True))
        return x[:, :, :frames, :rows, :columns]

    @backend.in_python
    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x `(b c t h w)` from its posterior's mean, in the same size."""
        _, mean, _ = self.encode(x, sample=False)
        return self.decode(mean, x.shape[2], (x.shape[3], x.shape[4]))

    def save_checkpoint(self, path: str | os.PathLike) -> None:
        """Write the weights and the config, as `.safetensors` or (MindSpore) `.ckpt`, whole or not
        at all.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.
        """
        parameters = backend.named_parameters(self)
        arrays = {name: backend.to_numpy(parameter) for name, parameter in parameters.items()}
        write_weights(path, arrays, self.config)

    def scale(self, z: Tensor) -> Tensor:
        """Raw latents to scaled latents, as latent diffusion models are trained on."""
        return self.config["scaling_factor"] * (z - self.config["shift_factor"])

    def unscale(self, z: Tensor) -> Tensor:
        """Scaled latents to raw latents."""
        return z / self.config["scaling_factor"] + self.config["shift_factor"]

    def latent_size(self, t: int, h: int, w: int) -> tuple[int, ...]:
        """The latents' frames, height and width of a video of t frames, h rows, w columns."""
        return tuple(-(-size // self.compression) for size in (t, h, w))

    def _checked_video(self, x):
        x = x if backend.is_tensor(x) else backend.from_numpy(np.asarray(x, np.float32))
        channels, smallest = self.config["in_channels"], self.compression
        if x.ndim != 5 or x.shape[1] != channels or min(x.shape) < 1 or min(x.shape[3:]) < smallest:
            raise ValueError(
                f"a video of shape {tuple(x.shape)}, expected (b {channels} t h w) with t >= 1 and "
                f"h, w >= {smallest}"
            )
        if not _all_finite(x):
            raise ValueError("the video holds NaN or infinite values, expected [-1, 1]")
        largest = float(backend.to_numpy(x.abs().max()))
        if largest > 1.0 + 1e-3 and not self._warned_of_range:
            self._warned_of_range = True
            logger.warning("the video's values reach %.4g in size, expected [-1, 1]", largest)
        return x

    def _checked_latents(self, z):
        z = z if backend.is_tensor(z) else backend.from_numpy(np.asarray(z, np.float32))
        channels = self.config["z_channels"]
        if z.ndim != 5 or z.shape[1] != channels or min(z.shape) < 1:
            raise ValueError(f"latents of shape {tuple(z.shape)}, expected (b {channels} t h w)")
        if not _all_finite(z):
            raise ValueError("the latents hold NaN or infinite values")
        return z


def _config_of(arrays: Arrays, stored_config: dict | None, *, source: str) -> dict:
    """The config of a checkpoint: the one it carries, else what its names and shapes tell."""
    try:
        if stored_config is not None:
            return check_config(stored_config)
        base = MINDONE_TAE_CONFIG if is_mindone(arrays) else TAE_CONFIG
        return check_config({**base, **infer_sizes(arrays)})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _all_finite(x: Tensor) -> bool:
    # x - x is zero but for NaN and infinity; MindSpore's maximum on the CPU skips NaN.
    return float(backend.to_numpy((x - x).sum())) == 0


def _extend(x: Tensor, axis: int, count: int) -> Tensor:
    """Repeat the last slice of x along `axis` `count` times."""
    if count == 0:
        return x
    last = x[(slice(None),) * axis + (slice(x.shape[axis] - 1, x.shape[axis]),)]
    return cat([x] + [last] * count, axis)
