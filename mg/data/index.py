"""The CSV file that lists the videos of a data set."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mg.files import check_there

FRAMES_COLUMN = "frames"


class Entry(NamedTuple):
    """A video of a data set: its name, and how many frames the CSV says it has, if it does."""

    name: str
    num_frames: int | None


class Entries:
    """Entries by number, in less memory than a list of them, and quickly sent to a process."""

    def __init__(self, entries: Sequence[Entry]):
        names = [entry.name.encode() for entry in entries]
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names])
        self._counts = np.array([entry.num_frames or 0 for entry in entries], np.int32)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Entry:
        start = self._ends[number - 1] if number else 0
        name = self._names[start : self._ends[number]].decode()
        return Entry(name, int(self._counts[number]) or None)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))


def read_index(
    csv_path: str | os.PathLike, video_folder: str | os.PathLike, video_column: str = "video"
) -> list[str]:
    """Read the names of a data set's videos, in the CSV's order.

    Arguments and errors are those of `read_entries`.

    Returns:
        The names, at least one.
    """
    return [entry.name for entry in read_entries(csv_path, video_folder, video_column)]


def read_entries(
    csv_path: str | os.PathLike, video_folder: str | os.PathLike, video_column: str = "video"
) -> list[Entry]:
    """Read the names of a data set's videos and the numbers of their frames, in the CSV's order.

    Names are relative to `video_folder`; an absolute name, or one that leaves the folder by
    "..", is taken as it is. Whether each file exists is not checked here: a training run skips
    and names a missing file when it meets it. Nor is the number of frames, which the optional
    column "frames" holds, as `mg prepare` writes it; a blank one is an unknown one.

    Args:
        csv_path: UTF-8 text, comma separated, its first line naming the columns. Blank lines
            are ignored.
        video_folder: an existing folder.
        video_column: the column that holds the names.

    Returns:
        At least one entry.

    Raises:
        FileNotFoundError: no such CSV file, or no such folder.
        ValueError: the CSV is not text, lacks the column, names no video, or has a row without
            a name, with NUL in it, or with a number of frames that is no whole number above 0.
    """
    check_there(csv_path, "CSV file")
    check_there(video_folder, "video folder", is_folder=True)
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with open(csv_path, encoding="utf-8-sig", newline="") as file:
            entries = _read_rows(csv_path, csv.DictReader(file), video_column)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{csv_path}: not a CSV file of UTF-8 text ({error})") from None
    if not entries:
        raise ValueError(f"{csv_path}: names no video, expected a row for each")
    return entries


def check_some_there(
    csv_path: str | os.PathLike, video_folder: str | os.PathLike, names: Iterable[str]
) -> None:
    """Raise a ValueError if none of a data set's videos is there: mostly the folder is wrong, and
    each video would be named otherwise."""
    names = list(names)
    if not any(os.path.isfile(os.path.join(video_folder, name)) for name in names):
        raise ValueError(
            f"{csv_path}: none of its {len(names)} videos is there, expected them in "
            f"{video_folder}; the first: {names[0]}"
        )


def _read_rows(csv_path: str | os.PathLike, rows: csv.DictReader, column: str) -> list[Entry]:
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    if column not in rows.fieldnames:
        present = ", ".join(rows.fieldnames) or "none"
        raise ValueError(f"{csv_path}: no column '{column}'; its columns are: {present}")
    entries = []
    for row in rows:
        where = f"{csv_path}, line {rows.line_num}"
        name = (row[column] or "").strip()
        if not name:
            raise ValueError(f"{where}: no name in column '{column}'")
        if "\0" in name:  # which Python 3.10's csv module refuses, and no file has
            raise ValueError(f"{where}: NUL in column '{column}'")
        frames = None if column == FRAMES_COLUMN else row.get(FRAMES_COLUMN)
        entries.append(Entry(name, _read_count(where, frames)))
    return entries


def _read_count(where: str, text: str | None) -> int | None:
    text = (text or "").strip()
    if not text:
        return None
    # Not by int(), which also takes "1_000", or digits without end.
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text, re.ASCII):
        raise ValueError(
            f"{where}: '{text}' in column '{FRAMES_COLUMN}', expected a whole number above 0"
        )
    return int(text)


BAD_LIST = "bad.csv"


class Failure(NamedTuple):
    """A row of BAD_LIST: a video as the CSV names it, and what is wrong with it."""

    video: str
    reason: str


def write_rows(path: Path, columns: type, rows: Iterable[tuple]) -> None:
    """Write a CSV file of named tuples, of the class `columns`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns._fields)
        writer.writerows(rows)
