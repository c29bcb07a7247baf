"""What long work has found, and what is read back of it."""

import os

import pytest

from mg.journal import Journal, stamp_if_there

pytestmark = pytest.mark.once


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"12")
    return path


def test_what_was_found_is_read_back(tmp_path, file):
    path = tmp_path / "new" / "journal.jsonl"
    journal = Journal(path)
    for number, name in enumerate(["a.mp4", 'b "\n\udcff.mp4']):
        journal.add(name, stamp_if_there(file), {"number": number, "scores": [1.5, None]})
    read = Journal(path)
    assert read.found("a.mp4", stamp_if_there(file)) == {"number": 0, "scores": [1.5, None]}
    assert read.found('b "\n\udcff.mp4', stamp_if_there(file))["number"] == 1
    assert read.found("c.mp4", stamp_if_there(file)) is None


@pytest.mark.parametrize("change", ["size", "date", "gone"])
def test_nothing_is_known_of_a_file_that_has_changed(tmp_path, file, change):
    Journal(tmp_path / "j").add("a.mp4", stamp_if_there(file), 1)
    if change == "size":
        before = file.stat()
        file.write_bytes(b"123")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "date":
        os.utime(file, ns=(0, 0))
    else:
        file.unlink()
    assert Journal(tmp_path / "j").found("a.mp4", stamp_if_there(file)) is None


@pytest.mark.parametrize(
    "rest",
    ['["b.mp4", [2', "17", "[1]", "[[1], [2, 3], 4]", "[" * 9999, "\n\n", "\x00", "\udcff"],
)
def test_half_a_line_costs_no_other(tmp_path, file, rest):
    path = tmp_path / "j"
    Journal(path).add("a.mp4", stamp_if_there(file), 1)
    with path.open("a", errors="surrogateescape") as journal:
        journal.write(f"\n{rest}")
    Journal(path).add("c.mp4", stamp_if_there(file), 3)
    read, stamp = Journal(path), stamp_if_there(file)
    assert [read.found(name, stamp) for name in ("a.mp4", "b.mp4", "c.mp4")] == [1, None, 3]


def test_a_line_about_another_state_of_a_file_hides_none(tmp_path, file):
    stamps = [(1, 2), stamp_if_there(file), (3, 4)]
    for number, stamp in enumerate(stamps):
        Journal(tmp_path / str(number % 2)).add("a.mp4", stamp, number)
    for own in "01":
        journal = Journal(tmp_path / own, [tmp_path / "0", tmp_path / "1"])
        assert [journal.found("a.mp4", stamp) for stamp in stamps] == [0, 1, 2]


def test_the_journals_of_others_are_read_and_stay(tmp_path, file):
    for name in ("a", "b"):
        Journal(tmp_path / name).add(f"{name}.mp4", stamp_if_there(file), name)
    before = (tmp_path / "b").read_bytes()
    journal = Journal(tmp_path / "a", [tmp_path / "b", tmp_path / "none"])
    journal.add("c.mp4", stamp_if_there(file), "c")
    assert [journal.found(f"{name}.mp4", stamp_if_there(file)) for name in "ab"] == ["a", "b"]
    assert (tmp_path / "b").read_bytes() == before


def test_of_several_journals_ones_own_counts_most(tmp_path, file):
    stamp = stamp_if_there(file)
    paths = [tmp_path / f"{number}.jsonl" for number in range(8)]
    for path in paths:
        Journal(path).add("a.mp4", stamp, path.name)
    for path in paths:
        assert Journal(path, paths).found("a.mp4", stamp) == path.name
