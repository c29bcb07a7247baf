"""How well a TAE reconstructs a test set, for its model card: beside itself frame by frame, where
each frame has latents of its own, and beside H.264 at the same bits per pixel.

    python benchmarks/quality.py --ckpt_path tae.safetensors --csv_path SET/test.csv \
        --video_folder SET --lpips_weights lpips.safetensors --picture quality.png

Each video's first frames, short side scaled to each size, centre square. Latents count 16 bits a
number; frame by frame there are 8 times as many. H.264 is libx264, medium, at the lowest CRF that
takes no more bits.
"""

import argparse
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import av
import numpy as np
from machine import machine
from PIL import Image

from mg import backend
from mg.data import read_fps, read_frames, read_index, to_float, to_uint8, write_video
from mg.evaluation.score import judged_clip, score
from mg.losses.lpips import LPIPS
from mg.models.tae.tae import TemporalAutoencoder

LATENT_BITS = 16
WORST_CRF = 51


@dataclass
class Coded:
    """A clip `(c t h w)` after a way of coding it, and the bits that took."""

    clip: np.ndarray
    bits: int


def main() -> None:
    options = _options()
    backend.set_device("auto")
    print(
        f"{machine()}, {date.today()}, {backend.name} {backend.version}: {' '.join(sys.argv[1:])}"
    )
    tae = TemporalAutoencoder(options.ckpt_path, compile=None)
    if options.num_frames < tae.compression:
        sys.exit(f"--num_frames is {options.num_frames}, expected at least {tae.compression}")
    lpips = LPIPS(options.lpips_weights) if options.lpips_weights else None
    names = read_index(options.csv_path, options.video_folder)
    rows = []
    for size in options.sizes:
        rows += measure(tae, lpips, options, names, size)
    print_means(rows, options.sizes)
    print_videos(rows, names, options.sizes)
    print_positions(rows, tae.compression, options.sizes)
    if options.picture:
        _draw(rows, names).save(options.picture)


def measure(tae, lpips, options: argparse.Namespace, names: list[str], size: int) -> Iterator[dict]:
    """A row for each video and way: bits per pixel, and the scores of each frame."""
    for name in names:
        path = Path(options.video_folder) / name
        clip, frames = judged_clip(path, options.num_frames, size)
        whole = code(tae, clip)
        fps = read_fps(path)
        ways = {
            "TAE": whole,
            "TAE, frame by frame": frame_by_frame(tae, clip),
            "H.264": h264(clip, fps, whole.bits),
        }
        for way, coded in ways.items():
            scores, original, reconstruction = score(clip, coded.clip, frames, lpips)
            row = {"video": name, "size": size, "way": way}
            row["bits"] = coded.bits / np.prod(clip.shape[1:])
            row["pair"] = [shown[frames // 2] for shown in (original, reconstruction)]
            yield row | scores
        print(f"{name}, {size} pixels", file=sys.stderr, flush=True)


def code(tae: TemporalAutoencoder, clip: np.ndarray) -> Coded:
    """Through the network, by the posterior's mean."""
    with backend.no_grad():
        _, mean, _ = tae.encode(backend.from_numpy(clip[None]), sample=False)
        video = tae.decode(mean, num_target_frames=clip.shape[1], target_size=clip.shape[2:])
    return Coded(backend.to_numpy(video)[0], int(np.prod(mean.shape)) * LATENT_BITS)


def frame_by_frame(tae: TemporalAutoencoder, clip: np.ndarray) -> Coded:
    coded = [code(tae, clip[:, t : t + 1]) for t in range(clip.shape[1])]
    return Coded(np.concatenate([c.clip for c in coded], axis=1), sum(c.bits for c in coded))


def h264(clip: np.ndarray, fps: float, bits: int) -> Coded:
    """By libx264 at the lowest CRF that takes no more than these bits, or at the worst."""
    frames = to_uint8(clip)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coded.mp4"

        def coded(crf: int) -> int:
            write_video(path, frames, fps, crf=crf, codec="libx264")
            with av.open(path) as container:
                return 8 * sum(packet.size for packet in container.demux(video=0))

        crf = bisect_left(range(WORST_CRF), True, key=lambda crf: coded(crf) <= bits)
        taken = coded(crf)
        decoded = read_frames(path, range(len(frames)))
    return Coded(to_float(decoded), taken)


# Tables


def print_means(rows: list[dict], sizes: list[int]) -> None:
    metrics = [name for name in ("psnr", "ssim", "lpips") if name in rows[0]]
    heads = ["size", "way", "bits per pixel", *map(str.upper, metrics)]
    _print_head(heads)
    for size in sizes:
        for way in dict.fromkeys(row["way"] for row in rows):
            same = [row for row in rows if (row["size"], row["way"]) == (size, way)]
            bits = np.mean([row["bits"] for row in same])
            means = {name: np.mean([row[name].mean() for row in same]) for name in metrics}
            _print_row(size, way, f"{bits:.2f}", *(_text(*item) for item in means.items()))


def print_videos(rows: list[dict], names: list[str], sizes: list[int]) -> None:
    _print_head(["video, PSNR of the TAE", *(f"{size} pixels" for size in sizes)])
    for name in names:
        cells = [
            _text("psnr", row["psnr"].mean())
            for row in rows
            if (row["video"], row["way"]) == (name, "TAE")
        ]
        _print_row(Path(name).name, *cells)


def print_positions(rows: list[dict], frames_per_latent: int, sizes: list[int]) -> None:
    """PSNR by a frame's position among the frames of its latent, where flicker would show."""
    places = range(frames_per_latent)
    _print_head(["frame of its latent, PSNR of the TAE", *(str(place + 1) for place in places)])
    for size in sizes:
        of_size = [row["psnr"] for row in rows if (row["size"], row["way"]) == (size, "TAE")]
        means = [np.concatenate([psnr[n::frames_per_latent] for psnr in of_size]) for n in places]
        _print_row(f"{size} pixels", *(_text("psnr", values.mean()) for values in means))


def _text(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == "psnr" else f"{value:.3f}"


def _print_head(cells: list[str]) -> None:
    print()
    _print_row(*cells)
    print("|---" * len(cells) + "|")


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def _draw(rows: list[dict], names: list[str]) -> Image.Image:
    """The middle frame of each video at the largest size, original above reconstruction."""
    largest = max(row["size"] for row in rows)
    pairs = {
        row["video"]: row["pair"] for row in rows if (row["size"], row["way"]) == (largest, "TAE")
    }
    columns = [np.concatenate(pairs[name], axis=0) for name in names]
    return Image.fromarray(np.concatenate(columns, axis=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--csv_path", required=True)
    parser.add_argument("--video_folder", required=True)
    parser.add_argument("--lpips_weights", help="also measure LPIPS")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256], help="pixels")
    parser.add_argument("--num_frames", type=int, default=32)
    parser.add_argument("--picture", help="PNG of a frame of each video and its reconstruction")
    return parser.parse_args()


if __name__ == "__main__":
    main()
