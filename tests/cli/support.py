"""What tests of commands share: a network of seconds, videos for it, ways to run a command."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mg.cli.command
from mg.data import write_video

ROOT = Path(__file__).resolve().parents[2]

# Every kind of layer of the network, once: compresses 2x.
TINY = {"ch": 4, "ch_mult": [1, 2], "num_res_blocks": 1, "num_groups": 2, "z_channels": 2}


@dataclass
class Outcome:
    """What a command left: its exit code, its lines on stdout and stderr."""

    code: int
    out: list[str]
    err: list[str]

    def assert_refused(self, *expected: str) -> None:
        """Exit code 2 and one line on stderr that holds each `expected`."""
        assert self.code == 2, self
        assert len(self.err) == 1, self.err
        for text in expected:
            assert text in self.err[0]


def run(command, args, capsys) -> Outcome:
    """Run a command in this process."""
    capsys.readouterr()
    try:
        code = mg.cli.command.run(command, [str(arg) for arg in args])
    except SystemExit as exit:  # of the command line's parser
        code = exit.code
    captured = capsys.readouterr()
    return Outcome(code, captured.out.splitlines(), captured.err.splitlines())


def run_process(*args, cwd, backend=None, **environment) -> Outcome:
    """Run a Python program, as a user does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=process_environment(backend, **environment),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


def process_environment(backend=None, **environment) -> dict[str, str]:
    """This process's environment, with another backend or more."""
    more = {} if backend is None else {"MG_BACKEND": backend}
    return {**os.environ, **more, **environment}


def flags(**options) -> list[str]:
    """Options of a command line."""
    texts = {key: json.dumps(v) if isinstance(v, dict) else str(v) for key, v in options.items()}
    return [part for key, text in texts.items() for part in (f"--{key}", text)]


def train_flags(folder, output, **changes) -> list[str]:
    """A command line that trains the tiny network on the videos of `folder` for two steps."""
    options = {
        **data_flags(folder, output),
        "num_frames": 4,
        "image_size": 8,
        "tae_config": TINY,
        "perceptual_weight": 0,
        "num_workers": 0,
        "compile": False,
        "train_steps": 2,
        "learning_rate": 1e-3,
        **changes,
    }
    return flags(**options)


def data_flags(folder, output) -> dict:
    """The options that say which videos and where to."""
    return {
        "csv_path": Path(folder) / "videos.csv",
        "video_folder": folder,
        "output_path": output,
    }


def waves(seed: int, num_frames: int = 6, height: int = 16, width: int = 16) -> np.ndarray:
    """Frames uint8 (t h w 3): slow waves, which video codecs and small networks can follow."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    speeds = rng.uniform(-0.5, 0.5, (3, 3))
    phases = rng.uniform(0, 6, 3)
    angle = sum(axis[..., None] * speed for axis, speed in zip((t, y, x), speeds, strict=True))
    return np.rint(127.5 + 120 * np.sin(angle + phases)).astype(np.uint8)


def write_dataset(folder: Path, names=("a.mp4", "b.mp4", "c.mp4"), **shape) -> Path:
    """Write videos and `videos.csv`, which lists them; gives the folder."""
    for seed, name in enumerate(names):
        write_video(folder / name, waves(seed, **shape), fps=10)
    write_index(folder, names)
    return folder


def write_index(folder: Path, names) -> None:
    """Write `videos.csv` with these names."""
    (folder / "videos.csv").write_text("\n".join(["video", *names]) + "\n", encoding="utf-8")


def write_checkpoint(path: Path, seed: int = 0, **config) -> Path:
    """Write a checkpoint of the tiny network whose every parameter is random."""
    from mg.backend import named_parameters
    from mg.models.tae.tae import TemporalAutoencoder
    from mg.models.tae.weights import write_weights

    tae = TemporalAutoencoder(None, {**TINY, **config})
    rng = np.random.default_rng(seed)
    arrays = {
        name: 0.2 * rng.standard_normal(tuple(p.shape)).astype(np.float32)
        for name, p in named_parameters(tae).items()
    }
    for name in arrays:
        if name.endswith("gamma"):
            arrays[name] += 1
    write_weights(path, arrays, tae.config)
    return path


def write_squeezenet_lpips(test_data: Path, target: Path) -> Path:
    """Write the LPIPS weights' file from the test data's, which names arrays otherwise."""
    from safetensors.numpy import save_file

    arrays = {}
    with np.load(test_data / "weights" / "lpips_squeeze_v0.1.npz") as stored:
        for name in stored:
            parts = name.split(".")
            if parts[0] == "net":  # net.slice2.3.squeeze.bias
                arrays[".".join(["features", *parts[2:]])] = stored[name]
            elif parts[0] == "lins":  # lins.0.model.1.weight
                arrays[f"lin{parts[1]}.model.1.weight"] = stored[name]
    save_file(arrays, target)
    return target
