import numpy as np
import pytest

from mg.data import load_clip, read_frames, to_uint8
from mg.data.clip import read_clip

from .sample_videos import FRAMES_PER_FILE, labelled_frames, write_losslessly


def frame_numbers(video):
    """Which frames of a labelled video a clip (c t h w) holds."""
    return (to_uint8(video)[:, 0, 0, 1] // 10).tolist()


def test_without_rng_a_clip_is_the_first_frames_and_the_centre(dataset):
    video = load_clip(dataset / "3.mkv", 4, 20, sample_stride=2)
    assert video.dtype == np.float32
    assert video.shape == (3, 4, 20, 20)
    assert np.array_equal(to_uint8(video), labelled_frames(3)[:8:2, :, 4:24])


def test_whole_video_at_its_own_size(dataset):
    video = load_clip(dataset / "1.mkv", None, None)
    assert np.array_equal(to_uint8(video), labelled_frames(1))
    assert frame_numbers(load_clip(dataset / "1.mkv", None, 8, sample_stride=7)) == [0, 7, 14]


@pytest.mark.parametrize(
    ("available", "num_frames", "stride", "expected"),
    [
        (3, 8, 1, [0, 1, 2, 1, 0, 1, 2, 1]),
        (1, 3, 2, [0, 0, 0]),
        (6, 5, 2, [0, 2, 4, 2, 0]),
        (5, 3, 2, [0, 2, 4]),
        (2, 3, 4, [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("random", [False, True])
def test_short_videos_are_mirrored(tmp_path, available, num_frames, stride, expected, random):
    write_losslessly(tmp_path / "a.mkv", labelled_frames(0, available))
    rng = np.random.default_rng(1) if random else None
    clip = load_clip(tmp_path / "a.mkv", num_frames, 16, sample_stride=stride, rng=rng)
    assert frame_numbers(clip) == expected


def test_random_starts_cover_the_video_and_keep_the_stride(dataset, rng):
    starts = set()
    for _ in range(80):
        clip = load_clip(dataset / "0.mkv", 4, 8, sample_stride=3, rng=rng)
        numbers = frame_numbers(clip)
        assert np.diff(numbers).tolist() == [3, 3, 3]
        starts.add(numbers[0])
    assert starts == set(range(FRAMES_PER_FILE - 9))


def test_random_crop_and_flip_are_the_same_for_all_frames_and_cover_the_width(dataset, rng):
    lefts, flips = set(), 0
    for _ in range(100):
        clip = load_clip(dataset / "0.mkv", 2, 20, rng=rng, random_crop=True, random_flip=True)
        blue = to_uint8(clip)[..., 2]
        assert (blue == blue[0, 0]).all()
        row = blue[0, 0]
        flipped = row[0] < row[-1]
        flips += flipped
        expected = labelled_frames(0)[0, 0, :, 2]
        left = expected.tolist().index(row[-1] if flipped else row[0])
        assert np.array_equal(row[::-1] if flipped else row, expected[left : left + 20])
        lefts.add(left)
    assert lefts == set(range(9))
    assert 30 < flips < 70


def test_same_generator_gives_the_same_clip(dataset):
    clips = [
        load_clip(
            dataset / "2.mkv",
            3,
            16,
            rng=np.random.default_rng(7),
            random_crop=True,
            random_flip=True,
        )
        for _ in range(2)
    ]
    assert np.array_equal(*clips)


def test_real_clips_load_at_any_size(manifest):
    for path, row in manifest.items():
        clip = load_clip(path, 9, 64, sample_stride=2)
        assert clip.shape == (3, 9, 64, 64), row["file"]
        assert np.abs(clip).max() <= 1
        assert clip.std() > 0.01 or "bbb" in row["file"]  # that one fades in from black


def test_crop_of_a_real_clip_shows_its_centre(manifest):
    path = next(path for path in manifest if path.suffix == ".avi")
    whole = read_frames(path, [0])[0]
    clip = to_uint8(load_clip(path, 1, whole.shape[0]))[0]
    left = (whole.shape[1] - whole.shape[0]) // 2
    assert np.array_equal(clip, whole[:, left : left + whole.shape[0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0, expected at least 1"),
        ({"image_size": 7}, "image_size is 7, expected at least 8"),
        ({"image_size": 0}, "image_size is 0, expected at least 8"),
        ({"sample_stride": 0}, "sample_stride is 0, expected at least 1"),
        ({"random_flip": True}, "need a random generator"),
        ({"random_crop": True}, "need a random generator"),
    ],
)
def test_arguments_out_of_range_are_named(dataset, arguments, message):
    arguments = {"num_frames": 4, "image_size": 16} | arguments
    with pytest.raises(ValueError, match=message):
        load_clip(dataset / "0.mkv", **arguments)


def test_zooms_are_spread_evenly_over_their_logarithms(tmp_path, rng):
    frame = np.repeat(3 * np.arange(80, dtype=np.uint8)[None, :, None], 80, 0).repeat(3, 2)
    write_losslessly(tmp_path / "ramp.mkv", frame[None])
    zooms = []
    for _ in range(200):
        frames = read_clip(tmp_path / "ramp.mkv", 1, 8, rng=rng, max_zoom=4.0)
        steps = np.diff(frames[0, 4, 1:-1, 0].astype(float))
        zooms.append(10 / (steps.mean() / 3))
    assert np.allclose(np.quantile(zooms, [0, 0.25, 0.5, 0.75, 1]), 4 ** np.linspace(0, 1, 5), 0.12)
