"""One run on several processes, as `msrun` and `torchrun` start them."""

import json
import logging
from typing import Any

import numpy as np

from mg import backend


def join() -> None:
    """Join the other processes of this run, if the framework's launcher started this one; all but
    the first of them log warnings only from then on.

    Raises:
        OSError: the processes do not find each other.
    """
    backend.join_ranks()
    if backend.rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return backend.rank() == 0


def gather(value: Any) -> list[Any]:
    """What every process gave, in the order of ranks; `value` is anything that JSON holds.

    Raises:
        OSError: another process of the run died.
    """
    if backend.world_size() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    parts = np.zeros((2, backend.world_size()), np.float32)
    parts[:, backend.rank()] = divmod(text.size, 1 << 20)  # float32 is exact up to 2^24
    sizes = (_sum(parts).astype(int) * [[1 << 20], [1]]).sum(0)
    texts = np.zeros((len(sizes), sizes.max()), np.float32)  # bytes are exact in float32
    texts[backend.rank(), : text.size] = text
    rows = _sum(texts).astype(np.uint8)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def mean(array: np.ndarray) -> np.ndarray:
    """The mean over all processes, in float32 where there are several.

    Raises:
        OSError: another process of the run died.
    """
    if backend.world_size() == 1:
        return array
    return _sum(array.astype(np.float32)) / backend.world_size()


def _sum(array: np.ndarray) -> np.ndarray:
    return backend.to_numpy(backend.all_reduce_sum([backend.from_numpy(array)])[0])
