"""An evaluation that was stopped or killed, and goes on."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mg import backend, ranks
from mg.files import lock_folder, make_folder
from mg.journal import Journal

_BUSY = "another evaluation is at work, into the directory that this folder is in"


class Unfinished(NamedTuple):
    """What an evaluation keeps until it ends: the journal of its results, those of all processes of
    runs before included, and a folder of this process's clips."""

    journal: Journal
    clips: Path


@contextmanager
def unfinished(output: Path, work: Mapping[str, Any]) -> Iterator[Unfinished]:
    """A context in which an evaluation keeps what it has in a hidden folder of its directory. When
    all went well it is deleted, otherwise it stays for the next run, unless it holds no result.

    Args:
        output: the evaluation's directory.
        work: what decides its results, in terms of JSON; what was kept of other work is deleted.

    Raises:
        ValueError: another evaluation is at work in this directory.
        OSError: the directory cannot be written.
    """
    key = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    folder = output / f".evaluation-{key[:20]}"
    with ExitStack() as stack:
        if ranks.is_first():
            make_folder(folder)
            for kept in output.glob(".evaluation-*"):
                lock = lock_folder(kept, shared=False, busy=_BUSY)
                if kept == folder:
                    stack.enter_context(lock)
                else:
                    lock.close()
                    shutil.rmtree(kept)
        ranks.gather(None)
        journals = sorted(folder.glob("*.jsonl"))
        clips = folder / f"clips-{backend.rank()}"
        make_folder(clips)
        journal = Journal(folder / f"{backend.rank()}.jsonl", journals)
        ranks.gather(None)  # all have read before one writes
        is_done = False
        try:
            yield Unfinished(journal, clips)
            is_done = True
        finally:
            if ranks.is_first() and (is_done or not any(folder.glob("*.jsonl"))):
                shutil.rmtree(folder, ignore_errors=True)
