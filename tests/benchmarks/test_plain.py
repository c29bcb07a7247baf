"""What the benchmark measures ours against is the same network, in the framework of this pass."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from models.random_network import random_network, random_video, values_of

from mg import backend
from mg.losses.objective import Objective

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WEIGHTS = {"reconstruction": 1.0, "kl": 1e-6, "outlier_penalty": 1e5}


@pytest.fixture(scope="module")
def plain():
    path = BENCHMARKS / f"plain_{backend.name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where graph mode looks for the names of its functions
    spec.loader.exec_module(module)
    return module


def both(plain, compiled=False, **config):
    """Ours and the plain statement, with the same weights."""
    ours = random_network(config)
    other = plain.PlainAutoencoder(ours.config, compiled=compiled)
    plain.load(other, values_of(ours))
    if backend.name == "torch":
        other.to(next(ours.parameters()).device)
    return ours, other


@pytest.mark.parametrize("frames", [1, 8, 37])
def test_plain_network_gives_what_ours_gives(plain, frames):
    ours, other = both(plain)
    x = backend.from_numpy(random_video(1, 3, frames, 16, 24))
    with backend.no_grad():
        expected, got = (backend.to_numpy(network(x)) for network in (ours.moments, other.encode))
        assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
        z = backend.from_numpy(expected[:, :4])
        expected, got = (backend.to_numpy(network(z)) for network in (ours.pixels, other.decode))
        assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


EAGER = pytest.param(False, marks=pytest.mark.slow)  # on MindSpore, where graph mode is tested too


@pytest.mark.parametrize("compiled", [EAGER, True] if backend.name == "mindspore" else [False])
def test_plain_step_minimises_the_loss_of_ours(plain, compiled):
    ours, other = both(plain, compiled, ch_mult=[1, 2])
    x = backend.from_numpy(random_video(1, 3, 4, 8, 8))
    noise = backend.from_numpy(random_video(1, 4, 2, 4, 4, seed=1))
    objective = Objective(WEIGHTS)
    with backend.no_grad():
        expected = float(objective(x, *ours.reconstruct(x, noise))[0])
    step = plain.PlainStep(other, objective, learning_rate=1e-3)
    losses = [step(x, noise) for _ in range(3)]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[2] < losses[1] < losses[0]
