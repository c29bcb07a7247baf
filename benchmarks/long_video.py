"""Long and large videos: what streams cost, what they need, and how far tiles are from the whole.

    python benchmarks/long_video.py memory --frames 64 512 4096 --height 32 --width 32 --warm_up 8
    python benchmarks/long_video.py memory --frames 16 64 --piece 8 --height 720 --width 1280 \
        --ways encode decode
    python benchmarks/long_video.py memory --frames 24 --height 1080 --width 1920 --use_tile
    python benchmarks/long_video.py time
    python benchmarks/long_video.py commands
    python benchmarks/long_video.py tiles --ckpt_path tae.safetensors --clips A.mp4 B.mp4

`memory`, `time` and `commands` measure each framework in processes of its own; `tiles` compares
with the whole video, whose memory it needs, on the framework that MG_BACKEND names.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
from machine import machine

FRAMEWORKS = ("mindspore", "torch")
WAYS = ("both", "encode", "decode")


def main() -> None:
    options = _options()
    if options.measure:
        from mg import backend

        backend.set_device("auto")
        print(json.dumps(MEASURES[options.what](options)))
        return
    print(f"{machine()}, {date.today()}: {' '.join(sys.argv[1:])}\n")
    TABLES[options.what](options)


# Memory


def print_memory(options: argparse.Namespace) -> None:
    print("| framework | way | frames | size | frames/s | peak memory |")
    print("|---|---|---|---|---|---|")
    conditions = itertools.product(options.frameworks, options.ways, options.frames)
    for framework, way, frames in conditions:
        result = _measured_apart(framework, ["--frames", str(frames), "--ways", way])
        print(
            f"| {result['framework']} | {way} | {frames} | {options.width}x{options.height} | "
            f"{frames / result['seconds']:.2f} | {result['peak_bytes'] / 2**20:.0f} MiB |",
            flush=True,
        )


def measure_memory(options: argparse.Namespace) -> dict:
    """Stream one video of noise through encoder, decoder or both, keeping nothing."""
    from mg import backend

    (way,) = options.ways
    tae = _network(options, compile=None)
    tae.use_tile = options.use_tile
    for _ in range(options.warm_up):
        _stream_through(tae, argparse.Namespace(**{**vars(options), "frames": [256]}), way)
    started = time.perf_counter()
    _stream_through(tae, options, way)
    return {
        "framework": f"{backend.name} {backend.version}",
        "seconds": time.perf_counter() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _stream_through(tae, options: argparse.Namespace, way: str = "both") -> None:
    from mg import backend

    frames = options.frames[0]
    if way == "decode":
        noise = _noise(options, tae.config["z_channels"], tae.compression)
        latents = map(backend.from_numpy, noise)
    else:
        latents = (z for z, _, _ in tae.encode_stream(_noise(options), sample=False))
    if way == "encode":
        count = tae.compression * sum(z.shape[2] for z in latents)
    else:
        count = sum(x.shape[2] for x in tae.decode_stream(latents, frames))
    assert count == frames


def _noise(options: argparse.Namespace, channels: int = 3, step: int = 1) -> Iterator[np.ndarray]:
    """A video of noise in pieces; or, of a latent's channels and size for step, its latents."""
    rng = np.random.default_rng(0)
    size = (options.height // step, options.width // step)
    for start in range(0, options.frames[0], options.piece):
        frames = min(options.piece, options.frames[0] - start)
        shape = (1, channels, frames // step, *size)
        yield 2 * rng.random(shape, dtype=np.float32) - 1


# Time


def print_time(options: argparse.Namespace) -> None:
    print("| framework | frames | size | whole, ms a frame | stream, ms a frame | stream / whole |")
    print("|---|---|---|---|---|---|")
    for framework in options.frameworks:
        result = _measured_apart(framework, [])
        frames = options.frames[0]
        whole, stream = (1000 * result[way] / frames for way in ("whole", "stream"))
        print(
            f"| {result['framework']} | {frames} | {options.width}x{options.height} | "
            f"{whole:.1f} | {stream:.1f} | {result['ratio']:.2f} |",
            flush=True,
        )


def measure_time(options: argparse.Namespace) -> dict:
    """Encode and decode a video whole and as a stream, in turns; medians, of the ratio too."""
    from mg import backend
    from mg.backend.shared import CALLS_BEFORE_COMPILED

    tae = _network(options, compile=None)
    video = np.concatenate(list(_noise(options)), axis=2)

    def whole():
        with backend.no_grad():
            backend.to_numpy(tae(backend.from_numpy(video)))

    def stream():
        _stream_through(tae, options)

    whole()  # compile, and fill caches
    for _ in range(CALLS_BEFORE_COMPILED):
        stream()
    seconds = {"whole": [], "stream": []}
    for _ in range(options.rounds):
        for function in (whole, stream):
            started = time.perf_counter()
            function()
            seconds[function.__name__].append(time.perf_counter() - started)
    ratios = [s / w for s, w in zip(seconds["stream"], seconds["whole"], strict=True)]
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    framework = f"{backend.name} {backend.version}"
    return {"framework": framework, **medians, "ratio": statistics.median(ratios)}


# Commands


def print_commands(options: argparse.Namespace) -> None:
    print("| framework | frames | size | command | frames/s |")
    print("|---|---|---|---|---|")
    for framework in options.frameworks:
        result = _measured_apart(framework, [])
        for name, seconds in result["seconds"].items():
            print(
                f"| {result['framework']} | {options.frames[0]} | {options.width}x{options.height} "
                f"| mg {name} | {options.frames[0] / seconds:.2f} |",
                flush=True,
            )


def measure_commands(options: argparse.Namespace) -> dict:
    """Run each command on one video, loading of the network included; the second time counts."""
    from mg import backend
    from mg.cli.main import main as mg
    from mg.data import to_uint8, write_video

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = (frame for piece in _noise(options) for frame in to_uint8(piece[0]))
        write_video(folder / "in.mp4", frames, 25)
        (folder / "videos.csv").write_text("video\nin.mp4\n")
        _network(options).save_checkpoint(folder / "tae.safetensors")
        flags = ["--ckpt_path", str(folder / "tae.safetensors")]
        commands = {
            "reconstruct": ["in.mp4", "out.mp4", *flags],
            "encode": ["in.mp4", "latents.safetensors", *flags],
            "decode": ["latents.safetensors", "out.mp4", *flags],
            "encode-dataset": [*flags, "--csv_path", "videos.csv", "--video_folder", "."],
        }
        os.chdir(folder)
        seconds = {}
        for attempt in ("warm-up", "measured"):
            for command, args in commands.items():
                if command == "encode-dataset":
                    args = [*args, "--output_path", attempt]
                started = time.perf_counter()
                with contextlib.redirect_stdout(sys.stderr):
                    assert mg([command, *args]) == 0
                seconds[command] = time.perf_counter() - started
    return {"framework": f"{backend.name} {backend.version}", "seconds": seconds}


# Tiles


def print_tiles(options: argparse.Namespace) -> None:
    from mg import backend
    from mg.data import load_clip
    from mg.models.tae.tae import TemporalAutoencoder, Tiling

    tae = _network(options) if options.ckpt_path is None else TemporalAutoencoder(options.ckpt_path)
    weights = options.ckpt_path or "random"
    print(f"{backend.name} {backend.version}, weights: {weights}\n")
    print(
        "| clip | frames, size | way | PSNR of the whole, dB | less | worst frame less | at seams, "
        "rms | elsewhere, rms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    frames = options.frames[0]
    for path in options.clips:
        clip = load_clip(path, frames, None)[:, :, : options.height, : options.width][None]
        size = f"{frames}, {clip.shape[4]}x{clip.shape[3]}"
        whole = _whole(tae, clip)
        in_space = Tiling(encode_frames=None, decode_frames=None)
        for way, tiling, seams in (
            ("stream", None, None),
            ("stream, tiles in space", in_space, _space_seams(in_space, clip)),
            ("tiles in time", Tiling(size=None), _time_seams(clip)),
            ("tiles in space", in_space, _space_seams(in_space, clip)),
        ):
            if seams is not None and not seams.any():
                continue  # the clip is one tile
            tae.tiling = tiling
            if way.startswith("stream"):
                got = _streamed(tae, clip, options.piece)
            else:
                got = _whole(tae, clip)
            tae.tiling = None
            row = _gap(clip, whole, got, seams)
            print(f"| {os.path.basename(path)} | {size} | {way} | {row} |", flush=True)


def _whole(tae, clip: np.ndarray) -> np.ndarray:
    from mg import backend

    with backend.no_grad():
        return backend.to_numpy(tae(backend.from_numpy(clip)))


def _streamed(tae, clip: np.ndarray, piece: int) -> np.ndarray:
    from mg import backend

    starts = range(0, clip.shape[2], piece)
    pieces = (clip[:, :, start : start + piece] for start in starts)
    latents = (z for z, _, _ in tae.encode_stream(pieces, sample=False))
    frames = tae.decode_stream(latents, clip.shape[2], clip.shape[3:])
    return np.concatenate([backend.to_numpy(x) for x in frames], axis=2)


def _gap(clip: np.ndarray, whole: np.ndarray, got: np.ndarray, seams: np.ndarray | None) -> str:
    """What is lost of PSNR against the clip, and how far it is from the whole, in grey levels."""
    axes = (0, 1, 3, 4)
    lost = _psnr(clip, whole, axes) - _psnr(clip, got, axes)
    overall = _psnr(clip, whole, None) - _psnr(clip, got, None)
    error = 127.5 * np.abs(got - whole)
    where = np.broadcast_to(False if seams is None else seams, clip.shape[2:])
    rms = [
        f"{np.sqrt(np.mean(error[:, :, mask] ** 2)):.4f}" if mask.any() else ""
        for mask in (where, ~where)
    ]
    numbers = f"{_psnr(clip, whole, None):.2f} | {overall:.4f} | {lost.max():.4f}"
    return f"{numbers} | {rms[0]} | {rms[1]}"


def _psnr(clip: np.ndarray, other: np.ndarray, axes) -> np.ndarray:
    return 10 * np.log10(4 / np.mean((clip - np.clip(other, -1, 1)) ** 2, axis=axes))


def _time_seams(clip: np.ndarray) -> np.ndarray:
    """The frames on both sides of an encoding tile's end, and those that are blended."""
    frame = np.arange(clip.shape[2])
    near_end = (frame >= 24) & ((frame + 8) % 32 < 16)
    blended = (frame >= 16) & (len(frame) > 32)
    return ((near_end | blended) & (len(frame) > 32))[:, None, None]


def _space_seams(tiling, clip: np.ndarray) -> np.ndarray:
    """The rows and columns that two tiles share."""
    from mg.models.tae.tiling import tile_spans

    seams = np.zeros(clip.shape[3:], bool)
    for axis, length in enumerate(clip.shape[3:]):
        spans = tile_spans(length, tiling.size, tiling.size_overlap)
        for before, after in zip(spans, spans[1:], strict=False):
            np.moveaxis(seams, axis, 0)[after[0] : before[1]] = True
    return seams[None]


# All of them


def _network(options: argparse.Namespace, compile: bool | None = False):
    from mg.models.tae.tae import TemporalAutoencoder

    config = {"ch": options.ch, "num_groups": min(32, options.ch)}
    return TemporalAutoencoder(config=config, compile=compile)


def _measured_apart(framework: str, flags: list[str]) -> dict:
    command = [sys.executable, *sys.argv, *flags, "--measure"]
    environment = {**os.environ, "MG_BACKEND": framework}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--frames", type=int, nargs="+", default=[256])
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--ch", type=int, default=32, help="channels; 128 is full size")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        default=["both"],
        help="of memory; one alone: of 8k frames",
    )
    parser.add_argument("--piece", type=int, default=32, help="frames fed to a stream at a time")
    parser.add_argument(
        "--warm_up",
        type=int,
        default=0,
        help="streams of 256 frames before; shared.CALLS_BEFORE_COMPILED compile (MindSpore)",
    )
    parser.add_argument("--use_tile", action="store_true", help="of memory: tiles in space")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ckpt_path", help="of tiles; without it, random weights")
    parser.add_argument("--clips", nargs="+", default=[], help="of tiles")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


TABLES = {
    "memory": print_memory,
    "time": print_time,
    "commands": print_commands,
    "tiles": print_tiles,
}
MEASURES = {"memory": measure_memory, "time": measure_time, "commands": measure_commands}

if __name__ == "__main__":
    main()
