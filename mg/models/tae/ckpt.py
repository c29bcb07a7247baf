"""MindSpore's checkpoints, `.ckpt`, on both frameworks: a protobuf message of named arrays.

The format is that of MindSpore 2.8.0's `mindspore/train/checkpoint.proto`, in which nothing is
executed. MindSpore's own reader trusts a file: it copies contents of any length into arrays of the
shapes that stand beside them.
"""

import itertools
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from mg.arrays import from_bf16

_FORMAT = """
name: "mg/ckpt.proto" package: "mg"
message_type {
  name: "Tensor"
  field { name: "dims" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
  field { name: "tensor_type" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "tensor_content" number: 3 label: LABEL_OPTIONAL type: TYPE_BYTES }
}
message_type {
  name: "Value"
  field { name: "tag" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "tensor" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Tensor" }
}
message_type {
  name: "Checkpoint"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "Value" }
}
"""
_CHECKSUM = b"crc_num"  # may stand at the end, before ten bytes
_DTYPES = {
    "Float64": np.float64,
    "Float32": np.float32,
    "Float16": np.float16,
    "BFloat16": np.uint16,  # `from_bf16` widens it
    "Int64": np.int64,
    "Int32": np.int32,
    "Int8": np.int8,
    "UInt8": np.uint8,
    "Bool": np.bool_,
}
_LARGEST = 2**31 - 2**20  # protobuf's limit, less what names and shapes take


def _message() -> Any:
    file = text_format.Parse(_FORMAT, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mg.Checkpoint"))()


def read_ckpt(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a MindSpore checkpoint; bf16 becomes float32.

    Raises:
        ValueError: the file is no whole checkpoint.
    """
    content = path.read_bytes()
    whole = True
    if content[-17:-10] == _CHECKSUM:
        content, checksum = content[:-17], int.from_bytes(content[-10:], "big")
        whole = zlib.crc32(content) == checksum
    message = _message()
    try:
        message.ParseFromString(content)
    except DecodeError:
        whole = False
    if not whole or not message.value:
        kind = ", but one of PyTorch" if content.startswith(b"PK") else ""
        raise ValueError(f"{path}: not a whole MindSpore checkpoint{kind}")
    arrays = {}
    for name, parts in itertools.groupby(message.value, lambda value: value.tag):
        tensors = [part.tensor for part in parts]  # a large one comes in several, of one shape
        kind, shape = tensors[0].tensor_type, tuple(tensors[0].dims)
        content = b"".join(tensor.tensor_content for tensor in tensors)
        if shape == (0,) and content:
            shape = ()  # as MindSpore writes a scalar
        dtype = np.dtype(_DTYPES.get(kind, np.void))
        size = math.prod(shape) * dtype.itemsize
        fits = len(shape) <= 8 and min(shape, default=0) >= 0 and size == len(content)
        if kind not in _DTYPES or not fits or name in arrays:
            raise ValueError(
                f"{path}: not a whole MindSpore checkpoint ({name!r} is {kind!r} of shape {shape} "
                f"in {len(content)} bytes)"
            )
        array = np.frombuffer(content, dtype).reshape(shape)
        arrays[name] = from_bf16(array) if kind == "BFloat16" else array.copy()
    return arrays


def write_ckpt(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint that MindSpore reads.

    Raises:
        ValueError: there are more than 2 GiB.
        OSError: the file cannot be written.
    """
    if sum(array.nbytes for array in arrays.values()) > _LARGEST:
        raise ValueError("more than the 2 GiB of a .ckpt; a .safetensors has no such limit")
    kinds = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items() if kind != "BFloat16"}
    message = _message()
    for name, array in arrays.items():
        tensor = message.value.add(tag=name).tensor
        tensor.dims.extend(array.shape or [0])
        tensor.tensor_type = kinds[array.dtype]
        tensor.tensor_content = array.tobytes()
    path.write_bytes(message.SerializeToString())
