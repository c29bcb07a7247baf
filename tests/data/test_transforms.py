import numpy as np
import pytest
from PIL import Image

from mg.data import to_float, to_uint8
from mg.data.transforms import mirrored_indices, resize_and_crop, scaled_down


def test_every_grey_level_survives_the_way_to_float_and_back():
    frames = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1).repeat(3, -1)
    video = to_float(frames)
    assert video.dtype == np.float32
    assert video.shape == (3, 4, 8, 8)
    assert (video.min(), video.max()) == (-1, 1)
    assert np.array_equal(to_uint8(video), frames)


def test_conversions_keep_each_pixel_in_its_place_for_clips_and_batches(rng):
    batch = rng.integers(0, 256, (2, 5, 4, 6, 3), np.uint8)
    video = to_float(batch)
    assert video.shape == (2, 3, 5, 4, 6)
    assert video[1, 2, 3, 0, 5] == pytest.approx(batch[1, 3, 0, 5, 2] / 127.5 - 1, abs=1e-6)
    assert np.array_equal(to_uint8(video), batch)
    assert np.array_equal(to_float(batch[0]), video[0])


def test_values_are_rounded_and_clipped():
    levels = np.array([-1e40, -9, -0.5, 0.49, 0.51, 254.4, 254.6, 300, 4e40])  # to 3e38
    video = (levels / 127.5 - 1).reshape(1, 1, 1, -1).repeat(3, 0)
    assert to_uint8(video)[0, 0, :, 0].tolist() == [0, 0, 0, 0, 1, 254, 255, 255, 255]


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        (3, 9, [0, 1, 2, 1, 0, 1, 2, 1, 0]),
        (2, 5, [0, 1, 0, 1, 0]),
        (1, 4, [0, 0, 0, 0]),
        (5, 3, [0, 1, 2]),
        (4, 4, [0, 1, 2, 3]),
    ],
)
def test_short_clips_are_mirrored_in_time(available, wanted, expected):
    assert mirrored_indices(available, wanted).tolist() == expected


# Sizes whose long side also resizes to a whole number of pixels, so that both have one scale.
@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((60, 100), 12),
        ((100, 60), 12),
        ((64, 64), 20),
        ((64, 96), 20),
        ((32, 96), 32),
        ((16, 40), 32),
    ],
)
@pytest.mark.parametrize("where", [(0.0, 0.0), (0.5, 0.5), (0.99, 0.99), (0.3, 0.7)])
def test_resize_and_crop_equals_resizing_the_whole_and_then_cropping(rng, size, target, where):
    frame = rng.integers(0, 256, (*size, 3), np.uint8)
    height, width = (length * target // min(size) for length in size)
    whole = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    top, left = int(where[0] * (height - target + 1)), int(where[1] * (width - target + 1))
    expected = np.asarray(whole, int)[top : top + target, left : left + target]
    assert np.abs(resize_and_crop(frame, target, where) - expected).max() <= 1


@pytest.mark.parametrize("size", [(37, 101), (101, 37), (9, 8), (719, 1281), (5, 333)])
def test_any_size_and_place_gives_a_square_of_the_image_size(size):
    frame = np.full((*size, 3), 77, np.uint8)
    for where in [(0.0, 0.0), (0.5, 0.5), (0.999, 0.999)]:
        result = resize_and_crop(frame, 16, where)
        assert result.shape == (16, 16, 3)
        assert (result == 77).all()


def test_crop_at_the_frames_own_size_copies_pixels(rng):
    frame = rng.integers(0, 256, (32, 48, 3), np.uint8)
    assert np.array_equal(resize_and_crop(frame, 32), frame[:, 8:40])


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert resize_and_crop(stripes, 8).std() < 8


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (480, 854), (101, 99), (640, 640)])
@pytest.mark.parametrize("max_size", [16, 64, 97])
def test_a_frame_scaled_down_keeps_its_aspect_in_even_sides_below_the_largest(size, max_size):
    height, width = scaled_down(np.zeros((*size, 3), np.uint8), max_size).shape[:2]
    assert height % 2 == width % 2 == 0
    assert max(height, width) == max_size // 2 * 2
    scale = max(size) / max(height, width)
    assert abs(height * scale - size[0]) <= 1.01 * scale
    assert abs(width * scale - size[1]) <= 1.01 * scale


def test_no_side_is_scaled_below_what_a_network_takes():
    assert scaled_down(np.zeros((16, 1920, 3), np.uint8), 640).shape == (8, 640, 3)
    assert scaled_down(np.zeros((1920, 6, 3), np.uint8), 640).shape == (640, 6, 3)


def test_a_frame_scaled_down_shows_the_same_picture(rng):
    ramp = np.tile(np.linspace(0, 255, 240)[None, :, None], (120, 1, 3))
    noisy = (ramp + rng.uniform(-40, 40, ramp.shape)).clip(0, 255).astype(np.uint8)
    small = scaled_down(noisy, 60).astype(float)
    expected = noisy.reshape(30, 4, 60, 4, 3).mean((1, 3))
    assert np.abs(small - expected).mean() < 5
    assert np.abs(small - small[:, ::-1]).mean() > 60  # nothing is turned


@pytest.mark.parametrize("max_size", [60, 61, 4000])
def test_a_frame_no_larger_than_asked_for_is_not_scaled(rng, max_size):
    frame = rng.integers(0, 256, (33, 60, 3), np.uint8)
    assert scaled_down(frame, max_size) is frame


@pytest.mark.parametrize("zoom", [1.0, 1.5, 2.0, 3.0])
def test_zoom_shows_the_short_side_divided_by_it(zoom):
    """On a ramp whose grey level is the column, the crop's span is that of the columns it shows."""
    frame = np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (240, 1, 3))
    crop = resize_and_crop(frame, 40, (0.5, 0.5), zoom).astype(float)
    assert crop.shape == (40, 40, 3)
    span = (crop[20, 30, 0] - crop[20, 10, 0]) / 20 * 40
    assert span == pytest.approx(240 / zoom, rel=0.03)
    assert crop[20, 19:21, 0].mean() == pytest.approx(119.5, abs=4)


def test_zoom_enlarges_nothing(rng):
    frame = rng.integers(0, 256, (40, 60, 3), np.uint8)
    assert np.array_equal(resize_and_crop(frame, 32, (0, 0), 9.0), frame[:32, :32])
    plain = resize_and_crop(frame, 64, (0.2, 0.7))
    assert np.array_equal(resize_and_crop(frame, 64, (0.2, 0.7), 9.0), plain)


@pytest.mark.parametrize("dtype", ["float64", "uint16", "int64", "bool"])
def test_other_numbers_than_uint8_are_no_frames(dtype):
    with pytest.raises(ValueError, match=f"{dtype}, expected uint8"):
        to_float(np.zeros((1, 8, 8, 3), dtype))
