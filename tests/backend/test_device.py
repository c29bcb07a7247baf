"""The device, and what choosing it does to the process."""

import subprocess
import sys
import time

import numpy as np
import pytest
from devices import ON_CPU

from mg import backend
from mg.backend import from_numpy, to_numpy
from mg.models.tae.tae import TemporalAutoencoder

PROGRAM = """
import numpy as np
from mg import backend

def twice(x):
    return x + x

backend.set_device("auto")
backend.set_device("auto")
twice = backend.compile(twice) if backend.compiles(None) else twice
print(backend.to_numpy(twice(backend.from_numpy(np.ones(1)))))
"""


def test_an_unknown_device_is_an_error():
    with pytest.raises(ValueError, match="device_target is 'TPU', expected one of CPU"):
        backend.set_device("TPU")
    backend.set_device("auto")


@pytest.mark.skipif(backend.name != "torch", reason="MindSpore's way is tested below")
def test_float32_is_not_rounded_to_tf32_unless_told():
    import torch

    for settings in (torch.backends.cudnn, torch.backends.cuda.matmul):
        before = settings.allow_tf32
        try:
            settings.allow_tf32 = True
            backend.set_device("auto", exact=False)
            assert settings.allow_tf32
            backend.set_device("auto")
            assert not settings.allow_tf32
        finally:
            settings.allow_tf32 = before


@pytest.mark.once
@pytest.mark.skipif(backend.name != "torch", reason="PyTorch's launcher")
def test_more_processes_than_gpus_are_an_error(monkeypatch):
    import torch

    monkeypatch.setattr("mg.backend.torch._device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 3 of this machine, which has 2 GPUs"):
        backend.join_ranks()


@pytest.mark.skipif(backend.name != "mindspore", reason="PyTorch's way is tested above")
@pytest.mark.skipif(not ON_CPU, reason="only the first choice of a process counts")
def test_on_an_ascend_float32_is_not_rounded_to_hf32_unless_told(monkeypatch):
    from mindspore.device_context.ascend import op_precision

    chosen = []
    monkeypatch.setattr(op_precision, "conv_allow_hf32", chosen.append)
    backend.set_device("auto")
    monkeypatch.setattr("mg.backend.mindspore.on_cpu", lambda: False)
    backend.set_device("auto", exact=False)
    assert chosen == []
    backend.set_device("auto")
    assert chosen == [False]


def test_choosing_a_device_and_computing_print_nothing(tmp_path):
    program = tmp_path / "program.py"  # of code that is in no file, MindSpore makes no graph
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], check=True, capture_output=True, text=True)
    assert done.stdout == "[2.]\n"


def test_a_device_is_chosen_where_standard_output_is_closed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    subprocess.run(["sh", "-c", 'exec "$0" "$1" >&-', sys.executable, program], check=True)


def test_what_waits_for_a_gradient_leaves_the_processor_alone(rng):
    if backend.name == "torch":
        pytest.skip("PyTorch computes in the thread that asks")
    if not ON_CPU:
        pytest.skip("this is no CPU")
    weight = backend.parameter(rng.standard_normal((32, 32, 3, 3)))

    def loss(x):
        for _ in range(50):  # the thread that asks launches what is in graphs of few operations
            x = backend.conv2d(x, weight, None, padding=(1, 1, 1, 1)) / 17
        return (x * x).mean(), x.mean()

    step = backend.value_and_grad(loss, [weight])
    x = from_numpy(rng.standard_normal((1, 4, 32, 64, 64)).astype(np.float32))
    to_numpy(step(x)[0][0])  # compiles
    began, used = time.perf_counter(), time.thread_time()
    to_numpy(step(x)[0][0])
    assert time.thread_time() - used < 0.3 * (time.perf_counter() - began)


SIZES = """
import sys
import numpy as np
from mg import backend
from mg.models.tae.tae import TemporalAutoencoder

backend.set_device("CPU")
tae = TemporalAutoencoder(None, {"ch": 8, "num_groups": 4})
kept = []
for size in range(32, 32 + 8 * 16, 8):
    video = np.zeros((1, 3, 8, size, size), np.float32)
    with backend.no_grad():
        tae.encode(video, sample=False)
    if "forget" in sys.argv:
        backend.forget_sizes()
    pages = int(open("/proc/self/statm").read().split()[1])
    kept.append(pages * 4096 / 2**20)
print(kept[-1] - kept[3])
"""


def test_what_is_compiled_works_after_sizes_are_forgotten(rng):
    tae = TemporalAutoencoder(None, {"ch": 8, "num_groups": 4}, compile=backend.compiles(None))
    videos = [rng.uniform(-1, 1, (1, 3, 9, size, 16)).astype(np.float32) for size in (16, 24)]
    latents = {}
    for _ in range(10):  # from the eighth on, steps are compiled
        for number, video in enumerate(videos):
            with backend.no_grad():
                pieces = tae.encode_stream([video[:, :, :5], video[:, :, 5:]], sample=False)
                z = np.concatenate([to_numpy(mean) for _, mean, _ in pieces], 2)
                whole = to_numpy(tae.encode(video, sample=False)[1])
            np.testing.assert_allclose(z, whole, atol=1e-5)
            np.testing.assert_allclose(z, latents.setdefault(number, z), atol=1e-5)
            backend.forget_sizes()


@pytest.mark.skipif(backend.name != "mindspore", reason="PyTorch keeps little for a size")
@pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux tells it")
def test_what_is_kept_for_sizes_is_given_back():
    """Of twelve new sizes, in MiB."""

    def growth(*args):
        command = [sys.executable, "-c", SIZES, *args]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert growth("forget") < growth() / 2  # beside other work, two fifths
