"""The bricks of the temporal autoencoder.

Inside the network a video is `(b t c h w)`, a batch of frames: spatial work is image work on every
frame, temporal work mixes neighbouring frames. Weights are plain arrays drawn with numpy, so a seed
gives the same network on every framework. Parameter names are those of mindone's checkpoints.

`forward` takes a whole clip. A brick that mixes frames has a `step` too, for a clip that comes
piece by piece (mg/models/tae/streaming.py): (next frames, kept, ends) to (output frames, kept).
`kept` is a tuple of the tensors that the step before gave, empty at the beginning, and may be
overwritten; `ends` says that the frames are the last. The whole clip is the piece that begins and
ends it.

Axes: b batch, t frames, c channels, h height, w width.
"""

from dataclasses import dataclass

import numpy as np

from mg.backend import (
    Module,
    ModuleList,
    attention,
    cat,
    conv2d,
    group_norm,
    group_norm_silu,
    keep,
    linear,
    parameter,
    recompute,
    temporal_conv,
    upsample_conv2d,
)


@dataclass(frozen=True)
class Setting:
    """What every brick of one network shares."""

    groups: int
    over_clip: bool  # group norm over the clip, not over each frame
    attention_window: int | None  # frames that attend to one another
    upsample_padding: str
    use_recompute: bool
    rng: np.random.Generator  # draws the initial weights


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Kaiming-uniform values with a = sqrt(5), the field's default for convolutions."""
    values = rng.random(shape, dtype=np.float32)
    return (2 * values - 1) / np.float32(fan_in**0.5)


class SpatialConv(Module):
    """A 2-D convolution of every frame."""

    def __init__(self, setting, in_channels, out_channels, kernel=3, stride=1, padding=None):
        super().__init__()
        fan_in = in_channels * kernel * kernel
        shape = (out_channels, in_channels, kernel, kernel)
        self.weight = parameter(_uniform(setting.rng, shape, fan_in))
        self.bias = parameter(_uniform(setting.rng, (out_channels,), fan_in))
        self.stride = stride
        self.padding = (kernel // 2,) * 4 if padding is None else padding

    def forward(self, x):
        return conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class TemporalConv(Module):
    """A 1-D convolution in time; at initialisation the identity on its centre tap."""

    def __init__(self, channels, taps=3, stride=1, upsample=1, padding="replicate"):
        super().__init__()
        weight = np.zeros((channels, channels, 1, taps), np.float32)
        weight[:, :, 0, taps // 2] = np.eye(channels)
        self.weight = parameter(weight)
        self.bias = parameter(np.zeros(channels, np.float32))
        self.stride, self.upsample, self.padding = stride, upsample, padding
        # the input frames that the outputs of this piece read and those of the next read again
        self.frames_kept = taps - stride if upsample == 1 else taps // 2

    def forward(self, x):
        return self.step(x, (), True)[0]

    def step(self, x, kept, ends):
        y = temporal_conv(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            upsample=self.upsample,
            padding=self.padding,
            before=kept,
            ends=ends,
        )
        return y, () if ends else keep(self.frames_kept, kept, x)


def first(count, kept, x):
    """The first `count` frames of what is kept, followed by x."""
    if len(kept) == 0:
        return x[:, :count]
    held = kept[0].shape[1]
    if count <= held:
        return kept[0][:, :count]
    return cat((kept[0], x[:, : count - held]), 1)


class Conv(Module):
    """A 2-D convolution of every frame, then a 1-D convolution in time."""

    def __init__(self, setting, in_channels, out_channels, kernel=3):
        super().__init__()
        self.conv_spat = SpatialConv(setting, in_channels, out_channels, kernel)
        self.conv_temp = TemporalConv(out_channels, taps=kernel)

    def forward(self, x):
        return self.conv_temp(self.conv_spat(x))

    def step(self, x, kept, ends):
        return self.conv_temp.step(self.conv_spat(x), kept, ends)


class GroupNorm(Module):
    """Group norm over each frame, or over the clip where the config says so."""

    def __init__(self, setting, channels):
        super().__init__()
        self.gamma = parameter(np.ones(channels, np.float32))
        self.beta = parameter(np.zeros(channels, np.float32))
        self.groups, self.over_clip = setting.groups, setting.over_clip

    def forward(self, x):
        return group_norm(x, self.gamma, self.beta, groups=self.groups, over_clip=self.over_clip)

    def silu(self, x):
        """SiLU of the normalised x."""
        return group_norm_silu(
            x, self.gamma, self.beta, groups=self.groups, over_clip=self.over_clip
        )


class ResnetBlock(Module):
    """Two convolutions, each after group norm and SiLU, beside a skip connection."""

    def __init__(self, setting, in_channels, out_channels):
        super().__init__()
        self.norm1 = GroupNorm(setting, in_channels)
        self.conv1 = Conv(setting, in_channels, out_channels)
        self.norm2 = GroupNorm(setting, out_channels)
        self.conv2 = Conv(setting, out_channels, out_channels)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.nin_shortcut = Conv(setting, in_channels, out_channels, kernel=1)

    def forward(self, x):
        return self.step(x, (), True)[0]

    def step(self, x, kept, ends):
        h, kept1 = self.conv1.step(self.norm1.silu(x), kept[:1], ends)
        h, kept2 = self.conv2.step(self.norm2.silu(h), kept[1:2], ends)
        if self.has_shortcut:
            x = self.nin_shortcut(x)
        y = first(h.shape[1], kept[2:], x) + h
        if ends:
            return y, ()
        # Frames wait for the convolutions to give theirs.
        waiting = x.shape[1] - h.shape[1] + (kept[2].shape[1] if len(kept) > 0 else 0)
        return y, kept1 + kept2 + keep(waiting, kept[2:], x)


def residual_blocks(setting, in_channels, out_channels, count):
    """`count` residual blocks in a row, the first from `in_channels`."""
    widths = [in_channels] + [out_channels] * (count - 1)
    blocks = [ResnetBlock(setting, width, out_channels) for width in widths]
    return ModuleList([recompute(block) if setting.use_recompute else block for block in blocks])


class SpatialAttention(Module):
    """Self-attention among the positions of each frame."""

    def __init__(self, setting, channels):
        super().__init__()
        self.norm = GroupNorm(setting, channels)
        self.q = SpatialConv(setting, channels, channels, kernel=1)
        self.k = SpatialConv(setting, channels, channels, kernel=1)
        self.v = SpatialConv(setting, channels, channels, kernel=1)
        self.proj_out = SpatialConv(setting, channels, channels, kernel=1)

    def forward(self, x):
        b, t, c, h, w = x.shape
        y = self.norm(x)
        query = self.q(y).reshape(b * t, c, h * w).permute(0, 2, 1)  # (bt hw c)
        key = self.k(y).reshape(b * t, c, h * w).permute(0, 2, 1)
        value = self.v(y).reshape(b * t, c, h * w).permute(0, 2, 1)
        y = attention(query, key, value).permute(0, 2, 1).reshape(b, t, c, h, w)
        return x + self.proj_out(y)


class Linear(Module):
    """A matrix product over channels, with a bias."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight = parameter(weight)
        self.bias = parameter(bias)

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class TemporalAttention(Module):
    """Self-attention among the frames of a window, at each position; at initialisation it adds
    nothing. Windows follow one another, the last may be short."""

    def __init__(self, setting, channels):
        super().__init__()

        def projection():
            weight = _uniform(setting.rng, (channels, channels), channels)
            return Linear(weight, _uniform(setting.rng, (channels,), channels))

        self.window = setting.attention_window
        self.norm = GroupNorm(setting, channels)
        self.to_q = projection()
        self.to_k = projection()
        self.to_v = projection()
        zeros = np.zeros((channels, channels), np.float32)
        self.proj_out = Linear(zeros, zeros[0])

    def forward(self, x):
        y = self.norm(x)
        t = x.shape[1]
        window = t if self.window is None else min(self.window, t)
        rest = t % window
        if rest == 0:
            return x + self._attend(y, window)
        parts = (self._attend(y[:, : t - rest], window), self._attend(y[:, t - rest :], rest))
        return x + cat(parts, 1)

    def _attend(self, y, window):
        b, t, c, h, w = y.shape
        y = y.reshape(b * t // window, window, c, h, w)
        y = y.permute(0, 3, 4, 1, 2).reshape(-1, window, c)  # (bhw t c), windows in the batch
        y = self.proj_out(attention(self.to_q(y), self.to_k(y), self.to_v(y)))
        y = y.reshape(b * t // window, h, w, window, c).permute(0, 3, 4, 1, 2)
        return y.reshape(b, t, c, h, w)


class MiddleBlock(Module):
    """Two residual blocks around spatial and temporal attention."""

    def __init__(self, setting, channels):
        super().__init__()
        self.block_1 = ResnetBlock(setting, channels, channels)
        self.attn_1 = ModuleList(
            [SpatialAttention(setting, channels), TemporalAttention(setting, channels)]
        )
        self.block_2 = ResnetBlock(setting, channels, channels)

    def forward(self, x):
        return self.block_2(self.attend(self.block_1(x)))

    def attend(self, x):
        return self.attn_1[1](self.attn_1[0](x))

    def attend_step(self, x, kept, ends):
        return self.attend(x), ()  # nothing is kept: all pieces but the last are whole windows


class SpatialDownsample(Module):
    """Halve height and width: a 3x3 convolution of stride 2, padded below and at the right."""

    def __init__(self, setting, channels):
        super().__init__()
        self.conv = SpatialConv(setting, channels, channels, stride=2, padding=(0, 1, 0, 1))

    def forward(self, x):
        return self.conv(x)


class TemporalDownsample(Module):
    """Halve the frames, rounding up: a convolution in time of stride 2."""

    def __init__(self, channels):
        super().__init__()
        self.conv = TemporalConv(channels, stride=2)

    def forward(self, x):
        return self.conv(x)


class SpatialUpsample(Module):
    """Double height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, setting, channels):
        super().__init__()
        self.conv = SpatialConv(setting, channels, channels)

    def forward(self, x):
        return upsample_conv2d(x, self.conv.weight, self.conv.bias)


class TemporalUpsample(Module):
    """Double the frames: nearest neighbour, then a convolution in time. Of a lone frame, padded by
    replication, both would be the same: it stays one, which the network repeats in the end."""

    def __init__(self, setting, channels):
        super().__init__()
        self.conv = TemporalConv(channels, upsample=2, padding=setting.upsample_padding)

    def forward(self, x):
        if x.shape[1] == 1 and self.conv.padding == "replicate":
            return temporal_conv(x, self.conv.weight, self.conv.bias)
        return self.conv(x)
