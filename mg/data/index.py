"""The CSV file that lists the videos of a data set."""

import csv
import os
from pathlib import Path


def read_index(
    csv_path: str | os.PathLike, video_folder: str | os.PathLike, video_column: str = "video"
) -> list[str]:
    """Read the names of a data set's videos, in the CSV's order.

    Names are relative to `video_folder`; an absolute name, or one that leaves the folder by
    "..", is taken as it is. Whether each file exists is not checked here: a training run skips
    and names a missing file when it meets it.

    Args:
        csv_path: UTF-8 text, comma separated, its first line naming the columns. Blank lines
            are ignored.
        video_folder: an existing folder.
        video_column: the column that holds the names.

    Returns:
        The names, at least one.

    Raises:
        FileNotFoundError: no such CSV file, or no such folder.
        ValueError: the CSV is not text, lacks the column, names no video, or has a row without
            a name.
    """
    if not Path(csv_path).is_file():
        raise FileNotFoundError(f"{csv_path}: no such CSV file")
    if not Path(video_folder).is_dir():
        raise FileNotFoundError(f"{video_folder}: no such video folder")
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with open(csv_path, encoding="utf-8-sig", newline="") as file:
            names = _read_column(csv_path, csv.DictReader(file), video_column)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{csv_path}: not a CSV file of UTF-8 text ({error})") from None
    if not names:
        raise ValueError(f"{csv_path}: names no video, expected a row for each")
    return names


def _read_column(csv_path: str | os.PathLike, rows: csv.DictReader, column: str) -> list[str]:
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    if column not in rows.fieldnames:
        present = ", ".join(rows.fieldnames) or "none"
        raise ValueError(f"{csv_path}: no column '{column}'; its columns are: {present}")
    names = []
    for row in rows:
        name = (row[column] or "").strip()
        if not name:
            raise ValueError(f"{csv_path}, line {rows.line_num}: no name in column '{column}'")
        names.append(name)
    return names
