"""All that a run needs to go on exactly, in a directory that is whole or absent.

tae.safetensors       the weights, a checkpoint like any other
ema.safetensors       their moving average, another one, where the recipe asks for it
*.safetensors         optimiser moments, discriminator
state.json            numbers: step, place in the data, counts, versions
recipe.yaml           the recipe, every key
SHA256SUMS            of all these; `sha256sum -c SHA256SUMS` checks them too
"""

import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mg.arrays import Arrays, read_safetensors
from mg.files import clear_half_written, sha256
from mg.models.tae.weights import write_weights
from mg.options import parse_options

logger = logging.getLogger(__name__)

WEIGHTS = "tae.safetensors"
_SUMS = "SHA256SUMS"
_NAME = re.compile(r"step_(\d+)")
_REMAINS = re.compile(r"\.step_\d+-\w+\.part")  # a folder, as `write_checkpoint` names it


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        arrays: by file (without `.safetensors`), then by name.
        state: numbers, lists and texts.
        recipe: the recipe's YAML.
    """

    arrays: dict[str, Arrays]
    state: dict
    recipe: str


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, config: dict) -> Path:
    """Write `folder/step_N`: in a directory beside it, synced to the disk, then renamed. The TAE's
    `config` goes into each file of arrays.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{step}"
    temporary = Path(tempfile.mkdtemp(prefix=f".step_{step}-", suffix=".part", dir=folder))
    try:
        for name, arrays in checkpoint.arrays.items():
            write_weights(temporary / f"{name}.safetensors", arrays, config)
        _write_text(temporary / "state.json", json.dumps(checkpoint.state, indent=2) + "\n")
        _write_text(temporary / "recipe.yaml", checkpoint.recipe)
        sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
        _write_text(temporary / _SUMS, "".join(sums))
        temporary.chmod(0o755)
        _sync_directory(temporary)
        if target.exists():  # a damaged one, else the run would have gone on from it
            delete_checkpoint(target)
        temporary.rename(target)
        _sync_directory(folder)
    except OSError as error:
        raise OSError(
            f"{target}: the checkpoint cannot be written: {error.strerror or error}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `check_checkpoint` found whole.

    Raises:
        ValueError, OSError: a file cannot be read, or was not written for the step of that name.
    """
    files = filter(Path.is_file, path.glob("*.safetensors"))  # a pipe would be waited for
    arrays = {file.stem: read_safetensors(file)[0] for file in files}
    recipe = (path / "recipe.yaml").read_text(errors="replace")
    try:
        state = json.loads((path / "state.json").read_bytes())
        step = state["progress"]["step"]
        if step != step_of(path):
            raise ValueError(f"its state is that after update {step}")
        parse_options(recipe)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a checkpoint of that name ({error})") from None
    return Checkpoint(arrays, state, recipe)


def check_checkpoint(path: Path) -> None:
    """Compare the files of a checkpoint with their hashes.

    Raises:
        ValueError: a file is missing, torn or altered.
    """
    if not (path / _SUMS).is_file():
        raise ValueError(f"{path}: no {_SUMS}, expected a checkpoint")
    lines = (path / _SUMS).read_text(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    expected = {WEIGHTS, "state.json", "recipe.yaml"}
    for name in sorted(expected | set(sums)):
        file = path / name
        if Path(name).name != name or name not in sums or not file.is_file():
            raise ValueError(f"{path}: its {name} is missing")
        if sha256(file) != sums[name]:
            raise ValueError(f"{file}: torn or altered, its SHA-256 is not that of {_SUMS}")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are warned of and passed over.

    Raises:
        ValueError: there are some, and none is whole.
        OSError: one cannot be read, which does not prove it damaged.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            check_checkpoint(path)
        except ValueError as error:
            logger.warning("%s; trying the checkpoint before", error)
            continue
        return path
    if found:
        raise ValueError(
            f"{folder}: none of its {len(found)} checkpoints is whole; move them away to begin "
            "anew, or choose another output_path"
        )
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, by their steps."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.name.removeprefix("step_"))


def keep_checkpoints(folder: Path, *, last: int, best: int | None) -> None:
    """Delete all but the `last` newest checkpoints and that of the step `best`."""
    for path in list_checkpoints(folder)[:-last]:
        if step_of(path) != best:
            delete_checkpoint(path)


def delete_newer(folder: Path, step: int) -> None:
    """Delete the checkpoints after `step`, the damaged ones that were passed over; they would
    count as the newest."""
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            logger.warning("%s: deleted, since training goes on from update %d", path, step)
            delete_checkpoint(path)


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint, so that it is whole or gone whenever this ends."""
    hidden = path.with_name(f".{path.name}-deleted.part")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def clear_remains(folder: Path, stems: str) -> None:
    """Delete what a killed run left half written or half deleted, and nothing of others': of
    checkpoints, and of files whose stems match a regular expression."""
    clear_half_written(folder, stems)
    for path in folder.glob(".step_*.part"):
        if _REMAINS.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
