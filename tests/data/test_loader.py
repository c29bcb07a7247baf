import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mg.data import TrainingClips, VideoError, to_uint8, training_batches
from mg.data.loader import random_lengths

from .sample_videos import NUM_FILES, write_csv


def training_batches_of(folder, csv_path=None, **arguments):
    places = ("rank", "world_size", "start_step", "start_item")
    place = {key: arguments.pop(key) for key in places if key in arguments}
    settings = {"batch_size": 2, "num_frames": 4, "image_size": 16, "seed": 5}
    settings |= {"random_crop": False, "num_workers": 0, "video_folder": str(folder)}
    settings["csv_path"] = str(csv_path or folder / "index.csv")
    return training_batches(TrainingClips(**(settings | arguments)), **place)


def batches_of(folder, count, **arguments):
    with training_batches_of(folder, **arguments) as batches:
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


def test_a_run_goes_on_with_other_batch_and_world_sizes_without_repeating_or_losing_items(dataset):
    fixed = RANDOM | {"mixed_strategy": "video_only"}  # the length is drawn for a batch
    whole = batches_of(dataset, 24, batch_size=1, **fixed)
    first = batches_of(dataset, 3, batch_size=4, **fixed)
    ranks = [
        batches_of(
            dataset, 2, batch_size=3, rank=rank, world_size=2, start_step=3, start_item=12, **fixed
        )
        for rank in (0, 1)
    ]
    second = [ranks[0][0], ranks[1][0], ranks[0][1], ranks[1][1]]
    assert names_of(first) + names_of(second) == names_of(whole)
    clips = np.concatenate([batch.video for batch in [*first, *second]])
    assert np.array_equal(clips, np.concatenate([batch.video for batch in whole]))


def test_start_item_is_by_default_where_the_steps_before_ended(dataset):
    default = batches_of(dataset, 3, start_step=4, **RANDOM)
    assert_same(default, batches_of(dataset, 3, start_step=4, start_item=8, **RANDOM))
    other = batches_of(dataset, 3, start_step=4, start_item=9, **RANDOM)
    assert names_of(other)[:-1] == names_of(default)[1:]
    shared = RANDOM | {"start_step": 4, "world_size": 2}
    of_rank = batches_of(dataset, 3, **shared)
    assert_same(of_rank, batches_of(dataset, 3, start_item=16, **shared))


def fingerprint_of(folder, csv_path, **arguments):
    with training_batches_of(folder, csv_path, **arguments) as batches:
        return batches.fingerprint


def test_fingerprint_is_that_of_the_order_of_files(dataset, tmp_path):
    csv_path = write_csv(tmp_path / "a.csv", ["0.mkv", "1.mkv"])
    one = fingerprint_of(dataset, csv_path)
    assert len(one) == 64 and int(one, 16) >= 0
    assert one == fingerprint_of(dataset, csv_path, batch_size=3, num_workers=1, start_step=7)
    with_frames = write_csv(tmp_path / "b.csv", ["0.mkv,20", "1.mkv,20"], "video,frames")
    assert one == fingerprint_of(dataset, with_frames)
    others = [["1.mkv", "0.mkv"], ["0.mkv"], ["0.mkv", "1.mkv", "1.mkv"]]
    all_of_them = {
        fingerprint_of(dataset, write_csv(tmp_path / "c.csv", names)) for names in others
    }
    assert len(all_of_them | {one, fingerprint_of(dataset, csv_path, seed=1)}) == 5


def test_stated_numbers_of_frames_do_not_change_the_batches(dataset, tmp_path):
    rows = [f"{file}.mkv,20" for file in range(NUM_FILES)]
    csv_path = write_csv(tmp_path / "index.csv", rows, "video,frames")
    assert_same(
        batches_of(dataset, 10, **RANDOM), batches_of(dataset, 10, csv_path=csv_path, **RANDOM)
    )


def test_a_video_shorter_than_the_csv_says_is_skipped_and_named(dataset, tmp_path):
    csv_path = write_csv(tmp_path / "index.csv", ["0.mkv,20", "1.mkv,5000"], "video,frames")
    batches = batches_of(dataset, 4, csv_path=csv_path)
    assert set(names_of(batches)) == {"0.mkv"}
    broken = {name: reason for batch in batches for name, reason in batch.broken.items()}
    assert list(broken) == ["1.mkv"]
    assert "1.mkv: ends after 20 frames" in broken["1.mkv"]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("frames", ["", ",20"])
def test_a_video_deleted_during_a_run_is_skipped_and_named(dataset, tmp_path, num_workers, frames):
    for name in ("0.mkv", "1.mkv"):
        (tmp_path / name).write_bytes((dataset / name).read_bytes())
    rows = [f"{name}{frames}" for name in ("0.mkv", "1.mkv")]
    write_csv(tmp_path / "index.csv", rows, "video,frames" if frames else "video")
    with training_batches_of(tmp_path, batch_size=1, num_workers=num_workers) as batches:
        assert set(names_of(islice(batches, 6))) == {"0.mkv", "1.mkv"}
        (tmp_path / "1.mkv").unlink()
        later = list(islice(batches, 10))[6:]  # some were read ahead
    assert set(names_of(later)) == {"0.mkv"}
    broken = {name: reason for batch in later for name, reason in batch.broken.items()}
    assert list(broken) == ["1.mkv"]
    assert "1.mkv: no such video file" in broken["1.mkv"]


def workers_of_this_process():
    return multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("wait", [0, 1.5])  # during a batch, or half way through sending one
def test_a_killed_worker_neither_ends_nor_alters_the_run(dataset, num_workers, wait, caplog):
    large = {"batch_size": 2, "num_frames": 8, "image_size": 256, "random_crop": True}
    expected = batches_of(dataset, 9, **large)
    with training_batches_of(dataset, num_workers=num_workers, **large) as batches:
        got = list(islice(batches, 3))
        time.sleep(wait)
        for worker in workers_of_this_process():
            os.kill(worker.pid, signal.SIGKILL)
        got += islice(batches, 6)
    assert_same(got, expected)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == num_workers
    assert all("killed by signal 9" in warning for warning in warnings)
    assert workers_of_this_process() == []


def test_closing_ends_the_worker_processes_at_once(dataset):
    batches = training_batches_of(dataset, num_workers=2)
    next(batches)
    assert len(workers_of_this_process()) == 2
    began = time.perf_counter()
    batches.close()
    batches.close()
    assert workers_of_this_process() == []
    assert time.perf_counter() - began < 1
    with pytest.raises(ValueError, match="closed"):
        next(batches)


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


def test_zoom_shows_less_of_a_frame_by_another_amount_for_each_clip(dataset):
    """The files' blue darkens from left to right: its span is how much of the width is shown."""
    plain = batches_of(dataset, 6, image_size=8)
    zoomed = batches_of(dataset, 6, image_size=8, max_zoom=2.5)
    assert names_of(plain) == names_of(zoomed)
    shares = []
    for before, after in zip(plain, zoomed, strict=True):
        assert np.array_equal(before.video[:, 1], after.video[:, 1])  # green tells the frames
        spans = [np.ptp(batch.video[:, 2, 0, 0], axis=1) for batch in (before, after)]
        shares += [*(spans[1] / spans[0])]
    assert 0.3 < min(shares) < 0.6 and 0.8 < max(shares) < 1.1


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
    batches = training_batches_of(dataset)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0, expected at least 1"),
        ({"image_size": 4}, "image_size is 4, expected at least 8"),
        ({"sample_stride": 0}, "sample_stride is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"max_zoom": 0.5}, "max_zoom is 0.5, expected at least 1"),
        ({"max_zoom": float("inf")}, "max_zoom is inf, expected a finite number in float32"),
        ({"num_workers": -1}, "num_workers is -1, expected at least 0"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"start_step": -1}, "start_step is -1, expected at least 0"),
        ({"start_item": -1}, "start_item is -1, expected at least 0"),
        ({"mixed_strategy": "mixed"}, "mixed_strategy is 'mixed', expected one of .*"),
        ({"mixed_image_ratio": 1.5}, "mixed_image_ratio is 1.5, expected 0 to 1"),
        ({"mixed_image_ratio": float("nan")}, "mixed_image_ratio is nan, expected a finite number"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to 1 .*, got 2"),
        ({"video_column": "path"}, "no column 'path'; its columns are: video"),
    ],
)
def test_arguments_out_of_range_are_named_before_any_process_starts(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        batches_of(dataset, 1, **arguments)


SCRIPT = """
import sys
from mg.data import TrainingClips, training_batches

if __name__ == "__main__":
    files = {{"csv_path": "{0}/index.csv", "video_folder": "{0}"}}
    clips = TrainingClips(**files, num_frames=4, image_size=8, num_workers={1})
    batches = training_batches(clips)
    next(batches)
    names = {{name.split(".")[0] for name in sys.modules}}
    print(sorted(names & {{"mindspore", "torch"}}))
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
    assert result.stderr == ""
