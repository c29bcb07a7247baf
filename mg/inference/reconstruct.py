"""Reconstruct one video, of any length, and say how well."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mg import backend
from mg.data import Chunk, check_output, open_writer, promised_frames, read_fps
from mg.evaluation.metrics import frame_scores
from mg.evaluation.network import open_network
from mg.evaluation.report import ReportWriter
from mg.files import check_apart, sha256
from mg.inference.network import check_size, decoded, encoded, warn_of_memory
from mg.inference.progress import frame_progress
from mg.inference.settings import Reconstruction
from mg.interruption import each_uninterrupted, uninterrupted
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import weights_file


@dataclass(frozen=True)
class Scores:
    """How many frames were reconstructed, and the PSNR in dB and SSIM of each `(frames)`, if they
    were measured."""

    frames: int
    psnr: np.ndarray | None
    ssim: np.ndarray | None


def reconstruct(settings: Reconstruction) -> Scores:
    """Reconstruct a video from its posterior's mean and write it with the times of its frames and
    its sound, and the page if one is asked for, in constant memory.

    Raises:
        ValueError, OSError: something is wrong with settings, input, checkpoint or output; nothing
            is written then.
    """
    read = [settings.source, weights_file(settings.ckpt_path)]
    check_apart([settings.target], read)
    if settings.report is not None:
        check_apart([settings.report], [*read, settings.target])
    check_output(settings.target, settings.codec)
    promised = promised_frames(settings.source)
    fps = read_fps(settings.source)
    tae = open_network(settings)
    with ReportWriter(settings.report) if settings.report else nullcontext() as report:
        return _write(settings, tae, promised, fps, report)


def _write(
    settings: Reconstruction,
    tae: TemporalAutoencoder,
    promised: int | None,
    fps: Fraction,
    report: ReportWriter | None,
) -> Scores:
    scores: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": []}
    chunks = settings.chunks()
    with (
        frame_progress(promised, settings.num_frames) as progress,
        closing(chunks),
        open_writer(
            settings.target,
            fps,
            crf=settings.crf,
            codec=settings.codec,
            audio_from=settings.source,
            cut_audio=settings.num_frames is not None,
        ) as writer,
        backend.no_grad(),
    ):
        with report.video(Path(settings.source).name, fps) if report else nullcontext() as shown:
            video = _reconstructed(tae, settings.source, each_uninterrupted(chunks), progress)
            for chunk, frames in video:
                pair = chunk.frames, frames
                with uninterrupted():
                    if settings.measure:
                        measured = frame_scores(*pair)
                        for key, values in measured.items():
                            scores[key].append(values)
                        if shown is not None:
                            shown.add(*pair, measured)
                    images = np.concatenate(pair, axis=2) if settings.side_by_side else frames
                    for image, time in zip(images, chunk.times, strict=True):
                        writer.write(image, time)
        if report:  # before the video is in its place: there is none without its page
            digest = sha256(weights_file(settings.ckpt_path))
            report.write(asdict(settings), tae.config, settings.ckpt_path, digest)
    joined = {key: np.concatenate(values) if values else None for key, values in scores.items()}
    return Scores(writer.count, **joined)


def _reconstructed(
    tae: TemporalAutoencoder, path: str, chunks: Iterator[Chunk], progress: tqdm
) -> Iterator[tuple[Chunk, np.ndarray]]:
    """Consecutive frames and their reconstruction, uint8 `(t h w 3)`."""
    first = next(chunks)
    size = check_size(path, first.frames, tae)
    warn_of_memory(path, size, tae, smaller_by="--max_size")
    waiting = deque()  # frames that are in the network
    taken = given = 0

    def show_progress() -> None:
        # Many frames are encoded before the first is decoded, at about a third of the work.
        progress.update((taken + 2 * given) // 3 - progress.n)

    def entering(chunks: Iterable[Chunk]) -> Iterator[np.ndarray]:
        nonlocal taken
        for chunk in chunks:
            waiting.extend(zip(*chunk, strict=True))
            yield chunk.frames
            taken += len(chunk.frames)
            show_progress()

    for frames in decoded(tae, encoded(tae, entering(chain([first], chunks))), size):
        # The last latents decode to more frames than there were.
        pairs = [waiting.popleft() for _ in range(min(len(waiting), len(frames)))]
        if pairs:
            images, times = zip(*pairs, strict=True)
            yield Chunk(np.stack(images), [*times]), frames[: len(pairs)]
            given += len(pairs)
            show_progress()
