"""Initial weights with which a TAE gives a video's colours, blurred, before any training.

From the default initial weights, most of a short training on a CPU goes into finding out that there
are colours. Here a few channels carry them through: the encoder averages them over 8x8 pixels, the
decoder interpolates. In time all channels are averaged and interpolated. The other channels and
what all residual blocks compute inside are random as ever; the blocks' last convolutions and the
attentions' projections begin at zero, so that they add nothing yet.

A colour c takes four channels: c, -c, and two constants +LEVEL and -LEVEL. The constants outweigh
the colours in the variance of their group, so that group norm is a fixed scale, and since
silu(x) - silu(-x) = x, nothing is lost in the SiLU before the last convolution.
"""

import numpy as np

from mg.arrays import Arrays

LEVEL = 4.0
VARIANCE = 0.25  # of a colour in [-1, 1], about
GAIN = 3**0.5  # makes a convolution's random weights keep the variance of its input

# Of red, green and blue: brightness and two differences, which are small and so enlarged.
_BASIS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_TO_LATENTS = _BASIS * [[1.5], [4], [4]]
_FROM_LATENTS = np.linalg.inv(_TO_LATENTS)

_COLOURS = (0, 4, 8)  # the first channel of each
_CARRIED = 12
_CENTRE = np.outer([0, 1, 0], [0, 1, 0])
_AVERAGE = np.outer([0.5, 0.5, 0], [0.5, 0.5, 0])
_INTERPOLATE = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
_TWO_FRAMES = [0, 0.5, 0.5]  # taps before, at and after the first of two frames that become one
_BETWEEN_FRAMES = [0.25, 0.5, 0.25]  # of frames that were repeated


def colour_start(arrays: Arrays, config: dict) -> Arrays:
    """Initial weights that carry colours.

    Args:
        arrays: the parameters of a TAE by name, as initialised; changed in place.
        config: its config, complete.

    Raises:
        ValueError: a config with too few channels, or with other than three colours.
    """
    _check(config)
    for name, weight in arrays.items():
        if ".conv2.conv_spat." in name or ".attn_1.0.proj_out." in name:
            weight[:] = 0
        if not name.endswith(".weight"):
            continue
        bias = arrays[name.removesuffix("weight") + "bias"]
        if name.endswith("nin_shortcut.conv_spat.weight"):
            _pass_on(weight, bias)
        elif name.endswith("downsample_spat.conv.weight"):
            _resample(weight, bias, _AVERAGE, _AVERAGE)
        elif name.endswith("upsample_spat.conv.weight"):
            _resample(weight, bias, _INTERPOLATE, _CENTRE)
        elif name.endswith("downsample_temp.conv.weight"):
            weight[:] = np.multiply.outer(np.eye(len(weight)), [_TWO_FRAMES])
        elif name.endswith("upsample_temp.conv.weight"):
            weight[:] = np.multiply.outer(np.eye(len(weight)), [_BETWEEN_FRAMES])
        elif name == "encoder.conv_in.conv_spat.weight":
            _enter(weight, bias, np.eye(3))
        elif name == "decoder.conv_in.conv_spat.weight":
            _enter(weight, bias, _FROM_LATENTS)
    weight, bias = _last(arrays, "encoder")
    means = config["z_channels"]
    weight[:means] *= 2 * GAIN
    weight[:3], weight[means:], bias[:means], bias[means:] = 0, 0, 0, -4  # log variances: -4
    _leave(weight, _TO_LATENTS, config["ch"] * config["ch_mult"][-1] // config["num_groups"])
    weight, bias = _last(arrays, "decoder")
    weight *= 0.05
    bias[:] = 0
    _leave(weight, np.eye(3), config["ch"] * config["ch_mult"][0] // config["num_groups"])
    return arrays


def _check(config: dict) -> None:
    size = config["ch"] * config["ch_mult"][0] // config["num_groups"]
    if (config["in_channels"], config["out_ch"]) != (3, 3) or config["z_channels"] < 3:
        raise ValueError("colour_start needs 3 colours and 3 latent channels")
    if size % 4 or config["ch"] < _CARRIED:
        raise ValueError(
            f"colour_start: norm groups have {size} of {config['ch']} channels, expected a "
            f"multiple of 4 of at least {_CARRIED}: change ch or num_groups"
        )


def _last(arrays: Arrays, half: str) -> tuple[np.ndarray, np.ndarray]:
    name = f"{half}.conv_out.conv_spat"
    return arrays[f"{name}.weight"], arrays[f"{name}.bias"]


def _enter(weight: np.ndarray, bias: np.ndarray, colours: np.ndarray) -> None:
    """Into the carried channels, colours as sums of the first three input channels."""
    weight *= GAIN
    weight[:_CARRIED], bias[:] = 0, 0
    for channel, row in zip(_COLOURS, colours, strict=True):
        for source, value in enumerate(row):
            weight[channel, source] = value * _CENTRE
            weight[channel + 1, source] = -value * _CENTRE
        bias[channel + 2], bias[channel + 3] = LEVEL, -LEVEL


def _pass_on(weight: np.ndarray, bias: np.ndarray) -> None:
    """The carried channels, or all if more come out, as they are."""
    outputs, inputs = weight.shape[:2]
    same = range(inputs if outputs > inputs else _CARRIED)
    weight *= GAIN
    weight[: len(same)], bias[:] = 0, 0
    weight[same, same] = 1


def _resample(
    weight: np.ndarray, bias: np.ndarray, of_colours: np.ndarray, of_constants: np.ndarray
) -> None:
    weight *= GAIN
    weight[:_CARRIED], bias[:] = 0, 0
    for channel in range(_CARRIED):
        weight[channel, channel] = of_colours if channel % 4 < 2 else of_constants


def _leave(weight: np.ndarray, colours: np.ndarray, size: int) -> None:
    """Out of norms of groups of `size` channels and SiLU, sums of the carried colours."""
    for column, channel in enumerate(_COLOURS):
        pairs = sum(other // size == channel // size for other in _COLOURS)  # in its group
        deviation = np.sqrt(2 * pairs * (LEVEL**2 + VARIANCE) / size)
        for output, value in enumerate(colours[:, column]):
            weight[output, channel] += value * deviation * _CENTRE
            weight[output, channel + 1] -= value * deviation * _CENTRE
