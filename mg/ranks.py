"""One run on several processes, as `msrun` and `torchrun` start them."""

import atexit
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mg import backend
from mg.files import lock_folder


class Meeting:
    """Lets the processes of a run wait for one another as long as it takes, by files. Where one
    dies, the launcher ends those that wait.

    Args:
        folder: one of this run alone, that all of them see; files named N-RANK are this object's.
        rank, size: of this process, and how many there are.
    """

    def __init__(self, folder: Path, rank: int, size: int):
        self._folder, self._rank, self._size = folder, rank, size
        self._count = 0

    def wait(self) -> None:
        """Return once all processes have called this as often as this one has."""
        self._count += 1
        (self._folder / f"{self._count}-{self._rank}").touch()
        files = [self._folder / f"{self._count}-{rank}" for rank in range(self._size)]
        pause = 0.001
        while not all(file.exists() for file in files):
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        # All are here, so nobody looks for the one before.
        (self._folder / f"{self._count - 1}-{self._rank}").unlink(missing_ok=True)


_meeting: Meeting | None = None


def join() -> None:
    """Join the other processes of this run, if the framework's launcher started this one; all but
    the first of them log warnings only from then on.

    Raises:
        OSError: the processes do not find each other.
    """
    global _meeting
    backend.join_ranks()
    if backend.rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)
    if _meeting is None and backend.world_size() > 1 and backend.is_impatient():
        folder = gather(tempfile.mkdtemp(prefix="mg-") if is_first() else None)[0]
        if is_first():
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if all(gather(Path(folder).is_dir())):  # machines need not share it
            _meeting = Meeting(Path(folder), backend.rank(), backend.world_size())


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return backend.rank() == 0


def gather(value: Any) -> list[Any]:
    """What every process gave, in the order of ranks; `value` is anything that JSON holds.

    Raises:
        OSError: another process of the run died.
    """
    if backend.world_size() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    parts = np.zeros((2, backend.world_size()), np.float32)
    parts[:, backend.rank()] = divmod(text.size, 1 << 20)  # float32 is exact up to 2^24
    sizes = (_sum(parts).astype(int) * [[1 << 20], [1]]).sum(0)
    texts = np.zeros((len(sizes), sizes.max()), np.float32)  # bytes are exact in float32
    texts[backend.rank(), : text.size] = text
    rows = _sum(texts).astype(np.uint8)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


@contextmanager
def alone_in(
    folder: Path, *, busy: str, begin: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """A context in which no other run is at work in an existing folder.

    Args:
        busy: what to say if another is.
        begin: what the first process does before the others are let in.

    Raises:
        ValueError: another run is at work, or a process of one that was killed still is.
        OSError: the folder cannot be written.
    """
    with ExitStack() as stack:
        if is_first():
            # The first process keeps the run's lock. By taking the other one, which all processes
            # share, it finds out whether one of an earlier run is still at work.
            run = lock_folder(folder, shared=False, busy=busy, name=".lock-run")
            stack.enter_context(run)
            with lock_folder(folder, shared=False, busy=busy):
                begin()
            stack.enter_context(lock_folder(folder, shared=True, busy=busy))
        gather(None)
        if not is_first():
            stack.enter_context(lock_folder(folder, shared=True, busy=busy))
        yield


def mean(array: np.ndarray) -> np.ndarray:
    """The mean over all processes, in float32 where there are several.

    Raises:
        OSError: another process of the run died.
    """
    if backend.world_size() == 1:
        return array
    return _sum(array.astype(np.float32)) / backend.world_size()


def all_reduce_sum(tensors: Sequence[backend.Tensor]) -> list[backend.Tensor]:
    """The sums of each tensor over all processes.

    Raises:
        OSError: another process of the run died.
    """
    if _meeting:
        _meeting.wait()
    return backend.all_reduce_sum(tensors)


def _sum(array: np.ndarray) -> np.ndarray:
    return backend.to_numpy(all_reduce_sum([backend.from_numpy(array)])[0])
