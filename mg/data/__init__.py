"""Videos in and out: CSV index, files, clips in [-1, 1], training batches. Knows no framework."""

from mg.data.clip import load_clip
from mg.data.index import Entry, check_some_there, read_entries, read_index
from mg.data.loader import Batch, TrainingBatches, TrainingClips, training_batches
from mg.data.opening import VideoError
from mg.data.output import DEFAULT_CRF, check_output, is_image
from mg.data.transforms import to_float, to_uint8
from mg.data.video_file import count_frames, read_fps, read_frames
from mg.data.video_stream import Chunk, promised_frames, read_chunks
from mg.data.video_writer import ImageWriter, VideoWriter, open_writer, write_video
from mg.data.workers import WorkerError

__all__ = [
    "DEFAULT_CRF",
    "Batch",
    "Chunk",
    "Entry",
    "ImageWriter",
    "TrainingBatches",
    "TrainingClips",
    "VideoError",
    "VideoWriter",
    "WorkerError",
    "check_output",
    "check_some_there",
    "count_frames",
    "is_image",
    "load_clip",
    "open_writer",
    "promised_frames",
    "read_chunks",
    "read_entries",
    "read_fps",
    "read_frames",
    "read_index",
    "to_float",
    "to_uint8",
    "training_batches",
    "write_video",
]
