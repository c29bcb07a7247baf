"""What speed.py measures networks by: their operations, and what the machine can do."""

import numpy as np
from networks import config_of, flops_of, latents_of, objective, video_of, without_gradients

from mg import backend


def ceiling(conditions: dict) -> tuple[dict, dict]:
    """What the machine can do: a matrix product, and the network's largest convolution."""
    convolution = conditions["convolution"]
    size, calls = (2048, 1) if _on_cpu() else (4096, 50)
    dtype = backend.dtype(conditions["dtype"])

    def random(*shape):
        values = np.random.default_rng(0).random(shape, dtype=np.float32)
        return backend.cast(backend.from_numpy(values), dtype)

    a, b = random(size, size), random(size, size)
    x, weight = random(*convolution["input"]), random(*convolution["weight"])
    stride, padding = convolution["stride"], convolution["padding"]
    turns = {f"matrix product, {size}": lambda: a @ b}
    flops = {f"matrix product, {size}": calls * 2 * size**3}
    if backend.name == "torch":
        import torch

        x_last, weight_last = (v.to(memory_format=torch.channels_last) for v in (x, weight))
        conv2d = torch.nn.functional.conv2d
        turns["convolution"] = lambda: conv2d(x, weight, None, stride, padding)
        turns["convolution, channels last"] = lambda: conv2d(
            x_last, weight_last, None, stride, padding
        )
    else:
        from mindspore import ops

        out_channels, _, *kernel = convolution["weight"]
        convolve = ops.Conv2D(
            out_channels, tuple(kernel), pad_mode="pad", pad=padding, stride=stride
        )
        turns["convolution"] = lambda: convolve(x, weight)
    flops |= {name: calls * convolution["flops"] for name in turns if name.startswith("conv")}
    return without_gradients({n: _repeated(turn, calls) for n, turn in turns.items()}), {
        "flops": flops
    }


def _repeated(turn, calls: int):
    def repeated():
        for _ in range(calls - 1):
            turn()
        return turn()

    return repeated


def count(conditions: dict) -> tuple[dict, dict]:
    """Operations of the plain network on PyTorch, 2 for a multiplication and addition; the largest
    of its convolutions."""
    import torch
    from plain_torch import PlainAutoencoder

    config = config_of(conditions)
    with torch.device("meta"):
        network = PlainAutoencoder(config)
        x = torch.zeros(video_of(conditions).shape)
        z = torch.zeros(latents_of(conditions, config["z_channels"]).shape)
    largest = {"flops": 0}

    def compare(layer, inputs, output):
        nonlocal largest
        flops = 2 * output.numel() * layer.weight[0].numel()
        if flops > largest["flops"]:
            largest = {
                "flops": flops,
                "input": list(inputs[0].shape),
                "weight": list(layer.weight.shape),
                "stride": layer.stride[0],
                "padding": layer.padding[0],
            }

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(compare)
    flops = {
        "encode": flops_of(lambda: network.encode(x)),
        "decode": flops_of(lambda: network.decode(z)),
    }
    if conditions["what"] == "training":
        lpips = objective().lpips.to("meta")
        # Of LPIPS, both videos' features forward and one's back to the pixels.
        steps = 3 * sum(flops.values()) + 1.5 * flops_of(lambda: lpips(x, x))
        flops = {"step": steps}
    return {}, {"flops": flops, "convolution": largest}


def _on_cpu() -> bool:
    if backend.name == "torch":
        return not backend.from_numpy(np.zeros(1)).is_cuda
    import mindspore

    return mindspore.get_context("device_target") == "CPU"
