"""The wiring of the encoder and the decoder (arXiv 2410.13720, section 3.1.1).

An image autoencoder inflated to video: a 1-D temporal convolution after every 2-D convolution, a
1-D temporal attention after every spatial attention. It compresses 8x in time, height and width.
Inside, a video is `(b t c h w)`. `forward` computes a whole clip; `sections` lists what it calls,
for a stream (mg/models/tae/streaming.py).
"""

from mg.backend import Module, ModuleList
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
from mg.models.tae.streaming import Part, Section


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

    def resample_step(self, x, kept, ends):
        return self.downsample_temp.conv.step(self.downsample_spat(x), kept, ends)


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

    def resample_step(self, x, kept, ends):
        return self.upsample_temp.conv.step(self.upsample_spat(x), kept, ends)


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
        return self.conv_out(self.norm_out.silu(self.mid(x)))

    def head_step(self, x, kept, ends):
        return self.conv_out.step(self.norm_out.silu(x), kept, ends)

    def sections(self):
        """`forward` in parts, in order."""
        coarsest = 2 ** (len(self.down) - 1)
        sections = []
        for number, level in enumerate(self.down):
            sections.append(_blocks(level, 2**number))
            if level.has_resampling:
                sections.append([_resampling(level, 2**number, multiple=2)])
        sections[0].insert(0, Part(self.conv_in.step, 1))
        sections[-1] += [*_middle(self.mid, coarsest), Part(self.head_step, coarsest)]
        return [Section(*parts) for parts in sections]


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

    def forward(self, z):
        """All but the last layer, `conv_out`, which `last_layer` of the whole network calls."""
        x = self.mid(self.conv_in(z))
        for level in range(self.num_levels):
            x = self.up[self.num_levels - 1 - level](x)
        return self.norm_out.silu(x)

    def head_step(self, x, kept, ends):
        return self.conv_out.step(self.norm_out.silu(x), kept, ends)

    def sections(self):
        """`forward` and `conv_out` in parts, in order."""
        coarsest = 2 ** (self.num_levels - 1)
        sections = []
        for number in reversed(range(self.num_levels)):
            level = self.up[number]
            sections.append(_blocks(level, 2**number))
            if level.has_resampling:
                sections[-1].append(_resampling(level, 2**number))
        sections[0][:0] = [Part(self.conv_in.step, coarsest), *_middle(self.mid, coarsest)]
        sections[-1].append(Part(self.head_step, 1))
        return [Section(*parts) for parts in sections]


def _middle(mid, coarseness):
    window = mid.attn_1[1].window
    attention = Part(mid.attend_step, coarseness, num_kept=0, lag=0, first=window, multiple=window)
    return [_block(mid.block_1, coarseness), attention, _block(mid.block_2, coarseness)]


def _blocks(level, coarseness):
    return [_block(block, coarseness) for block in level.block]


def _resampling(level, coarseness, multiple=1):
    return Part(level.resample_step, coarseness, multiple=multiple)


def _block(block, coarseness):
    return Part(block.step, coarseness, num_kept=3, lag=2, first=3)  # two convolutions
