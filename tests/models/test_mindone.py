"""mindone's published checkpoints: names, loading, and what its network computes."""

import ast
import logging

import numpy as np
import pytest

from mg.backend import named_parameters, to_numpy
from mg.models.tae.tae import MINDONE_TAE_CONFIG, TemporalAutoencoder
from mg.models.tae.weights import read_weights

SIZE = {"ch": 32}


@pytest.fixture(scope="module")
def golden(test_data):
    folder = test_data / "golden"
    if not (folder / "mindone_tae_dev.ckpt").is_file():
        pytest.skip("MG_TEST_DATA holds no golden/mindone_tae_dev.ckpt")
    return folder


@pytest.fixture(scope="module")
def checkpoint(golden):
    return golden / "mindone_tae_dev.ckpt"


def test_what_the_network_computes_is_what_mindones_computes(golden, checkpoint):
    expected = np.load(golden / "mindone_tae_dev.npz")
    tae = TemporalAutoencoder(checkpoint)
    assert tae.config == {**MINDONE_TAE_CONFIG, **SIZE}
    _, mean, logvar = tae.encode(expected["x"][:1], sample=False)
    decoded = tae.decode(expected["mean"][1:])
    np.testing.assert_allclose(to_numpy(mean), expected["mean"][:1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(to_numpy(logvar), expected["logvar"][:1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(to_numpy(decoded), expected["decoded"][1:], rtol=0, atol=1e-4)


def test_unused_parameters_are_dropped_with_a_log_line(checkpoint, caplog):
    arrays, config = read_weights(checkpoint)
    unused = [name for name in arrays if ".temb_proj." in name]
    assert len(unused) == 48
    assert config is None
    with caplog.at_level(logging.INFO, logger="mg"):
        TemporalAutoencoder(checkpoint)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"{checkpoint}: dropped 48 temb_proj arrays, which no forward uses"]


def test_parameter_names_and_shapes_are_mindones_but_for_the_unused(golden):
    lines = (golden / "mindone_param_names.txt").read_text(encoding="utf-8").splitlines()
    theirs = dict(line.split(" ", 1) for line in lines if line)
    theirs = {name: ast.literal_eval(shape) for name, shape in theirs.items()}
    assert sum("temb_proj" in name for name in theirs) == 48
    theirs = {name: shape for name, shape in theirs.items() if "temb_proj" not in name}
    ours = named_parameters(TemporalAutoencoder(config={**MINDONE_TAE_CONFIG, **SIZE}))
    assert {name: tuple(parameter.shape) for name, parameter in ours.items()} == theirs
