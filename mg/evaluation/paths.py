"""Where the files of an evaluation go."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

_LONGEST = 200  # bytes of a stem, so that what is added to it stays within a file name's 255


def reconstruction_paths(output: Path, names: list[str]) -> dict[str, Path]:
    """Where the reconstruction of each video of the CSV goes: a path of its own below `output`,
    named as the video and ending in .mp4. Where that or its side-by-side is another's already,
    it gets a number."""
    paths: dict[str, Path] = {}
    taken: set[Path] = set()
    for name in dict.fromkeys(names):
        leaving = ("..", PurePath(name).anchor)
        inside = [part for part in PurePath(name).parts if part not in leaving]
        path = output.joinpath(*inside or ["video"])
        stem = path.stem if path.suffix == ".mp4" else path.name
        stem = os.fsencode(stem)[:_LONGEST].decode(errors="ignore")
        candidates = (path.with_name(f"{stem}{mark}.mp4") for mark in _marks())
        free = (path for path in candidates if not taken & {path, side_by_side_path(path)})
        paths[name] = next(free)
        taken |= {paths[name], side_by_side_path(paths[name])}
    return paths


def _marks() -> Iterator[str]:
    """Nothing, _2, _3, ..."""
    yield ""
    yield from (f"_{number}" for number in itertools.count(2))


def side_by_side_path(reconstruction: Path) -> Path:
    """Where the original and its reconstruction, side by side, go."""
    return reconstruction.with_name(f"{reconstruction.stem}_side_by_side.mp4")
