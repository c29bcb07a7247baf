"""PyTorch on a CPU beside another program: what it costs that threads wait without sleeping.

    python benchmarks/busy.py

Encoding and decoding in processes that take turns, alone and beside one that keeps a core busy, by
how often a thread looks before it sleeps: as our programs have it, and as GCC's OpenMP does by
itself.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import date

import numpy as np
from machine import machine

WAYS = {"ours": {}, "OpenMP's own": {"GOMP_SPINCOUNT": "300000"}}
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by whoever calls


def main() -> None:
    options = _options()
    if options.measure:
        print(_seconds(options))
        return
    print(f"{machine()}, {date.today()}: {' '.join(sys.argv[1:])}\n")
    print("| beside | spins | seconds | ratio to ours |")
    print("|---|---|---|---|")
    for beside in ("nothing", "one busy process"):
        times = {way: [] for way in WAYS}
        for _, way in itertools.product(range(options.rounds), WAYS):
            with _busy_process() if beside != "nothing" else nullcontext():
                times[way].append(_measured_apart(WAYS[way]))
        for way, seconds in times.items():
            ratios = [one / ours for one, ours in zip(seconds, times["ours"], strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(
                f"| {beside} | {way} | {statistics.median(seconds):.2f} | "
                f"{statistics.median(ratios):.2f} ({spread}) |",
                flush=True,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--height", type=int, default=176)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _seconds(options: argparse.Namespace) -> float:
    """Of encoding and decoding a clip by the bundled weights."""
    from mg import backend
    from mg.models.tae.tae import TemporalAutoencoder

    backend.set_device("CPU")
    tae = TemporalAutoencoder("small")
    size = (1, 3, options.frames, options.height, options.width)
    video = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    seconds = []
    with backend.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            tae.decode(tae.encode(video, sample=False)[0])
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _measured_apart(variables: dict[str, str]) -> float:
    command = [sys.executable, __file__, "--measure", *sys.argv[1:]]
    environment = {key: value for key, value in os.environ.items() if key not in CHOSEN}
    environment |= {"MG_BACKEND": "torch", **variables}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(result.stdout)


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
