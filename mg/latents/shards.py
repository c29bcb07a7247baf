"""Shards: safetensors files of many clips' latents. Each says for itself what it holds.

A shard's metadata lists the clips whose latents are in it, and the files whose clips are all
written, in it or before. So the shards of a directory tell what is done, whichever process wrote
them and whenever it was killed; the manifest is made from them.
"""

import json
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mg.latents.encoding import SAFETENSORS_NAMES, Encoding, encoding_from_json
from mg.ranges import TOO_LARGE

FORMAT = "mg latents shard 1"
SHARDS = "shard-*.safetensors"
MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}


class Clip(NamedTuple):
    """A clip whose latents are in a shard.

    `key` names its array; `video_sha256` is that of the file it is of; it is clip `number` of that,
    from 0, and begins with the file's frame `start`. `frames`, `height`, `width` in pixels and
    `fps` are those of the clip as encoded; `crc32` is of the array's bytes.
    """

    key: str
    video_sha256: str
    number: int
    start: int
    frames: int
    height: int
    width: int
    fps: float
    crc32: int


class EncodedFile(NamedTuple):
    """A file all of whose clips are written: its name in the CSV, what it holds, and its size in
    bytes and time of change in nanoseconds, by which it is recognised without being read."""

    file: str
    video_sha256: str
    clips: int
    size: int
    modified: int


class Place(NamedTuple):
    """Where an array is in its file: from byte `offset` on, `shape` of `dtype`."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


AGAIN = "; delete it and run `mg encode-dataset` again, which encodes anew what it held"


@dataclass(frozen=True)
class Shard:
    """What a shard's header says."""

    path: Path
    encoding: Encoding
    clips: list[Clip]
    files: list[EncodedFile]
    places: dict[str, Place]


def clip_key(video_sha256: str, number: int) -> str:
    """The name of a clip's array: the same for the same content."""
    return f"{video_sha256[:32]}-{number:06}"


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def shard_paths(directory: str | os.PathLike) -> list[Path]:
    """The shards of a directory, by name."""
    return sorted(Path(directory).glob(SHARDS))


def shard_size(path: str | os.PathLike) -> int:
    """A shard's size in bytes.

    Raises:
        FileNotFoundError: no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such shard of latents")
    return Path(path).stat().st_size


def read_shard(path: str | os.PathLike) -> Shard:
    """Read a shard's header, and check that it fits the file and the clips it lists.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut off, is no shard, or contradicts itself.
    """
    path, size = Path(path), shard_size(path)
    try:
        header, start = _read_header(path, size)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise ValueError(f"expected a safetensors file whose format is '{FORMAT}'")
        encoding = encoding_from_json(metadata.get("encoding", ""))
        clips = _records(Clip, metadata.get("clips", ""))
        files = _records(EncodedFile, metadata.get("files", ""))
        places = {key: _place(key, entry, start) for key, entry in header.items()}
        end = max((place.end for place in places.values()), default=start)
        if end != size:
            raise ValueError(f"it has {size} bytes, its header tells of {end}")
        if [clip.key for clip in clips] != list(dict.fromkeys(clip.key for clip in clips)):
            raise ValueError("it lists a clip twice")
        if places.keys() != {clip.key for clip in clips}:
            raise ValueError("its arrays are not those of the clips that it lists")
        for clip in clips:
            _check_clip(encoding, clip, places[clip.key])
    except ValueError as error:
        raise ValueError(f"{path}: not a whole shard of latents: {error}{AGAIN}") from None
    return Shard(path, encoding, clips, files, places)


def read_array(path: str | os.PathLike, place: Place) -> np.ndarray:
    """Read one array of a shard.

    Raises:
        OSError: the file cannot be read.
        ValueError: it ends before the array does.
    """
    count = math.prod(place.shape)
    array = np.fromfile(path, place.dtype, count, offset=place.offset)
    if array.size != count:
        raise ValueError(f"{path}: ends within the latents at byte {place.offset}")
    return array.reshape(place.shape)


def _check_clip(encoding: Encoding, clip: Clip, place: Place) -> None:
    """Raise a ValueError unless an array has the shape and type of a clip's latents."""
    sizes = (clip.frames, clip.height, clip.width)
    if min(sizes) < 1:
        raise ValueError(f"{clip.key} is of {sizes[0]} frames of {sizes[2]}x{sizes[1]} pixels")
    expected = encoding.shape(*sizes), encoding.dtype
    if (place.shape, place.dtype) != expected:
        raise ValueError(
            f"{clip.key} is {place.dtype} {place.shape}, expected {expected[1]} {expected[0]} "
            f"for {sizes[0]} frames of {sizes[2]}x{sizes[1]} pixels"
        )


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header, and the byte at which arrays begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError(f"a file of {size} bytes whose header claims {length}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, 8 + length


def _place(key: str, entry: Any, start: int) -> Place:
    try:
        shape, (begin, end), dtype = entry["shape"], entry["data_offsets"], _DTYPES[entry["dtype"]]
        whole = len(shape) == 4 and all(
            type(number) is int and 0 <= number < TOO_LARGE for number in (*shape, begin, end)
        )
        place = Place(start + begin, tuple(shape), dtype)
        if whole and place.end == start + end:
            return place
    except (TypeError, KeyError, ValueError):
        pass
    raise ValueError(f"the header's entry of {key!r} is {str(entry)[:100]}")


Record = TypeVar("Record", Clip, EncodedFile)


def _records(kind: type[Record], text: str) -> list[Record]:
    """Records of one kind from a JSON list of objects, each value of its field's type."""
    try:
        records = [kind(**values) for values in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"it does not list its {kind.__name__} records") from None
    if not records:
        return []
    # Field by field, since a data set may have millions of records.
    columns = zip(*records, strict=True)
    for (name, type_), values in zip(kind.__annotations__.items(), columns, strict=True):
        if not _are_right(name, type_, values):
            right = [_are_right(name, type_, [value]) for value in values]
            raise ValueError(f"{kind.__name__} record {str(records[right.index(False)])[:200]}")
    return records


def _are_right(name: str, kind: type, values: Sequence) -> bool:
    """Whether a field's values are of its type, and such as the manifest can hold."""
    if {*map(type, values)} != {kind}:
        return False
    if kind is int:  # a time of change may be before 1970
        return name == "modified" or (min(values) >= 0 and max(values) < TOO_LARGE)
    if kind is float:
        return all(map(math.isfinite, values))
    text = "".join(values)
    return text == text.encode(errors="replace").decode()  # no half of a surrogate pair
