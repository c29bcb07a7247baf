"""What the processes of one run tell one another through files."""

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from mg import backend, ranks
from mg.files import atomic_path

FOLDERS = ".exchange-*"


class Exchange:
    """Gathers values of all processes and waits for the slowest as long as it takes; messages of
    Ascends wait for half an hour (`HCCL_EXEC_TIMEOUT`).

    Where a process dies, the launcher ends the others, waiting ones too.

    Args:
        directory: one that all processes see. It is clean again after `close`.
    """

    def __init__(self, directory: Path):
        self._folder = directory / FOLDERS.replace("*", ranks.gather(uuid.uuid4().hex)[0])
        self._meeting = ranks.Meeting(self._folder, backend.rank(), backend.world_size())

    def gather(self, name: str, value: Any) -> list[Any]:
        """What every process gave under this name, in the order of ranks; `value` is anything that
        JSON holds.

        Raises:
            OSError: the directory cannot be written.
        """
        if backend.world_size() == 1:
            return [value]
        files = [self._folder / f"{name}-{rank}.json" for rank in range(backend.world_size())]
        with atomic_path(files[backend.rank()]) as temporary:
            temporary.write_text(json.dumps(value))
        self._meeting.wait()
        return [json.loads(file.read_text()) for file in files]

    def close(self) -> None:
        """Wait for all processes and remove the files."""
        if backend.world_size() > 1:
            self.gather("end", None)
            ranks.gather(None)
            if ranks.is_first():
                shutil.rmtree(self._folder)
