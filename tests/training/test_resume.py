"""Runs that are killed, stopped or damaged, and go on. Most runs are processes, as a user's are."""

import contextlib
import fcntl
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from cli.support import ROOT, process_environment, run, run_process, train_flags, write_dataset
from data.full_disk import small_disk
from safetensors.numpy import load_file

from mg.cli import train
from mg.cli.main import main
from mg.interruption import Interruption
from mg.training import loop
from mg.training.checkpoint import list_checkpoints, newest_checkpoint, step_of
from mg.training.step import TrainStep

SCRIPT = ROOT / "scripts" / "train_tae.py"

# Worker processes, lengths that change, images, averages, accumulation: what has a state, is on.
FULL = {
    "train_steps": 12,
    "num_frames": 8,
    "mixed_strategy": "mixed_video_random",
    "random_flip": True,
    "num_workers": 2,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "ckpt_save_steps": 2,
    "val_steps": 4,
    "compile": "null",
    "seed": 3,
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("videos"), num_frames=12)


@pytest.fixture(scope="module")
def uninterrupted(videos, tmp_path_factory):
    """The command line of a run that was left alone, and its directory."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    outcome = run_process(SCRIPT, *full_flags(videos, output), cwd=output.parent)
    assert outcome.code == 0, outcome.err
    return output


def full_flags(videos, output, **changes):
    return train_flags(videos, output, **{**FULL, "val_csv_path": videos / "videos.csv", **changes})


class Training:
    """A training process whose output goes to a file."""

    def __init__(self, args, log: Path, terminal: int | None = None, **environment):
        self.log = log
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPT, *map(str, args)],
                cwd=log.parent,
                env=process_environment(**environment),
                stdin=terminal,
                stdout=file if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=terminal and (lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
            )

    def wait_for_step(self, output: Path, step: int) -> None:
        """Wait until update `step` is logged."""
        end = time.monotonic() + 240
        while last_step(output) < step:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def signal(self, number: int, *, group: bool = False) -> int:
        """Send a signal to the process (or its workers too); gives its exit code."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.wait(timeout=120)


def lines_of(output: Path) -> list[dict]:
    """The whole lines of metrics.jsonl, without times."""
    path = output / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def last_step(output: Path) -> int:
    return max((line["step"] for line in lines_of(output)), default=0)


def assert_same_runs(first: Path, second: Path) -> None:
    """Equal numbers, bit for bit: metrics, weights, averages, moments, state."""
    assert lines_of(first) == lines_of(second)
    one, two = (list_checkpoints(output / "checkpoints") for output in (first, second))
    assert [path.name for path in one] == [path.name for path in two]
    for a, b in zip(one, two, strict=True):
        files = sorted(path.name for path in a.glob("*.safetensors"))
        assert files == sorted(path.name for path in b.glob("*.safetensors"))
        for name in files:
            assert_same_arrays(a / name, b / name)
        assert (a / "state.json").read_text() == (b / "state.json").read_text()
    assert (first / "best.json").read_text() == (second / "best.json").read_text()


def assert_same_arrays(first: Path, second: Path) -> None:
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not np.array_equal(one[name], two[name])]
    assert different == [], first


def copy_run(output: Path, target: Path) -> Path:
    shutil.copytree(output, target)
    return target


# Killed


def test_a_run_killed_at_three_random_steps_equals_one_left_alone(videos, uninterrupted, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    args = full_flags(videos, output)
    rng = random.Random(int.from_bytes(os.urandom(4), "little"))
    kills = sorted(rng.sample(range(1, FULL["train_steps"]), 3))
    for step in kills:
        training = Training(args, log)
        training.wait_for_step(output, step)
        time.sleep(rng.uniform(0, 0.1))  # in the middle of whatever comes next
        assert training.signal(signal.SIGKILL) == -signal.SIGKILL, kills
    outcome = run_process(SCRIPT, *args, cwd=tmp_path)
    assert outcome.code == 0, (kills, outcome.err)
    assert_same_runs(uninterrupted, output)


@pytest.mark.slow
def test_kills_at_any_moment_lose_no_more_than_the_steps_since_a_checkpoint(videos, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    args = full_flags(videos, output, train_steps=10_000, ckpt_save_steps=3, compile=False)
    rng = random.Random(int.from_bytes(os.urandom(4), "little"))
    reached = 0
    for _ in range(15):
        training = Training(args, log)
        training.wait_for_step(output, reached + 1)
        time.sleep(rng.uniform(0, 1.5))
        training.signal(signal.SIGKILL)
        before, reached = reached, last_step(output)
        newest = max(map(step_of, list_checkpoints(output / "checkpoints")), default=0)
        assert before < reached and reached - newest <= 3
    assert "torn" not in log.read_text()


def test_signals_finish_the_step_save_and_exit_with_0(videos, uninterrupted, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    args = full_flags(videos, output, ckpt_save_steps=0)
    for number, step in ((signal.SIGTERM, 2), (signal.SIGINT, 5)):
        training = Training(args, log)
        training.wait_for_step(output, step)
        # To all processes of the group, as Ctrl-C and cluster schedulers do.
        assert training.signal(number, group=True) == 0, log.read_text()
        newest = step_of(list_checkpoints(output / "checkpoints")[-1])
        assert newest == last_step(output) >= step
        assert f"Stopped after update {newest} of 12" in log.read_text()
        assert "Traceback" not in log.read_text()
    outcome = run_process(SCRIPT, *args, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert lines_of(output) == lines_of(uninterrupted)
    for name in ("tae", "ema", "optimizer"):
        file = Path("checkpoints", "step_12", f"{name}.safetensors")
        assert_same_arrays(output / file, uninterrupted / file)


@pytest.mark.once
def test_a_run_whose_terminal_is_closed_saves(videos, tmp_path):
    output = tmp_path / "run"
    screen, terminal = pty.openpty()
    options = {"train_steps": 10_000, "ckpt_save_steps": 0, "compile": False}
    training = Training(full_flags(videos, output, **options), tmp_path / "log", terminal)
    os.close(terminal)
    os.set_blocking(screen, False)
    while last_step(output) < 2:
        with contextlib.suppress(BlockingIOError):
            training.log.open("ab").write(os.read(screen, 1 << 16))
        assert training.process.poll() is None, training.log.read_text()
        time.sleep(0.01)
    os.close(screen)  # which sends SIGHUP
    assert training.process.wait(timeout=120) == 0
    assert step_of(list_checkpoints(output / "checkpoints")[-1]) == last_step(output) >= 2


@pytest.mark.once
def test_a_run_stopped_anywhere_validations_included_goes_on_exactly(
    videos, tmp_path, capsys, monkeypatch
):
    class Stopping(Interruption):
        """Is asked to stop once the run has asked `moment` times whether it was."""

        asked = 0

        @property
        def requested(self):
            Stopping.asked += 1
            return Stopping.asked > moment

        @requested.setter
        def requested(self, value):
            pass

    def trained(output):
        options = {"train_steps": 4, "val_steps": 2, "num_workers": 0, "compile": False}
        args = full_flags(videos, output, gradient_accumulation_steps=1, **options)
        outcome = run(train.command, args, capsys)
        assert outcome.code == 0, outcome.err
        return outcome.out[-1]

    moment = 10**6
    monkeypatch.setattr(loop, "Interruption", Stopping)
    trained(tmp_path / "whole")
    asked = Stopping.asked
    assert asked > 18  # three validations, each of three videos and two sets of weights
    for number in range(0, asked, 2):
        moment, Stopping.asked = number, 0
        output = tmp_path / str(number)
        trained(output)
        moment = 10**6
        assert trained(output).startswith("Trained.")
        assert_same_runs(tmp_path / "whole", output)


def test_a_run_that_is_done_does_nothing_more(videos, uninterrupted, tmp_path):
    output = copy_run(uninterrupted, tmp_path / "run")
    outcome = run_process(SCRIPT, *full_flags(videos, output), cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out[-1].startswith("Trained.")
    assert_same_runs(uninterrupted, output)


@pytest.mark.once
def test_what_a_killed_run_left_half_written_is_cleared(videos, uninterrupted, tmp_path, capsys):
    output = copy_run(uninterrupted, tmp_path / "run")
    (output / "checkpoints" / ".step_12-abcd1234.part").mkdir()
    (output / "checkpoints" / ".step_12-abcd1234.part" / "tae.safetensors").touch()
    for name in (
        ".tae-abcd1234.part.safetensors",
        ".tmpAbc123",
        "validation/.step_12-abcd1234.part.png",
    ):
        (output / name).touch()
    assert run(train.command, full_flags(videos, output), capsys).code == 0
    assert [path.name for path in output.rglob(".*")] == [".lock"]


# Damaged


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["tae.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    uninterrupted, tmp_path, caplog, damage, name
):
    folder = copy_run(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    damage(folder / "step_12" / name)
    assert newest_checkpoint(folder) == folder / "step_10"
    assert name in caplog.text and "trying the checkpoint before" in caplog.text


@pytest.mark.parametrize("damage", [b"torn\n", b"\xff\n"])
def test_a_checkpoint_whose_hashes_are_damaged_is_named(uninterrupted, tmp_path, caplog, damage):
    folder = copy_run(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    with (folder / "step_12" / "SHA256SUMS").open("ab") as file:
        file.write(damage)
    assert newest_checkpoint(folder) == folder / "step_10"
    assert f"{folder / 'step_12'}: its " in caplog.text


def test_a_run_with_a_damaged_newest_checkpoint_goes_on_from_the_one_before_exactly(
    videos, uninterrupted, tmp_path
):
    output = copy_run(uninterrupted, tmp_path / "run")
    flip_a_bit(output / "checkpoints" / "step_12" / "optimizer.safetensors")
    outcome = run_process(SCRIPT, *full_flags(videos, output), cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    text = "\n".join(outcome.err)
    assert "optimizer.safetensors: torn or altered" in text
    assert "going on from step_10" in text
    assert_same_runs(uninterrupted, output)


@pytest.mark.once
def test_checkpoints_after_damaged_ones_are_kept_and_the_damaged_ones_deleted(
    videos, uninterrupted, tmp_path, capsys, caplog
):
    output = copy_run(uninterrupted, tmp_path / "run")
    folder = output / "checkpoints"
    for number in (100, 200, 300):
        shutil.copytree(folder / "step_12", folder / f"step_{number}")
        truncate(folder / f"step_{number}" / "tae.safetensors")
    args = full_flags(videos, output, train_steps=14, ckpt_save_steps=1, val_steps=0)
    assert run(train.command, args, capsys).code == 0
    assert {12, 13, 14} <= set(map(step_of, list_checkpoints(folder))) < set(range(15))
    assert "step_300: deleted, since training goes on from update 12" in caplog.text


@pytest.mark.once
def test_a_damaged_checkpoint_is_no_longer_the_best(videos, uninterrupted, tmp_path, capsys):
    output = copy_run(uninterrupted, tmp_path / "run")
    folder = output / "checkpoints"
    truncate(folder / "step_12" / "tae.safetensors")
    (output / "best.json").write_text('{"step": 12}')
    args = full_flags(videos, output, train_steps=10)
    assert run(train.command, args, capsys).code == 0
    state = json.loads((folder / "step_10" / "state.json").read_text())
    assert json.loads((output / "best.json").read_text()) == state["progress"]["best"]


@pytest.mark.once
def test_a_damaged_line_of_the_metrics_is_dropped_alone(
    videos, uninterrupted, tmp_path, capsys, caplog
):
    output = copy_run(uninterrupted, tmp_path / "run")
    path = output / "metrics.jsonl"
    first, second, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b"\xff" + second[1:], *others]))
    assert run(train.command, full_flags(videos, output, train_steps=13), capsys).code == 0
    kept = path.read_bytes().splitlines(keepends=True)
    assert kept[: len(others) + 1] == [first, *others]
    assert "metrics.jsonl: line 2 is damaged, and dropped" in caplog.text


@pytest.mark.once
def test_where_no_checkpoint_is_whole_nothing_is_deleted(videos, uninterrupted, tmp_path, capsys):
    output = copy_run(uninterrupted, tmp_path / "run")
    for path in list_checkpoints(output / "checkpoints"):
        truncate(path / "tae.safetensors")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    outcome = run(train.command, full_flags(videos, output), capsys)
    assert (outcome.code, "checkpoints is whole" in outcome.err[-1]) == (2, True)
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.once
def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damaged(uninterrupted, tmp_path):
    folder = copy_run(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    (folder / "step_12" / "state.json").unlink()
    (folder / "step_12" / "state.json").symlink_to("/proc/self/mem")  # a file, EIO when it is read
    with pytest.raises(OSError):
        newest_checkpoint(folder)


@pytest.mark.once
def test_what_others_keep_in_the_directory_stays(videos, tmp_path, capsys):
    output = tmp_path / "run"
    others = [
        output / ".tmp-cache" / "a",
        output / ".my.partials" / "b",
        output / ".tmpabcdef" / "c",
    ]
    others += [output / "checkpoints" / ".eggs.part" / "d", output / "notes.txt"]
    others += [output / "checkpoints" / ".step_3_of-many.part" / "f"]
    ours = [output / ".tmp123456", output / ".metrics-a1b2c3d4.part.jsonl"]
    ours += [output / "checkpoints" / ".step_3-a1b2c3d4.part" / "e"]
    for path in (*others, *ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    missing = train_flags(tmp_path, output)
    assert run(train.command, missing, capsys).code == 2
    assert all(path.exists() for path in (*others, *ours))
    assert run(train.command, train_flags(videos, output), capsys).code == 0
    assert all(path.exists() for path in others)
    assert not any(path.exists() for path in ours)
    (output / "checkpoints" / "step_500").mkdir()
    shutil.rmtree(output / "checkpoints" / "step_2")
    assert run(train.command, train_flags(videos, output), capsys).code == 2
    assert (output / "checkpoints" / "step_500").exists()


# Changed; which framework trains does not matter


@pytest.mark.once
def test_a_changed_recipe_goes_on_and_says_which_keys_changed(videos, uninterrupted, tmp_path):
    output = copy_run(uninterrupted, tmp_path / "run")
    changes = {"train_steps": 13, "learning_rate": 2e-3, "ema_decay": 0.8}
    outcome = run_process(SCRIPT, *full_flags(videos, output, **changes), cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    text = "\n".join(outcome.err)
    for key, before, now in (
        ("train_steps", 12, 13),
        ("learning_rate", 0.001, 0.002),
        ("ema_decay", 0.9, 0.8),
    ):
        assert f"the recipe's {key} was {before} and is {now} from here on" in text
    assert lines_of(output)[: len(lines_of(uninterrupted))] == lines_of(uninterrupted)
    assert lines_of(output)[-2]["learning_rate"] == 2e-3


@pytest.mark.once
@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 4), ("tae_config", {"ch": 8}), ("ema_decay", 0), ("pretrained", "other.safetensors")],
)
def test_a_recipe_that_would_break_the_run_is_refused(
    videos, uninterrupted, tmp_path, capsys, key, value
):
    output = copy_run(uninterrupted, tmp_path / "run")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    args = full_flags(videos, output, **{key: value})
    run(train.command, args, capsys).assert_refused(
        str(output), f"{key} was", "another output_path"
    )
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.once
def test_another_list_of_videos_goes_on_with_a_warning(
    videos, uninterrupted, tmp_path, capsys, caplog
):
    output = copy_run(uninterrupted, tmp_path / "run")
    other = tmp_path / "other.csv"
    other.write_text("video\nb.mp4\na.mp4\n")
    args = full_flags(videos, output, csv_path=other, train_steps=13)
    outcome = run(train.command, args, capsys)
    assert outcome.code == 0
    assert "other.csv lists other videos than before" in caplog.text


@pytest.mark.once
def test_two_runs_in_one_directory_are_refused(videos, tmp_path, capsys):
    output, log = tmp_path / "run", tmp_path / "log"
    args = full_flags(videos, output, train_steps=10_000, compile=False)
    training = Training(args, log)
    try:
        training.wait_for_step(output, 1)
        run(train.command, args, capsys).assert_refused("another process trains in this directory")
    finally:
        training.signal(signal.SIGKILL)


# Faults of the surroundings


@pytest.fixture
def disk(tmp_path):
    """A file system of 2 MB."""
    with small_disk(tmp_path / "disk", "2m") as folder:
        yield folder


@pytest.mark.once
def test_a_full_disk_keeps_the_old_checkpoint_and_says_what_failed(videos, disk, tmp_path):
    output = disk / "run"
    options = {"ema_decay": 0, "train_steps": 2, "ckpt_save_steps": 1, "num_workers": 0}
    args = train_flags(videos, output, **options)
    assert run_process(SCRIPT, *args, cwd=tmp_path).code == 0
    newest = list_checkpoints(output / "checkpoints")[-1]
    before = {path.name: path.read_bytes() for path in newest.iterdir()}
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - 30_000))
    outcome = run_process(
        SCRIPT, *train_flags(videos, output, **options | {"train_steps": 9}), cwd=tmp_path
    )
    assert outcome.code == 2
    assert "No space left on device" in outcome.err[-1]
    assert "step_" in outcome.err[-1] and "cannot be written" in outcome.err[-1]
    assert "Traceback" not in "\n".join(outcome.err)
    assert {path.name: path.read_bytes() for path in newest.iterdir()} == before
    assert not [path for path in output.rglob("*") if ".part" in path.name]
    (disk / "filler").unlink()
    args = train_flags(videos, output, **options | {"train_steps": 4})
    assert run_process(SCRIPT, *args, cwd=tmp_path).code == 0
    assert last_step(output) == 4


@pytest.mark.once
def test_a_disk_that_fills_up_between_two_checkpoints_ends_the_run(videos, disk, tmp_path):
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - 40_000))
    options = {"train_steps": 300, "ckpt_save_steps": 0, "mixed_strategy": "image_only"}
    outcome = run_process(SCRIPT, *train_flags(videos, disk / "run", **options), cwd=tmp_path)
    assert outcome.code == 2
    assert "run: the metrics cannot be written: No space left on device" in outcome.err[-1]
    assert "Traceback" not in "\n".join(outcome.err)


@pytest.mark.once
def test_a_file_size_limit_keeps_the_old_checkpoint_too(videos, uninterrupted, tmp_path):
    output = copy_run(uninterrupted, tmp_path / "run")
    args = [str(arg) for arg in full_flags(videos, output, train_steps=14)]
    limited = ["bash", "-c", 'ulimit -f 40; exec "$0" "$@"', sys.executable, str(SCRIPT), *args]
    done = subprocess.run(
        limited, cwd=tmp_path, env=process_environment(), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "step_14: the checkpoint cannot be written" in done.stderr.splitlines()[-1]
    assert newest_checkpoint(output / "checkpoints").name == "step_12"
    outcome = run_process(SCRIPT, *args, cwd=tmp_path)
    assert outcome.code == 0, outcome.err


@pytest.mark.once
def test_a_killed_worker_changes_nothing(videos, uninterrupted, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    training = Training(full_flags(videos, output), log)
    training.wait_for_step(output, 1)
    workers = worker_processes(training.process.pid)
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    assert training.process.wait(timeout=240) == 0, log.read_text()
    assert_same_runs(uninterrupted, output)


def worker_processes(parent: int) -> list[int]:
    """The processes in which the parent's videos are read."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in commands.items() if b"spawn_main" in command]


@pytest.mark.once
def test_a_clip_deleted_in_the_middle_of_a_run_is_skipped_and_named(tmp_path):
    folder = write_dataset(tmp_path / "videos")
    output, log = tmp_path / "run", tmp_path / "log"
    # Workers read tiny clips far ahead.
    options = {"train_steps": 100_000, "num_workers": 0, "compile": False}
    training = Training(train_flags(folder, output, **options), log)
    training.wait_for_step(output, 2)
    (folder / "b.mp4").unlink()
    training.wait_for_step(output, last_step(output) + 9)
    assert training.signal(signal.SIGTERM) == 0
    text = log.read_text()
    assert "skipped b.mp4: " in text
    assert "1 videos could not be used: b.mp4" in text


# Not finite


@pytest.mark.once
def test_too_many_updates_that_are_not_finite_stop_the_run_and_none_is_saved(
    videos, tmp_path, capsys, caplog
):
    output = tmp_path / "run"
    options = {"train_steps": 2, "max_skipped_updates": 3, "keep_checkpoints": 1}
    assert run(train.command, train_flags(videos, output, **options), capsys).code == 0
    harm = {"train_steps": 20, "kl_weight": 1e38, "log_interval": 50, "ckpt_save_steps": 1}
    outcome = run(train.command, train_flags(videos, output, **options | harm), capsys)
    assert outcome.code == 2
    assert "stopped after update 6: 4 in a row" in outcome.err[-1]
    assert "goes on from update 2" in outcome.err[-1]
    lines = lines_of(output)[2:]
    assert [line["step"] for line in lines] == [3, 4, 5, 6]
    for number, line in enumerate(lines, 1):
        assert line["skipped_updates"] == number
        assert line["grad_norm"] is None  # JSON has no infinity
        assert set(line["skipped_videos"]) <= {"a.mp4", "b.mp4", "c.mp4"}
        assert line["skipped_videos"]
    assert "update 6 skipped" in caplog.text
    assert [step_of(path) for path in list_checkpoints(output / "checkpoints")] == [2]
    args = train_flags(videos, output, **options | {"train_steps": 4})  # the harmless weight
    assert run(train.command, args, capsys).code == 0
    assert [line["step"] for line in lines_of(output)] == [1, 2, 3, 4]
    assert [line["skipped_updates"] for line in lines_of(output)] == [0, 0, 0, 0]
    assert [step_of(path) for path in list_checkpoints(output / "checkpoints")] == [4]


@pytest.mark.once
def test_what_is_to_be_saved_waits_for_an_update_that_is_not_skipped(videos, tmp_path, monkeypatch):
    measure = TrainStep._count
    places = iter(range(1, 9))
    monkeypatch.setattr(
        TrainStep, "_count", lambda self, *_: measure(self, next(places) not in (2, 3), 1, True)
    )
    output = tmp_path / "run"
    options = {"train_steps": 8, "ckpt_save_steps": 3, "keep_checkpoints": 9}
    assert main(["train", *train_flags(videos, output, **options)]) == 0
    assert [step_of(path) for path in list_checkpoints(output / "checkpoints")] == [4, 6, 8]


@pytest.mark.once
def test_a_run_that_ends_with_a_skipped_update_gives_no_weights(videos, tmp_path, capsys):
    output = tmp_path / "run"
    flags = train_flags(videos, output, train_steps=2, kl_weight=1e38)
    outcome = run(train.command, flags, capsys)
    assert outcome.code == 2
    assert "stopped after update 2: 2 in a row" in outcome.err[-1]
    assert not list(output.glob("tae.*"))
