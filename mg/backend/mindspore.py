"""The network's operations on MindSpore; `mg/backend/torch.py` documents each.

What is called from a module's `forward` is compiled in graph mode too, so it keeps to the Python
that MindSpore's graph compiler reads.
"""

# MindSpore's own annotations call many tensors None.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops
from mindspore.common import _no_grad
from mindspore.common.api import _pynative_executor
from mindspore.ops.primitive import constexpr

from mg.backend import shared
from mg.backend.mindspore_kernels import Frames, GroupNorm, is_cpu, reduce_sum
from mg.backend.shared import frame_table
from mg.memory import return_freed_memory

__all__ = [
    "AdamW",
    "Module",
    "ModuleList",
    "MovingAverage",
    "Tensor",
    "all_reduce_sum",
    "assign",
    "attention",
    "cast",
    "cat",
    "checkpoint_suffix",
    "compile",
    "compile_recurring",
    "compiles",
    "contiguous",
    "conv2d",
    "conv3d",
    "copy",
    "dtype",
    "forget_sizes",
    "from_numpy",
    "global_norm",
    "group_norm",
    "group_norm_silu",
    "in_python",
    "is_impatient",
    "is_tensor",
    "join_ranks",
    "keep",
    "leaky_relu",
    "linear",
    "max_pool2d",
    "named_parameters",
    "no_grad",
    "on_cpu",
    "parameter",
    "rank",
    "recompute",
    "relu",
    "set_device",
    "temporal_conv",
    "to_numpy",
    "upsample_conv2d",
    "value_and_grad",
    "version",
    "world_size",
]


class Module(nn.Cell):
    """A Cell whose `construct` is the subclass's `forward`."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.construct = cls.forward
            if getattr(cls.forward, "in_python", False):
                cls.__call__ = cls.forward

    def to_float(self, dst_type):
        """What `mindspore.amp` calls too.

        Raises:
            ValueError: always; the network would give zeros and NaN.
        """
        raise ValueError(
            f"{type(self).__name__}: cast to {dst_type}, expected float32 (a TemporalAutoencoder "
            'computes in half precision by its option dtype="bf16" or "fp16")'
        )

    def __getstate__(self):
        # All but what it recomputes with, which MindSpore cannot copy: a copy makes its own.
        base, state = super().__getstate__()
        cells = state["_cells"].copy()
        recomputes = cells.pop("_recompute_cell", None) is not None
        changed = {"_cells": cells, "_recompute_cell": None, "_recomputes": recomputes}
        return base, {**state, **changed}

    def __setstate__(self, state):
        super().__setstate__(state)
        if self._recomputes:
            recompute(self)


ModuleList = nn.CellList
version = ms.__version__
checkpoint_suffix = ".ckpt"
SCORES = 2**24  # that attention holds at a time

_DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16, "fp16": ms.float16}


# Devices, tensors, parameters


def set_device(target: str, *, exact: bool = True) -> None:
    if target not in ("CPU", "Ascend", "auto"):
        raise ValueError(f"device_target is {target!r}, expected one of CPU, Ascend, auto")
    if target not in ("auto", ms.get_context("device_target")):  # else, it may run already
        try:
            ms.set_device(target)
        except (RuntimeError, ValueError) as error:
            reason = _first_line(error)
            raise ValueError(f"device_target is {target!r}; MindSpore: {reason}") from None
    if exact and not on_cpu():
        with suppress(RuntimeError):  # it was chosen already
            ms.device_context.ascend.op_precision.conv_allow_hf32(False)
    if not _is_rank():  # which must not compute before it has joined the others
        _rest_while_waiting()


@functools.cache
def _rest_while_waiting() -> None:
    """Have threads on a CPU that wait for others leave it to them.

    Operations and graphs pass from thread to thread, each of which looks for the next in a loop
    that never sleeps (2.8.0): on two cores, a step then takes twice as long. So here, operations
    run where they are called, and so do graphs.
    """
    if not on_cpu():
        return
    ms.runtime.launch_blocking()
    if "MS_DEV_RUNTIME_CONF" not in os.environ:  # what a person sets there stands
        os.environ["MS_DEV_RUNTIME_CONF"] = "graph_pipeline:False"
        with _without_stdout():  # where MindSpore says what it reads there, once it computes
            # A graph: where an operation comes first, MindSpore writes to memory that it has freed
            # as the process exits (2.8.0).
            compile(ops.relu)(Tensor([0.0]))
        del os.environ["MS_DEV_RUNTIME_CONF"]


@contextmanager
def _without_stdout() -> Iterator[None]:
    """A context in which standard output is thrown away, that of C++ libraries too."""
    if sys.stdout is None:  # it was closed when the process began
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def on_cpu() -> bool:
    return is_cpu()


def forget_sizes() -> None:
    if on_cpu():  # where each size keeps tens of MiB (2.8.0): docs/inference.md
        _pynative_executor.clear_res()
        return_freed_memory()


def dtype(name: str) -> ms.dtype.Type:
    if name not in _DTYPES:
        raise ValueError(f"dtype is {name!r}, expected one of {', '.join(_DTYPES)}")
    if name != "fp32" and on_cpu():
        raise ValueError(
            f"dtype is {name!r}, but MindSpore has no {name} convolution on the CPU: use fp32 "
            "there, or an Ascend device"
        )
    return _DTYPES[name]


def parameter(array: np.ndarray, *, trainable: bool = True) -> ms.Parameter:
    values = Tensor(np.ascontiguousarray(array), ms.float32)
    return ms.Parameter(values, requires_grad=trainable)


def named_parameters(module: Module) -> dict[str, ms.Parameter]:
    named = dict(module.parameters_and_names())
    for path, parameter in named.items():
        # A Parameter's own name lacks parts of the path, or has more, where others hold the module.
        if parameter.name != path and not parameter.name.endswith(f".{path}"):
            parameter.name = path
    return named


def assign(parameter: ms.Parameter, array: np.ndarray) -> None:
    # set_data would not be seen by functions that are compiled already.
    ops.assign(parameter, Tensor(np.ascontiguousarray(array), parameter.dtype))


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def from_numpy(array: np.ndarray) -> Tensor:
    return Tensor(np.asarray(array, order="C"))  # ascontiguousarray adds an axis to a number


def to_numpy(tensor: Tensor) -> np.ndarray:
    if tensor.dtype in (ms.bfloat16, ms.float16):
        tensor = tensor.astype(ms.float32)
    return tensor.asnumpy()


def cast(x, dtype):
    return ops.cast(x, dtype)


# Operations


def conv2d(x, weight, bias, *, stride=1, padding):
    b, t, c, h, w = x.shape
    out_channels, _, kernel_height, kernel_width = weight.shape
    convolution = ops.Conv2D(
        out_channels, (kernel_height, kernel_width), pad_mode="pad", pad=padding, stride=stride
    )
    y = convolution(x.reshape(b * t, c, h, w), ops.cast(weight, x.dtype))
    if bias is not None:
        y = ops.bias_add(y, ops.cast(bias, x.dtype))
    return y.reshape(b, t, out_channels, y.shape[2], y.shape[3])


@constexpr
def _phase_taps(row, column):
    """Of a 3x3 kernel's taps, those that fall on each of the 2x2 pixels that output pixels
    `(2i + row, 2j + column)` see: `(9 4)`."""
    sums = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    return Tensor(np.kron(sums[row], sums[column]).T, ms.float32)


def upsample_conv2d(x, weight, bias):
    # Four small convolutions, 4/9 of the work; see torch.py.
    b, t, c, h, w = x.shape
    out_channels = weight.shape[0]
    kernels = weight.reshape(out_channels * c, 9)
    phases = ()
    for row in range(2):
        for column in range(2):
            kernel = ops.matmul(kernels, _phase_taps(row, column)).reshape(out_channels, c, 2, 2)
            pad = (1 - row, row, 1 - column, column)
            phases += (conv2d(x, kernel, None, padding=pad),)
    y = ops.cat(phases, 2).reshape(b * t, 2, 2, out_channels, h, w)
    y = y.permute(0, 3, 4, 1, 5, 2).reshape(b * t, out_channels, 2 * h, 2 * w)
    return ops.bias_add(y, ops.cast(bias, x.dtype)).reshape(b, t, out_channels, 2 * h, 2 * w)


_frames_of = Frames()


@constexpr
def _table(num_frames, taps, stride, upsample, padding, begins, ends):
    return frame_table(
        num_frames,
        taps,
        stride=stride,
        upsample=upsample,
        padding=padding,
        begins=begins,
        ends=ends,
    )


def _tap_frames(x, taps, stride, upsample, padding, begins=True, ends=True):
    """The frames that each output frame reads, side by side in channels: `(b t' taps*c h w)`."""
    b, t, c, h, w = x.shape
    frames = _frames_of(x, _table(t, taps, stride, upsample, padding, begins, ends))
    return frames.reshape(b, frames.shape[1] // taps, taps * c, h, w)


def temporal_conv(
    x, weight, bias, *, stride=1, upsample=1, padding="replicate", before=(), ends=True
):
    out_channels, c, _, taps = weight.shape
    begins = len(before) == 0
    if not begins:
        x = cat((before[0], x), 1)
    if taps > 1 or stride > 1 or upsample > 1:
        x = _tap_frames(x, taps, stride, upsample, padding, begins, ends)
    kernel = weight.permute(0, 3, 1, 2).reshape(out_channels, taps * c, 1, 1)
    return conv2d(x, kernel, bias, padding=(0, 0, 0, 0))


def conv3d(x, weight, bias, *, stride=(1, 1), padding):
    # The same sum as an image convolution over taps x channels, which every device does fast.
    out_channels, c, taps, height, width = weight.shape
    if taps > 1 or stride[0] > 1:
        x = _tap_frames(x, taps, stride[0], 1, "replicate")
    kernel = weight.permute(0, 2, 1, 3, 4).reshape(out_channels, taps * c, height, width)
    return conv2d(x, kernel, bias, stride=stride[1], padding=padding)


_group_norm = GroupNorm()


def group_norm(x, gamma, beta, *, groups, over_clip):
    b, t, c, h, w = x.shape
    y = ops.cast(x, ms.float32)
    gamma = gamma.reshape(groups, c // groups)
    beta = beta.reshape(groups, c // groups)
    if over_clip:
        y = y.permute(0, 2, 1, 3, 4).reshape(b, groups, c // groups, t * h * w)
        y = _group_norm(y, gamma, beta).reshape(b, c, t, h, w).permute(0, 2, 1, 3, 4)
    else:
        y = y.reshape(b * t, groups, c // groups, h * w)
        y = _group_norm(y, gamma, beta).reshape(b, t, c, h, w)
    return ops.cast(y, x.dtype)


def group_norm_silu(x, gamma, beta, *, groups, over_clip):
    return ops.silu(group_norm(x, gamma, beta, groups=groups, over_clip=over_clip))


def relu(x):
    return ops.relu(x)


def leaky_relu(x, slope):
    return slope * x + (1 - slope) * ops.relu(x)


def linear(x, weight, bias):
    # Of more than two axes, MindSpore would repeat the weight for each matrix.
    rows = x.reshape(-1, x.shape[len(x.shape) - 1])
    y = ops.matmul(rows, ops.cast(weight, x.dtype).permute(1, 0)) + ops.cast(bias, x.dtype)
    return y.reshape(x.shape[:-1] + (weight.shape[0],))


def attention(query, key, value):
    if key.shape[1] == 1:
        # A softmax over one score is 1. On the CPU (2.8.0) its gradient would also spoil those of
        # all other softmaxes of the process, from then on.
        return ops.broadcast_to(value, (value.shape[0], query.shape[1], value.shape[2]))
    key = key.permute(0, 2, 1)
    count = query.shape[1]
    size = _queries_at_a_time(query.shape[0], count, key.shape[2])
    if size == count:
        return _attend(query, key, value)
    pieces = ()
    for start in range(0, count, size):
        pieces += (_attend(query[:, start : start + size], key, value),)
    return ops.cat(pieces, 1)


@constexpr
def _queries_at_a_time(batch, queries, keys):
    """As many as make SCORES scores, but a 16th of all at least: each piece makes graphs larger."""
    pieces = min(16, -(-batch * queries * keys // SCORES))
    return -(-queries // pieces)


def _attend(query, key, value):
    """Attention with keys `(n c s)`."""
    scores = ops.cast(ops.bmm(query, key), ms.float32)
    weights = ops.softmax(scores * (query.shape[2] ** -0.5), -1)
    return ops.bmm(ops.cast(weights, value.dtype), value)


def _end_repeated(x, axis, times):
    """x `(n c h w)` with its last row (axis 2) or column (axis 3) some more times."""
    if times == 0:
        return x
    end = x[:, :, -1:] if axis == 2 else x[:, :, :, -1:]
    return ops.cat((x,) + (end,) * times, axis)


def max_pool2d(x, *, kernel, stride, ceil_mode=False):
    b, t, c, h, w = x.shape
    frames = x.reshape(b * t, c, h, w)
    if ceil_mode:  # of whole windows: MindSpore's own has a gradient 100 times as slow (2.8.0, CPU)
        frames = _end_repeated(frames, 2, (kernel - h) % stride)
        frames = _end_repeated(frames, 3, (kernel - w) % stride)
    y = ops.MaxPool(kernel, stride, "valid")(frames)
    return y.reshape(b, t, c, y.shape[2], y.shape[3])


def cat(tensors, axis):
    return ops.cat(tensors, axis)


def copy(x):
    return x * 1  # Tensor.copy takes several times longer


def keep(count, kept, x):
    new = x.shape[1]
    if len(kept) == 0 or new >= count:
        return (copy(x[:, new - count :]),)
    held = kept[0].shape[1]
    return (cat((kept[0][:, held + new - count :], x), 1),)


def contiguous(x):
    return copy(x)


# Differentiation, compilation


def in_python(forward: Callable) -> Callable:
    forward.in_python = True  # type: ignore
    return forward


no_grad = _no_grad


def recompute(module: Module) -> Module:
    module.recompute()
    return module


def compiles(option: bool | None, *, saves_memory: bool = False) -> bool:
    if option is not None:
        return option
    # Graph mode is faster, and compiles in seconds. But on a CPU, each convolution of a graph keeps
    # a workspace of its own (2.8.0), more than recomputation saves.
    return not (saves_memory and on_cpu())


def compile(function: Callable, *, jit_level: str = "O0") -> Callable:
    compiled = ms.jit(function, jit_level=jit_level)

    @functools.wraps(function)
    def chosen(*inputs):
        # Outside of a graph, MindSpore (2.8.0) cannot differentiate one that holds our gradients.
        return (function if _pynative_executor.requires_grad() else compiled)(*inputs)

    return chosen


def compile_recurring(step: Callable, *, jit_level: str = "O0") -> Callable:
    compiled = ms.jit(_Step(step), jit_level=jit_level)
    calls = Counter()

    def recurring(x, kept, ends):
        sizes = (x.shape, *(frames.shape for frames in kept), ends)
        calls[sizes] += 1
        if calls[sizes] < shared.CALLS_BEFORE_COMPILED:
            return step(x, kept, ends)
        return compiled(x, ms.mutable(kept) if kept else (), ends)  # pyright: ignore[reportCallIssue]

    return recurring


class _Step(nn.Cell):
    """A step as a module: of a method of one, MindSpore takes the graph for its `forward`'s."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def construct(self, x, kept, ends):
        return self.step(x, kept, ends)


def value_and_grad(
    function: Callable,
    parameters: Sequence[ms.Parameter],
    *,
    compile: bool | None = None,
    jit_level: str = "O0",
) -> Callable:
    differentiated = ms.value_and_grad(function, None, ms.ParameterTuple(parameters), has_aux=True)
    return ms.jit(differentiated, jit_level=jit_level) if compiles(compile) else differentiated


class AdamW:
    # Parameter by parameter: of a graph of all, MindSpore holds the gradients until the next step.

    def __init__(
        self,
        parameters: Sequence[ms.Parameter],
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ):
        self._betas, self._epsilon, self._weight_decay = betas, epsilon, weight_decay
        self._parameters = ms.ParameterTuple(parameters)
        self._first = self._parameters.clone(prefix="first", init="zeros")
        self._second = self._parameters.clone(prefix="second", init="zeros")
        self._adam = ops.Adam()
        self._steps = 0

    def step(self, gradients: Sequence[Tensor], learning_rate: float, *, scale: float) -> None:
        self._steps += 1
        beta1, beta2 = self._betas
        power1, power2 = beta1**self._steps, beta2**self._steps
        # ops.Adam corrects the moments' bias in its rate, so epsilon is scaled as their root is.
        epsilon = self._epsilon * (1 - power2) ** 0.5
        numbers = (power1, power2, learning_rate, beta1, beta2, epsilon)
        numbers = [Tensor(number, ms.float32) for number in numbers]
        moments = zip(self._first, self._second, strict=True)
        for parameter, (first, second), gradient in zip(
            self._parameters, moments, gradients, strict=True
        ):
            if self._weight_decay:
                ops.assign(parameter, parameter * (1 - learning_rate * self._weight_decay))
            gradient = gradient if scale == 1 else gradient * scale
            self._adam(parameter, first, second, *numbers, gradient)

    def state(self) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
        first = [to_numpy(moment).copy() for moment in self._first]
        return self._steps, first, [to_numpy(moment).copy() for moment in self._second]

    def load_state(
        self, steps: int, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
    ) -> None:
        self._steps = steps
        moments = [*self._first, *self._second]
        for moment, array in zip(moments, [*first, *second], strict=True):
            assign(moment, array)


class MovingAverage:
    def __init__(self, parameters: Sequence[ms.Parameter]):
        self._parameters = ms.ParameterTuple(parameters)
        self._averages = self._parameters.clone(prefix="average", init="same")

    def update(self, decay: float) -> None:
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            ops.assign(average, average + (1 - decay) * (parameter - average))

    def state(self) -> list[np.ndarray]:
        return [to_numpy(average).copy() for average in self._averages]

    def load_state(self, averages: Sequence[np.ndarray]) -> None:
        for average, array in zip(self._averages, averages, strict=True):
            assign(average, array)


def global_norm(tensors: Sequence[Tensor]) -> float:
    if on_cpu():  # where starting an operation costs the most
        arrays = [to_numpy(tensor).ravel() for tensor in tensors]
        return sum(float(np.vdot(array, array)) for array in arrays) ** 0.5
    sums = []
    for tensor in tensors:
        values = tensor.reshape(-1)
        sums.append(reduce_sum(values * values).reshape(1))
    return float(reduce_sum(ops.cat(sums))) ** 0.5


# Data parallelism


def join_ranks() -> None:
    if not _is_rank() or _joined():
        return
    try:
        communication.init("mccl" if on_cpu() else "hccl")
    except (RuntimeError, ValueError) as error:
        reason = _first_line(error)
        raise ConnectionError(
            f"the processes of this run do not find each other: {reason}"
        ) from None
    _rest_while_waiting()


def _is_rank() -> bool:
    """Whether msrun started this process."""
    return "MS_ROLE" in os.environ


def _joined() -> bool:
    return communication.GlobalComm.INITED


def rank() -> int:
    return communication.get_rank() if _joined() else 0


def world_size() -> int:
    return communication.get_group_size() if _joined() else 1


def is_impatient() -> bool:
    return on_cpu()  # 2.8.0 gives up after 30 seconds, whatever its settings


def all_reduce_sum(tensors: Sequence[Tensor]) -> list[Tensor]:
    if world_size() == 1:
        return list(tensors)
    flat = ops.cat([tensor.reshape(-1) for tensor in tensors])
    try:
        flat = ops.AllReduce()(flat)
        ms.runtime.synchronize()  # an Ascend would say later that it failed
        parts = flat.split([tensor.size for tensor in tensors])
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
    except RuntimeError as error:
        reason = _first_line(error)
        raise ConnectionError(
            f"another process of this run ended or is out of reach: {reason}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
