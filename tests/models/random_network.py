"""Tiny networks with random weights everywhere, so that no part is left the identity."""

import numpy as np

from mg.backend import assign, named_parameters, to_numpy
from mg.models.tae.tae import TemporalAutoencoder

TINY = {"ch": 8, "num_groups": 4, "z_channels": 4, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1}


def tiny_network(config=None, **options):
    """A tiny network with its initial weights."""
    return TemporalAutoencoder(config={**TINY, **(config or {})}, **options)


def randomise(network, seed=0):
    """Draw every parameter anew, temporal ones too."""
    rng = np.random.default_rng(seed)
    for path, parameter in named_parameters(network).items():
        shape = tuple(parameter.shape)
        if len(shape) == 1:
            values = 0.3 * rng.standard_normal(shape) + path.endswith("gamma")
        else:
            values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        assign(parameter, values.astype(np.float32))
    return network


def random_network(config=None, seed=0, **options):
    """A tiny network without an identity left."""
    return randomise(tiny_network(config, **options), seed)


def random_video(*shape, seed=0):
    """Values in [-1, 1], float32."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def values_of(network):
    """The network's parameters as arrays."""
    return {path: to_numpy(value).copy() for path, value in named_parameters(network).items()}
