"""A page that shows how good reconstructions are: `report.html`, one file that needs no other.

with ReportWriter("report.html") as report:
    with report.video("a.mp4", fps=25) as video:
        video.add(original, reconstruction, {"psnr": ..., "ssim": ...})  # as often as needed
    report.failed("b.mp4", "is no video")
    report.write(settings, tae_config, checkpoint, sha256(checkpoint))
"""

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mg import backend
from mg.evaluation.report_video import METRICS, ROLES, Recording, ReportVideo, worst_first
from mg.files import atomic_path, make_folder

PAGE_NAME = "report.html"
BUDGET = 100_000_000  # bytes of video in a page; as text they are a third more
ROWS = 10_000  # of its table, a kilobyte each

SOURCES = Path(__file__).parent / "page"
SCRIPTS = ("players.js", "chart.js", "report.js")


class ReportWriter:
    """Gathers videos and writes the page. A context: clips are kept beside the page meanwhile.

    Memory and disk stay bounded for many and for long videos: only the clips of the worst are
    kept, and a long video's players hold its first frames.

    Args:
        path: of the page.
        budget: bytes of video that the page may hold.
        folder: where clips are kept, an existing folder that the caller deletes; by default one
            beside the page, until the context ends.

    Raises:
        IsADirectoryError: there is a folder of this name.
    """

    def __init__(
        self, path: str | os.PathLike, *, budget: int = BUDGET, folder: Path | None = None
    ):
        if Path(path).is_dir():
            raise IsADirectoryError(f"{path}: is a folder, expected the name of a page to write")
        self.videos: list[ReportVideo] = []
        self._path, self._budget, self._folder = Path(path).absolute(), budget, folder
        self._unsorted = 0  # bytes of clips since the worst were chosen

    def __enter__(self) -> "ReportWriter":
        if self._folder is None:
            parent = self._path.parent
            make_folder(parent)
            prefix = f".{self._path.stem[:40]}-"
            self._directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        else:
            self._directory = self._folder.absolute()
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @contextmanager
    def video(self, name: str, fps: float | Fraction) -> Iterator[Recording]:
        """A context in which the frames of a video are added, one after another.

        Raises:
            ValueError: no frame was added, or the frame rate is not above 0.
        """
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        # A fifth of the budget is left for what encoders still hold when the clips are full.
        limit = self._budget * 4 // 5
        with ExitStack() as files:
            recording = Recording(name, fps, directory, limit, files)
            yield recording
        self.videos.append(recording.result())
        self._unsorted += self.videos[-1].size
        if self._unsorted > self._budget // 4:  # not every time: there may be many videos
            self._keep_worst()

    def failed(self, name: str, reason: str) -> None:
        """List a video that could not be reconstructed."""
        self.videos.append(ReportVideo(name, error=reason))

    def restore(self, row: dict[str, Any]) -> None:
        """Add a video that was recorded before: its fields, as `dataclasses.asdict` gave them. If
        its clips are lost since then, it has none."""
        video = ReportVideo(**row)
        if not all(Path(clip).is_file() for clip in video.clips.values()):
            video.clips, video.playable = {}, 0
        self.videos.append(video)

    def hand_over(self) -> str:
        """Write down the videos of this process, for another process to `take_over` before this
        context ends; gives the path."""
        self._keep_worst()
        path = self._directory / "videos.json"
        path.write_text(json.dumps([asdict(video) for video in self.videos]), encoding="utf-8")
        return str(path)

    def take_over(self, path: str) -> None:
        """Add the videos that another process gathered for the same page."""
        for row in json.loads(Path(path).read_text(encoding="utf-8")):
            self.restore(row)

    def write(
        self,
        settings: Mapping[str, Any],
        tae_config: Mapping[str, Any],
        checkpoint: str | os.PathLike,
        checkpoint_sha256: str,
    ) -> None:
        """Write the page.

        Args:
            settings: of the command, by name.
            tae_config: of the network.
            checkpoint: path of the weights.
            checkpoint_sha256: their hash, in hexadecimal.

        Raises:
            OSError: the page cannot be written.
        """
        about = {
            "settings": _texts(settings),
            "tae_config": _texts(tae_config),
            "checkpoint": os.fspath(checkpoint),
            "checkpoint_name": Path(checkpoint).name,
            "checkpoint_sha256": checkpoint_sha256,
            "framework": f"{backend.name} {backend.version}",
            "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        }
        self._keep_worst()
        page = _template().stream(about=about, **self._contents(), **_code())
        try:
            with atomic_path(self._path) as temporary:
                # A name may hold bytes that are no text, for which UTF-8 has no place.
                page.dump(str(temporary), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            if error.filename:  # of a clip that is lost
                raise
            reason = error.strerror or error
            raise OSError(f"{self._path}: cannot be written: {reason}") from None

    def _contents(self) -> dict[str, Any]:
        videos = worst_first(video for video in self.videos if not video.error)
        failed = [video for video in self.videos if video.error]
        metrics = [
            {"key": key, **metric, "mean": _mean([video.mean(key) for video in videos])}
            for key, metric in METRICS.items()
            if key == "psnr" or any(key in video.scores for video in videos)
        ]
        counts = {"videos": len(videos), "failed": len(failed)}
        videos = videos[:ROWS]
        return {
            "videos": videos,
            "failed": failed[:ROWS],
            "counts": counts,
            "metrics": metrics,
            "data": {"metrics": metrics, "videos": [_row(video) for video in videos]},
            "players": sum(1 for video in videos if video.clips),
            "budget": f"{self._budget / 1e6:g} MB",
            "roles": ROLES,
        }

    def _keep_worst(self) -> None:
        """Keep the clips of the worst videos, as many as there is room for."""
        self._unsorted, room = 0, self._budget
        for video in worst_first(video for video in self.videos if not video.error):
            if video.size > self._budget:
                video.drop_clips()
                continue
            room -= video.size
            if room < 0:
                video.drop_clips()


def _template():
    environment = Environment(
        loader=FileSystemLoader(SOURCES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["base64"] = _base64
    return environment.get_template(PAGE_NAME)


def _code() -> dict[str, Any]:
    """The page's own style and script, and the script's hash: no other script may run."""
    style = (SOURCES / "report.css").read_text("utf-8")
    script = "\n".join((SOURCES / name).read_text("utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "script_hash": f"sha256-{digest}"}


def _base64(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def _row(video: ReportVideo) -> dict[str, Any]:
    """What the page's script knows of a video."""
    keys = ("name", "fps", "width", "height", "frames", "playable")
    scores = {metric: _rounded(values) for metric, values in video.scores.items()}
    return {**{key: getattr(video, key) for key in keys}, "scores": scores}


def _rounded(values: list[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Values as YAML would have them; paths and other objects as text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in settings.items()
    }
