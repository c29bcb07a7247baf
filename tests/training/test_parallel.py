"""One run on two processes, started by the framework's own launcher."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli.support import (
    ROOT,
    data_flags,
    flags,
    process_environment,
    run_process,
    train_flags,
    write_checkpoint,
    write_dataset,
)
from devices import ONE_GPU
from evaluation.pages import VARIES, read_page, sizes_of
from safetensors.numpy import load_file

from mg import backend

TRAIN = ROOT / "scripts" / "train_tae.py"
EVALUATE = ROOT / "scripts" / "inference_tae.py"


# Seconds that msrun's processes wait for one another: a machine that is shared may be slow.
PATIENCE = {"MS_RECEIVE_MSG_TIMEOUT": "60", "MS_NODE_TIMEOUT": "60"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos, so that two processes' shares differ in size."""
    names = [f"{letter}.mp4" for letter in "abcde"]
    return write_dataset(tmp_path_factory.mktemp("videos"), names)


def start_two(script, args, folder: Path) -> subprocess.Popen:
    """Two processes of a script; what they print goes to `folder`/log."""
    if ONE_GPU:
        pytest.skip("two processes take two GPUs, or none")
    binaries = Path(sys.executable).parent
    if backend.name == "torch":
        command = [binaries / "torchrun", "--standalone", "--nproc_per_node=2", "--log-dir=logs"]
    else:
        command = [binaries / "msrun", "--worker_num=2", "--local_worker_num=2", "--join=True"]
        command += [f"--master_port={free_port()}", "--log_dir=logs"]
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"  # msrun calls the first `python` in it
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [*map(str, command), str(script), *map(str, args)],
            cwd=folder,
            env=process_environment(PATH=path, **PATIENCE),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def run_two(script, args, folder: Path) -> str:
    process = start_two(script, args, folder)
    code = process.wait(timeout=400)
    text = printed(folder)
    assert code == 0, text[-3000:]
    return text


def printed(folder: Path) -> str:
    """What the launcher and the processes printed; msrun keeps the latter in files, and may repeat
    the first one's."""
    files = [folder / "log", *sorted((folder / "logs").glob("worker_*.log"))]
    return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


def run_one(script, args, folder: Path) -> None:
    outcome = run_process(script, *args, cwd=folder)
    assert outcome.code == 0, outcome.err


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights_of(output: Path, step: int, name: str = "tae") -> dict[str, np.ndarray]:
    return load_file(output / "checkpoints" / f"step_{step}" / f"{name}.safetensors")


def assert_same_training(first: Path, second: Path, *, step: int) -> None:
    for one, two in zip(lines_of(first), lines_of(second), strict=True):
        assert one.keys() == two.keys()
        for key in one:
            if "seconds" not in key:
                # Of frames rounded to 8 bits, where a last bit may move some pixels by one.
                tolerance = 5e-4 if key.startswith(("val", "ceiling")) else 1e-6
                expected = pytest.approx(one[key], rel=1e-5, abs=tolerance)
                assert two[key] == expected, (key, one["step"])
    for name in ("tae", "ema"):
        one, two = weights_of(first, step, name), weights_of(second, step, name)
        # The softmax does not see a constant added to all keys: the gradient of their bias is
        # rounding alone, which Adam scales up to the learning rate.
        names = [name for name in one if not name.endswith("k.bias")]
        assert max(float(np.abs(one[name] - two[name]).max()) for name in names) < 1e-5


RUN = {
    "train_steps": 5,
    "random_flip": True,
    "ema_decay": 0.9,
    "num_workers": 1,
    "compile": "null",
    "val_steps": 5,
    "ckpt_save_steps": 0,
}


def parallel_flags(videos, output, **changes):
    validation = {"val_csv_path": videos / "videos.csv"}
    return train_flags(videos, output, **{**RUN, **validation, **changes})


def test_two_processes_of_batch_1_train_and_validate_as_one_of_batch_2(videos, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run_one(TRAIN, parallel_flags(videos, one, batch_size=2), tmp_path)
    text = run_two(TRAIN, parallel_flags(videos, two), tmp_path)
    assert "Trained. Checkpoint" in text
    assert_same_training(one, two, step=5)


def test_a_run_goes_from_two_processes_to_one_and_back(videos, tmp_path):
    one, moved = tmp_path / "one", tmp_path / "moved"
    options = {"val_csv_path": "null", "ema_decay": 0.5}
    run_one(TRAIN, parallel_flags(videos, one, **options, batch_size=2), tmp_path)
    run_two(TRAIN, parallel_flags(videos, moved, **options, train_steps=2), tmp_path)
    run_one(TRAIN, parallel_flags(videos, moved, **options, train_steps=3, batch_size=2), tmp_path)
    run_two(TRAIN, parallel_flags(videos, moved, **options), tmp_path)
    assert [line["step"] for line in lines_of(moved)] == [1, 2, 3, 4, 5]
    assert_same_training(one, moved, step=5)


def test_two_processes_evaluate_as_one(videos, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "tae.safetensors")
    (videos / "text.mp4").write_text("no video")
    names = ["video", "a.mp4", "b.mp4", "text.mp4", "c.mp4", "d.mp4", "e.mp4"]
    (videos / "with_text.csv").write_text("\n".join(names) + "\n")
    outputs = [tmp_path / "one", tmp_path / "two"]
    options = [
        flags(
            **data_flags(videos, output)
            | {"csv_path": videos / "with_text.csv", "ckpt_path": checkpoint}
            | {"num_frames": 4, "image_size": 8, "batch_size": 2, "compile": False}
        )
        for output in outputs
    ]
    assert run_process(EVALUATE, *options[0], cwd=tmp_path).code == 1  # text.mp4 failed
    process = start_two(EVALUATE, options[1], tmp_path)
    process.wait(timeout=300)
    assert process.returncode != 0
    first, second = (json.loads((output / "metrics.json").read_text()) for output in outputs)
    assert first["videos"] == second["videos"] == 5
    assert first["failed"] == second["failed"] == 1
    for name in ("psnr", "ssim"):
        assert second[name] == pytest.approx(first[name], rel=1e-9)
    rows = [(output / "metrics.csv").read_text().replace(str(output), "") for output in outputs]
    assert rows[0].splitlines()[0] == rows[1].splitlines()[0]
    assert [row.split(",")[0] for row in rows[1].splitlines()[1:]] == names[1:]
    pages = [read_page(output / "report.html") for output in outputs]
    assert pages[0].data == pages[1].data
    assert sizes_of(pages[0]) == pytest.approx(sizes_of(pages[1]), rel=VARIES)
    assert len(pages[1].clips) == 3 * 5
    assert any("text.mp4" in row for row in pages[1].rows)
    for output in outputs:
        assert {path.name for path in output.glob(".*")} == {".lock", ".lock-run"}
        assert len(list(output.glob("*.mp4"))) == 10


STOPPED = """
import sys
from mg.cli.main import main
from mg.evaluation import evaluate

score, calls = evaluate.score, []

def interrupted(*args):
    if len(calls) == 2:
        raise KeyboardInterrupt
    calls.append(1)
    return score(*args)

evaluate.score = interrupted
sys.exit(main(["evaluate", *sys.argv[1:]]))
"""


def test_two_processes_that_were_stopped_go_on_and_evaluate_as_one(videos, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "tae.safetensors")
    folder = shutil.copytree(videos, tmp_path / "videos")
    one, two = (
        flags(
            **data_flags(folder, tmp_path / name)
            | {"ckpt_path": checkpoint, "num_frames": 4, "image_size": 8, "compile": False}
        )
        for name in ("one", "two")
    )
    (tmp_path / "stopped.py").write_text(STOPPED)
    process = start_two(tmp_path / "stopped.py", two, tmp_path)
    process.wait(timeout=300)
    assert process.returncode != 0
    (kept,) = (tmp_path / "two" / ".evaluation").iterdir()
    lines = "\n".join(path.read_text() for path in kept.glob("*.jsonl"))
    noted = [json.loads(line)[0] for line in lines.splitlines() if line]
    assert 2 <= len(noted) <= 4
    # One of them changes; the first process's journal also knows it as it is not any more.
    changed = write_dataset(tmp_path / "other", [noted[0]], num_frames=9) / noted[0]
    shutil.copy(changed, folder / noted[0])
    (kept / "0.jsonl").write_text(lines)
    run_one(EVALUATE, one, tmp_path)
    text = run_two(EVALUATE, two, tmp_path)
    assert f"{len(noted) - 1} videos were evaluated before, {6 - len(noted)} are left" in text
    pages = [read_page(tmp_path / name / "report.html") for name in ("one", "two")]
    assert pages[0].data == pages[1].data
    first, second = ((tmp_path / name / "metrics.csv").read_text() for name in ("one", "two"))
    assert first == second
    assert not (tmp_path / "two" / ".evaluation").exists()


LATE = """
import time
from mg import backend, ranks

backend.set_device("auto")
ranks.join()
if backend.rank() == 1:
    time.sleep(40)
print(f"all said {ranks.gather(backend.rank())}\\n", end="", flush=True)
"""


@pytest.mark.slow
def test_processes_wait_for_one_that_comes_late(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    process = start_two(tmp_path / "late.py", [], tmp_path)
    assert process.wait(timeout=200) == 0, printed(tmp_path)[-3000:]
    assert printed(tmp_path).count("all said [0, 1]") >= 2


def test_a_dying_process_ends_the_run_with_a_message(videos, tmp_path):
    output = tmp_path / "run"
    process = start_two(TRAIN, parallel_flags(videos, output, train_steps=100_000), tmp_path)
    try:
        end = time.monotonic() + 240
        while not (output / "metrics.jsonl").exists() or len(lines_of_whole(output)) < 3:
            assert process.poll() is None and time.monotonic() < end, printed(tmp_path)[-3000:]
            time.sleep(0.05)
        os.kill(second_process(process.pid), signal.SIGKILL)
        assert process.wait(timeout=240) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = printed(tmp_path)
    if backend.name == "torch":  # torchrun may end the other process before it notices by itself
        assert "Signal 9 (SIGKILL)" in text
    else:
        assert "exit with exception" in text and "kill all other workers" in text
    assert [line["step"] for line in lines_of_whole(output)][:2] == [0, 1]


def lines_of_whole(output: Path) -> list[dict]:
    lines = (output / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def second_process(launcher: int) -> int:
    """The training process of rank 1, among the launcher's children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for pid in children:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in variables or (
            b"RANK_ID=1" in variables and b"MS_ROLE=MS_WORKER" in variables
        ):
            return int(pid)
    raise AssertionError(f"no process of rank 1 among {children}")
