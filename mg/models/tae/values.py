"""What goes into the network: checked, and made to fit. Shapes `(b c t h w)`."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mg import backend
from mg.backend import Tensor, cat

TensorLike = Tensor | np.ndarray
"""What the network takes; an array becomes a tensor, of float32."""


def video(x: TensorLike, channels: int, *, smallest: int) -> Tensor:
    """x as a tensor, float32.

    Raises:
        TypeError: a tensor of the other framework.
        ValueError: another shape than `(b channels t h w)` with h and w of `smallest` at least, or
            values that are integers or not finite.
    """
    x = _tensor(x, "mg.data.to_float makes a video of frames")
    if x.ndim != 5 or x.shape[1] != channels or min(x.shape) < 1 or min(x.shape[3:]) < smallest:
        raise ValueError(
            f"a video of shape {tuple(x.shape)}, expected (b {channels} t h w) with t >= 1 and "
            f"h, w >= {smallest}"
        )
    if not _all_finite(x):
        raise ValueError("the video holds NaN or infinite values, expected [-1, 1]")
    return x


def latents(z: TensorLike, channels: int) -> Tensor:
    """z as a tensor, float32.

    Raises:
        TypeError: a tensor of the other framework.
        ValueError: another shape than `(b channels t h w)`, or values that are integers or not
            finite.
    """
    z = _tensor(z, "raw latents, the first of what `encode` gives")
    if z.ndim != 5 or z.shape[1] != channels or min(z.shape) < 1:
        raise ValueError(f"latents of shape {tuple(z.shape)}, expected (b {channels} t h w)")
    if not _all_finite(z):
        raise ValueError("the latents hold NaN or infinite values")
    return z


def target(
    num_frames: int | None, size: tuple[int, int] | None
) -> tuple[int | None, tuple[int, int] | None]:
    """A number of frames, and a height and width, as Python's integers: MindSpore's slices take no
    others.

    Raises:
        ValueError: they are not whole numbers from 1, or None.
    """
    if not (num_frames is None or _is_whole(num_frames, 1)):
        raise ValueError(f"num_target_frames is {num_frames!r}, expected a whole number from 1")
    sizes = size if isinstance(size, tuple | list) else (size,)
    if not (size is None or len(sizes) == 2 and all(_is_whole(length, 1) for length in sizes)):
        raise ValueError(f"target_size is {size!r}, expected (height, width), each from 1")
    frames = None if num_frames is None else int(num_frames)
    return frames, None if size is None else (int(size[0]), int(size[1]))


def check_holds(
    num_frames: int | None,
    size: tuple[int, int] | None,
    latent_size: Sequence[int],
    compression: int,
) -> None:
    """Raise unless latents of that many frames, rows and columns hold a target.

    Raises:
        ValueError: they hold less.
    """
    wanted = (num_frames, *(size or (None, None)))
    for count, length, axis in zip(wanted, latent_size, ("frames", "rows", "columns"), strict=True):
        holds = length * compression
        if count is not None and count > holds:
            raise ValueError(f"{count} {axis} asked for, these latents decode to {holds} at most")


def generator(seed: int | None) -> np.random.Generator:
    """What draws noise and initial weights; by a seed, or None: anew at each call.

    Raises:
        ValueError: the seed is no whole number from 0.
    """
    if not (seed is None or _is_whole(seed, 0)):
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0")
    return np.random.default_rng(seed)


def extended(x: Tensor, multiple: int) -> Tensor:
    """x with its last row and column repeated until height and width are multiples."""
    for axis in (3, 4):
        length = x.shape[axis]
        if missing := -length % multiple:
            last = x[(slice(None),) * axis + (slice(length - 1, length),)]
            x = cat([x] + [last] * missing, axis)
    return x


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, int | np.integer) and int(number) >= least


def pieces(chunks: Iterable[TensorLike]) -> Iterable[TensorLike]:
    """The same pieces.

    Raises:
        ValueError: one tensor or array, whose items would be taken for pieces.
    """
    if backend.is_tensor(chunks) or isinstance(chunks, np.ndarray):
        raise ValueError("a tensor or an array, expected several in order: [x] for one")
    return chunks


def _tensor(x: TensorLike, floats: str) -> Tensor:
    if isinstance(x, tuple | list) and any(map(backend.is_tensor, x)):
        raise ValueError(f"a {type(x).__name__} of tensors, expected one ({floats})")
    framework = type(x).__module__.partition(".")[0]
    if framework in ("torch", "mindspore") and framework != backend.name:
        raise TypeError(  # numpy would take it, and lose its gradient
            f"a tensor of {framework}, but this program computes by {backend.name}: set "
            f"MG_BACKEND={framework} before mg is imported, or give a numpy array"
        )
    values: Any = x if backend.is_tensor(x) else np.asarray(x)
    if re.search("int|bool|complex", str(values.dtype).lower()):
        raise ValueError(f"values are {values.dtype}, expected floats ({floats})")
    if isinstance(values, np.ndarray):
        return backend.from_numpy(values.astype(np.float32, copy=False))
    # MindSpore has little bf16 arithmetic on a CPU.
    return backend.cast(values, backend.dtype("fp32"))


def _all_finite(x: Tensor) -> bool:
    # x - x is zero but for NaN and infinity; MindSpore's maximum on the CPU skips NaN.
    return float(backend.to_numpy((x - x).sum())) == 0
