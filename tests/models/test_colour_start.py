"""Initial weights that carry colours."""

import numpy as np
import pytest

from mg.backend import assign, from_numpy, named_parameters, no_grad, to_numpy
from mg.models.tae.colour_start import colour_start
from mg.models.tae.tae import TemporalAutoencoder

from .random_network import values_of

CONFIGS = [
    {"ch": 32, "num_groups": 8},
    {"ch": 16, "num_groups": 2, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "z_channels": 4},
    {"ch": 16, "num_groups": 1, "ch_mult": [1, 2], "use_quant_conv": False, "z_channels": 3},
]


def slow_colours():
    """A video `(1 3 8 48 48)` in [-1, 1] that differs little within 8x8 pixels."""
    y, x = np.mgrid[:48, :48] / 48
    frame = np.stack([2 * x - 1, 1 - 2 * y, np.sin(3 * (x + y))]).astype(np.float32)
    return np.repeat(frame[None, :, None], 8, axis=2)


def started(config):
    tae = TemporalAutoencoder(config=config)
    parameters = named_parameters(tae)
    for name, array in colour_start(values_of(tae), tae.config).items():
        assign(parameters[name], array)
    return tae


@pytest.mark.parametrize("config", CONFIGS)
def test_slow_colours_come_back(config):
    tae, video = started(config), slow_colours()
    with no_grad():
        z, mean, logvar = tae.encode(from_numpy(video), seed=0)
        reconstruction = to_numpy(tae.decode(z))
    np.testing.assert_allclose(to_numpy(logvar), -4, atol=1e-5)
    inside = (..., slice(8, -8), slice(8, -8))  # at the borders the decoder pads with zeros
    error = (reconstruction - video)[inside]
    assert np.sqrt((error**2).mean()) < 0.2
    for colour in range(3):
        shown, expected = (values[0, colour][inside] for values in (reconstruction, video))
        assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.9


def test_a_slow_fade_is_interpolated_between_latents():
    grey = np.linspace(-0.8, 0.8, 24, dtype=np.float32)
    video = np.broadcast_to(grey[:, None, None], (1, 3, 24, 48, 48)).copy()
    tae = started(CONFIGS[0])
    with no_grad():
        mean = tae.encode(from_numpy(video), sample=False)[0]
        reconstruction = to_numpy(tae.decode(mean))
    steps = np.diff(reconstruction[0, :, 8:17, 24, 24], axis=1)
    expected = grey[1] - grey[0]  # a latent repeated would give 0 seven times, then 8 times this
    np.testing.assert_allclose(steps, expected, rtol=0.5)


def test_other_parameters_stay_random():
    values = values_of(TemporalAutoencoder(config=CONFIGS[1]))
    before = {name: array.copy() for name, array in values.items()}
    colour_start(values, TemporalAutoencoder(config=CONFIGS[1]).config)
    for name in ("encoder.down.0.block.0.conv1.conv_spat.weight", "decoder.norm_out.gamma"):
        np.testing.assert_array_equal(values[name], before[name])
    name = "encoder.conv_in.conv_spat.weight"
    assert np.std(values[name][12:]) > np.std(before[name][12:])


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ch": 32, "num_groups": 32}, "num_groups"),
        ({"ch": 8, "num_groups": 2}, "ch"),
        ({"z_channels": 2}, "latent channels"),
        ({"in_channels": 1}, "colours"),
    ],
)
def test_what_cannot_carry_colours_is_refused(changes, expected):
    tae = TemporalAutoencoder(config={**CONFIGS[1], **changes})
    with pytest.raises(ValueError, match=expected):
        colour_start(values_of(tae), tae.config)
