"""The network's config, size and initial weights."""

import numpy as np
import pytest

from mg.backend import named_parameters, to_numpy
from mg.models.tae.tae import MINDONE_TAE_CONFIG, TAE_CONFIG, TemporalAutoencoder, check_config

from .random_network import TINY, tiny_network, values_of


@pytest.mark.once
def test_the_config_is_the_published_one():
    assert TAE_CONFIG == {
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
        "attention_window": 4,
        "norm_scope": "frame",
        "upsample_padding": "replicate",
    }
    differing = {key for key in TAE_CONFIG if MINDONE_TAE_CONFIG[key] != TAE_CONFIG[key]}
    assert differing == {"attention_window", "norm_scope", "upsample_padding"}


@pytest.mark.once
def test_the_full_network_has_the_papers_size():
    parameters = named_parameters(TemporalAutoencoder())
    count = sum(int(np.prod(parameter.shape)) for parameter in parameters.values())
    assert count == 114_472_801
    assert 113e6 < count < 116e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 8}, "unknown TAE config key 'channels', expected one of .*'ch_mult'"),
        ({"ch": 8.0}, r"TAE config ch is 8.0 \(float\), expected one like 128"),
        ({"ch": np.int64(8)}, r"TAE config ch is .*8.* \(int64\), expected one like 128"),
        ({"ch": "8"}, "TAE config ch is '8'"),
        ({"ch": True}, "TAE config ch is True"),
        ({"ch": 0}, "TAE config ch is 0"),
        ({"z_channels": -4}, "TAE config z_channels is -4"),
        ({"use_quant_conv": 1}, "TAE config use_quant_conv is 1"),
        ({"scaling_factor": "1"}, "TAE config scaling_factor is '1'"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan, expected a finite number above"),
        ({"scaling_factor": float("inf")}, "scaling_factor is inf, expected a finite number above"),
        ({"scaling_factor": 0}, "scaling_factor is 0, expected a finite number above 0"),
        ({"scaling_factor": -1}, "scaling_factor is -1, expected a finite number above 0"),
        ({"shift_factor": float("nan")}, "shift_factor is nan, expected a finite number"),
        ({"shift_factor": float("-inf")}, "shift_factor is -inf, expected a finite number"),
        ({"ch_mult": 2}, "TAE config ch_mult is 2"),
        ({"ch_mult": []}, r"TAE config ch_mult is \[\]"),
        ({"ch_mult": [1, 2.0]}, r"TAE config ch_mult is \[1, 2.0\]"),
        ({"ch_mult": [1, 0]}, r"TAE config ch_mult is \[1, 0\]"),
        ({"ch_mult": [1] * 17}, "TAE config ch_mult has 17 levels, expected 16 at most"),
        ({"ch": 6}, "6 x 1 channels .* do not divide into 4 groups"),
        ({"num_groups": 3}, "8 x 1 channels .* do not divide into 3 groups"),
        ({"norm_scope": "batch"}, "norm_scope is 'batch', expected one of .*'frame', 'clip'"),
        ({"upsample_padding": "reflect"}, "upsample_padding is 'reflect', expected one of"),
        ({"norm_scope": None}, "norm_scope is None"),
        ({"attention_window": 0}, "attention_window is 0"),
        ({"attention_window": 4.0}, "attention_window is 4.0"),
    ],
    ids=str,
)
@pytest.mark.once
def test_a_config_that_does_not_fit_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_network(change)


@pytest.mark.once
def test_a_config_in_place_of_a_checkpoint_is_an_error_that_says_how_to_give_it():
    with pytest.raises(TypeError, match="name it: config="):
        TemporalAutoencoder(TINY)


@pytest.mark.once
def test_defaults_are_filled_in_and_the_callers_config_stays():
    given = {"ch": 64, "ch_mult": (1, 2)}
    full = check_config(given)
    assert full == {**TAE_CONFIG, "ch": 64, "ch_mult": [1, 2]}
    assert given == {"ch": 64, "ch_mult": (1, 2)}
    full["ch_mult"].append(3)
    assert TAE_CONFIG["ch_mult"] == [1, 2, 4, 4]
    assert check_config({"scaling_factor": 2})["scaling_factor"] == 2
    assert check_config({"shift_factor": 0})["shift_factor"] == 0


def test_initial_temporal_convolutions_are_identities():
    parameters = values_of(tiny_network())
    convolutions = [name for name in parameters if "_temp." in name and name.endswith("weight")]
    assert len(convolutions) > 40
    for name in convolutions:
        weight = parameters[name]
        assert weight.shape[2:] in ((1, 3), (1, 1))
        centre = weight.shape[3] // 2
        np.testing.assert_array_equal(weight[:, :, 0, centre], np.eye(len(weight)))
        assert np.count_nonzero(weight) == len(weight)
        assert not parameters[name.replace("weight", "bias")].any()


def test_initial_temporal_attention_adds_nothing_but_can_learn():
    parameters = values_of(tiny_network())
    for side in ("encoder", "decoder"):
        name = f"{side}.mid.attn_1.1"
        assert not parameters[f"{name}.proj_out.weight"].any()
        assert not parameters[f"{name}.proj_out.bias"].any()
        for projection in ("to_q", "to_k", "to_v"):
            assert parameters[f"{name}.{projection}.weight"].std() > 0.1


def test_initial_spatial_convolutions_are_uniform_in_their_fan_in():
    parameters = values_of(tiny_network({"ch": 32}))
    names = [name for name in parameters if "conv_spat.weight" in name or "_spat.conv.w" in name]
    assert len(names) > 20
    for name in names:
        weight = parameters[name]
        bound = np.prod(weight.shape[1:]) ** -0.5
        assert abs(weight).max() <= bound
        assert abs(weight).max() > 0.9 * bound
        assert abs(weight.mean()) < 0.2 * bound
        assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (values_of(tiny_network(seed=seed)) for seed in (1, 1, 2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    name = "decoder.conv_out.conv_spat.weight"
    assert abs(first[name] - other[name]).max() > 0.01


def test_sizes_of_the_config_are_sizes_of_the_network():
    change = {"in_channels": 1, "out_ch": 2, "use_quant_conv": True, "use_post_quant_conv": True}
    tae = tiny_network(change)
    z, mean, logvar = tae.encode(np.zeros((1, 1, 1, 8, 8), np.float32))
    assert tuple(z.shape) == tuple(mean.shape) == tuple(logvar.shape) == (1, 4, 1, 1, 1)
    assert to_numpy(tae.decode(z)).shape == (1, 2, 8, 8, 8)
    shapes = {name: tuple(p.shape) for name, p in named_parameters(tae).items()}
    assert shapes["quant_conv.weight"] == (8, 8, 1, 1)
    assert shapes["post_quant_conv.weight"] == (4, 4, 1, 1)
    shallow = tiny_network({"ch_mult": [1, 2], "num_res_blocks": 2})
    assert shallow.latent_size(3, 8, 9) == (2, 4, 5)
    assert shallow.config == {**TAE_CONFIG, **TINY, "ch_mult": [1, 2], "num_res_blocks": 2}


@pytest.mark.once
def test_initial_temporal_attention_is_uniform_in_its_channels():
    parameters = values_of(tiny_network({"ch": 32}))
    for projection in ("to_q", "to_k", "to_v"):
        weight = parameters[f"encoder.mid.attn_1.1.{projection}.weight"]
        assert 0.9 < abs(weight).max() * len(weight) ** 0.5 <= 1


@pytest.mark.once
def test_every_resolution_has_whole_groups():
    with pytest.raises(ValueError, match="8 x 1 channels .* do not divide into 16 groups"):
        check_config({"ch": 8, "ch_mult": [2, 1], "num_groups": 16})


@pytest.mark.once
@pytest.mark.parametrize("key", ["scaling_factor", "shift_factor"])
def test_factors_that_no_float_holds_are_an_error(key):
    with pytest.raises(ValueError, match=f"TAE config {key} is 1000.*, expected a finite number"):
        check_config({key: 10**400})
