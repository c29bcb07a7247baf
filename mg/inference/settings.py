"""Everything that decides what is done with one file, in one flat place for each command."""

from collections.abc import Generator
from dataclasses import dataclass

from mg.data import DEFAULT_CRF, Chunk, read_chunks
from mg.data.transforms import MIN_IMAGE_SIZE
from mg.latents.encoding import Precision
from mg.ranges import Dtype, check_at_least, check_choices


@dataclass(frozen=True, kw_only=True)
class OneFile:
    """A file and the network it goes through.

    Args:
        source: Video or image; for Decoding the latent file that `mg encode` wrote.
        target: File to write; its suffix chooses the format.
        ckpt_path: Checkpoint of the TAE, .safetensors or .ckpt; by default "small", the bundled
            weights. `mg decode` needs one of the config that the latents were encoded with.
        chunk_frames: Frames that are read, or decoded, at a time. The network takes them in pieces
            of its own size, unless its norm or attention spans the clip.
        use_tile: Compute large frames in tiles of 512x512 pixels. It saves memory for an image or
            a second of video; a long one takes more, since all tiles keep their past frames.
        dtype: Number type of convolutions and matrix products: fp32, bf16 or fp16.
        device_target: CPU or Ascend (MindSpore), CPU or GPU (PyTorch), or auto.
        compile: Of a network that streams, True lets MindSpore compile the steps of small frames,
            from the eighth of a size on; PyTorch has nothing to compile. Of one whose norm or
            attention spans the clip, True compiles each tile: graph mode on MindSpore, on PyTorch
            torch.compile or, on a GPU, CUDA graphs. False for eager; by default the same as True on
            MindSpore, and as False on PyTorch.
    """

    source: str
    target: str
    ckpt_path: str = "small"
    chunk_frames: int = 16
    use_tile: bool = False
    dtype: Dtype = "fp32"
    device_target: str = "auto"
    compile: bool | None = None

    def __post_init__(self):
        check_choices(self)
        check_at_least(vars(self), chunk_frames=1)


@dataclass(frozen=True, kw_only=True)
class VideoInput(OneFile):
    """What reads a video or an image.

    Args:
        num_frames: Only so many frames, from the start.
        max_size: Scale larger frames down first, so that their longer side has at most so many
            pixels, 8 or more.
    """

    num_frames: int | None = None
    max_size: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_at_least(vars(self), num_frames=1, max_size=MIN_IMAGE_SIZE)

    def chunks(self) -> Generator[Chunk]:
        """The frames to take, in chunks; see `mg.data.read_chunks`."""
        return read_chunks(
            self.source, self.chunk_frames, num_frames=self.num_frames, max_size=self.max_size
        )


@dataclass(frozen=True, kw_only=True)
class VideoOutput(OneFile):
    """What writes a video.

    Args:
        crf: Constant rate factor of the codec; lower is better and larger.
        codec: FFmpeg encoder; by default libx264, or what is usual where the format does not take
            it. An image has none.
    """

    crf: int = DEFAULT_CRF
    codec: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.crf <= 63:  # of VP9 and AV1; x264 takes what is above its 51 for that
            raise ValueError(f"crf is {self.crf}, expected 0 to 63")


@dataclass(frozen=True, kw_only=True)
class Reconstruction(VideoInput, VideoOutput):
    """A video to reconstruct.

    Args:
        side_by_side: Write the original beside its reconstruction, in one video.
        report: Also write this page (.html): original, reconstruction and difference side by side,
            PSNR and SSIM of each frame.
        measure: Print PSNR and SSIM; False saves their time.
    """

    side_by_side: bool = False
    report: str | None = None
    measure: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.report is not None and not self.report.lower().endswith((".html", ".htm")):
            raise ValueError(f"report is {self.report}, expected the name of a page, *.html")
        if self.report is not None and not self.measure:
            raise ValueError("measure is False, but the report shows PSNR and SSIM")


@dataclass(frozen=True, kw_only=True)
class FileEncoding(VideoInput):
    """A video to encode.

    Args:
        scaled: Keep scaled latents, as diffusion models are trained on, instead of raw ones. The
            file says which it holds, and `mg decode` takes both.
        sample: Keep a sample of the posterior instead of its mean.
        seed: Seed of the sample.
        precision: Number type of what is stored, fp32 or fp16.
    """

    scaled: bool = False
    sample: bool = False
    seed: int = 0
    precision: Precision = "fp32"

    def __post_init__(self):
        super().__post_init__()
        check_at_least(vars(self), seed=0)

    def deciding(self) -> dict:
        """The settings that decide the latents, for `mg.latents.encoding.Encoding`."""
        return {
            "stored": "sample" if self.sample else "mean",
            "scaled": self.scaled,
            "precision": self.precision,
            "seed": self.seed if self.sample else None,
            "num_frames": self.num_frames,
            "max_size": self.max_size,
            "use_tile": self.use_tile,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, kw_only=True)
class Decoding(VideoOutput):
    """Latents to decode."""
