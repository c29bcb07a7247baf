"""Runs that are killed, run out of disk, or are many processes: in processes of their own."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.support import (
    ROOT,
    process_environment,
    run_process,
    waves,
    write_checkpoint,
    write_index,
)
from training.test_parallel import printed, start_two

from mg.data import write_video
from mg.files import lock_folder
from mg.latents import LatentDataset
from mg.latents.manifest import MANIFEST
from mg.latents.shards import shard_paths

from .latent_runs import assert_clean, assert_same_latents, encode_flags, keys_of, rows_of

pytestmark = pytest.mark.once

COMMAND = ("-m", "mg", "encode-dataset")
PROGRAM = ROOT / "mg" / "__main__.py"  # launchers want a file
NAMES = [f"{number}.mp4" for number in range(10)]
OPTIONS = {"stored": "sample", "batch_size": 2, "shard_minutes": 0}


def kill_all(launcher):
    """Kill a launcher and what it started, which may be in groups of their own."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.killpg(launcher.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    launcher.wait(timeout=60)


def wait_until_nobody_works_in(output):
    """The killed end a moment later."""
    end = time.monotonic() + 60
    while True:
        try:
            return lock_folder(output, shared=False, busy="").close()
        except ValueError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten videos, a copy of one, a broken one, and one that is listed twice."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(NAMES):
        write_video(folder / name, waves(seed, 16 + seed), fps=10)
    shutil.copy(folder / "3.mp4", folder / "copy.mp4")
    (folder / "text.mp4").write_text("no video")
    write_index(folder, [*NAMES, "text.mp4", "copy.mp4", "0.mp4"])
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tae.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(videos, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    output = folder / "out"
    args = encode_flags(videos, output, checkpoint, **OPTIONS)
    outcome = run_process(*COMMAND, *args, cwd=folder)
    assert outcome.code == 1, outcome  # text.mp4
    assert len(keys_of(output)) == len(set(keys_of(output))) == 48
    assert len(rows_of(output)) == 52
    return output


def assert_as_uninterrupted(output, uninterrupted):
    assert_same_latents(output, uninterrupted)
    assert sorted(keys_of(output)) == sorted(keys_of(uninterrupted))
    assert (output / "bad.csv").read_text() == (uninterrupted / "bad.csv").read_text()
    assert_clean(output)


def start(args, cwd, **options):
    return subprocess.Popen(
        [sys.executable, *COMMAND, *args],
        cwd=cwd,
        env=process_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_shards(process, output, count):
    end = time.monotonic() + 120
    while len(shard_paths(output)) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_at_any_moment_it_goes_on_and_nothing_is_lost_or_doubled(
    videos, checkpoint, uninterrupted, tmp_path, rng
):
    output = tmp_path / "out"
    args = encode_flags(videos, output, checkpoint, **OPTIONS)
    kills = 0
    while True:
        before = keys_of(output) if output.exists() else []
        process = start(args, tmp_path)
        wait_for_shards(process, output, len(shard_paths(output)) + int(rng.integers(2, 20)))
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        errors = process.communicate(timeout=60)[1]
        assert set(before) <= set(keys_of(output)), "latents were lost"
        assert len(keys_of(output)) == len(set(keys_of(output))), "latents were doubled"
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 1, errors  # text.mp4
            break
        kills += 1
    assert kills >= 3
    assert_as_uninterrupted(output, uninterrupted)


def test_what_a_killed_run_left_half_written_is_cleared(
    videos, checkpoint, uninterrupted, tmp_path
):
    output = tmp_path / "out"
    shutil.copytree(uninterrupted, output)
    for name in (".shard-1-ab.part.safetensors", ".manifest-ab.part.parquet", ".tmpAbC123"):
        (output / name).write_bytes(b"half")
    (output / ".tmpDirect").mkdir()  # of another program: such a run leaves no folder
    args = encode_flags(videos, output, checkpoint, **OPTIONS)
    assert run_process(*COMMAND, *args, cwd=tmp_path).code == 1
    (output / ".tmpDirect").rmdir()
    assert_as_uninterrupted(output, uninterrupted)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_encoded(videos, checkpoint, uninterrupted, tmp_path, stop):
    output = tmp_path / "out"
    args = encode_flags(videos, output, checkpoint, **OPTIONS)
    process = start(args, tmp_path)
    wait_for_shards(process, output, 3)
    process.send_signal(stop)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, (errors, len(shard_paths(output)))
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors
    assert 3 <= len(shard_paths(output)) < len(shard_paths(uninterrupted))
    assert_clean(output)
    assert not (output / MANIFEST).exists()
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        LatentDataset(output)
    assert run_process(*COMMAND, *args, cwd=tmp_path).code == 1
    assert_as_uninterrupted(output, uninterrupted)


def test_on_a_full_disk_nothing_is_half_written(videos, checkpoint, uninterrupted, tmp_path):
    """A limit on files' sizes, as a full disk does, fails a write on its way."""
    output = tmp_path / "out"
    options = {**OPTIONS, "shard_minutes": 60}  # all in one shard
    args = encode_flags(videos, output, checkpoint, **options)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    process = start(args, tmp_path, preexec_fn=limit)
    errors = process.communicate(timeout=100)[1].splitlines()
    assert process.returncode == 2
    assert errors[-1].startswith("error: ") and str(output) in errors[-1], errors
    assert not any("Traceback" in line for line in errors)
    assert not shard_paths(output) and not (output / MANIFEST).exists()
    assert_clean(output)
    assert run_process(*COMMAND, *args, cwd=tmp_path).code == 1
    assert_as_uninterrupted(output, uninterrupted)


def test_two_processes_encode_as_one(videos, checkpoint, uninterrupted, tmp_path):
    output = tmp_path / "out"
    run_two(encode_flags(videos, output, checkpoint, **OPTIONS), tmp_path)
    assert_as_uninterrupted(output, uninterrupted)


def test_a_run_goes_on_with_another_number_of_processes(
    videos, checkpoint, uninterrupted, tmp_path, rng
):
    output = tmp_path / "out"
    args = encode_flags(videos, output, checkpoint, **OPTIONS)
    process = start(args, tmp_path)
    wait_for_shards(process, output, 4)
    process.kill()
    process.communicate(timeout=60)
    launcher = start_two(PROGRAM, [COMMAND[-1], *args], tmp_path)
    wait_for_shards(launcher, output, 18)
    time.sleep(rng.uniform(0, 0.05))
    kill_all(launcher)
    wait_until_nobody_works_in(output)
    done = len(keys_of(output))
    assert 8 <= done < 48
    outcome = run_process(*COMMAND, *args, cwd=tmp_path)
    assert outcome.code == 1, outcome
    assert_as_uninterrupted(output, uninterrupted)


def run_two(args, folder):
    process = start_two(PROGRAM, [COMMAND[-1], *args], folder)
    process.wait(timeout=300)
    text = printed(folder)
    assert "Encoded 11 videos, 0 done before, 1 failed" in text, text[-3000:]
    kept = [*(folder / "logs").glob("worker_*.log")]  # by msrun, which may repeat the first one's
    text = "".join(file.read_text(errors="replace") for file in kept) or text
    assert text.count("Encoded") == 1
