"""What the device of the tests can do."""

from mg import backend


def _is_cpu() -> bool:
    if backend.name == "torch":
        import torch

        return not torch.cuda.is_available()
    import mindspore

    return mindspore.get_context("device_target") == "CPU"


ON_CPU = _is_cpu()
HAS_HALF = backend.name == "torch" or not ON_CPU  # convolutions in bf16 and fp16
