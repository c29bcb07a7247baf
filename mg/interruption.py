"""Ending long work between two steps when it is asked to end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


class Interruption:
    """A context in which the first Ctrl-C or SIGTERM is only noted, so that it interrupts no file
    that is being written, and no decoder, which may swallow it; the second raises KeyboardInterrupt
    at once.

    Attributes:
        requested: whether one of the signals came.
    """

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

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
    """A context that the first Ctrl-C or SIGTERM interrupts at its end only."""
    with Interruption() as interruption:
        yield
    interruption.check()


def each_uninterrupted(items: Iterator[Item]) -> Iterator[Item]:
    """These items; while one is made, the first Ctrl-C or SIGTERM waits until it is there."""
    while True:
        with uninterrupted():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
