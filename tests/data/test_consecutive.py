"""Reading a video where nothing may be missing."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from data.sample_sound import write_with_sound
from data.sample_videos import write_losslessly, write_moving
from mg.data import VideoError, read_chunks, read_frames
from mg.data.consecutive import read_consecutive

pytestmark = pytest.mark.once


def read(path, *args, **options):
    return np.concatenate([*read_consecutive(path, *args, **options)])


@pytest.mark.parametrize("stride", [1, 3])
def test_pieces_are_the_frames_read_by_number(tmp_path, rng, stride):
    frames = rng.integers(0, 256, (11, 16, 20, 3), np.uint8)
    write_losslessly(tmp_path / "a.mkv", frames)
    pieces = [*read_consecutive(tmp_path / "a.mkv", 2, sample_stride=stride)]
    assert {len(piece) for piece in pieces[:-1]} == {2}
    assert np.array_equal(np.concatenate(pieces), frames[::stride])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_whose_end_is_missing_is_an_error(tmp_path, name):
    whole = tmp_path / name
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    write_moving(whole, "libx264", muxer=options)
    assert len(read(whole, 8)) == 50
    content = whole.read_bytes()
    (tmp_path / f"cut-{name}").write_bytes(content[: len(content) * 2 // 3])
    said = r"\d+ frames were read, to second .* its end is missing|Invalid data"  # PyAV 18|17
    with pytest.raises(VideoError, match=said):
        read(tmp_path / f"cut-{name}", 8)


def test_a_slow_last_frame_is_not_missing(tmp_path):
    times = [0, 40, 80, 5000]
    write_moving(tmp_path / "a.mkv", "libx264", num_frames=4, times=times)
    assert len(read(tmp_path / "a.mkv", 8)) == 4


@pytest.mark.parametrize("name", ["late.mkv", "long.flv"])
def test_pictures_that_begin_late_or_end_before_the_sound_are_whole(tmp_path, caplog, name):
    times = [Fraction(n, 25) + (name == "late.mkv") for n in range(100)]
    write_with_sound(tmp_path / name, seconds=8.0, times=times)
    assert len(read(tmp_path / name, 8)) == 100
    assert sum(len(chunk.frames) for chunk in read_chunks(tmp_path / name, 8)) == 100
    assert caplog.records == []


def test_a_cut_photograph_is_an_error(tmp_path, rng):
    whole, cut = tmp_path / "a.jpg", tmp_path / "cut.jpg"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(whole)
    assert np.array_equal(read(whole, 1), np.stack([*read_frames(whole, [0])]))
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(VideoError, match="cut.jpg: image file is truncated"):
        read(cut, 1)
