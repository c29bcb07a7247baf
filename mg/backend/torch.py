"""The network's operations on PyTorch. A video inside the network is `(b t c h w)`."""

# Of PyTorch's operations on lists of tensors, the names begin with an underscore.
# pyright: reportPrivateImportUsage=false

import atexit
import functools
import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mg.backend.shared import frame_table
from mg.backend.torch_kernels import (
    HAS_TRITON,
    GroupNorm,
    GroupNormOnGpu,
    Interleave,
    channels_last,
    convolve_in_time,
    frames_of,
)
from mg.memory import keep_freed_memory

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

ModuleList = torch.nn.ModuleList
version = torch.__version__
checkpoint_suffix = ".safetensors"
"""The suffix of the checkpoints that training writes."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_SEQUENCES = 65_535  # in one call: some of PyTorch's attention kernels on a GPU take no more
_MOST_PATIENCE = timedelta(days=1)  # with a process that has more to do; if it dies, all end
_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Module(torch.nn.Module):
    """A part of the network, with float32 parameters."""

    def _apply(self, fn, recurse=True):
        """Change every parameter, which `to`, `half` and their like do.

        Raises:
            ValueError: to another dtype.
        """
        if (changed := fn(torch.empty(0, dtype=torch.float32)).dtype) != torch.float32:
            raise ValueError(
                f"{type(self).__name__}: weights in {changed}, expected float32 (a "
                'TemporalAutoencoder computes in half precision by its option dtype="bf16" or '
                '"fp16")'
            )
        return super()._apply(fn, recurse)


# Devices, tensors, parameters


def set_device(target: str, *, exact: bool = True) -> None:
    """Use "CPU", "GPU" (PyTorch), "Ascend" (MindSpore) or "auto" (the accelerator where there is
    one) from now on.

    Frameworks round what float32 convolutions read to TF32 on a GPU, to HF32 on an Ascend: to 11
    bits of 24. With `exact`, the whole process computes them in float32, which takes longer.

    On a CPU this also changes the whole process, for programs to do before they compute: freed
    memory stays with it (PyTorch), and threads that wait leave the cores to others (MindSpore).
    MindSpore 2.8.0 then crashes where several threads compute at once: compute in one of them.

    Raises:
        ValueError: another name, or the framework finds no such device here.
    """
    global _device
    devices = {"CPU": "cpu", "GPU": "cuda", "auto": "cuda" if torch.cuda.is_available() else "cpu"}
    if target not in devices:
        raise ValueError(f"device_target is {target!r}, expected one of {', '.join(devices)}")
    if devices[target] == "cuda" and not torch.cuda.is_available():
        raise ValueError("device_target is 'GPU', but PyTorch finds no GPU here")
    _device = torch.device(devices[target])
    if exact:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False  # which an environment variable may allow
    if _device.type == "cpu":
        keep_freed_memory()


def on_cpu() -> bool:
    """Whether the current device is a CPU."""
    return _device.type == "cpu"


def forget_sizes() -> None:
    """Give back memory that is kept for sizes of tensors seen so far, where that grows with each
    size: here it does not. Not to be called while something is differentiated."""


def dtype(name: str) -> torch.dtype:
    """The framework's dtype for "fp32", "bf16" or "fp16".

    Raises:
        ValueError: an unknown name, or a dtype whose convolutions the device does not have.
    """
    if name not in _DTYPES:
        raise ValueError(f"dtype is {name!r}, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def parameter(array: np.ndarray, *, trainable: bool = True) -> torch.nn.Parameter:
    """A float32 parameter with the values of `array`, on the current device."""
    values = torch.tensor(array, dtype=torch.float32, device=_device)
    return torch.nn.Parameter(values, requires_grad=trainable)


def named_parameters(module: Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of `module` by their dotted paths, in the order of definition."""
    return dict(module.named_parameters())


def assign(parameter: torch.nn.Parameter, array: np.ndarray) -> None:
    """Overwrite the values of `parameter` by those of `array`, of the same shape."""
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def is_tensor(value: object) -> bool:
    """Whether `value` is a tensor of this framework."""
    return isinstance(value, Tensor)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor with the values and dtype of `array`, on the current device."""
    # Writable, or PyTorch warns: one that is not, a file mapped to memory say, is copied.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(_device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The values of `tensor` as an array in C order; bf16 and fp16 become float32."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype`; differentiable."""
    return x.to(dtype)


# Operations


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: Sequence[int]
) -> Tensor:
    """Convolve every frame: x `(b t c h w)`, weight `(o c kh kw)`, zero padding (top, bottom,
    left, right); gives `(b t o h' w')`. The weight is cast to the dtype of x."""
    frames = channels_last(x.flatten(0, 1))
    top, bottom, left, right = padding
    if top == bottom and left == right:
        pad = (top, left)
    else:
        frames, pad = F.pad(frames, (left, right, top, bottom)), (0, 0)
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv2d(frames, weight.to(x.dtype), bias, stride, pad)
    return y.unflatten(0, x.shape[:2])


def upsample_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Double height and width by nearest neighbour, then convolve by a 3x3 weight `(o c 3 3)`:
    `(b t c h w)` to `(b t o 2h 2w)`."""
    # Each output pixel sees 2x2 input pixels only: one of four 2x2 convolutions of the small image,
    # which are 4/9 of the work.
    sums = _phase_sums(weight)
    phases = torch.einsum("yik,ockl,xjl->yxocij", sums, weight, sums).flatten(0, 2)
    y = conv2d(x, phases, bias.repeat(4), padding=(1, 1, 1, 1))
    return Interleave.apply(y.flatten(0, 1)).unflatten(0, x.shape[:2])


def _phase_sums(weight: Tensor) -> Tensor:
    """Of a phase, which of three taps fall on each of two pixels, `(phase pixel tap)`."""
    phase, pixel, tap = (torch.arange(n, device=weight.device) for n in (2, 2, 3))
    # In numbers: torch.compile cannot compare bools (2.13.0).
    on_second = (tap > phase[:, None, None]).to(weight.dtype)
    return on_second * pixel[:, None] + (1 - on_second) * (1 - pixel[:, None])


def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    upsample: int = 1,
    padding: str = "replicate",
    before: tuple[Tensor, ...] = (),
    ends: bool = True,
) -> Tensor:
    """Convolve in time: x `(b t c h w)`, weight `(o c 1 k)`, gives `(b t' o h w)` with
    t' = ceil(t * upsample / stride). Frames are repeated `upsample` times before. x continues the
    frames of `before`, if there are any, and begins the clip otherwise; see
    `mg.backend.shared.frame_table` for the padding and for frames that do not end the clip."""
    h, w = x.shape[3:]
    taps = weight.shape[3]
    clips = [clip.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous() for clip in (*before, x)]
    table = frame_table(
        sum(clip.shape[1] for clip in clips),
        taps,
        stride=stride,
        upsample=upsample,
        padding=padding,
        begins=not before,
        ends=ends,
    )
    kernel = weight[:, :, 0].permute(2, 1, 0).to(x.dtype)
    y = convolve_in_time(clips, kernel, bias.to(x.dtype), table)
    return y.unflatten(2, (h, w)).permute(0, 1, 4, 2, 3)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: Sequence[int],
) -> Tensor:
    """Convolve in time and space: x `(b t c h w)`, weight `(o c kt kh kw)`, stride (of time, of
    space), zero padding (top, bottom, left, right); gives `(b t' o h' w')` with
    t' = ceil(t / stride). Taps in time are centred, and the first and last frames repeated
    beyond the ends, as in `temporal_conv`."""
    out_channels, c, taps, height, width = weight.shape
    if taps > 1 or stride[0] > 1:
        b, t, _, rows, columns = x.shape
        table = frame_table(t, taps, stride=stride[0])
        x = frames_of(x, table).reshape(b, len(table) // taps, taps * c, rows, columns)
    kernel = weight.transpose(1, 2).reshape(out_channels, taps * c, height, width)
    return conv2d(x, kernel, bias, stride=stride[1], padding=padding)


def group_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, groups: int, over_clip: bool) -> Tensor:
    """Normalise x `(b t c h w)` in each group of channels: over the frame, or over all frames of
    the clip. Computed in float32, returned in the dtype of x."""
    return _normalised(x, gamma, beta, groups, over_clip, with_silu=False)


def group_norm_silu(
    x: Tensor, gamma: Tensor, beta: Tensor, *, groups: int, over_clip: bool
) -> Tensor:
    """SiLU, x * sigmoid(x), of `group_norm`, in less time and memory."""
    return _normalised(x, gamma, beta, groups, over_clip, with_silu=True)


def _normalised(x, gamma, beta, groups, over_clip, *, with_silu):
    b, t, c, h, w = x.shape
    y = x.permute(0, 1, 3, 4, 2).reshape((b, -1, c) if over_clip else (b * t, -1, c)).contiguous()
    if HAS_TRITON and x.is_cuda:
        y = GroupNormOnGpu.apply(y, gamma, beta, groups, with_silu)
    else:
        y = GroupNorm.apply(y.float(), gamma, beta, groups, with_silu).to(x.dtype)
    return y.reshape(b, t, h, w, c).permute(0, 1, 4, 2, 3)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """x where it is positive, slope * x elsewhere."""
    return F.leaky_relu(x, slope)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x `(... c)` times weight `(o c)` plus bias: `(... o)`."""
    return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention with one head over `(n s c)`, scaled by 1 / sqrt(c)."""
    # With an axis of heads, PyTorch's kernels need no memory for all scores; without, they do.
    pieces = zip(*(x.unsqueeze(1).split(_MOST_SEQUENCES) for x in (query, key, value)), strict=True)
    results = [F.scaled_dot_product_attention(*piece).squeeze(1) for piece in pieces]
    return results[0] if len(results) == 1 else torch.cat(results)


def max_pool2d(x: Tensor, *, kernel: int, stride: int, ceil_mode: bool = False) -> Tensor:
    """Maximum over windows of every frame: `(b t c h w)` to `(b t c h' w')`; `ceil_mode` keeps a
    last window that is not full."""
    y = F.max_pool2d(x.flatten(0, 1), kernel, stride, ceil_mode=ceil_mode)
    return y.unflatten(0, x.shape[:2])


def cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Join tensors along an axis."""
    if tensors[0].ndim == 5:  # of videos, PyTorch would lay the channels out anew
        last = {0: 0, 1: 1, 2: 4, 3: 2, 4: 3}[axis]
        joined = torch.cat([x.permute(0, 1, 3, 4, 2) for x in tensors], dim=last)
        return joined.permute(0, 1, 4, 2, 3)
    return torch.cat(list(tensors), dim=axis)


def copy(x: Tensor) -> Tensor:
    """A copy of x, since a slice of it would keep all of it alive."""
    return x.clone()


def keep(count: int, kept: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor]:
    """The last `count` frames of what is kept, a tensor or none, followed by x: a copy, since a
    slice of x would keep all of x alive. It overwrites what is kept, if that has as many frames, so
    that what is kept for long does not fragment memory."""
    new = x.shape[1]
    if kept and kept[0].shape[1] == count and not _is_frozen(kept[0]):
        (place,) = kept
        for frame in range(count - new):
            place[:, frame] = place[:, frame + new]
        place[:, max(0, count - new) :] = x[:, max(0, new - count) :]
        return (place,)
    frames = cat((*kept, x), 1) if kept else x
    return (copy(frames[:, frames.shape[1] - count :]),)


def _is_frozen(x: Tensor) -> bool:
    """Whether x may not change: it was made in inference mode, which is over."""
    return x.is_inference() and not torch.is_inference_mode_enabled()


def contiguous(x: Tensor) -> Tensor:
    """A copy of x that lies in the order of its axes, as `view` or safetensors, say, expect it. Of
    a slice it keeps no more alive than the slice."""
    return x.clone(memory_format=torch.contiguous_format)


# Differentiation, compilation


def in_python(forward: Callable) -> Callable:
    """Mark a module's `forward` as one that MindSpore's graph mode must not compile: it checks its
    input and compiles its parts itself."""
    return forward


no_grad = torch.no_grad
"""A context in which nothing is kept for differentiation."""


def recompute(module: Module) -> Module:
    """Make `module` keep only its inputs in training and compute again what the gradient needs."""
    module.forward = functools.partial(_checkpointed, module)  # a copy of it has a copy's
    return module


def _checkpointed(module: Module, *args):
    forward = functools.partial(type(module).forward, module)
    if not torch.is_grad_enabled():
        return forward(*args)
    # Nothing is random in here, and a recording may not ask for the generator's state.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)


def compiles(option: bool | None, *, saves_memory: bool = False) -> bool:
    """Whether to compile, by an option that is True, False, or None: on MindSpore, but not on its
    CPU for a step that recomputes (`saves_memory`), where a graph takes more than that saves."""
    del saves_memory
    return bool(option)  # torch.compile takes minutes on a CPU


def compile(function: Callable, *, jit_level: str = "O0") -> Callable:
    """`function` of tensors, compiled by `torch.compile`, or on a GPU recorded (`jit_level` is
    MindSpore's). On a GPU and on MindSpore, calls of which a gradient is asked stay eager."""
    del jit_level
    if _device.type != "cuda":
        return torch.compile(function, dynamic=False)
    recorded = _Recorded(lambda *inputs: ((function(*inputs),),))

    def compiled(*inputs):
        return function(*inputs) if torch.is_grad_enabled() else recorded(*inputs)[0][0]

    return compiled


def compile_recurring(step: Callable, *, jit_level: str = "O0") -> Callable:
    """`step` of (tensor, tuple of tensors, bool), compiled on MindSpore for sizes that come
    `shared.CALLS_BEFORE_COMPILED` times: a graph takes seconds to compile."""
    del jit_level
    return step  # torch.compile takes longer still, and makes eight graphs of one function at most


def value_and_grad(
    function: Callable[..., tuple[Tensor, ...]],
    parameters: Sequence[torch.nn.Parameter],
    *,
    compile: bool | None = None,
    jit_level: str = "O0",
) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """From a function that returns (loss, *others), with one other at least: one that returns that
    tuple, detached, and the gradients of the loss with respect to `parameters`; compiled if
    `compiles(compile)`, which on a GPU means recorded."""
    del jit_level
    recorded = compiles(compile) and parameters[0].is_cuda
    compiled = function
    if compiles(compile) and not recorded:
        compiled = torch.compile(function, dynamic=False)

    def differentiated(*args):
        outputs = compiled(*args)
        gradients = torch.autograd.grad(outputs[0], parameters)
        return tuple(output.detach() for output in outputs), gradients

    return _Recorded(differentiated) if recorded else differentiated


class _Recorded:
    """A function of tensors on a GPU that gives tuples of tensors, whose work is recorded when a
    size of its inputs comes a second time, and repeated from then on (CUDA graphs). Without, where
    the network is small, starting each piece of it from Python takes longer than the piece.
    Recordings keep the memory that they work in."""

    def __init__(self, function: Callable[..., tuple]):
        self._function = function
        self._recordings = {}
        self._pool = torch.cuda.graph_pool_handle()  # of memory, for one recording at a time

    def __call__(self, *inputs: Tensor) -> tuple:
        size = tuple(x.shape for x in inputs)
        if size not in self._recordings:
            self._recordings[size] = None
            return self._function(*inputs)  # what is made once only is made now
        if self._recordings[size] is None:
            self._recordings[size] = self._record(inputs)
        graph, places, results = self._recordings[size]
        for place, x in zip(places, inputs, strict=True):
            place.copy_(x)
        graph.replay()
        return tuple(tuple(tensor.clone() for tensor in tensors) for tensors in results)

    def _record(self, inputs):
        with torch.inference_mode(False):  # places of that mode could not change outside of it
            graph, places = torch.cuda.CUDAGraph(), [x.clone() for x in inputs]
        with torch.cuda.graph(graph, pool=self._pool):
            results = self._function(*places)
        return graph, places, results


class AdamW:
    """Adam with decoupled weight decay and bias correction (Loshchilov & Hutter 2019)."""

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ):
        self._parameters = list(parameters)
        self._adamw = torch.optim.AdamW(
            self._parameters,
            betas=betas,
            eps=epsilon,
            weight_decay=weight_decay,
            fused=True if self._parameters[0].is_cuda else None,  # one pass over them
        )

    def step(self, gradients: Sequence[Tensor], learning_rate: float, *, scale: float) -> None:
        """Update the parameters by one step along `gradients` times `scale`."""
        # Laid out as the parameters are, or the updates would be one by one.
        gradients = [gradient.contiguous() for gradient in gradients]
        if scale != 1:
            gradients = torch._foreach_mul(gradients, scale)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._adamw.zero_grad()

    def state(self) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
        """Steps so far, and the first and second moments of each parameter."""
        steps, moments = 0, {"exp_avg": [], "exp_avg_sq": []}
        for parameter in self._parameters:
            state = self._adamw.state[parameter]
            steps = int(state.get("step", 0))
            for name, arrays in moments.items():
                arrays.append(to_numpy(state.get(name, torch.zeros_like(parameter))).copy())
        return steps, moments["exp_avg"], moments["exp_avg_sq"]

    def load_state(
        self, steps: int, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
    ) -> None:
        """Go on from what `state` gave."""
        for parameter, *arrays in zip(self._parameters, first, second, strict=True):
            exp_avg, exp_avg_sq = (from_numpy(array.copy()) for array in arrays)
            self._adamw.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                "exp_avg": exp_avg,
                "exp_avg_sq": exp_avg_sq,
            }


class MovingAverage:
    """Exponential moving average of parameters: average = decay * average + (1 - decay) * value,
    starting from the values at construction."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]):
        self._parameters: list[Tensor] = list(parameters)
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    def update(self, decay: float) -> None:
        """Take the parameters' present values into the average."""
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def state(self) -> list[np.ndarray]:
        """The averages, in the order of the parameters."""
        return [to_numpy(average).copy() for average in self._averages]

    def load_state(self, averages: Sequence[np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for average, array in zip(self._averages, averages, strict=True):
            average.copy_(torch.from_numpy(array))


def global_norm(tensors: Sequence[Tensor]) -> float:
    """The square root of the sum of all squares."""
    return float(torch.stack(torch._foreach_norm(list(tensors))).norm())


# Data parallelism


def join_ranks() -> None:
    """Join the processes of one run, if this one was started by the framework's launcher (`msrun`
    or `torchrun`). Call it after `set_device` and before any other work: MindSpore's launcher
    starts a scheduler too, whose program ends here.

    Raises:
        OSError: the processes do not find each other.
        ValueError: there are more processes than GPUs on this machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        return
    global _device
    on_gpu = _device.type == "cuda"
    if on_gpu:
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise ValueError(f"process {local + 1} of this machine, which has {count} GPUs")
        _device = torch.device("cuda", local)
        torch.cuda.set_device(_device)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_MOST_PATIENCE)
    except RuntimeError as error:
        raise ConnectionError(
            f"the processes of this run do not find each other: {error}"
        ) from None
    # The processes' connections fail noisily when the interpreter tears them down.
    atexit.register(dist.destroy_process_group)


def rank() -> int:
    """The number of this process in its run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes in this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_impatient() -> bool:
    """Whether `all_reduce_sum` fails where one process comes to it half a minute after another."""
    return False


def all_reduce_sum(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum over all processes of each tensor, all of one dtype.

    Raises:
        OSError: another process of the run died.
    """
    if world_size() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        raise ConnectionError(
            f"another process of this run ended or is out of reach: {error}"
        ) from None
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
