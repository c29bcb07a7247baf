"""Results of a function of a step, computed ahead by worker processes, in order.

Each worker has a pipe of its own, whose writing end no other process holds. So when a worker is
killed, even half way through a result, the pipe ends, and the reader neither waits for ever (as
on a queue that several processes write) nor loses a result: it starts another worker at the step
that is due.
"""

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

logger = logging.getLogger(__name__)

_AHEAD = 2  # results that each worker keeps ready
_MAX_RESTARTS = 3  # without a result between them


class WorkerError(OSError):
    """Worker processes end again and again without giving a result.

    Attributes:
        reason: how the last one ended: its exit code, or the signal.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Workers:
    """The results of `task(start)`, `task(start + 1)`, ... from processes; endless.

    Worker w of n computes every n-th step. A worker that dies is replaced, with a warning, and
    no result is lost or changed. Warnings that workers log come with their results; this process
    logs each once.
    """

    def __init__(self, task: Callable[[int], Any], num_workers: int, start: int) -> None:
        self._task = task
        self._start = self._step = start
        self._restarts = 0
        self._workers: list[_Worker] = []
        try:
            for first in range(start, start + num_workers):
                self._workers.append(_Worker(task, first, num_workers))
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Any:
        """Wait for the next result.

        Raises:
            WorkerError: workers died several times, and no result came.
            Exception: what `task` raised.
        """
        place = (self._step - self._start) % len(self._workers)
        while True:
            try:
                result, error, trace, said = self._workers[place].connection.recv()
                break
            except (EOFError, OSError):
                self._restart(place)
        for message in said:
            _log_once(*message)
        if error is not None:
            raise error from RuntimeError(f"in a worker process:\n{trace}")
        self._step += 1
        self._restarts = 0
        return result

    def close(self) -> None:
        """End the processes. They only read files, so that nothing is left half done."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _restart(self, place: int) -> None:
        # One that died by itself tells why.
        reason = _explanation(self._workers[place].end(patience=5.0))
        ended = f"a process that reads videos ended ({reason})"
        if self._restarts == _MAX_RESTARTS:
            raise WorkerError(
                f"{ended}, and so did the {_MAX_RESTARTS} started in its place for step "
                f"{self._step}; fewer workers or smaller batches need less memory",
                reason,
            )
        self._restarts += 1
        logger.warning("%s; started another at step %d", ended, self._step)
        self._workers[place] = _Worker(self._task, self._step, len(self._workers))


class _Worker:
    """One process and the end of its pipe that gives (result, error, trace, what was logged) for
    each step."""

    def __init__(self, task: Callable[[int], Any], first: int, stride: int) -> None:
        # Not forked: FFmpeg's and a framework's threads would not survive it.
        context = multiprocessing.get_context("spawn")
        self.connection, writer = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_work, args=(task, first, stride, writer), daemon=True, name=f"videos-{first}"
        )
        # Ctrl-C is the main process's to handle: a child has the mask that its parent had. The
        # first child's start also starts this tracker, which would take the mask away.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
        try:
            self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            writer.close()  # or the pipe would not end with the process

    def end(self, patience: float = 0.0) -> int | None:
        """Kill it if it has not ended within `patience` seconds; gives its exit code."""
        self.connection.close()
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        return self._process.exitcode


def _explanation(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    hint = ", perhaps for lack of memory" if -exit_code == signal.SIGKILL else ""
    return f"killed by signal {-exit_code}{hint}"


def _work(task: Callable[[int], Any], first: int, stride: int, connection: Connection) -> None:
    ready: queue.Queue = queue.Queue(_AHEAD)
    sender = threading.Thread(target=_send, args=(ready, connection), daemon=True)
    sender.start()
    log = _Log()
    logging.getLogger().addHandler(log)
    for step in count(first, stride):
        try:
            ready.put((task(step), None, "", log.take()))
        except Exception as error:
            ready.put((None, _portable(error), traceback.format_exc(), log.take()))
            ready.put(None)
            sender.join()
            return
        if step == first:
            # Nothing ahead yet: if a later step is what kills workers, this one counts.
            ready.join()


class _Log(logging.Handler):
    """Keeps what is logged, as (logger, level, message)."""

    def __init__(self):
        super().__init__()
        self._messages: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._messages.append((record.name, record.levelno, record.getMessage()))
        except Exception:  # of a call whose message and arguments do not fit
            self.handleError(record)

    def take(self) -> list[tuple[str, int, str]]:
        """What was logged since this was called last."""
        taken, self._messages = self._messages, []
        return taken


@lru_cache(maxsize=1 << 14)
def _log_once(name: str, level: int, message: str) -> None:
    logging.getLogger(name).log(level, "%s", message)


def _send(ready: queue.Queue, connection: Connection) -> None:
    try:
        while (result := ready.get()) is not None:
            connection.send(result)
            ready.task_done()
    finally:  # all is said, or nobody reads any more: that process closed the pipe or was killed
        os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error itself, if it survives the way to the other process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
