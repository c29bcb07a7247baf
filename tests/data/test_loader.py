import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mg.data import VideoError, to_uint8, training_batches
from mg.data.loader import random_lengths

from .sample_videos import NUM_FILES, write_csv


def batches_of(folder, count, **arguments):
    defaults = {"batch_size": 2, "num_frames": 4, "image_size": 16, "seed": 5}
    csv_path = arguments.pop("csv_path", folder / "index.csv")
    with training_batches(csv_path, folder, **(defaults | arguments)) as batches:
        return list(islice(batches, count))


def names_of(batches):
    return [name for batch in batches for name in batch.names]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.names == b.names
        assert a.broken == b.broken
        assert np.array_equal(a.video, b.video)


RANDOM = {
    "random_crop": True,
    "random_flip": True,
    "mixed_strategy": "mixed_video_random",
    "num_frames": 10,
}


@pytest.fixture
def broken_dataset(dataset, tmp_path):
    """Two of five files readable: a missing one, an empty one and a text among them."""
    for name in ("0.mkv", "1.mkv"):
        (tmp_path / name).write_bytes((dataset / name).read_bytes())
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("I am no video\n" * 50)
    write_csv(tmp_path / "index.csv", ["0.mkv", "none.mp4", "empty.mp4", "1.mkv", "text.mp4"])
    return tmp_path


def test_batch_holds_the_frames_of_the_files_it_names(dataset):
    for batch in batches_of(dataset, 5, batch_size=3, sample_stride=2):
        assert batch.video.dtype == np.float32
        assert batch.video.shape == (3, 3, 4, 16, 16)
        assert type(batch.video) is np.ndarray
        assert batch.broken == {}
        frames = to_uint8(batch.video)[:, :, 0, 0]
        assert [f"{red // 40}.mkv" for red in frames[:, 0, 0]] == batch.names
        assert (np.diff(frames[:, :, 1].astype(int), axis=1) == 20).all()


def test_order_and_content_do_not_depend_on_worker_processes(dataset):
    alone = batches_of(dataset, 12, num_workers=0, **RANDOM)
    for num_workers in (1, 2):
        assert_same(alone, batches_of(dataset, 12, num_workers=num_workers, **RANDOM))


def test_start_step_goes_on_exactly(dataset):
    whole = batches_of(dataset, 9, **RANDOM)
    assert_same(whole[5:], batches_of(dataset, 4, start_step=5, **RANDOM))
    assert_same(whole[3:7], batches_of(dataset, 4, start_step=3, num_workers=2, **RANDOM))


def test_two_ranks_see_together_what_one_rank_sees(dataset):
    single = batches_of(dataset, 6, batch_size=4, **RANDOM)
    ranks = [
        batches_of(dataset, 6, batch_size=2, rank=rank, world_size=2, **RANDOM) for rank in (0, 1)
    ]
    for whole, first, second in zip(single, *ranks, strict=True):
        assert whole.names == first.names + second.names
        assert np.array_equal(whole.video, np.concatenate([first.video, second.video]))


def test_each_file_occurs_once_an_epoch_and_epochs_differ(dataset):
    names = names_of(batches_of(dataset, 8 * NUM_FILES, batch_size=1))
    epochs = [tuple(names[start : start + NUM_FILES]) for start in range(0, len(names), NUM_FILES)]
    assert all(sorted(epoch) == [f"{file}.mkv" for file in range(NUM_FILES)] for epoch in epochs)
    assert len(set(epochs)) > 4


def test_seed_decides(dataset):
    first, again, other = (batches_of(dataset, 6, seed=seed, **RANDOM) for seed in (1, 1, 2))
    assert_same(first, again)
    assert names_of(first) != names_of(other)


def test_same_file_gives_another_clip_in_the_next_epoch(dataset, tmp_path):
    csv_path = write_csv(tmp_path / "one.csv", ["0.mkv"])
    clips = batches_of(dataset, 6, batch_size=1, csv_path=csv_path)
    assert len({clip.video.tobytes() for clip in clips}) > 2


def lengths_of(dataset, count, **arguments):
    return Counter(
        batch.video.shape[2] for batch in batches_of(dataset, count, batch_size=1, **arguments)
    )


def test_strategies_give_their_lengths(dataset):
    assert lengths_of(dataset, 5, mixed_strategy="video_only") == {4: 5}
    assert lengths_of(dataset, 5, mixed_strategy="image_only") == {1: 5}
    for ratio in (0, 1):
        mixed = {"mixed_strategy": "mixed_video_image", "mixed_image_ratio": ratio}
        assert lengths_of(dataset, 5, **mixed) == {1 if ratio else 4: 5}


def test_image_ratio_is_the_share_of_image_batches(dataset):
    lengths = lengths_of(
        dataset, 400, mixed_strategy="mixed_video_image", mixed_image_ratio=0.25, image_size=8
    )
    assert set(lengths) == {1, 4}
    assert 70 < lengths[1] < 130


def test_random_lengths_are_uniform_over_a_handful(dataset):
    assert random_lengths(32) == [1, 8, 16, 24, 32]
    assert random_lengths(20) == [1, 8, 16, 20]
    assert random_lengths(4) == [1, 4]
    assert random_lengths(1) == [1]
    lengths = lengths_of(
        dataset, 300, mixed_strategy="mixed_video_random", num_frames=16, image_size=8
    )
    assert set(lengths) == {1, 8, 16}
    assert all(70 < count < 130 for count in lengths.values())


def test_images_and_videos_mix_in_one_data_set(dataset, tmp_path):
    Image.new("RGB", (30, 40), (9, 9, 9)).save(tmp_path / "a.png")
    csv_path = write_csv(tmp_path / "index.csv", ["a.png", str(dataset / "0.mkv")])
    (batch,) = batches_of(tmp_path, 1, csv_path=csv_path)
    assert sorted(batch.names) == sorted(["a.png", str(dataset / "0.mkv")])
    assert (to_uint8(batch.video)[batch.names.index("a.png")] == 9).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_files_are_skipped_and_named(broken_dataset, num_workers):
    batches = batches_of(broken_dataset, 5, num_workers=num_workers)
    assert set(names_of(batches)) == {"0.mkv", "1.mkv"}
    broken = {name: reason for batch in batches for name, reason in batch.broken.items()}
    assert set(broken) == {"none.mp4", "empty.mp4", "text.mp4"}
    assert "no such video file" in broken["none.mp4"]
    assert "is empty" in broken["empty.mp4"]
    assert "cannot be read" in broken["text.mp4"]


def test_readable_files_are_all_seen_in_spite_of_broken_ones(broken_dataset):
    names = names_of(batches_of(broken_dataset, 5, batch_size=1))
    assert set(names) == {"0.mkv", "1.mkv"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_readable_is_one_clear_line(tmp_path, num_workers):
    (tmp_path / "a.mp4").write_text("no video")
    write_csv(tmp_path / "index.csv", ["a.mp4", "b.mp4"])
    with pytest.raises(VideoError, match="none of the 2 videos can be read; the first: ") as caught:
        batches_of(tmp_path, 1, num_workers=num_workers)
    assert "\n" not in str(caught.value)
    assert not getattr(caught.value, "__notes__", [])
    assert caught.value.__suppress_context__


def test_closed_batches_say_so_and_close_twice(dataset):
    batches = training_batches(
        dataset / "index.csv", dataset, batch_size=1, num_frames=1, image_size=8
    )
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames: expected at least 1, got 0"),
        ({"image_size": 4}, "image_size: expected at least 8, got 4"),
        ({"sample_stride": 0}, "sample_stride: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"num_workers": -1}, "num_workers: expected at least 0, got -1"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"start_step": -1}, "start_step: expected at least 0, got -1"),
        ({"mixed_strategy": "mixed"}, "mixed_strategy: expected one of .*, got 'mixed'"),
        ({"mixed_image_ratio": 1.5}, "mixed_image_ratio: expected 0 to 1, got 1.5"),
        ({"mixed_image_ratio": float("nan")}, "mixed_image_ratio: expected 0 to 1, got nan"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to 1 .*, got 2"),
        ({"video_column": "path"}, "no column 'path'; its columns are: video"),
    ],
)
def test_arguments_out_of_range_are_named_before_any_process_starts(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        batches_of(dataset, 1, **arguments)


SCRIPT = """
import sys
from mg.data import training_batches

if __name__ == "__main__":
    batches = training_batches(
        "{0}/index.csv", "{0}", batch_size=1, num_frames=4, image_size=8, num_workers={1}
    )
    next(batches)
    names = {{name.split(".")[0] for name in sys.modules}}
    print(sorted(names & {{"mindspore", "torch", "jax"}}))
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_needs_no_framework_and_ends_in_silence_when_not_closed(
    dataset, tmp_path, num_workers
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(dataset, num_workers))
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"
    noise = [line for line in result.stderr.splitlines() if "jax profiler" not in line]
    assert noise == []
