"""Worker processes in themselves; what they read is in test_loader.py."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mg.data.workers import WorkerError, Workers

LARGE = 300_000  # bytes; a pipe holds 65536


def square(step):
    return step * step


def large_array(step):
    return np.full(LARGE, step, np.uint8)


def die_at_five(step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step


def exit_at_once(step):
    os._exit(7)


class DieSometimes:
    """Dies the first two times that each third step is computed, which files remember."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, step):
        deaths = len(list(self.folder.glob(f"{step}-*")))
        if step % 3 == 2 and deaths < 2:
            (self.folder / f"{step}-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)


def fail(step):
    raise Unpicklable("a reason", 2)


def take(task, count, num_workers=1, start=0):
    workers = Workers(task, num_workers, start)
    try:
        return [next(workers) for _ in range(count)]
    finally:
        workers.close()


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 7])
def test_results_come_in_order(num_workers, start):
    expected = [step * step for step in range(start, start + 10)]
    assert take(square, 10, num_workers, start) == expected


def test_large_results_come_whole():
    for step, array in enumerate(take(large_array, 6, num_workers=2)):
        assert np.array_equal(array, large_array(step))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_step_that_kills_every_worker_ends_in_one_line_that_names_it(num_workers):
    workers = Workers(die_at_five, num_workers, 0)
    try:
        assert [next(workers) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(WorkerError, match="killed by signal 9.*started in its place.*step 5"):
            next(workers)
    finally:
        workers.close()


def test_the_exit_code_of_a_worker_that_ends_is_named():
    with pytest.raises(OSError, match="exit code 7") as caught:
        take(exit_at_once, 1)
    assert "\n" not in str(caught.value)


def test_deaths_with_results_between_them_do_not_add_up(tmp_path):
    assert take(DieSometimes(tmp_path), 9, num_workers=2) == list(range(9))
    deaths = {path.name for path in tmp_path.iterdir()}
    assert deaths >= {"2-0", "2-1", "5-0", "5-1", "8-0", "8-1"}


def test_what_a_task_raises_is_raised_here_with_where_it_came_from():
    with pytest.raises(RuntimeError, match="Unpicklable") as caught:
        take(fail, 1)
    assert "in fail" in str(caught.value.__cause__)


def warn(step):
    logging.getLogger("mg.data.pixels").warning("%s: warned", "a.mp4" if step < 4 else "b.mp4")
    logging.getLogger("another").warning("%d", "no number")  # reported there, and no more
    if step == 5:
        raise ValueError("the last")
    return step


def test_what_workers_log_is_logged_here_once(caplog):
    workers = Workers(warn, 2, 0)
    try:
        assert [next(workers) for _ in range(5)] == [*range(5)]
        with pytest.raises(ValueError, match="the last"):
            next(workers)
    finally:
        workers.close()
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [("mg.data.pixels", "WARNING", f"{name}.mp4: warned") for name in "ab"]


SCRIPT = """
import multiprocessing, time
from mg.data.workers import Workers
from tests.data.test_workers import large_array

if __name__ == "__main__":
    workers = Workers(large_array, 2, 0)
    next(workers)
    print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


def is_running(pid):
    """Whether a process that is not ours runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def blocked_signals(step):
    return {number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def test_ctrl_c_never_reaches_a_worker_not_even_one_that_starts():
    workers = Workers(blocked_signals, 3, 0)
    try:
        assert all("SIGINT" in next(workers) for _ in range(3))
    finally:
        workers.close()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
