"""Operations that MindSpore has no fast equal of, with gradients of their own.

Axes: n frames, or clips, g groups, c channels of a group, p positions.
"""

# MindSpore's own annotations call many tensors None.
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false
# pyright: reportIncompatibleMethodOverride=false

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.primitive import constexpr

from mg.backend.shared import EPSILON, ZERO_FRAME

# In a `bprop`, graph mode takes operations made beforehand, not `ops.gather`, which makes one.
_GATHER, _REDUCE_SUM = ops.Gather(), ops.ReduceSum()


class Frames(nn.Cell):
    """The frames of x `(b t ...)` that a frame table names, `(b n ...)`.

    Its gradient gathers too: for every frame of x, what came to the frames made of it. MindSpore's
    scatters, which takes longer on the CPU; on an Ascend its sums differ from run to run, and may
    have no kernel for bf16.
    """

    def construct(self, x, table):
        if _has_zeros(table):
            x = _and_zeros(x)
        return _GATHER(x, _gathered(table, x.shape[1]), 1)

    def bprop(self, x, table, out, dout):
        uses, is_ragged = _uses(table, x.shape[1])
        if is_ragged:
            dout = _and_zeros(dout)
        dx = _GATHER(dout, uses[0], 1)
        for use in uses[1:]:
            dx = dx + _GATHER(dout, use, 1)
        return dx, ()


def _and_zeros(x):
    """x `(b t ...)` with a frame of zeros behind the last one."""
    return ops.cat((x, ops.zeros((x.shape[0], 1) + x.shape[2:], x.dtype)), 1)


@constexpr
def _has_zeros(table):
    return ZERO_FRAME in table


@constexpr
def _gathered(table, num_frames):
    """The table as a tensor, in which zeros are the last of `num_frames`."""
    return Tensor([num_frames - 1 if frame == ZERO_FRAME else frame for frame in table], ms.int32)


@constexpr
def _uses(table, num_frames):
    """Of every frame the first place in the table, the second, and so on, as tensors; the place
    behind the last where a frame has no more. And whether there is such a frame."""
    places = [[at for at, frame in enumerate(table) if frame == of] for of in range(num_frames)]
    most = max(len(of_frame) for of_frame in places)
    filled = [of_frame + [len(table)] * (most - len(of_frame)) for of_frame in places]
    return tuple(Tensor(use, ms.int32) for use in zip(*filled, strict=True)), filled != places


class GroupNorm(nn.Cell):
    """Group norm of x `(n g c p)`: g groups of c channels, p positions; gamma, beta `(g c)`.

    Its own gradient keeps x alone and passes over it few times; MindSpore's keeps every step of the
    arithmetic and takes five times as long on the CPU. Sums run over the last axis of matrices,
    where they are several times faster than over others. In graph mode, MindSpore 2.8 cannot
    recompute a module that ends in group norm and SiLU ("Graph cycle exists"); one in which a
    convolution follows, as in the residual block, it can.
    """

    def construct(self, x, gamma, beta):
        n, g, c, p = x.shape
        centred, rstd = _centre(x.reshape(n * g, c * p))
        factor = rstd.reshape(n, g, 1) * gamma.reshape(1, g, c)
        y = _scale_rows(centred.reshape(n * g * c, p), factor.reshape(n * g * c))
        y = ops.bias_add(y.reshape(n, g * c, 1, p), beta.reshape(g * c))
        return y.reshape(n, g, c, p)

    def bprop(self, x, gamma, beta, out, dout):
        n, g, c, p = x.shape
        centred, rstd = _centre(x.reshape(n * g, c * p))
        rstd = rstd.reshape(n, g, 1)
        gamma = gamma.reshape(1, g, c)
        dbeta = _sum_of_rows(dout.reshape(n * g * c, p)).reshape(n, g, c)
        product = dout.reshape(n * g, c * p) * centred
        dgamma = _sum_of_rows(product.reshape(n * g * c, p)).reshape(n, g, c) * rstd
        # Mean and slope are of the gradient before gamma.
        mean = reduce_sum(dbeta * gamma, 2).reshape(n, g, 1) / (c * p)
        slope = reduce_sum(dgamma * gamma, 2).reshape(n, g, 1) / (c * p)
        dx = dout.reshape(n * g * c, p) * (rstd * gamma).reshape(n * g * c, 1)
        shift = centred * (-rstd * rstd * slope).reshape(n * g, 1) - (rstd * mean).reshape(n * g, 1)
        dx = dx.reshape(n * g, c * p) + shift
        return dx.reshape(n, g, c, p), reduce_sum(dgamma, 0), reduce_sum(dbeta, 0)


def _centre(x):
    """x `(n m)` less the mean of each row, and one over each row's standard deviation."""
    n, count = x.shape
    mean = _sum_of_rows(x) / count
    centred = ops.BiasAdd()(x.reshape(1, n, count), -mean).reshape(n, count)
    return centred, ops.rsqrt(_sum_of_rows(centred * centred) / count + EPSILON)


def _sum_of_rows(x):
    """The sum of each row of x `(n m)`, of a long one in two steps: MindSpore adds one number after
    another, by which that of a million loses two digits (2.8.0, CPU)."""
    n, m = x.shape
    step = _step(m)
    if step < m:
        x = reduce_sum(x.reshape(n * m // step, step), 1).reshape(n, m // step)
    return reduce_sum(x, 1)


@constexpr
def _step(length):
    """The least divisor between 1000 and 10,000, if there is one, of a length above 100,000."""
    steps = range(1000, 10_000 if length > 100_000 else 0)
    return next((step for step in steps if length % step == 0), length)


def reduce_sum(x, axis=()):
    """The sum over an axis, or over all; `x.sum` loses 2 KB of memory each time (2.8.0, CPU)."""
    return _REDUCE_SUM(x, axis)


def _scale_rows(x, factors):
    """x `(n m)` times a factor for each row."""
    if not is_cpu():
        return x * factors.reshape(-1, 1)
    n, m = x.shape  # a broadcast product takes six times as long there outside graph mode
    scale = ops.Conv2D(n, (1, 1), group=n)
    return scale(x.reshape(1, n, m, 1), factors.reshape(n, 1, 1, 1)).reshape(n, m)


@constexpr
def is_cpu():
    return ms.get_context("device_target") == "CPU"
