"""Every term of the loss against float64 numpy."""

import numpy as np
import pytest

from mg.backend import Module, from_numpy, named_parameters, parameter, to_numpy, value_and_grad
from mg.losses import terms
from mg.losses.objective import Objective


def random(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


VIDEO, TARGET = random(2, 3, 5, 4, 6, seed=1), random(2, 3, 5, 4, 6, seed=2)
MEAN, LOGVAR = random(2, 4, 3, 5, 6, seed=3), random(2, 4, 3, 5, 6, seed=4)
FRAMES = 2 * 5


def value(term, *arrays):
    return float(to_numpy(term(*map(from_numpy, arrays))))


class Input(Module):
    def __init__(self, array):
        super().__init__()
        self.value = parameter(array)


def gradient(term, array):
    """Of a scalar function of one tensor."""
    (p,) = named_parameters(Input(array)).values()

    def loss():
        y = term(p)
        return y, y

    _, (slope,) = value_and_grad(loss, [p], compile=False)()
    return to_numpy(slope)


def test_reconstruction_is_the_sum_of_absolute_differences_per_frame():
    expected = abs(VIDEO.astype(np.float64) - TARGET).sum() / FRAMES
    assert value(terms.reconstruction, VIDEO, TARGET) == pytest.approx(expected, rel=1e-5)


def test_kl_is_the_gaussians_divergence_summed_over_latents_per_video_frame():
    mean, logvar = MEAN.astype(np.float64), LOGVAR.astype(np.float64)
    expected = 0.0
    for m, v in zip(mean.ravel(), np.exp(logvar).ravel(), strict=True):
        expected += -np.log(np.sqrt(v)) + (v + m * m) / 2 - 0.5
    expected /= FRAMES
    assert value(terms.kl_divergence, MEAN, LOGVAR, TARGET) == pytest.approx(expected, rel=1e-5)
    zeros = np.zeros_like(MEAN)
    assert value(terms.kl_divergence, zeros, zeros, TARGET) == 0


def test_perceptual_counts_a_frames_distance_once_for_each_of_its_values():
    distances = abs(random(2, 5))
    expected = distances.astype(np.float64).mean() * 3 * 4 * 6
    assert value(terms.perceptual, distances, TARGET) == pytest.approx(expected, rel=1e-5)


def test_mean_squared_error_is_over_all_values():
    expected = ((VIDEO.astype(np.float64) - TARGET) ** 2).mean()
    assert value(terms.mean_squared_error, VIDEO, TARGET) == pytest.approx(expected, rel=1e-5)


def papers_outlier_penalty(z, r=3.0):
    """Equation 1 of arXiv 2410.13720 by explicit loops, averaged over frames."""
    batch, _, num_frames, height, width = z.shape
    losses = []
    for b in range(batch):
        for f in range(num_frames):
            x = z[b, :, f].astype(np.float64)
            positions = [x[:, i, j] for i in range(height) for j in range(width)]
            mean = sum(positions) / len(positions)
            deviation = np.sqrt(sum((p - mean) ** 2 for p in positions) / len(positions))
            limit = r * np.linalg.norm(deviation)
            losses.append(
                sum(max(np.linalg.norm(p - mean) - limit, 0) for p in positions) / len(positions)
            )
    return np.mean(losses)


def with_outliers(seed):
    z = random(2, 4, 3, 5, 6, seed=seed)
    z[0, :, 0, 2, 3] += 20
    z[1, 1, 2, 0, 0] -= 30
    return z


@pytest.mark.parametrize("seed", range(3))
def test_outlier_penalty_is_the_papers_with_vector_norms(seed):
    z = with_outliers(seed)
    expected = papers_outlier_penalty(z)
    assert expected > 0.01
    assert value(terms.outlier_penalty, z) == pytest.approx(expected, rel=1e-4)


def test_outlier_penalty_is_zero_without_outliers():
    z = random(2, 4, 2, 5, 6)
    assert papers_outlier_penalty(z) == value(terms.outlier_penalty, z) == 0


def test_outlier_penalty_does_not_see_the_latents_mean():
    z = with_outliers(0)
    shifted = z + random(2, 4, 3, 1, 1, seed=9)
    expected = value(terms.outlier_penalty, z)
    assert value(terms.outlier_penalty, shifted) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.7, -1e3])
def test_outlier_penalty_of_constant_latents_is_zero_with_a_finite_gradient(constant):
    z = np.full((1, 4, 2, 3, 3), constant, np.float32)
    assert value(terms.outlier_penalty, z) == pytest.approx(0, abs=1e-5)
    assert np.isfinite(gradient(terms.outlier_penalty, z)).all()


def test_outlier_penalty_of_one_position_is_zero_with_a_finite_gradient():
    z = random(1, 4, 2, 1, 1)
    assert value(terms.outlier_penalty, z) == 0
    assert np.isfinite(gradient(terms.outlier_penalty, z)).all()


@pytest.mark.parametrize("latents", [with_outliers(1)[:1, :2, :1, :3]])
def test_outlier_penaltys_gradient_equals_finite_differences(latents):
    z = latents.copy()
    z[0, :, 0, 0, 0] = 50  # beyond 3 deviations of the 18 positions
    slope = gradient(terms.outlier_penalty, z)
    assert abs(slope).max() > 1e-3
    exact = z.astype(np.float64)
    for place in np.ndindex(z.shape):
        above, below = exact.copy(), exact.copy()
        above[place] += 1e-5
        below[place] -= 1e-5
        expected = (papers_outlier_penalty(above) - papers_outlier_penalty(below)) / 2e-5
        assert slope[place] == pytest.approx(expected, abs=1e-4)


# The objective


class Distance(Module):
    """Stands for LPIPS: a number for each frame."""

    def forward(self, video, target):
        return (video - target).abs().mean((1, 3, 4))


WEIGHTS = {"reconstruction": 0.5, "kl": 1e-2, "outlier_penalty": 7.0, "perceptual": 0.3}
Z = with_outliers(2)
INPUTS = (TARGET, VIDEO, Z, MEAN, LOGVAR)


def evaluate(objective):
    total, error, *values = objective(*map(from_numpy, INPUTS))
    named = dict(zip(objective.names, (float(to_numpy(v)) for v in values), strict=True))
    return float(to_numpy(total)), float(to_numpy(error)), named


def test_total_is_the_sum_of_weights_times_terms():
    total, error, named = evaluate(Objective(WEIGHTS, Distance()))
    assert list(named) == ["reconstruction", "perceptual", "kl", "outlier_penalty"]
    assert total == pytest.approx(sum(WEIGHTS[n] * v for n, v in named.items()), rel=1e-5)
    assert error == pytest.approx(((VIDEO - TARGET) ** 2).mean(), rel=1e-5)
    assert named["reconstruction"] == pytest.approx(abs(VIDEO - TARGET).sum() / FRAMES, rel=1e-5)
    assert named["perceptual"] == pytest.approx(abs(VIDEO - TARGET).mean() * 72, rel=1e-5)
    assert named["kl"] == pytest.approx(value(terms.kl_divergence, MEAN, LOGVAR, TARGET))


def test_without_lpips_there_is_no_perceptual_term():
    total, _, named = evaluate(Objective(WEIGHTS))
    assert list(named) == ["reconstruction", "kl", "outlier_penalty"]
    assert total == pytest.approx(sum(WEIGHTS[n] * v for n, v in named.items()), rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_term_of_weight_zero_is_given_but_not_summed(name):
    _, _, all_terms = evaluate(Objective(WEIGHTS, Distance()))
    total, _, named = evaluate(Objective({**WEIGHTS, name: 0}, Distance()))
    assert named == all_terms
    others = sum(WEIGHTS[n] * v for n, v in named.items() if n != name)
    assert total == pytest.approx(others, rel=1e-5)


def test_the_outlier_penalty_is_of_the_latents_and_not_of_their_mean():
    _, _, named = evaluate(Objective(WEIGHTS))
    assert named["outlier_penalty"] > 0.01
    assert named["outlier_penalty"] == pytest.approx(papers_outlier_penalty(Z), rel=1e-4, abs=1e-6)


@pytest.mark.once
def test_a_missing_weight_is_an_error():
    with pytest.raises(ValueError, match="lack kl, expected one for each of reconstruction, kl, "):
        Objective({"reconstruction": 1, "outlier_penalty": 0})


@pytest.mark.parametrize("term", [terms.reconstruction, terms.mean_squared_error])
def test_videos_of_two_shapes_are_an_error_though_they_could_be_broadcast(term):
    for part in (VIDEO[:, :, :1], VIDEO[:, :1], VIDEO[:1]):
        for pair in ((part, TARGET), (TARGET, part)):
            with pytest.raises(ValueError, match=r"a video of shape \(.*\) for a target of \("):
                value(term, *pair)
