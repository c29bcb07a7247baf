"""The latent file: one video's latents, and all that decoding them takes.

A safetensors file of the arrays

    latents: float32 or float16 (z t h w), raw or scaled as "encoding" says
    times: float64 (frames,), only of a video whose frame rate varies: when each frame is shown, in
        seconds from the first

and of the metadata

    format: "mg latents file 2"
    encoding: JSON of `mg.latents.encoding.Encoding`: the checkpoint's SHA-256, the TAE's config,
        scaling factor and shift in it, and settings: "stored" ("mean" or "sample" of the
        posterior), "scaled" (true or false), "precision" ("fp32" or "fp16"), and how it was encoded
    video: JSON of "source" (the file's name), "frames", "height", "width" in pixels and "fps", a
        fraction as "30000/1001"
    crc32: of the whole file with zeros in place of these 8 hexadecimal digits

Latents of float32 take 24 times less than the frames' 8-bit pixels (with 16 channels, 8x in time,
height and width).
"""

import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors

from mg.files import atomic_path, writing
from mg.latents.encoding import SAFETENSORS_NAMES, Encoding, encoding_from_json
from mg.ranges import LONGEST_PAUSE

FORMAT = "mg latents file 2"
_NO_CHECKSUM = "0" * 8
_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Video:
    """The video that latents are of.

    Attributes:
        source: its file's name.
        frames, height, width: of the whole video, upright, in pixels.
        fps: frames per second.
        times: float64 (frames,), when each frame is shown, in seconds from the first; None at a
            constant rate.
    """

    source: str
    frames: int
    height: int
    width: int
    fps: Fraction
    times: np.ndarray | None = None


def write_latents(
    path: str | os.PathLike,
    chunks: Iterable[np.ndarray],
    encoding: Encoding,
    describe: Callable[[], Video],
) -> None:
    """Write a latent file, whole or not at all, in constant memory.

    Until all chunks are there they are kept in a nameless file beside `path`.

    Args:
        path: named *.safetensors.
        chunks: raw latents `(z t h w)`, consecutive in t; they are scaled here if `encoding` says
            that the file's are.
        encoding: of the latents; its "stored" is "mean" or "sample".
        describe: gives the video; called after the last chunk, when its length is known.

    Raises:
        ValueError: another name, latents that are not finite in the precision of `encoding`, or
            that are not those of a video of that size.
        OSError: the file cannot be written.
    """
    check_name(path)
    with (
        atomic_path(path) as temporary,
        tempfile.TemporaryFile(buffering=0, dir=temporary.parent) as spool,
    ):
        for z in chunks:
            try:
                stored = encoding.to_stored(z)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            with writing(path):
                _append(spool, np.ascontiguousarray(stored.swapaxes(0, 1)))
        video = describe()
        shape = encoding.shape(video.frames, video.height, video.width)
        if spool.tell() != math.prod(shape) * encoding.dtype.itemsize:
            raise ValueError(f"{path}: latents of another size than {shape}, which fits the video")
        with writing(path), temporary.open("wb") as file:
            _write(file, spool, shape, encoding, video)


def check_name(path: str | os.PathLike) -> None:
    """Raise a ValueError unless a latent file may have that name."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: expected a latent file named *.safetensors")
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder, expected the name of a latent file to write")


class LatentFile:
    """A latent file, read and checked but for its latents, which `read` gives.

    Attributes:
        path, encoding, video: as written.
        shape: of the latents, `(z t h w)`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, is no latent file, or contradicts itself.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            kind = "is a folder" if self.path.is_dir() else "no such file"
            raise FileNotFoundError(f"{path}: {kind}, expected a latent file")
        try:
            with safetensors.safe_open(self.path, framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"expected a safetensors file whose format is '{FORMAT}'")
                self._check_bytes(metadata.get("crc32"))
                self.encoding = encoding_from_json(metadata.get("encoding", ""))
                self.video = _video_from_json(metadata.get("video", ""))
                self.shape = self._check_latents(file)
                self._read_times(file)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
        except ValueError as error:
            raise ValueError(f"{path}: not a whole latent file: {error}") from None

    def read(self, num_latents: int) -> Iterator[np.ndarray]:
        """Give the raw latents, whether the file's are scaled or not, float32 `(z t h w)` in chunks
        of `num_latents` along t.

        Raises:
            ValueError: they are not finite.
        """
        with safetensors.safe_open(self.path, framework="np") as file:
            stored = file.get_slice("latents")
            for start in range(0, self.shape[1], num_latents):
                stop = min(start + num_latents, self.shape[1])
                z = self.encoding.to_raw(stored[:, start:stop])
                if not np.isfinite(z).all():
                    raise ValueError(f"{self.path}: its latents hold NaN or infinite values")
                yield z

    def _check_bytes(self, expected: str | None) -> None:
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            file.seek(0)
            header = file.read(8 + length)
            stated, none = (f'"{text}"'.encode() for text in (expected, _NO_CHECKSUM))
            checksum = zlib.crc32(header.replace(stated, none))
            while block := file.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
        if f"{checksum:08x}" != expected:
            raise ValueError("its bytes do not have the checksum that it states")

    def _check_latents(self, file: safetensors.safe_open) -> tuple[int, ...]:
        if self.encoding.stored == "moments":
            raise ValueError("its latents are 'moments', expected 'mean' or 'sample'")
        if "latents" not in file.keys():  # noqa: SIM118  (it is no dictionary)
            raise ValueError("it holds no 'latents'")
        video, latents = self.video, file.get_slice("latents")
        shape, dtype = tuple(latents.get_shape()), latents.get_dtype()
        expected = self.encoding.shape(video.frames, video.height, video.width)
        wanted = SAFETENSORS_NAMES[self.encoding.dtype]
        if (shape, dtype) != (expected, wanted):
            raise ValueError(
                f"latents are {dtype} {shape}, expected {wanted} {expected} for {video.frames} "
                f"frames of {video.width}x{video.height} pixels"
            )
        return shape

    def _read_times(self, file: safetensors.safe_open) -> None:
        if "times" not in file.keys():  # noqa: SIM118
            return
        stored = file.get_slice("times")
        if (stored.get_shape(), stored.get_dtype()) != ([self.video.frames], "F64"):
            raise ValueError(f"times are {stored.get_dtype()} {stored.get_shape()}")
        times = file.get_tensor("times")
        steps = np.diff(times)
        if times[0] != 0 or not ((steps > 0) & (steps < LONGEST_PAUSE)).all():
            raise ValueError("times do not begin with 0 and increase")
        self.video = replace(self.video, times=times)


def _append(file: FileIO, array: np.ndarray) -> None:
    """Write an array to a file without a buffer, which could not be emptied onto a full disk."""
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        rest = rest[file.write(rest) :]


def _write(
    file: BinaryIO, spool: BinaryIO, shape: tuple[int, ...], encoding: Encoding, video: Video
) -> None:
    times = b"" if video.times is None else video.times.astype("<f8").tobytes()
    header = _header(shape, encoding, video, crc32=_NO_CHECKSUM)
    file.write(header)
    checksum = zlib.crc32(header)
    for block in chain([times], _transposed(spool, shape, encoding.dtype.itemsize)):
        file.write(block)
        checksum = zlib.crc32(block, checksum)
    file.seek(0)
    file.write(_header(shape, encoding, video, crc32=f"{checksum:08x}"))


def _transposed(spool: BinaryIO, shape: tuple[int, ...], itemsize: int) -> Iterator[bytes]:
    """The bytes of (z t h w) from a file of (t z h w)."""
    channels, frames, height, width = shape
    size = height * width * itemsize
    for channel in range(channels):
        for frame in range(frames):
            spool.seek((frame * channels + channel) * size)
            yield spool.read(size)


def _header(shape: tuple[int, ...], encoding: Encoding, video: Video, *, crc32: str) -> bytes:
    start = 0 if video.times is None else 8 * video.frames
    end = start + math.prod(shape) * encoding.dtype.itemsize
    description = {
        "source": video.source,
        "frames": video.frames,
        "height": video.height,
        "width": video.width,
        "fps": f"{video.fps.numerator}/{video.fps.denominator}",
    }
    metadata = {"format": FORMAT, "encoding": encoding.to_json(), "video": json.dumps(description)}
    header: dict[str, dict] = {"__metadata__": {**metadata, "crc32": crc32}}
    if video.times is not None:
        header["times"] = {"dtype": "F64", "shape": [video.frames], "data_offsets": [0, start]}
    dtype = SAFETENSORS_NAMES[encoding.dtype]
    header["latents"] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _video_from_json(text: str) -> Video:
    try:
        values = json.loads(text)
        # FFmpeg's fractions are of 32 bits, so 10 digits; of longer texts, Fraction may choke.
        if re.fullmatch("[0-9]{1,10}/[0-9]{1,10}", values["fps"]):
            video = Video(**{**values, "fps": Fraction(values["fps"])})
            sizes = (video.frames, video.height, video.width)
            if (
                all(type(size) is int and size > 0 for size in sizes)
                and 0 < video.fps.numerator < 1 << 31
                and video.fps.denominator < 1 << 31
                and isinstance(video.source, str)
                and video.times is None
            ):
                return video
    except (ValueError, TypeError, KeyError, ZeroDivisionError, RecursionError):
        pass
    raise ValueError("it does not say what video it is of")
