"""Reconstruct the videos of a data set and say how well."""

import csv
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mg import backend, ranks
from mg.data import VideoError, read_fps, read_index, write_video
from mg.evaluation.score import judged_clip, score
from mg.evaluation.settings import Evaluation
from mg.files import atomic_path, sha256
from mg.losses.lpips import LPIPS
from mg.models.tae.tae import TemporalAutoencoder

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """A video's row of metrics.csv: means over its frames, or what was wrong with it."""

    video: str
    frames: int = 0
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    error: str = ""


def evaluate(evaluation: Evaluation) -> dict:
    """Reconstruct every video from its posterior's mean and write, into `output_path`, each
    reconstruction, it beside the original, `metrics.csv` and `metrics.json`.

    A video that cannot be read is reported in `metrics.csv`, and the rest goes on.

    Returns:
        What `metrics.json` holds: "psnr" (dB), "ssim" and, where asked for, "lpips": means over
        frames, then over videos; "videos" and "failed", counts; the settings, the network's config,
        the checkpoint's SHA-256 and the framework.

    Raises:
        ValueError, OSError: something is wrong with settings, data set, checkpoint or directory, or
            no video could be read.
    """
    backend.set_device(evaluation.device_target)
    ranks.join()
    names = read_index(evaluation.csv_path, evaluation.video_folder, evaluation.video_column)
    tae = TemporalAutoencoder(
        evaluation.ckpt_path,
        use_tile=evaluation.use_tile,
        dtype=evaluation.dtype,
        compile=evaluation.compile,
    )
    lpips = None if evaluation.lpips_weights is None else LPIPS(evaluation.lpips_weights)
    output = Path(evaluation.output_path)
    paths = reconstruction_paths(output, names)
    _check_apart(paths.values(), [Path(evaluation.video_folder) / name for name in names])
    output.mkdir(parents=True, exist_ok=True)

    results: list[Result] = []
    share = names[backend.rank() :: backend.world_size()]
    with (
        tqdm(total=len(share), unit="video", disable=not ranks.is_first()) as progress,
        logging_redirect_tqdm(),
    ):
        for start in range(0, len(share), evaluation.batch_size):
            batch = share[start : start + evaluation.batch_size]
            results += _evaluate_batch(evaluation, tae, lpips, paths, batch)
            progress.update(len(batch))
    results = _of_all_processes(results)
    measured = [result for result in results if not result.error]
    if not measured:
        raise ValueError(f"{evaluation.csv_path}: none of its {len(names)} videos could be read")
    summary = {
        **{key: _mean(measured, key) for key in ("psnr", "ssim", "lpips")},
        "videos": len(measured),
        "failed": len(results) - len(measured),
        "settings": asdict(evaluation),
        "tae_config": tae.config,
        "checkpoint_sha256": sha256(evaluation.ckpt_path),
        "framework": f"{backend.name} {backend.version}",
    }
    if ranks.is_first():
        _write_rows(output / "metrics.csv", results)
        with atomic_path(output / "metrics.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _of_all_processes(results: list[Result]) -> list[Result]:
    """The results of all processes' shares, in the order of the CSV."""
    shares = ranks.gather([asdict(result) for result in results])
    rows = itertools.chain.from_iterable(itertools.zip_longest(*shares))
    return [Result(**row) for row in rows if row is not None]


def reconstruction_paths(output: Path, names: list[str]) -> dict[str, Path]:
    """Where the reconstruction of each video of the CSV goes: a path of its own below `output`,
    named as the video and ending in .mp4. Where that or its side-by-side is another's already,
    it gets a number."""
    paths: dict[str, Path] = {}
    taken: set[Path] = set()
    for name in dict.fromkeys(names):
        leaving = ("..", PurePath(name).anchor)
        inside = [part for part in PurePath(name).parts if part not in leaving]
        path = output.joinpath(*inside or ["video"])
        stem = path.stem if path.suffix == ".mp4" else path.name
        candidates = (path.with_name(f"{stem}{mark}.mp4") for mark in _marks())
        free = (path for path in candidates if not taken & {path, side_by_side_path(path)})
        paths[name] = next(free)
        taken |= {paths[name], side_by_side_path(paths[name])}
    return paths


def _marks() -> Iterator[str]:
    """Nothing, _2, _3, ..."""
    yield ""
    yield from (f"_{number}" for number in itertools.count(2))


def side_by_side_path(reconstruction: Path) -> Path:
    """Where the original and its reconstruction, side by side, go."""
    return reconstruction.with_name(f"{reconstruction.stem}_side_by_side.mp4")


def _check_apart(reconstructions: Iterable[Path], videos: Iterable[Path]) -> None:
    originals = {video.resolve() for video in videos}
    for path in reconstructions:
        if originals & {path.resolve(), side_by_side_path(path).resolve()}:
            raise ValueError(
                f"{path} would replace a video of the data set, expected another output_path"
            )


def _evaluate_batch(evaluation, tae, lpips, paths, names) -> list[Result]:
    results, clips = [], []
    for name in names:
        result = Result(name)
        path = Path(evaluation.video_folder) / name
        size = (evaluation.num_frames, evaluation.image_size)
        try:
            clip, result.frames = judged_clip(path, *size, sample_stride=evaluation.sample_stride)
            clips.append((result, clip, read_fps(path) / evaluation.sample_stride))
        except (VideoError, OSError) as error:
            result.error = str(error)
            logger.warning("%s", error)
        results.append(result)
    if clips:
        with backend.no_grad():
            videos = backend.from_numpy(np.stack([clip for _, clip, _ in clips]))
            reconstructions = backend.to_numpy(tae(videos))
        for (result, clip, fps), reconstruction in zip(clips, reconstructions, strict=True):
            scores, *frames = score(clip, reconstruction, result.frames, lpips)
            for name, values in scores.items():
                setattr(result, name, float(values.mean()))
            target = paths[result.video]
            write_video(target, frames[1], fps)
            write_video(side_by_side_path(target), np.concatenate(frames, axis=2), fps)
    return results


def _mean(results: list[Result], key: str) -> float | None:
    values = [getattr(result, key) for result in results]
    return None if None in values else float(np.mean(values))


def _write_rows(path: Path, results: list[Result]) -> None:
    rows = [asdict(result) for result in results]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
