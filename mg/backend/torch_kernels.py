"""Operations that PyTorch has no fast equal of, with gradients of their own.

Frames lie in memory with their channels innermost ("channels last"), where convolutions in time are
plain matrix products of whole frames, without a copy. Axes: b batch, t frames, p positions of a
frame, c input channels, o output channels, k taps.
"""

# PyTorch's annotations want any number of gradients.
# pyright: reportIncompatibleMethodOverride=false, reportPossiblyUnboundVariable=false

import functools
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mg.backend.shared import EPSILON, ZERO_FRAME, Run, frame_runs

logger = logging.getLogger(__name__)


def _can_build() -> bool:
    """Whether Triton finds what it compiles a kernel's launcher with: a C compiler and Python's
    header, where `triton.runtime.build` looks for them."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    compilers = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return header.is_file() and bool(compilers)


# Triton comes with PyTorch for a GPU; where it is missing, PyTorch's own operations do.
HAS_TRITON = torch.cuda.is_available() and find_spec("triton") is not None
if HAS_TRITON and not _can_build():
    logger.warning("no C compiler, or no Python.h: the GPU computes without our Triton kernels")
    HAS_TRITON = False

if HAS_TRITON:
    from mg.backend import torch_gpu_kernels


class TemporalConv(Function):
    """x `(b t p c)`, weight `(k c o)`, bias `(o)` to `(b t' p o)`; `table` says which frames each
    output frame reads, see `frame_table`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, table: tuple[int, ...]):
        # Only the weight's gradient reads x, which is large; a frozen network has none.
        needs_x = ctx.needs_input_grad[1] or _has_gpu_kernel(x)
        ctx.save_for_backward(x if needs_x else None, weight)
        ctx.table, ctx.num_frames = table, x.shape[1]
        if _has_gpu_kernel(x):
            return torch_gpu_kernels.temporal_conv(x, weight, bias, table)
        if x.dtype == torch.float32:
            return _sum_of_products([x], weight, bias, table)
        return F.linear(_side_by_side(x, table, len(weight)), weight.flatten(0, 1).t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, weight = ctx.saved_tensors
        dy = dy.contiguous()
        if _has_gpu_kernel(dy):
            gradients = torch_gpu_kernels.temporal_conv_gradients(dy, x, weight, ctx.table)
            return *gradients, dy.sum((0, 1, 2)), None
        needs_dx, needs_dweight, needs_dbias, _ = ctx.needs_input_grad
        b, _, p, _ = dy.shape
        dx = dy.new_zeros(b, ctx.num_frames, p, weight.shape[1]) if needs_dx else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if needs_dweight else None
        for run in frame_runs(ctx.table, len(weight)):
            product = _weight(weight, run).t()
            for number, rows in enumerate(_frames(dy, run.to, run)):
                if dx is not None:
                    _frames(dx, run.of, run)[number].addmm_(rows, product)
                if dweight is not None:
                    gradient = _frames(x, run.of, run)[number].t() @ rows
                    for tap in run.taps:
                        dweight[tap] += gradient
        dbias = dy.sum((0, 1, 2)) if needs_dbias else None
        return dx, None if dweight is None else dweight.to(weight.dtype), dbias, None


def _has_gpu_kernel(x: Tensor) -> bool:
    # In float32, Triton's products would be less exact, or slow.
    return HAS_TRITON and x.is_cuda and x.dtype != torch.float32


def convolve_in_time(
    clips: list[Tensor], weight: Tensor, bias: Tensor, table: tuple[int, ...]
) -> Tensor:
    """`TemporalConv` of clips that follow one another."""
    if len(clips) > 1 and clips[0].dtype == torch.float32 and not torch.is_grad_enabled():
        return _sum_of_products(clips, weight, bias, table)
    x = torch.cat(clips, 1) if len(clips) > 1 else clips[0]
    return TemporalConv.apply(x, weight, bias, table)


def _sum_of_products(
    clips: list[Tensor], weight: Tensor, bias: Tensor, table: tuple[int, ...]
) -> Tensor:
    """A matrix product for each run, added in place: nothing is copied."""
    b, _, p, _ = clips[0].shape
    y = clips[0].new_empty(b, len(table) // len(weight), p, len(bias)).copy_(bias)
    for run in frame_runs(table, len(weight)):
        product = _weight(weight, run)
        for part, x in _parts(run, clips):
            for rows, frames in zip(
                _frames(y, part.to, part), _frames(x, part.of, part), strict=True
            ):
                rows.addmm_(frames, product)
    return y


def _parts(run: Run, clips: list[Tensor]) -> Iterator[tuple[Run, Tensor]]:
    """The run within each of the clips that follow one another, with the clip."""
    start = 0
    for x in clips:
        begin, end = max(run.of, start), min(run.of + run.length, start + x.shape[1])
        if begin < end:
            yield Run(run.taps, run.to + begin - run.of, begin - start, end - begin), x
        start += x.shape[1]


def _side_by_side(x: Tensor, table: tuple[int, ...], taps: int) -> Tensor:
    """The frames of each output frame, `(b t' p k*c)`: one product of them rounds once, where in
    half precision a sum of products would round each time."""
    b, _, p, c = x.shape
    frames = frames_of(x, table).unflatten(1, (-1, taps))
    return frames.transpose(2, 3).reshape(b, -1, p, taps * c)


def frames_of(x: Tensor, table: tuple[int, ...]) -> Tensor:
    """The frames, along axis 1, that a table names, in its order."""
    if ZERO_FRAME in table:
        x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    indices = _indices_on_gpu if x.is_cuda else _indices
    return x.index_select(1, indices(table, x.shape[1], x.device))


def _indices(table: tuple[int, ...], num_frames: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # or what is kept could not be differentiated with
        return torch.tensor(table, device=device) % num_frames


# Copied there once, and kept: a recording may not wait for a copy, and reads this one.
_indices_on_gpu = functools.cache(_indices)


def _weight(weight: Tensor, run: Run) -> Tensor:
    # Not weight[list(taps)]: a GPU would wait for a copy of the list.
    return functools.reduce(torch.add, [weight[tap] for tap in run.taps])


def _frames(x: Tensor, start: int, run: Run) -> list[Tensor]:
    """The run's frames from `start` as matrices `(frames*p c)`, one for each item of the batch."""
    return [item[start : start + run.length].flatten(0, 1) for item in x]


class GroupNorm(Function):
    """Group norm of x `(n p c)`, and SiLU of it if asked for, in float32. Keeps x alone: for the
    gradient of SiLU the norm is computed again.

    PyTorch's own adds up the squares of channels-last frames one by one in float32, so the larger
    the frame, the less is right: 3 to 4 digits of 256x256 positions, 2 of 1920x1080, and none where
    the mean is large (2.13.0, CPU).
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, groups: int, with_silu: bool):
        mean, rstd = _moments(x, groups)
        scale, offset = _scale_and_offset(mean, rstd, gamma, beta)
        y = torch.empty_like(x)
        for frames, positions in _blocks(x):
            part = y[frames, positions]
            torch.addcmul(offset[frames], x[frames, positions], scale[frames], out=part)
            if with_silu:
                F.silu(part, inplace=True)
        ctx.save_for_backward(x, gamma, beta, mean, rstd)
        ctx.groups, ctx.with_silu = groups, with_silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, gamma, beta, mean, rstd = ctx.saved_tensors
        scale, offset = _scale_and_offset(mean, rstd, gamma, beta)
        dx, centre = torch.empty_like(x), mean.to(x.dtype)
        sums, products = torch.zeros_like(mean), torch.zeros_like(mean)
        for frames, positions in _blocks(x):
            values, part = x[frames, positions], dx[frames, positions]
            part.copy_(dy[frames, positions])
            if ctx.with_silu:
                y = torch.addcmul(offset[frames], values, scale[frames])
                torch.ops.aten.silu_backward.grad_input(part, y, grad_input=part)
            sums[frames] += part.sum(1, keepdim=True)
            products[frames] += (values - centre[frames]).mul_(part).sum(1, keepdim=True)
        dbeta, dgamma = sums, products * rstd
        # What changes the mean of a group and what its deviation: of both, x gives none back.
        slope = -_of_groups(dgamma * gamma, ctx.groups) * rstd.square() / x.shape[1]
        shift = -_of_groups(dbeta * gamma, ctx.groups) * rstd / x.shape[1] - slope * mean
        slope, shift = slope.to(x.dtype), shift.to(x.dtype)
        for frames, positions in _blocks(x):
            part = dx[frames, positions].mul_(scale[frames])
            part.addcmul_(x[frames, positions], slope[frames]).add_(shift[frames])
        dgamma, dbeta = (total.sum((0, 1)).to(x.dtype) for total in (dgamma, dbeta))
        return dx, dgamma, dbeta, None, None


_BLOCK = 2**19  # numbers; a few such tensors stay in a CPU's cache


def _blocks(x: Tensor) -> list[tuple[slice, slice]]:
    """The parts of x `(n p c)`, by frames and positions, that are computed one after another, so
    that several operations read memory once. Compiled or on a GPU, all at once."""
    n, p, c = x.shape
    if torch.compiler.is_compiling() or x.is_cuda:
        return [(slice(n), slice(p))]
    frames = min(n, max(1, _BLOCK // (p * c)))
    positions = max(1, _BLOCK // (frames * c))
    return [
        (slice(frame, frame + frames), slice(position, position + positions))
        for frame in range(0, n, frames)
        for position in range(0, p, positions)
    ]


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Of x `(n p c)`, mean and 1 / standard deviation of each channel's group, float64 `(n 1 c)`.
    `Tensor.mean` and `sum` add in a tree, and lose no digits."""
    mean = _of_groups(x.mean(1, keepdim=True).double(), groups)
    centre, squares = mean.to(x.dtype), torch.zeros_like(mean)
    for frames, positions in _blocks(x):
        centred = x[frames, positions] - centre[frames]
        squares[frames] += centred.square_().sum(1, keepdim=True)
    return mean, (_of_groups(squares, groups) / x.shape[1] + EPSILON).rsqrt()


def _of_groups(values: Tensor, groups: int) -> Tensor:
    """For each channel, the mean over its group; values `(n 1 c)`."""
    of_groups = values.unflatten(2, (groups, -1))
    return of_groups.mean(3, keepdim=True).expand_as(of_groups).flatten(2)


def _scale_and_offset(
    mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """The group norm as scale * x + offset, `(n 1 c)`."""
    scale = rstd * gamma
    return scale.to(gamma.dtype), (beta - mean * scale).to(gamma.dtype)


class GroupNormOnGpu(Function):
    """`GroupNorm` on a GPU, in the dtype of x; x is `(n p c)`."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, groups: int, with_silu: bool):
        y, mean, rstd = torch_gpu_kernels.group_norm(x, gamma, beta, groups, with_silu)
        ctx.save_for_backward(x, mean, rstd, gamma, beta)
        ctx.with_silu = with_silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, mean, rstd, gamma, beta = ctx.saved_tensors
        gradients = torch_gpu_kernels.group_norm_gradients(
            dy.contiguous(), x, mean, rstd, gamma, beta, ctx.with_silu
        )
        return *gradients, None, None


def channels_last(x: Tensor) -> Tensor:
    """x `(n c ...)` with the channels of a position side by side in memory, as all of the network
    keeps them: convolutions are as fast or faster so, and those in time copy nothing.

    An axis of length 1 may have any stride, which misleads PyTorch's kernels: they believe that a
    single frame lies otherwise, and copy it. So all strides are made anew.
    """
    channels = x.movedim(1, -1)
    return channels.reshape(-1).view(channels.shape).movedim(-1, 1)


class Interleave(Function):
    """Four images `(n 4o h+1 w+1)` to one of twice the size, `(n o 2h 2w)`: pixel (2i + y, 2j + x)
    is pixel (i + y, j + x) of image 2y + x."""

    @staticmethod
    def forward(ctx, phases: Tensor):
        ctx.size = phases.shape
        n, channels, h, w = phases.shape
        image = torch.empty(
            (n, channels // 4, 2 * h - 2, 2 * w - 2),
            dtype=phases.dtype,
            device=phases.device,
            memory_format=torch.channels_last,
        )
        for part, pixels in _phases(phases, image):
            pixels.copy_(part)
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        phases = gradient.new_zeros(ctx.size).contiguous(memory_format=torch.channels_last)
        for part, pixels in _phases(phases, gradient):
            part.copy_(pixels)
        return phases


def _phases(phases: Tensor, image: Tensor) -> list[tuple[Tensor, Tensor]]:
    h, w = phases.shape[2] - 1, phases.shape[3] - 1
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    parts = phases.chunk(4, dim=1)
    return [
        (part[:, :, y : y + h, x : x + w], image[:, :, y::2, x::2])
        for part, (y, x) in zip(parts, places, strict=True)
    ]
