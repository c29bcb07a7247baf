"""Which videos of a data set are to be encoded, and which are the same or done already."""

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mg import backend, ranks
from mg.data.index import Failure
from mg.data.opening import VideoError, check_file, reason_of
from mg.files import sha256, stamp_of
from mg.inference.exchange import Exchange
from mg.latents.inventory import Inventory

logger = logging.getLogger(__name__)


class SourceFile(NamedTuple):
    """A file: its name in the CSV, size in bytes and time of change in nanoseconds."""

    name: str
    size: int
    modified: int


@dataclass(frozen=True)
class Source:
    """Files with one content: `video_sha256`, or None while that of a single file is not known."""

    files: list[SourceFile]
    video_sha256: str | None


@dataclass(frozen=True)
class Sources:
    """What is to be done: `pending`; and how many videos are `done`, which `failed`."""

    pending: list[Source]
    done: int
    failed: list[Failure]


def find_sources(
    names: list[str], folder: Path, inventory: Inventory, exchange: Exchange
) -> Sources:
    """Tell what is to be encoded; the same on all processes, each of which looks at its share.

    Two files are the same video if their contents are, by SHA-256, wherever they lie and whatever
    they are called. To save reading, a file whose size and time of change are those of the one that
    was encoded under its name is taken for that one. Of the others, only those are read here that
    share their name with an encoded one, or their size with any.

    Raises:
        OSError: the exchange's directory cannot be written.
    """
    states = _merged(exchange, "states", {name: _state(folder / name) for name in _share(names)})
    records = {name: inventory.files[name] for name in names if name in inventory.files}
    known = {
        name: record.video_sha256
        for name, record in records.items()
        if isinstance(states[name], str) or states[name] == [record.size, record.modified]
    }
    done = [name for name in known if inventory.is_complete(known[name])]
    finished = set(done)
    rest = [name for name in names if name not in finished]
    failed = {name: state for name in rest if isinstance(state := states[name], str)}
    files = [SourceFile(name, *states[name]) for name in rest if name not in failed]
    sizes = Counter(
        [file.size for file in files] + [file.size for file in inventory.files.values()]
    )
    doubtful = [f.name for f in files if f.name in records or sizes[f.size] > 1]
    contents = _contents(folder, [n for n in doubtful if n not in known], failed, exchange) | known

    groups: dict[str, Source] = {}
    for file in files:
        record, content = records.get(file.name), contents.get(file.name)
        if file.name in failed:
            continue
        if record and content != record.video_sha256:
            failed[file.name] = "is not the video whose latents are stored under this name"
        elif record and inventory.is_complete(record.video_sha256):
            done.append(file.name)  # it was touched, not changed
        else:
            groups.setdefault(content or file.name, Source([], content)).files.append(file)
    if ranks.is_first() and len(failed) < len(names):  # or else the run ends, and says why
        for name, reason in failed.items():
            logger.warning("%s: %s", folder / name, reason)
    return Sources([*groups.values()], len(done), [Failure(*item) for item in failed.items()])


def _share(names: list[str]) -> list[str]:
    return names[backend.rank() :: backend.world_size()]


def _state(path: Path) -> list[int] | str:
    """Size and time of change of a file, or why it is none."""
    try:
        if not os.path.isfile(path):
            check_file(path)  # which says what is wrong with it
        return [*stamp_of(path)]
    except (VideoError, OSError) as error:
        return reason_of(error, path)


def _contents(
    folder: Path, names: list[str], failed: dict[str, str], exchange: Exchange
) -> dict[str, str]:
    """The SHA-256 of each file; those that cannot be read go to `failed`."""
    hashes, errors = {}, {}
    share = _share(names)
    for name in tqdm(share, "comparing", unit="file", disable=not (share and ranks.is_first())):
        try:
            hashes[name] = sha256(folder / name)
        except OSError as error:
            errors[name] = f"cannot be read: {error.strerror}"
    failed |= _merged(exchange, "errors", errors)
    return _merged(exchange, "hashes", hashes)


def _merged(exchange: Exchange, name: str, values: dict) -> dict:
    return {key: value for part in exchange.gather(name, values) for key, value in part.items()}
