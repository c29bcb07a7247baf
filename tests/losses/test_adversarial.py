"""The discriminator, its losses and the adaptive weight."""

import math

import numpy as np
import pytest
from devices import HAS_HALF

from mg import backend
from mg.backend import assign, from_numpy, named_parameters, to_numpy, value_and_grad
from mg.losses.adversarial import (
    Discriminator,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
)

SMALL = {"ndf": 4, "n_layers": 2}


def random_video(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def lively(discriminator, seed=0):
    """Weights so large that all layers matter, biases and betas that are not zero."""
    rng = np.random.default_rng(seed)
    for parameter in named_parameters(discriminator).values():
        shape = tuple(parameter.shape)
        scale = 1.0 if len(shape) == 1 else 1.5 / np.prod(shape[1:]) ** 0.5
        assign(parameter, (scale * rng.standard_normal(shape)).astype(np.float32))
    return discriminator


def logits_of(discriminator, video):
    return to_numpy(discriminator(from_numpy(video)))


def gradients_of(discriminator, video, compile=False):
    """((loss, logits), gradients) of a sum of squares of the logits."""

    def loss(video):
        logits = discriminator(video)
        return (logits * logits).sum(), logits

    parameters = list(named_parameters(discriminator).values())
    outputs, gradients = value_and_grad(loss, parameters, compile=compile)(from_numpy(video))
    return [to_numpy(output) for output in outputs], [to_numpy(g) for g in gradients]


def plain_patch_gan(weights, video, n_layers):
    """The same network by PyTorch's own layers in float64: (logits, gradients of their squares)."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    weights = {
        name: torch.tensor(to_numpy(value), dtype=torch.float64, requires_grad=True)
        for name, value in weights.items()
    }
    x = torch.tensor(video, dtype=torch.float64)
    for level in range(n_layers + 2):
        weight = weights[f"layers.{level}.weight"]
        x = F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
        stride = 2 if level < n_layers else 1
        x = F.conv3d(x, weight, weights.get(f"layers.{level}.bias"), stride, (0, 1, 1))
        if 0 < level <= n_layers:
            gamma, beta = weights[f"layers.{level}.gamma"], weights[f"layers.{level}.beta"]
            x = F.group_norm(x, math.gcd(32, len(gamma)), gamma, beta, eps=1e-6)
        if level <= n_layers:
            x = F.leaky_relu(x, 0.2)
    gradients = torch.autograd.grad((x * x).sum(), list(weights.values()))
    return x[:, 0].detach().numpy(), [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("t", [1, 5])
def test_the_discriminator_is_a_patch_gan_of_plain_3d_convolutions(t):
    discriminator = lively(Discriminator(**SMALL))
    video = random_video(2, 3, t, 16, 20)
    (_, logits), gradients = gradients_of(discriminator, video)
    expected, expected_gradients = plain_patch_gan(named_parameters(discriminator), video, 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        tolerance = 1e-4 * abs(expected_gradient).max()
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=tolerance)


@pytest.mark.skipif(backend.name == "torch", reason="takes minutes in torch.compile")
def test_graph_mode_gives_the_logits_and_gradients_of_eager_mode():
    discriminator = lively(Discriminator(**SMALL))
    video = random_video(1, 3, 3, 16, 12)
    eager, compiled = (gradients_of(discriminator, video, compile=c) for c in (False, True))
    for one, other in zip(eager[0] + eager[1], compiled[0] + compiled[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * abs(one).max())


PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from losses.test_adversarial import SMALL, gradients_of, random_video
from mg.backend import named_parameters, to_numpy
from mg.losses.adversarial import Discriminator

discriminator = Discriminator(**SMALL, seed=7)
names = named_parameters(discriminator)
results = {f"initial {name}": to_numpy(value).copy() for name, value in names.items()}
for t in (1, 4):
    (_, logits), gradients = gradients_of(discriminator, random_video(2, 3, t, 16, 16))
    results[f"logits of {t} frames"] = logits
    for name, gradient in zip(names, gradients):
        results[f"gradient of {name}, {t} frames"] = gradient
np.savez(sys.argv[2], **results)
"""


@pytest.mark.once
def test_a_seed_gives_the_same_logits_and_gradients_on_both_frameworks(on_both_frameworks):
    on_torch, on_mindspore = on_both_frameworks(PROGRAM)
    for name in on_torch:
        one, other = on_torch[name], on_mindspore[name]
        tolerance = 0 if name.startswith("initial ") else 1e-4 * abs(one).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=name)


def test_initial_weights_have_the_spread_of_pix2pix():
    values = {k: to_numpy(v) for k, v in named_parameters(Discriminator(ndf=16)).items()}
    for name, value in values.items():
        if name.endswith("weight") and value.size > 1000:
            assert value.std() == pytest.approx(0.02, rel=0.1), name
            assert abs(value.mean()) < 0.002
        elif name.endswith("gamma"):
            assert value.mean() == pytest.approx(1, abs=0.02)
            assert 0.01 < value.std() < 0.03
        elif not name.endswith("weight"):
            assert not value.any(), name
    again = named_parameters(Discriminator(ndf=16))
    other = named_parameters(Discriminator(ndf=16, seed=1))
    for name, value in values.items():
        np.testing.assert_array_equal(to_numpy(again[name]), value)
    assert not np.array_equal(to_numpy(other["layers.0.weight"]), values["layers.0.weight"])


def test_the_full_size_has_pix2pixs_widths():
    shapes = [
        tuple(value.shape)
        for name, value in named_parameters(Discriminator()).items()
        if name.endswith("weight")
    ]
    widths = [(64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]
    assert shapes == [(*width, 3, 4, 4) for width in widths]


@pytest.mark.parametrize(
    ("t", "size", "expected"), [(8, (24, 40), (1, 1, 3)), (17, (32, 32), (3, 2, 2))]
)
def test_patches_are_strided_in_time_and_space(t, size, expected):
    discriminator = Discriminator(ndf=2)
    assert logits_of(discriminator, random_video(1, 3, t, *size)).shape == (1, *expected)


def test_an_image_has_the_logits_of_a_video_that_stands_still():
    discriminator = lively(Discriminator(**SMALL))
    image = random_video(1, 3, 1, 16, 16)
    logits = logits_of(discriminator, image)
    assert logits.shape == (1, 1, 2, 2)
    still = logits_of(discriminator, image.repeat(8, 2))
    np.testing.assert_allclose(still, logits.repeat(2, 1), rtol=1e-4, atol=1e-4)


def test_other_videos_of_the_batch_do_not_matter():
    discriminator = lively(Discriminator(**SMALL))
    video = random_video(2, 3, 4, 16, 16)
    both = logits_of(discriminator, video)
    for number in range(2):
        alone = logits_of(discriminator, video[number : number + 1])
        np.testing.assert_allclose(alone[0], both[number], rtol=1e-4, atol=1e-5)


def test_a_flicker_of_brightness_changes_the_logits():
    discriminator = lively(Discriminator(**SMALL))
    video = 0.5 * random_video(1, 3, 8, 16, 16)
    flicker = video + 0.4 * np.float32(np.arange(8) % 2)[:, None, None]
    change = abs(logits_of(discriminator, flicker) - logits_of(discriminator, video))
    assert change.max() > 0.05 * abs(logits_of(discriminator, video)).max()


def test_a_video_below_the_smallest_size_is_an_error():
    discriminator = Discriminator(ndf=2)
    assert discriminator.smallest == 24
    assert logits_of(discriminator, random_video(1, 3, 1, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="40x23 pixels.*at least 24x24"):
        discriminator(from_numpy(random_video(1, 3, 1, 23, 40)))


@pytest.mark.parametrize("sizes", [{"ndf": 0}, {"n_layers": 0}, {"in_channels": 0}], ids=str)
def test_sizes_below_one_are_an_error(sizes):
    name, value = next(iter(sizes.items()))
    with pytest.raises(ValueError, match=f"{name} {value}.*at least 1"):
        Discriminator(**sizes)


@pytest.mark.skipif(not HAS_HALF, reason="no bf16 on MindSpore's CPU")
def test_bf16_gives_float32_logits_near_those_of_fp32():
    video = random_video(1, 3, 4, 16, 16)
    exact, half = (
        logits_of(lively(Discriminator(**SMALL, dtype=name)), video) for name in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    assert 0 < abs(half - exact).max() < 0.1 * abs(exact).max()


REAL = np.array([[2.0, 0.5], [-1.0, 1.0]], np.float32).reshape(1, 1, 2, 2)
FAKE = np.array([[-3.0, 0.0], [-0.5, 4.0]], np.float32).reshape(1, 1, 2, 2)


def test_the_discriminators_hinge_loss_counts_logits_within_the_margin():
    loss = to_numpy(hinge_discriminator(from_numpy(REAL), from_numpy(FAKE)))
    # real: 0, 0.5, 2, 0; fake: 0, 1, 0.5, 5
    assert loss == pytest.approx(0.5 * (2.5 / 4 + 6.5 / 4))


def test_the_generators_loss_is_minus_the_mean_logit():
    assert to_numpy(hinge_generator(from_numpy(FAKE))) == pytest.approx(-0.125)


def test_the_adaptive_weight_is_the_ratio_of_the_norms_within_bounds():
    assert adaptive_weight(3.0, 0.5) == pytest.approx(3.0 / 0.5001)
    assert adaptive_weight(0.0, 2.0) == 0.0
    assert adaptive_weight(1.0, 0.0) == pytest.approx(1e4)
    assert adaptive_weight(1e9, 1.0) == 1e4


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_the_adaptive_weight_of_a_norm_that_is_not_finite_is_no_number(norm):
    assert math.isnan(adaptive_weight(norm, 1.0))
    assert math.isnan(adaptive_weight(1.0, norm))


@pytest.mark.once
def test_norms_have_32_groups_where_channels_divide_so():
    layers = Discriminator(ndf=24, n_layers=2).layers
    assert [layer.groups for layer in layers if layer.has_norm] == [16, 32]
