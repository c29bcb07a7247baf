"""What long work has found so far, kept so that work that was killed can go on."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mg.files import make_folder, writing


class Journal:
    """What was found of files, each in a line of JSON, with the size and date that the file had.

    Args:
        path: of the journal to add to; it need not exist.
        others: of journals to read besides, other processes' say.
    """

    def __init__(self, path: str | os.PathLike, others: Iterable[Path] = ()):
        self._path = Path(path)
        self._found: dict[str, tuple[list[int], Any]] = {}
        for journal in (*others, self._path):
            self._found |= _read(journal)

    def found(self, name: str, file: Path) -> Any | None:
        """What was found of the file of that name; None if nothing was, or the file has changed."""
        stamp, found = self._found.get(name, (None, None))
        return found if stamp is not None and stamp == _stamp(file) else None

    def add(self, name: str, file: Path, found: Any) -> None:
        """Note what was found of a file: anything that JSON has.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps([name, _stamp(file), found])
        make_folder(self._path.parent)
        with writing(self._path), self._path.open("a", encoding="utf-8") as journal:
            journal.write(f"\n{line}")  # of a line before, half may have been written


def _read(path: Path) -> dict[str, tuple[list[int], Any]]:
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:  # there is none
        return {}
    for line in lines:
        try:
            name, stamp, what = json.loads(line)
        except (ValueError, TypeError):  # nothing, or half a line of a process that was killed
            continue
        found[name] = stamp, what
    return found


def _stamp(file: Path) -> list[int] | None:
    """A file's size in bytes and time of change in nanoseconds."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
