"""Ending a run between two updates when it is asked to end."""

import signal
import threading
from types import FrameType

from mg import ranks


class StopRequest:
    """A context in which the first SIGTERM or Ctrl-C is kept until `made` asks for it; the second
    raises KeyboardInterrupt."""

    def __init__(self):
        self._signals = 0
        self._before = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def made(self) -> bool:
        """Whether any process of the run was asked to stop; the same answer on each."""
        return any(ranks.gather(self._signals > 0))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            signal.default_int_handler(number, frame)
