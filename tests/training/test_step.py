import math
import re

import numpy as np
import pytest
from cli.support import TINY, waves

from mg import backend
from mg.data import to_float
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder
from mg.training.adversary import Adversary
from mg.training.loss_scale import LossScale
from mg.training.step import TrainStep

WEIGHTS = {"reconstruction": 2.0, "kl": 0.5, "outlier_penalty": 0.25}


class RecordingOptimizer:
    """Keeps the gradients that it is given and changes nothing."""

    def __init__(self):
        self.gradients, self.rates = [], []

    def step(self, gradients, learning_rate, *, scale):
        self.gradients.append([scale * backend.to_numpy(gradient) for gradient in gradients])
        self.rates.append(learning_rate)


def video(seed, num_frames=8, size=8):
    return to_float(waves(seed, num_frames, size, size))[None]


def parameters_of(tae):
    return {name: backend.to_numpy(p).copy() for name, p in backend.named_parameters(tae).items()}


@pytest.fixture(scope="module")
def trained():
    """A tiny network, its initial weights, and its gradients, compiled where that is default."""
    tae = TemporalAutoencoder(None, TINY, seed=3)
    step = TrainStep(tae, Objective(WEIGHTS), RecordingOptimizer())
    return tae, parameters_of(tae), step._gradients


@pytest.fixture
def make_step(trained):
    """Makes training steps of the network with its initial weights; compiling it for each would
    take minutes. Unclipped unless `options` say else."""
    tae, initial, gradients = trained

    def make(optimizer=None, **options):
        for name, parameter in backend.named_parameters(tae).items():
            backend.assign(parameter, initial[name])
        optimizer = optimizer or backend.AdamW(
            list(backend.named_parameters(tae).values()),
            betas=(0.9, 0.999),
            epsilon=1e-8,
            weight_decay=0.0,
        )
        options = {"max_grad_norm": 0.0, **options}
        step = TrainStep(tae, Objective(WEIGHTS), optimizer, compile=False, **options)
        step._gradients = gradients
        return tae, step

    return make


def without_noise(monkeypatch):
    def zeros(self, step, number, video_shape):
        latents = (self._tae.config["z_channels"], *self._tae.latent_size(*video_shape[2:]))
        return backend.from_numpy(np.zeros((video_shape[0], *latents), np.float32))

    monkeypatch.setattr(TrainStep, "_noise", zeros)


def norm_of(gradients):
    return math.sqrt(
        sum(float(np.square(gradient, dtype=np.float64).sum()) for gradient in gradients)
    )


def test_every_parameter_moves_within_two_steps_temporal_ones_included(make_step):
    tae, step = make_step()
    before = parameters_of(tae)
    for number in (1, 2):
        step(number, [video(0)], 1e-3)
    after = parameters_of(tae)
    # The softmax does not see a constant added to all keys, so their bias has no gradient.
    still = [
        name
        for name in before
        if np.array_equal(before[name], after[name]) and not name.endswith("k.bias")
    ]
    assert still == []
    assert sum("attn_1.1" in name for name in before) >= 8


def test_weights_assigned_after_compiling_are_the_ones_that_count(make_step):
    tae, step = make_step(RecordingOptimizer())
    before = step(1, [video(0)], 1e-3)
    for parameter in backend.named_parameters(tae).values():
        backend.assign(parameter, np.zeros(tuple(parameter.shape), np.float32))
    after = step(1, [video(0)], 1e-3)
    assert after["reconstruction"] == pytest.approx(np.abs(video(0)).sum() / 8, rel=1e-4)
    assert after["loss"] != before["loss"]


def test_every_temporal_weight_receives_a_gradient_that_matters(make_step):
    optimizer = RecordingOptimizer()
    tae, step = make_step(optimizer)
    rng = np.random.default_rng(0)
    for parameter in backend.named_parameters(tae).values():
        noise = 0.1 * rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
        backend.assign(parameter, backend.to_numpy(parameter) + noise)
    step(1, [video(0)], 1e-3)
    sizes = {
        name: float(np.abs(gradient).max())
        for name, gradient in zip(parameters_of(tae), optimizer.gradients[0], strict=True)
    }
    weak = {name: size for name, size in sizes.items() if size < 1e-4}
    assert all(name.endswith("k.bias") for name in weak), weak


def test_two_accumulated_batches_equal_one_batch_of_two(monkeypatch, make_step):
    without_noise(monkeypatch)
    first, second = video(0), video(1)
    accumulated, whole = RecordingOptimizer(), RecordingOptimizer()
    means = make_step(accumulated)[1](1, [first, second], 1e-3)
    batch = make_step(whole)[1](1, [np.concatenate([first, second])], 1e-3)
    assert len(accumulated.gradients) == len(whole.gradients) == 1
    scale = norm_of(whole.gradients[0])
    for a, b in zip(accumulated.gradients[0], whole.gradients[0], strict=True):
        assert np.abs(a - b).max() <= 1e-4 * scale
    assert means["loss"] == pytest.approx(batch["loss"], rel=1e-4)
    assert means["grad_norm"] == pytest.approx(batch["grad_norm"], rel=1e-4)
    assert means["grad_norm"] == pytest.approx(scale, rel=1e-4)


def test_clipping_scales_the_whole_gradient_to_the_bound(monkeypatch, make_step):
    without_noise(monkeypatch)
    free, clipped, loose = RecordingOptimizer(), RecordingOptimizer(), RecordingOptimizer()
    before = make_step(free)[1](1, [video(0)], 1e-3)
    bound = before["grad_norm"] / 3
    after = make_step(clipped, max_grad_norm=bound)[1](1, [video(0)], 1e-3)
    make_step(loose, max_grad_norm=before["grad_norm"] * 2)[1](1, [video(0)], 1e-3)
    assert norm_of(free.gradients[0]) == pytest.approx(before["grad_norm"], rel=1e-4)
    assert norm_of(clipped.gradients[0]) == pytest.approx(bound, rel=1e-3)
    assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-4)  # before clipping
    for a, b, c in zip(free.gradients[0], clipped.gradients[0], loose.gradients[0], strict=True):
        assert np.abs(a / 3 - b).max() <= 1e-3 * bound
        assert np.abs(a - c).max() <= 1e-3 * bound


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted(make_step, value):
    tae, step = make_step(ema_decay=0.5)
    step(6, [video(0)], 1e-3)
    before = step.state()
    broken = video(0)
    broken[0, 0, 0, 0, 0] = value
    metrics = step(7, [video(1), broken], 1e-3)
    arrays, numbers = step.state()
    for name, kept in before[0].items():
        assert all(np.array_equal(kept[key], arrays[name][key]) for key in kept), name
    assert not math.isfinite(metrics["grad_norm"]) or not math.isfinite(metrics["loss"])
    assert metrics["psnr"] != math.inf
    assert numbers == {**before[1], "skipped_updates": 1}
    assert step.skipped_in_row == 1
    assert metrics["skipped_updates"] == 1
    assert step(8, [video(0)], 1e-3)["skipped_updates"] == 1
    assert step.skipped_in_row == 0


def test_moving_average_follows_the_weights_by_its_decay(make_step):
    tae, step = make_step(ema_decay=0.75)
    average = parameters_of(tae)
    for number in range(1, 6):
        step(number, [video(0)], 1e-2)
        decay = min(0.75, number / (number + 9))
        for name, value in parameters_of(tae).items():
            average[name] = decay * average[name] + (1 - decay) * value
    for name, value in step.weights()["ema"].items():
        assert value == pytest.approx(average[name], abs=1e-6), name
    weights = parameters_of(tae)
    with step.averaged():
        inside = parameters_of(tae)
    after = parameters_of(tae)
    for name, value in step.weights()["ema"].items():
        assert np.array_equal(inside[name], value)
        assert np.array_equal(after[name], weights[name])


def test_a_restored_step_goes_on_exactly(make_step):
    tae, step = make_step(ema_decay=0.5)
    for number in (1, 2):
        step(number, [video(number)], 1e-2)
    state = step.state()
    expected = [step(number, [video(number)], 1e-2) for number in (3, 4)]
    final = step.state()
    _, other = make_step(ema_decay=0.5)
    other.restore(*state)
    assert [other(number, [video(number)], 1e-2) for number in (3, 4)] == expected
    arrays, numbers = other.state()
    assert numbers == final[1]
    for name, kept in final[0].items():
        assert all(np.array_equal(kept[key], arrays[name][key]) for key in kept), name


SMALL_ADVERSARY = {"weight": 0.5, "ndf": 4, "n_layers": 1, "dtype": "fp32", "weight_decay": 0.0}


@pytest.fixture(scope="module")
def with_adversary():
    """Makes training steps with a discriminator, each of a network of its own; eager, since each
    would compile."""

    def make(**options):
        tae = TemporalAutoencoder(None, TINY, seed=3)
        objective = Objective(WEIGHTS)
        parameters = list(backend.named_parameters(tae).values())
        optimizer = backend.AdamW(parameters, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0)
        adversary = Adversary(tae, objective, **SMALL_ADVERSARY, compile=False, seed=1)
        options |= {"adversary": adversary, "disc_start": 1, "compile": False}
        return TrainStep(tae, objective, optimizer, **options)

    return make


def test_the_discriminator_joins_after_its_start_and_is_restored_exactly(with_adversary):
    step = with_adversary()
    first = step(1, [video(1)], 1e-2)
    assert set(first) == {"loss", "psnr", *WEIGHTS, "grad_norm", "skipped_updates"}
    untrained = step.state()[0]["discriminator"]
    second = step(2, [video(2)], 1e-2)
    assert set(second) - set(first) == set(Adversary.names)
    state = step.state()
    assert any(not np.array_equal(v, untrained[k]) for k, v in state[0]["discriminator"].items())
    expected = [step(number, [video(number)], 1e-2) for number in (3, 4)]
    other = with_adversary()
    other.restore(*state)
    assert [other(number, [video(number)], 1e-2) for number in (3, 4)] == expected
    for name, kept in step.state()[0].items():
        arrays = other.state()[0][name]
        assert all(np.array_equal(kept[key], arrays[key]) for key in kept), name


def test_an_adversarial_update_that_is_not_finite_changes_nothing(with_adversary):
    step = with_adversary()
    step(2, [video(0)], 1e-2)
    before = step.state()
    broken = video(0)
    broken[0, 0, 0, 0, 0] = math.nan
    assert step(3, [broken], 1e-2)["skipped_updates"] == 1
    arrays, numbers = step.state()
    for name, kept in before[0].items():
        assert all(np.array_equal(kept[key], arrays[name][key]) for key in kept), name
    assert numbers == {**before[1], "skipped_updates": 1}
    assert step.skipped_in_row == 1


def test_loss_scale_changes_no_gradient_and_halves_when_it_overflows(make_step):
    plain, scaled = RecordingOptimizer(), RecordingOptimizer()
    first = make_step(plain)[1](1, [video(0)], 1e-3)
    scale = LossScale(initial=2.0**10, growth_interval=2)
    _, step = make_step(scaled, loss_scale=scale)
    second = step(1, [video(0)], 1e-3)
    assert second["loss"] == first["loss"]
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)
    assert second["loss_scale"] == 2.0**10
    size = norm_of(plain.gradients[0])
    for a, b in zip(plain.gradients[0], scaled.gradients[0], strict=True):
        assert np.abs(a - b).max() <= 1e-5 * size
    step(2, [video(0)], 1e-3)
    assert scale.value == 2.0**11  # after two good updates
    scale.value = 3e38  # the largest float32 is 3.4e38
    assert step(3, [video(0)], 1e-3)["skipped_updates"] == 0
    assert scale.value == 1.5e38
    assert len(scaled.gradients) == 2


def test_a_loss_that_is_not_finite_is_counted_though_the_loss_scale_gives_way(make_step):
    scale = LossScale()
    _, step = make_step(RecordingOptimizer(), loss_scale=scale)
    broken = video(0)
    broken[0, 0, 0, 0, 0] = math.nan
    assert step(1, [broken], 1e-3)["skipped_updates"] == 1
    assert scale.value == 2.0**15


def test_a_discriminator_whose_gradients_are_not_finite_is_no_matter_of_the_loss_scale(
    with_adversary, monkeypatch
):
    scale = LossScale(initial=2.0**10)
    step = with_adversary(loss_scale=scale)
    gradients = step._adversary.gradients

    def broken(*inputs):
        result = gradients(*inputs)
        step._adversary._sums = [math.nan * array for array in step._adversary._sums]
        return result

    monkeypatch.setattr(step._adversary, "gradients", broken)
    assert [step(n, [video(0)], 1e-3)["skipped_updates"] for n in (2, 3)] == [1, 2]
    assert scale.state() == {"value": 2.0**10, "good_updates": 2}


def test_a_restored_step_has_the_loss_scale(make_step):
    _, step = make_step(loss_scale=LossScale(initial=2.0**10, growth_interval=2))
    for number in (1, 2, 3):
        step(number, [video(0)], 1e-3)
    restored = LossScale(initial=1.0, growth_interval=2)
    make_step(loss_scale=restored)[1].restore(*step.state())
    assert restored.state() == {"value": 2.0**11, "good_updates": 1}


def test_metrics_are_the_terms_their_weighted_sum_and_psnr(make_step):
    _, step = make_step(RecordingOptimizer())
    metrics = step(1, [video(0)], 1e-3)
    assert set(metrics) == {"loss", "psnr", *WEIGHTS, "grad_norm", "skipped_updates"}
    total = sum(weight * metrics[name] for name, weight in WEIGHTS.items())
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)
    assert metrics["reconstruction"] > 0 and metrics["kl"] > 0
    # A mean error of e on values in [-1, 1] is at least e squared.
    error = metrics["reconstruction"] / (3 * 8 * 8)
    assert metrics["psnr"] <= 10 * math.log10(4 / error**2)


def test_noise_differs_by_step_and_micro_batch_and_repeats_with_the_seed(make_step, monkeypatch):
    drawn, draw = [], TrainStep._noise

    def recorded(self, *place):
        drawn.append(draw(self, *place))
        return drawn[-1]

    monkeypatch.setattr(TrainStep, "_noise", recorded)
    for seed in (0, 0, 1):
        _, step = make_step(RecordingOptimizer(), seed=seed)
        step(1, [video(0), video(1)], 1e-3)
        step(2, [video(0)], 1e-3)
    first, again, other = (
        [backend.to_numpy(noise) for noise in drawn[start : start + 3]] for start in (0, 3, 6)
    )
    assert {noise.shape for noise in first} == {(1, 2, 4, 4, 4)}
    assert np.std(first) == pytest.approx(1, abs=0.2)
    assert np.array_equal(first, again)
    assert len({noise.tobytes() for noise in first + other}) == 6


def test_the_loss_goes_down_when_one_clip_is_learned_by_heart(make_step):
    _, step = make_step(max_grad_norm=1.0)
    clip = [video(0)]
    metrics = [step(number, clip, 2e-2) for number in range(1, 16)]
    first, last = metrics[0], metrics[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert last["psnr"] > first["psnr"] + 1


def test_gradients_of_the_discriminator_that_are_not_finite_change_nothing(
    with_adversary, monkeypatch
):
    step = with_adversary()
    adversary, before = step._adversary, step.state()[0]
    whole = adversary.discriminator_gradients

    def spoiled(*videos):
        *numbers, gradients = whole(*videos)
        return (*numbers, [gradient * math.inf for gradient in gradients])

    monkeypatch.setattr(adversary, "discriminator_gradients", spoiled)
    assert step(2, [video(0)], 1e-2)["skipped_updates"] == 1
    arrays = step.state()[0]
    for name, kept in before.items():
        assert all(np.array_equal(kept[key], arrays[name][key]) for key in kept), name


def test_a_restored_step_goes_on_counting_skipped_updates(make_step):
    _, step = make_step()
    step(1, [np.full_like(video(1), math.nan)], 1e-2)
    _, other = make_step()
    other.restore(*step.state())
    assert other(2, [video(2)], 1e-2)["skipped_updates"] == 1


@pytest.mark.parametrize("count", [-5, 10**400, "x", 1.0, None])
@pytest.mark.parametrize("name", ["optimizer_steps", "applied_updates", "skipped_updates"])
def test_a_count_that_is_none_is_refused(make_step, name, count):
    _, step = make_step()
    arrays, numbers = step.state()
    with pytest.raises(ValueError, match=f"the checkpoint's {name} is "):
        step.restore(arrays, {**numbers, name: count})


@pytest.mark.parametrize("file", ["tae", "ema", "optimizer"])
def test_a_state_whose_arrays_do_not_fit_is_refused(make_step, file):
    _, step = make_step(ema_decay=0.9)
    arrays, numbers = step.state()
    name = min(arrays[file])
    with pytest.raises(ValueError, match=f"{file}: 1 parameters do not fit .*{re.escape(name)}"):
        step.restore(
            {**arrays, file: {**arrays[file], name: np.zeros(1, np.float32)}},
            numbers,
        )
