"""What long work has found so far, kept so that work that was killed can go on."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mg.files import Stamp, make_folder, stamp_of, writing


def stamp_if_there(file: str | os.PathLike) -> Stamp | None:
    """A file's stamp, or None where there is no file."""
    try:
        return stamp_of(file)
    except OSError:
        return None


class Journal:
    """What was found of files: a line of JSON for each, with the stamp that the file had.

    Args:
        path: of the journal to add to; it need not exist.
        others: of journals to read besides, other processes' say.
    """

    def __init__(self, path: str | os.PathLike, others: Iterable[Path] = ()):
        self._path = Path(path)
        self._found: dict[tuple[str, Stamp], Any] = {}
        others = [other for other in others if other != self._path]
        for journal in (*others, self._path):  # one's own counts most
            self._found |= _read(journal)

    def found(self, name: str, stamp: Stamp | None) -> Any | None:
        """What was found of the file of that name with that stamp; None if nothing was."""
        return None if stamp is None else self._found.get((name, stamp))

    def add(self, name: str, stamp: Stamp | None, found: Any) -> None:
        """Note what was found of a file: anything that JSON has.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps([name, stamp, found])
        make_folder(self._path.parent)
        with writing(self._path), self._path.open("a", encoding="utf-8") as journal:
            journal.write(f"\n{line}")  # of a line before, half may have been written


def _read(path: Path) -> dict[tuple[str, Stamp], Any]:
    found = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # there is none
        return {}
    for line in lines:
        try:
            name, (size, modified), what = json.loads(line)
            found[name, (size, modified)] = what
        except (ValueError, TypeError, RecursionError):  # half a line, of a process that was killed
            continue
    return found
