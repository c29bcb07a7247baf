"""Files of arrays: safetensors, read with checks and written whole."""

import os
from pathlib import Path

import numpy as np

from mg.files import atomic_path

Arrays = dict[str, np.ndarray]


def read_safetensors(path: str | os.PathLike) -> tuple[Arrays, dict[str, str]]:
    """The arrays (bf16 and fp16 as float32) and the metadata of a safetensors file.

    Raises:
        ValueError: the file is damaged, or holds something else than numbers.
    """
    import safetensors  # here: a network without files does without it

    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        # numpy has no bfloat16, so the bytes are taken as they are. They come in no order.
        entries = sorted(safetensors.deserialize(Path(path).read_bytes()))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    return {name: _to_array(entry, f"{path}: {name}") for name, entry in entries}, metadata


def _to_array(entry: dict, where: str) -> np.ndarray:
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    check_floating(entry["dtype"], entry["dtype"] in kinds, where)
    array = np.frombuffer(entry["data"], kinds[entry["dtype"]])
    if entry["dtype"] == "BF16":
        array = from_bf16(array)
    try:
        return array.astype(np.float32, copy=False).reshape(entry["shape"])
    except ValueError as error:  # nothing, in a shape beyond numpy's
        raise ValueError(f"{where}: {error}") from None


def check_floating(kind: object, is_known: bool, where: str) -> None:
    """Raise a ValueError that names the kind of an array, unless it is a known floating point."""
    if not is_known:
        raise ValueError(f"{where} is of type {kind}, expected floating point of 16 to 64 bits")


def write_arrays(
    path: str | os.PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import safetensors.numpy  # here: a network without files does without it

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        try:
            safetensors.numpy.save_file(contiguous, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:  # a full disk, say
            raise OSError(f"{path}: cannot be written ({error})") from None


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bf16 numbers, stored as uint16, in float32, of which they are the upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
