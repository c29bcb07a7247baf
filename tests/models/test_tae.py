"""The network's interface: encode, decode, reconstruct, scale."""

import copy
import gc
import importlib
import logging
import pickle
import weakref

import numpy as np
import pytest
import safetensors.numpy
from devices import HAS_HALF, ON_CPU

from mg import backend
from mg.backend import cast, from_numpy, named_parameters, to_numpy, value_and_grad

from .random_network import random_network, random_video, tiny_network

VIDEO = random_video(1, 3, 9, 16, 24)


@pytest.fixture(scope="module")
def tae():
    return random_network()


@pytest.fixture(scope="module")
def initial():
    return tiny_network()


@pytest.fixture(scope="module")
def shallow():
    """A network of two levels, which halves; quick, for what does not depend on depth."""
    return random_network({"ch_mult": [1, 2]})


SMALL = random_video(1, 3, 3, 6, 8, seed=2)


def encoded(tae, x, **options):
    """(z, mean, logvar) as arrays."""
    return [to_numpy(value) for value in tae.encode(x, **options)]


def decoded(tae, z, *targets, **options):
    return to_numpy(tae.decode(z, *targets, **options))


# Sizes


def test_latents_are_an_eighth_rounded_up_for_every_length_and_size(initial):
    sizes = [(8, 8), (9, 15), (16, 17), (23, 8), (8, 31)]
    quick = backend.name == "torch"
    for t in range(1, 18) if quick else (1, 2, 8, 9, 17):
        h, w = sizes[t % len(sizes)]
        expected = (2, 4, -(-t // 8), -(-h // 8), -(-w // 8))
        results = initial.encode(random_video(2, 3, t, h, w), sample=t % 2 == 0)
        assert [tuple(result.shape) for result in results] == [expected] * 3
        assert initial.latent_size(t, h, w) == expected[2:]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (2, 2, 5), (5, 7, 4)])
def test_a_reconstruction_has_the_size_of_the_video(shallow, shape):
    shape = (1, 3, shape[0], shape[1] + 1, shape[2] + 1)
    video = shallow(from_numpy(random_video(*shape)))
    assert tuple(video.shape) == shape
    assert to_numpy(video).dtype == np.float32


def test_a_reconstruction_is_the_decoded_mean(tae):
    mean = encoded(tae, VIDEO[..., :13], sample=False)[0]
    expected = decoded(tae, mean)[:, :, :9, :16, :13]
    np.testing.assert_allclose(to_numpy(tae(from_numpy(VIDEO[..., :13]))), expected, atol=1e-5)


def test_decoding_keeps_the_first_frames_rows_and_columns_asked_for(tae, shallow):
    z = random_video(1, 4, 2, 2, 1)
    whole = decoded(tae, z)
    assert whole.shape == (1, 3, 16, 16, 8)
    part = decoded(tae, z, num_target_frames=11, target_size=(9, 8))
    np.testing.assert_array_equal(part, whole[:, :, :11, :9, :8])
    whole = decoded(shallow, z)
    assert whole.shape == (1, 3, 4, 4, 2)
    np.testing.assert_array_equal(decoded(shallow, z, num_target_frames=1), whole[:, :, :1])
    np.testing.assert_array_equal(decoded(shallow, z, target_size=(4, 1)), whole[..., :1])


def test_numpys_integers_are_targets_too(shallow):
    z, (frames, *size) = random_video(1, 4, 2, 2, 1), np.array([3, 4, 1])
    expected = decoded(shallow, z)[:, :, :3, :, :1]
    np.testing.assert_array_equal(decoded(shallow, z, frames, size), expected)
    pieces = [to_numpy(x) for x in shallow.decode_stream([z], frames, size)]
    np.testing.assert_allclose(np.concatenate(pieces, 2), expected, atol=1e-5)


def test_odd_sizes_are_extended_by_their_last_row_and_column():
    halves_twice = random_network({"ch_mult": [1, 1, 1]})
    video = random_video(1, 3, 2, 5, 7)
    extended = np.pad(video, ((0, 0), (0, 0), (0, 0), (0, 3), (0, 1)), mode="edge")
    part, whole = (encoded(halves_twice, either, seed=1) for either in (video, extended))
    np.testing.assert_array_equal(part, whole)


# The posterior


def test_without_sampling_z_is_the_mean(shallow):
    z, mean, logvar = encoded(shallow, SMALL, sample=False)
    np.testing.assert_array_equal(z, mean)
    assert abs(logvar).max() > 0.01
    assert np.isfinite(logvar).all()


def noise_of_frames(b, z, t, h, w):
    """Drawn frame after frame, so that a stream draws the same."""
    rng = np.random.default_rng(3)
    frames = [rng.standard_normal((b, z, h, w), dtype=np.float32) for _ in range(t)]
    return np.stack(frames, axis=2)


def test_a_sample_is_the_mean_plus_the_seeds_noise_times_the_deviation(tae):
    z, mean, logvar = encoded(tae, VIDEO, seed=3)
    noise = noise_of_frames(*mean.shape)
    np.testing.assert_allclose(z, mean + np.exp(logvar / 2) * noise, atol=1e-5)


def test_a_seed_repeats_its_sample_and_others_differ(shallow):
    first, again, other, free, free_again = (
        encoded(shallow, SMALL, seed=seed)[0] for seed in (3, 3, 4, None, None)
    )
    np.testing.assert_array_equal(first, again)
    for sample in (other, free, free_again):
        assert (abs(sample - first) > 1e-6).all()
    assert (abs(free_again - free) > 1e-6).all()


def test_samples_have_the_posteriors_moments(shallow):
    z, mean, logvar = encoded(shallow, random_video(2, 3, 1, 64, 64), seed=5)
    samples = ((z - mean) / np.exp(logvar / 2)).ravel()
    assert samples.size > 8000
    assert abs(samples.mean()) < 4 / samples.size**0.5
    assert abs(samples.std() - 1) < 4 / (2 * samples.size) ** 0.5


def test_log_variances_are_kept_where_their_exponential_is_finite(tae):
    moments = np.zeros((1, 8, 1, 1, 1), np.float32)
    moments[0, 4:6] = [[[[-1e6]]], [[[1e6]]]]
    mean, logvar = map(to_numpy, tae.posterior(from_numpy(moments)))
    np.testing.assert_array_equal(mean, moments[:, :4])
    np.testing.assert_array_equal(logvar.ravel(), [-30, 20, 0, 0])


def test_what_comes_out_lies_in_the_order_of_its_axes_and_keeps_nothing_else_alive(tae, tmp_path):
    z, mean, logvar = tae.encode(VIDEO, seed=0)
    _, streamed, _ = next(iter(tae.encode_stream([VIDEO])))
    given = [z, mean, logvar, streamed, tae.decode(mean), tae.decode(mean, 1, (5, 7))]
    given += list(tae.decode_stream([mean], 3))
    arrays = [to_numpy(tensor) for tensor in given]
    assert all(array.flags.c_contiguous for array in arrays)
    # It saves what lies in memory, whatever the order.
    safetensors.numpy.save_file({str(n): a for n, a in enumerate(arrays)}, tmp_path / "a")
    for name, array in safetensors.numpy.load_file(tmp_path / "a").items():
        np.testing.assert_array_equal(array, arrays[int(name)])
    assert all(tensor.is_contiguous() for tensor in given)
    if backend.name == "torch":
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in given)


@pytest.mark.parametrize("options", [{}, {"compile": True}])
def test_a_network_that_was_pickled_is_the_same(options):
    network = random_network({"ch_mult": [1, 2]}, **options)
    if backend.name == "mindspore" or not options:  # on PyTorch a CPU compiles for a minute
        network.encode(SMALL, sample=False)
    network._functions()  # compiled, which on PyTorch is done when it is first called
    again = pickle.loads(pickle.dumps(network))
    eager = random_network({"ch_mult": [1, 2]})
    z = from_numpy(random_video(1, 4, 2, 2, 2))
    assert again._compiles == network._compiles
    again._compiles = False
    np.testing.assert_array_equal(to_numpy(again.decode(z)), to_numpy(eager.decode(z)))


@pytest.mark.skipif(backend.name != "torch", reason="PyTorch's memory")
def test_a_network_that_nobody_knows_any_more_frees_its_weights_at_once():
    network = random_network({"ch_mult": [1, 2]})
    network.decode(network.encode(SMALL)[0])
    weights = weakref.ref(network.decoder.conv_in)
    gc.disable()
    try:
        del network
        assert weights() is None
    finally:
        gc.enable()


def test_scaled_latents_are_the_published_formulas_and_unscale_inverts_them(tae):
    z = random_video(1, 4, 1, 2, 3)
    scaled = to_numpy(tae.scale(from_numpy(z)))
    np.testing.assert_allclose(scaled, 1.5305 * (z - 0.0609), atol=1e-6)
    np.testing.assert_allclose(to_numpy(tae.unscale(from_numpy(z))), z / 1.5305 + 0.0609, atol=1e-6)
    np.testing.assert_allclose(to_numpy(tae.unscale(from_numpy(scaled))), z, atol=1e-6)


# What depends on what


def test_every_parameter_influences_the_reconstruction(tae):
    """But for the keys' biases: they shift all of a query's scores alike, which softmax ignores."""
    parameters = named_parameters(tae)
    projection = from_numpy(random_video(1, 3, 9, 16, 16, seed=1))

    def loss(video, noise):
        reconstruction, *_ = tae.reconstruct(video, noise)
        return (reconstruction * projection).sum(), reconstruction

    function = value_and_grad(loss, list(parameters.values()), compile=False)
    _, gradients = function(from_numpy(VIDEO[..., :16]), from_numpy(random_video(1, 4, 2, 2, 2)))
    slopes = {
        name: abs(to_numpy(gradient)).max()
        for name, gradient in zip(parameters, gradients, strict=True)
    }
    assert len(slopes) > 200
    without = {name for name, slope in slopes.items() if not slope > 1e-4}
    sides = [f"{side}.mid.attn_1" for side in ("encoder", "decoder")]
    assert without == {f"{side}.{key}.bias" for side in sides for key in ("0.k", "1.to_k")}


def test_at_first_latents_are_those_of_every_eighth_frame_alone(initial):
    video = random_video(1, 3, 17, 8, 16)
    frames = np.concatenate([video[:, :, frame : frame + 1] for frame in (0, 8, 16)])
    for whole, alone in zip(
        encoded(initial, video, sample=False), encoded(initial, frames, sample=False), strict=True
    ):
        np.testing.assert_allclose(whole[0].swapaxes(0, 1), alone[:, :, 0], atol=1e-5)


def test_at_first_each_latent_decodes_to_eight_equal_frames_of_its_own(initial):
    z = random_video(1, 4, 3, 1, 2)
    video = decoded(initial, z)
    alone = decoded(initial, z.swapaxes(0, 2), num_target_frames=1)  # (3 c 1 h w)
    np.testing.assert_allclose(video, alone.swapaxes(0, 2).repeat(8, 2), atol=1e-5)


def test_norms_over_the_clip_make_a_frame_depend_on_the_others():
    tae = tiny_network({"norm_scope": "clip", "ch_mult": [1, 2]})
    video = SMALL.copy()
    video[:, :, 1] = 1.0
    mean = encoded(tae, video, sample=False)[0]
    alone = encoded(tae, video[:, :, :1], sample=False)[0]
    assert abs(mean[:, :, 0] - alone[:, :, 0]).max() > 1e-3


def test_random_temporal_weights_mix_frames(tae):
    video = np.concatenate([VIDEO, VIDEO])
    video[1, :, 3] *= -1
    mean = encoded(tae, video, sample=False)[0]
    assert (abs(mean[1] - mean[0]).max((0, 2, 3)) > 1e-4).all()


def test_upsampling_pads_by_zeros_where_the_config_says_so(shallow):
    zeros = random_network({"ch_mult": [1, 2], "upsample_padding": "zeros"})
    z = random_video(1, 4, 2, 1, 1)
    assert abs(decoded(shallow, z) - decoded(zeros, z)).max() > 1e-3
    np.testing.assert_array_equal(
        encoded(shallow, SMALL, seed=0)[0], encoded(zeros, SMALL, seed=0)[0]
    )


@pytest.mark.parametrize("norm_scope", ["frame", "clip"])
def test_the_videos_of_a_batch_do_not_see_each_other(norm_scope):
    network = random_network({"ch_mult": [1, 2], "norm_scope": norm_scope})
    batch = random_video(2, 3, 3, 6, 8)
    both, alone = (to_numpy(network(from_numpy(part))) for part in (batch, batch[1:]))
    np.testing.assert_allclose(both[1:], alone, atol=1e-4)


def test_training_sees_the_network_that_encode_and_decode_show(tae):
    noise = noise_of_frames(1, 4, 2, 2, 3)
    video, z, mean, logvar = map(to_numpy, tae.reconstruct(from_numpy(VIDEO), from_numpy(noise)))
    for ours, theirs in zip((z, mean, logvar), encoded(tae, VIDEO, seed=3), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(video, decoded(tae, z, num_target_frames=9), atol=1e-4)


# Options


def test_recompute_leaves_the_outputs_as_they_are(shallow):
    network = random_network({"ch_mult": [1, 2]}, use_recompute=True)
    z, *_ = pair = encoded(network, SMALL, seed=0)
    np.testing.assert_allclose(pair, encoded(shallow, SMALL, seed=0), atol=1e-6)
    np.testing.assert_allclose(decoded(network, z), decoded(shallow, z), atol=1e-5)


def compare_compiled_with(tae):
    compiled = random_network(compile=True)
    z, mean, logvar = encoded(compiled, VIDEO, seed=0)
    np.testing.assert_allclose([z, mean, logvar], encoded(tae, VIDEO, seed=0), atol=1e-5)
    np.testing.assert_allclose(decoded(compiled, z), decoded(tae, z), atol=1e-4)


@pytest.mark.skipif(backend.name == "torch", reason="torch.compile is tested by the slow test")
def test_graph_mode_gives_what_eager_mode_gives(tae):
    compare_compiled_with(tae)


@pytest.mark.skipif(backend.name == "torch", reason="torch.compile differentiates what it made")
def test_a_network_in_graph_mode_is_differentiated_as_in_eager_mode():
    from mindspore import grad

    z = from_numpy(random_video(1, 4, 2, 3, 3))
    eager, compiled = (
        to_numpy(grad(lambda z, tae=tae: (tae.decode(z) * tae.decode(z)).mean())(z))
        for tae in (random_network(), random_network(compile=True))
    )
    assert np.abs(eager).max() > 0
    np.testing.assert_array_equal(compiled, eager)


@pytest.mark.slow
@pytest.mark.skipif(backend.name == "mindspore", reason="graph mode is tested by the test above")
def test_torch_compile_gives_what_eager_mode_gives(tae):
    compare_compiled_with(tae)


def test_bfloat16_stays_close_to_float32_or_is_an_error_on_mindspores_cpu(tae):
    if not HAS_HALF:
        with pytest.raises(ValueError, match="dtype is 'bf16', but MindSpore has no bf16 conv"):
            random_network(dtype="bf16")
        return
    network = random_network(dtype="bf16")
    halves, singles = (encoded(either, VIDEO, seed=0) for either in (network, tae))
    for half, single in zip(halves, singles, strict=True):
        assert half.dtype == np.float32
        assert 0 < abs(half - single).max() < 0.1
    z = random_video(1, 4, 1, 1, 2)
    half, single = decoded(network, z), decoded(tae, z)
    assert half.dtype == np.float32
    assert 0 < abs(half - single).max() < 0.03 * abs(single).max()


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_tensors_of_other_kinds_go_in_as_float32(shallow, kind):
    other = cast(from_numpy(SMALL), getattr(importlib.import_module(backend.name), kind))
    expected = encoded(shallow, to_numpy(other).astype(np.float32), sample=False)[0]
    z = shallow.encode(other, sample=False)[0]
    np.testing.assert_array_equal(to_numpy(z), expected)
    video = decoded(shallow, cast(z, other.dtype))
    assert video.dtype == np.float32 and np.isfinite(video).all()


# Bad input


@pytest.mark.skipif(backend.name == "mindspore", reason="a method of PyTorch's modules")
@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_weights_of_another_kind_are_an_error_that_says_what_to_do(shallow, change):
    said = 'Autoencoder: .* expected float32 .* its option dtype="bf16" or "fp16"'
    with pytest.raises(ValueError, match=said):
        getattr(shallow, change)()
    assert {str(value.dtype) for value in shallow.state_dict().values()} == {"torch.float32"}


@pytest.mark.skipif(backend.name == "torch", reason="MindSpore's compiler")
def test_mindspores_jit_takes_moments_and_pixels(shallow):
    import mindspore

    x, z = from_numpy(random_video(1, 3, 4, 8, 8)), from_numpy(random_video(1, 4, 2, 4, 4))
    for function, given in ((shallow.moments, x), (shallow.pixels, z)):
        compiled = mindspore.jit(function)(given)
        np.testing.assert_allclose(to_numpy(compiled), to_numpy(function(given)), atol=1e-5)


@pytest.mark.skipif(backend.name == "torch", reason="a method of MindSpore's cells")
@pytest.mark.parametrize("level", [None, "O2", "O3"])
def test_a_network_cast_by_mindspore_is_an_error_that_says_what_to_do(level):
    import mindspore

    network = random_network({"ch_mult": [1, 2]})
    with pytest.raises(ValueError, match='expected float32 .* its option dtype="bf16" or "fp16"'):
        if level is None:
            network.to_float(mindspore.float16)
        else:
            mindspore.amp.auto_mixed_precision(network, level, dtype=mindspore.float16)


@pytest.mark.skipif(backend.name == "mindspore", reason="a setting of PyTorch's")
def test_another_default_kind_leaves_the_weights_as_they_are(shallow):
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        network = copy.deepcopy(shallow).to("cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {str(value.dtype) for value in network.state_dict().values()} == {"torch.float32"}


@pytest.mark.parametrize(
    "shape",
    [
        (3, 1, 8, 8),
        (1, 4, 1, 8, 8),
        (1, 1, 3, 8, 8),
        (1, 3, 1, 7, 8),
        (1, 3, 1, 8, 7),
        (1, 3, 0, 8, 8),
        (0, 3, 1, 8, 8),
    ],
    ids=str,
)
def test_a_video_of_another_shape_is_an_error_that_says_both(initial, shape):
    expected = r"expected \(b 3 t h w\) with t >= 1 and h, w >= 8"
    numbers = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"a video of shape \({numbers}\), {expected}"):
        initial.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_values_that_are_integers_are_an_error_that_says_what_to_do(initial, kind):
    video = np.ones((1, 3, 4, 8, 8), kind)
    for values in (video, from_numpy(video)):
        with pytest.raises(ValueError, match="values are .*expected floats .mg.data.to_float"):
            initial.encode(values)


def test_latents_that_are_integers_or_complex_are_an_error(initial):
    for kind in (np.int64, np.complex64):
        with pytest.raises(ValueError, match=f"values are {kind.__name__}, expected floats .raw"):
            initial.decode(np.ones((1, 4, 1, 1, 1), kind))


def test_what_encode_gives_is_not_taken_for_latents(initial):
    encoded = initial.encode(random_video(1, 3, 4, 8, 8))
    for values in (encoded, [*encoded]):
        with pytest.raises(
            ValueError, match=r"of tensors, expected one \(raw latents, the first of"
        ):
            initial.decode(values)
    with pytest.raises(ValueError, match=r"of tensors, expected one"):
        next(initial.decode_stream([encoded]))


def test_one_tensor_is_not_taken_for_pieces(initial):
    video = random_video(1, 3, 8, 8, 8)
    for values in (video, from_numpy(video)):
        with pytest.raises(ValueError, match=r"expected several in order: \[x\] for one"):
            next(initial.encode_stream(values))
        with pytest.raises(ValueError, match=r"expected several in order: \[x\] for one"):
            next(initial.decode_stream(values))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 700, -1])
def test_values_that_are_not_finite_are_an_error(initial, value, place):
    video = random_video(1, 3, 4, 8, 8)
    video.reshape(-1)[place] = value
    with pytest.raises(ValueError, match="the video holds NaN or infinite values"):
        initial.encode(video)
    z = random_video(1, 4, 3, 8, 8)
    z.reshape(-1)[place] = value
    with pytest.raises(ValueError, match="the latents hold NaN or infinite values"):
        initial.decode(z)


def test_values_out_of_range_are_warned_of_once(caplog):
    tae = random_network({"ch_mult": [1, 2]})
    video = random_video(1, 3, 1, 8, 8)
    with caplog.at_level(logging.WARNING, logger="mg"):
        tae.encode(video)
        tae.encode(np.ones_like(video))
        assert not caplog.records
        tae.encode(127 * np.ones_like(video))
        tae.encode(127 * np.ones_like(video))
    assert [record.getMessage() for record in caplog.records] == [
        "the video's values reach 127 in size, expected [-1, 1]"
    ]


@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 1), (4, 1, 1, 1), (1, 4, 0, 1, 1)], ids=str)
def test_latents_of_another_shape_are_an_error(initial, shape):
    with pytest.raises(ValueError, match=r"latents of shape .*expected \(b 4 t h w\)"):
        initial.decode(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"num_target_frames": 0}, "num_target_frames is 0, expected a whole number from 1"),
        ({"num_target_frames": "3"}, "num_target_frames is '3', expected a whole number from 1"),
        ({"num_target_frames": 1.5}, "num_target_frames is 1.5, expected a whole number from 1"),
        ({"num_target_frames": 17}, "17 frames asked for, these latents decode to 16 at most"),
        ({"target_size": (9, 8)}, "9 rows asked for, these latents decode to 8 at most"),
        ({"target_size": (8, 17)}, "17 columns asked for, these latents decode to 16 at most"),
        ({"target_size": (-1, 8)}, r"target_size is \(-1, 8\), expected \(height, width\)"),
        ({"target_size": (1, 2, 3)}, r"target_size is \(1, 2, 3\), expected \(height, width\)"),
        ({"target_size": 16}, r"target_size is 16, expected \(height, width\)"),
    ],
    ids=str,
)
def test_a_target_beyond_the_latents_is_an_error(initial, target, message):
    z = np.zeros((1, 4, 2, 1, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        initial.decode(z, **target)
    with pytest.raises(ValueError, match=message):
        list(initial.decode_stream([z], **target))


@pytest.mark.once
@pytest.mark.parametrize("seed", [-1, 0.5, "0"])
def test_a_seed_that_is_no_whole_number_is_an_error(initial, seed):
    message = f"seed is {seed!r}, expected a whole number from 0"
    with pytest.raises(ValueError, match=message):
        initial.encode(VIDEO, seed=seed)
    with pytest.raises(ValueError, match=message):
        initial.encoder_stream(seed=seed)
    with pytest.raises(ValueError, match=message):
        tiny_network(seed=seed)


@pytest.mark.skipif(backend.name != "mindspore", reason="a mode of MindSpore")
def test_graph_mode_as_mindspore_s_own_setting_gives_what_python_mode_gives(shallow):
    import mindspore as ms

    expected = to_numpy(shallow(from_numpy(SMALL)))
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        video = to_numpy(shallow(from_numpy(SMALL)))
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    np.testing.assert_allclose(video, expected, rtol=0, atol=1e-5)


def test_a_single_latent_among_zeros_decodes_as_it_streams():
    """Its frames differ, so none stands for all of them, as where the ends are repeated."""
    zeros = random_network({"ch_mult": [1, 2, 2], "upsample_padding": "zeros"})
    z = random_video(1, 4, 1, 2, 3)
    frames = decoded(zeros, z)
    assert abs(frames - frames[:, :, :1]).max() > 1e-3
    streamed = np.concatenate([to_numpy(x) for x in zeros.decode_stream([z])], axis=2)
    np.testing.assert_allclose(frames, streamed, atol=1e-5)


def test_the_frames_of_a_single_latent_are_one_frame_repeated(tae):
    z = random_video(2, 4, 1, 2, 3)
    frames = decoded(tae, z)
    assert frames.shape[2] == 8
    np.testing.assert_array_equal(frames, np.repeat(frames[:, :, :1], 8, axis=2))
    streamed = np.concatenate([to_numpy(x) for x in tae.decode_stream([z])], axis=2)
    np.testing.assert_allclose(frames, streamed, atol=1e-5)


@pytest.mark.once
def test_values_little_out_of_range_are_warned_of_too(caplog):
    with caplog.at_level(logging.WARNING, logger="mg"):
        random_network({"ch_mult": [1, 2]}).encode(np.full((1, 3, 1, 8, 8), -1.01, np.float32))
    assert "reach 1.01 in size" in caplog.text


@pytest.mark.skipif(backend.name != "torch", reason="PyTorch's hooks")
def test_hooks_on_encoder_and_decoder_are_called(tae):
    called = []
    hooks = [
        part.register_forward_hook(lambda part, *_: called.append(part))
        for part in (tae.encoder, tae.decoder)
    ]
    tae(VIDEO)
    assert called == [tae.encoder, tae.decoder]
    for hook in hooks:
        hook.remove()


@pytest.mark.skipif(backend.name != "torch", reason="PyTorch's")
def test_second_derivatives_are_refused(shallow):
    import torch

    x = from_numpy(SMALL[..., :6, :8]).requires_grad_()
    (gradient,) = torch.autograd.grad(shallow.moments(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.skipif(backend.name != "torch", reason="PyTorch's")
def test_the_network_can_be_exported(shallow):
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip("PyTorch 2.4 cannot, the versions between were not tried")

    class Moments(torch.nn.Module):
        def forward(self, x):
            return shallow.moments(x)

    x = from_numpy(SMALL[..., :6, :8])
    # Unless it is strict, it asks our Triton kernels on a GPU for numbers.
    exported = torch.export.export(Moments(), (x,), strict=not ON_CPU).module()
    torch.testing.assert_close(exported(x), shallow.moments(x).detach())
