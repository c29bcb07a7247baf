"""Files that are either whole or absent, what tells them apart, and locks of folders."""

import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `target` to write; rename it onto `target` when all went well.

    Directories on the way are made, and links followed. The temporary file keeps the suffix of the
    name given, since writers choose their format by it. On any exception, KeyboardInterrupt
    included, it is removed and `target` stays as it was.

    Raises:
        OSError: the directory cannot be made or written; the target is a device or a pipe.
    """
    given, target = target, Path(os.path.realpath(target))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(f"{given}: a device or a pipe, expected a file")
    make_folder(target.parent)
    # Not the whole stem: the name may be as long as the file system takes.
    prefix, suffix = f".{target.stem[:40]}-", f".part{Path(given).suffix}"
    try:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
    except OSError as error:
        raise OSError(f"{given}: cannot be written: {error.strerror}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp, and some writers, let the owner alone read; give what open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike, what: str = "") -> Iterator[None]:
    """A context in which an OSError, of a full disk say, becomes one that names what is written."""
    try:
        yield
    except OSError as error:
        subject = f"{path}: the {what}" if what else f"{path}:"
        raise OSError(f"{subject} cannot be written: {error.strerror or error}") from error


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and those on the way to it, unless it is there.

    Raises:
        OSError: it cannot be made; its name is that of a file, say.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path}: cannot be made a folder: {error.strerror}") from None


def check_there(path: str | os.PathLike, what: str, *, is_folder: bool = False) -> None:
    """Raise unless there is such a file, or such a folder.

    Raises:
        FileNotFoundError: there is none; `what` says what was expected.
    """
    path = Path(path)
    if not (path.is_dir() if is_folder else path.is_file()):
        kind = "folder" if is_folder else "file"
        reason = f"not a {kind}, expected the {what}" if path.exists() else f"no such {what}"
        raise FileNotFoundError(f"{path}: {reason}")


def check_apart(written: Iterable[str | os.PathLike], read: Iterable[str | os.PathLike]) -> None:
    """Raise a ValueError if a file to be written is one that is read, by whatever name."""
    originals = {name: path for path in read for name in _names(path)}
    for path in written:
        for name in _names(path) & originals.keys():
            original = originals[name]
            raise ValueError(f"{path}: is {original} itself, expected another place to write")


def _names(path: str | os.PathLike) -> set:
    """What tells a file from others: its path without links and, where it is, its place on disk."""
    names: set = {os.path.realpath(path)}
    with suppress(OSError):
        status = os.stat(path)
        names.add((status.st_dev, status.st_ino))
    return names


def clear_half_written(folder: Path, stems: str) -> None:
    """Delete what killed processes left half written in a folder: files that are named as
    `atomic_path` and safetensors name theirs.

    Args:
        folder: it need not exist.
        stems: a regular expression for those of the files that were written by `atomic_path`.
    """
    # safetensors writes .tmp??????, and renames it when all is written.
    names = re.compile(rf"\.({stems})-\w+\.part(\.\w+)?|\.tmp\w{{6}}")
    for path in [*folder.iterdir()] if folder.is_dir() else []:
        if names.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


Stamp = tuple[int, int]
"""A file's size in bytes and time of change in nanoseconds, by which it is recognised unread."""


def stamp_of(path: str | os.PathLike) -> Stamp:
    """The stamp of a file; to be asked for before the file is read.

    Raises:
        OSError: it is not there.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lock_folder(
    folder: str | os.PathLike, *, shared: bool, busy: str, name: str = ".lock"
) -> TextIO:
    """Lock a folder for as long as this process lives or the file that is given stays open.

    Args:
        folder: an existing one.
        shared: let others in that share it too; otherwise nobody.
        busy: what to say when others have locked it.
        name: of the lock, an empty file that is left in the folder.

    Raises:
        ValueError: others have locked it, or the lock is no file.
        OSError: the folder cannot be written.
    """
    path = Path(folder) / name
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: not a file, expected the lock of the folder")
    file = path.open("a")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{folder}: {busy}") from None
    except OSError:  # a file system without locks
        logger.debug("%s: its file system has no locks", folder)
    return file
