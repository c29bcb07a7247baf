"""The two passes of gradients with a discriminator, against the whole expressions."""

import numpy as np
import pytest
from cli.support import TINY
from devices import HAS_HALF

from mg import backend
from mg.backend import Module, from_numpy, named_parameters, to_numpy
from mg.losses.adversarial import hinge_discriminator, hinge_generator
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder
from mg.training import adversary as module
from mg.training.adversary import Adversary

WEIGHTS = {"reconstruction": 2.0, "kl": 0.5, "outlier_penalty": 0.25, "perceptual": 3.0}
WEIGHT = 0.5  # of the adversarial loss
SETTINGS = {"weight": WEIGHT, "ndf": 4, "n_layers": 2, "dtype": "fp32", "weight_decay": 0.0}


class Distance(Module):
    """In LPIPS's place: the mean squared error of each frame."""

    def forward(self, video, target):
        return ((video - target) * (video - target)).mean((1, 3, 4))


def randomised(parameters, seed, scale):
    rng = np.random.default_rng(seed)
    for parameter in parameters:
        noise = scale * rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
        backend.assign(parameter, to_numpy(parameter) + noise)


def make(compile=None, use_recompute=False, dtype="fp32"):
    """A tiny network without identities in it, its objective, an adversary."""
    tae = TemporalAutoencoder(None, TINY, seed=3, use_recompute=use_recompute, dtype=dtype)
    randomised(named_parameters(tae).values(), 0, 0.1)
    objective = Objective(WEIGHTS, Distance())
    adversary = Adversary(tae, objective, **SETTINGS, compile=compile, seed=5)
    randomised(adversary.parameters.values(), 1, 0.05)
    return tae, objective, adversary


def batch(size=1, num_frames=4, seed=0):
    """A video and the noise of its latents."""
    rng = np.random.default_rng(seed)
    video = rng.uniform(-1, 1, (size, 3, num_frames, 12, 12)).astype(np.float32)
    latents = (size, 2, -(-num_frames // 2), 6, 6)
    return video, rng.standard_normal(latents).astype(np.float32)


def arrays(tensors):
    return [to_numpy(tensor).copy() for tensor in tensors]


@pytest.fixture(scope="module")
def trained():
    """The network and adversary, compiled where that is the default, with their first weights."""
    tae, objective, adversary = make()
    parameters = [*named_parameters(tae).values(), *adversary.parameters.values()]
    return tae, objective, adversary, parameters, arrays(parameters)


@pytest.fixture
def fresh(trained):
    """(network, objective, adversary) with their first weights; compiling for each takes long."""
    tae, objective, adversary, parameters, initial = trained
    for parameter, values in zip(parameters, initial, strict=True):
        backend.assign(parameter, values)
    return tae, objective, adversary


def generator_results(adversary, video, noise):
    one = np.ones((), np.float32)
    (_, *losses), gradients, reconstruction = adversary.generator_gradients(
        *map(from_numpy, (video, noise, one))
    )
    return arrays(losses), arrays(gradients), to_numpy(reconstruction)


def assert_close(computed, expected, tolerance=1e-3):
    """Equal within `tolerance` of the largest value anywhere."""
    largest = max(float(abs(array).max()) for array in expected)
    for one, other in zip(computed, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * 0.1 * largest)


def by_autograd(tae, objective, adversary, video, noise):
    """As taming-transformers does it, from one graph that is kept: the adaptive weight, the total
    and its gradients."""
    import torch

    video, noise = from_numpy(video), from_numpy(noise)
    reconstruction, z, mean, logvar = tae.reconstruct(video, noise)
    total, _, *terms = objective(video, reconstruction, z, mean, logvar)
    terms = dict(zip(objective.names, terms, strict=True))
    nll = sum(WEIGHTS[name] * terms[name] for name in ("reconstruction", "perceptual"))
    generator = hinge_generator(adversary.discriminator(reconstruction))
    last = tae.decoder.conv_out.conv_spat.weight
    (of_nll,) = torch.autograd.grad(nll, last, retain_graph=True)
    (of_generator,) = torch.autograd.grad(generator, last, retain_graph=True)
    adaptive = torch.clamp(of_nll.norm() / (of_generator.norm() + 1e-4), 0.0, 1e4).detach()
    total = total + adaptive * WEIGHT * generator
    gradients = torch.autograd.grad(total, list(named_parameters(tae).values()))
    return float(adaptive), float(total.detach()), arrays(gradients)


@pytest.mark.skipif(backend.name == "mindspore", reason="MindSpore keeps no graph")
@pytest.mark.parametrize("num_frames", [1, 3, 4])
def test_the_generator_pass_equals_one_graph_that_is_kept(num_frames, fresh):
    video, noise = batch(2, num_frames)
    losses, gradients, _ = generator_results(fresh[2], video, noise)
    adaptive, total, expected = by_autograd(*fresh, video, noise)
    assert losses[-1] == pytest.approx(adaptive, rel=1e-4)
    assert 0 < adaptive < 1e4
    assert losses[0] == pytest.approx(total, rel=1e-5)
    assert_close(gradients, expected)


def test_the_losses_are_those_of_the_objective_and_the_discriminator(fresh):
    tae, objective, adversary = fresh
    video, noise = batch()
    losses, gradients, reconstruction = generator_results(adversary, video, noise)
    with backend.no_grad():
        expected, *latents = tae.reconstruct(from_numpy(video), from_numpy(noise))
        terms = arrays(objective(from_numpy(video), expected, *latents))
        generator = float(to_numpy(hinge_generator(adversary.discriminator(expected))))
    np.testing.assert_allclose(reconstruction, to_numpy(expected), atol=1e-5)
    assert all(value.shape == () for value in losses)
    total, error, *named, loss, adaptive = (float(value) for value in losses)
    assert len(named) == len(objective.names)
    np.testing.assert_allclose([error, *named], terms[1:], rtol=1e-4)
    assert loss == pytest.approx(generator, rel=1e-3)
    assert total == pytest.approx(terms[0] + WEIGHT * adaptive * loss, rel=1e-4)
    assert abs(WEIGHT * adaptive * loss) > 1e-3 * terms[0]
    assert [g.shape for g in gradients] == [tuple(p.shape) for p in named_parameters(tae).values()]


def test_the_adaptive_weight_is_the_ratio_of_gradients_of_the_whole_network(fresh):
    tae, objective, adversary = fresh
    video, noise = batch()

    def pixels(video, noise):
        reconstruction = tae.reconstruct(video, noise)[0]
        return objective.of_pixels(video, reconstruction), reconstruction

    def fooling(video, noise):
        reconstruction = tae.reconstruct(video, noise)[0]
        return hinge_generator(adversary.discriminator(reconstruction)), reconstruction

    norms = []
    for function in (pixels, fooling):
        last = [tae.decoder.conv_out.conv_spat.weight]
        gradients = backend.value_and_grad(function, last, compile=False)
        norms.append(np.linalg.norm(to_numpy(gradients(*map(from_numpy, (video, noise)))[1][0])))
    losses, *_ = generator_results(adversary, video, noise)
    assert losses[-1] == pytest.approx(norms[0] / (norms[1] + 1e-4), rel=1e-3)


def test_the_pixel_terms_are_those_of_the_objective_without_kl_and_outlier_penalty(fresh):
    _, objective, _ = fresh
    video, other = from_numpy(batch()[0]), from_numpy(batch(seed=1)[0])
    latents = [from_numpy(batch()[1])] * 3
    _, _, *terms = (float(value) for value in objective(video, other, *latents))
    terms = dict(zip(objective.names, terms, strict=True))
    expected = sum(WEIGHTS[name] * terms[name] for name in ("reconstruction", "perceptual"))
    assert float(objective.of_pixels(video, other)) == pytest.approx(expected, rel=1e-5)


def test_the_discriminator_pass_gives_loss_mean_logits_and_gradients(fresh):
    _, _, adversary = fresh
    real, fake = from_numpy(batch()[0]), from_numpy(batch(seed=1)[0])
    loss, real_logit, fake_logit, gradients = adversary.discriminator_gradients(real, fake)

    def hinge(real, fake):
        loss = hinge_discriminator(adversary.discriminator(real), adversary.discriminator(fake))
        return loss, loss

    expected = backend.value_and_grad(hinge, list(adversary.parameters.values()), compile=False)(
        real, fake
    )
    assert float(loss) == pytest.approx(float(expected[0][0]), rel=1e-4)
    assert_close(arrays(gradients), arrays(expected[1]))
    for logit, video in ((real_logit, real), (fake_logit, fake)):
        with backend.no_grad():
            mean = to_numpy(adversary.discriminator(video)).mean()
        assert float(logit) == pytest.approx(mean, abs=1e-4)


def test_discriminator_updates_tell_real_from_fake(fresh):
    _, _, adversary = fresh
    real, fake = from_numpy(batch()[0]), from_numpy(0.3 * batch(seed=1)[0])
    losses = []
    for _ in range(12):
        loss, real_logit, fake_logit, gradients = adversary.discriminator_gradients(real, fake)
        losses.append(float(loss))
        adversary._optimizer.step(gradients, 3e-3, scale=1.0)
    assert losses[-1] < 0.5 * losses[0]
    assert float(real_logit) > float(fake_logit) + 0.5


def test_updates_of_both_move_both_and_stay_finite(fresh):
    tae, _, adversary = fresh
    network = list(named_parameters(tae).values())
    before, discriminator_before = arrays(network), arrays(adversary.parameters.values())
    optimizer = backend.AdamW(network, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0)
    video, noise = map(from_numpy, batch())
    one = from_numpy(np.ones((), np.float32))
    totals = []
    for _ in range(3):
        losses, gradients = adversary.gradients(video, noise, one)
        optimizer.step(gradients, 1e-3, scale=1.0)
        assert adversary.update(1e-3, 1.0, apply=True)
        totals.append([float(loss) for loss in losses])
    assert np.isfinite(totals).all()
    assert totals[0] != totals[1] != totals[2]
    for old, parameters in (
        (before, network),
        (discriminator_before, adversary.parameters.values()),
    ):
        new = arrays(parameters)
        assert all(np.isfinite(array).all() for array in new)
        # As many logits may pull the discriminator's last bias up as down.
        assert sum(np.array_equal(*pair) for pair in zip(old, new, strict=True)) <= len(new) / 10


@pytest.mark.parametrize("count", [-5, 10**400, "x", 1.0, None])
def test_a_count_of_its_updates_that_is_none_is_refused(fresh, count):
    _, _, adversary = fresh
    arrays, _ = adversary.state()
    with pytest.raises(ValueError, match="the checkpoint's adversary is"):
        adversary.restore(arrays, count)


def test_a_scale_of_the_loss_scales_the_gradients_alone(fresh):
    _, _, adversary = fresh
    video, noise = map(from_numpy, batch())
    (first, plain, _), (second, scaled, _) = (
        adversary.generator_gradients(video, noise, from_numpy(np.array(scale, np.float32)))
        for scale in (1, 64)
    )
    np.testing.assert_allclose(arrays(second[1:]), arrays(first[1:]), rtol=1e-6)
    assert float(second[0]) == pytest.approx(64 * float(first[0]))
    assert_close([array / 64 for array in arrays(scaled)], arrays(plain), tolerance=1e-5)


@pytest.mark.skipif(not HAS_HALF, reason="MindSpore has no fp16 convolutions on a CPU")
def test_the_adaptive_weight_of_fp16_is_of_the_norms_in_fp32_however_small(monkeypatch):
    norms = []
    monkeypatch.setattr(module, "adaptive_weight", lambda *pair: norms.append(pair) or 1.0)
    for dtype in ("fp32", "fp16"):
        adversary = make(False, dtype=dtype)[2]
        for parameter in adversary.parameters.values():
            backend.assign(parameter, 1e-3 * to_numpy(parameter))
        adversary._adaptive_weight(*map(from_numpy, batch()))
    assert 0 < norms[0][1] < 1e-6
    assert norms[1] == pytest.approx(norms[0], rel=0.02, abs=0)


def test_gradients_of_several_batches_are_averaged_and_an_update_may_be_withheld(fresh):
    _, _, adversary = fresh
    one = from_numpy(np.ones((), np.float32))
    (first, noise), (second, _) = batch(), batch(seed=1)
    whole = from_numpy(np.concatenate([first, second]))
    results = []
    for videos, noises in (
        ([from_numpy(first), from_numpy(second)], [from_numpy(noise)] * 2),
        ([whole], [from_numpy(np.concatenate([noise, noise]))]),
    ):
        for video, own_noise in zip(videos, noises, strict=True):
            adversary.gradients(video, own_noise, one)
        results.append([array / len(videos) for array in arrays(adversary._sums)])
        before = arrays(adversary.parameters.values())
        assert not adversary.update(1e-3, 1 / len(videos), apply=False)
        after = arrays(adversary.parameters.values())
        assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))
    assert_close(*results)


def test_the_generator_pass_leaves_the_discriminator_alone(fresh):
    _, _, adversary = fresh
    before = arrays(adversary.parameters.values())
    generator_results(adversary, *batch())
    for array, parameter in zip(before, adversary.parameters.values(), strict=True):
        np.testing.assert_array_equal(array, to_numpy(parameter))
        assert getattr(parameter, "grad", None) is None


def test_two_processes_with_a_video_each_have_the_adaptive_weight_of_both(fresh, monkeypatch):
    _, _, adversary = fresh
    video, noise = batch(2)
    whole = adversary._adaptive_weight(*map(from_numpy, (video, noise)))
    sent = []

    def all_reduce_sum(gradients):
        sent.append(arrays(gradients))
        return [from_numpy(np.sum(pair, 0)) for pair in zip(sent[0], sent[-1], strict=True)]

    monkeypatch.setattr(backend, "all_reduce_sum", all_reduce_sum)
    monkeypatch.setattr(backend, "world_size", lambda: 2)
    alone, both = (
        float(adversary._adaptive_weight(*map(from_numpy, (video[n:][:1], noise[n:][:1]))))
        for n in range(2)
    )
    assert both == pytest.approx(float(whole), rel=1e-4)
    assert alone != pytest.approx(both, rel=1e-3)


def test_a_video_that_is_too_small_is_an_error(fresh):
    _, _, adversary = fresh
    video, noise = batch()
    with pytest.raises(ValueError, match="12x10 pixels.*at least 12x12"):
        generator_results(adversary, video[..., :10, :], noise)


@pytest.mark.parametrize("compile", [False, None], ids=["eager", "compiled by default"])
@pytest.mark.parametrize("use_recompute", [False, True], ids=["keeping", "recomputing"])
def test_eager_mode_and_recomputation_give_the_same(compile, use_recompute, fresh):
    _, _, other = make(compile, use_recompute)
    expected, computed = (generator_results(a, *batch()) for a in (fresh[2], other))
    for one, values in zip(computed[0], expected[0], strict=True):
        assert one == pytest.approx(values, rel=1e-3)
    assert_close(computed[1], expected[1])
    assert_close([computed[2]], [expected[2]])


PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from mg.backend import from_numpy, to_numpy
from training.test_adversary import arrays, batch, generator_results, make

adversary = make(compile=False)[2]
results = {}
for t in (1, 4):
    video, noise = batch(2, t)
    losses, gradients, reconstruction = generator_results(adversary, video, noise)
    passed = adversary.discriminator_gradients(from_numpy(video), from_numpy(reconstruction))
    results[f"losses {t}"] = np.array(losses)
    results[f"gradients {t}"] = np.concatenate([g.ravel() for g in gradients])
    results[f"discriminator {t}"] = np.array(arrays(passed[:3]))
    results[f"its gradients {t}"] = np.concatenate([g.ravel() for g in arrays(passed[3])])
np.savez(sys.argv[2], **results)
"""


@pytest.mark.once
def test_both_frameworks_give_the_same_losses_and_gradients(on_both_frameworks):
    on_torch, on_mindspore = on_both_frameworks(PROGRAM)
    assert len(on_torch) == 8
    for name, one in on_torch.items():
        other = on_mindspore[name]
        tolerance = 1e-3 if "losses" in name else 0
        np.testing.assert_allclose(
            one, other, rtol=tolerance, atol=1e-4 * abs(one).max(), err_msg=name
        )
