"""What the page knows of a video: its scores by frame, and the clips of its players."""

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from mg.data import ImageWriter, VideoWriter, open_writer, read_fps

METRICS = {
    "psnr": {"title": "PSNR", "unit": "dB", "digits": 2, "worst": "ascending"},
    "ssim": {"title": "SSIM", "unit": "", "digits": 4, "worst": "ascending"},
    "lpips": {"title": "LPIPS", "unit": "", "digits": 4, "worst": "descending"},
}
"""What the page can chart; "worst" is the order of a table that begins with the worst."""

GAIN = 8
ROLES = {
    "original": "Original",
    "reconstruction": "Reconstruction",
    "difference": f"Difference ×{GAIN}",
}
"""The clips of a video, with their titles on the page."""

CRF = 18  # the loss is hardly visible, and a page holds more than at `write_video`'s own 10
SOON = {"rc-lookahead": "10", "threads": "2"}  # an encoder holds few frames back, at no cost


@dataclass
class ReportVideo:
    """A video's row: the scores of each frame by metric (None where one is no number), or what
    was wrong with the video. `clips` are files by role, of its first `playable` frames; `size` is
    how many bytes they have, or had."""

    name: str
    error: str = ""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    clips: dict[str, str] = field(default_factory=dict)
    playable: int = 0
    size: int = 0

    @property
    def frames(self) -> int:
        return len(next(iter(self.scores.values()), []))

    def mean(self, metric: str) -> float | None:
        """Over frames; None where not every frame has a number."""
        values = [value for value in self.scores.get(metric, []) if value is not None]
        return sum(values) / self.frames if values and len(values) == self.frames else None

    def worst(self, metric: str) -> float | None:
        """The number of the worst frame that has one."""
        values = [value for value in self.scores.get(metric, []) if value is not None]
        pick = min if METRICS[metric]["worst"] == "ascending" else max
        return pick(values, default=None)

    def drop_clips(self) -> None:
        """Delete the clips; the numbers stay."""
        for path in self.clips.values():
            Path(path).unlink()
        self.clips, self.playable = {}, 0


def worst_first(videos: Iterable[ReportVideo]) -> list[ReportVideo]:
    """By mean PSNR; those without one at the end."""

    def place(video: ReportVideo) -> tuple[bool, float]:
        mean = video.mean("psnr")
        return mean is None, mean or 0.0

    return sorted(videos, key=place)


def difference(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """8 |original - reconstruction|, clipped; all uint8, of any one shape."""
    error = np.abs(original.astype(np.int16) - reconstruction)
    return np.minimum(GAIN * error, 255).astype(np.uint8)


class Recording:
    """A video of the page while its frames come.

    Args:
        name: as the page shows it.
        fps: frames per second.
        directory: an empty one, for this video's clips.
        limit: bytes; once the clips have so many, they take no further frame.
        files: closes the clips, or drops them.
    """

    def __init__(
        self, name: str, fps: float | Fraction, directory: Path, limit: int, files: ExitStack
    ):
        self._video, self._fps = ReportVideo(name, fps=float(fps)), fps
        self._directory, self._limit, self._files = directory, limit, files
        self._shape: tuple[int, ...] = ()
        self._writers: list[VideoWriter | ImageWriter] = []

    def add(
        self, original: np.ndarray, reconstruction: np.ndarray, scores: Mapping[str, np.ndarray]
    ) -> None:
        """Add the next frames.

        Args:
            original: uint8 `(t h w 3)`, of one size throughout the video.
            reconstruction: the same.
            scores: of each of these frames `(t)`: "psnr" in dB, "ssim" and, if measured, "lpips".

        Raises:
            ValueError: shapes, types or metrics do not fit, among themselves or to those before.
        """
        self._check(original, reconstruction, scores)
        for metric, values in scores.items():
            numbers = [float(value) for value in values]
            numbers = [value if math.isfinite(value) else None for value in numbers]
            self._video.scores.setdefault(metric, []).extend(numbers)
        for pair in zip(original, reconstruction, strict=True):
            if self._size() >= self._limit:
                break
            self._write(*pair, difference(*pair))
            self._video.playable += 1

    def result(self) -> ReportVideo:
        """The video, once its clips are closed. Raises ValueError if no frame was added."""
        video = self._video
        if not video.frames:
            raise ValueError(f"{video.name}: no frame was added")
        if video.playable:
            video.clips = {role: str(path) for role, path in self._paths().items()}
            video.fps = float(read_fps(video.clips["original"]))  # files round it
            video.size = self._size()
        return video

    def _write(self, *images: np.ndarray) -> None:
        if not self._writers:
            self._writers = [
                self._files.enter_context(open_writer(path, self._fps, crf=CRF, options=SOON))
                for path in self._paths().values()
            ]
        for writer, image in zip(self._writers, images, strict=True):
            writer.write(_even(image))

    def _paths(self) -> dict[str, Path]:
        return {role: self._directory / f"{role}.mp4" for role in ROLES}

    def _size(self) -> int:
        """Bytes, those of clips that are being written included."""
        return sum(path.stat().st_size for path in self._directory.iterdir())

    def _check(
        self, original: np.ndarray, reconstruction: np.ndarray, scores: Mapping[str, np.ndarray]
    ) -> None:
        video = self._video
        self._shape = self._shape or original.shape[1:]
        for given in (original, reconstruction):
            fits = given.dtype == np.uint8 and given.ndim == 4 and given.shape[1:] == self._shape
            if not fits or self._shape[2] != 3:
                expected = f"uint8 (t h w 3) of one size, {self._shape} before"
                got = f"{given.dtype} {given.shape}"
                raise ValueError(f"{video.name}: expected frames {expected}, got {got}")
        video.height, video.width = self._shape[:2]
        known = list(video.scores or scores)
        if list(scores) != known or "psnr" not in known or not METRICS.keys() >= scores.keys():
            expected = list(video.scores) or f"psnr among {list(METRICS)}"
            raise ValueError(f"{video.name}: expected scores {expected}, got {list(scores)}")
        lengths = {len(values) for values in (original, reconstruction, *scores.values())}
        if len(lengths) > 1:
            raise ValueError(f"{video.name}: {sorted(lengths)} frames and scores, expected as many")


def _even(image: np.ndarray) -> np.ndarray:
    """A row and a column more where a size is odd: browsers do not play H.264 of odd sizes."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
