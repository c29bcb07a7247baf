"""What a run leaves, and goes on from: checkpoints, metrics, recipe."""

import contextlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mg import backend, ranks
from mg.files import atomic_path, lock_folder, make_folder, writing
from mg.options import parse_options
from mg.training.checkpoint import (
    WEIGHTS,
    Checkpoint,
    clear_remains,
    delete_newer,
    keep_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from mg.training.recipe import Recipe, check_continues

logger = logging.getLogger(__name__)

_STEMS = r"recipe|metrics|best|tae|step_\d+"  # of the files that are written here


class RunDirectory:
    """`output_path` of a run: `recipe.yaml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`,
    `best.json` and, in the end, the weights to use: `tae.ckpt` (MindSpore) or `tae.safetensors`
    (PyTorch).

    Every process of a run has one; the first alone writes. Before `begin`, it writes nothing but
    `.lock`.

    Attributes:
        weights: where the weights to use go in the end.
        start_weights: the network's weights in the newest whole checkpoint, from which the run goes
            on, or None.

    Raises:
        ValueError: another process trains in this directory.
    """

    def __init__(self, recipe: Recipe):
        self.path = Path(recipe.output_path)
        self.weights = self.path / f"tae{backend.checkpoint_suffix}"
        self._recipe = recipe
        self._checkpoints = self.path / "checkpoints"
        self._lock = self._metrics = self._tensorboard = None
        found = None
        if ranks.is_first() and self.path.is_dir():
            self._take_lock()
            found = newest_checkpoint(self._checkpoints)
        name = ranks.gather(found and found.name)[0]
        self.start_weights = self._checkpoints / name / WEIGHTS if name else None

    def read_start(self) -> Checkpoint | None:
        """The checkpoint from which the run goes on, if there is one. It is as large as the network
        and its moments, and not kept here.

        Raises:
            ValueError, OSError: it cannot be read, or the recipe cannot go on with it.
        """
        if self.start_weights is None:
            return None
        path = self.start_weights.parent
        start = read_checkpoint(path)
        changes = check_continues(parse_options(start.recipe), self._recipe)
        logger.info("%s: going on from %s", self.path, path.name)
        if ranks.is_first():
            for key, values in changes.items():
                logger.warning("the recipe's %s was %r and is %r from here on", key, *values)
        return start

    def begin(self, step: int, best: dict | None) -> None:
        """Make the directory ready for writing. What was logged after update `step`, the last one
        saved, is dropped (everything, if that is 0), and so are later checkpoints; `best`, as it
        was then, is the best again.

        Raises:
            OSError: the directory cannot be made or written.
        """
        if not ranks.is_first():
            return
        self._take_lock()
        for folder in (self.path, self.path / "validation", self._checkpoints):
            clear_remains(folder, _STEMS)
        delete_newer(self._checkpoints, step)
        with atomic_path(self.path / "recipe.yaml") as temporary:
            temporary.write_text(self._recipe.to_yaml())
        self._write_best(best)
        metrics = self.path / "metrics.jsonl"
        with atomic_path(metrics) as temporary, temporary.open("wb") as file:
            if step:
                file.writelines(_lines_until(metrics, step))
        self._metrics = metrics.open("a", buffering=1)
        self._tensorboard = _Events(self.path / "tensorboard", step and step + 1)

    def weights_at(self, step: int, network: str) -> str:
        """Where, below this directory, a checkpoint has a network's weights: "tae" or "ema"."""
        return f"{self._checkpoints.name}/step_{step}/{network}.safetensors"

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append an entry to `metrics.jsonl`, and its numbers to TensorBoard. What is not finite
        becomes null, since JSON has no such numbers.

        Raises:
            OSError: they cannot be written.
        """
        if not (self._metrics and self._tensorboard):
            return
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()
        }
        with writing(self.path, "metrics"):
            self._metrics.write(json.dumps({"step": step, **finite}) + "\n")
            for name, value in finite.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_number(name, value, step)
            self._tensorboard.flush()

    def log_picture(self, step: int, picture: np.ndarray | None) -> None:
        """Write a picture, uint8 `(h w 3)`, as `validation/step_N.png` and to TensorBoard.

        Raises:
            OSError: it cannot be written.
        """
        if self._tensorboard and picture is not None:
            with writing(self.path, "picture"):
                self._tensorboard.add_picture("validation", picture, step)
                with atomic_path(self.path / "validation" / f"step_{step}.png") as temporary:
                    Image.fromarray(picture).save(temporary)

    def save(self, step: int, arrays: dict, state: dict, config: dict) -> None:
        """Write a checkpoint, then delete those that need not be kept.

        Args:
            arrays: by file, then by name.
            state: numbers; its "progress" has "best", see `Progress`, or None.
            config: of the TAE.

        Raises:
            OSError: it cannot be written; the checkpoints before are as they were.
        """
        if not self._metrics:
            return
        with writing(self.path, "metrics"):
            os.fsync(self._metrics.fileno())
        versions = {"python": platform.python_version(), backend.name: backend.version}
        state = {**state, "versions": versions}
        checkpoint = Checkpoint(arrays, state, self._recipe.to_yaml())
        path = write_checkpoint(self._checkpoints, step, checkpoint, config)
        logger.info("wrote %s", path)
        best = state["progress"]["best"]
        self._write_best(best)
        keep_checkpoints(
            self._checkpoints,
            last=self._recipe.keep_checkpoints,
            best=best and best["step"],
        )

    def _write_best(self, best: dict | None) -> None:
        if not best:  # forgotten, where the validation is another than before
            (self.path / "best.json").unlink(missing_ok=True)
            return
        with atomic_path(self.path / "best.json") as temporary:
            temporary.write_text(json.dumps(best, indent=2) + "\n")

    def close(self) -> None:
        """Finish the files.

        Raises:
            OSError: they cannot be written.
        """
        # Each, even if another cannot be finished.
        with writing(self.path, "metrics"), contextlib.ExitStack() as files:
            for file in (self._lock, self._tensorboard, self._metrics):
                if file:
                    files.callback(file.close)

    def _take_lock(self) -> None:
        """Keep other runs out of the directory for as long as this process lives."""
        if self._lock:
            return
        make_folder(self.path)
        self._lock = lock_folder(
            self.path, shared=False, busy="another process trains in this directory"
        )


class _Events:
    """TensorBoard's events, written by the calling thread. That of tensorboardX's SummaryWriter
    ends without a word where the disk is full, and then what waits for it waits for ever.

    Args:
        folder: of the file, which is a new one.
        purge_step: of files before, TensorBoard shows nothing from that step on.
    """

    def __init__(self, folder: Path, purge_step: int):
        # Here, after the framework: MindSpore cannot be imported once protobuf is, which this does.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore

        self._event, self._summary = Event, summary
        folder.mkdir(exist_ok=True)
        # Its name has the second; a run of less than one would lose its file to the next.
        self._file = EventsWriter(str(folder / "events"), f".{purge_step}")
        self._write(purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush, self.close = self._file.flush, self._file.close

    def add_number(self, name: str, value: float, step: int) -> None:
        self._write(step, summary=self._summary.scalar(name, value))

    def add_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture uint8 `(h w 3)`."""
        self._write(step, summary=self._summary.image(name, picture, dataformats="HWC"))

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event(step=step, wall_time=time.time(), **content))


def _lines_until(metrics: Path, step: int) -> Iterator[bytes]:
    """The lines of metrics.jsonl up to a step; damaged ones, a torn last one say, are dropped."""
    if not metrics.exists():
        return
    with metrics.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                kept = json.loads(line)["step"] <= step
            except (ValueError, LookupError, TypeError, RecursionError):
                logger.warning("%s: line %d is damaged, and dropped", metrics, number)
                continue
            if kept:
                yield line if line.endswith(b"\n") else line + b"\n"
