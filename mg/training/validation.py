"""How good a network is, measured inside a run."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mg import backend, ranks
from mg.data import VideoError, check_some_there, read_index
from mg.evaluation.score import judged_clip, reconstructed, score
from mg.losses.lpips import LPIPS
from mg.models.tae.tae import TemporalAutoencoder, Tiling
from mg.models.tae.tiling import TILE_FRAMES
from mg.training.recipe import Recipe
from mg.training.step import TrainStep

logger = logging.getLogger(__name__)

Reconstruct = Callable[[TemporalAutoencoder, np.ndarray], np.ndarray]

TILES = Tiling(size=None)
PICTURES = 4  # videos, from the CSV's first on, of which pictures are made


class Stopped(Exception):
    """The run is to stop, so its validation was given up."""


class Validation:
    """Reconstructs the validation videos, first frames and centres, each process its share.

    Attributes:
        fingerprint: SHA-256, in hexadecimal, of what is measured: names, number of frames, their
            size, stride. Numbers of another one do not compare.

    Raises:
        ValueError, OSError: something is wrong with the CSV or its folder, or no video can be read.
    """

    def __init__(self, recipe: Recipe, tae: TemporalAutoencoder, lpips: LPIPS | None):
        folder = recipe.val_video_folder or recipe.video_folder
        names = read_index(recipe.val_csv_path or "", folder, recipe.video_column)
        check_some_there(recipe.val_csv_path or "", folder, names)
        self._paths = [Path(folder) / name for name in names]
        self._tae, self._lpips = tae, lpips
        self._num_frames = recipe.val_num_frames or recipe.num_frames
        self._image_size, self._stride = recipe.image_size, recipe.sample_stride
        self._unread: set[Path] = set()  # that were warned of
        measured = [names, self._num_frames, self._image_size, self._stride]
        self.fingerprint = hashlib.sha256(json.dumps(measured).encode()).hexdigest()
        if all(self._clip(path) is None for path in self._paths):  # up to the first that is read
            raise self._unreadable()

    def __call__(
        self, update: TrainStep, stopped: Callable[[], bool]
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """Measure the weights and, where there is one, their moving average.

        Args:
            stopped: whether the run is to stop; all processes ask it before each video.

        Returns:
            Under "val/" and, of the average, "val_ema/": means over videos of "psnr" (dB), "ssim"
            and, where the run has LPIPS weights, "lpips", each a mean over frames; of PSNR also
            "psnr_first" and "psnr_last", of those frames alone, and "psnr_seams", of the frames
            at which tiles meet, where there are any; "videos", how many could be read. And, in the
            first process, a picture uint8 `(h w 3)` with a row for each of its first videos: the
            middle frame, the reconstruction of it, and that of the average. A mean is NaN where a
            reconstruction is not finite, that of a network which has diverged.

        Raises:
            ValueError: no video can be read.
            Stopped: `stopped` said so.
        """
        scores, pairs = self._measure(reconstructed, stopped)
        numbers = {f"val/{name}": value for name, value in scores.items()}
        columns = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
        if update.has_average:
            with update.averaged():
                scores, pairs = self._measure(reconstructed, stopped)
            numbers |= {f"val_ema/{name}": value for name, value in scores.items()}
            columns.append([pair[1] for pair in pairs])
        rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
        return numbers, np.concatenate(rows) if rows else None

    def ceiling(self, stopped: Callable[[], bool]) -> dict[str, float]:
        """The same numbers, under "ceiling/", of the network as an image autoencoder that knows
        one frame at a time: before training, of the one that the run starts from."""
        scores, _ = self._measure(_frame_by_frame, stopped)
        return {f"ceiling/{name}": value for name, value in scores.items()}

    def _measure(
        self, reconstruct: Reconstruct, stopped: Callable[[], bool]
    ) -> tuple[dict[str, float], list]:
        rows, pictures = [], []
        for start in range(0, len(self._paths), backend.world_size()):
            if stopped():
                raise Stopped
            place = start + backend.rank()  # the last round may have none for this process
            judged = self._clip(self._paths[place]) if place < len(self._paths) else None
            if judged is None:
                continue
            clip, frames = judged
            with self._tiled():
                reconstruction = reconstruct(self._tae, clip[None])[0]
            shown = np.nan_to_num(reconstruction, posinf=1, neginf=-1)
            scores, *compared = score(clip, shown, frames, self._lpips)
            if not np.isfinite(reconstruction).all():
                scores = {name: np.full(frames, math.nan) for name in scores}
            rows.append(_summary(scores))
            if len(pictures) < PICTURES:
                pictures.append([video[frames // 2] for video in compared])
        rows = [row for share in ranks.gather(rows) for row in share]
        if not rows:
            raise self._unreadable()
        return {**_means(rows), "videos": len(rows)}, pictures

    def _clip(self, path: Path) -> tuple[np.ndarray, int] | None:
        """`judged_clip` of a video, or None, the first time with a warning, where it cannot be
        read."""
        try:
            size = (self._num_frames, self._image_size)
            return judged_clip(path, *size, sample_stride=self._stride)
        except (VideoError, OSError) as error:
            if path not in self._unread:
                self._unread.add(path)
                logger.warning("not validated with: %s", error)
            return None

    def _unreadable(self) -> ValueError:
        return ValueError(f"none of the {len(self._paths)} validation videos can be read")

    @contextmanager
    def _tiled(self) -> Iterator[None]:
        """Long clips in tiles in time; training knows none."""
        before = self._tae.tiling
        self._tae.tiling = TILES if self._num_frames > TILE_FRAMES else None
        try:
            yield
        finally:
            self._tae.tiling = before


def _frame_by_frame(tae: TemporalAutoencoder, clips: np.ndarray) -> np.ndarray:
    frames = [reconstructed(tae, clips[:, :, t : t + 1]) for t in range(clips.shape[2])]
    return np.concatenate(frames, axis=2)


def _summary(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """The numbers of one video from those of its frames."""
    psnr = scores["psnr"]
    ends = range(TILE_FRAMES, len(psnr), TILE_FRAMES)
    seams = [frame for end in ends for frame in (end - 1, end)]
    summary = {name: float(values.mean()) for name, values in scores.items()}
    summary |= {"psnr_first": float(psnr[0]), "psnr_last": float(psnr[-1])}
    return {**summary, "psnr_seams": float(psnr[seams].mean())} if seams else summary


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
