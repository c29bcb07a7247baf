"""Everything that decides what is done with one file, in one flat place for each command."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reconstruction:
    """A video to reconstruct.

    Args:
        source: Video or image.
        target: Video or image to write; its suffix chooses the format.
        ckpt_path: Checkpoint of the TAE, .safetensors or (MindSpore) .ckpt.
        side_by_side: Write the original beside its reconstruction, in one video.
        report: Also write this page (.html): original, reconstruction and difference side by side,
            PSNR and SSIM of each frame.
        measure: Print PSNR and SSIM; False saves their time.
        num_frames: Only so many frames, from the start.
        crf: Constant rate factor of the codec; lower is better and larger.
        codec: FFmpeg encoder; by default libx264, or what is usual where the format does not take
            it. An image has none.
        chunk_frames: Frames that go through the network at a time: more is faster, fewer take less
            memory.
        use_tile: Compute large frames in tiles of 512x512 pixels to save memory.
        dtype: Of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: True for graph mode on MindSpore or torch.compile on PyTorch, False for eager, of a
            network whose norm or attention spans the clip; any other streams layer by layer.
    """

    source: str
    target: str
    ckpt_path: str
    side_by_side: bool = False
    report: str | None = None
    measure: bool = True
    num_frames: int | None = None
    crf: int = 10
    codec: str | None = None
    chunk_frames: int = 16
    use_tile: bool = False
    dtype: str = "fp32"
    device_target: str = "auto"
    compile: bool | None = None

    def __post_init__(self):
        _check(self, chunk_frames=1, num_frames=1, crf=0)
        if self.report is not None and not self.measure:
            raise ValueError("measure is False, but the report shows PSNR and SSIM")


@dataclass(frozen=True)
class FileEncoding:
    """A video to encode.

    Args:
        source: Video or image.
        target: Latent file to write, named *.safetensors.
        ckpt_path: Checkpoint of the TAE, .safetensors or (MindSpore) .ckpt.
        scaled: Keep scaled latents, as diffusion models are trained on, instead of raw ones. The
            file says which it holds, and `mg decode` takes both.
        sample: Keep a sample of the posterior instead of its mean.
        seed: Of the sample.
        precision: Of the stored numbers, fp32 or fp16.
        num_frames: Only so many frames, from the start.
        chunk_frames: Frames that go through the network at a time: more is faster, fewer take less
            memory.
        use_tile: Compute large frames in tiles of 512x512 pixels to save memory.
        dtype: Of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: True for graph mode on MindSpore or torch.compile on PyTorch, False for eager, of a
            network whose norm or attention spans the clip; any other streams layer by layer.
    """

    source: str
    target: str
    ckpt_path: str
    scaled: bool = False
    sample: bool = False
    seed: int = 0
    precision: Literal["fp32", "fp16"] = "fp32"
    num_frames: int | None = None
    chunk_frames: int = 16
    use_tile: bool = False
    dtype: str = "fp32"
    device_target: str = "auto"
    compile: bool | None = None

    def __post_init__(self):
        _check(self, chunk_frames=1, num_frames=1, seed=0)

    def deciding(self) -> dict:
        """The settings that decide the latents, for `mg.latents.encoding.Encoding`."""
        return {
            "stored": "sample" if self.sample else "mean",
            "scaled": self.scaled,
            "precision": self.precision,
            "seed": self.seed if self.sample else None,
            "num_frames": self.num_frames,
            "use_tile": self.use_tile,
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class Decoding:
    """Latents to decode.

    Args:
        source: Latent file that `mg encode` wrote.
        target: Video or image to write; its suffix chooses the format.
        ckpt_path: Checkpoint of the TAE, .safetensors or (MindSpore) .ckpt; of the config that the
            latents were made with.
        crf: Constant rate factor of the codec; lower is better and larger.
        codec: FFmpeg encoder; by default libx264, or what is usual where the format does not take
            it. An image has none.
        chunk_frames: Frames that go through the network at a time: more is faster, fewer take less
            memory.
        use_tile: Compute large frames in tiles of 512x512 pixels to save memory.
        dtype: Of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: True for graph mode on MindSpore or torch.compile on PyTorch, False for eager, of a
            network whose norm or attention spans the clip; any other streams layer by layer.
    """

    source: str
    target: str
    ckpt_path: str
    crf: int = 10
    codec: str | None = None
    chunk_frames: int = 16
    use_tile: bool = False
    dtype: str = "fp32"
    device_target: str = "auto"
    compile: bool | None = None

    def __post_init__(self):
        _check(self, chunk_frames=1, crf=0)


def _check(settings: object, **least: int) -> None:
    """Raise a ValueError unless each of these settings is None or at least so much."""
    for key, smallest in least.items():
        value = getattr(settings, key)
        if value is not None and value < smallest:
            raise ValueError(f"{key} is {value}, expected at least {smallest}")
