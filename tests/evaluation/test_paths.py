from pathlib import Path

import numpy as np
import pytest

from mg.evaluation.paths import reconstruction_paths, side_by_side_path
from mg.files import atomic_path

pytestmark = pytest.mark.once

OUTPUT = Path("/some/output")


def files_of(names):
    return [
        file
        for path in reconstruction_paths(OUTPUT, names).values()
        for file in (path, side_by_side_path(path))
    ]


def assert_apart_and_inside(names):
    files = files_of(names)
    assert len(files) == len(set(files)) == 2 * len(set(names))
    for file in files:
        assert ".." not in file.parts
        assert OUTPUT in file.parents
        assert file.suffix == ".mp4"


def test_reconstruction_is_named_as_the_video_and_keeps_its_folders():
    names = ["a.mp4", "dance/b.avi", "c"]
    assert reconstruction_paths(OUTPUT, names) == {
        "a.mp4": OUTPUT / "a.mp4",
        "dance/b.avi": OUTPUT / "dance" / "b.avi.mp4",
        "c": OUTPUT / "c.mp4",
    }
    assert side_by_side_path(OUTPUT / "a.mp4") == OUTPUT / "a_side_by_side.mp4"


def test_names_as_long_as_a_file_system_takes_leave_room_for_what_is_added(tmp_path):
    names = ["日" * 80 + ".mp4", "日" * 80 + ".avi", "日" * 81 + ".mkv"]
    files = [
        file
        for path in reconstruction_paths(tmp_path, names).values()
        for file in (path, side_by_side_path(path))
    ]
    for file in files:
        with atomic_path(file) as temporary:
            temporary.touch()
    assert len(files) == len(set(files))


@pytest.mark.parametrize(
    "names",
    [
        ["a.mp4", "a.avi", "a.webm", "a"],
        ["a.avi", "a.avi.mp4"],
        ["a.avi.mp4", "a.avi"],
        ["a.mp4", "a_side_by_side.mp4"],
        ["a_side_by_side.mp4", "a.mp4"],
        ["a.mp4", "a_side_by_side.mp4", "a_side_by_side_side_by_side.mp4"],
        ["a.mp4", "../a.mp4", "../../a.mp4", "/a.mp4", "./a.mp4"],
        ["x/a.mp4", "/x/a.mp4", "x/../a.mp4", "a.mp4"],
        ["a.mp4", "../a.mp4", "a_2.mp4"],
        ["..", "/", "."],
        [".mp4", "a/.mp4"],
        ["a.MP4", "a.mp4"],
        ["räder.mp4", "名.mp4", "with space.mp4"],
    ],
)
def test_names_that_could_meet_stay_apart_and_inside(names):
    assert_apart_and_inside(names)


def test_any_names_stay_apart_and_inside(rng):
    parts = ["a", "a_side_by_side", "a_2", "b", "..", ".", ""]
    suffixes = ["", ".mp4", ".avi", ".avi.mp4", "_side_by_side.mp4"]
    for _ in range(200):
        names = [
            "/".join(
                rng.choice(parts, rng.integers(0, 3)).tolist()
                + ["a" if rng.random() < 0.8 else "b"]
            )
            + str(rng.choice(suffixes))
            for _ in range(rng.integers(1, 12))
        ]
        assert_apart_and_inside(names)


def test_a_video_listed_twice_has_one_reconstruction():
    assert len(reconstruction_paths(OUTPUT, ["a.mp4", "b.mp4", "a.mp4"])) == 2


def test_paths_depend_on_the_names_alone():
    names = np.random.default_rng(0).permutation(["a.mp4", "../a.mp4", "a.avi"]).tolist()
    assert reconstruction_paths(OUTPUT, names) == reconstruction_paths(OUTPUT, names)
