"""Everything that decides an evaluation, in one flat place."""

from dataclasses import dataclass

from mg.data.clip import check_clip_arguments
from mg.ranges import Dtype, check_at_least, check_choices


@dataclass(frozen=True)
class Evaluation:
    """What to reconstruct, with which weights.

    Args:
        ckpt_path: Checkpoint of the TAE, .safetensors or .ckpt.
        csv_path: CSV file with a column of videos, relative to video_folder.
        video_folder: Folder of the videos.
        output_path: Where reconstructions, metrics.csv, metrics.json and report.html go.
        video_column: Name of the CSV's column of videos.
        batch_size: Videos reconstructed at a time.
        num_frames: First frames of each video to reconstruct; all of a shorter video.
        image_size: Short side is resized to it, then its centre square is taken.
        sample_stride: Take every n-th frame.
        use_tile: Encode and decode in tiles of 32 frames of 512x512 pixels, to save memory.
        lpips_weights: Also measure LPIPS with these weights, a .safetensors made by
            `mg convert-lpips`.
        report: Also write report.html, a page to watch reconstructions beside the originals.
        dtype: Number type of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: True for graph mode on MindSpore, and on PyTorch for torch.compile or, on a GPU,
            CUDA graphs; False for eager; by default graph mode on MindSpore and eager on PyTorch.
    """

    ckpt_path: str
    csv_path: str
    video_folder: str
    output_path: str = "samples/recons"
    video_column: str = "video"
    batch_size: int = 1
    num_frames: int = 32
    image_size: int = 256
    sample_stride: int = 1
    use_tile: bool = False
    lpips_weights: str | None = None
    report: bool = True
    dtype: Dtype = "fp32"
    device_target: str = "auto"
    compile: bool | None = None

    def __post_init__(self):
        check_choices(self)
        check_clip_arguments(self.num_frames, self.image_size, self.sample_stride)
        check_at_least(vars(self), batch_size=1)
