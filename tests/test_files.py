"""Files that are whole or absent."""

import os

import numpy as np
import pytest
from data.full_disk import small_disk
from safetensors.numpy import load_file

from mg.arrays import write_arrays
from mg.files import atomic_path, check_apart, lock_folder, make_folder

pytestmark = pytest.mark.once


def test_arrays_are_written_as_they_look_whatever_their_order_in_memory(rng, tmp_path):
    array = rng.standard_normal((3, 4, 5))
    write_arrays(tmp_path / "a.safetensors", {"turned": array.transpose(2, 0, 1)})
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["turned"], array.transpose(2, 0, 1))


def test_arrays_on_a_full_disk_are_an_error_that_names_the_file_and_leave_nothing(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(OSError, match=r"disk/a\.safetensors: cannot be written"):
            write_arrays(disk / "a.safetensors", {"large": np.zeros(10**6)})
        assert list(disk.iterdir()) == []


def test_what_cannot_be_made_is_named_as_it_was_given(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"^{tmp_path}/file: cannot be made a folder: File exists$"):
        make_folder(tmp_path / "file")
    target = "/proc/a.mp4"  # which takes no files, from root either
    with pytest.raises(OSError, match=f"^{target}: cannot be written: "), atomic_path(target):
        pass


def test_a_file_that_is_read_is_not_written_by_another_name(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.mp4").touch()
    os.link(folder / "a.mp4", tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(folder / "a.mp4")
    (tmp_path / "link").symlink_to(folder)
    for name in ("hard.mp4", "soft.mp4", "link/a.mp4", "folder/../folder/a.mp4"):
        with pytest.raises(ValueError, match="a.mp4 itself, expected another place"):
            check_apart([tmp_path / "other.mp4", tmp_path / name], [folder / "a.mp4"])
    with pytest.raises(ValueError, match="new.mp4 itself"):
        check_apart([tmp_path / "link" / "new.mp4"], [folder / "new.mp4"])  # neither is there yet
    check_apart([tmp_path / "other.mp4"], [folder / "a.mp4", "none.csv"])


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: a device or a pipe"), atomic_path(tmp_path / "pipe"):
        raise AssertionError("was entered")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(ValueError, match="pipe: not a file"):
        lock_folder(tmp_path, shared=False, busy="busy", name="pipe")


def test_a_file_written_whole_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "open.txt").open("w").close()
    with atomic_path(tmp_path / "whole.txt") as temporary:
        temporary.write_text("")
    modes = {(tmp_path / name).stat().st_mode for name in ("open.txt", "whole.txt")}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["file.txt", "0a1b", "file.mp4"])
def test_a_link_stays_one_and_what_it_leads_to_is_written_as_the_link_is_called(tmp_path, name):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.txt").symlink_to(f"disk/{name}")
    with atomic_path(tmp_path / "link.txt") as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "disk" / name).read_text() == "new"
