"""The same network written the plain way of MindSpore, to measure ours against.

As plain_torch.py, which explains it. nn.Conv1d has no replicate padding, so ops.pad goes before it.
"""

import mindspore as ms
import numpy as np
from mindspore import nn, ops


def per_frame(function, x):
    """`function` of images `(n c h w)` on every frame."""
    b, c, t, h, w = x.shape
    y = function(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w))
    return y.reshape(b, t, y.shape[1], y.shape[2], y.shape[3]).permute(0, 2, 1, 3, 4)


def per_position(function, x):
    """`function` of sequences `(n c t)` on every position."""
    b, c, t, h, w = x.shape
    y = function(x.permute(0, 3, 4, 1, 2).reshape(b * h * w, c, t))
    return y.reshape(b, h, w, y.shape[1], y.shape[2]).permute(0, 3, 4, 1, 2)


def spatial_conv(in_channels, out_channels, kernel):
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        pad_mode="pad",
        padding=kernel // 2,
        has_bias=True,
    )


def temporal_conv(channels, kernel=3, stride=1):
    return nn.Conv1d(channels, channels, kernel, stride, pad_mode="valid", has_bias=True)


def replicate(x):
    """`(n c t)` with the end frames once more."""
    return ops.pad(x, (1, 1), mode="replicate")


def attend(query, key, value):
    """`(n s c)`, one head."""
    scores = ops.matmul(query, key.permute(0, 2, 1)) * query.shape[2] ** -0.5
    return ops.matmul(ops.softmax(scores, -1), value)


def group_norm(groups, channels):
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Conv(nn.Cell):
    def __init__(self, in_channels, out_channels, kernel=3):
        super().__init__()
        self.conv_spat = spatial_conv(in_channels, out_channels, kernel)
        self.conv_temp = temporal_conv(out_channels, kernel)
        self.kernel = kernel

    def construct(self, x):
        return per_position(self.of_sequences, per_frame(self.conv_spat, x))

    def of_sequences(self, x):
        return self.conv_temp(replicate(x) if self.kernel == 3 else x)


class ResnetBlock(nn.Cell):
    def __init__(self, groups, in_channels, out_channels):
        super().__init__()
        self.norm1 = group_norm(groups, in_channels)
        self.conv1 = Conv(in_channels, out_channels)
        self.norm2 = group_norm(groups, out_channels)
        self.conv2 = Conv(out_channels, out_channels)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.nin_shortcut = Conv(in_channels, out_channels, 1)

    def construct(self, x):
        h = self.conv1(ops.silu(per_frame(self.norm1, x)))
        h = self.conv2(ops.silu(per_frame(self.norm2, h)))
        if self.has_shortcut:
            x = self.nin_shortcut(x)
        return x + h


class SpatialAttention(nn.Cell):
    def __init__(self, groups, channels):
        super().__init__()
        self.norm = group_norm(groups, channels)
        self.q = spatial_conv(channels, channels, 1)
        self.k = spatial_conv(channels, channels, 1)
        self.v = spatial_conv(channels, channels, 1)
        self.proj_out = spatial_conv(channels, channels, 1)

    def construct(self, x):
        return x + per_frame(self.of_images, per_frame(self.norm, x))

    def of_images(self, y):
        n, c, h, w = y.shape
        query = self.q(y).reshape(n, c, h * w).permute(0, 2, 1)
        key = self.k(y).reshape(n, c, h * w).permute(0, 2, 1)
        value = self.v(y).reshape(n, c, h * w).permute(0, 2, 1)
        return self.proj_out(attend(query, key, value).permute(0, 2, 1).reshape(n, c, h, w))


class TemporalAttention(nn.Cell):
    def __init__(self, groups, channels, window):
        super().__init__()
        self.window = window
        self.norm = group_norm(groups, channels)
        self.to_q = nn.Dense(channels, channels)
        self.to_k = nn.Dense(channels, channels)
        self.to_v = nn.Dense(channels, channels)
        self.proj_out = nn.Dense(channels, channels)

    def construct(self, x):
        return x + per_position(self.of_sequences, per_frame(self.norm, x))

    def of_sequences(self, y):
        y = y.permute(0, 2, 1)
        parts = ()
        for start in range(0, y.shape[1], self.window):
            parts += (self.of_window(y[:, start : start + self.window]),)
        return ops.cat(parts, 1).permute(0, 2, 1)

    def of_window(self, y):
        return self.proj_out(attend(self.to_q(y), self.to_k(y), self.to_v(y)))


class Middle(nn.Cell):
    def __init__(self, config, channels):
        super().__init__()
        groups = config["num_groups"]
        self.block_1 = ResnetBlock(groups, channels, channels)
        self.attn_1 = nn.SequentialCell(
            SpatialAttention(groups, channels),
            TemporalAttention(groups, channels, config["attention_window"]),
        )
        self.block_2 = ResnetBlock(groups, channels, channels)

    def construct(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Cell):
    """Half the rows and columns; padded below and at the right."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(
            channels, channels, 3, 2, pad_mode="pad", padding=(0, 1, 0, 1), has_bias=True
        )

    def construct(self, x):
        return per_frame(self.conv, x)


class TemporalDownsample(nn.Cell):
    def __init__(self, channels):
        super().__init__()
        self.conv = temporal_conv(channels, stride=2)

    def construct(self, x):
        return per_position(self.of_sequences, x)

    def of_sequences(self, x):
        return self.conv(replicate(x))


class Upsample(nn.Cell):
    def __init__(self, channels):
        super().__init__()
        self.conv = spatial_conv(channels, channels, 3)

    def construct(self, x):
        return per_frame(self.of_images, x)

    def of_images(self, x):
        size = (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(ops.interpolate(x, size=size, mode="nearest"))


class TemporalUpsample(nn.Cell):
    def __init__(self, channels):
        super().__init__()
        self.conv = temporal_conv(channels)

    def construct(self, x):
        return per_position(self.of_sequences, x)

    def of_sequences(self, x):
        return self.conv(replicate(ops.interpolate(x, size=2 * x.shape[2], mode="nearest")))


class EncoderLevel(nn.Cell):
    def __init__(self, config, in_channels, out_channels, is_last):
        super().__init__()
        self.block = residual_blocks(config, in_channels, out_channels, config["num_res_blocks"])
        self.is_last = is_last
        if not is_last:
            self.downsample_spat = Downsample(out_channels)
            self.downsample_temp = TemporalDownsample(out_channels)

    def construct(self, x):
        x = self.block(x)
        return x if self.is_last else self.downsample_temp(self.downsample_spat(x))


class DecoderLevel(nn.Cell):
    def __init__(self, config, in_channels, out_channels, is_last):
        super().__init__()
        blocks = config["num_res_blocks"] + 1
        self.block = residual_blocks(config, in_channels, out_channels, blocks)
        self.is_last = is_last
        if not is_last:
            self.upsample_spat = Upsample(out_channels)
            self.upsample_temp = TemporalUpsample(out_channels)

    def construct(self, x):
        x = self.block(x)
        return x if self.is_last else self.upsample_temp(self.upsample_spat(x))


def residual_blocks(config, in_channels, out_channels, count):
    widths = [in_channels] + [out_channels] * (count - 1)
    groups = config["num_groups"]
    return nn.SequentialCell([ResnetBlock(groups, width, out_channels) for width in widths])


class Encoder(nn.Cell):
    def __init__(self, config):
        super().__init__()
        widths = [config["ch"], *(config["ch"] * multiple for multiple in config["ch_mult"])]
        last = len(widths) - 2
        self.conv_in = Conv(config["in_channels"], config["ch"])
        self.down = nn.SequentialCell(
            [
                EncoderLevel(config, widths[level], widths[level + 1], level == last)
                for level in range(last + 1)
            ]
        )
        self.mid = Middle(config, widths[-1])
        self.norm_out = group_norm(config["num_groups"], widths[-1])
        self.conv_out = Conv(widths[-1], 2 * config["z_channels"])

    def construct(self, x):
        x = self.mid(self.down(self.conv_in(x)))
        return self.conv_out(ops.silu(per_frame(self.norm_out, x)))


class Decoder(nn.Cell):
    def __init__(self, config):
        super().__init__()
        widths = [config["ch"] * multiple for multiple in config["ch_mult"]]
        widths.append(widths[-1])
        self.levels = len(widths) - 1
        self.conv_in = Conv(config["z_channels"], widths[-1])
        self.mid = Middle(config, widths[-1])
        self.up = nn.CellList(
            [
                DecoderLevel(config, widths[level + 1], widths[level], level == 0)
                for level in range(self.levels)
            ]
        )
        self.norm_out = group_norm(config["num_groups"], widths[0])
        self.conv_out = Conv(widths[0], config["out_ch"])

    def construct(self, z):
        x = self.mid(self.conv_in(z))
        for level in range(self.levels):
            x = self.up[self.levels - 1 - level](x)
        return self.conv_out(ops.silu(per_frame(self.norm_out, x)))


class PlainAutoencoder(nn.Cell):
    """Video `(b c t h w)` to moments `(b 2z ceil(t/8) h/8 w/8)`, latents to video; for h and w that
    are multiples of 8 and a config with group norm over frames.

    Args:
        config: as mg.models.tae.config's TAE_CONFIG, complete.
        dtype: "fp32", or that of the layers, whose weights are cast.
        compiled: in graph mode.
    """

    def __init__(self, config: dict, dtype: str = "fp32", compiled: bool = False):
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.dtype = {"fp32": ms.float32, "bf16": ms.bfloat16, "fp16": ms.float16}[dtype]
        self.in_graph_mode = compiled
        if dtype != "fp32":
            self.to_float(self.dtype)
        if compiled:
            self.encode = ms.jit(self.encode, jit_level="O0")
            self.decode = ms.jit(self.decode, jit_level="O0")

    def encode(self, x):
        return ops.cast(self.encoder(ops.cast(x, self.dtype)), ms.float32)

    def decode(self, z):
        return ops.cast(self.decoder(ops.cast(z, self.dtype)), ms.float32)


def load(network: nn.Cell, arrays: dict[str, np.ndarray]) -> None:
    """Give `network` the weights of ours, by name."""
    parameters = dict(network.parameters_and_names())
    assert set(parameters) == set(arrays)
    for name, parameter in parameters.items():
        parameter.set_data(ms.Tensor(arrays[name].reshape(parameter.shape)))


class PlainStep:
    """One update: loss, autograd, clipping to norm 1, AdamW.

    Args:
        objective: mg.losses.objective.Objective.
    """

    def __init__(self, network: PlainAutoencoder, objective, learning_rate: float = 1e-5):
        weights = network.trainable_params()
        optimizer = nn.AdamWeightDecay(weights, learning_rate, eps=1e-8)

        def loss(x, noise):
            moments = network.encode(x)
            channels = moments.shape[1] // 2
            mean, logvar = moments[:, :channels], moments[:, channels:].clamp(-30.0, 20.0)
            z = mean + (0.5 * logvar).exp() * noise
            return objective(x, network.decode(z), z, mean, logvar)[0]

        differentiated = ms.value_and_grad(loss, None, weights)

        def step(x, noise):
            value, gradients = differentiated(x, noise)
            optimizer(ops.clip_by_global_norm(gradients, 1.0))
            return value

        self.step = ms.jit(step, jit_level="O0") if network.in_graph_mode else step

    def __call__(self, x: ms.Tensor, noise: ms.Tensor) -> float:
        """The loss, of the weights before the update."""
        return float(self.step(x, noise))
