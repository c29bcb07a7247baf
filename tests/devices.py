"""What the device of the tests can do."""

from mg import backend


def _gpus() -> int:
    if backend.name != "torch":
        return 0
    import torch

    return torch.cuda.device_count()


def _is_cpu() -> bool:
    if backend.name == "torch":
        return _gpus() == 0
    import mindspore

    return mindspore.get_context("device_target") == "CPU"


ON_CPU = _is_cpu()
ONE_GPU = _gpus() == 1
HAS_HALF = backend.name == "torch" or not ON_CPU  # convolutions in bf16 and fp16
