"""Frames per second that the loader gives, by kind of video, seeking, frame counts and workers.

    python benchmarks/loader.py --clips FOLDER [--json FILE]
    python benchmarks/loader.py --metrics RUN/metrics.jsonl

Clips of 32 frames from random starts, resized and cropped to 256 x 256, of the folder's videos of
each of --sources. A data set is many names of these videos, so that each is read for the first time
in the first epoch; the second epoch shows what was remembered, by each worker for itself. All ways
alternate within each round, and medians over the rounds are printed; the speed-up is over decoding
from the start without a column of frame counts. --metrics prints the share of the time of training
steps that went into waiting for data, as a run has logged it.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import av
from machine import machine
from tqdm import tqdm

from mg.data import TrainingBatches, TrainingClips, count_frames, video_file
from mg.data.index import Entry
from mg.data.loader import Sampler

EPOCHS = ("first", "second")


class SequentialSampler(Sampler):
    """Reads every clip by decoding from the video's start."""

    def batch(self, step: int):
        video_file.known_table = lambda *_: None
        return super().batch(step)


def main() -> None:
    options = _options()
    if options.metrics:
        share = data_share(options.metrics)
        print(f"{100 * share:.1f} % of the time of training steps was spent waiting for data")
        return
    rows = measure(options)
    print(
        f"{machine()}, {date.today()}: clips of {options.num_frames} frames, median of "
        f"{options.rounds} rounds of {options.items} clips an epoch"
    )
    print(
        "| source | workers | epoch | seeking | frames column | frames/s | per worker | speed-up |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['source']} | {row['workers']} | {row['epoch']} | "
            f"{'yes' if row['seeking'] else 'no'} | {'yes' if row['frames_column'] else 'no'} | "
            f"{row['frames_per_second']:.0f} | {row['frames_per_second'] / row['workers']:.0f} | "
            f"{row['speed_up']:.1f}x |"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")


def measure(options: argparse.Namespace) -> list[dict]:
    """Measure every way of reading; gives the table's rows, frames per second and all."""
    samples = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        sources = {source: _data_set(Path(folder), source, options) for source in options.sources}
        ways = [*itertools.product(sources, options.workers, (False, True), (False, True))]
        for source, workers, seeking, stated in tqdm(ways * options.rounds, unit="way"):
            rates = _run(Path(folder), sources[source], workers, seeking, stated, options)
            for epoch, rate in zip(EPOCHS, rates, strict=True):
                samples[source, workers, epoch, seeking, stated].append(rate)
    rows = []
    for source, workers, epoch in itertools.product(sources, options.workers, EPOCHS):
        for seeking, stated in itertools.product((False, True), (False, True)):
            rates = samples[source, workers, epoch, seeking, stated]
            plain = samples[source, workers, epoch, False, False]
            ratios = [rate / slow for rate, slow in zip(rates, plain, strict=True)]
            rows.append(
                {
                    "source": source,
                    "workers": workers,
                    "epoch": epoch,
                    "seeking": seeking,
                    "frames_column": stated,
                    "frames_per_second": statistics.median(rates),
                    "speed_up": statistics.median(ratios),
                    "rounds": rates,
                }
            )
    return rows


def data_share(metrics: str | os.PathLike) -> float:
    """The share of training's seconds that was spent waiting for data, of a metrics.jsonl.

    Raises:
        ValueError: no update in it tells both "seconds" and "data_seconds".
    """
    seconds = waiting = 0.0
    for line in Path(metrics).read_text().splitlines():
        entry = json.loads(line)
        if "seconds" in entry and "data_seconds" in entry:
            seconds += entry["seconds"]
            waiting += entry["data_seconds"]
    if seconds == 0:
        raise ValueError(f"{metrics}: no entry has seconds and data_seconds")
    return waiting / seconds


def _run(
    folder: Path,
    videos: list[Entry],
    workers: int,
    seeking: bool,
    stated: bool,
    options: argparse.Namespace,
) -> list[float]:
    """Frames per second of the first and the second epoch."""
    if not stated:
        videos = [entry._replace(num_frames=None) for entry in videos]
    clips = TrainingClips(
        csv_path="",
        video_folder=str(folder),
        num_frames=options.num_frames,
        image_size=options.image_size,
        num_workers=workers,
    )
    sampler = (Sampler if seeking else SequentialSampler)(
        clips, videos, rank=0, world_size=1, start_step=0, start_item=0
    )
    rates = []
    with TrainingBatches(sampler) as batches:
        for _ in range(workers):
            next(batches)  # until each process has started
        for epoch in EPOCHS:
            count = len(videos) - (workers if epoch == "first" else 0)
            began = time.perf_counter()
            for batch in itertools.islice(batches, count):
                assert not batch.broken, batch.broken
            rates.append(count * options.num_frames / (time.perf_counter() - began))
    return rates


def _data_set(folder: Path, source: str, options: argparse.Namespace) -> list[Entry]:
    """Link the folder's videos of a source under `options.items` names."""
    videos = [path for path in sorted(Path(options.clips).iterdir()) if _kind(path) == source]
    if not videos:
        raise SystemExit(f"{options.clips}: no video is {source} (codec and size)")
    entries = []
    for number, path in zip(range(options.items), itertools.cycle(videos)):
        link = folder / f"{source}-{number}{path.suffix}"
        link.symlink_to(path.absolute())
        entries.append(Entry(link.name, count_frames(path)))
    return entries


def _kind(path: Path) -> str | None:
    """A video's codec and size, such as "h264 1280x720"."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            context = container.streams.video[0].codec_context
            return f"{context.codec.canonical_name} {context.width}x{context.height}"
    except (av.FFmpegError, IndexError, OSError):
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--clips", help="folder of videos")
    what.add_argument("--metrics", help="a training run's metrics.jsonl")
    parser.add_argument(
        "--sources", nargs="+", default=["mpeg4 320x240", "h264 1280x720"], help="codec and size"
    )
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--num_frames", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--items", type=int, default=12, help="clips in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for the rows and each round's numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
