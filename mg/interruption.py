"""Ending long work between two steps when it is asked to end."""

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a program to end: Ctrl-C, `kill`, and a terminal that is closed."""


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """A context in which `handler` takes `SIGNALS`, but those that are ignored, as with nohup. Only
    the main thread gets signals."""
    before = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _forget_terminal()
        handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _forget_terminal() -> None:
    """Let what is still printed go nowhere: to write to a closed terminal is an error."""
    with open(os.devnull, "w") as nowhere:
        for output in (1, 2):
            with suppress(OSError):  # it may be closed
                if stat.S_ISCHR(os.fstat(output).st_mode):
                    os.dup2(nowhere.fileno(), output)


class Interruption:
    """A context in which the first of `SIGNALS` is only noted, so that it interrupts no file that
    is being written, and no decoder, which may swallow it; the second raises KeyboardInterrupt at
    once.

    Attributes:
        requested: whether one of the signals came.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "Interruption":
        self._handled = signals_to(self._note)
        self._handled.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handled.__exit__(*exception)

    def check(self) -> None:
        """Raise KeyboardInterrupt if one of the signals came."""
        if self.requested:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.default_int_handler(number, frame)
        self.requested = True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A context that the first of `SIGNALS` interrupts at its end only."""
    with Interruption() as interruption:
        yield
    interruption.check()


def each_uninterrupted(items: Iterator[Item]) -> Iterator[Item]:
    """These items; while one is made, the first of `SIGNALS` waits until it is there."""
    while True:
        with uninterrupted():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
