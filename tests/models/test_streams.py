"""Streams: a video in any pieces gives what it gives as a whole."""

import contextlib
import copy
import logging

import numpy as np
import pytest

from mg import backend
from mg.backend import to_numpy
from mg.models.tae import layers, streams
from mg.models.tae.piecewise import STAGE_FRAMES
from mg.models.tae.tae import Tiling

from .random_network import random_network, random_video, randomise

SHALLOW = {"ch_mult": [1, 2], "attention_window": 3}
CLIP = {"norm_scope": "clip", "attention_window": None}


def pieces(x, sizes):
    """x `(b c t h w)` in consecutive pieces whose lengths are `sizes`, over and over."""
    start, number = 0, 0
    while start < x.shape[2]:
        stop = start + sizes[number % len(sizes)]
        yield x[:, :, start:stop]
        start, number = stop, number + 1


def joined(outputs):
    return np.concatenate([to_numpy(output) for output in outputs], axis=2)


def compare_with_the_whole(network, length, encoded_by, decoded_by, size=(8, 8)):
    """Both directions, for a video of that length in pieces of those sizes."""
    video = random_video(1, 3, length, *size, seed=length)
    whole = [to_numpy(tensor) for tensor in network.encode(video, seed=3)]
    reconstruction = to_numpy(network.decode(whole[1], length, size))
    for sizes in encoded_by:
        got = list(network.encode_stream(pieces(video, sizes), seed=3))
        for place, expected in enumerate(whole):
            streamed = joined([latents[place] for latents in got])
            np.testing.assert_allclose(streamed, expected, atol=1e-5, rtol=1e-5)
    for sizes in decoded_by:
        got = joined(network.decode_stream(pieces(whole[1], sizes), length, size))
        np.testing.assert_allclose(got, reconstruction, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def network():
    return random_network()


@pytest.fixture(scope="module")
def shallow():
    return random_network(SHALLOW)


def compare_in_random_pieces(network, length):
    rng = np.random.default_rng(length)
    frames, latents = ([rng.integers(1, n + 1, 4).tolist()] for n in (length, -(-length // 2)))
    compare_with_the_whole(network, length, frames, latents, (2, 2))


def test_a_stream_equals_the_whole(shallow):
    for length in range(1, 41) if backend.name == "torch" else (1, 2, 3, 7, 12, 33):
        compare_in_random_pieces(shallow, length)  # on MindSpore, several seconds


@pytest.mark.slow
def test_a_stream_equals_the_whole_for_every_length_and_every_piece(shallow):
    for length in range(1, 41):
        compare_in_random_pieces(shallow, length)
        if backend.name == "torch":
            sizes = [[size] for size in range(1, length + 1)]
            compare_with_the_whole(shallow, length, sizes, sizes, (2, 2))


def test_at_full_depth_a_stream_equals_the_whole_too(network):
    lengths = range(1, 41) if backend.name == "torch" else (1, 8, 33, 40)
    for length in lengths:
        compare_with_the_whole(network, length, [[1 + length % 9], [length]], [[1 + length % 3]])


def test_other_temporal_layers_stream_too():
    networks = [
        random_network({**SHALLOW, "upsample_padding": "zeros"}),
        random_network({**SHALLOW, "attention_window": 1, "use_quant_conv": True}),
        random_network({**SHALLOW, "use_post_quant_conv": True, "ch_mult": [1, 2, 2]}),
    ]
    for network in networks:
        for length in (1, 2, 7, 12):
            compare_with_the_whole(network, length, [[3]], [[1]])


def test_odd_sizes_and_batches_stream_as_the_whole(network):
    compare_with_the_whole(network, 11, [[4]], [[1]], (9, 14))
    video = random_video(3, 3, 9, 8, 8)
    z = joined([z for z, _, _ in network.encode_stream(pieces(video, [2]), sample=False)])
    np.testing.assert_allclose(z, to_numpy(network.encode(video, False)[0]), atol=1e-5)


def test_parts_of_large_frames_one_by_one_give_the_same(network, monkeypatch):
    monkeypatch.setattr("mg.models.tae.piecewise.STAGE_PIXELS", 1)
    compare_with_the_whole(network, 20, [[20]], [[3]])


@pytest.mark.once
@pytest.mark.parametrize("operation", ["conv2d", "upsample_conv2d", "temporal_conv", "attention"])
def test_a_stream_computes_as_many_values_as_the_whole(shallow, monkeypatch, operation):
    """So nothing is computed twice."""
    computed = []
    plain = getattr(layers, operation)

    def counted(*args, **settings):
        y = plain(*args, **settings)
        computed.append(np.prod(y.shape))
        return y

    monkeypatch.setattr(layers, operation, counted)
    for length in (7, 24, 40):
        video = random_video(1, 3, length, 4, 4)
        shallow(video)
        whole = sum(computed)
        computed.clear()
        latents = (z for z, _, _ in shallow.encode_stream(pieces(video, [3]), sample=False))
        list(shallow.decode_stream(latents, length))
        assert sum(computed) == whole > 0
        computed.clear()


def test_streams_of_one_network_do_not_mix(shallow):
    videos = [random_video(1, 3, 12, 4, 4, seed=seed) for seed in (0, 1)]
    streams = [shallow.encoder_stream(sample=False) for _ in videos]
    got = [[], []]
    for parts in zip(*(pieces(video, [5]) for video in videos), strict=True):
        for place, part in enumerate(parts):
            got[place] += streams[place].feed(part)
    for place, video in enumerate(videos):
        z = joined([z for z, _, _ in got[place] + streams[place].flush()])
        np.testing.assert_allclose(z, to_numpy(shallow.encode(video, False)[0]), atol=1e-5)


def test_what_can_be_computed_is_given_before_the_end(shallow):
    stream = shallow.encoder_stream()
    given = 0
    for fed, part in enumerate(pieces(random_video(1, 3, 320, 4, 4), [STAGE_FRAMES]), start=1):
        given += sum(z.shape[2] for z, _, _ in stream.feed(part))
        assert STAGE_FRAMES * (fed - 2) < 2 * given < STAGE_FRAMES * fed


@pytest.fixture
def compiled_soon(monkeypatch):
    """Many pieces, and a list that grows with each call of a compiled step."""
    monkeypatch.setattr("mg.models.tae.piecewise.STAGE_FRAMES", 4)
    monkeypatch.setattr("mg.backend.shared.CALLS_BEFORE_COMPILED", 2)
    calls = []
    if backend.name == "mindspore":
        import mindspore

        jit = mindspore.jit

        def counted(step, **options):
            compiled = jit(step, **options)

            def call(*args):
                calls.append(step)
                return compiled(*args)

            return call

        monkeypatch.setattr("mindspore.jit", counted)
    return calls


def test_steps_that_come_again_and_again_are_compiled_and_give_the_same(compiled_soon):
    compiled = random_network(SHALLOW, compile=None)
    compiled_soon.clear()
    compare_with_the_whole(compiled, 30, [[4]], [[2]])
    counts = [compiled_soon.count(step) for step in set(compiled_soon)]  # the whole's are 1
    assert backend.name == "torch" or sum(count > 3 for count in counts) > 2


@pytest.mark.usefixtures("compiled_soon")
def test_after_streams_the_whole_is_compiled_as_before():
    compiled = random_network(SHALLOW, compile=None)
    video = random_video(1, 3, 30, 4, 4)
    z = joined([z for z, _, _ in compiled.encode_stream([video], sample=False)])
    x = joined(compiled.decode_stream([z], 30))
    np.testing.assert_allclose(to_numpy(compiled.encode(video, False)[0]), z, atol=1e-5)
    np.testing.assert_allclose(to_numpy(compiled.decode(z, 30)), x, atol=1e-5)


@pytest.mark.usefixtures("compiled_soon")
@pytest.mark.parametrize("options", [{"compile": False}, {}, {"use_recompute": True}])
def test_a_copy_of_a_network_computes_with_its_own_weights(options):
    copied = randomise(copy.deepcopy(random_network(SHALLOW, **options)), seed=1)
    video = random_video(1, 3, 30, 4, 4)
    expected = to_numpy(random_network(SHALLOW, seed=1).encode(video, False)[0])
    np.testing.assert_allclose(to_numpy(copied.encode(video, False)[0]), expected, atol=1e-5)
    z = joined([z for z, _, _ in copied.encode_stream([video], sample=False)])
    np.testing.assert_allclose(z, expected, atol=1e-5)


def test_tiles_in_space_stream_as_they_are_computed_whole(shallow):
    shallow.tiling = Tiling(encode_frames=None, decode_frames=None, size=8, size_overlap=4)
    try:
        compare_with_the_whole(shallow, 9, [[4], [9]], [[2]], (14, 9))
    finally:
        shallow.tiling = None


def test_frames_beyond_the_target_are_dropped_and_missing_ones_are_an_error(network):
    z = random_video(1, 4, 3, 1, 1)
    assert joined(network.decode_stream([z], 17)).shape[2] == 17
    np.testing.assert_allclose(
        joined(network.decode_stream([z], 1)), to_numpy(network.decode(z, 1)), atol=1e-5
    )
    with pytest.raises(ValueError, match="25 frames asked for, these latents decode to 24 at most"):
        list(network.decode_stream([z], 25))
    with pytest.raises(ValueError, match="9 rows asked for, these latents decode to 8 at most"):
        list(network.decode_stream([z], 24, (9, 8)))


def test_a_network_that_spans_the_clip_is_streamed_in_the_papers_tiles_and_says_so_once(caplog):
    network = random_network(CLIP)
    video = random_video(1, 3, 75, 8, 8)
    with caplog.at_level(logging.WARNING):
        z = joined([z for z, _, _ in network.encode_stream(pieces(video, [11]), sample=False)])
        x = joined(network.decode_stream(pieces(z, [3]), 75))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "norm_scope 'clip' with attention_window None spans the clip" in caplog.text
    network.use_tile = True
    np.testing.assert_allclose(z, to_numpy(network.encode(video, False)[0]), atol=1e-5)
    np.testing.assert_allclose(x, to_numpy(network.decode(z, 75)), atol=1e-5)


@pytest.mark.skipif(backend.name == "mindspore", reason="MindSpore keeps no graph")
def test_a_stream_that_is_computed_in_tiles_keeps_nothing_to_differentiate():
    network = random_network(CLIP)
    outputs = [*network.encode_stream([random_video(1, 3, 40, 8, 8)], sample=False)]
    assert not any(tensor.requires_grad for output in outputs for tensor in output)


@pytest.mark.parametrize("config", [SHALLOW, CLIP])
def test_what_is_not_taken_of_a_piece_comes_with_the_next(config):
    network = random_network(config)
    z = random_video(1, 4, 60, 2, 2)
    stream = network.decoder_stream()
    got = [next(stream.take(piece), None) for piece in pieces(z, [30])]
    got = joined([x for x in [*got, *stream.flush()] if x is not None])
    np.testing.assert_allclose(got, joined(network.decode_stream([z])), atol=1e-5)


@pytest.mark.parametrize("config", [SHALLOW, CLIP])
def test_a_buffer_that_is_filled_again_does_not_change_what_was_fed(config):
    network = random_network(config)
    video = random_video(1, 3, 12, 8, 8)
    buffer = np.empty_like(video[:, :, :2])
    stream, got = network.encoder_stream(sample=False), []
    for piece in pieces(video, [2]):
        buffer[:] = piece
        got += stream.feed(buffer)
    got += stream.flush()
    expected = joined([z for z, _, _ in network.encode_stream([video], sample=False)])
    np.testing.assert_allclose(joined([z for z, _, _ in got]), expected, atol=1e-5)


@pytest.mark.skipif(backend.name == "mindspore", reason="a mode of PyTorch")
def test_a_stream_that_began_in_inference_mode_goes_on_outside_it():
    import torch

    network = random_network(SHALLOW)
    z = random_video(1, 4, 80, 2, 2)
    stream = network.decoder_stream()
    with torch.inference_mode():
        got = stream.feed(z[:, :, :40])
    got += stream.feed(z[:, :, 40:]) + stream.flush()
    np.testing.assert_allclose(joined(got), joined(network.decode_stream([z])), atol=1e-5)


def test_a_stream_keeps_the_tiles_that_were_set_when_it_was_made():
    network = random_network(SHALLOW)
    video, z = random_video(1, 3, 4, 8, 8), random_video(1, 4, 2, 4, 4)
    streams = network.encoder_stream(sample=False), network.decoder_stream()
    expected = to_numpy(network.encode(video, sample=False)[0]), to_numpy(network.decode(z))
    network.tiling = Tiling(size=4, size_overlap=2)
    encoded, decoded = ([*s.feed(x), *s.flush()] for s, x in zip(streams, (video, z), strict=True))
    np.testing.assert_allclose(joined([x for x, _, _ in encoded]), expected[0], atol=1e-5)
    np.testing.assert_allclose(joined(decoded), expected[1], atol=1e-5)


def test_an_empty_stream_and_pieces_that_do_not_fit_are_errors(shallow):
    with pytest.raises(ValueError, match="the video holds no frame"):
        list(shallow.encode_stream([]))
    with pytest.raises(ValueError, match="there are no latents to decode"):
        list(shallow.decode_stream([]))
    sizes = [random_video(1, 3, 2, 8, width) for width in (7, 8)]  # which take the same latents
    with pytest.raises(ValueError, match=r"a piece of .* \(1, 3, 8, 8\), expected \(1, 3, 8, 7\)"):
        list(shallow.encode_stream(sizes))
    for num_frames in (0, -1):
        with pytest.raises(ValueError, match=f"num_target_frames is {num_frames}, expected"):
            shallow.decoder_stream(num_frames)
    with pytest.raises(ValueError, match="NaN or infinite"):
        list(shallow.decode_stream([np.full((1, 4, 1, 2, 2), np.nan, np.float32)]))


@pytest.mark.once
def test_a_stream_that_has_ended_takes_no_further_clip(shallow):
    video, z = random_video(1, 3, 3, 4, 4), random_video(1, 4, 2, 2, 2)
    for stream, piece in ((shallow.encoder_stream(), video), (shallow.decoder_stream(), z)):
        stream.feed(piece)
        stream.flush()
        with pytest.raises(ValueError, match="the stream has ended, or failed, expected a new"):
            stream.flush()
        with pytest.raises(ValueError, match="the stream has ended, or failed, expected a new"):
            stream.feed(piece)


def test_a_stream_that_could_not_compute_a_piece_does_not_go_on_without_it():
    network = random_network(SHALLOW)
    video, z = random_video(1, 3, 30, 4, 4), random_video(1, 4, 15, 2, 2)
    for stream, piece in ((network.encoder_stream(), video), (network.decoder_stream(), z)):
        network.encoder.conv_in.step = network.decoder.conv_in.step = out_of_memory
        with pytest.raises(MemoryError):
            stream.feed(piece)
        with pytest.raises(ValueError, match="the stream has ended, or failed, expected a new"):
            stream.feed(piece)


def test_nor_does_one_whose_results_could_not_be_given(monkeypatch):
    network = random_network(SHALLOW)
    pieces = random_video(1, 3, 200, 4, 4), random_video(1, 4, 100, 2, 2)
    for make, piece in zip((network.encoder_stream, network.decoder_stream), pieces, strict=True):
        with monkeypatch.context() as patch:
            for module in (streams, backend):
                patch.setattr(module, "contiguous", out_of_memory)
            stream = make()
            with pytest.raises(MemoryError):
                stream.feed(piece)
        with pytest.raises(ValueError, match="the stream has ended, or failed, expected a new"):
            stream.feed(piece)


def out_of_memory(*_):
    raise MemoryError


def test_a_stream_knows_the_layers_that_were_put_into_the_network():
    network, other = random_network(SHALLOW), random_network(SHALLOW, seed=1)
    network.encoder, network.decoder = other.encoder, other.decoder
    compare_with_the_whole(network, 9, [[4]], [[2]])
    network.decoder.conv_in = random_network(SHALLOW, seed=2).decoder.conv_in
    compare_with_the_whole(network, 9, [[4]], [[2]])


@pytest.mark.parametrize("config", [SHALLOW, {**SHALLOW, **CLIP}])
def test_when_it_has_all_frames_that_were_asked_for_a_stream_takes_no_more_latents(config):
    network = random_network(config)
    taken = []

    def many():
        for seed in range(30):
            taken.append(random_video(1, 4, 2, 2, 2, seed=seed))
            yield taken[-1]
        pytest.fail("it took all")

    with contextlib.closing(network.decode_stream(many(), 11)) as stream:
        video = joined(stream)
    expected = network.decode(np.concatenate(taken, axis=2)) if config is SHALLOW else None
    assert video.shape[2] == 11
    if expected is not None:
        np.testing.assert_allclose(video, to_numpy(expected)[:, :, :11], atol=1e-5)
