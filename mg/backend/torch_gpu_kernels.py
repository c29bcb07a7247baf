"""Kernels for an NVIDIA GPU, in Triton, which comes with PyTorch for it.

Group norm with SiLU reads its input as few times as it can, and computes in float32 what lies in
memory in half precision. A convolution in time is one product that gathers its frames itself.

Frames lie as PyTorch's kernels of mg/backend/torch_kernels.py have them: n frames (or clips), p
positions, c channels, innermost; g groups of channels. Sums go over tiles of positions first, and
over the tiles then, so that they are the same each time.
"""

# Pyright takes a kernel's text for Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportPrivateImportUsage=false, reportReturnType=false

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from mg.backend.shared import EPSILON, ZERO_FRAME

_TILE = 8192  # numbers that a program of the group norm holds
_PROGRAMS = 256  # of blocks of 128 x 128, among which a weight's gradient is divided


# Group norm


def group_norm(x: Tensor, gamma: Tensor, beta: Tensor, groups: int, with_silu: bool):
    """The group norm of x `(n p c)`, or SiLU of it, in the dtype of x; mean and 1 / standard
    deviation of each group, float32 `(n g)`."""
    n, p, c = x.shape
    grid, sizes = _tiles(x)
    moments = x.new_empty((2, n, grid[0], c), dtype=torch.float32)
    _moments[grid](x, *moments, p, c, **sizes)
    mean, rstd = x.new_empty((2, n, groups), dtype=torch.float32)
    _merge[(groups, n)](
        *moments,
        mean,
        rstd,
        p,
        c,
        grid[0],
        EPSILON,
        WIDTH=c // groups,
        ROWS=sizes["ROWS"],
        COLUMNS=triton.next_power_of_2(c // groups),
    )
    y = torch.empty_like(x)
    _normalise[grid](x, mean, rstd, gamma, beta, y, p, c, groups, WITH_SILU=with_silu, **sizes)
    return y, mean, rstd


def group_norm_gradients(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, with_silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, gamma and beta, given that of the group norm; see `group_norm`."""
    (n, p, c), groups = x.shape, mean.shape[1]
    grid, sizes = _tiles(x)
    sizes |= {"WITH_SILU": with_silu}
    common = (dy, x, mean, rstd, gamma, beta)
    sums = x.new_empty((2, n, grid[0], c), dtype=torch.float32)
    _gradient_sums[grid](*common, *sums, p, c, groups, **sizes)
    sums = sums.sum(2)
    means = (sums * gamma).unflatten(2, (groups, -1)).sum(3) / (p * c // groups)
    dx = torch.empty_like(x)
    _input_gradient[grid](*common, *means, dx, p, c, groups, **sizes)
    return dx, *sums.sum(1).flip(0)


def _tiles(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid over tiles and frames, and the sizes of a tile."""
    n, p, c = x.shape
    columns = triton.next_power_of_2(c)
    rows = max(1, _TILE // columns)
    return (triton.cdiv(p, rows), n), {"ROWS": rows, "COLUMNS": columns}


@triton.jit
def _place(p, c, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The channels and offsets of this program's tile, and which of them there are."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    start = tl.program_id(1).to(tl.int64) * p * c
    offsets = start + rows[:, None].to(tl.int64) * c + columns[None, :]
    return columns, offsets, (rows < p)[:, None] & (columns < c)[None, :]


@triton.jit
def _moments(x, means, squares, p, c, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The mean of each channel of a tile, and the sum of squares around it."""
    columns, offsets, inside = _place(p, c, ROWS, COLUMNS)
    count = tl.minimum(ROWS, p - tl.program_id(0) * ROWS)
    values = tl.load(x + offsets, inside, 0.0).to(tl.float32)
    mean = tl.sum(values, 0) / count
    from_mean = tl.where(inside, values - mean[None, :], 0.0)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(means + tile * c + columns, mean, columns < c)
    tl.store(squares + tile * c + columns, tl.sum(from_mean * from_mean, 0), columns < c)


@triton.jit(do_not_specialize=["tiles"])
def _merge(
    means,
    squares,
    mean,
    rstd,
    p,
    c,
    tiles,
    epsilon,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A group's mean and 1 / standard deviation, from those of its channels in all tiles."""
    group, n = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, COLUMNS)
    start = n * tiles * c + group * WIDTH + columns[None, :]
    total = tl.zeros((64, COLUMNS), tl.float32)
    for first in range(0, tiles, 64):
        tile = first + tl.arange(0, 64)[:, None]
        inside = (tile < tiles) & (columns < WIDTH)[None, :]
        count = tl.minimum(ROWS, p - tile * ROWS)
        total += count * tl.load(means + start + tile * c, inside, 0.0)
    average = tl.sum(total) / (p * WIDTH)
    total = tl.zeros((64, COLUMNS), tl.float32)
    for first in range(0, tiles, 64):
        tile = first + tl.arange(0, 64)[:, None]
        inside = (tile < tiles) & (columns < WIDTH)[None, :]
        count = tl.minimum(ROWS, p - tile * ROWS)
        off = tl.load(means + start + tile * c, inside, average) - average
        total += tl.load(squares + start + tile * c, inside, 0.0) + count * off * off
    place = n * tl.num_programs(0) + group
    tl.store(mean + place, average)
    tl.store(rstd + place, tl.rsqrt(tl.sum(total) / (p * WIDTH) + epsilon))


@triton.jit
def _of_channels(mean, rstd, c, groups, columns):
    """Mean and 1 / standard deviation of each channel's group."""
    place = tl.program_id(1) * groups + columns // (c // groups)
    inside = columns < c
    return tl.load(mean + place, inside, 0.0)[None, :], tl.load(rstd + place, inside, 0.0)[None, :]


@triton.jit
def _normalised(
    x, mean, rstd, gamma, beta, p, c, groups, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The input of this program's tile normalised, and that times gamma plus beta."""
    columns, offsets, inside = _place(p, c, ROWS, COLUMNS)
    average, scale = _of_channels(mean, rstd, c, groups, columns)
    normalised = (tl.load(x + offsets, inside, 0.0).to(tl.float32) - average) * scale
    factor = tl.load(gamma + columns, columns < c, 0.0)[None, :]
    shift = tl.load(beta + columns, columns < c, 0.0)[None, :]
    return normalised, normalised * factor + shift


@triton.jit
def _normalise(
    x,
    mean,
    rstd,
    gamma,
    beta,
    y,
    p,
    c,
    groups,
    WITH_SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    _, offsets, inside = _place(p, c, ROWS, COLUMNS)
    _, values = _normalised(x, mean, rstd, gamma, beta, p, c, groups, ROWS, COLUMNS)
    if WITH_SILU:
        values *= tl.sigmoid(values)
    tl.store(y + offsets, values.to(y.dtype.element_ty), inside)


@triton.jit
def _gradient(
    dy,
    x,
    mean,
    rstd,
    gamma,
    beta,
    p,
    c,
    groups,
    WITH_SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of the norm's output in this program's tile, and the normalised input."""
    _, offsets, inside = _place(p, c, ROWS, COLUMNS)
    normalised, y = _normalised(x, mean, rstd, gamma, beta, p, c, groups, ROWS, COLUMNS)
    gradient = tl.load(dy + offsets, inside, 0.0).to(tl.float32)
    if WITH_SILU:
        sigmoid = tl.sigmoid(y)
        gradient *= sigmoid * (1 + y * (1 - sigmoid))
    return gradient, tl.where(inside, normalised, 0.0)


@triton.jit
def _gradient_sums(
    dy,
    x,
    mean,
    rstd,
    gamma,
    beta,
    sums,
    products,
    p,
    c,
    groups,
    WITH_SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """For each channel of a tile the sums of the gradient, and of it times the input."""
    gradient, normalised = _gradient(
        dy, x, mean, rstd, gamma, beta, p, c, groups, WITH_SILU, ROWS, COLUMNS
    )
    columns = tl.arange(0, COLUMNS)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + tile * c + columns, tl.sum(gradient, 0), columns < c)
    tl.store(products + tile * c + columns, tl.sum(gradient * normalised, 0), columns < c)


@triton.jit
def _input_gradient(
    dy,
    x,
    mean,
    rstd,
    gamma,
    beta,
    means,
    slopes,
    dx,
    p,
    c,
    groups,
    WITH_SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile's gradient, given each group's means of the gradient and of it times the input."""
    columns, offsets, inside = _place(p, c, ROWS, COLUMNS)
    gradient, normalised = _gradient(
        dy, x, mean, rstd, gamma, beta, p, c, groups, WITH_SILU, ROWS, COLUMNS
    )
    factor = tl.load(gamma + columns, columns < c, 0.0)[None, :]
    constant, slope = _of_channels(means, slopes, c, groups, columns)
    _, scale = _of_channels(mean, rstd, c, groups, columns)
    values = scale * (gradient * factor - constant - normalised * slope)
    tl.store(dx + offsets, values.to(dx.dtype.element_ty), inside)


# Convolution in time


def temporal_conv(x: Tensor, weight: Tensor, bias: Tensor, table: tuple[int, ...]) -> Tensor:
    """x `(b t p c)`, weight `(k c o)`, bias `(o)` to `(b t' p o)`, each sum rounded once; `table`
    says which frames each output frame reads, see `mg.backend.shared.frame_table`."""
    return _sum_of_products(x, weight.contiguous(), bias, _reads(table, len(weight), x.device))


def temporal_conv_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, table: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight, given that of `temporal_conv`."""
    taps = len(weight)
    readers = _readers(table, taps, x.shape[1], x.device)
    dx = _sum_of_products(dy, weight.transpose(1, 2).contiguous(), None, readers)
    reads = _reads(table, taps, x.device)
    return dx, _weight_gradient(x, dy, reads).to(weight.dtype)


@functools.cache  # for ever: recordings read it
def _reads(table: tuple[int, ...], taps: int, device: torch.device) -> Tensor:
    """For each output frame the frames it reads and their taps, int32 `(t' k 2)`."""
    pairs = [(frame, place % taps) for place, frame in enumerate(table)]
    return torch.tensor(pairs, dtype=torch.int32, device=device).reshape(-1, taps, 2)


@functools.cache
def _readers(table: tuple[int, ...], taps: int, num_frames: int, device: torch.device) -> Tensor:
    """For each frame the output frames that read it and their taps, int32 `(t r 2)`; -1: none."""
    readers = [[] for _ in range(num_frames)]
    for place, frame in enumerate(table):
        if frame != ZERO_FRAME:
            readers[frame].append((place // taps, place % taps))
    most = max(map(len, readers))
    pairs = [reader + [(-1, 0)] * (most - len(reader)) for reader in readers]
    return torch.tensor(pairs, dtype=torch.int32, device=device)


def _sum_of_products(x: Tensor, weight: Tensor, bias: Tensor | None, reads: Tensor) -> Tensor:
    """Frames `(b t' p o)`, each the sum of those of x that it reads, times their taps' weights."""
    b, t, p, c = x.shape
    num_frames, num_reads, _ = reads.shape
    out_channels = weight.shape[2]
    y = x.new_empty((b, num_frames, p, out_channels))
    depth, columns = _block(c, 64), _block(out_channels, 128)
    grid = (triton.cdiv(p, 128) * triton.cdiv(out_channels, columns), num_frames, b)
    _products[grid](
        x,
        weight,
        bias,
        reads,
        y,
        t,
        p,
        c,
        out_channels,
        num_reads * triton.cdiv(c, depth),
        NUM_READS=num_reads,
        HAS_BIAS=bias is not None,
        ROWS=128,
        COLUMNS=columns,
        DEPTH=depth,
        num_warps=4,
        num_stages=3,
    )
    return y


def _weight_gradient(x: Tensor, dy: Tensor, reads: Tensor) -> Tensor:
    """The gradient of the weights `(k c o)`, float32."""
    (b, t, p, c), out_channels = x.shape, dy.shape[3]
    num_frames, taps, _ = reads.shape
    rows, columns = _block(c, 128), _block(out_channels, 128)
    blocks = triton.cdiv(c, rows) * triton.cdiv(out_channels, columns)
    steps = b * num_frames * triton.cdiv(p, 64)
    programs = _PROGRAMS * 128 * 128 // (rows * columns)
    splits = min(steps, max(1, programs // (blocks * taps)))
    steps_each = triton.cdiv(steps, splits)
    sums = x.new_empty((triton.cdiv(steps, steps_each), taps, c, out_channels), dtype=torch.float32)
    _weight_products[(len(sums), blocks, taps)](
        x,
        dy,
        reads,
        sums,
        t,
        num_frames,
        p,
        c,
        out_channels,
        steps,
        steps_each,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=64,
        num_warps=8 if rows == columns == 128 else 4,
    )
    return sums.sum(0)


def _block(size: int, most: int) -> int:
    """The side of a block of a matrix product."""
    return min(most, max(16, triton.next_power_of_2(size)))


@triton.jit(do_not_specialize=["t", "steps"])
def _products(
    x,
    weight,
    bias,
    reads,
    y,
    t,
    p,
    c,
    out_channels,
    steps,
    NUM_READS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # Programs of the same positions follow one another, so that their frames are in the cache.
    blocks = tl.cdiv(out_channels, COLUMNS)
    rows = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    item, frame = tl.program_id(2).to(tl.int64), tl.program_id(1)
    depths = tl.cdiv(c, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        read = reads + (frame * NUM_READS + step // depths) * 2
        source, tap = tl.load(read), tl.load(read + 1)
        depth = step % depths * DEPTH + tl.arange(0, DEPTH)
        frames = tl.load(
            x + (item * t + source) * p * c + rows[:, None].to(tl.int64) * c + depth[None, :],
            (rows < p)[:, None] & (depth < c)[None, :] & (source >= 0),
            0.0,
        )
        weights = tl.load(
            weight + (tap * c + depth[:, None]) * out_channels + columns[None, :],
            (depth < c)[:, None] & (columns < out_channels)[None, :],
            0.0,
        )
        total = tl.dot(frames, weights, total)
    if HAS_BIAS:
        total += tl.load(bias + columns, columns < out_channels, 0.0).to(tl.float32)[None, :]
    place = (item * tl.num_programs(1) + frame) * p * out_channels
    place += rows[:, None].to(tl.int64) * out_channels + columns[None, :]
    inside = (rows < p)[:, None] & (columns < out_channels)[None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["t", "num_frames", "steps", "steps_each"])
def _weight_products(
    x,
    dy,
    reads,
    sums,
    t,
    num_frames,
    p,
    c,
    out_channels,
    steps,
    steps_each,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """For a tap the sum, over some of all positions of all frames, of products of x and dy."""
    split, tap, taps = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    blocks = tl.cdiv(out_channels, COLUMNS)
    rows = tl.program_id(1) // blocks * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    depths = tl.cdiv(p, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(split * steps_each, tl.minimum(steps, (split + 1) * steps_each)):
        place = step // depths  # of the output frame, among those of all items
        source = tl.load(reads + (place % num_frames * taps + tap) * 2)
        depth = step % depths * DEPTH + tl.arange(0, DEPTH)
        of = (place // num_frames * t + source).to(tl.int64) * p * c
        frames = tl.load(
            x + of + depth[:, None].to(tl.int64) * c + rows[None, :],
            (depth < p)[:, None] & (rows < c)[None, :] & (source >= 0),
            0.0,
        )
        to = place.to(tl.int64) * p * out_channels
        gradients = tl.load(
            dy + to + depth[:, None].to(tl.int64) * out_channels + columns[None, :],
            (depth < p)[:, None] & (columns < out_channels)[None, :],
            0.0,
        )
        total = tl.dot(tl.trans(frames), gradients, total)
    place = (split * taps + tap).to(tl.int64) * c * out_channels
    place += rows[:, None] * out_channels + columns[None, :]
    tl.store(sums + place, total, (rows < c)[:, None] & (columns < out_channels)[None, :])
