"""An evaluation that was stopped or killed, and goes on."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from mg import backend, ranks
from mg.files import make_folder
from mg.journal import Journal

FOLDER = ".evaluation"


class Unfinished(NamedTuple):
    """What an evaluation keeps until it ends: the journal of its results, which knows those of all
    processes of runs before, and a folder for this process's clips."""

    journal: Journal
    clips: Path


@contextmanager
def unfinished(output: Path, work: Mapping[str, Any]) -> Iterator[Unfinished]:
    """A context in which an evaluation keeps what it has in a hidden folder of its directory, where
    the next run of the same work finds it. When all went well it is deleted, what was kept of other
    work included.

    Args:
        output: the evaluation's directory, an existing one.
        work: what decides the results of a video, in terms of JSON.

    Raises:
        ValueError: another evaluation is at work in this directory.
        OSError: the directory cannot be written.
    """
    key = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    folder = output / FOLDER / key[:20]
    with ranks.alone_in(output, busy="another evaluation is at work in this directory"):
        clips = folder / f"clips-{backend.rank()}"
        make_folder(clips)
        journals = sorted(folder.glob("*.jsonl"))
        journal = Journal(folder / f"{backend.rank()}.jsonl", journals)
        ranks.gather(None)  # all have read before one writes
        try:
            yield Unfinished(journal, clips)
        except BaseException:
            if ranks.is_first() and not any(folder.glob("*.jsonl")):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # what was kept of other work
                    folder.parent.rmdir()
            raise
        if ranks.is_first():
            shutil.rmtree(folder.parent, ignore_errors=True)
