"""The kernels for a GPU: there where there is one, else interpreted on the CPU."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import torch.nn.functional as F  # noqa: E402
from models.random_network import random_network, random_video  # noqa: E402

from mg import backend  # noqa: E402
from mg.backend import torch as torch_backend  # noqa: E402
from mg.backend import torch_gpu_kernels as kernels  # noqa: E402
from mg.backend import torch_kernels  # noqa: E402
from mg.backend.shared import EPSILON, ZERO_FRAME, frame_table  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(backend.name != "torch", reason="PyTorch's"),
]

TRITON = tuple(map(int, version("triton").split(".")[:2]))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest error, in units of the largest value."""
DTYPES = list(TOLERANCE) if DEVICE == "cuda" else [torch.float32, torch.float16]


@pytest.fixture
def random(rng):
    def draw(*shape):
        values = torch.from_numpy(rng.standard_normal(shape))
        return values.to(DEVICE).requires_grad_()

    return draw


def close(value, exact):
    error = (value.double() - exact).abs().max()
    return error <= TOLERANCE[value.dtype] * max(1, exact.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_silu", [False, True])
@pytest.mark.parametrize("n, positions, channels, groups", [(2, 100, 32, 8), (3, 301, 48, 6)])
def test_group_norm_and_its_gradients_are_those_of_float64(
    random, dtype, with_silu, n, positions, channels, groups
):
    x, dy = random(n, positions, channels), random(n, positions, channels)
    gamma, beta = random(channels), random(channels)
    low = [(value + 3 * (value is x)).detach().to(dtype) for value in (x, dy)]
    exact = [value.double().requires_grad_() for value in low]
    y = F.group_norm(exact[0].transpose(1, 2), groups, gamma, beta, EPSILON).transpose(1, 2)
    y = F.silu(y) if with_silu else y
    gradients = torch.autograd.grad(y, (exact[0], gamma, beta), exact[1])
    weights = [weight.detach().float() for weight in (gamma, beta)]
    ours, *statistics = kernels.group_norm(low[0], *weights, groups, with_silu)
    assert ours.dtype == dtype and close(ours, y)
    found = kernels.group_norm_gradients(low[1], low[0], *statistics, *weights, with_silu)
    assert [gradient.dtype for gradient in found] == [dtype, torch.float32, torch.float32]
    assert all(map(close, found, gradients))


def test_group_norm_keeps_its_digits_where_the_mean_is_large(random):
    x = (random(1, 20000, 8) + 1000).detach().float()
    ones, zeros = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    y, _, _ = kernels.group_norm(x, ones, zeros, 4, False)
    exact = F.group_norm(x.double().transpose(1, 2), 4, eps=EPSILON).transpose(1, 2)
    assert (y - exact).abs().max() < 1e-3  # x itself is rounded to 6e-5


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.float32], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"upsample": 2}, {"padding": "zeros", "upsample": 2}, {"begins": False}],
    ids=str,
)
def test_temporal_convolution_and_its_gradients_are_those_of_float64(random, dtype, options):
    frames, taps = 5, 3
    table = frame_table(frames, taps, **options)
    x, weight = random(2, frames, 70, 24), random(taps, 24, 40)
    dy, bias = random(2, len(table) // taps, 70, 40), random(40)
    x, weight, dy, bias = ((value / 4).detach().to(dtype) for value in (x, weight, dy, bias))
    exact = [value.double().requires_grad_() for value in (x, weight)]
    read = torch.cat([exact[0], torch.zeros_like(exact[0][:, :1])], 1)  # ZERO_FRAME is the last
    assert ZERO_FRAME == -1
    read = read[:, list(table)].unflatten(1, (-1, taps))
    y = torch.einsum("btkpc,kco->btpo", read, exact[1]) + bias.double()
    gradients = torch.autograd.grad(y, exact, dy.double())
    assert close(kernels.temporal_conv(x, weight, bias, table), y)
    assert all(map(close, kernels.temporal_conv_gradients(dy, x, weight, table), gradients))


def outputs(dtype):
    """Latents, video, streamed latents and gradients of a network that computes in `dtype`."""
    network = random_network({"ch_mult": [1, 2]}, dtype=dtype)
    video = random_video(1, 3, 5, 4, 8)
    with backend.no_grad():
        z, mean, _ = network.encode(video, seed=0)
        given = [mean, network.decode(z, 5)]
        streamed = [moments[1] for moments in network.encode_stream([video[:, :, :2], video])]
    noise = backend.from_numpy(np.zeros(mean.shape, np.float32))

    def loss(x):
        reconstruction, z, _, logvar = network.reconstruct(x, noise)
        return (reconstruction**2).mean() + (z**2).mean() + logvar.mean(), reconstruction

    parameters = backend.named_parameters(network)
    differentiate = backend.value_and_grad(loss, list(parameters.values()))
    _, gradients = differentiate(backend.from_numpy(video))
    given += [torch.cat(streamed, 2), *gradients]
    return dict(zip(["mean", "video", "streamed", *parameters], given, strict=True))


@pytest.mark.skipif(DEVICE == "cuda", reason="there it is so anyway")
@pytest.mark.parametrize(
    ("dtype", "has_triton", "tolerance"),
    [("fp32", True, 1e-4), ("fp32", False, 1e-4), ("fp16", True, 5e-2)],
)
def test_a_network_computes_on_a_gpu_what_it_does_on_a_cpu(
    monkeypatch, dtype, has_triton, tolerance
):
    expected = outputs("fp32")
    launched = []
    for name in ("group_norm", "group_norm_gradients", "temporal_conv", "temporal_conv_gradients"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *args, k=kernel, n=name: launched.append(n) or k(*args)
        )
    monkeypatch.setattr(torch_kernels, "torch_gpu_kernels", kernels, raising=False)
    for module in (torch_kernels, torch_backend):
        monkeypatch.setattr(module, "HAS_TRITON", has_triton)
    # It is by this that operations tell where they are; kernels are interpreted.
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    found = outputs(dtype)
    assert len(set(launched)) == (4 if dtype == "fp16" else 2 if has_triton else 0)
    for name, value in expected.items():
        scale = max(value.abs().max().item(), 1e-3)
        assert (found[name] - value).abs().max() <= tolerance * scale, name


def test_indices_that_are_kept_can_be_differentiated_with_whoever_asked_first():
    table = (1, 0, 1)
    torch_kernels._indices_on_gpu.cache_clear()
    with torch.inference_mode():
        torch_kernels._indices_on_gpu(table, 2, torch.device(DEVICE))
    x = torch.ones(1, 2, 3, device=DEVICE, requires_grad=True)
    indices = torch_kernels._indices_on_gpu(table, 2, torch.device(DEVICE))
    x.index_select(1, indices).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("missing", ["compiler", "header"])
def test_without_a_compiler_or_its_header_the_kernels_are_left_out(monkeypatch, tmp_path, missing):
    (tmp_path / "Python.h").touch()
    compiler, include = "/usr/bin/gcc", str(tmp_path)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": include})
    monkeypatch.setattr("shutil.which", lambda name: compiler if name == "gcc" else None)
    assert torch_kernels._can_build()
    if missing == "compiler":
        compiler = None
        assert not torch_kernels._can_build()
        monkeypatch.setenv("CC", "cc")
        assert torch_kernels._can_build()
    else:
        (tmp_path / "Python.h").unlink()
        assert not torch_kernels._can_build()


COMPILE = """
import json, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Compiler:  # what Triton asks of a GPU, to compile for it
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", int(sys.argv[1]), 32)

driver.set_active(Compiler())
launch, shared = JITFunction.run, {}

def compile_only(self, *args, grid, warmup, **options):
    kernel = launch(self, *args, grid=grid, warmup=True, **options)
    assert kernel.asm["cubin"]
    shared[self.__name__] = max(kernel.metadata.shared, shared.get(self.__name__, 0))

JITFunction.run = compile_only
from mg.backend import torch_gpu_kernels as kernels
from mg.backend.shared import frame_table

def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")

for channels in (128, 512):
    frames = empty(32, 4096, channels, dtype=torch.bfloat16)
    scale, statistics = empty(channels), empty(32, 32)
    kernels.group_norm(frames, scale, scale, 32, True)
    kernels.group_norm_gradients(frames, frames, statistics, statistics, scale, scale, True)
    clip, table = frames[None], frame_table(32, 3)
    weight = empty(3, channels, channels, dtype=torch.bfloat16)
    kernels.temporal_conv(clip, weight, weight[0, 0], table)
    kernels.temporal_conv_gradients(clip, clip, weight, table)
print(json.dumps(shared))
"""


KERNELS = {"_moments", "_merge", "_normalise", "_gradient_sums", "_input_gradient"}
KERNELS |= {"_products", "_weight_products"}

# What a block may use at compute capability 8.6 and 8.9, the least of the GPUs that are promised;
# 8.0 has 163 KiB, 9.0 and 10.0 have 227 (CUDA's programming guide).
SHARED_MEMORY = 99 * 1024


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_kernel_compiles_for_the_gpus_that_are_promised(tmp_path, capability):
    if capability == 100 and TRITON < (3, 3):
        pytest.skip("this Triton knows no such GPU")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(capability)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    shared = json.loads(done.stdout)
    assert set(shared) == KERNELS
    assert max(shared.values()) <= SHARED_MEMORY
