"""Ours beside the plain network and diffusers' autoencoders: time, memory, share of the machine.

    python benchmarks/speed.py    # all of it, at full size
    python benchmarks/speed.py --what inference --contestants ours-torch plain-torch wan
    python benchmarks/speed.py --what training --contestants ours-mindspore plain-mindspore --apart
    python benchmarks/speed.py --what growth --ch 32 --rounds 3
    benchmarks/gpu.sh  # on a machine with a GPU, PyTorch and numpy

Each contestant is a process. Those of a table run at once, one of them works at a time, and they
take turns: medians over the rounds, and medians of each round's ratios. Where memory does not hold
all at once, --apart starts each anew in each round. Operations are those of the network as
defined (2 for a multiplication and addition), so work that is avoided counts as done; the machine's
ceilings are measured in the same rounds, their best counts. A contestant that fails is told in its
row. Tables are printed, and written with all numbers to --json, speed.json by default.
"""

import argparse
import json
import statistics
import sys
from datetime import date
from pathlib import Path

from contestants import (
    CONTESTANTS,
    Contestant,
    Entrant,
    Failed,
    Process,
    conditions_of,
    plain_of,
    race,
)
from growth import GROWING, growth
from machine import machine

OURS_AND_PLAIN = [
    "ours-torch",
    "plain-torch",
    "ours-mindspore",
    "plain-mindspore",
    "ours-mindspore-pynative",
    "plain-mindspore-pynative",
]
DEFAULTS = {
    "inference": [*OURS_AND_PLAIN, "wan", "cogvideox", "hunyuan"],
    "training": OURS_AND_PLAIN,
    "growth": GROWING,
}


def main() -> None:
    options = _options()
    report = {"machine": machine(), "date": str(date.today()), "arguments": sys.argv[1:]}
    report["tables"] = []
    print(f"{report['machine']}, {report['date']}: {' '.join(sys.argv[1:])}", flush=True)
    for what in options.what:
        for title, lines, rows in TABLES[what](options):
            print(f"\n{title}\n", *lines, sep="\n", flush=True)
            report["tables"].append({"what": what, "title": title, "rows": rows})
            Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


def inference(options: argparse.Namespace):
    names = [n for n in _chosen("inference", options) if not CONTESTANTS[n].recompute]
    for frames, pixels in options.sizes:
        yield compare("inference", names, frames, pixels, options)


def training(options: argparse.Namespace):
    """The frameworks apart: MindSpore keeps its memory."""
    names = [n for n in _chosen("training", options) if CONTESTANTS[n].network in ("ours", "plain")]
    for frames, pixels in options.sizes:
        for framework in ("torch", "mindspore"):
            of_framework = [name for name in names if CONTESTANTS[name].framework == framework]
            if of_framework:
                yield compare("training", of_framework, frames, pixels, options)


def grow(options: argparse.Namespace):
    return growth(_chosen("growth", options), options)


TABLES = {"inference": inference, "training": training, "growth": grow}


def compare(
    what: str, names: list[str], frames: int, pixels: int, options: argparse.Namespace
) -> tuple[str, list[str], list[dict]]:
    """Race them; gives the table's title, its lines and its rows as data."""
    conditions = conditions_of(what, frames, pixels, options)
    operations = _operations(conditions)
    entrants = [Entrant(name, CONTESTANTS[name], conditions) for name in names]
    ceilings = []
    if operations:
        conditions = conditions | {"convolution": operations["convolution"]}
        frameworks = dict.fromkeys(CONTESTANTS[name].framework for name in names)
        ceilings = [
            Entrant(f"ceiling of {name}", Contestant("ceiling", name, "ceiling"), conditions)
            for name in frameworks
        ]
    race([*ceilings, *entrants], options.rounds, apart=what in options.apart)
    limits = {entrant.contestant.framework: _limits(entrant) for entrant in ceilings}
    flops = operations["flops"] if operations else {}
    rows = [_row(entrant, entrants, flops, limits) for entrant in entrants]
    devices = {entrant.facts["device"] for entrant in entrants if entrant.facts} - {None}
    title = f"{what}, 1x{frames}x{pixels}x{pixels}, {options.dtype}, ch {options.ch}"
    title = ", ".join([title, *devices])
    notes = [
        f"Ceiling on {framework}: {turn}: {rate / 1e9:.0f} GFLOP/s"
        for framework, rates in limits.items()
        for turn, rate in rates.items()
    ]
    ceilings_rows = [{"ceiling": framework, **rates} for framework, rates in limits.items()]
    return title, [*_lines(rows, what), "", *notes], [*ceilings_rows, *rows]


def _operations(conditions: dict) -> dict | None:
    """What "count" tells; None where PyTorch, which counts, is not installed."""
    try:
        process = Process(
            Contestant("count", "torch", "count"), conditions | {"device_target": "CPU"}
        )
    except Failed as failure:
        print(f"operations are not counted: {failure}", file=sys.stderr)
        return None
    process.end()
    return process.facts


def _limits(entrant: Entrant) -> dict[str, float]:
    """The highest rate of each of a ceiling's turns, in operations a second."""
    return {
        turn: entrant.facts["flops"][turn] / min(seconds)
        for turn, seconds in entrant.seconds.items()
    }


def _row(entrant: Entrant, entrants: list[Entrant], flops: dict, limits: dict) -> dict:
    """What the table tells of a contestant."""
    contestant = entrant.contestant
    row = {"name": entrant.name, "label": contestant.label, "failure": entrant.failure}
    row |= {"framework": contestant.framework, **entrant.facts}
    if entrant.failure:
        return row
    turns = entrant.facts["turns"]
    flops = entrant.facts.get("flops", flops)
    total = statistics.median(_totals(entrant))
    row |= {
        "seconds": entrant.seconds,
        "compile_seconds": entrant.compile_seconds(),
        "peak_bytes": entrant.peak_bytes,
        "beside_plain": _beside(entrant, plain_of(entrant.name), entrants),
        "beside_wan": _beside(entrant, "wan", entrants),
    }
    if flops:
        row["flops_per_second"] = sum(flops[turn] for turn in turns) / total
        rates = limits.get(contestant.framework, {})
        row["share"] = {n: row["flops_per_second"] / rate for n, rate in rates.items()}
    return row


def _totals(entrant: Entrant) -> list[float]:
    """Seconds of all turns of each round."""
    return [sum(round) for round in zip(*entrant.seconds.values(), strict=True)]


def _beside(entrant: Entrant, name: str, entrants: list[Entrant]) -> float | None:
    """Its time for a frame to that of another: the median of the rounds' ratios."""
    for other in entrants:
        if other.name == name and not other.failure:
            frames = other.facts["frames"] / entrant.facts["frames"]
            pairs = zip(_totals(entrant), _totals(other), strict=True)
            return statistics.median(mine / theirs * frames for mine, theirs in pairs)
    return None


def _lines(rows: list[dict], what: str) -> list[str]:
    times = ["s/step"] if what == "training" else ["encode, ms/frame", "decode, ms/frame"]
    heads = ["network", "parameters", "on", *times, "compile, s", "peak memory, GiB", "GFLOP/s"]
    heads += ["of the matrix product's", "of the convolution's", "time / plain's", "time / Wan's"]
    return ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *map(_line, rows)]


def _line(row: dict) -> str:
    size = f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else ""
    cells = [row["label"], size, row["framework"]]
    if row["failure"]:
        return "| " + " | ".join([*cells, f"failed: {row['failure']}"]) + " |"
    for turn, seconds in row["seconds"].items():
        median = statistics.median(seconds)
        per_frame = 1000 * median / row["frames"]
        cells.append(f"{median:.3f}" if turn == "step" else f"{per_frame:.1f}")
    cells += [f"{row['compile_seconds']:.1f}", f"{row['peak_bytes'] / 2**30:.2f}"]
    cells.append(f"{row['flops_per_second'] / 1e9:.0f}" if "flops_per_second" in row else "")
    for kind in ("matrix", "convolution"):
        shares = [share for name, share in row.get("share", {}).items() if name.startswith(kind)]
        cells.append(f"{100 * min(shares):.0f} %" if shares else "")
    for ratio in (row["beside_plain"], row["beside_wan"]):
        cells.append("" if ratio is None else f"{ratio:.2f}")
    return "| " + " | ".join(cells) + " |"


def _chosen(what: str, options: argparse.Namespace) -> list[str]:
    return options.contestants or DEFAULTS[what]


def _size(text: str) -> tuple[int, int]:
    frames, pixels = text.split("x")
    if int(frames) < 1 or int(pixels) < 8 or int(pixels) % 8:
        raise ValueError
    return int(frames), int(pixels)


_size.__name__ = "size (FRAMESxPIXELS, pixels a multiple of 8)"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=[*TABLES, "all"], default=["all"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME")
    parser.add_argument(
        "--sizes", nargs="+", type=_size, default=[(8, 64), (16, 96)], help="FRAMESxPIXELS"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ch", type=int, default=128, help="channels; 128 is full size")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--device_target", default="auto", help="CPU, GPU, Ascend or auto")
    parser.add_argument(
        "--apart", nargs="*", choices=TABLES, help="one process at a time, for these tables or all"
    )
    parser.add_argument("--json", default="speed.json", help="file for all numbers")
    parser.add_argument("--growth_pixels", type=int, default=64, help="of growth in frames")
    parser.add_argument(
        "--frames", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256], help="of growth"
    )
    parser.add_argument(
        "--pixels", nargs="+", type=int, default=[64, 96, 128, 192, 256], help="of growth"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, expected at least 1")
    if "all" in options.what:
        options.what = list(TABLES)
    options.apart = options.apart or (TABLES if options.apart == [] else [])
    return options


if __name__ == "__main__":
    main()
