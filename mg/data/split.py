"""Which videos are for training, validation and test: a function of their names alone."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Split(NamedTuple):
    """Names of videos; no two of the sets have one in common."""

    train: set[str]
    val: set[str]
    test: set[str]


def split_by_group(
    names: Iterable[str], pattern: str, test_share: float, val_share: float
) -> Split:
    """Split videos by groups, so that what was cut from one film is never on both sides.

    Groups are put in the order of the SHA-256 of their names, which neither the order of the
    files nor the machine changes. The first go to the test set until that has its share of the
    videos, the next to the validation set until it has its share, the rest is for training. So
    the shares are reached or passed: each set with a share above 0 gets a group at least, as long
    as one is left for training. Of two groups one is for test, of one none.

    Args:
        names: of the videos, relative to their folder.
        pattern: regular expression for file names, see `group_of`.
        test_share: of all videos, from 0 to below 1.
        val_share: likewise.
    """
    names = set(names)
    test = take_groups(names, pattern, test_share * len(names))
    val = take_groups(names - test, pattern, val_share * len(names))
    return Split(names - test - val, val, test)


def split_by_lists(
    names: Iterable[str], train: set[str], test: set[str], pattern: str, val_share: float
) -> Split:
    """Split videos by lists of names; the validation set, `val_share` of all videos, comes out of
    the training list, by groups."""
    names = set(names)
    val = take_groups(names & train, pattern, val_share * len(names))
    return Split((names & train) - val, val, names & test)


def take_groups(names: set[str], pattern: str, at_least: float) -> set[str]:
    """Take whole groups until there are `at_least` so many videos, but never the last group."""
    groups = defaultdict(set)
    for name in names:
        groups[group_of(name, pattern)].add(name)
    taken: set[str] = set()
    for group in sorted(groups, key=_place)[:-1]:
        if len(taken) >= at_least:
            break
        taken |= groups[group]
    return taken


def group_of(name: str, pattern: str) -> str:
    """The text with which a file's name matches (that in parentheses, where the pattern has any),
    or the whole name with its folders where it does not match."""
    match = re.search(pattern, PurePosixPath(name).name)
    if match is None:
        return name
    return "\n".join(part or "" for part in match.groups()) or match.group()


def check_pattern(pattern: str) -> None:
    """Raise a ValueError unless `pattern` is a regular expression that needs some text."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        reason = f"group_pattern: '{pattern}' is not a regular expression: {error}"
        raise ValueError(reason) from None
    if compiled.search(""):
        raise ValueError(f"group_pattern: '{pattern}' matches every name, expected one of groups")


def read_lists(folder: str, number: int) -> tuple[set[str], set[str]]:
    """Read UCF-101's official trainlist0N.txt (lines of a name and a label) and testlist0N.txt.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a file that is no text, or names nothing, or a name in both.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of split files")
    paths = [Path(folder) / f"{kind}list{number:02}.txt" for kind in ("train", "test")]
    train, test = (_read_list(path) for path in paths)
    if both := train & test:
        raise ValueError(f"{min(both)} is in both {paths[0]} and {paths[1]}")
    return train, test


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such split file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a list in UTF-8 text ({error})") from None
    names = {re.sub(r"\s+\d+$", "", line.strip()) for line in lines if line.strip()}
    if not names:
        raise ValueError(f"{path}: names no video, expected one on each line")
    return names


def _place(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()
