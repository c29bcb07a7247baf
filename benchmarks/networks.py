"""The contestants of speed.py that are networks.

Each builder gives the functions of its turns, which do it once, and facts: `frames` that it takes,
`parameters`, `flops` of each turn where they are not the network's own, and `warm_up_calls` of each
turn where one is not enough.
"""

import numpy as np

from mg import backend
from mg.backend.shared import CALLS_BEFORE_COMPILED
from mg.models.tae.config import check_config

LATENT = 8  # pixels and frames of the video to one of ours' latents
WEIGHTS = {"reconstruction": 1.0, "perceptual": 1.0, "kl": 1e-6, "outlier_penalty": 1e5}


def ours(conditions: dict) -> tuple[dict, dict]:
    """TemporalAutoencoder, or TrainStep with it."""
    from mg.models.tae.tae import TemporalAutoencoder

    training = conditions["what"] == "training"
    tae = TemporalAutoencoder(
        config=config_of(conditions),
        use_tile=conditions["way"] == "tiled",
        dtype=conditions["dtype"],
        use_recompute=conditions["recompute"],
        compile=conditions["compiled"] and not training,
    )
    facts = {"frames": conditions["frames"], "parameters": size_of(backend.named_parameters(tae))}
    if conditions["compiled"] and backend.name == "torch":
        facts["warm_up_calls"] = 2  # on a GPU the second is recorded
    if training:
        return {"step": _train_step(tae, conditions)}, facts
    x, z = video_of(conditions), latents_of(conditions, tae.config["z_channels"])
    if conditions["way"] == "stream":
        return _streams(tae, x, z), facts | {"warm_up_calls": CALLS_BEFORE_COMPILED}
    x, z = backend.from_numpy(x), backend.from_numpy(z)
    turns = {"encode": lambda: tae.encode(x, sample=False)[0], "decode": lambda: tae.decode(z)}
    return without_gradients(turns), facts


def _train_step(tae, conditions: dict):
    from mg.training.step import TrainStep

    parameters = list(backend.named_parameters(tae).values())
    optimizer = backend.AdamW(parameters, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0)
    update = TrainStep(tae, objective(), optimizer, compile=conditions["compiled"])
    video = video_of(conditions)

    def step():
        update(0, [video], 1e-5)
        return parameters[0]

    return step


def _streams(tae, x: np.ndarray, z: np.ndarray) -> dict:
    """Both ways through the network in pieces of 32 frames of the video, keeping nothing."""

    def encode():
        pieces = (x[:, :, start : start + 32] for start in range(0, x.shape[2], 32))
        for latents, _, _ in tae.encode_stream(pieces, sample=False):
            backend.to_numpy(latents)
        return ()

    def decode():
        pieces = (z[:, :, start : start + 4] for start in range(0, z.shape[2], 4))
        for video in tae.decode_stream(pieces):
            backend.to_numpy(video)
        return ()

    return without_gradients({"encode": encode, "decode": decode})


def plain(conditions: dict) -> tuple[dict, dict]:
    """The same network as users of the framework write it."""
    if backend.name == "torch":
        from plain_torch import PlainAutoencoder, PlainStep
    else:
        from plain_mindspore import PlainAutoencoder, PlainStep

    config = config_of(conditions)
    x = backend.from_numpy(video_of(conditions))
    z = backend.from_numpy(latents_of(conditions, config["z_channels"]))
    network = PlainAutoencoder(config, conditions["dtype"], conditions["compiled"])
    if backend.name == "torch":
        network.to(x.device)
    facts = {
        "frames": conditions["frames"],
        "parameters": size_of(backend.named_parameters(network)),
    }
    if conditions["what"] == "training":
        step = PlainStep(network, objective())

        def turn():
            step(x, z)
            return ()

        return {"step": turn}, facts
    turns = {"encode": lambda: network.encode(x), "decode": lambda: network.decode(z)}
    return without_gradients(turns), facts


def of_diffusers(conditions: dict) -> tuple[dict, dict]:
    """An autoencoder of diffusers with its default sizes; 4k + 1 frames, as it takes."""
    import diffusers
    import torch

    kind = getattr(diffusers, conditions["network"])
    frames = 4 * -(-conditions["frames"] // 4) + 1
    pixels, dtype = conditions["pixels"], backend.dtype(conditions["dtype"])
    with torch.device("meta"):
        counted = kind().to(dtype)
    channels = getattr(counted.config, "latent_channels", None) or counted.config.z_dim
    sizes = (1, 3, frames, pixels, pixels), (1, channels, frames // 4 + 1, pixels // 8, pixels // 8)

    def turns_of(network, device):
        x, z = (torch.rand(size, device=device, dtype=dtype) for size in sizes)
        return without_gradients(
            {
                "encode": lambda: network.encode(x).latent_dist.mode(),
                "decode": lambda: network.decode(z).sample,
            }
        )

    flops = {name: flops_of(turn) for name, turn in turns_of(counted, "meta").items()}
    device = backend.from_numpy(np.zeros(1)).device
    network = kind().to(device, dtype).eval()
    facts = {
        "frames": frames,
        "flops": flops,
        "parameters": size_of(backend.named_parameters(network)),
    }
    return turns_of(network, device), facts


def config_of(conditions: dict) -> dict:
    ch = conditions["ch"]
    return check_config({"ch": ch, "num_groups": min(32, ch)})


def video_of(conditions: dict) -> np.ndarray:
    pixels = conditions["pixels"]
    shape = (1, 3, conditions["frames"], pixels, pixels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def latents_of(conditions: dict, channels: int) -> np.ndarray:
    """Standard normal numbers."""
    frames, size = (-(-conditions[name] // LATENT) for name in ("frames", "pixels"))
    shape = (1, channels, frames, size, size)
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def objective():
    """All losses; LPIPS has VGG16's shape and random weights, which take the same time."""
    from mg.losses.lpips import LPIPS
    from mg.losses.objective import Objective

    rng = np.random.default_rng(0)
    layers = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    layers |= dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
    arrays, channels = {}, 3
    for index, width in layers.items():
        scale = np.float32((2 / (9 * channels)) ** 0.5)
        weight = rng.standard_normal((width, channels, 3, 3), dtype=np.float32)
        arrays[f"features.{index}.weight"] = scale * weight
        arrays[f"features.{index}.bias"] = np.zeros(width, np.float32)
        channels = width
    for number, width in enumerate((64, 128, 256, 512, 512)):
        arrays[f"lin{number}.model.1.weight"] = rng.random((1, width, 1, 1), dtype=np.float32)
    return Objective(WEIGHTS, LPIPS(arrays))


def without_gradients(turns: dict) -> dict:
    def without(turn):
        def quiet():
            with backend.no_grad():
                return turn()

        return quiet

    return {name: without(turn) for name, turn in turns.items()}


def size_of(parameters: dict) -> int:
    return sum(int(np.prod(parameter.shape)) for parameter in parameters.values())


def flops_of(function) -> int:
    """Operations of what `function` calls in PyTorch; on the meta device nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()
