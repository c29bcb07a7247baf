"""Everything that decides how a data set is encoded, in one flat place."""

from dataclasses import dataclass

from mg.data.clip import check_clip_arguments
from mg.latents.encoding import Precision, Stored
from mg.ranges import Dtype, check_at_least, check_choices


@dataclass(frozen=True)
class DatasetEncoding:
    """What to encode, by which weights, and what to keep of it.

    Args:
        ckpt_path: Checkpoint of the TAE, .safetensors or .ckpt.
        csv_path: CSV file with a column of videos, relative to video_folder.
        video_folder: Folder of the videos.
        output_path: Where manifest.parquet, bad.csv and the shards of latents go. The same command
            goes on where it was stopped or killed; another CSV adds to what is there.
        video_column: Name of the CSV's column of videos.
        num_frames: Cut each video into consecutive clips of so many frames; by default each video
            is one clip, whole.
        keep_remainder: Also keep what is left of a video after the last whole clip, as a shorter
            clip; otherwise it is dropped, and a video shorter than num_frames is listed in bad.csv.
        clips_per_video: Take at most so many clips of each video, from its start.
        image_size: Short side is resized to it, then its centre square is taken; by default videos
            keep their own size.
        sample_stride: Take every n-th frame.
        batch_size: Clips of one video encoded at a time.
        stored: What to keep of the posterior: its mean, a sample of it, or its moments, mean and
            log variance, of which LatentDataset draws anew at each access.
        scaled: Keep scaled latents instead of raw ones; not with moments. LatentDataset gives
            either from either.
        precision: Number type of what is stored, fp32 or fp16.
        seed: Seed of the samples.
        shard_size: Megabytes (2^20 bytes) of latents in a shard.
        shard_minutes: Minutes after which latents are written even if the shard is small, so that
            a kill costs no more than that.
        use_tile: Encode in tiles to save memory: of 512x512 pixels and, with num_frames, of 32
            frames.
        dtype: Number type of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: True for graph mode on MindSpore, and on PyTorch for torch.compile or, on a GPU,
            CUDA graphs; False for eager; by default eager on PyTorch, and graph mode on MindSpore
            unless clips may be of many sizes (num_frames without image_size), each of which would
            be compiled anew. Whole videos are streamed: MindSpore alone compiles their steps, of
            small frames from the eighth of a size on.
    """

    ckpt_path: str
    csv_path: str
    video_folder: str
    output_path: str
    video_column: str = "video"
    num_frames: int | None = None
    keep_remainder: bool = False
    clips_per_video: int | None = None
    image_size: int | None = None
    sample_stride: int = 1
    batch_size: int = 1
    stored: Stored = "mean"
    scaled: bool = False
    precision: Precision = "fp32"
    seed: int = 0
    shard_size: int = 256
    shard_minutes: float = 10.0
    use_tile: bool = False
    dtype: Dtype = "fp32"
    device_target: str = "auto"
    compile: bool | None = None

    def __post_init__(self):
        check_choices(self)
        given = vars(self)
        check_clip_arguments(self.num_frames, self.image_size, self.sample_stride)
        check_at_least(
            given, clips_per_video=1, batch_size=1, seed=0, shard_size=1, shard_minutes=0
        )
        if self.num_frames is None and (self.keep_remainder or self.clips_per_video):
            key = "keep_remainder" if self.keep_remainder else "clips_per_video"
            raise ValueError(f"{key} is {getattr(self, key)}, which needs num_frames")
        if self.scaled and self.stored == "moments":
            raise ValueError("scaled is True, but moments are stored raw")

    def deciding(self) -> dict:
        """The settings that decide the latents, for `mg.latents.encoding.Encoding`."""
        keys = ("num_frames", "keep_remainder", "clips_per_video", "image_size", "sample_stride")
        keys += ("stored", "scaled", "precision", "use_tile", "dtype")
        seed = self.seed if self.stored == "sample" else None
        return {**{key: getattr(self, key) for key in keys}, "seed": seed}
