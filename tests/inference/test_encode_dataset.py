import csv
import fcntl
import os
import shutil

import numpy as np
import pytest
from cli.support import run, waves, write_checkpoint, write_dataset, write_index
from data.sample_videos import write_losslessly
from devices import HAS_HALF
from PIL import Image

from mg import backend
from mg.cli.encode_dataset import command
from mg.data import count_frames, read_frames, to_float, write_video
from mg.latents import LatentDataset
from mg.latents.encoding import draw
from mg.latents.shards import shard_paths
from mg.models.tae.tae import TemporalAutoencoder

from .latent_runs import (
    assert_clean,
    assert_same_latents,
    encode_flags,
    keys_of,
    latents_of,
    rows_of,
)

once = pytest.mark.once

LENGTHS = {"a.mp4": 11, "b.mp4": 8, "c.mp4": 4}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, length) in enumerate(LENGTHS.items()):
        write_video(folder / name, waves(seed, length, height=18, width=22), fps=10)
    write_index(folder, LENGTHS)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tae.safetensors")


@pytest.fixture
def encode(videos, checkpoint, tmp_path, capsys):
    """Runs the command into a folder of this name; gives the folder."""

    def encode(name="out", *, code=0, videos=videos, checkpoint=checkpoint, **changes):
        args = encode_flags(videos, tmp_path / name, checkpoint, **changes)
        outcome = run(command, args, capsys)
        assert outcome.code == code, outcome
        encode.outcome = outcome
        return tmp_path / name

    return encode


def expected_moments(path, checkpoint, indices):
    tae = TemporalAutoencoder(checkpoint)
    with backend.no_grad():
        x = backend.from_numpy(to_float(read_frames(path, indices))[None])
        _, mean, logvar = tae.encode(x, sample=False)
    return backend.to_numpy(mean)[0], backend.to_numpy(logvar)[0]


# What is stored


def test_consecutive_clips_hold_the_networks_moments(encode, videos, checkpoint):
    output = encode(stored="moments", batch_size=2)
    arrays = latents_of(output)
    assert list(arrays) == [("a.mp4", 0), ("a.mp4", 1), ("b.mp4", 0), ("b.mp4", 1), ("c.mp4", 0)]
    for (name, number), array in arrays.items():
        frames = range(4 * number, 4 * number + 4)
        moments = np.concatenate(expected_moments(videos / name, checkpoint, frames))
        np.testing.assert_allclose(array, moments, rtol=1e-5, atol=1e-5)
    for row in rows_of(output):
        assert (row["frames"], row["height"], row["width"], row["fps"]) == (4, 18, 22, 10)
        assert row["start"] == 4 * row["clip"]
        assert (row["stored"], row["scaled"]) == ("moments", False)
    assert_clean(output)
    assert encode.outcome.out == [
        f"Encoded 3 videos, 0 done before, 0 failed. 5 clips: {output}/manifest.parquet"
    ]
    assert (output / "bad.csv").read_text() == "video,reason\n"


@once
def test_by_default_a_video_is_one_clip(encode, videos, checkpoint):
    output = encode(num_frames=None)
    for (name, number), array in latents_of(output).items():
        assert number == 0
        mean, _ = expected_moments(videos / name, checkpoint, range(LENGTHS[name]))
        np.testing.assert_allclose(array, mean, rtol=1e-4, atol=1e-5)
    assert [row["frames"] for row in rows_of(output)] == [*LENGTHS.values()]


@once
def test_a_long_video_is_encoded_piece_by_piece_as_a_whole(encode, tmp_path, checkpoint):
    folder = tmp_path / "long"
    write_dataset(folder, ["a.mp4"], num_frames=75, height=8, width=8)
    output = encode(videos=folder, num_frames=None)
    mean, _ = expected_moments(folder / "a.mp4", checkpoint, range(75))
    np.testing.assert_allclose(latents_of(output)["a.mp4", 0], mean, rtol=1e-4, atol=1e-5)


@once
def test_what_is_left_of_a_video_is_kept_on_demand(encode, videos, checkpoint):
    output = encode(keep_remainder=True, batch_size=3)
    assert [(r["file"], r["start"], r["frames"]) for r in rows_of(output)] == [
        *[("a.mp4", 0, 4), ("a.mp4", 4, 4), ("a.mp4", 8, 3)],
        *[("b.mp4", 0, 4), ("b.mp4", 4, 4), ("c.mp4", 0, 4)],
    ]
    mean, _ = expected_moments(videos / "a.mp4", checkpoint, range(8, 11))
    np.testing.assert_allclose(latents_of(output)["a.mp4", 2], mean, rtol=1e-5, atol=1e-5)


@once
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_number_of_clips_can_be_limited(encode, batch_size):
    output = encode(clips_per_video=1, batch_size=batch_size, num_frames=3, keep_remainder=True)
    assert [(r["file"], r["clip"]) for r in rows_of(output)] == [(name, 0) for name in LENGTHS]
    three = encode("three", clips_per_video=3, batch_size=batch_size, num_frames=3)
    assert [r["clip"] for r in rows_of(three)] == [0, 1, 2, 0, 1, 0]


@once
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_limit_counts_remainders_as_clips(encode, batch_size, limit):
    output = encode(clips_per_video=limit, batch_size=batch_size, num_frames=3, keep_remainder=True)
    whole = {name: -(-frames // 3) for name, frames in LENGTHS.items()}
    expected = [(name, n) for name in LENGTHS for n in range(min(limit, whole[name]))]
    assert [(r["file"], r["clip"]) for r in rows_of(output)] == expected


@once
def test_frames_are_strided_and_cropped(encode, videos, checkpoint):
    output = encode(sample_stride=3, num_frames=2, image_size=16)
    rows = rows_of(output)
    assert [(r["file"], r["start"]) for r in rows] == [
        *[("a.mp4", 0), ("a.mp4", 6), ("b.mp4", 0), ("c.mp4", 0)]
    ]
    for row in rows:
        assert (row["height"], row["width"], row["frames"]) == (16, 16, 2)
        assert row["fps"] == pytest.approx(10 / 3)
    assert latents_of(output)["a.mp4", 1].shape == (2, 1, 8, 8)
    whole = encode("whole", sample_stride=3, num_frames=None)
    mean, _ = expected_moments(videos / "a.mp4", checkpoint, [0, 3, 6, 9])
    np.testing.assert_allclose(latents_of(whole)["a.mp4", 0], mean, rtol=1e-4, atol=1e-5)


@once
def test_samples_of_a_long_video_that_comes_in_pieces_are_those_of_the_whole(encode, tmp_path):
    folder = write_dataset(tmp_path / "videos", ["a.mp4"], num_frames=96, height=16, width=16)
    options = {"videos": folder, "num_frames": None}
    (moments,) = latents_of(encode("moments", stored="moments", **options)).values()
    sampled = encode("sample", stored="sample", **options)
    (row,), (sample,) = rows_of(sampled), latents_of(sampled).values()
    rng = np.random.default_rng((0, int(row["video_sha256"], 16), 0))
    np.testing.assert_array_equal(sample, draw(*np.split(moments, 2), rng))


def test_samples_are_a_function_of_seed_and_content(encode, videos, checkpoint, tmp_path):
    moments, first = latents_of(encode("m", stored="moments")), encode("first", stored="sample")
    for row in rows_of(first):
        key = row["file"], row["clip"]
        mean, logvar = np.split(moments[key], 2)
        rng = np.random.default_rng((0, int(row["video_sha256"], 16), row["clip"]))
        np.testing.assert_array_equal(latents_of(first)[key], draw(mean, logvar, rng))
    reordered = shutil.copytree(videos, tmp_path / "reordered")
    write_index(reordered, reversed(LENGTHS))
    assert_same_latents(first, encode("again", stored="sample", videos=reordered))
    other = latents_of(encode("other", stored="sample", seed=1))
    assert all(np.abs(other[key] - z).max() > 1e-3 for key, z in latents_of(first).items())


@once
def test_latents_can_be_stored_scaled_and_in_half_precision(encode):
    raw = encode("raw")
    scaled = encode("scaled", scaled=True, precision="fp16")
    for one, other in ((False, False), (True, True)):
        items = LatentDataset(raw, scaled=one), LatentDataset(scaled, scaled=other)
        for first, second in zip(*items, strict=True):
            np.testing.assert_allclose(second["latents"], first["latents"], rtol=3e-3, atol=3e-3)
    assert {array.dtype for array in latents_of(scaled).values()} == {np.dtype(np.float16)}


@once
def test_shards_are_of_the_size_asked(encode, tmp_path):
    wide = write_checkpoint(tmp_path / "wide.safetensors", z_channels=512)
    folder = write_dataset(tmp_path / "videos", ["a.mp4"], num_frames=24)
    options = {"checkpoint": wide, "videos": folder, "num_frames": 8}
    output = encode(**options, shard_size=1)  # a clip has half of it
    sizes = sorted(path.stat().st_size for path in shard_paths(output))
    assert len(sizes) == 2 and 2**20 <= sizes[1] < 2**20 + 5000
    every = encode("every", **options, shard_minutes=0)
    assert len(shard_paths(every)) == 4  # with that which says that the file is done
    assert_same_latents(output, every)


# The same input twice


@once
def test_the_same_content_is_encoded_once(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    (folder / "deeper").mkdir()
    shutil.copy(folder / "a.mp4", folder / "deeper" / "copy.mp4")
    names = ["a.mp4", "b.mp4", "./a.mp4", "a.mp4", "deeper/copy.mp4", str(folder / "a.mp4")]
    write_index(folder, names)
    output = encode(videos=folder)
    assert sorted(keys_of(output)) == sorted({row["key"] for row in rows_of(output)})
    assert len(keys_of(output)) == 4  # two of a.mp4, two of b.mp4
    assert {row["file"] for row in rows_of(output)} == set(names)
    arrays = latents_of(output)
    for name in names[2:]:
        np.testing.assert_array_equal(arrays[name, 1], arrays["a.mp4", 1])
    assert "Encoded 5 videos" in encode.outcome.out[0]


@once
def test_a_second_run_encodes_nothing_again(encode):
    output = encode()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    encode()
    assert "Encoded 0 videos, 3 done before, 0 failed. 5 clips" in encode.outcome.out[0]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@once
def test_another_csv_adds_to_what_is_there(encode, videos, tmp_path):
    whole = encode("whole")
    (tmp_path / "first.csv").write_text("video\nb.mp4\n")
    output = encode(csv_path=tmp_path / "first.csv")
    assert {row["file"] for row in rows_of(output)} == {"b.mp4"}
    encode()
    assert "Encoded 2 videos, 1 done before" in encode.outcome.out[0]
    assert_same_latents(whole, output)


@once
def test_a_copy_under_another_name_is_known_in_a_later_run(encode, videos, tmp_path):
    output = encode()
    folder = tmp_path / "moved"
    folder.mkdir()
    shutil.copy(videos / "a.mp4", folder / "new.mp4")
    write_index(folder, ["new.mp4"])
    keys = sorted(keys_of(output))
    encode(videos=folder)
    assert sorted(keys_of(output)) == keys
    arrays = latents_of(output)
    assert len(arrays) == 7
    np.testing.assert_array_equal(arrays["new.mp4", 1], arrays["a.mp4", 1])


@once
def test_a_touched_file_is_the_same_and_a_changed_one_is_refused(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    output = encode(videos=folder)
    before = latents_of(output)
    os.utime(folder / "a.mp4")
    shutil.copy(folder / "b.mp4", folder / "c.mp4")
    encode(videos=folder, code=1)
    assert "Encoded 0 videos, 2 done before, 1 failed" in encode.outcome.out[0]
    assert "c.mp4,is not the video whose latents are stored" in bad_of(output)
    after = latents_of(output)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[key], before[key]) for key in before)


@once
def test_a_file_may_be_older_than_1970(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    os.utime(folder / "a.mp4", ns=(-1, -1))
    for expected in ("Encoded 3 videos, 0 done", "Encoded 0 videos, 3 done"):
        encode(videos=folder)
        assert expected in encode.outcome.out[0]


@once
def test_a_video_that_is_encoded_may_be_gone(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    output = encode(videos=folder)
    (folder / "a.mp4").unlink()
    encode(videos=folder)
    assert "3 done before" in encode.outcome.out[0]
    assert len(rows_of(output)) == 5


@once
def test_a_lost_shard_is_encoded_anew(encode):
    whole, output = encode("whole"), encode(shard_minutes=0)
    lost = shard_paths(output)
    for path in lost[::2]:
        path.unlink()
    encode(shard_minutes=0)
    assert_same_latents(whole, output)
    assert sorted(keys_of(output)) == sorted(keys_of(whole))


@once
def test_a_lost_shard_of_videos_that_are_not_asked_for_is_told(encode, videos, tmp_path, caplog):
    folder = shutil.copytree(videos, tmp_path / "videos")
    output = encode(videos=folder)
    files = {row["file"] for row in rows_of(output)}
    for path in shard_paths(output):
        path.unlink()
    write_index(folder, ["a.mp4"])
    encode(videos=folder)
    assert {row["file"] for row in rows_of(output)} == {"a.mp4"}
    said = [record.getMessage() for record in caplog.records]
    assert sum(f"{len(files) - 1} videos, " in line and "shards are gone" in line for line in said)


# What is wrong


def bad_of(output):
    return (output / "bad.csv").read_text()


@once
def test_broken_videos_are_listed_and_the_rest_goes_on(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    (folder / "text.mp4").write_text("I am no video\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    write_video(folder / "short.mp4", waves(9, 3), fps=10)
    write_video(folder / "tiny.mp4", waves(9, 5, height=1, width=6), fps=10)
    bad = ["text.mp4", "empty.mp4", "folder.mp4", "short.mp4", "tiny.mp4", "none.mp4", "../x"]
    bad += ["pipe.mp4", "/dev/zero"]
    write_index(folder, ["text.mp4", "a.mp4", *bad[1:], "c.mp4"])
    output = encode(videos=folder, code=1)
    assert "Encoded 2 videos, 0 done before, 9 failed. 3 clips" in encode.outcome.out[0]
    with (output / "bad.csv").open(newline="") as file:
        reasons = {row["video"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == sorted(bad)
    for name, reason in (
        ("text.mp4", "cannot be read"),
        ("empty.mp4", "is empty"),
        ("folder.mp4", "not a file"),
        ("pipe.mp4", "not a file"),
        ("/dev/zero", "not a file"),
        ("short.mp4", "shorter than a clip of 4 frames"),
        ("tiny.mp4", "6x1 pixels"),
        ("none.mp4", "no such video file"),
        ("../x", "no such video file"),
    ):
        assert reason in reasons[name]
    assert {row["file"] for row in rows_of(output)} == {"a.mp4", "c.mp4"}
    assert not any("Traceback" in line for line in encode.outcome.err)
    again = encode(videos=folder, code=1)
    assert "Encoded 0 videos, 2 done before, 9 failed. 3 clips" in encode.outcome.out[0]
    assert bad_of(again).count("\n") == 10


@once
def test_a_video_that_breaks_on_its_way_leaves_no_row(encode, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_losslessly(folder / "cut.avi", waves(1, 40, 32, 32))
    data = (folder / "cut.avi").read_bytes()
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(600)
    (folder / "cut.avi").write_bytes(data[:middle] + noise + data[middle + 600 :])
    write_video(folder / "a.mp4", waves(0, 8, 32, 32), fps=10)
    write_index(folder, ["cut.avi", "a.mp4"])
    output = encode(videos=folder, code=1, shard_minutes=0)
    assert len(keys_of(output)) > 2  # of cut.avi some were written already
    assert {row["file"] for row in rows_of(output)} == {"a.mp4"}
    assert bad_of(output).startswith("video,reason\ncut.avi,")
    assert len(LatentDataset(output)) == 2


@once
def test_a_directory_of_other_settings_is_refused(encode, videos, tmp_path):
    output = encode(stored="sample")
    other = write_checkpoint(tmp_path / "other.safetensors", seed=1)
    scaled = write_checkpoint(tmp_path / "scaled.safetensors", shift_factor=0.5)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    for changes, expected in (
        ({"num_frames": 2}, "num_frames is 4, not 2"),
        ({"stored": "mean"}, "not"),
        ({"seed": 1}, "seed is 0, not 1"),
        ({"precision": "fp16"}, "precision is 'fp32', not 'fp16'"),
        ({"image_size": 8}, "image_size is None, not 8"),
        ({"keep_remainder": True}, "keep_remainder is False, not True"),
        ({"checkpoint": other}, "checkpoint's SHA-256 is"),
        ({"checkpoint": scaled}, "shift_factor is 0.0609, not 0.5"),
    ):
        encode(code=2, **{"stored": "sample", **changes})
        encode.outcome.assert_refused(str(output), expected, "another output_path")
        assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    encode(stored="sample", shard_size=3, batch_size=2)


@once
def test_another_run_in_the_directory_is_refused(encode):
    output = encode()
    for mode in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        with (output / ".lock").open("a") as file:
            fcntl.flock(file, mode)
            encode(code=2)
            encode.outcome.assert_refused(str(output), "another process writes")
    encode()


@once
def test_a_damaged_shard_is_named(encode):
    output = encode(shard_minutes=0)
    path = shard_paths(output)[1]
    path.write_bytes(path.read_bytes()[:-4])
    encode(code=2)
    encode.outcome.assert_refused(path.name, "not a whole shard")


@once
def test_a_file_that_is_empty_now_is_not_taken_for_the_video_that_it_was(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    write_index(folder, ["a.mp4", "c.mp4"])
    encode(videos=folder)
    (folder / "a.mp4").write_bytes(b"")
    output = encode(videos=folder, code=1)
    assert "a.mp4,is not the video whose latents are stored under this name" in bad_of(output)


@once
def test_videos_of_which_none_is_there_are_told_in_one_line(encode, tmp_path, caplog):
    write_index(tmp_path, ["a.mp4", "b.mp4"])
    encode(videos=tmp_path, code=2)
    assert "the first: a.mp4: no such video file" in encode.outcome.err[-1]
    assert not caplog.records


@once
def test_no_readable_video_is_an_error(encode, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_text("no video")
    write_index(folder, ["a.mp4", "b.mp4"])
    output = encode(videos=folder, code=2)
    assert "none of its 2 videos can be encoded; the first: a.mp4: " in encode.outcome.err[-1]
    assert not any("Traceback" in line for line in encode.outcome.err)
    assert bad_of(output).count("\n") == 3
    assert not shard_paths(output)
    assert_clean(output)


@once
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"checkpoint": "none.safetensors"}, ("none.safetensors", "no such checkpoint")),
        ({"csv_path": "none.csv"}, ("none.csv", "no such CSV file")),
        ({"video_column": "path"}, ("no column 'path'",)),
        ({"num_frames": 0}, ("num_frames is 0", "at least 1")),
        ({"image_size": 7}, ("image_size is 7", "at least 8")),
        ({"sample_stride": 0}, ("sample_stride is 0",)),
        ({"batch_size": 0}, ("batch_size is 0",)),
        ({"clips_per_video": 0}, ("clips_per_video is 0",)),
        ({"shard_size": 0}, ("shard_size is 0",)),
        ({"shard_minutes": -1}, ("shard_minutes is -1",)),
        ({"seed": -1}, ("seed is -1",)),
        ({"stored": "all"}, ("stored", "all")),
        ({"precision": "bf16"}, ("precision", "bf16")),
        ({"stored": "moments", "scaled": True}, ("scaled is True", "moments")),
        ({"num_frames": None, "keep_remainder": True}, ("keep_remainder", "num_frames")),
        ({"num_frames": None, "clips_per_video": 2}, ("clips_per_video", "num_frames")),
        ({"dtype": "fp8"}, ("'fp8'",)),
        ({"frames": 3}, ("frames",)),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_is_written(encode, changes, expected):
    output = encode(code=2, **changes)
    encode.outcome.assert_refused(*expected)
    assert not output.exists()


@once
def test_a_file_where_the_output_should_be_is_named(encode, tmp_path):
    (tmp_path / "out").write_text("kept")
    encode(code=2)
    encode.outcome.assert_refused(str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "kept"


@once
def test_numbers_beyond_half_precision_are_listed(encode, videos, tmp_path):
    huge = write_checkpoint(tmp_path / "huge.safetensors", scaling_factor=1e9)
    output = encode(checkpoint=huge, scaled=True, precision="fp16", code=2)
    assert "its latents are not finite numbers in float16" in bad_of(output)


@once
def test_real_clips_come_back_with_their_true_lengths(encode, manifest, tmp_path, test_data):
    clips = sorted(manifest, key=lambda path: path.stat().st_size)[:4]
    (tmp_path / "real.csv").write_text("video\n" + "\n".join(path.name for path in clips) + "\n")
    output = encode(
        videos=test_data / "clips", csv_path=tmp_path / "real.csv", num_frames=None, image_size=16
    )
    frames = {row["file"]: row["frames"] for row in rows_of(output)}
    assert frames == {path.name: count_frames(path) for path in clips}


@once
def test_a_changed_file_of_the_same_size_is_refused(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    output = encode(videos=folder)
    path = folder / "c.mp4"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(0, 0))
    encode(videos=folder, code=1)
    assert "c.mp4,is not the video whose latents are stored" in bad_of(output)


@once
def test_a_directory_of_any_other_deciding_setting_is_refused(encode):
    encode()
    for changes, expected in (
        *([({"dtype": "bf16"}, "dtype is 'fp32', not 'bf16'")] if HAS_HALF else []),
        ({"use_tile": True}, "use_tile is False, not True"),
        ({"sample_stride": 2}, "sample_stride is 1, not 2"),
        ({"clips_per_video": 1}, "clips_per_video is None, not 1"),
    ):
        encode(code=2, **changes)
        encode.outcome.assert_refused(expected, "another output_path")


@once
def test_where_no_sample_is_drawn_the_seed_may_change(encode):
    encode(stored="mean", seed=0)
    encode(stored="mean", seed=1)
    assert "3 done before" in encode.outcome.out[0]


def test_clips_are_encoded_in_tiles_on_demand(encode, tmp_path, checkpoint):
    write_video(tmp_path / "long.mp4", waves(0, 40, height=8, width=8), fps=10)
    write_index(tmp_path, ["long.mp4"])
    output = encode(videos=tmp_path, num_frames=40, use_tile=True)
    tae = TemporalAutoencoder(checkpoint, use_tile=True)
    x = to_float(read_frames(tmp_path / "long.mp4", range(40)))[None]
    expected = backend.to_numpy(tae.encode(x, sample=False)[0])[0]
    np.testing.assert_allclose(latents_of(output)["long.mp4", 0], expected, atol=1e-5)


@once
def test_an_image_whose_header_claims_too_much_is_one_bad_file(encode, videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    Image.fromarray(waves(0, 1, height=16, width=16)[0]).save(folder / "a.jpg")
    data = bytearray((folder / "a.jpg").read_bytes())
    place = data.find(b"\xff\xc0")  # start of frame: its height and width follow
    data[place + 5 : place + 9] = b"\xff" * 4
    (folder / "a.jpg").write_bytes(data)
    write_index(folder, ["a.jpg", "c.mp4"])
    output = encode(videos=folder, code=1)
    assert bad_of(output).count("a.jpg") == 1
    assert {name for name, _ in latents_of(output)} == {"c.mp4"}
