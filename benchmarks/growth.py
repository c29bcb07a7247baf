"""How time and memory of encoding and decoding grow with frames and with pixels, for speed.py."""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from contestants import CONTESTANTS, Entrant, conditions_of, race

GROWING = ["ours-torch", "ours-mindspore"]
WHOLE_FRAMES = 64  # as many as are computed at once
FEW_FRAMES = 8  # of growth with pixels


def growth(names: list[str], options: argparse.Namespace) -> Iterator[tuple]:
    """Tables of growth with frames (whole, in tiles, as a stream) and with pixels (whole); each
    number is of a process of its own."""
    sweeps = {
        f"frames of {options.growth_pixels}x{options.growth_pixels}": [
            (way, frames, options.growth_pixels)
            for way in ("whole", "tiled", "stream")
            for frames in options.frames
            if way != "whole" or frames <= WHOLE_FRAMES
        ],
        f"pixels, {FEW_FRAMES} frames": [
            ("whole", FEW_FRAMES, pixels) for pixels in options.pixels
        ],
    }
    for title, places in sweeps.items():
        rows = [_grown(name, *place, options) for name in names for place in places]
        title = f"growth with {title}, {options.dtype}, ch {options.ch}"
        yield title, [*HEAD, *map(_line, rows)], rows


def _grown(name: str, way: str, frames: int, pixels: int, options: argparse.Namespace) -> dict:
    conditions = conditions_of("inference", frames, pixels, options)
    entrant = Entrant(name, replace(CONTESTANTS[name], way=way), conditions)
    race([entrant], options.rounds, apart=False)
    row = {"name": name, "label": entrant.contestant.label, "way": way, "frames": frames}
    row |= {"framework": entrant.contestant.framework, "pixels": pixels}
    if entrant.failure:
        return row | {"failure": entrant.failure}
    row |= {"seconds": entrant.seconds, "compile_seconds": entrant.compile_seconds()}
    medians = {turn: entrant.median(turn) for turn in entrant.seconds}
    return row | {"medians": medians, "peak_bytes": entrant.peak_bytes, **entrant.facts}


HEAD = [
    "| network | on | way | frames | pixels | encode, ms/frame | decode, ms/frame | s in all | "
    "compile, s | peak memory, GiB |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def _line(row: dict) -> str:
    cells = [row["label"], row["framework"], row["way"], str(row["frames"])]
    cells.append(f"{row['pixels']}x{row['pixels']}")
    if "failure" in row:
        return "| " + " | ".join([*cells, f"failed: {row['failure']}"]) + " |"
    cells += [f"{1000 * seconds / row['frames']:.1f}" for seconds in row["medians"].values()]
    cells += [f"{sum(row['medians'].values()):.2f}", f"{row['compile_seconds']:.1f}"]
    cells.append(f"{row['peak_bytes'] / 2**30:.2f}")
    return "| " + " | ".join(cells) + " |"
