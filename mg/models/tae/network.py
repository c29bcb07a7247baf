"""The wiring of the encoder and the decoder (arXiv 2410.13720, section 3.1.1).

An image autoencoder inflated to video: a 1-D temporal convolution after every 2-D convolution, a
1-D temporal attention after every spatial attention. It compresses 8x in time, height and width.
Inside, a video is `(b t c h w)`; `memory` is as in mg/models/tae/layers.py.
"""

from mg.backend import Module, ModuleList, silu
from mg.models.tae.layers import (
    Conv,
    GroupNorm,
    MiddleBlock,
    SpatialDownsample,
    SpatialUpsample,
    TemporalDownsample,
    TemporalUpsample,
    residual_blocks,
)


class EncoderLevel(Module):
    """Residual blocks at one resolution, then half of it in space and time."""

    def __init__(self, setting, in_channels, out_channels, num_blocks, has_resampling):
        super().__init__()
        self.block = residual_blocks(setting, in_channels, out_channels, num_blocks)
        self.has_resampling = has_resampling
        if has_resampling:
            self.downsample_spat = SpatialDownsample(setting, out_channels)
            self.downsample_temp = TemporalDownsample(out_channels)

    def forward(self, x, memory=None):
        for block in self.block:
            x = block(x, memory)
        if self.has_resampling:
            x = self.downsample_temp(self.downsample_spat(x), memory)
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

    def forward(self, x, memory=None):
        for block in self.block:
            x = block(x, memory)
        if self.has_resampling:
            x = self.upsample_temp(self.upsample_spat(x), memory)
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
        return self.head(self.mid(x))

    def head(self, x, memory=None):
        return self.conv_out(silu(self.norm_out(x)), memory)

    def parts(self):
        """The functions that `forward` calls in turn, of (x, memory); with each, how much coarser
        than the pixels its input is, and the finest that it computes."""
        levels = [(level, 2**number, 2**number) for number, level in enumerate(self.down)]
        coarsest = levels[-1][1]
        ends = [(self.mid, coarsest, coarsest), (self.head, coarsest, coarsest)]
        return [(self.conv_in, 1, 1), *levels, *ends]


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

    def head(self, x, memory=None):
        return self.conv_out(silu(self.norm_out(x)), memory)

    def parts(self):
        """As `Encoder.parts`, of `features` and `conv_out`."""
        levels = [
            (level, 2**number, 2 ** max(number - 1, 0)) for number, level in enumerate(self.up)
        ]
        coarsest = levels[-1][1]
        starts = [(self.conv_in, coarsest, coarsest), (self.mid, coarsest, coarsest)]
        return [*starts, *reversed(levels), (self.head, 1, 1)]
