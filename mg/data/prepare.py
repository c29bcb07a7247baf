"""Make the CSV files of a folder of videos: train, validation and test, and what is bad."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mg.data.index import BAD_LIST, Failure, write_rows
from mg.data.opening import VideoError, open_video, reason_of, whole_frames
from mg.data.split import Split, check_pattern, read_lists, split_by_group, split_by_lists
from mg.data.video_file import stream_fps
from mg.data.workers import WorkerError, Workers
from mg.files import Stamp, atomic_path, check_there
from mg.journal import Journal, stamp_if_there
from mg.ranges import check_at_least

logger = logging.getLogger(__name__)

JOURNAL = ".prepare.jsonl"  # beside the CSV files, until they are written

# Images are not listed, nor is .gif, which mostly is one.
SUFFIXES = (
    *(".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".ts", ".vob"),
    *(".webm", ".wmv"),
)


@dataclass(frozen=True)
class Preparation:
    """What to make CSV files of, and how to split it.

    Args:
        folder: Folder of videos, searched with all folders below it.
        out: Where train.csv, val.csv, test.csv and bad.csv go.
        test_share: Share of the videos that goes to the test set, by whole groups.
        val_share: Share of the videos that goes to the validation set, by whole groups of what is
            not test.
        group_pattern: Regular expression for file names. Videos whose names match with the same
            text (that of its parentheses, if it has any) are one group and never parted; any other
            video is a group by itself. By default UCF-101's groups, g01 to g25.
        split_files: Folder of UCF-101's official trainlist0N.txt and testlist0N.txt, to split by
            them; val_share of all videos then comes out of the training list.
        split: Which of the official splits: N.
        num_workers: Processes that decode; by default as many as there are cores, 0 for none.
    """

    folder: str
    out: str
    test_share: float = 0.2
    val_share: float = 0.05
    group_pattern: str = r"_(g\d+)_c\d+"
    split_files: str | None = None
    split: int = 1
    num_workers: int | None = None

    def __post_init__(self):
        for key in ("test_share", "val_share"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}, expected at least 0, below 1")
        if self.test_share + self.val_share >= 1:
            raise ValueError(
                f"test_share and val_share are {self.test_share} and {self.val_share}, "
                "expected less than 1 together, so that some is left to train on"
            )
        check_at_least(vars(self), split=1, num_workers=0)
        check_pattern(self.group_pattern)


class Video(NamedTuple):
    """A row of train.csv, val.csv and test.csv, whose columns are these fields.

    `video` is relative to the folder, with "/" between its parts; `fps` is in frames per second,
    `width` and `height` in pixels, when upright; `duration` in seconds is frames / fps.
    """

    video: str
    frames: int
    fps: float
    width: int
    height: int
    duration: float


@dataclass(frozen=True)
class Summary:
    """What was found: numbers of videos, hours of video in all sets, seconds that it took.

    `missing` are listed in the split files, but not in the folder; `unlisted` the other way round.
    """

    train: int
    val: int
    test: int
    bad: int
    missing: int
    unlisted: int
    hours: float
    seconds: float


def prepare(preparation: Preparation) -> Summary:
    """Decode every video of a folder once, whole, and write the four CSV files when all is done.
    After an interruption or a kill, videos that were decoded and have not changed since are not
    decoded again.

    The split depends on nothing but the names of the good videos (see `mg.data.split`).

    Raises:
        FileNotFoundError: no such folder or split file.
        ValueError: the folder holds no video, or none that can be decoded.
        OSError: a folder cannot be read or written.
    """
    began = time.monotonic()
    folder, out = Path(preparation.folder), Path(preparation.out)
    check_there(folder, "folder of videos", is_folder=True)
    _check_writable(out)
    names = sorted(find_videos(folder))
    if not names:
        raise ValueError(f"{folder}: holds no video, expected files like *.mp4 or *.avi")
    found, lists = set(names), None
    if preparation.split_files is not None:
        lists = read_lists(preparation.split_files, preparation.split)
        names = sorted(found & set().union(*lists))
        if not names:
            raise ValueError(f"{folder}: holds no video that {preparation.split_files} lists")
    journal = Journal(out / JOURNAL)
    rows = _examine_all(folder, names, preparation.num_workers, journal)
    videos = [row for row in rows if isinstance(row, Video)]
    bad = [row for row in rows if isinstance(row, Failure)]
    if not videos:
        first = f"{bad[0].video}: {bad[0].reason}"
        raise ValueError(f"{folder}: none of {len(bad)} videos can be decoded; the first: {first}")
    split = _split(preparation, [video.video for video in videos], lists)
    with ExitStack() as stack:  # renamed only when all are written
        for name, members in split._asdict().items():
            chosen = [video for video in videos if video.video in members]
            write_rows(stack.enter_context(atomic_path(out / f"{name}.csv")), Video, chosen)
        write_rows(stack.enter_context(atomic_path(out / BAD_LIST)), Failure, bad)
    (out / JOURNAL).unlink(missing_ok=True)
    return Summary(
        **{name: len(members) for name, members in split._asdict().items()},
        bad=len(bad),
        missing=0 if lists is None else len(set().union(*lists) - found),
        unlisted=len(found) - len(names),
        hours=sum(video.duration for video in videos) / 3600,
        seconds=time.monotonic() - began,
    )


def find_videos(folder: Path) -> Iterator[str]:
    """Give the files whose suffix is a video's, below a folder and relative to it, in any order.

    Links are followed; each folder is entered once, and each file given once, by its own name where
    it has one here. Names that begin with a dot are left out.

    Raises:
        OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise OSError(f"{error.filename}: cannot be read: {error.strerror}") from error

    # Links wait, so that a folder's or file's own name counts.
    entered, waiting, given, links = set(), [folder], set(), []
    while waiting:
        for place, folders, files in os.walk(waiting.pop(0), onerror=fail):
            here = os.path.realpath(place)
            if here in entered:
                folders.clear()
                continue
            entered.add(here)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [Path(place, name) for name in folders if Path(place, name).is_symlink()]
            for path in (Path(place, name) for name in files if not name.startswith(".")):
                if path.suffix.lower() not in SUFFIXES:
                    continue
                if path.is_symlink():
                    links.append(path)
                else:
                    given.add(os.path.join(here, path.name))
                    yield path.relative_to(folder).as_posix()
    for path in sorted(links):
        if (file := os.path.realpath(path)) not in given:
            given.add(file)
            yield path.relative_to(folder).as_posix()


def bad_name(name: str) -> Failure | None:
    """Why a CSV file cannot hold this name of a video, if it cannot."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    if shown != name:
        return Failure(shown, "its name is not UTF-8 text, as a CSV file is")
    if "\r" in name:
        return Failure(
            name.replace("\r", "\\r"), "its name has a carriage return, which a CSV file loses"
        )
    if name != name.strip():
        return Failure(name, "its name begins or ends with a space, which is lost in a CSV file")
    return None


def examine(folder: Path, name: str) -> Video | Failure:
    """Decode a video whole, and tell what it holds or what is wrong with it."""
    path = folder / name
    if bad := bad_name(name):
        return bad
    try:
        count, width, height = 0, 0, 0
        with open_video(path) as (container, stream):
            for frame in whole_frames(path, container.decode(stream)):
                if count == 0:
                    turned = round(frame.rotation / 90) % 2 == 1
                    width, height = frame.width, frame.height
                    width, height = (height, width) if turned else (width, height)
                count += 1
            fps = stream_fps(stream)
    except (VideoError, FileNotFoundError) as error:
        return Failure(name, reason_of(error, path))
    seconds = round(float(count / fps), 3)
    return Video(name, count, round(float(fps), 6), width, height, seconds)


def _examine_all(
    folder: Path, names: list[str], num_workers: int | None, journal: Journal
) -> list[Video | Failure]:
    """Each name's row, in order; a video that kills the process that decodes it is bad."""
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0))
    known = {}
    for name in names:
        row = journal.found(name, stamp_if_there(folder / name))
        if isinstance(row, dict) and [*row] == [*Video._fields]:  # of this version of the program
            known[name] = Video(**row)
    left = [name for name in names if name not in known]
    rows: list[Video | Failure] = []
    if known:
        logger.info("%d videos were decoded before, %d are left", len(known), len(left))
    with tqdm(total=len(left), unit="video") as progress, logging_redirect_tqdm():
        while len(rows) < len(left):
            try:
                for row, stamp in _examine_from(folder, left, len(rows), num_workers):
                    rows.append(row)
                    if isinstance(row, Video):
                        journal.add(row.video, stamp, row._asdict())
                    progress.update()
            except WorkerError as error:
                reason = f"the process that decodes it ends: {error.reason}"
                rows.append(Failure(left[len(rows)], reason))
                progress.update()
    found = known | dict(zip(left, rows, strict=True))
    return [found[name] for name in names]


def _examine_from(
    folder: Path, names: list[str], first: int, num_workers: int
) -> Iterator[tuple[Video | Failure, Stamp | None]]:
    """Each name's row, and the stamp that its file had before it was read."""
    if num_workers == 0:
        yield from (_examine_stamped(folder, name) for name in names[first:])
        return
    task = partial(_examine_at, folder, names)
    with closing(Workers(task, min(num_workers, len(names) - first), first)) as workers:
        for _ in range(first, len(names)):
            yield next(workers)


def _examine_at(
    folder: Path, names: list[str], number: int
) -> tuple[Video | Failure, Stamp | None] | None:
    # Workers read ahead, also past the end.
    return _examine_stamped(folder, names[number]) if number < len(names) else None


def _examine_stamped(folder: Path, name: str) -> tuple[Video | Failure, Stamp | None]:
    stamp = stamp_if_there(folder / name)
    return examine(folder, name), stamp


def _split(
    preparation: Preparation, names: list[str], lists: tuple[set[str], set[str]] | None
) -> Split:
    pattern, val_share = preparation.group_pattern, preparation.val_share
    if lists is None:
        return split_by_group(names, pattern, preparation.test_share, val_share)
    return split_by_lists(names, *lists, pattern, val_share)


def _check_writable(folder: Path) -> None:
    """Find out before hours of decoding, and without making the folder."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise OSError(f"{place}: not a folder, where {folder} is to be written")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OSError(f"{place}: cannot be written, where {folder} is to be")
