"""Streams: any length in any pieces gives what the whole gives."""

import numpy as np
import pytest

from mg.backend import to_numpy
from mg.models.tae.tae import Tiling

from .random_network import random_network, random_video

LENGTHS = range(1, 41)


@pytest.fixture(scope="module")
def network():
    return random_network()


def pieces(x, sizes, axis=2):
    """x in consecutive pieces whose lengths are those of `sizes`, over and over."""
    start, number = 0, 0
    while start < x.shape[axis]:
        stop = start + sizes[number % len(sizes)]
        yield x[:, :, start:stop]
        start, number = stop, number + 1


def joined(outputs, axis=2):
    return np.concatenate([to_numpy(output) for output in outputs], axis)


def test_any(network):
    for length in LENGTHS:
        video = random_video(1, 3, length, 8, 8, seed=length)
        z, mean, logvar = network.encode(video, seed=3)
        for size in (1, 3, 8, 40):
            got = list(network.encode_stream(pieces(video, [size]), seed=3))
            for k, whole in enumerate((z, mean, logvar)):
                np.testing.assert_allclose(joined([g[k] for g in got]), to_numpy(whole), atol=1e-5)
        x = network.decode(mean, length)
        for size in (1, 2, 5):
            got = joined(network.decode_stream(pieces(to_numpy(mean), [size]), length))
            np.testing.assert_allclose(got, to_numpy(x), atol=1e-5)
