"""The same network written the plain way of PyTorch, to measure ours against.

Convolutions, norms and upsampling of images on every frame, convolutions in time on every position,
with transposes between them; attention by matrix products and a softmax. Layers are named as ours,
so ours' weights fit (`load`). Inside, a video is `(b c t h w)`.
"""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def per_frame(function, x):
    """`function` of images `(n c h w)` on every frame."""
    b, c, t, h, w = x.shape
    y = function(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w))
    return y.reshape(b, t, *y.shape[1:]).permute(0, 2, 1, 3, 4)


def per_position(function, x):
    """`function` of sequences `(n c t)` on every position."""
    b, c, t, h, w = x.shape
    y = function(x.permute(0, 3, 4, 1, 2).reshape(b * h * w, c, t))
    return y.reshape(b, h, w, *y.shape[1:]).permute(0, 3, 4, 1, 2)


def temporal_conv(channels, kernel=3, stride=1):
    return nn.Conv1d(channels, channels, kernel, stride, kernel // 2, padding_mode="replicate")


def attend(query, key, value):
    """`(n s c)`, one head."""
    scores = query @ key.transpose(1, 2) * query.shape[2] ** -0.5
    return torch.softmax(scores, dim=-1) @ value


class GroupNorm(nn.GroupNorm):
    def forward(self, x):
        return per_frame(super().forward, x)


class Conv(nn.Module):
    def __init__(self, in_channels, out_channels, kernel=3):
        super().__init__()
        self.conv_spat = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.conv_temp = temporal_conv(out_channels, kernel)

    def forward(self, x):
        return per_position(self.conv_temp, per_frame(self.conv_spat, x))


class ResnetBlock(nn.Module):
    def __init__(self, groups, in_channels, out_channels):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = Conv(in_channels, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = Conv(out_channels, out_channels)
        self.nin_shortcut = (
            nn.Identity() if in_channels == out_channels else Conv(in_channels, out_channels, 1)
        )

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class SpatialAttention(nn.Module):
    def __init__(self, groups, channels):
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x + per_frame(self.of_images, self.norm(x))

    def of_images(self, y):
        query, key, value = (
            layer(y).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        return self.proj_out(attend(query, key, value).transpose(1, 2).reshape(y.shape))


class TemporalAttention(nn.Module):
    def __init__(self, groups, channels, window):
        super().__init__()
        self.window = window
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x):
        return x + per_position(self.of_sequences, self.norm(x))

    def of_sequences(self, y):
        parts = [self.of_window(part) for part in y.transpose(1, 2).split(self.window, dim=1)]
        return torch.cat(parts, dim=1).transpose(1, 2)

    def of_window(self, y):
        return self.proj_out(attend(self.to_q(y), self.to_k(y), self.to_v(y)))


class Middle(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        groups = config["num_groups"]
        self.block_1 = ResnetBlock(groups, channels, channels)
        self.attn_1 = nn.Sequential(
            SpatialAttention(groups, channels),
            TemporalAttention(groups, channels, config["attention_window"]),
        )
        self.block_2 = ResnetBlock(groups, channels, channels)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Half the rows and columns; padded below and at the right."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return per_frame(lambda images: self.conv(F.pad(images, (0, 1, 0, 1))), x)


class TemporalDownsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = temporal_conv(channels, stride=2)

    def forward(self, x):
        return per_position(self.conv, x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return per_frame(lambda images: self.conv(F.interpolate(images, scale_factor=2.0)), x)


class TemporalUpsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = temporal_conv(channels)

    def forward(self, x):
        return per_position(lambda frames: self.conv(F.interpolate(frames, scale_factor=2.0)), x)


class Level(nn.Module):
    def __init__(self, config, in_channels, out_channels, blocks, resample):
        super().__init__()
        widths = [in_channels] + [out_channels] * (blocks - 1)
        groups = config["num_groups"]
        self.block = nn.Sequential(*(ResnetBlock(groups, width, out_channels) for width in widths))
        self.resample = list(resample)
        for name, layer in resample.items():
            self.add_module(name, layer(out_channels))

    def forward(self, x):
        x = self.block(x)
        for name in self.resample:
            x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        ch, blocks = config["ch"], config["num_res_blocks"]
        widths = [ch, *(ch * multiple for multiple in config["ch_mult"])]
        down = {"downsample_spat": Downsample, "downsample_temp": TemporalDownsample}
        self.conv_in = Conv(config["in_channels"], ch)
        self.down = nn.Sequential(
            *(
                Level(
                    config, *widths[level : level + 2], blocks, down if widths[level + 2 :] else {}
                )
                for level in range(len(widths) - 1)
            )
        )
        self.mid = Middle(config, widths[-1])
        self.norm_out = GroupNorm(config["num_groups"], widths[-1], eps=1e-6)
        self.conv_out = Conv(widths[-1], 2 * config["z_channels"])

    def forward(self, x):
        x = self.mid(self.down(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        blocks = config["num_res_blocks"] + 1
        widths = [config["ch"] * multiple for multiple in config["ch_mult"]]
        widths.append(widths[-1])
        up = {"upsample_spat": Upsample, "upsample_temp": TemporalUpsample}
        self.conv_in = Conv(config["z_channels"], widths[-1])
        self.mid = Middle(config, widths[-1])
        self.up = nn.ModuleList(
            Level(config, widths[level + 1], widths[level], blocks, up if level else {})
            for level in range(len(widths) - 1)
        )
        self.norm_out = GroupNorm(config["num_groups"], widths[0], eps=1e-6)
        self.conv_out = Conv(widths[0], config["out_ch"])

    def forward(self, z):
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class PlainAutoencoder(nn.Module):
    """Video `(b c t h w)` to moments `(b 2z ceil(t/8) h/8 w/8)`, latents to video; for h and w that
    are multiples of 8 and a config with group norm over frames.

    Args:
        config: as mg.models.tae.config's TAE_CONFIG, complete.
        dtype: "fp32", or that of convolutions and matrix products under autocast.
        compiled: by torch.compile.
    """

    def __init__(self, config: dict, dtype: str = "fp32", compiled: bool = False):
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
        if compiled:
            self.encoder.compile(dynamic=False)
            self.decoder.compile(dynamic=False)

    def encode(self, x):
        with self._precision(x):
            return self.encoder(x).float()

    def decode(self, z):
        with self._precision(z):
            return self.decoder(z).float()

    def _precision(self, x):
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, self.dtype)


def load(network: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Give `network` the weights of ours, by name."""
    renamed = {}
    for name, array in arrays.items():
        name = name.removesuffix("gamma") + "weight" if name.endswith("gamma") else name
        name = name.removesuffix("beta") + "bias" if name.endswith("beta") else name
        renamed[name] = torch.from_numpy(array)
        if name.endswith(("conv_temp.weight", "_temp.conv.weight")):  # ours are `(o c 1 k)`
            renamed[name] = renamed[name].squeeze(2)
    network.load_state_dict(renamed)


class PlainStep:
    """One update: loss, autograd, clipping to norm 1, AdamW.

    Args:
        objective: mg.losses.objective.Objective.
    """

    def __init__(self, network: PlainAutoencoder, objective, learning_rate: float = 1e-5):
        self.network, self.objective = network, objective
        self.optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.0)

    def __call__(self, x: torch.Tensor, noise: torch.Tensor) -> float:
        """The loss, of the weights before the update."""
        mean, logvar = self.network.encode(x).chunk(2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)
        z = mean + (0.5 * logvar).exp() * noise
        loss = self.objective(x, self.network.decode(z), z, mean, logvar)[0]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
