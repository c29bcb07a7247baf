"""Training batches: endless, from worker processes, and a function of the seed alone."""

import hashlib
import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mg.data.clip import check_clip_arguments, read_clip
from mg.data.index import Entries, Entry, check_some_there, read_entries
from mg.data.opening import VideoError
from mg.data.transforms import to_float
from mg.data.workers import WorkerError, Workers
from mg.ranges import check_at_least, check_choices, check_finite

Strategy = Literal["video_only", "image_only", "mixed_video_image", "mixed_video_random"]

# Purposes of random draws; each is a stream of its own under one seed.
_ORDER, _LENGTH, _ITEM = range(3)


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        video: float32 (b c t h w) in [-1, 1].
        names: the file of each item, as in the CSV.
        broken: files that were to be read for this batch and cannot be, with the reason.
    """

    video: np.ndarray
    names: list[str]
    broken: dict[str, str]


class RawBatch(NamedTuple):
    """A batch as worker processes hand it over: `Batch` with uint8 frames (b t h w 3)."""

    frames: np.ndarray
    names: list[str]
    broken: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """Which clips training reads, and in which order.

    Args:
        csv_path: CSV file with a column of videos, relative to video_folder.
        video_folder: Folder of the videos.
        video_column: Name of the CSV's column of videos.
        num_frames: Frames of a clip; shorter videos are mirrored in time.
        image_size: Height and width of a clip in pixels, a multiple of the network's compression.
        sample_stride: Take every n-th frame of a video.
        batch_size: Clips in a batch of each process.
        random_crop: Crop a random square of the frame instead of its centre.
        random_flip: Mirror half of the clips horizontally.
        max_zoom: A clip's crop shows the frame's short side divided by a number from 1 to this,
            drawn log-uniformly, but enlarges nothing; 1 for always the whole short side.
        mixed_strategy: Lengths of batches: video_only, image_only, mixed_video_image (a share of
            batches are images), mixed_video_random (1, a multiple of 8 or num_frames, at random).
        mixed_image_ratio: Share of image batches for mixed_video_image.
        num_workers: Processes that read videos; 0 reads in the training process.
        seed: Seed of order, crops, lengths and, in a run, initial weights and sampled latents.
    """

    csv_path: str
    video_folder: str
    video_column: str = "video"
    num_frames: int = 32
    image_size: int = 256
    sample_stride: int = 1
    batch_size: int = 1
    random_crop: bool = True
    random_flip: bool = False
    max_zoom: float = 1.0
    mixed_strategy: Strategy = "video_only"
    mixed_image_ratio: float = 0.2
    num_workers: int = 2
    seed: int = 0

    def __post_init__(self):
        check_choices(self)
        check_finite(self)
        check_clip_arguments(self.num_frames, self.image_size, self.sample_stride)
        check_at_least(
            vars(self), batch_size=1, max_zoom=1, mixed_image_ratio=0, num_workers=0, seed=0
        )
        if self.mixed_image_ratio > 1:
            raise ValueError(f"mixed_image_ratio is {self.mixed_image_ratio}, expected 0 to 1")


@dataclass(frozen=True)
class Sampler:
    """What every training step sees: a pure function of seed and step.

    Global item i of epoch i // n is entry i % n of that epoch's permutation of the n files.
    Global batch `start_step` begins with item `start_item`, each later one where the one before
    it ended, and each rank takes its contiguous share; so 2 ranks of batch size 1 see what 1 rank
    of batch size 2 sees. All items of a global batch have the same length.
    """

    clips: TrainingClips
    videos: Entries
    rank: int
    world_size: int
    start_step: int
    start_item: int

    def batch(self, step: int) -> RawBatch:
        """Read this rank's share of global batch `step`.

        Raises:
            VideoError: every file of the data set is broken.
        """
        num_frames = self.length(step)
        shares = (step - self.start_step) * self.world_size + self.rank
        first = self.start_item + shares * self.clips.batch_size
        clips, names, broken = [], [], {}
        for item in range(first, first + self.clips.batch_size):
            clip, name = self._item(item, num_frames, broken)
            clips.append(clip)
            names.append(name)
        return RawBatch(np.stack(clips), names, broken)

    def length(self, step: int) -> int:
        """Return the number of frames of every clip in global batch `step`."""
        rng = np.random.default_rng((self.clips.seed, _LENGTH, step))
        match self.clips.mixed_strategy:
            case "image_only":
                return 1
            case "mixed_video_image":
                return 1 if rng.random() < self.clips.mixed_image_ratio else self.clips.num_frames
            case "mixed_video_random":
                return int(rng.choice(random_lengths(self.clips.num_frames)))
        return self.clips.num_frames

    def _item(self, item: int, num_frames: int, broken: dict[str, str]) -> tuple[np.ndarray, str]:
        """Read global item `item`, or for a broken file the next readable one of the epoch."""
        epoch, position = divmod(item, len(self.videos))
        order = _epoch_order(self.clips.seed, epoch, len(self.videos))
        for place in range(position, position + len(order)):
            video = self.videos[order[place % len(order)]]
            try:
                return self._clip(video, item, num_frames), video.name
            except (VideoError, FileNotFoundError) as error:
                broken[video.name] = str(error)
        reason = next(iter(broken.values()))
        raise VideoError(f"none of the {len(order)} videos can be read; the first: {reason}")

    def _clip(self, video: Entry, item: int, num_frames: int) -> np.ndarray:
        return read_clip(
            Path(self.clips.video_folder) / video.name,
            num_frames,
            self.clips.image_size,
            sample_stride=self.clips.sample_stride,
            rng=np.random.default_rng((self.clips.seed, _ITEM, item)),
            random_crop=self.clips.random_crop,
            random_flip=self.clips.random_flip,
            max_zoom=self.clips.max_zoom,
            video_frames=video.num_frames,
        )


def random_lengths(num_frames: int) -> list[int]:
    """Lengths of `mixed_video_random`: 1, the multiples of 8 up to `num_frames`, and itself.

    They are few, since a graph compiler compiles anew for every length.
    """
    return sorted({1, *range(8, num_frames + 1, 8), num_frames})


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _epoch_order(seed: int, epoch: int, num_files: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(num_files)


class TrainingBatches(Iterator[Batch]):
    """Endless iterator over batches; a context manager that ends its worker processes.

    A worker process that dies, killed for lack of memory, say, is replaced with a logged warning;
    the batches stay the same.

    Attributes:
        fingerprint: SHA-256, in hexadecimal, of what decides which file is read when: the names
            in the CSV's order, and the seed. A run goes on with the same order if it is the same.
    """

    def __init__(self, sampler: Sampler) -> None:
        names = [video.name for video in sampler.videos]
        order = json.dumps({"names": names, "seed": sampler.clips.seed})
        self.fingerprint = hashlib.sha256(order.encode()).hexdigest()
        self._closed = False
        num_workers = sampler.clips.num_workers
        if num_workers == 0:
            self._batches = map(sampler.batch, count(sampler.start_step))
            self._end_workers = None
        else:
            self._batches = Workers(sampler.batch, num_workers, sampler.start_step)
            # Also at exit and where nobody closes: else a process would be left.
            self._end_workers = weakref.finalize(self, self._batches.close)

    def __next__(self) -> Batch:
        if self._closed:
            raise ValueError("these training batches are closed")
        try:
            frames, names, broken = next(self._batches)
        except VideoError as error:
            self.close()
            raise VideoError(str(error)) from None  # without the worker's traceback
        except WorkerError:
            self.close()
            raise
        return Batch(to_float(frames), names, broken)

    def close(self) -> None:
        """End the worker processes; the batches cannot be iterated any more."""
        self._closed = True
        if self._end_workers is not None:
            self._end_workers()

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def training_batches(
    clips: TrainingClips,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    start_item: int | None = None,
) -> TrainingBatches:
    """Iterate endlessly over batches of clips from random starts in the videos of a CSV.

    The batches are a function of the arguments without `num_workers`: starting anew at
    `start_step` goes on exactly, also with another world size or batch size if `start_item` says
    which item is next. Each file occurs once an epoch; a file that cannot be read is replaced by
    the next of the epoch, and the batch names it in `broken`.

    With `num_workers` above 0 the caller's main module is imported in every worker process,
    as always when processes are spawned: guard it by `if __name__ == "__main__"`.

    Args:
        rank: of this process in data-parallel training.
        world_size: the number of such processes.
        start_step: the first batch.
        start_item: the first clip of that batch among those of all ranks since the beginning;
            None for `start_step * world_size * batch_size`. Later batches follow on it.

    Raises:
        FileNotFoundError: no such CSV file or folder.
        ValueError: a flaw of the CSV; none of its videos is there; an argument out of its range.
        VideoError: while iterating, when no file can be read.
        WorkerError: while iterating, when worker processes die again and again.
    """
    check_at_least(locals(), start_step=0, start_item=0)
    if start_item is None:
        start_item = start_step * world_size * clips.batch_size
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to {world_size - 1} (world_size - 1), got {rank}")
    videos = Entries(read_entries(clips.csv_path, clips.video_folder, clips.video_column))
    check_some_there(clips.csv_path, clips.video_folder, (video.name for video in videos))
    return TrainingBatches(Sampler(clips, videos, rank, world_size, start_step, start_item))
