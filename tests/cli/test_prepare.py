"""`mg prepare`, from a folder of small videos to the CSV files that training reads."""

import csv
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
from PIL import Image

from mg.cli.prepare import command
from mg.data import TrainingClips, count_frames, read_entries, training_batches, write_video
from mg.data.prepare import JOURNAL, examine
from mg.journal import Journal, stamp_if_there

from .support import process_environment, run, run_process, waves

pytestmark = pytest.mark.once

SETS = ("train", "val", "test")


def write_clip(path, num_frames=3, fps=10, **shape):
    write_video(path, waves(0, num_frames, **shape), fps)


def read_rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_sets(out):
    return {name: [row["video"] for row in read_rows(out / f"{name}.csv")] for name in SETS}


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """Two classes, five groups, two clips each, as UCF-101 names them."""
    folder = tmp_path_factory.mktemp("ucf")
    first = folder / "A" / "v_A_g01_c01.mp4"
    write_clip(first)
    for kind in "AB":
        for group in range(1, 6):
            for clip in (1, 2):
                path = folder / kind / f"v_{kind}_g{group:02}_c{clip:02}.mp4"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(first.read_bytes())
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_video_gets_a_row_with_what_a_full_decode_tells(tmp_path, capsys, num_workers):
    folder = tmp_path / "videos"
    write_clip(folder / "a.mp4", 5, 10, height=20, width=32)
    write_clip(folder / "deep" / "er" / "b, ü ö.MKV", 7, 30000 / 1001)
    write_clip(folder / "c d.webm.mp4", 2, 25)
    (folder / "notes.txt").write_text("no video")
    Image.new("RGB", (9, 9)).save(folder / "image.png")
    write_clip(folder / ".hidden" / "x.mp4")
    out = tmp_path / "new" / "csv"
    outcome = run(command, [folder, "--out", out, "--num_workers", num_workers], capsys)
    assert outcome.code == 0, outcome.err
    rows = sorted(
        (row for name in SETS for row in read_rows(out / f"{name}.csv")), key=lambda r: r["video"]
    )
    assert [list(row.values()) for row in rows] == [
        ["a.mp4", "5", "10.0", "32", "20", "0.5"],
        ["c d.webm.mp4", "2", "25.0", "16", "16", "0.08"],
        ["deep/er/b, ü ö.MKV", "7", "29.97003", "16", "16", "0.234"],
    ]
    assert list(rows[0]) == ["video", "frames", "fps", "width", "height", "duration"]
    assert read_rows(out / "bad.csv") == []
    assert sorted(path.name for path in out.iterdir()) == [
        *("bad.csv", "test.csv", "train.csv", "val.csv")
    ]
    assert "train.csv 1, val.csv 1, test.csv 1, bad.csv 0" in outcome.out[0]


def test_what_it_writes_is_what_training_reads(ucf, tmp_path, capsys):
    assert run(command, [ucf, "--out", tmp_path], capsys).code == 0
    entries = read_entries(tmp_path / "train.csv", ucf)
    assert {entry.num_frames for entry in entries} == {3}
    files = {"csv_path": str(tmp_path / "train.csv"), "video_folder": str(ucf)}
    clips = TrainingClips(**files, batch_size=4, num_frames=2, image_size=8, num_workers=0)
    with training_batches(clips) as batches:
        assert next(batches).broken == {}


def test_real_clips_get_their_true_counts_and_sizes(test_data, manifest, tmp_path, capsys):
    outcome = run(command, [test_data / "clips", "--out", tmp_path], capsys)
    assert outcome.code == 0
    rows = [row for name in SETS for row in read_rows(tmp_path / f"{name}.csv")]
    expected = {
        path.name: (row["frames"], row["width"], row["height"])
        for path, row in manifest.items()
        if path.suffix != ".gif"
    }
    assert {row["video"]: (row["frames"], row["width"], row["height"]) for row in rows} == expected


def test_groups_stay_together_and_files_come_sorted(ucf, tmp_path, capsys):
    assert run(command, [ucf, "--out", tmp_path, "--test_share", "0.4"], capsys).code == 0
    sets = read_sets(tmp_path)
    assert sorted(sum(sets.values(), [])) == sorted(
        path.relative_to(ucf).as_posix() for path in ucf.rglob("*.mp4")
    )
    groups = {name: {video.split("_")[2] for video in sets[name]} for name in SETS}
    assert sorted(sum(map(list, groups.values()), [])) == [f"g0{n}" for n in range(1, 6)]
    assert [len(groups[name]) for name in SETS] == [2, 1, 2]
    assert all(videos == sorted(videos) for videos in sets.values())


def test_the_same_files_elsewhere_are_split_alike(ucf, tmp_path, capsys):
    copy = tmp_path / "copy"
    for path in sorted(ucf.rglob("*.mp4"), reverse=True):
        target = copy / path.relative_to(ucf)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    run(command, [ucf, "--out", tmp_path / "first"], capsys)
    run(command, [copy, "--out", tmp_path / "second", "--num_workers", 1], capsys)
    for name in (*SETS, "bad"):
        first, second = (tmp_path / out / f"{name}.csv" for out in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_the_pattern_of_groups_can_be_chosen(tmp_path, capsys):
    for film in range(4):
        for scene in range(3):
            write_clip(tmp_path / f"film{film}-{scene}.mp4", 1)
    args = [tmp_path, "--out", tmp_path / "csv", "--group_pattern", r"film\d"]
    assert run(command, args, capsys).code == 0
    films = [{video[:5] for video in videos} for videos in read_sets(tmp_path / "csv").values()]
    assert [len(part) for part in films] == [2, 1, 1]
    assert len(set.union(*films)) == 4


def test_official_split_files_decide_and_what_does_not_fit_is_counted(ucf, tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = sorted(path.relative_to(ucf).as_posix() for path in ucf.rglob("*.mp4"))
    test = [name for name in names if "_g01_" in name]
    train = [name for name in names if "_g02_" in name or "_g03_" in name]
    (lists / "testlist02.txt").write_text("\n".join([*test, "A/gone.mp4"]) + "\n")
    (lists / "trainlist02.txt").write_text("".join(f"{name} 1\n" for name in train))
    args = [ucf, "--out", tmp_path, "--split_files", lists, "--split", 2]
    outcome = run(command, args, capsys)
    assert outcome.code == 0, outcome.err
    sets = read_sets(tmp_path)
    assert sets["test"] == test
    assert sorted(sets["train"] + sets["val"]) == train
    assert {name.split("_")[2] for name in sets["val"]} in ({"g02"}, {"g03"})
    assert "1 are missing; 8 videos of the folder are in none" in outcome.out[1]


def write_bad_files(folder):
    """Give the bad files' names, each with a part of what is wrong with it."""
    write_clip(folder / "whole.mp4", 12, height=64, width=64)
    content = (folder / "whole.mp4").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "half.mp4").write_bytes(content[: len(content) // 2])
    (folder / "text.avi").write_text("I am no video\n" * 99)
    with av.open(str(folder / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_clip(folder / " space.mp4")
    write_clip(folder / "new\rline.mp4")
    os.symlink(folder / "gone.mp4", folder / "link.mp4")
    (folder / "folder.mp4").mkdir()
    return {
        " space.mp4": "space",
        "empty.mp4": "the file is empty",
        "half.mp4": "cannot be read",
        "link.mp4": "no such video file",
        "new\\rline.mp4": "carriage return",
        "sound.mkv": "has no video stream",
        "text.avi": "cannot be read",
    }


def test_bad_files_are_listed_with_the_reason_and_do_not_matter(tmp_path, capsys):
    folder = tmp_path / "videos"
    expected = write_bad_files(folder)
    outcome = run(command, [folder, "--out", tmp_path], capsys)
    assert outcome.code == 0, outcome.err
    rows = read_rows(tmp_path / "bad.csv")
    assert [row["video"] for row in rows] == list(expected)
    for row in rows:
        assert expected[row["video"]] in row["reason"]
        assert str(tmp_path) not in row["reason"] and "\n" not in row["reason"]
    assert read_sets(tmp_path) == {"train": ["whole.mp4"], "val": [], "test": []}
    assert f"bad.csv {len(rows)}" in outcome.out[0]
    assert f"{len(rows)} videos cannot be used" in outcome.out[1]


def test_a_video_with_damaged_frames_is_bad(tmp_path, capsys, rng):
    write_clip(tmp_path / "good.mp4")
    frames = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    write_video(tmp_path / "damaged.mp4", frames, 10)
    content = bytearray((tmp_path / "damaged.mp4").read_bytes())
    place = content.find(b"mdat") + 3 * len(content) // 4
    content[place : place + 200] = bytes(200)
    (tmp_path / "damaged.mp4").write_bytes(content)
    assert run(command, [tmp_path, "--out", tmp_path / "csv"], capsys).code == 0
    (row,) = read_rows(tmp_path / "csv" / "bad.csv")
    assert row["video"] == "damaged.mp4"
    assert "damaged" in row["reason"] or "cannot be read" in row["reason"]


def test_a_video_that_kills_the_process_that_decodes_it_is_bad_and_the_rest_goes_on(
    tmp_path, capsys
):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_clip(tmp_path / name)

    def kill_the_first_workers():
        killed = set()
        while len(killed) < 4:
            # Not active_children(): it buries the dead before their reader asks how they died.
            for worker in set(multiprocessing.process._children) - killed:
                if worker.pid is not None:
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.add(worker)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_the_first_workers)
    killer.start()
    outcome = run(command, [tmp_path, "--out", tmp_path / "csv", "--num_workers", 1], capsys)
    killer.join()
    assert outcome.code == 0
    reason = "the process that decodes it ends: killed by signal 9, perhaps for lack of memory"
    assert read_rows(tmp_path / "csv" / "bad.csv") == [{"video": "a.mp4", "reason": reason}]
    assert sorted(sum(read_sets(tmp_path / "csv").values(), [])) == ["b.mp4", "c.mp4"]


def test_sizes_are_those_of_the_upright_picture(tmp_path, capsys):
    write_clip(tmp_path / "lying.mp4", height=16, width=32)
    content = (tmp_path / "lying.mp4").read_bytes()
    # The track header's matrix (ISO 14496-12), from the identity to a quarter turn.
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    nil, end = bytes(4), (1 << 30).to_bytes(4, "big")
    upright = one + nil * 3 + one + nil * 3 + end
    turned = nil + one + nil + minus + nil * 4 + end
    place = content.find(upright, content.find(b"tkhd"))
    (tmp_path / "lying.mp4").write_bytes(content[:place] + turned + content[place + len(upright) :])
    assert run(command, [tmp_path, "--out", tmp_path], capsys).code == 0
    (row,) = read_rows(tmp_path / "train.csv")
    assert (row["width"], row["height"]) == ("16", "32")


def test_links_to_folders_are_followed_but_not_round_and_round(tmp_path, capsys):
    write_clip(tmp_path / "elsewhere" / "a.mp4")
    folder = tmp_path / "videos"
    write_clip(folder / "b.mp4")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "self").symlink_to(folder)
    assert run(command, [folder, "--out", tmp_path], capsys).code == 0
    assert sorted(sum(read_sets(tmp_path).values(), [])) == ["b.mp4", "linked/a.mp4"]


def test_a_file_is_listed_once_by_its_own_name_if_it_has_one_here(tmp_path, capsys):
    folder = tmp_path / "videos"
    write_clip(folder / "b.mp4")
    write_clip(tmp_path / "elsewhere.mp4")
    for name, file in (("a", "b.mp4"), ("d", "../elsewhere.mp4"), ("c", "../elsewhere.mp4")):
        (folder / f"{name}.mp4").symlink_to(file)
    assert run(command, [folder, "--out", tmp_path], capsys).code == 0
    assert sorted(sum(read_sets(tmp_path).values(), [])) == ["b.mp4", "c.mp4"]


def test_a_folders_own_name_counts_and_not_that_of_a_link_to_it(tmp_path, capsys):
    folder = tmp_path / "videos"
    write_clip(folder / "b" / "a.mp4")
    (folder / "a").symlink_to("b")
    assert run(command, [folder, "--out", tmp_path], capsys).code == 0
    assert sum(read_sets(tmp_path).values(), []) == ["b/a.mp4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--test_share", "1"], "test_share is 1.0, expected at least 0, below 1"),
        (["--val_share", "-0.1"], "val_share is -0.1, expected at least 0"),
        (["--test_share", "0.6", "--val_share", "0.5"], "expected less than 1 together"),
        (["--group_pattern", "(g"], "group_pattern: '(g' is not a regular expression"),
        (["--group_pattern", "x*"], "matches every name"),
        (["--split", "0"], "split is 0, expected at least 1"),
        (["--num_workers", "-1"], "num_workers is -1, expected at least 0"),
        (["--split_files", "nowhere"], "nowhere: no such folder of split files"),
        (["--shares", "1"], "shares"),
    ],
)
def test_options_out_of_range_are_named_in_one_line(ucf, tmp_path, capsys, change, message):
    outcome = run(command, [ucf, "--out", tmp_path / "csv", *change], capsys)
    outcome.assert_refused(message)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_of_videos_is_refused_in_one_line(tmp_path, capsys):
    out = ["--out", tmp_path / "csv"]
    run(command, [tmp_path / "none", *out], capsys).assert_refused("none: no such folder of videos")
    run(command, [tmp_path, *out], capsys).assert_refused("holds no video")
    run(command, out, capsys).assert_refused("folder")
    (tmp_path / "a.mp4").write_text("text")
    outcome = run(command, [tmp_path, *out, "--num_workers", 0], capsys)
    assert outcome.code == 2
    assert "none of 1 videos can be decoded; the first: a.mp4: cannot be read" in outcome.err[-1]
    outcome = run(command, [tmp_path / "a.mp4", *out], capsys)
    outcome.assert_refused("a.mp4: not a folder, expected the folder of videos")
    run(command, [tmp_path, "--out", tmp_path / "a.mp4"], capsys).assert_refused("not a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_folders_that_cannot_be_read_or_written_are_refused(tmp_path, capsys):
    write_clip(tmp_path / "videos" / "locked" / "a.mp4")
    (tmp_path / "videos" / "locked").chmod(0)
    out = tmp_path / "csv"
    run(command, [tmp_path / "videos", "--out", out], capsys).assert_refused(
        "locked: cannot be read"
    )
    (tmp_path / "videos" / "locked").chmod(0o755)
    out.mkdir(mode=0o555)
    run(command, [tmp_path / "videos", "--out", out], capsys).assert_refused("cannot be written")


def test_an_interruption_leaves_no_table_and_the_next_run_goes_on(tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "csv"
    write_clip(folder / "a.mp4", 60, height=256, width=256)
    for number in range(400):
        os.link(folder / "a.mp4", folder / f"{number}.mp4")
    arguments = ["-m", "mg", "prepare", str(folder), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=process_environment(),
        start_new_session=True,
    )
    while b"1/401" not in os.read(process.stderr.fileno(), 1000):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "interrupted"
    assert b"Traceback" not in errors
    assert [path.name for path in out.iterdir()] == [".prepare.jsonl"]
    for number in range(2, 400):
        (folder / f"{number}.mp4").unlink()
    (folder / "a.mp4").unlink()
    write_clip(folder / "new.mp4", 7)
    done = run_process(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    said = re.search(r"(\d+) videos were decoded before, (\d+) are left", "\n".join(done.err))
    before, left = map(int, said.groups())
    assert before >= 1  # 0.mp4, and 1.mp4 if it was quick
    assert before + left == 3
    rows = {row["video"]: row["frames"] for name in SETS for row in read_rows(out / f"{name}.csv")}
    assert rows == {"0.mp4": "60", "1.mp4": "60", "new.mp4": "7"}
    assert not (out / ".prepare.jsonl").exists()


def test_files_that_changed_after_an_interruption_are_decoded_anew(tmp_path, capsys):
    write_clip(tmp_path / "videos" / "a.mp4", 5)
    write_clip(tmp_path / "videos" / "b.mp4", 5)
    journal = Journal(tmp_path / "csv" / JOURNAL)
    for name in ("a.mp4", "b.mp4"):
        path = tmp_path / "videos" / name
        row = examine(path.parent, name)._replace(frames=99)
        journal.add(name, stamp_if_there(path), row._asdict())
    write_clip(tmp_path / "videos" / "b.mp4", 8)
    assert run(command, [tmp_path / "videos", "--out", tmp_path / "csv"], capsys).code == 0
    rows = [row for name in SETS for row in read_rows(tmp_path / "csv" / f"{name}.csv")]
    assert {row["video"]: row["frames"] for row in rows} == {"a.mp4": "99", "b.mp4": "8"}


def test_a_configuration_file_and_flags_together(ucf, tmp_path):
    (tmp_path / "prepare.yaml").write_text("out: csv\ntest_share: 0.9\nnum_workers: 1\n")
    args = ["-m", "mg", "prepare", ucf, "--config", "prepare.yaml", "--test_share", "0.2"]
    outcome = run_process(*args, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "train.csv 12, val.csv 4, test.csv 4, bad.csv 0 videos" in outcome.out[0]
    assert count_frames(ucf / read_sets(tmp_path / "csv")["test"][0]) == 3
