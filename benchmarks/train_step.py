"""Seconds and peak memory of one full training step, on each framework, alternating in one run.

    python benchmarks/train_step.py                          # 1x8x64x64, full size, both frameworks
    python benchmarks/train_step.py --num_frames 16 --image_size 96 --lpips_weights FILE

Each measurement is a process of its own, so that peak memory (of the process; on a GPU also of the
device) is its own. All losses are on; without --lpips_weights the perceptual one has VGG16's shape
and random weights, which take the same time.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from machine import machine

FRAMEWORKS = ("mindspore", "torch")


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    results = {framework: [] for framework in options.frameworks}
    for _ in range(options.rounds):
        for framework in options.frameworks:
            results[framework].append(_measure_apart(framework))
    print(f"{machine()}, {date.today()}: {' '.join(sys.argv[1:]) or 'defaults'}")
    print("| framework | s/step | slowest | first step (compiles) | peak memory |")
    print("|---|---|---|---|---|")
    for runs in results.values():
        steps = [seconds for run in runs for seconds in run["steps"]]
        print(
            f"| {runs[0]['framework']} | {statistics.median(steps):.2f} | {max(steps):.2f} | "
            f"{statistics.median(run['first'] for run in runs):.1f} s | "
            f"{max(run['peak_bytes'] for run in runs) / 2**30:.2f} GiB |"
        )


def measure(options: argparse.Namespace) -> dict:
    """Train this process's framework for some steps; seconds of each and the peak memory."""
    import numpy as np

    from mg import backend
    from mg.losses.lpips import LPIPS
    from mg.losses.objective import Objective
    from mg.models.tae.tae import TemporalAutoencoder
    from mg.training.step import TrainStep

    backend.set_device(options.device_target)
    tae = TemporalAutoencoder(
        config={"ch": options.ch}, dtype=options.dtype, use_recompute=options.use_recompute
    )
    parameters = list(backend.named_parameters(tae).values())
    with tempfile.TemporaryDirectory() as folder:
        lpips = LPIPS(options.lpips_weights or random_lpips(Path(folder) / "vgg16.safetensors"))
    weights = {"reconstruction": 1.0, "perceptual": 1.0, "kl": 1e-6, "outlier_penalty": 1e5}
    update = TrainStep(
        tae,
        Objective(weights, lpips),
        backend.AdamW(parameters, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0),
        compile=options.compile,
    )
    size = (1, 3, options.num_frames, options.image_size, options.image_size)
    video = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    seconds = []
    for step in range(options.steps + 1):
        began = time.perf_counter()
        update(step, [video], 1e-5)
        backend.to_numpy(parameters[0])  # waits for the device
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "framework": f"{backend.name} {backend.version}",
        "first": seconds[0],
        "steps": seconds[1:],
        "peak_bytes": peak,
    }


def random_lpips(path: Path) -> Path:
    """LPIPS weights of VGG16's shape with random values."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    layers = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    layers |= dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
    arrays, channels = {}, 3
    for index, width in layers.items():
        scale = (2 / (9 * channels)) ** 0.5
        weight = rng.standard_normal((width, channels, 3, 3), dtype=np.float32) * np.float32(scale)
        arrays[f"features.{index}.weight"] = weight
        arrays[f"features.{index}.bias"] = np.zeros(width, np.float32)
        channels = width
    for number, width in enumerate((64, 128, 256, 512, 512)):
        arrays[f"lin{number}.model.1.weight"] = rng.random((1, width, 1, 1), dtype=np.float32)
    save_file(arrays, path)
    return path


def _measure_apart(framework: str) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", *sys.argv[1:]]
    environment = {**os.environ, "MG_BACKEND": framework}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--num_frames", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--ch", type=int, default=128, help="128 is full size")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--device_target", default="auto")
    parser.add_argument("--use_recompute", action="store_true")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--lpips_weights", default=None)
    parser.add_argument("--steps", type=int, default=3, help="measured in each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes for each framework")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
