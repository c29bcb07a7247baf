"""Reconstruct the videos of a data set and say how well."""

import csv
import json
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mg import backend, ranks
from mg.data import VideoError, check_some_there, read_fps, read_index, write_video
from mg.evaluation.network import open_network
from mg.evaluation.paths import reconstruction_paths, side_by_side_path
from mg.evaluation.report import PAGE_NAME, ReportWriter
from mg.evaluation.report_video import METRICS, ReportVideo
from mg.evaluation.score import judged_clip, reconstructed, score
from mg.evaluation.settings import Evaluation
from mg.evaluation.unfinished import unfinished
from mg.files import Stamp, atomic_path, check_apart, make_folder, sha256
from mg.journal import Journal, stamp_if_there
from mg.losses.lpips import LPIPS, lpips_for
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import weights_file

logger = logging.getLogger(__name__)

TABLE_NAME = "metrics.csv"
SUMMARY_NAME = "metrics.json"


@dataclass(slots=True)  # so that a score without a column is an error
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
    reconstruction, it beside the original, `metrics.csv`, `metrics.json` and, unless it is not
    wanted, `report.html`, a page to look at all of it.

    A video that cannot be read, or whose reconstruction is not finite, is reported in
    `metrics.csv`, and the rest goes on. A video that is listed twice counts once. After an
    interruption or a kill, the same evaluation takes over what was measured of videos that have not
    changed since.

    Returns:
        What `metrics.json` holds: "psnr" (dB), "ssim" and, where asked for, "lpips": means over
        frames, then over videos; "videos" and "failed", counts; the settings, the network's config,
        the checkpoint's SHA-256 and the framework.

    Raises:
        ValueError, OSError: something is wrong with settings, data set, checkpoint or directory,
            another evaluation is at work in it, or no video could be evaluated.
    """
    names = read_index(evaluation.csv_path, evaluation.video_folder, evaluation.video_column)
    names = [*dict.fromkeys(names)]
    check_some_there(evaluation.csv_path, evaluation.video_folder, names)
    tae = open_network(evaluation, in_parallel=True)
    lpips = lpips_for(evaluation.lpips_weights, evaluation.image_size)
    output = Path(evaluation.output_path)
    paths = reconstruction_paths(output, names)
    videos = [Path(evaluation.video_folder) / name for name in names]
    written = [*paths.values(), *map(side_by_side_path, paths.values())]
    written += [output / name for name in (TABLE_NAME, SUMMARY_NAME, PAGE_NAME)]
    check_apart(written, [*videos, evaluation.csv_path, weights_file(evaluation.ckpt_path)])
    make_folder(output)

    about = _about(evaluation, tae)
    with (
        unfinished(output, _deciding(evaluation, about)) as kept,
        _page(evaluation, kept.clips) as report,
    ):
        evaluator = _Evaluator(evaluation, tae, lpips, paths, report, kept.journal)
        results = evaluator.evaluate(names)
        summary = {**_means(evaluation, results), **about}
        if ranks.is_first():
            _write_rows(output / TABLE_NAME, results)
            with atomic_path(output / SUMMARY_NAME) as temporary:
                temporary.write_text(json.dumps(summary, indent=2) + "\n")
        if report is not None:
            _write_report(report, evaluation, summary)
        # The launcher ends all processes with the first: none is still at work.
        ranks.gather(None)
    return summary


def _page(evaluation: Evaluation, clips: Path) -> AbstractContextManager[ReportWriter | None]:
    if not evaluation.report:
        return nullcontext()
    return ReportWriter(Path(evaluation.output_path) / PAGE_NAME, folder=clips)


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates videos one after another, and writes what it makes of them to `paths`."""

    evaluation: Evaluation
    tae: TemporalAutoencoder
    lpips: LPIPS | None
    paths: dict[str, Path]
    report: ReportWriter | None
    journal: Journal

    def evaluate(self, names: list[str]) -> list[Result]:
        """The results of videos, those of all processes, in their order."""
        results = self._taken_over(names) if ranks.is_first() else []
        done = {*ranks.gather([result.video for result in results])[0]}
        left = [name for name in names if name not in done]
        results += self._results(left[backend.rank() :: backend.world_size()])
        rows = chain.from_iterable(ranks.gather([asdict(result) for result in results]))
        by_name = {row["video"]: Result(**row) for row in rows}
        return [by_name[name] for name in names]

    def _taken_over(self, names: list[str]) -> list[Result]:
        """Results that a run before has left, of videos that have not changed."""
        results = []
        for name in names:
            kept = self.journal.found(name, stamp_if_there(self._source(name)))
            target = self.paths[name]
            if not (kept and target.is_file() and side_by_side_path(target).is_file()):
                continue
            if kept["target"] != str(target) or (self.report and not kept["shown"]):
                continue
            if self.report is not None:
                self.report.restore(kept["shown"])
            results.append(Result(**kept["result"]))
        if results:
            left = len(names) - len(results)
            logger.info("%d videos were evaluated before, %d are left", len(results), left)
        return results

    def _source(self, name: str) -> Path:
        return Path(self.evaluation.video_folder) / name

    def _results(self, names: list[str]) -> list[Result]:
        results: list[Result] = []
        with (
            tqdm(total=len(names), unit="video", disable=not ranks.is_first()) as progress,
            logging_redirect_tqdm(),
        ):
            for start in range(0, len(names), self.evaluation.batch_size):
                batch = names[start : start + self.evaluation.batch_size]
                results += self._batch(batch)
                progress.update(len(batch))
        return results

    def _batch(self, names: list[str]) -> list[Result]:
        results = [Result(name) for name in names]
        stamps = [stamp_if_there(self._source(name)) for name in names]
        stamped = zip(results, stamps, strict=True)
        clips = [(*pair, clip) for pair in stamped if (clip := self._clip(pair[0])) is not None]
        if clips:
            reconstructions = reconstructed(self.tae, np.stack([clip for *_, (clip, _) in clips]))
            for item, reconstruction in zip(clips, reconstructions, strict=True):
                result, stamp, (clip, fps) = item
                if np.isfinite(reconstruction).all():
                    shown = self._judge(result, clip, fps, reconstruction)
                    self._note(result, stamp, shown)
                else:
                    self._fail(result, f"{result.video}: its reconstruction is not finite")
        return results

    def _clip(self, result: Result) -> tuple[np.ndarray, Fraction] | None:
        """A video's clip and its frames per second, or None where it cannot be read."""
        evaluation = self.evaluation
        path = self._source(result.video)
        size = (evaluation.num_frames, evaluation.image_size)
        try:
            clip, result.frames = judged_clip(path, *size, sample_stride=evaluation.sample_stride)
            return clip, read_fps(path) / evaluation.sample_stride
        except (VideoError, OSError) as error:
            self._fail(result, str(error))
            return None

    def _fail(self, result: Result, reason: str) -> None:
        result.error = reason
        logger.warning("%s", reason)
        if self.report is not None:
            self.report.failed(result.video, reason)

    def _judge(
        self, result: Result, clip: np.ndarray, fps: Fraction, reconstruction: np.ndarray
    ) -> ReportVideo | None:
        """Score and write a reconstruction; gives what the page shows of it."""
        scores, original, compared = score(clip, reconstruction, result.frames, self.lpips)
        for name, values in scores.items():
            setattr(result, name, float(values.mean()))
        target = self.paths[result.video]
        write_video(target, compared, fps)
        beside = np.concatenate([original, compared], axis=2)
        write_video(side_by_side_path(target), beside, fps)
        if self.report is None:
            return None
        with self.report.video(result.video, fps) as video:
            video.add(original, compared, scores)
        return self.report.videos[-1]

    def _note(self, result: Result, stamp: Stamp | None, shown: ReportVideo | None) -> None:
        """Keep a result for a run that goes on."""
        target = str(self.paths[result.video])
        found = {"target": target, "result": asdict(result), "shown": shown and asdict(shown)}
        self.journal.add(result.video, stamp, found)


def _about(evaluation: Evaluation, tae: TemporalAutoencoder) -> dict:
    """What was measured, and by what."""
    return {
        "settings": asdict(evaluation),
        "tae_config": tae.config,
        "checkpoint_sha256": sha256(weights_file(evaluation.ckpt_path)),
        "framework": f"{backend.name} {backend.version}",
    }


def _deciding(evaluation: Evaluation, about: dict) -> dict:
    """What decides the results of a video, and how they are kept."""
    keys = ("num_frames", "image_size", "sample_stride", "use_tile", "dtype")
    return {
        "settings": {key: getattr(evaluation, key) for key in keys},
        "lpips_sha256": evaluation.lpips_weights and sha256(evaluation.lpips_weights),
        **{key: about[key] for key in ("tae_config", "checkpoint_sha256", "framework")},
        "fields": [[field.name for field in fields(kind)] for kind in (Result, ReportVideo)],
    }


def _means(evaluation: Evaluation, results: list[Result]) -> dict:
    measured = [result for result in results if not result.error]
    if not measured:
        raise ValueError(
            f"{evaluation.csv_path}: none of its {len(results)} videos could be evaluated; the "
            f"first: {results[0].error}"
        )
    return {
        **{key: _mean(measured, key) for key in METRICS},
        "videos": len(measured),
        "failed": len(results) - len(measured),
    }


def _write_report(report: ReportWriter, evaluation: Evaluation, summary: dict) -> None:
    """Write the page in the first process, of what all processes recorded."""
    files = ranks.gather(report.hand_over())
    if ranks.is_first():
        for file in files[1:]:
            report.take_over(file)
        checkpoint = (evaluation.ckpt_path, summary["checkpoint_sha256"])
        report.write(summary["settings"], summary["tae_config"], *checkpoint)
    ranks.gather(None)  # the others keep their clips until the page has them


def _mean(results: list[Result], key: str) -> float | None:
    values = [getattr(result, key) for result in results]
    return None if None in values else float(np.mean(values))


def _write_rows(path: Path, results: list[Result]) -> None:
    rows = [asdict(result) for result in results]
    with (
        atomic_path(path) as temporary,
        temporary.open(
            "w",
            newline="",
            encoding="utf-8",
            errors="backslashreplace",  # a name need not be text
        ) as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
