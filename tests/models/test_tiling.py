"""Tiles: where they lie, how they blend, and the network's own tiles."""

import numpy as np
import pytest

from mg.backend import from_numpy, to_numpy
from mg.models.tae.tiling import TileStream, Tiling, cut_out, tile_spans, tiled, tiled_in_space

from .random_network import random_network, random_video


def plans(count=15):
    """Random (length, tile, overlap) that `tile_spans` takes."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        tile = int(rng.integers(1, 12))
        yield int(rng.integers(1, 50)), tile, int(rng.integers(0, tile // 2 + 1))


@pytest.mark.once
def test_tiles_cover_the_length_and_share_the_overlap():
    for length, tile, overlap in plans(500):
        spans = tile_spans(length, tile, overlap)
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(stop - start == tile for start, stop in spans[:-1])
        assert 0 < spans[-1][1] - spans[-1][0] <= tile
        for before, after in zip(spans, spans[1:], strict=False):
            assert before[1] - after[0] == overlap
        if len(spans) > 1:
            assert spans[-1][1] - spans[-1][0] > overlap  # no tile lies within another
        for before, after in zip(spans, spans[2:], strict=False):
            assert before[1] <= after[0]  # at most two meet


@pytest.mark.once
def test_a_length_within_one_tile_is_one_tile():
    assert tile_spans(5, 8, 4) == [(0, 5)]
    assert tile_spans(8, 8, 4) == [(0, 8)]
    assert tile_spans(9, 8, 4) == [(0, 8), (4, 9)]


@pytest.mark.once
@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-1, 0), (4, 3), (4, -1), (1, 1)])
def test_tiles_that_do_not_fit_are_an_error(tile, overlap):
    with pytest.raises(ValueError, match=f"tile {tile} with overlap {overlap}: expected 0 <= 2"):
        tile_spans(10, tile, overlap)


def test_a_position_wise_function_is_computed_exactly_for_any_tiles():
    for length, tile, overlap in plans():
        x = from_numpy(random_video(2, length, 3, seed=length))
        y = tiled(lambda part: part * part + 1.0, x, axis=1, tile=tile, overlap=overlap)
        np.testing.assert_array_equal(to_numpy(y), to_numpy(x * x + 1.0))


def test_blending_weights_sum_to_one():
    for length, tile, overlap in plans():
        x = from_numpy(random_video(length, seed=length))
        y = tiled(lambda part: part * 0.0 + 0.7, x, axis=0, tile=tile, overlap=overlap)
        np.testing.assert_allclose(to_numpy(y), np.full(length, 0.7), rtol=1e-6)


def test_functions_that_repeat_or_thin_out_positions_are_tiled_too():
    def repeat(part):
        return from_numpy(to_numpy(part).repeat(8, axis=2))

    def thin_out(part):
        return from_numpy(to_numpy(part)[:, :, ::4])

    for length in (1, 4, 5, 7, 8, 22, 29):
        x = random_video(1, 2, length, 3, seed=length)
        y = tiled(repeat, from_numpy(x), axis=2, tile=4, overlap=2)
        np.testing.assert_array_equal(to_numpy(y), x.repeat(8, axis=2))
        y = tiled(thin_out, from_numpy(x), axis=2, tile=8, overlap=4)
        np.testing.assert_array_equal(to_numpy(y), x[:, :, ::4])


def test_tiling_two_axes_is_tiling_twice():
    def rows(part):
        return tiled(lambda tile: tile * 3.0, part, axis=0, tile=3, overlap=1)

    x = from_numpy(random_video(7, 9))
    y = tiled(rows, x, axis=1, tile=4, overlap=2)
    np.testing.assert_array_equal(to_numpy(y), to_numpy(x * 3.0))


def test_where_tiles_meet_one_fades_linearly_into_the_next():
    seen = []

    def number(part):
        seen.append(part.shape[0])
        return part * 0.0 + float(len(seen) - 1)

    y = to_numpy(tiled(number, from_numpy(np.zeros(13, np.float32)), axis=0, tile=8, overlap=3))
    assert seen == [8, 8]
    np.testing.assert_allclose(y, [0] * 5 + [0.25, 0.5, 0.75] + [1] * 5, atol=1e-6)


def test_a_stream_of_tiles_gives_what_tiles_of_the_whole_give():
    def running_sum(part):  # depends on where its tile starts
        return from_numpy(np.cumsum(to_numpy(part), axis=0))

    rng = np.random.default_rng(1)
    for length, tile, overlap in plans():
        x = from_numpy(random_video(length, 2, seed=length))
        stream = TileStream(running_sum, axis=0, tile=tile, overlap=overlap)
        got, start = [], 0
        while start < length:
            stop = min(start + int(rng.integers(1, 9)), length)
            got += stream.feed(x[start:stop])
            start = stop
        got += stream.flush()
        whole = tiled(running_sum, x, axis=0, tile=tile, overlap=overlap)
        joined = np.concatenate([to_numpy(piece) for piece in got])
        np.testing.assert_allclose(joined, to_numpy(whole), atol=1e-6)


def test_weights_in_space_sum_to_one_wherever_tiles_meet_short_ones_included():
    rng = np.random.default_rng(2)
    for _ in range(15):
        tile, size = int(rng.integers(2, 8)), rng.integers(1, 24, 2).tolist()
        overlap = int(rng.integers(0, tile // 2 + 1))
        x = from_numpy(random_video(1, 2, 3, *size, seed=tile))
        same = tiled_in_space(
            lambda *place: cut_out(x, *place),  # noqa: B023
            tuple(size),
            tile=tile,
            overlap=overlap,
        )
        np.testing.assert_allclose(to_numpy(same), to_numpy(x), atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encode_frames": 12}, "encode_frames is 12, expected a multiple of 8"),
        ({"size_overlap": 100}, "size_overlap is 100, expected a multiple of 8"),
        ({"encode_frames": "16"}, "encode_frames is '16', expected a multiple of 8"),
        ({"encode_overlap": None}, "encode_overlap is None, expected a multiple of 8"),
        ({"size": 0}, "size and size_overlap: tile 0 with overlap 128: expected 0 <= 2"),
        ({"decode_overlap": 24}, "decode_frames and decode_overlap: tile 32 with overlap 24"),
        ({"encode_frames": -8}, "encode_frames and encode_overlap: tile -8 with overlap 0"),
    ],
    ids=str,
)
def test_tiles_that_do_not_fit_the_network_are_refused_and_leave_its_tiles(change, message):
    network = random_network()
    network.tiling = before = Tiling(size=None)
    with pytest.raises(ValueError, match=message):
        network.tiling = Tiling(**change)
    with pytest.raises(ValueError, match="tiling is 512, expected a Tiling or None"):
        network.enable_tiling(512)
    assert network.tiling == before


def test_tiles_of_numpys_integers_are_those_of_pythons():
    network, z, sizes = random_network({"ch_mult": [1, 2]}), random_video(1, 4, 5, 3, 4), [4, 2] * 3
    network.tiling = Tiling(*sizes)
    expected = to_numpy(network.decode(z))
    network.tiling = Tiling(*np.array(sizes))
    np.testing.assert_array_equal(to_numpy(network.decode(z)), expected)


# The network's own tiles: 32 frames to encode; 4 latents, 2 of them shared, to decode


def blended(tiles, spans, length):
    """Sum of weight x tile divided by the sum of weights; weights rise and fall over 16 frames."""
    total, weights = 0, np.zeros(length)
    for number, (tile, (start, stop)) in enumerate(zip(tiles, spans, strict=True)):
        weight = np.ones(stop - start)
        ramp = np.arange(1, 17) / 17
        if number > 0:
            weight[:16] = ramp
        if number < len(tiles) - 1:
            weight[-16:] = 1 - ramp
        weights[start:stop] += weight
        placed = np.zeros((*tile.shape[:2], length, *tile.shape[3:]))
        placed[:, :, start:stop] = tile * weight[:, None, None]
        total = total + placed
    return total / weights[:, None, None]


@pytest.fixture(scope="module")
def whole():
    return random_network()


@pytest.fixture(scope="module")
def in_tiles():
    return random_network(use_tile=True)


def test_tiling_changes_nothing_up_to_32_frames(whole, in_tiles):
    video = random_video(1, 3, 32, 8, 8)
    z = whole.encode(video, sample=False)[0]
    tiled_z = in_tiles.encode(video, sample=False)[0]
    np.testing.assert_array_equal(to_numpy(tiled_z), to_numpy(z))
    np.testing.assert_array_equal(to_numpy(in_tiles.decode(z)), to_numpy(whole.decode(z)))


def test_48_frames_are_encoded_in_two_tiles_without_overlap(whole, in_tiles):
    video = random_video(1, 3, 48, 8, 8)
    _, mean, logvar = in_tiles.encode(video, sample=False)
    pieces = [whole.encode(video[:, :, part], sample=False) for part in np.s_[:32, 32:]]
    for moment, position in ((mean, 1), (logvar, 2)):
        joined = np.concatenate([to_numpy(piece[position]) for piece in pieces], axis=2)
        np.testing.assert_allclose(to_numpy(moment), joined, atol=1e-5)


def test_33_frames_have_as_many_latents_in_tiles_as_whole(in_tiles):
    z, _, _ = in_tiles.encode(random_video(1, 3, 33, 8, 8))
    assert tuple(z.shape[2:]) == in_tiles.latent_size(33, 8, 8) == (5, 1, 1)


def test_six_latents_are_decoded_in_two_tiles_blended_over_16_frames(whole, in_tiles):
    z = random_video(1, 4, 6, 1, 1)
    tiles = to_numpy(whole.decode(np.concatenate([z[:, :, :4], z[:, :, 2:]])))
    assert abs(tiles[0, :, 16:] - tiles[1, :, :16]).max() > 0.1  # where the blending shows
    expected = blended([tiles[:1], tiles[1:]], [(0, 32), (16, 48)], 48)
    np.testing.assert_allclose(to_numpy(in_tiles.decode(z)), expected, atol=1e-4)


def test_tiles_in_space_are_those_of_the_tile_alone_where_no_other_reaches(whole):
    network = random_network()
    network.enable_tiling(Tiling(encode_frames=None, decode_frames=None, size=16, size_overlap=8))
    video = random_video(1, 3, 3, 24, 40)
    z = to_numpy(network.encode(video, sample=False)[0])
    assert z.shape[2:] == (1, 3, 5)
    first, last = (
        to_numpy(whole.encode(tile, sample=False)[0])
        for tile in (video[..., :16, :16], video[..., 8:, 24:])
    )
    np.testing.assert_allclose(z[..., 0, 0], first[..., 0, 0], atol=1e-5)
    np.testing.assert_allclose(z[..., -1, -1], last[..., -1, -1], atol=1e-5)
    x, tile = to_numpy(network.decode(z)), to_numpy(whole.decode(z[..., :2, :2]))
    np.testing.assert_allclose(x[..., :8, :8], tile[..., :8, :8], atol=1e-4)
    network.disable_tiling()
    assert not network.use_tile
    assert abs(to_numpy(network.decode(z)) - x).max() > 1e-3


def test_slices_give_what_the_batch_gives(whole):
    network = random_network()
    network.enable_slicing()
    video = random_video(3, 3, 9, 8, 8)
    z = whole.encode(video, seed=1)[0]
    np.testing.assert_allclose(to_numpy(network.encode(video, seed=1)[0]), to_numpy(z), atol=1e-5)
    expected = to_numpy(whole.decode(z))
    seen = []
    plain = network.pixels
    network.pixels = lambda z: seen.append(z.shape[0]) or plain(z)
    np.testing.assert_allclose(to_numpy(network.decode(z)), expected, atol=1e-4)
    assert seen == [1, 1, 1]
    network.disable_slicing()
    np.testing.assert_allclose(to_numpy(network.decode(z)), expected, atol=1e-4)
    assert seen == [1, 1, 1, 3]


@pytest.mark.once
def test_use_tile_keeps_the_tiles_that_are_set():
    network = random_network()
    network.tiling = tiles = Tiling(size=64, size_overlap=16)
    network.use_tile = True
    assert network.tiling == tiles
    network.use_tile = False
    network.use_tile = True
    assert network.tiling == Tiling()
